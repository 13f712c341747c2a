"""A simulated cohort: people, who came to which visit, what they weighed and where it hurt.

Marginals are those of the OAI (`cohort_targets`); what ties the variables together is planted.
Every answer is a threshold on a latent variable whose marginal distribution is known, so each
frequency is right in expectation whatever the correlations, and the correlations come from shared
parts: a person's general tendency to report pain, the visit, the joint pair, the joint.

Knee pain is a cumulative logit: P(level >= k) = sigmoid(eta - threshold_k) with eta linear in age,
BMI, sex and the depth of the cartilage lesion that `phantom.knee` renders for the same subject.
Because the error is logistic at the margin (a Gaussian copula links visits and joints), an ordinary
logistic regression on the cohort estimates the planted coefficients.

Draws are made person by person, so the first people of a large cohort are those of a small one.
"""

import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, fsolve
from scipy.special import expit, log_ndtr, ndtr, ndtri
from scipy.stats import beta, gamma, nbinom

from phantom import cohort_targets as targets
from phantom.anatomy import VISIT_YEARS, draw_anatomy, subject_traits
from phantom.delivery import subject_ids

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TextArray = NDArray[np.str_]

VISITS = targets.VISITS
N_VISITS = len(VISITS)
SIDES = ("RIGHT", "LEFT")
LETTERS = ("R", "L")

YEARS = np.array([VISIT_YEARS.get(visit, 0.0) for visit in VISITS])
YEARS[[VISITS.index(visit) for visit in ("V07", "V09", "V11")]] = (5.0, 7.0, 9.0)

N_REFERENCE = 20_000
"""People of the reference population on which thresholds are set, once and for any cohort."""

_REFERENCE_SEED = 2**32 - 1
SEVERITY_BETA = (1.2, 2.2)
"""Of `phantom.anatomy.subject_traits`, as is the range of progression."""

_AGE_LOW, _AGE_HIGH = 45.0, 80.0
_BMI_LOWEST, _BMI_HIGHEST = 15.0, 53.0


@dataclass(frozen=True)
class PainTruth:
    """What knee pain was planted as.

    P(any pain in 12 months) = sigmoid(eta - any_threshold[side][visit]), and likewise for frequent
    pain (KPR12CV) and for chronic pain (frequent for more than 6 months of the 12), with

    eta = age (age_years - 61) / 10 + bmi (bmi - 28.6) / 5 + female [sex F] + thinning thinning_mm.

    Attributes:
        age: log odds per decade.
        bmi: log odds per 5 kg/m2.
        female: log odds of women over men.
        thinning: log odds per mm of medial lesion depth at that visit.
        any_threshold, frequent_threshold, chronic_threshold: by side, then visit.
    """

    age: float
    bmi: float
    female: float
    thinning: float
    any_threshold: Mapping[str, Mapping[str, float]]
    frequent_threshold: Mapping[str, Mapping[str, float]]
    chronic_threshold: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Loadings:
    """Shares of variance that pain latents have in common; what is left is the occasion's own.

    Attributes:
        general: the person's tendency to report pain, shared by all joints and visits.
        visit: the person's state at the visit, shared by all joints.
        pair: the person's pair of joints, shared by both sides and all visits.
        joint: the joint, shared by all visits.
        pair_visit: the pair at the visit, shared by both sides.
    """

    general: float
    visit: float
    pair: float
    joint: float
    pair_visit: float


KNEE_LOADINGS = Loadings(general=0.10, visit=0.02, pair=0.20, joint=0.46, pair_visit=0.04)
OTHER_LOADINGS = Loadings(general=0.36, visit=0.015, pair=0.26, joint=0.22, pair_visit=0.03)
AGE_PER_DECADE, BMI_PER_5, FEMALE, THINNING_PER_MM = 0.10, 0.30, 0.20, 0.80


@dataclass(frozen=True, eq=False)
class People:
    """What is drawn once for each person; arrays have shape (n,).

    Attributes:
        severity, progression_per_year: of the medial lesion, as `phantom.anatomy.SubjectTraits`.
        age: at enrolment, years with fraction.
        female: sex.
        general_pain: standard normal; the tendency to report pain anywhere.
        bmi_score: shape (n, visits), the person's place among all people at each visit, normal.
    """

    severity: FloatArray
    progression_per_year: FloatArray
    age: FloatArray
    female: BoolArray
    general_pain: FloatArray
    bmi_score: FloatArray

    @property
    def severity_score(self) -> FloatArray:
        """Severity at enrolment as a standard normal score."""
        return ndtri(np.clip(beta.cdf(self.severity, *SEVERITY_BETA), 1e-9, 1.0 - 1e-9))

    @property
    def thinning_mm(self) -> FloatArray:
        """Depth of the medial cartilage lesion, shape (n, visits)."""
        grown = self.severity[:, None] + self.progression_per_year[:, None] * YEARS
        return lesion_depth_mm() * np.minimum(grown, 1.0)


@dataclass(frozen=True, eq=False)
class Answers:
    """One variable of the OAI for everybody at every visit.

    Attributes:
        value: shape (n, visits); NaN where missing.
        letter: shape (n, visits); '' where there is a value, otherwise the SAS missing code: '.' or
            a letter.
        visits: the visits at which it is asked.
    """

    value: FloatArray
    letter: TextArray
    visits: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Enrollees:
    """Codes of the enrolment tables, shape (n,); -1 where unknown, with its letter."""

    sex: NDArray[np.int64]
    race: NDArray[np.int64]
    race_letter: TextArray
    hispanic: NDArray[np.int64]
    hispanic_letter: TextArray
    cohort: NDArray[np.int64]
    site: TextArray
    half: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cohort:
    """A simulated cohort.

    Attributes:
        seed: settles everything, together with the number of people.
        ids: shape (n,), seven digits starting with 1, those of `phantom.delivery`.
        people: the latent persons.
        enrollees: codes of the enrolment tables.
        attended: shape (n, visits).
        visit_day: shape (n, visits), days from enrolment, NaN where absent.
        age_years: shape (n, visits), completed years.
        bmi: shape (n, visits), what the scales would show, also where it was not recorded.
        answers: by OAI stem: KPNR12, KPR12CV, KPNR12M, ..., BMI, AGE, VISDYS, WOMKPR.
        truth: what knee pain was planted as.
    """

    seed: int
    ids: NDArray[np.int64]
    people: People
    enrollees: Enrollees
    attended: BoolArray
    visit_day: FloatArray
    age_years: FloatArray
    bmi: FloatArray
    answers: Mapping[str, Answers]
    truth: PainTruth

    @property
    def n(self) -> int:
        """How many people."""
        return len(self.ids)


def stream(seed: int, what: str) -> np.random.Generator:
    """Random numbers for one purpose: another purpose's draws never move these."""
    return np.random.default_rng([seed, zlib.crc32(what.encode())])


def visit_index(visit: str) -> int:
    """Column of a visit in arrays of shape (n, visits)."""
    return VISITS.index(visit)


@functools.cache
def lesion_depth_mm() -> float:
    """Depth of the thickness dip that a knee of severity 1 has, as `phantom.anatomy` draws it."""
    traits = subject_traits(np.random.default_rng(0), severity=1.0)
    bumps = draw_anatomy(np.random.default_rng(0), traits, 0.0)["femur"].thickness_mm.bumps
    return -float(bumps[-1, 4])


def _draw_people(seed: int, severity: FloatArray, progression: FloatArray) -> People:
    n = len(severity)
    mean, sd = targets.AGE_MEAN_SD
    width = _AGE_HIGH - _AGE_LOW
    # A completed year lies half a year below the age, and rounding adds 1/12 to the variance.
    share, variance = (mean + 0.5 - _AGE_LOW) / width, (sd**2 - 1.0 / 12.0) / width**2
    total = share * (1.0 - share) / variance - 1.0
    ages = beta.ppf(stream(seed, "age").random(n), share * total, (1.0 - share) * total)
    bmi = stream(seed, "bmi").standard_normal((n, N_VISITS + 2))
    kept, slow = 0.97, 0.6
    change = np.sqrt(slow) * bmi[:, 1:2] + np.sqrt(1.0 - slow) * bmi[:, 2:]
    score = kept * bmi[:, :1] + np.sqrt(1.0 - kept**2) * change
    score[:, 0] = bmi[:, 0]
    return People(
        severity=severity,
        progression_per_year=progression,
        age=_AGE_LOW + width * ages,
        female=stream(seed, "sex").random(n) < targets.FEMALE,
        general_pain=stream(seed, "general pain").standard_normal(n),
        bmi_score=score,
    )


def _bmi(people: People) -> FloatArray:
    """Body-mass index at every visit, shape (n, visits), kg/m2, one decimal."""
    at = [visit_index(visit) for visit in targets.BMI_MEAN_SD]
    means, sds = np.array(list(targets.BMI_MEAN_SD.values())).T
    result = np.empty_like(people.bmi_score)
    for visit in range(N_VISITS):
        mean, sd = np.interp(visit, at, means), np.interp(visit, at, sds)
        shape = ((mean - _BMI_LOWEST) / sd) ** 2
        values = gamma.ppf(ndtr(people.bmi_score[:, visit]), shape, scale=sd / np.sqrt(shape))
        result[:, visit] = np.round(np.minimum(_BMI_LOWEST + values, _BMI_HIGHEST), 1)
    return result


def _eta(female: BoolArray, age: FloatArray, bmi: FloatArray, thinning: FloatArray) -> FloatArray:
    """Linear predictor of knee pain, shape (n, visits)."""
    return (
        AGE_PER_DECADE * (age - 61.0) / 10.0
        + BMI_PER_5 * (bmi - 28.6) / 5.0
        + FEMALE * female[:, None]
        + THINNING_PER_MM * thinning
    )


@functools.cache
def reference_people() -> People:
    """The population thresholds are set on; always the same."""
    rng = stream(0, "reference traits")
    # Evenly spread over the distribution, so that thresholds carry little noise of their own.
    ranks = (rng.permutation(N_REFERENCE) + 0.5) / N_REFERENCE
    severity = beta.ppf(ranks, *SEVERITY_BETA)
    return _draw_people(_REFERENCE_SEED, severity, rng.uniform(0.01, 0.06, N_REFERENCE))


@functools.cache
def _survival_curves() -> tuple[FloatArray, FloatArray]:
    """P(knee latent >= c) at every visit: (values of c, logit of P of shape (visits, c))."""
    people = reference_people()
    nominal_age = np.floor(people.age[:, None] + YEARS)
    eta = _eta(people.female, nominal_age, _bmi(people), people.thinning_mm)
    cuts = np.linspace(-13.0, 15.0, 113)
    curves = np.empty((N_VISITS, len(cuts)))
    for visit in range(N_VISITS):
        above = expit(np.sort(eta[:, visit])[::5, None] - cuts).mean(axis=0)
        curves[visit] = np.log(above) - np.log1p(-above)
    return cuts, curves


def _threshold(visit: int, share: float) -> float:
    """The knee latent that this share of people reaches at a visit."""
    cuts, curves = _survival_curves()
    logit = np.log(share) - np.log1p(-share)
    return float(np.interp(-logit, -curves[visit], cuts))


def _share_above(visit: int, latent: FloatArray) -> FloatArray:
    """Share of people whose knee latent reaches these values at a visit."""
    cuts, curves = _survival_curves()
    return expit(np.interp(latent, cuts, curves[visit]))


@functools.cache
def months_shares(mean: float, sd: float) -> tuple[float, ...]:
    """Shares of 1 to 12 months with the given moments: a tilted spread and a spike at 12."""
    months = np.arange(1, 13)

    def shares(parameters: FloatArray) -> FloatArray:
        spike, tilt = expit(parameters[0]), parameters[1]
        spread = np.exp(tilt * (months[:-1] - 6.0))
        return np.append((1.0 - spike) * spread / spread.sum(), spike)

    def misfit(parameters: FloatArray) -> FloatArray:
        found = shares(parameters)
        average = found @ months
        return np.array([average - mean, np.sqrt(found @ months**2 - average**2) - sd])

    return tuple(shares(fsolve(misfit, np.array([-0.2, -0.1]))).tolist())


@functools.cache
def _womac_shares(mean: float, sd: float) -> tuple[float, ...]:
    """Shares of 0 to 20 points with the given moments, from a negative binomial cut at 20."""
    points = np.arange(21)

    def shares(parameters: FloatArray) -> FloatArray:
        size, average = np.exp(parameters)
        found = nbinom.pmf(points, size, size / (size + average))
        return found / found.sum()

    def misfit(parameters: FloatArray) -> FloatArray:
        found = shares(parameters)
        average = found @ points
        return np.array([average - mean, np.sqrt(found @ points**2 - average**2) - sd])

    start = np.log([mean**2 / (sd**2 - mean), mean])
    return tuple(shares(fsolve(misfit, start)).tolist())


def _quantile(shares: tuple[float, ...], rank: FloatArray) -> FloatArray:
    """Index of the class a rank (0 to 1) falls in, given the classes' shares."""
    return np.searchsorted(np.cumsum(shares)[:-1], rank, side="right").astype(float)


def _mixed(rank: FloatArray, own: FloatArray, kept: float) -> FloatArray:
    """A rank (0 to 1) that follows another one with correlation `kept` of their normal scores."""
    score = ndtri(np.clip(rank, 1e-12, 1.0 - 1e-12))
    return ndtr(kept * score + np.sqrt(1.0 - kept**2) * own)


def _pain_latents(
    seed: int, people: People, name: str, sides: int, loadings: Loadings, state: FloatArray
) -> FloatArray:
    """Standard normal latents of a joint, shape (sides, n, visits)."""
    n = len(people.age)
    draws = stream(seed, f"pain {name}").standard_normal((n, 1 + N_VISITS + sides * (1 + N_VISITS)))
    pair, pair_visit = draws[:, 0], draws[:, 1 : 1 + N_VISITS]
    own = draws[:, 1 + N_VISITS :].reshape(n, sides, 1 + N_VISITS)
    rest = 1.0 - (
        loadings.general + loadings.visit + loadings.pair + loadings.joint + loadings.pair_visit
    )
    shared = (
        np.sqrt(loadings.general) * people.general_pain[:, None]
        + np.sqrt(loadings.visit) * state
        + np.sqrt(loadings.pair) * pair[:, None]
        + np.sqrt(loadings.pair_visit) * pair_visit
    )
    return np.stack(
        [
            shared + np.sqrt(loadings.joint) * own[:, side, :1] + np.sqrt(rest) * own[:, side, 1:]
            for side in range(sides)
        ]
    )


def _attendance(seed: int, n: int) -> tuple[BoolArray, BoolArray]:
    """(has radiograph readings, shape (n,); came, shape (n, visits))."""
    draws = stream(seed, "attendance").standard_normal((n, N_VISITS + 2))
    has_kl = ndtr(draws[:, 0]) < targets.HAS_KL
    loyalty = 0.6
    rank = ndtr(np.sqrt(loyalty) * draws[:, 1:2] + np.sqrt(1.0 - loyalty) * draws[:, 2:])
    came = np.ones((n, N_VISITS), bool)
    for visit, count in targets.ATTENDED.items():
        share = count / targets.N_PEOPLE
        without = targets.WITHOUT_KL_ATTENDED.get(visit, share)
        with_kl = (share - (1.0 - targets.HAS_KL) * without) / targets.HAS_KL
        column = visit_index(visit)
        came[:, column] = rank[:, column] < np.where(has_kl, with_kl, without)
    return has_kl, came


def _visit_days(seed: int, attended: BoolArray) -> FloatArray:
    """Days from enrolment, shape (n, visits), NaN where absent."""
    draws = stream(seed, "visit day").standard_normal(attended.shape)
    days = np.zeros(attended.shape)
    for visit, (mean, sd) in targets.VISIT_DAY_MEAN_SD.items():
        column = visit_index(visit)
        days[:, column] = np.round(mean + sd * np.clip(draws[:, column], -4.0, 4.0))
    return np.where(attended, days, np.nan)


def _enrollees(seed: int, ids: NDArray[np.int64], people: People) -> Enrollees:
    n = len(ids)
    ranks = stream(seed, "enrollees").random((n, 5))
    races = np.array(list(targets.RACES))
    shares = np.array(list(targets.RACES.values()))
    race = races[np.searchsorted(np.cumsum(shares / shares.sum())[:-1], ranks[:, 0])]
    race_letter = np.where(ranks[:, 1] < targets.RACE_UNKNOWN, np.where(ids % 2, "D", "R"), "")
    hispanic_letter = np.where(ranks[:, 1] > 1.0 - targets.HISPANIC_UNKNOWN, "R", "")
    sites = np.array(list(targets.SITES))
    counts = np.array(list(targets.SITES.values()))
    # Progression is for people with symptoms and disease, the control group for those with neither.
    score = (
        0.6 * people.severity_score + 0.6 * people.general_pain
        + np.sqrt(1.0 - 0.72) * ndtri(np.clip(ranks[:, 2], 1e-9, 1.0 - 1e-9))
    )  # fmt: skip
    progression, incidence, _ = targets.COHORTS
    above = 1.0 - ndtr(score)
    return Enrollees(
        sex=np.where(people.female, 2, 1),
        race=np.where(race_letter == "", race, -1),
        race_letter=race_letter,
        hispanic=np.where(hispanic_letter == "", ranks[:, 3] < targets.HISPANIC, -1).astype(int),
        hispanic_letter=hispanic_letter,
        cohort=np.where(above < progression, 1, np.where(above < progression + incidence, 2, 3)),
        site=sites[np.searchsorted(np.cumsum(counts / counts.sum())[:-1], ranks[:, 4])],
        # As the folders of phantom.delivery say: releases C (first half) and E (second half).
        half=np.where(ids % 2, 1, 2),
    )


def _answer(
    value: FloatArray | BoolArray, visits: tuple[str, ...], attended: BoolArray, letter: TextArray
) -> Answers:
    """Keep values only where the question was put to someone who came."""
    asked = np.zeros(N_VISITS, bool)
    asked[[visit_index(visit) for visit in visits]] = True
    letter = np.where(attended & asked, letter, ".")
    return Answers(np.where(letter == "", value, np.nan), letter, visits)


def _by_visit(shares: Mapping[str, float]) -> FloatArray:
    """Shares as a row over all visits, NaN where there is none."""
    row = np.full(N_VISITS, np.nan)
    for visit, share in shares.items():
        row[visit_index(visit)] = share
    return row


def _knee_answers(
    seed: int, side: int, latent: FloatArray, attended: BoolArray
) -> dict[str, Answers]:
    """Knee pain items and WOMAC pain of one side from its latent, shape (n, visits)."""
    letter_of_side = LETTERS[side]
    shape = latent.shape
    rank = 1.0 - np.stack([_share_above(visit, latent[:, visit]) for visit in range(N_VISITS)], 1)
    draws = stream(seed, f"knee items {letter_of_side}").standard_normal((shape[0], 4, N_VISITS))
    ranks = ndtr(draws)

    with np.errstate(invalid="ignore"):
        any_12m = _by_visit(targets.KNEE_PAIN[f"KPN{letter_of_side}12"])
        frequent_12m = _by_visit(targets.KNEE_PAIN[f"KP{letter_of_side}12CV"])
        any_30d = _by_visit(targets.KNEE_PAIN[f"{letter_of_side}KP30CV"])
        frequent_30d = _by_visit(targets.KNEE_PAIN[f"KP{letter_of_side}30CV"])
        has_any, has_frequent = rank >= 1.0 - any_12m, rank >= 1.0 - frequent_12m
        within = _mixed(
            np.where(has_any, (rank - (1.0 - any_12m)) / any_12m, 0.5), draws[:, 0], 0.9
        )
        has_any_30d = has_any & (within >= 1.0 - any_30d / any_12m)
        has_frequent_30d = has_any & (within >= 1.0 - frequent_30d / any_12m)
        month_rank = np.where(has_frequent, (rank - (1.0 - frequent_12m)) / frequent_12m, 0.0)

    none = np.full(shape, "", dtype="U1")
    refused = np.where(ranks[:, 1] < targets.KNEE_REFUSED, "R", none)
    refused = np.where(ranks[:, 1] > 1.0 - targets.DONT_KNOW, "D", refused)
    refused[:, 0] = np.where(refused[:, 0] == "R", "", refused[:, 0])
    # Someone who cannot say whether it was half the days can still say that it hurt.
    unsure = np.where((ranks[:, 2] < targets.DONT_KNOW) & (refused == ""), "D", refused)
    months = np.zeros(shape)
    for visit, moments in targets.MONTHS_MEAN_SD[f"KPN{letter_of_side}12M"].items():
        column = visit_index(visit)
        months[:, column] = 1.0 + _quantile(months_shares(*moments), month_rank[:, column])
    months_letter = np.where(has_frequent, unsure, "A")
    unanswered = has_frequent & (months_letter == "") & (ranks[:, 3] < targets.MONTHS_UNANSWERED)
    months_letter = np.where(unanswered, "D", months_letter)
    # Who does not know whether the pain was frequent is not asked for how long.
    months_letter = np.where(has_frequent & (unsure != ""), "A", months_letter)

    womac = np.zeros(shape)
    womac_rank = _mixed(rank, stream(seed, f"womac {letter_of_side}").standard_normal(shape), 0.85)
    for visit, moments in targets.WOMAC_MEAN_SD[f"WOMKP{letter_of_side}"].items():
        column = visit_index(visit)
        womac[:, column] = _quantile(_womac_shares(*moments), womac_rank[:, column])
    womac_letter = np.where(ranks[:, 3] > 1.0 - targets.WOMAC_UNANSWERED, ".", none)

    knee, visits = targets.KNEE_VISITS, targets.VISITS
    return {
        f"KPN{letter_of_side}12": _answer(has_any, knee, attended, refused),
        f"KP{letter_of_side}12CV": _answer(has_frequent, knee, attended, unsure),
        f"KPN{letter_of_side}12M": _answer(months, knee, attended, months_letter),
        f"{letter_of_side}KP30CV": _answer(has_any_30d, knee, attended, refused),
        f"KP{letter_of_side}30CV": _answer(has_frequent_30d, knee, attended, unsure),
        f"WOMKP{letter_of_side}": _answer(womac, visits, attended, womac_letter),
    }


def _other_answers(
    seed: int, people: People, state: FloatArray, attended: BoolArray
) -> dict[str, Answers]:
    """Items on hips, back, neck and the other joints."""
    clinic = targets.CLINIC_VISITS
    refusal = ndtr(stream(seed, "refused").standard_normal((len(people.age), N_VISITS, 2)))
    hip_refused = np.where(refusal[..., 0] < _by_visit(targets.HIP_REFUSED), "R", "")
    # Who refuses the block on hips goes on to refuse the ones that follow it.
    other_refused = np.where(refusal[..., 0] < _by_visit(targets.OTHER_REFUSED), "R", "")
    unsure = np.where(refusal[..., 1] < targets.DONT_KNOW, "D", "")
    hip_letter = np.where(hip_refused == "", unsure, hip_refused)
    other_letter = np.where(other_refused == "", unsure, other_refused)

    def latents(name: str, sides: int) -> FloatArray:
        return _pain_latents(seed, people, name, sides, OTHER_LOADINGS, state)

    def ticked(stem: str, latent: FloatArray) -> BoolArray:
        with np.errstate(invalid="ignore"):
            return ndtr(latent) >= 1.0 - _by_visit(targets.OTHER_PAIN[stem])

    answers: dict[str, Answers] = {}
    hip = latents("hip", 2)
    for side, end in enumerate(LETTERS):
        for stem in (f"HPN{end}12", f"HP{end}12CV"):
            answers[stem] = _answer(ticked(stem, hip[side]), clinic, attended, hip_letter)
    back = latents("back", 1)[0]
    hurts = ticked("BP30", back)
    answers["BP30"] = _answer(hurts, clinic, attended, other_letter)
    share = _by_visit(targets.OTHER_PAIN["BP30"])
    frequency = np.zeros(back.shape)
    for visit, shares in targets.BACK_FREQUENCY.items():
        column = visit_index(visit)
        within = (ndtr(back[:, column]) - (1.0 - share[column])) / share[column]
        frequency[:, column] = _quantile(tuple(np.array(shares) / sum(shares)), within)
    skipped = np.where(hurts & (other_letter == ""), "", "A")
    answers["BP30OFT"] = _answer(frequency, clinic, attended, skipped)

    boxes = {"OJPNNK": ticked("OJPNNK", latents("neck", 1)[0])}
    for joint in "SEWHAF":
        pair = latents(f"joint {joint}", 2)
        for side, end in enumerate(LETTERS):
            stem = f"OJPN{end}{joint}"
            boxes[stem] = ticked(stem, pair[side])
    somewhere = np.any(list(boxes.values()), axis=0)
    # Tick boxes: 1, or .A both where a box was left empty and where the question was refused.
    for stem, box in boxes.items():
        empty = np.where(box & (other_letter == ""), "", "A")
        answers[stem] = _answer(np.ones(back.shape), clinic, attended, empty)
    none_letter = np.where(other_letter != "", other_letter, np.where(somewhere, "A", ""))
    answers["OJPNNO"] = _answer(np.zeros(back.shape), clinic, attended, none_letter)
    return answers


def _truth() -> PainTruth:
    def thresholds(shares: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        return {
            side: {visit: _threshold(visit_index(visit), share) for visit, share in row.items()}
            for side, row in shares.items()
        }

    pain, months = targets.KNEE_PAIN, targets.MONTHS_MEAN_SD
    frequent = {side: pain[f"KP{letter}12CV"] for side, letter in zip(SIDES, LETTERS, strict=True)}
    chronic = {
        side: {
            visit: share * sum(months_shares(*months[f"KPN{letter}12M"][visit])[6:])
            for visit, share in frequent[side].items()
        }
        for side, letter in zip(SIDES, LETTERS, strict=True)
    }
    return PainTruth(
        AGE_PER_DECADE,
        BMI_PER_5,
        FEMALE,
        THINNING_PER_MM,
        thresholds({"RIGHT": pain["KPNR12"], "LEFT": pain["KPNL12"]}),
        thresholds(frequent),
        thresholds(chronic),
    )


def simulate_cohort(n_people: int = targets.N_PEOPLE, *, seed: int) -> Cohort:
    """Draw a cohort; the same number and seed always give the same one.

    Args:
        n_people: how many; the OAI has 4,796.
        seed: the seed of `phantom.knee.knee_truth`, so that images and tables tell one story.

    Raises:
        ValueError: fewer than one person, or more than seven-digit numbers starting with 1 allow.
    """
    if not 1 <= n_people <= 27_000:
        raise ValueError(f"n_people = {n_people}: use 1 to 27000")
    ids = np.array(subject_ids(n_people))
    traits = [subject_traits(np.random.default_rng([seed, subject])) for subject in ids.tolist()]
    people = _draw_people(
        seed,
        np.array([trait.severity for trait in traits]),
        np.array([trait.progression_per_year for trait in traits]),
    )
    _, attended = _attendance(seed, n_people)
    days = _visit_days(seed, attended)
    age = np.floor(people.age[:, None] + np.where(attended, days / 365.25, YEARS))
    bmi = _bmi(people)
    state = stream(seed, "state").standard_normal((n_people, N_VISITS))
    knee = _pain_latents(seed, people, "knee", 2, KNEE_LOADINGS, state)
    eta = _eta(people.female, age, bmi, people.thinning_mm)
    answers: dict[str, Answers] = {}
    for side in range(2):
        latent = eta + log_ndtr(knee[side]) - log_ndtr(-knee[side])
        answers |= _knee_answers(seed, side, latent, attended)
    answers |= _other_answers(seed, people, state, attended)
    nothing = np.full(attended.shape, "", dtype="U1")
    weighed = stream(seed, "weighed").random(attended.shape) < np.nan_to_num(
        _by_visit(targets.BMI_ANSWERED)
    )
    answers["BMI"] = _answer(bmi, targets.CLINIC_VISITS, attended, np.where(weighed, nothing, "."))
    answers["AGE"] = _answer(age, targets.VISITS, attended, nothing)
    answers["VISDYS"] = _answer(days, targets.VISITS, attended, nothing)
    return Cohort(
        seed=seed,
        ids=ids,
        people=people,
        enrollees=_enrollees(seed, ids, people),
        attended=attended,
        visit_day=days,
        age_years=age,
        bmi=bmi,
        answers=answers,
        truth=_truth(),
    )


def has_readings(cohort: Cohort) -> BoolArray:
    """Whose radiographs were ever read for KL, shape (n,)."""
    return _attendance(cohort.seed, cohort.n)[0]


def bisect_offset(score: FloatArray, slope: float, share: float) -> float:
    """The c for which sigmoid(slope score - c) averages to a share."""
    return float(brentq(lambda c: float(expit(slope * score - c).mean()) - share, -40.0, 60.0))
