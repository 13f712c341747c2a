"""What the classifiers say of every knee, and where they see it.

Here: the assets that predict and explain. Not here: the networks (`assets.classifiers`), how well
they do (`assets.evaluation`), or the computation (`pipeline.predictions`).

Incremental model by model: a new visit costs its own knees, a model trained anew its own
predictions. Without classifiers there is nothing to do, and they say so.
"""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
import duckdb
from pydantic import Field

from assets.metadata import (
    figure,
    peak_memory_mib,
    preview,
    previous_figure,
    registry_schema,
    row_count,
)
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from lake.store import Lake
from lake.tables import TABLES
from models.gradcam import Target
from pipeline.config import CODE_VERSION, FIGURES_FOLDER
from sql.reading import fetch

GROUP = "learning"
OWNERS = ["team:learning"]
LAKE_WRITER = "lake_writer"

_DEPS = [
    dg.AssetDep("training_images"),
    dg.AssetDep("model_cases"),
    dg.AssetDep("oa_classifiers", partition_mapping=dg.AllPartitionMapping()),
    dg.AssetDep("pain_classifiers", partition_mapping=dg.AllPartitionMapping()),
]


class PredictionConfig(dg.Config):
    """What is predicted and kept."""

    cam_splits: list[str] = Field(
        default=["test"],
        description="Splits (training, validation, test) whose maps are kept; the paper: test.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the convolutions; bfloat16 is twice as fast on a CPU."
    )


def _spec(name: str, table: str, description: str, kinds: set[str]) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=_DEPS,
        description=description,
        kinds=kinds,
        metadata={"dagster/column_schema": registry_schema(TABLES[table])},
        group_name=GROUP,
        owners=OWNERS,
        code_version=CODE_VERSION["predictions"],
        partitions_def=TIMEPOINT_PARTITIONS,
    )


def _mean_maps(
    store: Lake, now: duckdb.DuckDBPyConnection, timepoint: str
) -> dict[str, dg.MarkdownMetadataValue | dg.TextMetadataValue]:
    """Mean maps of the visit's knees with pain, and of those without."""
    from pipeline.cam_figures import mean_cams, mean_cams_figure

    shown = {}
    targets: tuple[Target, ...] = ("pain", "no_pain")
    for target in targets:
        knees = fetch(
            now,
            "SELECT DISTINCT knee_visit FROM cam_locations JOIN cam_index "
            "USING (task, bone, strategy, knee_visit) WHERE task = 'chronic_pain' "
            "AND timepoint = $timepoint AND is_case = $has_pain",
            {"timepoint": timepoint, "has_pain": target == "pain"},
        )["knee_visit"].to_list()
        means = mean_cams(store, target, knees) if knees else {}
        if means:
            title = f"Evidence for {target.replace('_', ' ')}: {len(knees)} such knees, {timepoint}"
            shown[f"mean_cam_{target}"] = figure(mean_cams_figure(means, title=title), title)
    return shown


@dg.multi_asset(
    name="predictions_and_cams",
    specs=[
        _spec(
            "predictions",
            "predictions",
            "Logits, probability and class of every classifier for every knee-visit, all splits. "
            "`model_predictions` puts the truth beside them.",
            {"python", "deltalake"},
        ),
        _spec(
            "cam_maps",
            "cam_index",
            "Raw signed Grad-CAM of both classes, for the held-out knees, as half-precision Zarr "
            "parts found through `cam_index`. At the last block, the paper's, their sum and the "
            "class's bias are the logit; KNEELAKE_EXPLANATION takes an earlier one. Rectified, "
            "scaled and enlarged views are derived when they are read.",
            {"python", "zarr"},
        ),
        _spec(
            "cam_numbers",
            "cam_biomarkers",
            "Numbers of every Grad-CAM by target: medial share and share on cartilage (map average "
            "and by surface), peak, entropy, sums, and whether it is all zero: `cam_biomarkers`.",
            {"python", "deltalake"},
        ),
    ],
    pool=LAKE_WRITER,
)
def predictions_and_cams(
    context: dg.AssetExecutionContext,
    config: PredictionConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> Iterator[dg.MaterializeResult]:
    """One step for three assets, since one forward pass gives logits and both classes' maps."""
    from pipeline.predictions import PredictionOptions, materialize_predictions

    settings, timepoint = lake.settings(), context.partition_key
    report = materialize_predictions(
        lake.open(),
        settings,
        timepoint,
        options=PredictionOptions(tuple(config.cam_splits), config.precision),
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    for key, reason in report.failed:
        context.log.warning(f"{' '.join(key)} was not applied: {reason}")
    store = lake.snapshot()
    shown = {}
    with store.connect() as now:
        names = ("mean_cam_pain", "mean_cam_no_pain")
        if report.n_cams:
            shown = _mean_maps(store, now, timepoint)
        else:
            # A run that computed nothing shows again what the last one drew.
            before = {name: previous_figure(context, "cam_maps", name) for name in names}
            shown = {name: drawn for name, drawn in before.items() if drawn is not None}
        models = fetch(
            now,
            "SELECT task, bone, strategy, count(*) AS n_knee_visits, "
            "count(*) FILTER (WHERE predicted) AS n_predicted_yes FROM predictions "
            "WHERE timepoint = $timepoint GROUP BY ALL ORDER BY ALL",
            {"timepoint": timepoint},
        )
        shared: dict[str, Any] = {
            "n_pending": report.n_pending,
            "n_failed_models": len(report.failed),
            "seconds": round(report.seconds, 3),
            "peak_memory_mib": peak_memory_mib(),
        }
        if report.batch_id is not None:
            shared["batch_id"] = report.batch_id
        results: list[tuple[str, str, dict[str, Any]]] = [
            (
                "predictions",
                "predictions",
                {"n_predicted": report.n_predicted, "models": preview(models, rows=36)},
            ),
            ("cam_maps", "cam_index", {"n_cams": report.n_cams, **shown}),
            ("cam_numbers", "cam_biomarkers", {}),
        ]
        for asset, table, own in results:
            yield dg.MaterializeResult(
                asset_key=asset,
                data_version=dg.DataVersion(store.data_version(table, timepoint)),
                metadata={
                    **own,
                    **shared,
                    "dagster/partition_row_count": row_count(now, table, timepoint),
                },
            )


class SanityConfig(dg.Config):
    """Which classifier is checked, and on how much."""

    bone: Literal["femur", "tibia", "patella"] = Field(default="femur", description="Its bone.")
    strategy: str = Field(default="all_biomarkers", description="And strategy.")
    n_knees: int = Field(default=24, ge=1, description="Test knees looked at, at most.")
    n_training: int = Field(
        default=400, ge=1, description="Knees the comparison networks are trained on, at most."
    )
    epochs: int = Field(default=3, ge=1, description="Of those trainings.")
    seed: int = Field(default=0, ge=0, description="Of all that is drawn.")


@dg.asset(
    deps=[dg.AssetDep("cam_maps", partition_mapping=dg.AllPartitionMapping())],
    group_name=GROUP,
    kinds={"python", "matplotlib"},
    owners=OWNERS,
    # Raised by hand when the checks change.
    code_version="1",
)
def cam_sanity(config: SanityConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Whether Grad-CAM depends on what was learned, and shows what the network goes by.

    Cascading weight randomisation, label randomisation beside another seed, and deletion and
    insertion against a shuffled order, on some test knees of one classifier; PNG and CSV.
    """
    from pipeline.cam_sanity import SanityOptions, check_cams, sanity_figure, write_sanity

    store = lake.snapshot()
    options = SanityOptions(**config.model_dump())
    with store.connect() as now:
        n_maps = fetch(
            now,
            "SELECT count(*) AS n FROM cam_locations WHERE task = 'chronic_pain' "
            "AND bone = $bone AND strategy = $strategy AND split = 'test'",
            {"bone": options.bone, "strategy": options.strategy},
        )["n"][0]
    if not n_maps:
        return dg.MaterializeResult(
            data_version=dg.DataVersion("waiting"),
            metadata={
                "state": f"waiting: no test knee has a Grad-CAM of {options.bone} "
                f"{options.strategy} yet"
            },
        )
    report = check_cams(store, options)
    title = f"Grad-CAM of {options.bone} {options.strategy}, {len(report.knee_visits)} test knees"
    files = write_sanity(report, lake.settings().lake_root / FIGURES_FOLDER, title=title)
    return dg.MaterializeResult(
        metadata={
            "sanity": figure(sanity_figure(report, title=title), title),
            **{name: round(value, 4) for name, value in report.numbers.items()},
            **{f"{name}_file": dg.MetadataValue.path(path) for name, path in files.items()},
        }
    )
