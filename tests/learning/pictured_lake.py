"""A lake with small images of every knee-visit of a simulated cohort: two bones, and no maps.

Cases of chronic pain have a dark spot in every plane, so that there is something to learn.
"""

from pathlib import Path

import numpy as np
import polars as pl

from lake.arrays import ArrayPart, Variable
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables

SIZE = 32
PEOPLE = 60
BONES = ("femur", "tibia")
RANGES_ID = "r1"


def pictured_lake(root: Path) -> Lake:
    lake = Lake(root)
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(PEOPLE, seed=1)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    add_images(lake)
    return lake


def add_images(lake: Lake, timepoint: str | None = None, seed: int = 2, t2: bool = True) -> None:
    """Images of every knee-visit of the two models; of one visit only, where it is given."""
    rng = np.random.default_rng(seed)
    knees = lake.sql(
        "SELECT knee_visit, subject_id, side, timepoint, "
        "bool_or(is_case) FILTER (WHERE model = 'chronic_pain') AS has_pain FROM model_cases "
        "WHERE $timepoint::VARCHAR IS NULL OR timepoint = $timepoint GROUP BY ALL ORDER BY ALL",
        {"timepoint": timepoint},
    )
    for (visit,), of_visit in knees.group_by("timepoint", maintain_order=True):
        rows = of_visit.to_dicts()
        with lake.batch("images", str(visit), "1", "c") as batch:
            for bone in BONES:
                planes = _planes(rng, [bool(row["has_pain"]) for row in rows])
                if not t2:
                    planes[:, 2:] = 0
                names = tuple(row["knee_visit"] for row in rows)
                variable = Variable(planes, ("knee", "plane", "phi", "theta"))
                part = batch.add_array_part(
                    "image_index", ArrayPart(bone, names, {"planes": variable})
                )
                keys = ("knee_visit", "subject_id", "side", "timepoint")
                batch.add(
                    "image_index",
                    [
                        {
                            **{key: row[key] for key in keys},
                            "bone": bone,
                            "part": part,
                            "row": place,
                            "ranges_id": RANGES_ID,
                            "has_t2": t2,
                            "below_share": 0.0,
                            "above_share": 0.0,
                        }
                        for place, row in enumerate(rows)
                    ],
                )
            batch.add(
                "ledger",
                [
                    {
                        "knee_visit": row["knee_visit"],
                        "step": "images",
                        "input_fingerprint": f"{row['knee_visit']}-{seed}-{t2}",
                        "status": "done",
                        "seconds": 0.0,
                    }
                    for row in rows
                ],
            )


def _planes(rng: np.random.Generator, has_pain: list[bool]) -> np.ndarray:
    planes = rng.integers(100, 200, size=(len(has_pain), 5, SIZE, SIZE), dtype=np.uint8)
    planes[np.array(has_pain), :, 8:20, 12:24] //= 3
    return planes
