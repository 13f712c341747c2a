"""Fig. 1, tables of clusters, the interactive page and meshes of what was compared on the atlas.

Here: which files there are. Not here: drawing (`atlas_figures`, `surface_page`, `mesh_files`) or
the comparisons (`map_comparisons`).
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from imaging.labels import Bone
from lake.store import Lake
from pipeline.atlas_figures import figure_1
from pipeline.atlas_view import AtlasMesh, GroupMap, atlas_meshes, group_maps
from pipeline.cluster_tables import cluster_table
from pipeline.manuscript import table_files, write_files
from pipeline.map_comparisons import COMPARISONS
from pipeline.mesh_files import write_atlas_vtp
from pipeline.surface_page import surface_page

FIGURES: Mapping[str, str] = {
    "spm_cam_pain": "figure_1",
    "spm_cam_predicted": "figure_1_predicted_class",
    "spm_biomarkers": "figure_1_biomarkers",
}
"""File of the figure of each comparison, without its ending."""
PAGE = "atlas.html"
MESHES = "atlas"
"""Folder of the meshes."""


def made_of(lake: Lake, analysis: str) -> str:
    """What the figure of a comparison is drawn from: the batches of its result and of the atlas."""
    batches = lake.sql(
        "SELECT batch_id FROM analyses WHERE analysis = $analysis "
        "UNION SELECT batch_id FROM atlas_bones ORDER BY ALL",
        {"analysis": analysis},
    )
    return " ".join(batches["batch_id"])


def tested_maps(lake: Lake) -> dict[str, list[GroupMap]]:
    """The maps of each comparison that has a result.

    Raises:
        LakeError: one with vertices missing.
    """
    # Of one that was refused, its row in `analyses` says why.
    there = set(lake.sql("SELECT DISTINCT analysis FROM spm_points")["analysis"])
    return {analysis: group_maps(lake, analysis) for analysis in COMPARISONS if analysis in there}


def comparison_tables(lake: Lake, analysis: str) -> dict[str, bytes]:
    """The clusters of a comparison as a manuscript takes them, by file name."""
    clusters = lake.sql(
        "FROM spm_clusters WHERE analysis = $analysis", {"analysis": analysis}
    ).drop("analysis", "batch_id")
    [notes] = lake.sql(
        "SELECT notes FROM analyses WHERE analysis = $analysis", {"analysis": analysis}
    )["notes"]
    title = f"Clusters: {COMPARISONS[analysis].title}"
    return table_files(f"clusters_{analysis}", cluster_table(clusters), title, notes.splitlines())


def write_comparison_files(lake: Lake, folder: Path) -> dict[str, bytes]:
    """Write every figure, table, page and mesh of what was compared; the figures, by name.

    Args:
        lake: with the atlas and comparisons.
        folder: made if it is not there.

    Raises:
        LakeError: a comparison is of another atlas than the lake's.
    """
    maps = tested_maps(lake)
    if not maps:
        return {}
    meshes: Mapping[Bone, AtlasMesh] = atlas_meshes(lake)
    figures = {
        FIGURES[analysis]: figure_1(meshes, of, made_of=made_of(lake, analysis))
        for analysis, of in maps.items()
    }
    contents = {f"{name}.png": png for name, png in figures.items()}
    for analysis in maps:
        contents |= comparison_tables(lake, analysis)
    everything = [one for of_analysis in maps.values() for one in of_analysis]
    contents[PAGE] = surface_page(meshes, everything)
    write_files(folder, contents)
    write_atlas_vtp(folder / MESHES, meshes, everything)
    return figures


def summary_of(lake: Lake) -> pl.DataFrame:
    """One row per comparison and map: vertices tested, and significant by each criterion."""
    return lake.sql(
        "SELECT analysis, map, count(*) AS vertices, count(t) AS tested, "
        "count(*) FILTER (WHERE p < 0.05) AS p_below_05, "
        "count(*) FILTER (WHERE q_bh < 0.05) AS q_bh_below_05, "
        "count(*) FILTER (WHERE p_fwe_max_t < 0.05) AS p_fwe_max_t_below_05, "
        "count(*) FILTER (WHERE p_fwe_tfce < 0.05) AS p_fwe_tfce_below_05, "
        "count(*) FILTER (WHERE p_fwe_max_t_family < 0.05) AS p_fwe_max_t_family_below_05, "
        "min(p) AS smallest_p FROM spm_points GROUP BY analysis, map ORDER BY analysis, map"
    )
