"""What every form of a simulated release must be read as: the canonical clinical tables.

The phantom's own statement of the canonical schema (docs/clinical_tables.md), made from what was
drawn and not by reading anything back, so that it can judge the readers.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.labels import Tissue
from phantom import cohort_targets as targets
from phantom.cohort import SIDES, VISITS, Answers, Cohort, FloatArray, stream
from phantom.cohort_imaging import NOT_ACQUIRED, SEQUENCES, CohortImaging, image_cohort

Reasons = Literal["kept", "collapsed"]

REASON_OF_LETTER: Mapping[str, str] = {
    ".": "missing_form",
    "A": "not_expected",
    "D": "dont_know",
    "P": "prosthetic",
    "R": "refused",
    "T": "technical_problem",
}
NOT_DELIVERED, NOT_EXPECTED, COLLAPSED = "not_delivered", "not_expected", "collapsed"
YES_NO: Mapping[str, str] = {
    "knee_any_pain_12m": "KPN{}12",
    "knee_frequent_pain_12m": "KP{}12CV",
    "knee_any_pain_30d": "{}KP30CV",
    "knee_frequent_pain_30d": "KP{}30CV",
    "hip_any_pain_12m": "HPN{}12",
    "hip_frequent_pain_12m": "HP{}12CV",
}
JOINTS: Mapping[str, str] = {
    "shoulder": "S", "elbow": "E", "wrist": "W", "hand": "H", "ankle": "A", "foot": "F",
}  # fmt: skip
QC_FAILURE_SHARE = 261 / 47_078
"""Share of segmentations planted far outside three standard deviations."""

_TISSUE_VOLUMES_MM3: Mapping[Tissue, tuple[float, float]] = {
    Tissue.FEMUR: (143_000.0, 22_000.0),
    Tissue.TIBIA: (102_000.0, 16_000.0),
    Tissue.PATELLA: (13_000.0, 2_200.0),
    Tissue.FEMORAL_CARTILAGE: (11_900.0, 2_400.0),
    Tissue.TIBIAL_CARTILAGE: (3_800.0, 800.0),
    Tissue.PATELLAR_CARTILAGE: (2_000.0, 500.0),
}
"""Mean and SD over knees."""


class _Rows:
    """Columns of attended visits, person by person, as values with their reasons."""

    def __init__(self, cohort: Cohort, reasons: Reasons) -> None:
        self.at = np.nonzero(cohort.attended)
        self._cohort, self._reasons = cohort, reasons
        self.columns: dict[str, pl.Series] = {}

    def reason_of(self, answers: Answers) -> NDArray[np.str_]:
        """Reason per row; '' where there is a value."""
        return _reasons(answers.letter[self.at], self._reasons, self._asked(answers))

    def _asked(self, answers: Answers) -> NDArray[np.bool_]:
        asked = np.array([visit in answers.visits for visit in VISITS])
        return asked[self.at[1]]

    def values_of(self, answers: Answers) -> FloatArray:
        """Value per row."""
        return answers.value[self.at]

    def add(
        self, name: str, value: NDArray, reason: NDArray[np.str_], kind: type[pl.DataType]
    ) -> None:
        """A column and its reasons; a value counts where the reason is ''."""
        self.columns |= _with_reason(name, value, reason, kind)


def _reasons(
    letters: NDArray[np.str_], kept: Reasons, asked: NDArray[np.bool_] | None = None
) -> NDArray[np.str_]:
    result = np.full(letters.shape, "", dtype="U24")
    for letter in np.unique(letters):
        if letter:
            reason = REASON_OF_LETTER[str(letter)] if kept == "kept" else COLLAPSED
            result[letters == letter] = reason
    if asked is not None:
        result[~asked] = NOT_DELIVERED
    return result


def _with_reason(
    name: str, value: NDArray, reason: NDArray[np.str_], kind: type[pl.DataType]
) -> dict[str, pl.Series]:
    has = pl.Series(reason == "")
    frame = pl.DataFrame({"value": value, "reason": reason}).select(
        pl.when(has).then(pl.col("value")).cast(kind).alias(name),
        pl.when(~has).then(pl.col("reason")).alias(f"{name}_missing"),
    )
    return {column: frame[column] for column in frame.columns}


def _clinical_visits(cohort: Cohort, reasons: Reasons) -> pl.DataFrame:
    rows = _Rows(cohort, reasons)
    answers = cohort.answers
    nothing = np.full(len(rows.at[0]), "", dtype="U24")

    def plain(name: str, stem: str, kind: type[pl.DataType]) -> None:
        item = answers[stem]
        value = rows.values_of(item)
        rows.add(
            name, value if kind is not pl.Boolean else value == 1.0, rows.reason_of(item), kind
        )

    def skipped(name: str, stem: str, gate: str) -> None:
        item = answers[stem]
        reason = rows.reason_of(item)
        pointless = (reason != "") & (rows.values_of(answers[gate]) == 0.0)
        rows.add(name, rows.values_of(item), np.where(pointless, NOT_EXPECTED, reason), pl.Int64)

    rows.add("visit_day", rows.values_of(answers["VISDYS"]), nothing, pl.Int64)
    plain("age_years", "AGE", pl.Int64)
    plain("bmi", "BMI", pl.Float64)
    plain("back_any_pain_30d", "BP30", pl.Boolean)
    skipped("back_pain_frequency_30d", "BP30OFT", "BP30")

    none = answers["OJPNNO"]
    is_none = rows.values_of(none) == 0.0
    boxes = {stem: rows.values_of(answers[stem]) == 1.0 for stem in targets.OTHER_JOINTS}
    somewhere = np.any(list(boxes.values()), axis=0)
    open_reason = np.where(is_none | somewhere, "", rows.reason_of(none))
    rows.add("neck_frequent_pain_30d", boxes["OJPNNK"], open_reason, pl.Boolean)
    rows.add("no_other_joint_pain_30d", is_none, open_reason, pl.Boolean)
    for side in SIDES:
        end, letter = side.lower(), side[0]
        for name, stem in YES_NO.items():
            plain(f"{name}_{end}", stem.format(letter), pl.Boolean)
            if name == "knee_frequent_pain_12m":
                months = f"knee_frequent_pain_months_12m_{end}"
                skipped(months, f"KPN{letter}12M", f"KP{letter}12CV")
        for joint, code in JOINTS.items():
            box = boxes[f"OJPN{letter}{code}"]
            rows.add(f"{joint}_frequent_pain_30d_{end}", box, open_reason, pl.Boolean)
        plain(f"womac_pain_{end}", f"WOMKP{letter}", pl.Float64)
    return pl.DataFrame(
        {
            "subject_id": cohort.ids[rows.at[0]],
            "timepoint": np.array(VISITS)[rows.at[1]],
            **rows.columns,
        }
    )


def _enrollees(cohort: Cohort, reasons: Reasons) -> pl.DataFrame:
    people, n = cohort.enrollees, cohort.n
    nothing = np.full(n, "", dtype="U24")
    races = np.array(["other", "white", "black", "asian"])
    cohorts = np.array(["", "progression", "incidence", "control"])
    return pl.DataFrame(
        {
            "subject_id": cohort.ids,
            **_with_reason("sex", np.where(people.sex == 1, "M", "F"), nothing, pl.String),
            **_with_reason(
                "race", races[people.race], _reasons(people.race_letter, reasons), pl.String
            ),
            **_with_reason(
                "hispanic",
                people.hispanic == 1,
                _reasons(people.hispanic_letter, reasons),
                pl.Boolean,
            ),
            **_with_reason("cohort", cohorts[people.cohort], nothing, pl.String),
            **_with_reason("site", people.site, nothing, pl.String),
            **_with_reason("half", people.half, nothing, pl.Int64),
        }
    )


def _knee(cohort: Cohort, person: NDArray, side: NDArray, visit: NDArray) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject_id": cohort.ids[person],
            "side": np.array(SIDES)[side],
            "timepoint": np.array(VISITS)[visit],
        }
    ).select(pl.format("{}_{}_{}", "subject_id", "side", "timepoint").alias("knee_visit"), pl.all())


def _radiographs(cohort: Cohort, imaging: CohortImaging, reasons: Reasons) -> pl.DataFrame:
    rows = imaging.readings
    missing = _reasons(rows.letter, reasons)
    measured = np.where(np.isfinite(rows.jsw_mm), "", NOT_DELIVERED)
    return _knee(cohort, rows.person, rows.side, rows.visit).with_columns(
        pl.Series("reading_project", rows.project),
        *_with_reason("kl_grade", rows.kl, missing, pl.Int64).values(),
        *_with_reason("jsn_medial", rows.jsn_medial, missing, pl.Float64).values(),
        *_with_reason("jsn_lateral", rows.jsn_lateral, missing, pl.Float64).values(),
        *_with_reason("jsw_medial_min_mm", rows.jsw_mm, measured, pl.Float64).values(),
        *_with_reason(
            "barcode", rows.barcode, np.full(len(missing), "", dtype="U24"), pl.String
        ).values(),
    )


def _scans_listed(cohort: Cohort, imaging: CohortImaging) -> pl.DataFrame:
    rows = imaging.scans
    nothing = np.full(len(rows.person), "", dtype="U24")
    made = np.where(rows.acquired, "", NOT_EXPECTED)
    reason_texts = np.full(len(nothing), "", dtype="U48")
    for code, text in NOT_ACQUIRED.items():
        reason_texts[rows.reason == code] = text
    n_series = rows.acquired.astype(int) + (rows.earlier_barcode != "")
    return _knee(cohort, rows.person, rows.side, rows.visit).with_columns(
        pl.Series("sequence", np.array(SEQUENCES)[rows.sequence]),
        *_with_reason("acquired", rows.acquired, nothing, pl.Boolean).values(),
        *_with_reason("barcode", rows.barcode, made, pl.String).values(),
        *_with_reason("quality", rows.quality, made, pl.String).values(),
        *_with_reason(
            "not_acquired_reason",
            reason_texts,
            np.where(rows.acquired, NOT_EXPECTED, ""),
            pl.String,
        ).values(),
        *_with_reason("n_series", n_series, nothing, pl.Int64).values(),
    )


def _outcomes(cohort: Cohort, imaging: CohortImaging, reasons: Reasons) -> pl.DataFrame:
    rows = imaging.replacements
    person, side = (index.ravel() for index in np.indices(rows.day.shape))

    def column(
        name: str, value: NDArray, known: NDArray, kind: type[pl.DataType]
    ) -> list[pl.Series]:
        letters = np.where(np.isfinite(known).ravel(), "", "A")
        return list(_with_reason(name, value.ravel(), _reasons(letters, reasons), kind).values())

    visits = np.array(VISITS)[np.nan_to_num(rows.reported_at).astype(int)]
    return pl.DataFrame(
        {"subject_id": cohort.ids[person], "side": np.array(SIDES)[side]}
    ).with_columns(
        *column("knee_replacement_day", rows.day, rows.day, pl.Int64),
        *column("knee_replaced_at_baseline", rows.at_baseline == 1.0, rows.at_baseline, pl.Boolean),
        *column("knee_replacement_status", rows.status, rows.status, pl.Int64),
        *column("knee_replacement_reported_at", visits, rows.reported_at, pl.String),
    )


def cohort_tables(
    cohort: Cohort, imaging: CohortImaging | None = None, *, reasons: Reasons = "kept"
) -> dict[str, pl.DataFrame]:
    """The canonical clinical tables of a cohort, without `retracted` and `batch_id`.

    Values are the same for every form of a release. Reasons are those of a form that keeps them
    (SAS), or one for all (ASCII, NDA). Where a knee's joint space width was not measured the reason
    is `not_delivered`; forms that only list scans that were made lack the others' rows.

    Args:
        cohort: from `simulate_cohort`.
        imaging: from `image_cohort`; drawn here where it is not given.
        reasons: "kept" or "collapsed".

    Returns:
        By table: enrollees, clinical_visits, radiographs, scans_listed, outcomes.
    """
    imaging = imaging or image_cohort(cohort)
    return {
        "enrollees": _enrollees(cohort, reasons),
        "clinical_visits": _clinical_visits(cohort, reasons),
        "radiographs": _radiographs(cohort, imaging, reasons),
        "scans_listed": _scans_listed(cohort, imaging),
        "outcomes": _outcomes(cohort, imaging, reasons),
    }


def cohort_tissue_volumes(cohort: Cohort, imaging: CohortImaging) -> pl.DataFrame:
    """Tissue volumes as if every acquired DESS scan had been segmented; a few are planted to fail.

    For cohort queries at full scale, where nobody renders 50,000 knees. Volumes of a knee stay
    within 2.5 SD of the mean, except where planted: there one tissue lies 5 to 8 SD away.

    Returns:
        Columns knee_visit, subject_id, side, timepoint, tissue, volume_mm3, is_planted_failure.
    """
    rows = imaging.scans
    dess = (rows.sequence == 0) & rows.acquired
    knees = _knee(cohort, rows.person[dess], rows.side[dess], rows.visit[dess])
    n_visit = len(VISITS)
    # One draw per possible knee-visit keeps a person's volumes whatever the size of the cohort.
    shape = (cohort.n, 2, n_visit)
    luck = stream(cohort.seed, "segmentation").random((*shape, 3))
    size = stream(cohort.seed, "knee size").standard_normal(cohort.n)
    noise = stream(cohort.seed, "volumes").standard_normal((*shape, len(_TISSUE_VOLUMES_MM3)))
    at = (rows.person[dess], rows.side[dess], rows.visit[dess])
    fails = luck[at][:, 0] < QC_FAILURE_SHARE
    victim = np.floor(luck[at][:, 1] * len(_TISSUE_VOLUMES_MM3)).astype(int)
    frames = []
    for index, (tissue, (mean, sd)) in enumerate(_TISSUE_VOLUMES_MM3.items()):
        score = 0.8 * size[at[0]] + 0.6 * noise[at][:, index]
        score = np.clip(score, -2.5, 2.5)
        planted = fails & (victim == index)
        score = np.where(planted, 5.0 + 3.0 * luck[at][:, 2], score)
        frames.append(
            knees.with_columns(
                pl.lit(str(tissue)).alias("tissue"),
                pl.Series("volume_mm3", np.round(mean + sd * score, 1)),
                pl.Series("is_planted_failure", planted),
            )
        )
    return pl.concat(frames)
