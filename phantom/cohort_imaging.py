"""What was read from a simulated cohort's radiographs, which knees were replaced, what was scanned.

Kellgren and Lawrence grades, joint space narrowing and joint space width follow the severity of the
medial lesion that `phantom.knee` renders, so that grade, thinning and pain agree between tables and
images. Barcodes and dates of scans are those of `phantom.dicom_writer`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri
from scipy.stats import beta

from phantom import cohort_targets as targets
from phantom.cohort import (
    N_VISITS,
    VISITS,
    YEARS,
    BoolArray,
    Cohort,
    FloatArray,
    People,
    TextArray,
    bisect_offset,
    has_readings,
    reference_people,
    stream,
    visit_index,
)
from phantom.dicom_writer import Visit

SEQUENCES = ("DESS", "MSME")

SHARE_OF_42 = 0.03
"""People of reading project 37 whose rows say 42, as some of the OAI's do."""

_SEVERITY, _BOTH_KNEES = 0.75, 0.35
_OWN = float(np.sqrt(1.0 - _SEVERITY**2 - _BOTH_KNEES**2))
_READER_37, _REPLACEMENT_SLOPE = 0.25, 1.5

NOT_ACQUIRED: Mapping[int, str] = {
    4: "Other",
    6: "Refused",
    8: "Knee with short protocol",
    10: "Knee not expected per protocol",
    11: "Knee not eligible",
    12: "Missed visit",
    13: "Participant opted for one knee only",
}
"""Codes of MNDREAS."""


@dataclass(frozen=True, eq=False)
class Readings:
    """Radiograph readings: one entry per knee, visit and reading project, arrays of shape (rows,).

    Attributes:
        person: index into the cohort.
        side: 0 right, 1 left.
        visit: index of the visit.
        project: 15 or 37.
        written_project: what the release says: 42 for some of 37.
        kl, jsn_medial, jsn_lateral: NaN where missing.
        letter: why they are missing; '' where they are not.
        jsw_mm: minimum medial joint space width; NaN where it was not measured.
        barcode: of the radiograph, 12 digits.
    """

    person: NDArray[np.int64]
    side: NDArray[np.int64]
    visit: NDArray[np.int64]
    project: NDArray[np.int64]
    written_project: NDArray[np.int64]
    kl: FloatArray
    jsn_medial: FloatArray
    jsn_lateral: FloatArray
    letter: TextArray
    jsw_mm: FloatArray
    barcode: TextArray


@dataclass(frozen=True, eq=False)
class Replacements:
    """Knee replacements, arrays of shape (n, 2).

    Attributes:
        at_baseline: 1, 0, or NaN where nobody was asked.
        day: days from enrolment to a replacement during follow-up; NaN where none.
        status: 3 confirmed, 1 self-reported, 2 pending; NaN where none.
        reported_at: index of the visit it was first reported at; NaN where none.
    """

    at_baseline: FloatArray
    day: FloatArray
    status: FloatArray
    reported_at: FloatArray


@dataclass(frozen=True, eq=False)
class Scans:
    """Knee scans planned: one entry per person, visit, side and sequence, arrays of shape (rows,).

    Attributes:
        person, side, visit: as in `Readings`.
        sequence: 0 DESS, 1 MSME.
        acquired: whether it was scanned.
        reason: code of `NOT_ACQUIRED`; 0 where it was scanned.
        barcode: of the latest scan, 12 digits; '' where there is none.
        earlier_barcode: of the scan it repeats; '' where it repeats none.
        quality: QCRESLT; '' where it was not scanned.
        date: yyyymmdd; '' where it was not scanned.
    """

    person: NDArray[np.int64]
    side: NDArray[np.int64]
    visit: NDArray[np.int64]
    sequence: NDArray[np.int64]
    acquired: BoolArray
    reason: NDArray[np.int64]
    barcode: TextArray
    earlier_barcode: TextArray
    quality: TextArray
    date: TextArray


@dataclass(frozen=True, eq=False)
class CohortImaging:
    """Everything read from or scanned of a cohort."""

    readings: Readings
    replacements: Replacements
    scans: Scans


def _disease_means(seed: int, people: People) -> tuple[FloatArray, FloatArray]:
    """(mean disease latent given the person (n, visits), the knees' own part (n, 2))."""
    draws = stream(seed, "disease").standard_normal((len(people.age), 3))
    drift = (people.progression_per_year[:, None] - 0.01) * YEARS
    mean = _SEVERITY * people.severity_score[:, None] + _BOTH_KNEES * draws[:, :1] + drift
    return mean, _OWN * draws[:, 1:]


@functools.cache
def _reference_disease() -> tuple[FloatArray, FloatArray]:
    """(mean, own) disease latents of the reference population, as `_disease_means`."""
    return _disease_means(0, reference_people())


def _replacement_chance(latent: FloatArray, share: float) -> FloatArray:
    """How likely a knee is replaced, given its disease at enrolment; `share` on average."""
    mean, own = _reference_disease()
    offset = bisect_offset((mean[:, :1] + own).ravel(), _REPLACEMENT_SLOPE, share)
    return expit(_REPLACEMENT_SLOPE * latent - offset)


def _day_parameters() -> tuple[float, float, float, float]:
    """(first day, width, a, b) of the beta distribution of the day of replacement."""
    first, last, mean, sd = targets.REPLACEMENT_DAY
    share, variance = (mean - first) / (last - first), (sd / (last - first)) ** 2
    total = share * (1.0 - share) / variance - 1.0
    return first, last - first, share * total, (1.0 - share) * total


@functools.cache
def _thresholds_15() -> Mapping[str, tuple[float, ...]]:
    """Disease latents at which project 15 gives grade 1, 2, 3 and 4, by visit.

    Replaced knees have no grade, and they are the worst: the thresholds are those of the others.
    """
    mean, _ = _reference_disease()
    own = _OWN * stream(0, "reference knees").standard_normal((len(mean), 4))
    at_start = mean[:, :1] + own
    before = _replacement_chance(at_start, targets.REPLACED_AT_BASELINE)
    later = _replacement_chance(at_start, targets.REPLACED_LATER)
    first, width, a, b = _day_parameters()
    result = {}
    for visit, shares in targets.KL_15.items():
        column = visit_index(visit)
        day, _ = targets.VISIT_DAY_MEAN_SD.get(visit, (0.0, 0.0))
        done = beta.cdf((day - first) / width, a, b)
        kept = ((1.0 - before) * (1.0 - done * later)).ravel()
        latent = (mean[:, column, None] + own).ravel()
        order = np.argsort(latent)
        rank = np.cumsum(kept[order]) / kept.sum()
        cuts = np.cumsum(shares)[:-1] / sum(shares)
        result[visit] = tuple(np.interp(cuts, rank, latent[order]).tolist())
    return result


def _grade(latent: FloatArray, cuts: tuple[float, ...]) -> FloatArray:
    return np.searchsorted(np.array(cuts), latent, side="right").astype(float)


def _members_37(worst_grade: FloatArray, rank: FloatArray, share_at_2: float) -> BoolArray:
    """Who project 37 follows: nearly all without disease in either knee, few with it in one."""
    return (rank < 0.97) & ((worst_grade <= 1) | ((worst_grade == 2) & (rank < 0.97 * share_at_2)))


@functools.cache
def _reference_37() -> tuple[float, Mapping[str, tuple[float, ...]], Mapping[str, FloatArray]]:
    """(share of people with a grade 2 in project 37, its thresholds, its members' latents)."""
    seed = 0
    mean, own = _reference_disease()
    worst = _grade((mean[:, :1] + own).max(axis=1), _thresholds_15()["V00"])
    rank = stream(seed, "members 37").random(len(worst))
    wanted = targets.MEMBERS_37 / targets.HAS_KL
    healthy = float((worst <= 1).mean())
    share_at_2 = float(np.clip((wanted / 0.97 - healthy) / float((worst == 2).mean()), 0.0, 1.0))
    members = _members_37(worst, rank, share_at_2)
    reader = stream(seed, "reader 37").standard_normal((len(worst), 2, N_VISITS))
    cuts, latents = {}, {}
    for visit, counts in targets.KL_37.items():
        column = visit_index(visit)
        seen = mean[:, column, None] + own + _READER_37 * reader[..., column]
        latents[visit] = np.sort(seen[members].ravel())
        shares = np.cumsum(counts)[:-1] / sum(counts)
        cuts[visit] = tuple(np.quantile(latents[visit], shares).tolist())
    return share_at_2, cuts, latents


def _jsn_shares(mean: float, sd: float) -> FloatArray:
    """Shares of grades 0 to 3 with the given moments; each grade above 1 is rarer by one factor."""
    ratio = (sd**2 + mean**2) / mean
    # (1 + 4 r + 9 r^2) / (1 + 2 r + 3 r^2) = E[x^2] / E[x], of which r is the positive root.
    a, b, c = 9.0 - 3.0 * ratio, 4.0 - 2.0 * ratio, 1.0 - ratio
    factor = (-b + np.sqrt(b * b - 4.0 * a * c)) / (2.0 * a)
    first = mean / (1.0 + 2.0 * factor + 3.0 * factor**2)
    shares = first * np.array([1.0, factor, factor**2])
    return np.append(1.0 - shares.sum(), shares)


def _narrowing(
    rank: FloatArray, moments: tuple[float, float], within: FloatArray, *, follow_up: bool
) -> FloatArray:
    """Joint space narrowing; at follow-up a few progress within a grade, written as a decimal."""
    grade = np.searchsorted(np.cumsum(_jsn_shares(*moments))[:-1], rank, side="right").astype(float)
    if follow_up:
        part = np.round(0.1 * np.ceil(3.0 * within / 0.05), 1)
        grade = grade + np.where((grade >= 1) & (grade <= 2) & (within < 0.05), part, 0.0)
    return np.round(grade, 1)


def _replacements(cohort: Cohort, latent: FloatArray) -> Replacements:
    seed = cohort.seed
    draws = stream(seed, "replacement").random((cohort.n, 2, 5))
    before = draws[..., 0] < _replacement_chance(latent, targets.REPLACED_AT_BASELINE)
    later = (draws[..., 1] < _replacement_chance(latent, targets.REPLACED_LATER)) & ~before
    first, width, a, b = _day_parameters()
    day = np.where(later, np.round(first + width * beta.ppf(draws[..., 2], a, b)), np.nan)
    asked = before | later | (draws[..., 3] < 0.16)
    visit_day = np.where(cohort.attended, cohort.visit_day, np.inf)
    with np.errstate(invalid="ignore"):
        seen = visit_day[:, None, :] >= day[..., None]
    # Somebody who came no more is known of from a later contact by phone.
    reported = np.where(seen.any(axis=2), seen.argmax(axis=2), N_VISITS - 1)
    status = np.where(draws[..., 4] < 0.035, 1.0, np.where(draws[..., 4] < 0.04, 2.0, 3.0))
    return Replacements(
        at_baseline=np.where(asked, before.astype(float), np.nan),
        day=day,
        status=np.where(later, status, np.nan),
        reported_at=np.where(later, reported, np.nan),
    )


def _replaced_by(cohort: Cohort, replacements: Replacements) -> BoolArray:
    """Whether a knee is a prosthesis at a visit, shape (n, 2, visits)."""
    day = np.where(replacements.at_baseline == 1.0, -1.0, replacements.day)
    visit_day = np.where(cohort.attended, cohort.visit_day, np.nan)
    with np.errstate(invalid="ignore"):
        return day[..., None] <= visit_day[:, None, :]


@dataclass(frozen=True, eq=False)
class _Reading:
    """What is drawn once for all readings of a cohort.

    Attributes:
        mean, own: the disease latent, as `_disease_means`.
        replaced: shape (n, 2, visits).
        readable: whose radiographs were ever read; `member`: whom project 37 follows, (n,).
        measured: whose joint space width project 15's radiographs were measured for, (n,).
        luck: uniform, (n, visits, 2).
        reader: what project 37 sees differently, (n, 2, visits).
        knee: noise of a knee at a visit, (n, 2, visits, 4); `steady`: of the knee, (n, 2, 3).
    """

    mean: FloatArray
    own: FloatArray
    replaced: BoolArray
    readable: BoolArray
    member: BoolArray
    measured: BoolArray
    luck: FloatArray
    reader: FloatArray
    knee: FloatArray
    steady: FloatArray


def _people_read(
    cohort: Cohort, drawn: _Reading, project: int, visit: str
) -> tuple[BoolArray, BoolArray]:
    """(whose radiographs a project read at a visit, who has a row without a grade), each (n,)."""
    column = visit_index(visit)
    came, luck = cohort.attended[:, column], drawn.luck[:, column, 0]
    if project == 15:
        return drawn.readable & came & (luck < targets.READ_15[visit]), np.zeros(cohort.n, bool)
    others = drawn.readable & ~drawn.member & came
    return (
        drawn.member & came & (luck < targets.READ_37[visit]),
        others & (luck < targets.UNGRADED.get(visit, 0.0)),
    )


def _values_read(drawn: _Reading, project: int, visit: str) -> tuple[NDArray, ...]:
    """(KL, medial and lateral narrowing, joint space width) a project gives, each (n, 2)."""
    column = visit_index(visit)
    latent = drawn.mean[:, column, None] + drawn.own
    if project == 37:
        _, cuts_37, latents_37 = _reference_37()
        latent = latent + _READER_37 * drawn.reader[..., column]
        rank = np.searchsorted(latents_37[visit], latent) / len(latents_37[visit])
        kl = _grade(latent, cuts_37[visit])
    else:
        rank = _rank_15(column, latent)
        kl = _grade(latent, _thresholds_15()[visit])
    score = ndtri(np.clip(rank, 1e-6, 1.0 - 1e-6))

    def mixed(kept: float, which: int) -> FloatArray:
        rest = 0.9 * drawn.steady[..., which] + np.sqrt(0.19) * drawn.knee[:, :, column, which]
        return kept * score + np.sqrt(1.0 - kept**2) * rest

    within = ndtr(drawn.knee[:, :, column, 3])
    narrowing = [
        _narrowing(
            ndtr(mixed(kept, which)),
            targets.JSN_MEAN_SD[stem][project, visit],
            within,
            follow_up=column > 0,
        )
        for which, (stem, kept) in enumerate((("XRJSM", 0.8), ("XRJSL", 0.4)))
    ]
    mean, sd = targets.JSW_MEAN_SD[visit]
    width = np.round(np.clip(mean - sd * mixed(0.7, 2), 0.0, 10.3), 2)
    return kl, *narrowing, width


def _read_at(cohort: Cohort, drawn: _Reading, project: int, visit: str) -> dict[str, NDArray]:
    """Rows of one project at one visit."""
    column = visit_index(visit)
    people, ungraded = _people_read(cohort, drawn, project, visit)
    kl, medial, lateral, width = _values_read(drawn, project, visit)
    chance = ndtr(drawn.knee[:, :, column])
    prosthesis = drawn.replaced[..., column]
    still_read = (drawn.luck[:, column, 1] < targets.REPLACED_READ)[:, None] | (column == 0)
    rows = (people[:, None] & (~prosthesis | still_read)) | (ungraded[:, None] & ~prosthesis)
    letter = np.where(prosthesis, "P", np.where(chance[..., 0] < 0.0006, "T", ""))
    letter = np.where(ungraded[:, None] & (letter == ""), ".", letter)
    with_width = ~prosthesis & (chance[..., 1] < 0.99) & ~ungraded[:, None]
    if project == 15:
        with_width &= drawn.measured[:, None]
    elif visit not in targets.UNGRADED:
        with_width &= False
    person, side = np.nonzero(rows)
    graded = letter == ""
    return {
        "person": person,
        "side": side,
        "visit": np.full(len(person), column),
        "project": np.full(len(person), project),
        "kl": np.where(graded, kl, np.nan)[rows],
        "jsn_medial": np.where(graded, medial, np.nan)[rows],
        "jsn_lateral": np.where(graded, lateral, np.nan)[rows],
        "letter": letter[rows],
        "jsw_mm": np.where(with_width, width, np.nan)[rows],
    }


def _readings(cohort: Cohort, mean: FloatArray, own: FloatArray, replaced: BoolArray) -> Readings:
    seed, n = cohort.seed, cohort.n
    readable = has_readings(cohort)
    ranks = stream(seed, "readings").random((n, 2))
    worst = _grade((mean[:, :1] + own).max(axis=1), _thresholds_15()["V00"])
    member = _members_37(worst, stream(seed, "members 37").random(n), _reference_37()[0])
    drawn = _Reading(
        mean=mean,
        own=own,
        replaced=replaced,
        readable=readable,
        member=member & readable,
        measured=ranks[:, 0] < targets.READ_JSW,
        luck=stream(seed, "visit readings").random((n, N_VISITS, 2)),
        reader=stream(seed, "reader 37").standard_normal((n, 2, N_VISITS)),
        knee=stream(seed, "knee readings").standard_normal((n, 2, N_VISITS, 4)),
        steady=stream(seed, "knees").standard_normal((n, 2, 3)),
    )
    parts = [_read_at(cohort, drawn, 15, visit) for visit in targets.READ_15]
    parts += [_read_at(cohort, drawn, 37, visit) for visit in targets.READ_37]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["project"], columns["side"], columns["person"], columns["visit"]))
    columns = {name: values[order] for name, values in columns.items()}
    says_42 = (columns["project"] == 37) & (ranks[:, 1] < SHARE_OF_42)[columns["person"]]
    # One bilateral radiograph per person and visit; X-ray barcodes open with a 0 after 0166.
    number = (1_234_567 + 7_368_787 * (N_VISITS * columns["person"] + columns["visit"])) % 10**7
    return Readings(
        **columns,
        written_project=np.where(says_42, 42, columns["project"]),
        barcode=np.char.add("01660", np.char.zfill(number.astype(str), 7)),
    )


def _rank_15(column: int, latent: FloatArray) -> FloatArray:
    """Share of knees whose disease latent lies below these at a visit."""
    grid, below = _distribution_15(column)
    return np.interp(latent, grid, below)


@functools.cache
def _distribution_15(column: int) -> tuple[FloatArray, FloatArray]:
    means = _reference_disease()[0][::4, column]
    grid = np.linspace(-6.0, 7.0, 131)
    return grid, ndtr((grid - means[:, None]) / _OWN).mean(axis=0)


def _scanned_shares(visit: str, share: float) -> tuple[float, float]:
    """Shares scanned of those with and without a graded radiograph; `share` of all who came."""
    if visit in targets.READ_15 and visit != "V00":
        came = targets.ATTENDED[visit] / targets.N_PEOPLE
        without_came = (1.0 - targets.HAS_KL) * targets.WITHOUT_KL_ATTENDED[visit]
        graded = targets.READ_15[visit] * (1.0 - without_came / came)
        with_reading = min(share / (graded + 0.35 * (1.0 - graded)), 0.99)
    elif visit in targets.UNGRADED:
        graded, with_reading = targets.MEMBERS_37 * targets.READ_37[visit], 0.97
    else:
        return share, share
    return with_reading, (share - graded * with_reading) / (1.0 - graded)


def _examined(cohort: Cohort, graded: BoolArray) -> tuple[BoolArray, BoolArray, BoolArray]:
    """(had an examination, one knee only, that knee is the left), each (n, visits)."""
    draws = stream(cohort.seed, "examined").standard_normal((cohort.n, 2 + N_VISITS))
    rank = ndtr(np.sqrt(0.5) * draws[:, :1] + np.sqrt(0.5) * draws[:, 2:])
    choices = stream(cohort.seed, "one knee").random((cohort.n, N_VISITS, 2))
    had, one, left = (np.zeros((cohort.n, N_VISITS), bool) for _ in range(3))
    for visit, share in targets.MR_ANY.items():
        column = visit_index(visit)
        # Who was X-rayed was at the clinic, and so in reach of the scanner.
        with_reading, without = _scanned_shares(visit, share)
        limit = np.where(graded[:, column], with_reading, without)
        had[:, column] = cohort.attended[:, column] & (rank[:, column] < limit)
        one[:, column] = choices[:, column, 0] < targets.ONE_KNEE_ONLY.get(visit, 0.0)
        half = 0.5 if visit in targets.INTERIM_VISITS else 0.3
        left[:, column] = choices[:, column, 1] < half
    return had, one, left


def _scans(cohort: Cohort, replaced: BoolArray, readings: Readings) -> Scans:
    seed, n = cohort.seed, cohort.n
    graded = np.zeros((n, N_VISITS), bool)
    with_grade = readings.letter != "."
    graded[readings.person[with_grade], readings.visit[with_grade]] = True
    had, one_knee, is_left = _examined(cohort, graded)
    ineligible = stream(seed, "ineligible").random((n, 2)) < 0.012
    luck = stream(seed, "scan luck").random((n, 2, N_VISITS, 4))
    parts: list[dict[str, NDArray]] = []
    for visit in targets.SCAN_VISITS:
        column = visit_index(visit)
        listed = cohort.attended[:, column] | (visit not in targets.INTERIM_VISITS)
        reason = np.zeros((n, 2, 2), int)
        for side in range(2):
            other_only = one_knee[:, column] & (is_left[:, column] != (side == 1))
            cannot = replaced[:, side, column] | ineligible[:, side]
            missed = ~had[:, column]
            dess = np.select(
                [
                    ~cohort.attended[:, column],
                    missed,
                    other_only,
                    cannot,
                    luck[:, side, column, 0] < 0.006,
                ],
                [12, 6, 10 if visit in targets.INTERIM_VISITS else 13, 11, 4],
            )
            # The short protocol, without T2, is for the left knee if both are scanned.
            short = (side == 1) & ~one_knee[:, column] & (luck[:, side, column, 1] > 0.004)
            failed = (side == 0) & (luck[:, side, column, 1] < 0.012)
            reason[:, side, 0] = dess
            reason[:, side, 1] = np.where(
                dess != 0, dess, np.where(short, 8, np.where(failed, 4, 0))
            )
        person, side_of, sequence = np.nonzero(np.broadcast_to(listed[:, None, None], (n, 2, 2)))
        chosen = luck[person, side_of, column]
        acquired = reason[person, side_of, sequence] == 0
        usual = np.where(chosen[:, 2] < (0.52 if column == 0 else 0.07), "Y", "YD")
        parts.append(
            {
                "person": person,
                "side": side_of,
                "visit": np.full(len(person), column),
                "sequence": sequence,
                "acquired": acquired,
                "reason": reason[person, side_of, sequence],
                "quality": np.where(acquired, np.where(chosen[:, 2] > 0.9982, "NR", usual), ""),
                "repeated": acquired & (chosen[:, 3] < 0.004),
            }
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _with_archive_names(cohort, columns)


def _with_archive_names(cohort: Cohort, columns: dict[str, NDArray]) -> Scans:
    """Barcodes and dates of the scans, those that the phantom's DICOM headers carry."""
    repeated = columns.pop("repeated")
    rows = len(repeated)
    barcode, date = np.zeros(rows, "U12"), np.zeros(rows, "U8")
    earlier = np.zeros(rows, "U12")
    dates: dict[tuple[int, int, int], str] = {}
    ids = cohort.ids.tolist()
    lists = zip(
        *(columns[name].tolist() for name in ("person", "side", "visit", "sequence")), strict=True
    )
    for row, (person, side, visit, sequence) in enumerate(lists):
        if not columns["acquired"][row]:
            continue
        scan = Visit(cohort.seed, ids[person], "LEFT" if side else "RIGHT", VISITS[visit])
        key = (person, side, visit)
        if key not in dates:
            dates[key] = scan.date
        date[row] = dates[key]
        digits = scan.barcode("MSME" if sequence else "DESS")
        barcode[row] = f"0166{digits}"
        if repeated[row]:
            # Archive numbers rise, and the later one counts.
            earlier[row] = f"0166{max(int(digits) - 3, 10_000_000)}"
    return Scans(**columns, barcode=barcode, earlier_barcode=earlier, date=date)


def image_cohort(cohort: Cohort) -> CohortImaging:
    """Draw the readings, replacements and scans of a cohort, always the same for the same one."""
    mean, own = _disease_means(cohort.seed, cohort.people)
    replacements = _replacements(cohort, mean[:, :1] + own)
    replaced = _replaced_by(cohort, replacements)
    readings = _readings(cohort, mean, own, replaced)
    return CohortImaging(readings, replacements, _scans(cohort, replaced, readings))
