"""One reference knee for all: the atlas, where its points lie on every knee, and maps read there.

Here: the assets, and what the UI shows of them. Not here: the choice of the reference knee
(`sql/association/reference_candidates.sql`), the matching (`imaging.correspondence`), or the tests
point by point (`stats`).

Correspondences and maps are partitioned by visit and incremental: a new visit costs its own knees.
The comparisons read across visits; one whose input has not changed is not run again.
"""

from typing import Any, Literal

import dagster as dg
import polars as pl
from pydantic import Field

from assets.imaging import LAKE_WRITER
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
from pipeline.config import CODE_VERSION, FIGURES_FOLDER
from pipeline.map_comparisons import COMPARISONS, Comparison, ComparisonOptions
from sql.reading import fetch

GROUP = "association"
OWNERS = ["team:imaging"]


class AtlasConfig(dg.Config):
    """Whose bones the atlas is."""

    reference: str = Field(
        default="",
        description="A knee-visit to take; empty for the test knee nearest to the average age, "
        "BMI and sex.",
    )
    refit: bool = Field(
        default=False,
        description="Choose anew although there is an atlas; every knee is then matched again.",
    )


@dg.asset(
    deps=["reference_candidates", dg.AssetDep("spherical_maps")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    code_version=CODE_VERSION["atlas"],
    metadata={"dagster/column_schema": registry_schema(TABLES["atlas_bones"])},
    pool=LAKE_WRITER,
)
def atlas(config: AtlasConfig, lake: LakeResource) -> dg.MaterializeResult:
    """The bones of one reference knee, chosen by demographics once and then kept.

    The test knee nearest to the test split's mean age, BMI and sex. `atlas_vertices` and
    `atlas_triangles` hold its surfaces.
    """
    from pipeline.atlas import make_atlas

    report = make_atlas(
        lake.open(), lake.settings(), reference=config.reference or None, refit=config.refit
    )
    store = lake.snapshot()
    with store.connect() as now:
        bones = fetch(now, "FROM atlas_bones ORDER BY bone")
        candidates = fetch(now, "FROM reference_candidates ORDER BY reference_rank LIMIT 10")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("atlas_bones")),
        metadata={
            "dagster/row_count": len(bones),
            "state": report.state,
            "reference_knee_visit": report.reference_knee_visit or "none",
            "bones": preview(bones),
            "candidates": preview(candidates),
        },
    )


class CorrespondenceConfig(dg.Config):
    """Which test knees are matched with the atlas."""

    visits: Literal["first", "all"] = Field(
        default="first",
        description="'first': each patient's first visit in the cohort, as the paper; or 'all'.",
    )


@dg.asset(
    deps=[atlas, dg.AssetDep("spherical_maps"), "cohort", "first_timepoints"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "zarr"},
    code_version=CODE_VERSION["correspondence"],
    partitions_def=TIMEPOINT_PARTITIONS,
    metadata={"dagster/column_schema": registry_schema(TABLES["correspondences"])},
    pool=LAKE_WRITER,
)
def correspondences(
    context: dg.AssetExecutionContext,
    config: CorrespondenceConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Where the atlas's points lie on every test knee, with how well each bone fits.

    A knee with a bone that cannot be matched is quarantined with its reason and compared nowhere.
    """
    from pipeline.correspondences import materialize_correspondences

    settings, timepoint = lake.settings(), context.partition_key
    store = lake.snapshot()
    with store.connect() as now:
        has_atlas = bool(fetch(now, "SELECT count(*) AS n FROM atlas_bones")["n"][0])
    if not has_atlas:
        return dg.MaterializeResult(
            data_version=dg.DataVersion("waiting"),
            metadata={"state": "waiting: there is no atlas; materialize atlas"},
        )
    report = materialize_correspondences(
        lake.open(),
        timepoint,
        visits=config.visits,
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    store = lake.snapshot()
    with store.connect() as now:
        quality = fetch(
            now,
            "SELECT bone, count(*) AS n, avg(distance_mm) AS mean_distance_mm, "
            "max(distance_mm) AS largest_distance_mm, max(flipped_share) AS largest_flipped_share, "
            "max(lost_share) AS largest_lost_share, avg(rotation_deg) AS mean_rotation_deg "
            "FROM correspondences WHERE timepoint = $timepoint GROUP BY bone ORDER BY bone",
            {"timepoint": timepoint},
        )
        shown: dict[str, Any] = {
            **step_metadata(report),
            **quarantine_preview(now, "correspondence", timepoint),
            "quality": preview(quality),
            "dagster/partition_row_count": row_count(now, "correspondences", timepoint),
        }
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("correspondences", timepoint)),
        metadata=shown,
    )


@dg.asset(
    deps=[correspondences, dg.AssetDep("spherical_maps"), dg.AssetDep("cam_maps")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    code_version=CODE_VERSION["atlas_maps"],
    partitions_def=TIMEPOINT_PARTITIONS,
    metadata={"dagster/column_schema": registry_schema(TABLES["atlas_maps"])},
    pool=LAKE_WRITER,
)
def atlas_maps(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Biomarkers and Grad-CAM of every matched knee at the atlas's points.

    One row per knee-visit, bone, biomarker and quantity, its values in the order of
    `atlas_vertices`.
    """
    from pipeline.atlas_maps import materialize_atlas_maps

    timepoint = context.partition_key
    report = materialize_atlas_maps(lake.open(), timepoint, progress=progress.to(context.log))
    store = lake.snapshot()
    with store.connect() as now:
        counts = fetch(
            now,
            "SELECT bone, biomarker, quantity, count(*) AS n_knee_visits FROM atlas_maps "
            "WHERE timepoint = $timepoint GROUP BY ALL ORDER BY ALL",
            {"timepoint": timepoint},
        )
        n_rows = row_count(now, "atlas_maps", timepoint)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("atlas_maps", timepoint)),
        metadata={
            "n_pending": report.n_pending,
            "n_knee_visits": report.n_knee_visits,
            "seconds": round(report.seconds, 3),
            "peak_memory_mib": peak_memory_mib(),
            "maps": preview(counts, rows=36),
            "dagster/partition_row_count": n_rows,
        },
    )


class ComparisonConfig(dg.Config):
    """How maps are tested."""

    n_permutations: int = Field(
        default=ComparisonOptions.n_permutations,
        ge=20,
        description="Rearrangements behind family-wise p-values.",
    )
    seed: int = Field(default=ComparisonOptions.seed, ge=0, description="Of the rearrangements.")
    cluster_p: float = Field(
        default=ComparisonOptions.cluster_p,
        gt=0,
        lt=1,
        description="Two-sided uncorrected p that forms clusters.",
    )
    min_models_correct: int = Field(
        default=ComparisonOptions.min_models_correct,
        ge=1,
        le=18,
        description="Models (of 18) that have to be right for a knee to be in a group of Fig. 1.",
    )
    min_present_share: float = Field(
        default=ComparisonOptions.min_present_share,
        ge=0,
        le=1,
        description="Of the knees that need a value at a point for a family-wise p there.",
    )


def _comparison_asset(comparison: Comparison) -> dg.AssetsDefinition:
    """The asset of one family of maps."""

    @dg.asset(
        name=comparison.analysis,
        deps=[
            dg.AssetDep("atlas_maps", partition_mapping=dg.AllPartitionMapping()),
            *([dg.AssetDep("cell_sums", partition_mapping=dg.AllPartitionMapping())]
              if comparison.target else []),
            "spm_cases",
        ],
        group_name=GROUP,
        owners=["team:statistics"],
        kinds={"python", "duckdb", "deltalake"},
        code_version=CODE_VERSION["statistics"],
        description=f"{comparison.title}: point by point on the atlas, adjusted for age, sex and "
        "BMI, 3 bones x 3 biomarkers, with uncorrected p (the paper), FDR, and family-wise p by "
        "permutation (largest |t|, TFCE, cluster area).",
        metadata={"dagster/column_schema": registry_schema(TABLES["spm_points"])},
        pool=LAKE_WRITER,
    )  # fmt: skip
    def compare(config: ComparisonConfig, lake: LakeResource) -> dg.MaterializeResult:
        from pipeline.comparison_files import summary_of
        from pipeline.map_comparisons import compare_maps

        run = compare_maps(
            lake.open(), lake.settings(), comparison, ComparisonOptions(**config.model_dump())
        )
        store = lake.snapshot()
        summary = summary_of(store).filter(pl.col("analysis") == comparison.analysis)
        clusters = store.sql(
            "SELECT * EXCLUDE (analysis, batch_id) FROM spm_clusters "
            "WHERE analysis = $analysis ORDER BY p_fwe_area, map, cluster LIMIT 20",
            {"analysis": comparison.analysis},
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(run.input_fingerprint[:16] or "waiting"),
            metadata={
                "state": run.state if run.reason is None else f"{run.state}: {run.reason}",
                "n_group1": run.n_group1,
                "n_group0": run.n_group0,
                "n_left_out": run.n_left_out,
                "dagster/row_count": int(summary["vertices"].sum()),
                "assumes": dg.MetadataValue.md("\n".join(f"- {one}" for one in comparison.notes)),
                "maps": preview(summary),
                "clusters": preview(clusters, rows=20),
            },
        )

    return compare


comparisons = [_comparison_asset(comparison) for comparison in COMPARISONS.values()]
"""The paper's family of maps under both readings of the class, and the biomarkers themselves."""


@dg.asset(
    deps=list(COMPARISONS),
    group_name=GROUP,
    owners=["team:statistics"],
    kinds={"python", "matplotlib"},
    # Raised by hand when the figures change.
    code_version="1",
)
def comparison_figures(lake: LakeResource) -> dg.MaterializeResult:
    """Fig. 1 of every comparison, tables of clusters, the 3-D page, and meshes as VTP.

    They lie in `figures/` of the lake; `atlas.html` opens in any browser, without a network.
    """
    from pipeline.comparison_files import PAGE, summary_of, write_comparison_files

    folder = lake.settings().lake_root / FIGURES_FOLDER
    store = lake.snapshot()
    drawn = write_comparison_files(store, folder)
    summary = summary_of(store)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(
            store.data_version("spm_points") if drawn else "waiting",
        ),
        metadata={
            "state": "drawn" if drawn else "waiting: nothing has been compared yet",
            "maps": preview(summary, rows=27),
            **{name: figure(png, name) for name, png in drawn.items()},
            **({"page": dg.MetadataValue.path(folder / PAGE)} if drawn else {}),
        },
    )
