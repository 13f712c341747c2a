"""Clusters as a table of a manuscript."""

import polars as pl

from pipeline.cluster_tables import CLUSTER_NOTES, cluster_table
from pipeline.manuscript import table_files

CLUSTERS = pl.DataFrame(
    {
        "map": ["tibia_t2_mean", "femur_bone_shape", "femur_bone_shape"],
        "cluster": [1, 2, 1],
        "sign": [-1, 1, 1],
        "area_mm2": [12.34, 45.0, 210.06],
        "peak_t": [-5.678, 4.0, 9.1],
        "peak_x_mm": [1.25, -3.0, 20.0],
        "peak_y_mm": [0.0, 2.04, -30.51],
        "peak_z_mm": [7.0, 8.0, 9.0],
        "compartments": ["lateral 100.0 %", None, "medial 90.0 %, lateral 10.0 %"],
        "p_fwe_area": [0.2, 0.0421, 0.001],
    }
)


def test_clusters_are_in_words_bone_by_bone() -> None:
    table = cluster_table(CLUSTERS)
    assert table.rows() == [
        (
            *("femur, bone shape", "1", "higher in pain", "210.1", "9.10", "20.0, -30.5, 9.0"),
            *("medial 90.0 %, lateral 10.0 %", "0.001"),
        ),
        (
            "femur, bone shape",
            "2",
            "higher in pain",
            "45.0",
            "4.00",
            "-3.0, 2.0, 8.0",
            "-",
            "0.0421",
        ),
        (
            *("tibia, cartilage T2", "1", "higher in no pain", "12.3", "-5.68", "1.2, 0.0, 7.0"),
            *("lateral 100.0 %", "0.2"),
        ),
    ]
    assert set(table.schema.values()) == {pl.String}


def test_it_is_laid_out_as_manuscript_tables_are() -> None:
    files = table_files("clusters", cluster_table(CLUSTERS), "Clusters", CLUSTER_NOTES)
    assert set(files) == {"clusters.html", "clusters.md", "clusters.csv"}
    # p below 0.05 is in bold, and only that.
    assert files["clusters.md"].count(b"**0.0421**") == 1
    assert b"**0.2**" not in files["clusters.md"]


def test_without_permutations_or_clusters_there_is_no_p() -> None:
    table = cluster_table(CLUSTERS.drop("p_fwe_area"))
    assert set(table[table.columns[-1]]) == {"-"}
    assert cluster_table(CLUSTERS.head(0)).rows() == []
    assert cluster_table(CLUSTERS.head(0)).columns == table.columns
