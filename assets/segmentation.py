"""Bone and cartilage segmentation by networks, for those whose scans came without labels.

Here: training on delivered labels, labels for the other scans, and Table S1 with Figure S2. Not
here: delivered labels and what is measured on them (`assets.imaging`), or any network (`models`).

All of it is asked for or does nothing: KNEELAKE_SEGMENTATION_PRESET (or `preset` in the launchpad)
trains networks, KNEELAKE_SEGMENTER (or `segmenter`) labels scans. Who delivers labels pays nothing.
"""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from assets.metadata import (
    figure,
    peak_memory_mib,
    preview,
    quarantine_preview,
    registry_schema,
    row_count,
    step_metadata,
)
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from lake.tables import TABLES
from pipeline.config import CODE_VERSION

GROUP = "segmentation"
OWNERS = ["team:imaging"]
LAKE_WRITER = "lake_writer"

OVERLAY_FILE = "overlays.png"
"""Beside the networks it shows."""


class NetworkTrainingConfig(dg.Config):
    """Whether and how networks are trained."""

    preset: Literal["", "off", "demo", "paper"] = Field(
        default="",
        description="off: train nothing; demo: reduced networks, minutes on a processor, not good "
        "enough to measure; paper: eleven V-Nets, for a GPU. Empty: "
        "KNEELAKE_SEGMENTATION_PRESET, or off.",
    )
    seed: int = Field(default=0, ge=0, description="Of weights, sampling, augmentation and split.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where networks are trained.")


class NetworkLabelConfig(dg.Config):
    """Which network labels scans."""

    segmenter: str = Field(
        default="",
        description="off; ensemble (the networks trained here); monai_bundle:FOLDER; nnunet:FOLDER "
        "(its output). Empty: KNEELAKE_SEGMENTER, or off. A bundle can run any code: give only "
        "those you trust.",
    )
    prefer: Literal["delivered", "networks"] = Field(
        default="delivered", description="Whose label counts where a scan has both."
    )
    scheme: str = Field(
        default="", description="Tissue map of nnU-Net's output; empty: its dataset.json."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where networks run.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of our ensembles' arithmetic."
    )


class EvaluationConfig(dg.Config):
    """How the networks are run for Table S1."""

    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where networks run.")


def _off(what: str) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion("off"), metadata={"state": f"off: {what}"}
    )


@dg.asset(
    deps=["scan_inventory"],
    group_name=GROUP,
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["segmentation_networks"],
    metadata={"dagster/column_schema": registry_schema(TABLES["segmentation_networks"])},
)
def segmentation_networks(
    context: dg.AssetExecutionContext,
    config: NetworkTrainingConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """The bone and cartilage ensembles, trained on delivered labels and split by person.

    Five 3-D V-Nets with distance-weighted losses for bones, three 2-D and three 3-D ones for
    cartilages and menisci. Does nothing unless a preset is given; a training that was killed goes
    on, and one that is done is not done again.
    """
    from pipeline.segmentation_figures import training_figure
    from pipeline.segmentation_networks import histories_now, network_plan, train_networks

    settings = lake.settings()
    preset = config.preset or settings.segmentation_preset or "off"
    if preset == "off":
        return _off("give a preset, demo or paper, to train segmentation networks")
    plan = network_plan(preset, seed=config.seed, device=config.device)
    report = train_networks(
        lake.open(),
        settings,
        plan,
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    for knee_visit, problem in report.refused.items():
        context.log.warning(f"{knee_visit} is not trained on: {problem}")
    store = lake.snapshot()
    networks = store.sql(
        "SELECT task, member, best_step, validation_dice FROM segmentation_networks ORDER BY ALL"
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("segmentation_networks")),
        metadata={
            "state": preset,
            "run": report.run,
            "n_trained": report.n_trained,
            "n_kept": report.n_kept,
            **{f"n_{split}": n for split, n in report.n_by_split.items()},
            "n_refused": len(report.refused),
            "networks": preview(networks, rows=len(networks)),
            "training_curves": figure(training_figure(histories_now(store)), "Training curves"),
            "peak_memory_mib": peak_memory_mib(),
        },
    )


@dg.asset(
    deps=["scan_inventory", segmentation_networks],
    partitions_def=TIMEPOINT_PARTITIONS,
    # With the visit's other steps, so that a new scan is labelled before it is measured.
    group_name="imaging",
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["network_labels"],
    metadata={"dagster/column_schema": registry_schema(TABLES["network_labels"])},
)
def network_segmentations(
    context: dg.AssetExecutionContext,
    config: NetworkLabelConfig,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Labels by a network of a visit's scans that came without one.

    Our ensembles, a MONAI bundle or what nnU-Net wrote; the source of each label is recorded. Does
    nothing unless a segmenter is given. The same scan and network are not computed twice.
    """
    from models.segmentation_inference import InferenceOptions
    from pipeline.network_labels import label_scans, open_segmenter
    from pipeline.steps import data_version

    settings, timepoint = lake.settings(), context.partition_key
    text = config.segmenter or settings.segmenter or "off"
    if text == "off":
        return _off("give a segmenter to label scans that came without a label")
    store = lake.open()
    inference = InferenceOptions(device=config.device, precision=config.precision)
    segmenter = open_segmenter(text, store, inference=inference, scheme=config.scheme or None)
    report = label_scans(
        store,
        settings,
        segmenter,
        timepoint,
        prefer=config.prefer,
        progress=progress.to(context.log),
    )
    now = lake.snapshot()
    with now.connect() as connection:
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version(now, "network_labels", timepoint)),
            metadata={
                "state": segmenter.source,
                **step_metadata(report),
                "dagster/partition_row_count": row_count(connection, "network_labels", timepoint),
                **quarantine_preview(connection, "network_labels", timepoint),
            },
        )


@dg.asset(
    deps=["scan_inventory", segmentation_networks],
    group_name=GROUP,
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["segmentation_networks"],
    metadata={"dagster/column_schema": registry_schema(TABLES["segmentation_performance"])},
)
def segmentation_metrics(
    context: dg.AssetExecutionContext,
    config: EvaluationConfig,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Table S1: Dice and mean point-to-surface distance on test people, and Figure S2.

    Both with 95 % bootstrap intervals over knee-visits. Does nothing without trained networks, and
    nothing again for networks that have been evaluated.
    """
    from models.segmentation_inference import InferenceOptions
    from models.segmenters import EnsembleSegmenter
    from pipeline.segmentation_evaluation import evaluate_networks
    from pipeline.segmentation_figures import overlay_figure
    from pipeline.segmentation_networks import networks_now

    store = lake.open()
    rows = networks_now(store)
    if not rows:
        return _off("no segmentation networks have been trained on this lake")
    paths = [store.root / row["checkpoint"] for row in rows]
    segmenter = EnsembleSegmenter(paths, InferenceOptions(device=config.device))
    report = evaluate_networks(store, lake.settings(), segmenter, progress=progress.to(context.log))
    for knee_visit, problem in report.refused.items():
        context.log.warning(f"{knee_visit} is not evaluated: {problem}")
    drawn = paths[0].with_name(OVERLAY_FILE)
    if report.overlays:
        drawn.write_bytes(overlay_figure(report.overlays))
    now = lake.snapshot()
    table = now.sql("SELECT * EXCLUDE (batch_id) FROM segmentation_performance ORDER BY tissue")
    metadata: dict[str, Any] = {
        "state": "evaluated",
        "n_evaluated_now": report.n_cases,
        "n_refused": len(report.refused),
        "table_s1": preview(table, rows=len(table)),
        "peak_memory_mib": peak_memory_mib(),
    }
    if drawn.is_file():
        metadata["figure_s2"] = figure(drawn.read_bytes(), "Segmentations of test people")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(now.data_version("segmentation_performance")),
        metadata=metadata,
    )
