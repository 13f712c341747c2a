"""The registry's tables between Grad-CAM and the regressions: the atlas, and averages by Grad-CAM.

Here: the reference knee's bones, where their points lie on every other knee, maps read there, and
the sums that DL-guided averages are made of. Not here: any test of them (`statistics_tables`).

`sql/association/dl_guided_biomarkers.sql` says how the sums become averages.
"""

import pyarrow as pa

from imaging.labels import COMPARTMENTS
from lake.keys import (
    BIOMARKER_UNITS,
    BONE,
    KNEE_VISIT_RULE,
    PREDICTION_KEY,
    knee_key,
    prediction_key,
)
from lake.registry import BATCH_ID, Column, Table, count, number, text, whole

SINGLE_BIOMARKERS = ("bone_shape", "cartilage_thickness", "t2_mean")
"""The paper's three single biomarkers, as maps; `t2_mean` stands for T2."""
WEIGHTED_BIOMARKERS = ("cartilage_thickness", "t2_superficial", "t2_deep", "t2_mean")
"""What is averaged with Grad-CAM as weights; the paper finds no sense in averaging bone shape."""
CAM_CLASSES = ("pain", "no_pain")
"""Classes whose evidence is carried to the atlas; `predicted` is one of them knee by knee."""
CELL_TARGETS = ("pain", "no_pain", "contrastive")
"""Targets whose cells are kept; `predicted` is one of the first two knee by knee."""
CONTROLS = ("permuted_labels", "cross_fitted")
"""Networks trained for a control: on labels permuted between participants; on other participants
than those explained."""

_ATLAS_ID = text("atlas_id", "The atlas: SHA-256 of the reference knee's surfaces.")
_LIST = pa.list_(pa.float64())
_FLOATS = pa.list_(pa.float32())


def _cells(name: str, description: str, minimum: float | None = None) -> Column:
    return Column(name, _LIST, description, minimum=minimum)


_GRID = (
    count("n_phi", "Rows of the grid of cells.", 1),
    count("n_theta", "Columns of the grid of cells.", 1),
)

ATLAS_TABLES = (
    Table(
        "atlas_bones",
        "The reference knee, whose surfaces are the atlas: one row per bone.",
        (
            BONE,
            _ATLAS_ID,
            text("reference_knee_visit", "The knee-visit whose surface it is."),
            number("reference_age_years", "Its participant's age.", "years"),
            number("reference_bmi", "Body-mass index.", "kg/m2"),
            text("reference_sex", "Sex.", ("M", "F")),
            count("n_vertices", "Points of the surface.", 4),
            count("n_triangles", "Its triangles.", 4),
            number("area_mm2", "Its area.", "mm2"),
            number("centroid_x_mm", "Where the map's centre lies.", "mm", None),
            number("centroid_y_mm", "Where the map's centre lies.", "mm", None),
            number("centroid_z_mm", "Where the map's centre lies.", "mm", None),
            BATCH_ID,
        ),
        partitioned=False,
        step="atlas",
        key=("bone",),
        grain=("bone",),
    ),
    Table(
        "atlas_vertices",
        "Points of the atlas: one row per bone and vertex, in the right-knee frame.",
        (
            BONE,
            _ATLAS_ID,
            whole("vertex", "Its number, from 0.", "", 0, nullable=False),
            *(number(f"{axis}_mm", f"Its place along {axis}.", "mm", None) for axis in "xyz"),
            number("area_mm2", "A third of the triangles around it.", "mm2"),
            text("compartment", "Which side of the bone it is on.", ("medial", "lateral")),
            Column("is_cartilage", pa.bool_(), "Whether the reference has cartilage there."),
            BATCH_ID,
        ),
        partitioned=False,
        step="atlas",
        key=("bone",),
        grain=("bone", "vertex"),
    ),
    Table(
        "atlas_triangles",
        "Triangles of the atlas: one row per bone and triangle, counter-clockwise from outside.",
        (
            BONE,
            _ATLAS_ID,
            whole("triangle", "Its number, from 0.", "", 0, nullable=False),
            *(whole(f"vertex_{corner}", "A corner.", "", 0, nullable=False) for corner in "abc"),
            BATCH_ID,
        ),
        partitioned=False,
        step="atlas",
        key=("bone",),
        grain=("bone", "triangle"),
    ),
    Table(
        "correspondences",
        "Where the atlas's points lie on each knee: one row per knee-visit and bone. "
        "Variables phi and theta of the part are their angles on the knee's own map.",
        (
            *knee_key(),
            BONE,
            _ATLAS_ID,
            text("part", "The Zarr part, relative to the lake's root."),
            Column("row", pa.int64(), "The knee's index in the part.", minimum=0),
            number(
                "distance_mm",
                "Symmetric mean distance between the bent atlas and the knee, before the atlas's "
                "points are set onto it.",
                "mm",
            ),
            number("distance_p95_mm", "Its 95th percentile.", "mm"),
            number("unmatched_share", "Of the atlas's samples, those without a match.", "1", 0, 1),
            number("flipped_share", "Of its triangles, those turned over.", "1", 0, 1),
            number("log_area_sd", "Spread of the logarithm of the triangles' change of area."),
            number("energy", "Mean square of the bending's weights; 1 is what is expected."),
            number("scale", "Size of the knee over the atlas's."),
            number("rotation_deg", "By how much the atlas was turned.", "degrees"),
            number("lost_share", "Of the atlas's points, those the knee's map lacks.", "1", 0, 1),
            BATCH_ID,
        ),
        step="correspondence",
        key=("knee_visit",),
        grain=("knee_visit", "bone"),
        rules=(KNEE_VISIT_RULE,),
        parts="correspondences",
    ),
    Table(
        "atlas_maps",
        "Maps of each knee at the atlas's points: one row per knee-visit, bone, biomarker and "
        "quantity; `values` in the order of `atlas_vertices`, NULL where the knee has none.",
        (
            *knee_key(),
            BONE,
            text("biomarker", "The biomarker.", tuple(BIOMARKER_UNITS)),
            text(
                "quantity",
                "'value': the biomarker; 'cam_pain', 'cam_no_pain': rectified Grad-CAM of the "
                "biomarker's single model for that class.",
                ("value", *(f"cam_{name}" for name in CAM_CLASSES)),
            ),
            _ATLAS_ID,
            Column("values", _FLOATS, "In the biomarker's unit; rectified evidence of Grad-CAM."),
            text("input_fingerprint", "SHA-256 of correspondence, map, network and code version."),
            BATCH_ID,
        ),
        step="atlas_maps",
        key=("knee_visit", "bone", "biomarker", "quantity"),
        grain=("knee_visit", "bone", "biomarker", "quantity"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "cam_cells",
        "Rectified Grad-CAM on the network's own grid, for SQL: one row per model, knee-visit and "
        "target of the chronic-pain models.",
        (
            *prediction_key(),
            text("target", "The class whose evidence it is.", CELL_TARGETS),
            *_GRID,
            _cells("cells", "Row by row (phi, then theta), negative evidence set to 0.", 0.0),
            number("lowest", "Least value of the map enlarged to the image."),
            number("highest", "Its largest value."),
            BATCH_ID,
        ),
        step="guided",
        key=PREDICTION_KEY,
        grain=(*PREDICTION_KEY, "target"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "cell_sums",
        "What each cell of a Grad-CAM's grid sees of a biomarker map: one row per knee-visit, "
        "bone, biomarker and compartment. With weights w = cells of a Grad-CAM, the average of the "
        "biomarker weighted with the map enlarged to the image is sum(w value_sum) / "
        "sum(w weight_sum), exactly.",
        (
            *knee_key(),
            BONE,
            text("biomarker", "The biomarker.", WEIGHTED_BIOMARKERS),
            text("compartment", "The compartment.", COMPARTMENTS),
            *_GRID,
            _cells("value_sum", "Sum of share of the cell in a pixel times the pixel's value."),
            _cells("weight_sum", "Sum of share of the cell, over pixels with a value.", 0.0),
            _cells("value_sum_surface", "As value_sum, times the surface a pixel stands for."),
            _cells("weight_sum_surface", "As weight_sum, times that surface.", 0.0),
            text("input_fingerprint", "SHA-256 of maps, grid and code version."),
            BATCH_ID,
        ),
        step="guided",
        key=("knee_visit", "bone"),
        grain=("knee_visit", "bone", "biomarker", "compartment"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "control_biomarkers",
        "Averages weighted with the Grad-CAM of networks trained for a control: one row per "
        "control, knee-visit, bone and biomarker.",
        (
            text("control", "How the network was trained.", CONTROLS),
            *knee_key(),
            BONE,
            text("biomarker", "The biomarker.", WEIGHTED_BIOMARKERS),
            whole("fold", "The fold whose participants it had not seen; NULL for none.", "", 0),
            number(
                "dl_guided",
                "Weighted average; NULL where the map is all zero.",
                "",
                None,
                None,
                True,
            ),
            text("input_fingerprint", "SHA-256 of images, labels, folds, configuration and code."),
            BATCH_ID,
        ),
        partitioned=False,
        step="controls",
        key=("control", "bone", "biomarker"),
        grain=("control", "knee_visit", "bone", "biomarker"),
        rules=(KNEE_VISIT_RULE,),
    ),
)
"""Every one, in the order data flow."""
