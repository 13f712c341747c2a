"""DL-guided biomarkers: what Grad-CAM's cells see of the maps, and networks trained as controls.

Here: the assets that prepare sums and train control networks. Not here: the averages, which are SQL
(`sql/association/dl_guided_biomarkers.sql`), or the regressions on them (`assets.association`).
"""

import dagster as dg

from assets.imaging import LAKE_WRITER
from assets.metadata import peak_memory_mib, registry_schema, row_count
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import LakeResource, ProgressResource
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
