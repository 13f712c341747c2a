"""From deliveries to spherical maps and biomarkers, as the paper's Methods tell it.

Here: the assets of group `imaging`, each of which reads, calls one pipeline function and reports.
Not here: image processing (`imaging`), batching and the ledger (`pipeline`, `lake`), wiring
(`dagster_project`).

Each asset is incremental inside its partition: the ledger says which knee-visits are pending, so
a second materialisation with nothing new computes nothing and keeps its data version. The pipeline
is imported inside the assets, so that definitions load fast.
"""

from collections.abc import Iterator
from typing import Literal

import dagster as dg
import duckdb
import numpy as np
from pydantic import Field

from assets.metadata import (
    figure,
    peak_memory_mib,
    previous_figure,
    quarantine_preview,
    registry_schema,
    row_count,
    step_metadata,
)
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from imaging.knee import MapParameters
from imaging.relaxometry import FitOptions
from lake.keys import BIOMARKER_UNITS
from lake.store import Lake
from lake.tables import TABLES
from pipeline.config import CODE_VERSION
from sql.reading import fetch

GROUP = "imaging"
OWNERS = ["team:imaging"]
LAKE_WRITER = "lake_writer"
"""Pool of one: two runs on one visit would compute the same pending knees twice."""

DEFAULTS = MapParameters()
Figure = dg.MarkdownMetadataValue | dg.TextMetadataValue

TABLE_ASSETS = {
    "scans": "scan_inventory",
    "label_files": "scan_inventory",
    "segmentation_networks": "segmentation_networks",
    "network_labels": "network_segmentations",
    "segmentation_cases": "segmentation_metrics",
    "segmentation_performance": "segmentation_metrics",
    "segmentations": "segmentations",
    "tissue_volumes": "segmentations",
    "maps_index": "spherical_maps",
    "biomarkers": "knee_biomarkers",
    "map_agreement": "knee_biomarkers",
    "t2_quality": "knee_biomarkers",
    "drawn_knees": "spherical_maps",
    "map_ranges": "map_ranges",
    "image_index": "training_images",
    "classifiers": "pain_classifiers",
    "training_epochs": "pain_classifiers",
    "sweep_runs": "sweep_runs",
    "predictions": "predictions",
    "cam_index": "cam_maps",
    "cam_biomarkers": "cam_numbers",
    "releases": "releases",
    "column_sources": "column_sources",
    "enrollees": "enrollees",
    "clinical_visits": "clinical_visits",
    "radiographs": "radiographs",
    "scans_listed": "scans_listed",
    "outcomes": "outcomes",
    "published_cases": "published_cases",
    "atlas_bones": "atlas",
    "atlas_vertices": "atlas",
    "atlas_triangles": "atlas",
    "correspondences": "correspondences",
    "atlas_maps": "atlas_maps",
    "cam_cells": "cell_sums",
    "cell_sums": "cell_sums",
    "control_biomarkers": "control_networks",
}
"""Which asset writes each table of the lake; tables of results are written by every analysis."""


class MapConfig(dg.Config):
    """What a knee's numbers depend on besides its images.

    The ledger keys on these: a run with other values computes every knee of its visits again, and
    the next run with the former values does so once more. Change them for all visits or none; the
    check `one_configuration` warns of a mixture.
    """

    thickness_method: Literal["skeleton", "skeleton_subvoxel", "normal"] = Field(
        default=DEFAULTS.thickness_method,
        description="Method of the published tables (skeleton: the paper's); all are reported.",
    )
    hit_rule: Literal["outermost", "nearest"] = Field(
        default=DEFAULTS.hit_rule,
        description="Which hit counts where a ray meets the surface repeatedly.",
    )
    cylinder_radius_mm: float = Field(
        default=DEFAULTS.cylinder_radius_mm,
        gt=0,
        description="Radius of the projection's cylinder, mm.",
    )
    t2_model: Literal["three_parameter", "two_parameter", "log_linear"] = Field(
        default=DEFAULTS.t2.model, description="Decay fitted. three_parameter: S0 exp(-TE/T2) + C."
    )
    t2_first_echo: Literal["keep", "drop"] = Field(
        default=DEFAULTS.t2.first_echo,
        description="Whether the first echo is fitted; moves T2 by 7 ms.",
    )
    t2_lower_bound_ms: float = Field(
        default=DEFAULTS.t2.t2_bounds_ms[0], description="Smallest T2, ms."
    )
    t2_upper_bound_ms: float = Field(
        default=DEFAULTS.t2.t2_bounds_ms[1], description="Largest T2, ms."
    )
    t2_offset: Literal["free", "non_negative"] = Field(
        default=DEFAULTS.t2.offset, description="Sign the offset C may take."
    )
    t2_tolerance: float = Field(
        default=DEFAULTS.t2.tolerance,
        gt=0,
        description="Relative change of T2 that ends the iteration.",
    )
    between_slices: Literal["linear", "nearest"] = Field(
        default=DEFAULTS.between_slices, description="How MSME is read between its slices."
    )
    align_t2: bool = Field(
        default=DEFAULTS.align_t2, description="Estimate the image-based shift of MSME onto DESS."
    )

    @classmethod
    def of(cls, parameters: MapParameters) -> "MapConfig":
        """The config that says these parameters."""
        low, high = parameters.t2.t2_bounds_ms
        return cls(
            thickness_method=parameters.thickness_method,
            hit_rule=parameters.hit_rule,
            cylinder_radius_mm=parameters.cylinder_radius_mm,
            t2_model=parameters.t2.model,
            t2_first_echo=parameters.t2.first_echo,
            t2_lower_bound_ms=low,
            t2_upper_bound_ms=high,
            t2_offset=parameters.t2.offset,
            t2_tolerance=parameters.t2.tolerance,
            between_slices=parameters.between_slices,
            align_t2=parameters.align_t2,
        )

    def parameters(self) -> MapParameters:
        """The parameters this config says.

        Raises:
            ValueError: bounds out of order.
        """
        return MapParameters(
            thickness_method=self.thickness_method,
            hit_rule=self.hit_rule,
            cylinder_radius_mm=self.cylinder_radius_mm,
            t2=FitOptions(
                model=self.t2_model,
                first_echo=self.t2_first_echo,
                t2_bounds_ms=(self.t2_lower_bound_ms, self.t2_upper_bound_ms),
                offset=self.t2_offset,
                tolerance=self.t2_tolerance,
            ),
            between_slices=self.between_slices,
            align_t2=self.align_t2,
        )


@dg.asset(
    partitions_def=TIMEPOINT_PARTITIONS,
    group_name=GROUP,
    kinds={"python", "deltalake"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    metadata={"dagster/column_schema": registry_schema(TABLES["scans"])},
)
def scan_inventory(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Scans and label volumes delivered for a visit: validated, fingerprinted, landed or refused.

    Tables `scans` and `label_files`; what cannot be used goes to `quarantine` with its reason, and
    the rest goes on. Deliveries that do not tell their visit are refused with any visit's run.
    """
    from pipeline.ingest import ingest

    settings, timepoint = lake.settings(), context.partition_key
    report = ingest(
        lake.open(),
        settings,
        timepoint=timepoint,
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    store = lake.snapshot()
    version = "-".join(store.data_version(name, timepoint) for name in ("scans", "label_files"))
    with store.connect() as now:
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            metadata={
                "n_landed": len(report.landed),
                "n_unchanged": report.unchanged,
                "n_quarantined": len(report.quarantined),
                "n_skipped": report.skipped,
                "n_superseded": len(report.superseded),
                "n_label_files": row_count(now, "label_files", timepoint),
                "peak_memory_mib": peak_memory_mib(),
                "dagster/partition_row_count": row_count(now, "scans", timepoint),
                **quarantine_preview(now, "ingest", timepoint),
            },
        )


@dg.asset(
    deps=[scan_inventory, "network_segmentations"],
    partitions_def=TIMEPOINT_PARTITIONS,
    group_name=GROUP,
    kinds={"python", "deltalake"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["segmentation"],
    metadata={"dagster/column_schema": registry_schema(TABLES["segmentations"])},
)
def segmentations(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Label volumes checked against their scan and put into the right-knee frame.

    Tables `segmentations` and `tissue_volumes`. A left knee is mirrored, recorded and reversible.
    """
    from pipeline.steps import data_version, materialize_segmentations

    settings, timepoint = lake.settings(), context.partition_key
    report = materialize_segmentations(
        lake.open(),
        settings,
        timepoint,
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    store = lake.snapshot()
    with store.connect() as now:
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version(store, "segmentation", timepoint)),
            metadata={
                **step_metadata(report),
                "dagster/partition_row_count": row_count(now, "segmentations", timepoint),
                **quarantine_preview(now, "segmentation", timepoint),
            },
        )


def _example_maps(lake: Lake, now: duckdb.DuckDBPyConnection, timepoint: str) -> Figure | None:
    """The maps of one knee of a visit: the first by name of those with most maps."""
    from pipeline.figures import maps_figure

    found = now.execute(
        "SELECT knee_visit FROM maps_index WHERE timepoint = $1 GROUP BY knee_visit "
        "ORDER BY count(*) FILTER (WHERE has_t2) DESC, count(*) DESC, knee_visit LIMIT 1",
        [timepoint],
    ).fetchall()
    if not found:
        return None
    knee_visit = found[0][0]
    parts = lake.knee_maps(knee_visit)
    measured = [
        name
        for name in BIOMARKER_UNITS
        if any(np.isfinite(part.maps[name]).any() for part in parts.values())
    ]
    return figure(maps_figure(parts, title=knee_visit, names=measured, dpi=56), knee_visit)


def _agreement(now: duckdb.DuckDBPyConnection, timepoint: str) -> Figure | None:
    """Bland-Altman plots of a visit: mean on the surface against mean on the map."""
    from pipeline.figures import bland_altman_figure

    agreement = fetch(
        now,
        "FROM map_agreement WHERE timepoint = $1 ORDER BY knee_visit, bone, biomarker",
        [timepoint],
    )
    if agreement.is_empty():
        return None
    return figure(bland_altman_figure(agreement, dpi=56), f"Bland-Altman agreement at {timepoint}")


def _shown(name: str, drawn: Figure | None) -> dict[str, Figure]:
    return {} if drawn is None else {name: drawn}


@dg.multi_asset(
    name="maps_and_biomarkers",
    specs=[
        dg.AssetSpec(
            "spherical_maps",
            deps=["segmentations", "scan_inventory"],
            description=(
                "224 x 224 spherical maps of bone shape, cartilage thickness and three T2 layers "
                "per bone, as immutable Zarr parts found through `maps_index`. Computed in one "
                "pass with `knee_biomarkers` and committed in one batch with it."
            ),
            kinds={"python", "zarr"},
            metadata={"dagster/column_schema": registry_schema(TABLES["maps_index"])},
            group_name=GROUP,
            owners=OWNERS,
            code_version=CODE_VERSION["maps"],
            partitions_def=TIMEPOINT_PARTITIONS,
        ),
        dg.AssetSpec(
            "knee_biomarkers",
            deps=["segmentations", "scan_inventory"],
            description=(
                "Mean, SD, n and area of every biomarker per bone and compartment, with the "
                "agreement of surface and map and the quality of the T2 fit: tables `biomarkers`, "
                "`map_agreement`, `t2_quality`."
            ),
            kinds={"python", "deltalake"},
            metadata={"dagster/column_schema": registry_schema(TABLES["biomarkers"])},
            group_name=GROUP,
            owners=OWNERS,
            code_version=CODE_VERSION["maps"],
            partitions_def=TIMEPOINT_PARTITIONS,
        ),
    ],
    pool=LAKE_WRITER,
)
def maps_and_biomarkers(
    context: dg.AssetExecutionContext,
    config: MapConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> Iterator[dg.MaterializeResult]:
    """One step for two assets, since one pass over a knee gives both.

    The surface values whose means are biomarkers are the values the maps sample. Two steps would
    fit and project every knee twice, and a kill between them would leave maps without numbers;
    as one batch they count together.
    """
    from pipeline.steps import data_version, materialize_maps

    settings, timepoint = lake.settings(config.parameters()), context.partition_key
    report = materialize_maps(
        lake.open(),
        settings,
        timepoint,
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    store = lake.snapshot()
    version = dg.DataVersion(data_version(store, "maps", timepoint))
    # A run that computed nothing shows again what the last one drew, and costs no drawing.
    maps_drawn = agreement_drawn = None
    if not report.n_done:
        maps_drawn = previous_figure(context, "spherical_maps", "example_knee")
        agreement_drawn = previous_figure(context, "knee_biomarkers", "map_agreement")
    with store.connect() as now:
        shared = {**step_metadata(report), **quarantine_preview(now, "maps", timepoint)}
        yield dg.MaterializeResult(
            asset_key="spherical_maps",
            data_version=version,
            metadata={
                **_shown("example_knee", maps_drawn or _example_maps(store, now, timepoint)),
                **shared,
                "dagster/partition_row_count": row_count(now, "maps_index", timepoint),
            },
        )
        yield dg.MaterializeResult(
            asset_key="knee_biomarkers",
            data_version=version,
            metadata={
                **_shown("map_agreement", agreement_drawn or _agreement(now, timepoint)),
                **shared,
                "dagster/partition_row_count": row_count(now, "biomarkers", timepoint),
            },
        )
