"""From spherical maps to the images classifiers are trained on.

Here: the ranges maps are scaled by, and the 8-bit planes of every knee. Not here: how maps are made
(`assets.imaging`), or what is trained on images (`assets.classifiers`).

The ranges are fitted once, on the training split, and stay: a visit that arrives later is scaled by
them and changes no image made before. Without a training knee both assets wait and say so.
"""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from assets.metadata import (
    figure,
    peak_memory_mib,
    preview,
    previous_figure,
    quarantine_preview,
    registry_schema,
    row_count,
    step_metadata,
)
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import LakeResource, ProgressResource
from lake.tables import TABLES
from pipeline.config import CODE_VERSION
from sql.reading import fetch

GROUP = "learning"
OWNERS = ["team:learning"]
LAKE_WRITER = "lake_writer"


class RangeConfig(dg.Config):
    """How the ends of the 8-bit scale are chosen."""

    population: Literal["training", "all"] = Field(
        default="training",
        description="training: the training split; all: every knee with maps, as the paper, which "
        "lets test knees decide how training images look.",
    )
    lower_quantile: float = Field(default=0.0, ge=0, lt=1, description="0: the minimum.")
    upper_quantile: float = Field(default=1.0, gt=0, le=1, description="1: the maximum.")
    refit: bool = Field(
        default=False,
        description="Fit a new set although there is one; every image is then made anew.",
    )


def _waiting(what: str) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion("waiting"), metadata={"state": f"waiting: {what}"}
    )


@dg.asset(
    deps=["spherical_maps", "model_cases"],
    group_name=GROUP,
    kinds={"python", "deltalake"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["ranges"],
    metadata={"dagster/column_schema": registry_schema(TABLES["map_ranges"])},
)
def map_ranges(
    context: dg.AssetExecutionContext,
    config: RangeConfig,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """What black and white stand for: the range of each map of each bone over the training knees.

    Fitted once and then kept. A run with other choices makes the set of that kind the one that
    counts, and every image is pending again.
    """
    from pipeline.map_ranges import RangeOptions, count_knees, current_ranges, fit_map_ranges

    options = RangeOptions(config.population, config.lower_quantile, config.upper_quantile)
    store = lake.snapshot()
    known = current_ranges(store, options)
    if known is None and not count_knees(store, options):
        return _waiting("there is no training knee with maps yet")
    fitted = fit_map_ranges(
        lake.open(), options, refit=config.refit, progress=progress.to(context.log)
    )
    with lake.snapshot().connect() as now:
        rows = fetch(
            now,
            "SELECT DISTINCT bone, biomarker, minimum, maximum, n_knee_visit, n_value "
            "FROM map_ranges WHERE ranges_id = $ranges_id ORDER BY ALL",
            {"ranges_id": fitted.ranges_id},
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(fitted.ranges_id),
        metadata={
            "ranges": preview(rows, rows=len(rows)),
            "ranges_id": fitted.ranges_id,
            "newly_fitted": known is None or known.ranges_id != fitted.ranges_id,
            "dagster/row_count": len(rows),
        },
    )


@dg.asset(
    deps=[map_ranges, "spherical_maps"],
    partitions_def=TIMEPOINT_PARTITIONS,
    group_name=GROUP,
    kinds={"python", "zarr"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["images"],
    metadata={"dagster/column_schema": registry_schema(TABLES["image_index"])},
)
def training_images(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Maps in 8 bits, five planes a bone; the six strategies of Fig. 4 are channels taken of them.

    Only knee-visits whose maps or ranges are new are made; the others stay as they are. One whose
    bone shape or thickness map is empty is refused.
    """
    from pipeline.image_figures import example_knee, strategies_figure
    from pipeline.images import materialize_images
    from pipeline.map_ranges import current_ranges
    from pipeline.steps import data_version

    timepoint = context.partition_key
    if current_ranges(lake.snapshot()) is None:
        return _waiting("map_ranges are not fitted yet")
    report = materialize_images(lake.open(), timepoint, progress=progress.to(context.log))
    store = lake.snapshot()
    # A run that computed nothing shows again what the last one drew, and costs no drawing.
    drawn = None if report.n_done else previous_figure(context, "training_images", "strategies")
    shown = None if drawn else example_knee(store, timepoint)
    metadata: dict[str, Any] = {"strategies": drawn} if drawn else {}
    if shown is not None:
        metadata["strategies"] = figure(strategies_figure(store, shown), f"Fig. 4 of {shown}")
    with store.connect() as now:
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version(store, "images", timepoint)),
            metadata={
                **metadata,
                **step_metadata(report),
                "peak_memory_mib": peak_memory_mib(),
                "dagster/partition_row_count": row_count(now, "image_index", timepoint),
                **quarantine_preview(now, "images", timepoint),
            },
        )
