"""The clusters of group maps as a table of a manuscript: cells that are text.

Not here: laying them out (`manuscript.table_files`).
"""

import polars as pl

from imaging.labels import BONES
from lake.association_tables import SINGLE_BIOMARKERS
from pipeline.atlas_view import BIOMARKER_TITLES
from pipeline.manuscript import number_text, p_text

SIGNS = {1: "higher in pain", -1: "higher in no pain", 0: "neither"}

CLUSTER_NOTES = (
    "A cluster is connected vertices beyond the cluster-forming threshold, with one sign of t.",
    "Peak: where |t| is largest, in the right-knee frame of the atlas, mm: x grows towards medial, "
    "y towards posterior, z towards superior.",
    "p: family-wise over the map by permutation, by the largest area; '-' without permutations.",
)

_COLUMNS = (
    "map",
    "cluster",
    "sign",
    "area (mm2)",
    "peak t",
    "peak position (x, y, z; mm)",
    "compartments",
    "family-wise by area, p",
)


def cluster_table(clusters: pl.DataFrame) -> pl.DataFrame:
    """Clusters as text, bone by bone, the largest first.

    Args:
        clusters: rows of `spm_clusters` of one analysis; without permutations p_fwe_area is NULL
            or left out.

    Returns:
        One row per cluster, all columns text; no row where there is no cluster.
    """
    order = {
        f"{bone}_{biomarker}": f"{bone}, {BIOMARKER_TITLES[biomarker]}"
        for bone in BONES
        for biomarker in SINGLE_BIOMARKERS
    }
    places = {name: place for place, name in enumerate(order)}
    rows = sorted(
        clusters.to_dicts(),
        key=lambda row: (places.get(row["map"], len(places)), row["map"], row["cluster"]),
    )
    cells = [
        (
            order.get(row["map"], row["map"]),
            str(row["cluster"]),
            SIGNS[row["sign"]],
            number_text(row["area_mm2"], 1),
            number_text(row["peak_t"], 2),
            ", ".join(number_text(row[f"peak_{axis}_mm"], 1) for axis in "xyz"),
            row["compartments"] or "-",
            p_text(row.get("p_fwe_area")),
        )
        for row in rows
    ]
    return pl.DataFrame(cells, schema=dict.fromkeys(_COLUMNS, pl.String), orient="row")
