"""DL-guided biomarkers: what Grad-CAM's cells see of the maps, and networks trained as controls.

Here: the assets that prepare sums and train control networks. Not here: the averages, which are SQL
(`sql/association/dl_guided_biomarkers.sql`), or the regressions on them (`assets.association`).
"""

from typing import Literal

import dagster as dg
from pydantic import Field

from assets.imaging import LAKE_WRITER
from assets.metadata import peak_memory_mib, registry_schema, row_count
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from lake.tables import TABLES
from pipeline.config import CODE_VERSION

GROUP = "association"
OWNERS = ["team:statistics"]


@dg.asset(
    deps=["cam_maps", "spherical_maps"],
    partitions_def=TIMEPOINT_PARTITIONS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    code_version=CODE_VERSION["guided"],
    metadata={"dagster/column_schema": registry_schema(TABLES["cell_sums"])},
    pool=LAKE_WRITER,
)
def cell_sums(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Cells of each Grad-CAM (`cam_cells`), and what each cell sees of a biomarker map.

    With these, an average weighted by the Grad-CAM of all pixels is one SQL query, exactly.
    """
    from pipeline.guided import materialize_cell_sums

    timepoint = context.partition_key
    report = materialize_cell_sums(
        lake.open(), lake.settings(), timepoint, progress=progress.to(context.log)
    )
    store = lake.snapshot()
    versions = [store.data_version(name, timepoint) for name in ("cam_cells", "cell_sums")]
    with store.connect() as now:
        n_rows = row_count(now, "cell_sums", timepoint)
    return dg.MaterializeResult(
        data_version=dg.DataVersion("-".join(versions)),
        metadata={
            "dagster/partition_row_count": n_rows,
            "n_cams_laid_out": report.n_cams,
            "n_knees_summed": report.n_knees,
            "seconds": round(report.seconds, 3),
            "peak_memory_mib": peak_memory_mib(),
        },
    )


class ControlConfig(dg.Config):
    """Which control networks."""

    preset: Literal["", "off", "demo", "paper"] = Field(
        default="",
        description="off: none; demo: two folds and two epochs of a narrow ResNet-18; paper: "
        "five folds of the published network. Empty: KNEELAKE_CLASSIFIER_PRESET, or off.",
    )
    seed: int = Field(default=0, ge=0, description="Of folds, permutations and weights.")
    device: Literal["", "auto", "cpu", "cuda"] = Field(
        default="", description="Where networks run; empty: KNEELAKE_DEVICE, or auto."
    )


@dg.asset(
    deps=[
        dg.AssetDep("training_images", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("spherical_maps", partition_mapping=dg.AllPartitionMapping()),
        "model_cases",
    ],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "pytorch"},
    code_version=CODE_VERSION["controls"],
    metadata={"dagster/column_schema": registry_schema(TABLES["control_biomarkers"])},
    pool=LAKE_WRITER,
)
def control_networks(
    context: dg.AssetExecutionContext,
    config: ControlConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Averages by networks trained as controls: on permuted labels, and on other participants.

    Does nothing without a preset.
    """
    import dataclasses

    settings = lake.settings()
    if config.device:
        settings = dataclasses.replace(settings, device=config.device)
    chosen = config.preset or settings.classifier_preset or "off"
    if chosen == "off":
        return dg.MaterializeResult(
            data_version=dg.DataVersion("off"),
            metadata={"state": "off: give a preset, demo or paper, to train control networks"},
        )
    from pipeline.control_networks import options_of, train_control_networks

    report = train_control_networks(
        lake.open(),
        settings,
        options_of(chosen, config.seed),
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    for group, reason in report.failed:
        context.log.warning(f"control networks of {group.name} could not be trained: {reason}")
    store = lake.snapshot()
    n_rows = store.sql("SELECT count(*) AS n FROM control_biomarkers")["n"][0]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("control_biomarkers")),
        metadata={
            "dagster/row_count": int(n_rows),
            "n_networks_trained": report.n_networks,
            "n_groups_unchanged": len(report.unchanged),
            "n_groups_failed": len(report.failed),
            "failed": "; ".join(f"{group.name}: {reason}" for group, reason in report.failed),
            "seconds": round(report.seconds, 1),
            "peak_memory_mib": peak_memory_mib(),
        },
    )
