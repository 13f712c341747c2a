"""What a row of the lake is of: a knee-visit, or a classifier on one; and the words for both.

Here: the vocabulary of visits, sides, tasks, strategies and biomarkers, and the columns that name a
row. Not here: any table.
"""

from collections.abc import Mapping

import pyarrow as pa

from imaging.labels import BONES
from lake.registry import Check, Column, text

TIMEPOINTS = tuple(f"V{visit:02d}" for visit in range(12))
UNKNOWN_TIMEPOINT = "unknown"
SIDES = ("RIGHT", "LEFT")
TASKS = ("oa", "chronic_pain")
"""What is classified; the models of `model_cases`."""
STRATEGIES = ("thickness", "bone_shape", "t2", "bone_thickness", "thickness_t2", "all_biomarkers")
"""The six merges of a bone's maps, as `models.strategies` defines them."""
CAM_TARGETS = ("pain", "no_pain", "predicted", "contrastive")
"""Targets of a Grad-CAM, as `models.gradcam` defines them; of osteoarthritis for its task."""
BIOMARKER_UNITS: Mapping[str, str] = {
    "bone_shape": "mm",
    "cartilage_thickness": "mm",
    "t2_superficial": "ms",
    "t2_deep": "ms",
    "t2_mean": "ms",
}
"""The five biomarkers, each also a spherical map, and their units."""
BIOMARKER_RANGES: Mapping[str, tuple[float, float]] = {
    "bone_shape": (0.0, 150.0),
    "cartilage_thickness": (0.0, 15.0),
    "t2_superficial": (0.0, 300.0),
    "t2_deep": (0.0, 300.0),
    "t2_mean": (0.0, 300.0),
}
"""Guard rails of a biomarker's mean, in its unit: outside them lies an error, not a patient."""


def knee_visit_name(subject_id: int, side: str, timepoint: str) -> str:
    """The key of one knee at one visit, `<subject_id>_<side>_<timepoint>`."""
    return f"{subject_id}_{side}_{timepoint}"


KNEE_VISIT_RULE = Check(
    "knee_visit_spelling",
    "knee_visit",
    "knee_visit IS NULL OR knee_visit = concat_ws('_', subject_id, side, timepoint)",
    "expected <subject_id>_<side>_<timepoint> of the same row",
)

BONE = text("bone", "The bone.", BONES)


def knee_key(
    nullable: bool = False, timepoints: tuple[str, ...] = TIMEPOINTS
) -> tuple[Column, ...]:
    """The columns that name a knee at a visit."""
    return (
        text("knee_visit", "<subject_id>_<side>_<timepoint>.", nullable=nullable),
        Column(
            "subject_id",
            pa.int64(),
            "The participant's study number.",
            nullable=nullable,
            minimum=1,
        ),
        text("side", "The knee's side.", SIDES, nullable=nullable),
        text("timepoint", "The visit.", timepoints),
    )


def prediction_key() -> tuple[Column, ...]:
    """What a classifier's result on a knee-visit is of, and what it was computed from."""
    return (
        *knee_key(),
        text("task", "What is predicted.", TASKS),
        BONE,
        text("strategy", "How the bone's maps are merged into three channels.", STRATEGIES),
        text("checkpoint_hash", "The network, as `classifiers` lists it."),
        text(
            "input_fingerprint",
            "SHA-256 of checkpoint, image, precision and code version.",
        ),
    )


PREDICTION_KEY = ("task", "bone", "strategy", "knee_visit")
"""What tells a classifier's results on one knee-visit apart."""
