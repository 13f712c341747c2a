"""A lake of drawn test knees, with predictions and Grad-CAM that are planted, not learned.

What comes after the networks is then held against what was put in, at any size and without
training: every model is right about every knee whose amplitude speaks for its label, and its
Grad-CAM lies where the planted change does.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from lake.arrays import ArrayPart, Variable
from lake.keys import STRATEGIES
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from phantom.map_cohort import DrawnKnee, knee_region
from pipeline.drawn_maps import DrawingPlan, land_drawn_maps

GRID = (7, 7)
STRENGTH, NOISE = 1.0, 0.05
"""Evidence in the middle of the region, and the SD of what else a cell holds."""
DISAGREES: tuple[Bone, str] = ("femur", "all_biomarkers")
"""The model that has it the other way round where the models do not agree; none of its maps is
averaged or compared."""
_KEYS = ("knee_visit", "subject_id", "side", "timepoint")


def planted_lake(
    root: Path,
    plan: DrawingPlan,
    *,
    n_people: int,
    n_knees: int | None = None,
    timepoint: str | None = None,
    agreed_share: float = 1.0,
) -> Lake:
    """People, drawn maps of the test split's first visits, and planted networks.

    Args:
        root: of the lake.
        plan: what is drawn, and its seed.
        n_people: in the clinical tables.
        n_knees: knees drawn at most; None for every first visit of the test split.
        timepoint: only first visits that are this one; None for all.
        agreed_share: of the knees, those about which all eighteen models say the same.
    """
    lake = Lake(root)
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(n_people, seed=plan.seed)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    names = lake.sql(
        "SELECT knee_visit FROM first_timepoints WHERE split = 'test' "
        "AND ($timepoint::VARCHAR IS NULL OR timepoint = $timepoint) ORDER BY knee_visit",
        {"timepoint": timepoint},
    )["knee_visit"].to_list()
    land_drawn_maps(lake, plan, only=names[:n_knees])
    add_images(lake)
    add_networks(lake, plan, agreed_share)
    return lake


def add_images(lake: Lake) -> None:
    """Rows that say every drawn knee has images; nobody looks at them."""
    for timepoint, rows in _by_visit(
        lake, "SELECT knee_visit, subject_id, side, timepoint, bone FROM maps_index"
    ):
        with lake.batch("images", timepoint, "1", "c") as batch:
            for bone in BONES:
                of_bone = [row for row in rows if row["bone"] == bone]
                part = batch.add_array_part(
                    "image_index",
                    ArrayPart(
                        bone,
                        tuple(row["knee_visit"] for row in of_bone),
                        {"planes": Variable(np.zeros((len(of_bone), 1), np.uint8),
                                            ("knee", "plane"))},
                    ),
                )  # fmt: skip
                batch.add(
                    "image_index",
                    [
                        {
                            **{name: row[name] for name in _KEYS},
                            "bone": bone,
                            "part": part,
                            "row": place,
                            "ranges_id": "r",
                            "has_t2": True,
                            "below_share": 0.0,
                            "above_share": 0.0,
                        }
                        for place, row in enumerate(of_bone)
                    ],
                )
            batch.add(
                "ledger",
                [
                    {
                        "knee_visit": name,
                        "step": "images",
                        "input_fingerprint": name,
                        "status": "done",
                        "seconds": 0.0,
                    }
                    for name in sorted({row["knee_visit"] for row in rows})
                ],
            )


def add_networks(lake: Lake, plan: DrawingPlan, agreed_share: float = 1.0) -> None:
    """Predictions and Grad-CAM of all eighteen models for every drawn knee."""
    [(split_rule,)] = lake.sql(
        "SELECT split_rule_of(split_seed, training_share, validation_share) FROM cohort_parameters"
    ).rows()
    with lake.batch("classifiers", "all", "1", "c") as batch:
        batch.add(
            "classifiers",
            [_classifier(bone, strategy, split_rule) for bone in BONES for strategy in STRATEGIES],
        )
    query = (
        "SELECT knee_visit, subject_id, side, timepoint, bone, amplitude, pain_label "
        "FROM drawn_knees"
    )
    for timepoint, rows in _by_visit(lake, query):
        with lake.batch("predictions", timepoint, "1", "float32") as batch:
            for bone in BONES:
                of_bone = [row for row in rows if row["bone"] == bone]
                same = np.stack([_cam(plan, row, bone) for row in of_bone]).astype(np.float16)
                maps = dict.fromkeys(STRATEGIES, same)
                if bone == DISAGREES[0]:
                    agrees = np.array([_agree(plan, row, agreed_share) for row in of_bone])
                    maps[DISAGREES[1]] = np.where(agrees[:, None, None, None], same, same[:, ::-1])
                dims = ("knee", "target_class", "phi", "theta")
                variables = {name: Variable(of, dims) for name, of in maps.items()}
                names = tuple(row["knee_visit"] for row in of_bone)
                part = batch.add_array_part("cam_index", ArrayPart(bone, names, variables))
                for strategy in STRATEGIES:
                    keys = [_prediction_key(row, bone, strategy) for row in of_bone]
                    each = zip(keys, maps[strategy], strict=True)
                    batch.add("predictions", [{**key, **_logits(one)} for key, one in each])
                    batch.add(
                        "cam_index",
                        [{**key, "part": part, "row": place} for place, key in enumerate(keys)],
                    )


def _by_visit(lake: Lake, query: str) -> list[tuple[str, list[dict[str, Any]]]]:
    rows = lake.sql(f"{query} ORDER BY timepoint, knee_visit, bone").to_dicts()
    visits = sorted({row["timepoint"] for row in rows})
    return [(visit, [row for row in rows if row["timepoint"] == visit]) for visit in visits]


def _cells(profile: NDArray[np.floating]) -> NDArray[np.float64]:
    """A map on the grid, scaled to 1 at its highest cell."""
    rows, columns = (size // cells for size, cells in zip(profile.shape, GRID, strict=True))
    coarse = profile.reshape(GRID[0], rows, GRID[1], columns).mean(axis=(1, 3))
    return np.asarray(coarse / coarse.max(), dtype=np.float64)


def _cam(plan: DrawingPlan, row: dict[str, Any], bone: Bone) -> NDArray[np.float64]:
    """Evidence against and for pain, shape (2, 7, 7): in the region by amplitude, and noise."""
    knee = DrawnKnee(row["subject_id"], row["side"], row["timepoint"], row["amplitude"])
    region = _cells(knee_region(plan.seed, knee, bone, plan.effect).profile.astype(np.float64))
    noise = np.random.default_rng([plan.seed, row["subject_id"], BONES.index(bone)])
    against, in_favour = NOISE * noise.standard_normal((2, *GRID))
    evidence = STRENGTH * row["amplitude"] * region
    return np.stack([against - evidence, in_favour + evidence])


def _agree(plan: DrawingPlan, row: dict[str, Any], share: float) -> bool:
    """Whether all models say the same of a knee."""
    return bool(np.random.default_rng([plan.seed, row["subject_id"], 99]).random() < share)


def _logits(cam: NDArray[np.floating]) -> dict[str, Any]:
    no, yes = cam.astype(np.float64).sum(axis=(1, 2))
    return {
        "logit_no": float(no),
        "logit_yes": float(yes),
        "probability": float(1 / (1 + np.exp(no - yes))),
        "predicted": bool(yes > no),
    }


def _prediction_key(row: dict[str, Any], bone: Bone, strategy: str) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _KEYS},
        "task": "chronic_pain",
        "bone": bone,
        "strategy": strategy,
        "checkpoint_hash": f"{bone}-{strategy}",
        "input_fingerprint": f"{bone}-{strategy}-{row['knee_visit']}",
    }


def _classifier(bone: Bone, strategy: str, split_rule: str) -> dict[str, Any]:
    return {
        "task": "chronic_pain",
        "bone": bone,
        "strategy": strategy,
        "checkpoint_hash": f"{bone}-{strategy}",
        "path": "",
        "architecture": "resnet18",
        "width": 1.0,
        "initialization": "random",
        "initialized_from": "",
        "config": "{}",
        "config_hash": "c",
        "data_hash": "d",
        "input_fingerprint": "f",
        "ranges_id": "r",
        "split_rule": split_rule,
        "seed": 0,
        "n_training": 1,
        "n_validation": 1,
        "n_left_out": 0,
        "n_epochs": 1,
        "best_epoch": 1,
        "stopped_early": False,
        "batch_size": 1,
        "auc_variation_percent": 0.0,
        **{f"val_{name}": 0.5 for name in ("loss", "sensitivity", "specificity", "auc", "mcc")},
        "notes": "[]",
        "code_version": "1",
        "seconds": 0.0,
    }
