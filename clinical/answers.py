"""What an empty cell of the interview means, from the answers around it.

The boxes for other joints are ticked or left empty, and empty is coded as a missing value: "not
ticked", "refused" and "did not come" look alike. So a box is "no" only where the question was
answered: one box is ticked, or "none of these" is.
"""

import polars as pl

from clinical.cells import COLLAPSED, NOT_EXPECTED
from clinical.variables import NECK, NO_OTHER_JOINT, OTHER_JOINTS

BOXES = (
    NECK,
    *(f"{joint}_frequent_pain_30d_{side}" for side in ("right", "left") for joint in OTHER_JOINTS),
)
_SKIPPED = (
    *(
        (f"knee_frequent_pain_months_12m_{side}", gate)
        for side in ("right", "left")
        for gate in (f"knee_frequent_pain_12m_{side}", f"knee_any_pain_12m_{side}")
    ),
    ("back_pain_frequency_30d", "back_any_pain_30d"),
)


def with_other_joints(rows: pl.DataFrame) -> pl.DataFrame:
    """Boxes left empty as false where the question was answered, else missing with the reason."""
    boxes = [box for box in BOXES if box in rows.columns]
    if not boxes or NO_OTHER_JOINT not in rows.columns:
        return rows
    # The item itself is coded 0 for "none of these"; its column is true then.
    none = pl.col(NO_OTHER_JOINT).eq(other=False).fill_null(value=False)
    ticked = pl.any_horizontal([pl.col(box).fill_null(value=False) for box in boxes])
    answered = none | ticked
    why = pl.coalesce(f"{NO_OTHER_JOINT}_missing", pl.lit(COLLAPSED))
    columns = [
        pl.when(answered)
        .then(pl.col(box).fill_null(value=False))
        .otherwise(pl.lit(None, pl.Boolean))
        .alias(box)
        for box in boxes
    ]
    reasons = [pl.when(~answered).then(why).alias(f"{box}_missing") for box in boxes]
    summary = [
        pl.when(ticked)
        .then(pl.lit(value=False))
        .when(none)
        .then(pl.lit(value=True))
        .otherwise(pl.lit(None, pl.Boolean))
        .alias(NO_OTHER_JOINT),
        pl.when(~answered).then(why).alias(f"{NO_OTHER_JOINT}_missing"),
    ]
    return rows.with_columns(*columns, *reasons, *summary)


def with_skipped_questions(rows: pl.DataFrame) -> pl.DataFrame:
    """Questions that an earlier "no" made pointless, as not expected."""
    for column, gate in _SKIPPED:
        if {column, gate} <= set(rows.columns):
            skipped = pl.col(column).is_null() & pl.col(gate).eq(other=False).fill_null(value=False)
            rows = rows.with_columns(
                pl.when(skipped)
                .then(pl.lit(NOT_EXPECTED))
                .otherwise(f"{column}_missing")
                .alias(f"{column}_missing")
            )
    return rows
