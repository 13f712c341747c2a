"""The simulated cohort against the OAI's published frequencies and the truth planted in it."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2

from lake.tables import MISSING_REASONS, TABLES
from phantom.anatomy import VISIT_YEARS
from phantom.cohort import SIDES, VISITS, Cohort, lesion_depth_mm, simulate_cohort, visit_index
from phantom.cohort_imaging import CohortImaging, image_cohort
from phantom.cohort_tables import cohort_tables, cohort_tissue_volumes
from phantom.delivery import subject_ids
from phantom.knee import knee_truth

SEED = 11
Z_LIMIT = 4.5
CLINIC = ("V00", "V01", "V03", "V05", "V06", "V08")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return simulate_cohort(seed=SEED)


@pytest.fixture(scope="module")
def imaging(cohort) -> CohortImaging:
    return image_cohort(cohort)


@pytest.fixture(scope="module")
def tables(cohort, imaging) -> dict[str, pl.DataFrame]:
    return cohort_tables(cohort, imaging)


@pytest.fixture(scope="module")
def guide(request) -> dict[str, dict[str, dict[str, str]]]:
    """Official counts: stem -> visit prefix -> code or 'N ...' -> count or statistics."""
    shared: Path = request.getfixturevalue("shared_data")
    path = shared.parent / "facts" / "oai_vg_marginals.csv"
    if not path.is_file():
        pytest.skip("needs the OAI variable guide's frequencies, facts/oai_vg_marginals.csv")
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["stem"]][row["prefix"]][row["code_or_stats"].split(":")[0]] = row["n"]
    return found


def _official(guide, stem, visit):
    by_visit = guide[stem]
    return by_visit.get(visit) or by_visit["P01"]


def _column(cohort, stem, visit):
    answers, at = cohort.answers[stem], visit_index(visit)
    return answers.value[:, at], answers.letter[:, at]


def _z(count, n, share):
    return (count / n - share) / np.sqrt(share * (1.0 - share) / n)


YES_NO = [
    *(f"KP{kind}" for kind in ("NR12", "NL12", "R12CV", "L12CV", "R30CV", "L30CV")),
    *("RKP30CV", "LKP30CV", "HPNR12", "HPNL12", "HPR12CV", "HPL12CV", "BP30"),
]
BOXES = ["OJPNNK", *(f"OJPN{side}{joint}" for joint in "SEWHAF" for side in "RL")]


def test_yes_no_answers_have_the_official_shares(cohort, guide):
    found = {}
    for stem in YES_NO:
        for visit in (*CLINIC, *(("V07", "V09") if stem[0] in "KRL" else ())):
            official = _official(guide, stem, visit)
            yes, no = int(official["1"]), int(official["0"])
            value, letter = _column(cohort, stem, visit)
            answered = letter == ""
            found[stem, visit] = _z(value[answered].sum(), answered.sum(), yes / (yes + no))
    scores = np.array(list(found.values()))
    assert np.abs(scores).max() < Z_LIMIT, max(found.items(), key=lambda item: abs(item[1]))
    # Each person answers many of them alike, so the scores are not independent of one another.
    assert 0.4 < np.sqrt(np.mean(scores**2)) < 1.6


def test_tick_boxes_have_the_official_shares(cohort, guide):
    found = {}
    for visit in CLINIC:
        none = _official(guide, "OJPNNO", visit)
        asked = int(none["0"]) + int(none[".A"])
        _, letter = _column(cohort, "OJPNNO", visit)
        answered = np.isin(letter, ["", "A"]) & cohort.attended[:, visit_index(visit)]
        found["OJPNNO", visit] = _z(
            (letter[answered] == "").sum(), answered.sum(), int(none["0"]) / asked
        )
        for stem in BOXES:
            ticked = _column(cohort, stem, visit)[1][answered] == ""
            share = int(_official(guide, stem, visit)["1"]) / asked
            found[stem, visit] = _z(ticked.sum(), answered.sum(), share)
    assert max(map(abs, found.values())) < Z_LIMIT, max(found.items(), key=lambda i: abs(i[1]))


def test_back_pain_frequency_is_distributed_as_official(cohort, guide):
    for visit in CLINIC:
        official = _official(guide, "BP30OFT", visit)
        shares = np.array([int(official[str(code)]) for code in range(4)], float)
        value, letter = _column(cohort, "BP30OFT", visit)
        counts = np.bincount(value[letter == ""].astype(int), minlength=4)
        expected = shares / shares.sum() * counts.sum()
        assert np.sum((counts - expected) ** 2 / expected) < chi2.ppf(1 - 1e-5, 3)


@pytest.mark.parametrize("stem", ["KPNR12M", "KPNL12M", "WOMKPR", "WOMKPL", "BMI", "AGE", "VISDYS"])
def test_means_and_spreads_are_the_official_ones(cohort, guide, stem):
    for visit in VISITS[:10]:
        official = guide[stem].get(visit) or (guide[stem].get("P01") if visit == "V00" else None)
        if official is None:
            continue
        text = next(text for name, text in official.items() if name.startswith("N Min"))
        n, _, _, mean, sd = map(float, text.split())
        value, letter = _column(cohort, stem, visit)
        value = value[letter == ""]
        # Both samples vary; at V02 and V04 the official one is small.
        error = sd * np.sqrt(1.0 / len(value) + 1.0 / n)
        assert abs(value.mean() - mean) < Z_LIMIT * error + 0.005, (visit, value.mean(), mean)
        assert abs(value.std() / sd - 1.0) < 0.05 + 2.5 / np.sqrt(min(len(value), n)), visit


def test_as_many_come_as_officially_came(cohort, guide):
    for visit in VISITS[1:10]:
        official = float(next(iter(guide["VISDYS"][visit].values())).split()[0])
        came = cohort.attended[:, visit_index(visit)].sum()
        assert abs(_z(came, cohort.n, official / 4796)) < Z_LIMIT, visit
    assert cohort.attended[:, 0].all()


def test_kl_grades_are_distributed_as_official(imaging, guide):
    rows = imaging.readings
    for visit in (*CLINIC, "V10"):
        official = np.array([int(guide["XRKL"][visit][str(grade)]) for grade in range(5)], float)
        here = (rows.visit == visit_index(visit)) & (rows.letter == "")
        counts = np.bincount(rows.kl[here].astype(int), minlength=5)
        shares = official / official.sum()
        # Both samples vary, and the knees of a person resemble each other: half as many count.
        # Few people of project 37 reach the top grades, so these are pooled.
        pooled = np.append(counts[:3], counts[3:].sum()), np.append(shares[:3], shares[3:].sum())
        seen, expected = pooled[0], pooled[1] * counts.sum()
        variance_factor = 2.0 * (1.0 + counts.sum() / official.sum())
        statistic = np.sum((seen - expected) ** 2 / expected) / variance_factor
        assert statistic < chi2.ppf(1 - 1e-5, 3), (visit, counts, official)
        assert abs(counts.sum() / official.sum() - 1.0) < 0.06, visit


@pytest.mark.parametrize(("stem", "name"), [("XRJSM", "jsn_medial"), ("XRJSL", "jsn_lateral"),
                                            ("MCMJSW", "jsw_mm")])  # fmt: skip
def test_joint_space_has_the_official_means(imaging, guide, stem, name):
    rows = imaging.readings
    for visit in (*CLINIC, "V10"):
        n, _, _, mean, sd = map(float, next(iter(guide[stem][visit].values())).split())
        value = getattr(rows, name)[rows.visit == visit_index(visit)]
        value = value[np.isfinite(value)]
        error = sd * np.sqrt(2.0 / len(value) + 2.0 / n)
        assert abs(value.mean() - mean) < Z_LIMIT * error + 0.01, (visit, value.mean(), mean)
        assert abs(value.std() / sd - 1.0) < 0.15, (visit, value.std(), sd)


def test_replacements_are_as_many_and_as_late_as_official(imaging, guide):
    n, first, last, mean, sd = map(float, next(iter(guide["ERKDAYS"]["V99"].values())).split())
    day = imaging.replacements.day[:, 0]
    day = day[np.isfinite(day)]
    assert abs(len(day) - n) < Z_LIMIT * np.sqrt(2.0 * n)
    assert abs(day.mean() - mean) < Z_LIMIT * sd * np.sqrt(2.0 / n)
    assert day.min() >= first
    assert day.max() <= last


def test_enrolment_matches_the_official_table(tables):
    enrollees = tables["enrollees"]
    for column, value, official in (
        ("sex", "M", 1992), ("race", "white", 3790), ("race", "black", 874), ("race", "asian", 45),
        ("cohort", "progression", 1390), ("cohort", "control", 122), ("site", "A", 756),
        ("site", "C", 1306),
    ):  # fmt: skip
        count = (enrollees[column] == value).sum()
        assert abs(_z(count, enrollees.height, official / 4796)) < Z_LIMIT, (column, value, count)


def test_same_seed_same_cohort_and_small_ones_are_the_start_of_large_ones(cohort, tables):
    again = cohort_tables(simulate_cohort(seed=SEED))
    for name, table in tables.items():
        assert table.equals(again[name], null_equal=True)
    small = cohort_tables(simulate_cohort(24, seed=SEED))
    people = small["enrollees"]["subject_id"].implode()
    for name, table in small.items():
        whole = tables[name].filter(pl.col("subject_id").is_in(people))
        assert table.sort(table.columns[:4]).equals(whole.sort(table.columns[:4]), null_equal=True)
    other = simulate_cohort(24, seed=SEED + 1)
    assert not np.array_equal(other.age_years, cohort.age_years[:24])


def test_study_numbers_start_with_1_and_are_those_of_the_image_phantom(cohort):
    assert cohort.ids.tolist() == subject_ids(4796)
    assert all(re.fullmatch(r"1\d{6}", str(subject)) for subject in cohort.ids.tolist())
    assert len(set(cohort.ids.tolist())) == cohort.n


def test_severity_and_thinning_are_those_of_the_rendered_knees(cohort):
    for index, timepoint in ((0, "V00"), (5, "V06"), (40, "V10")):
        for side in SIDES:
            truth = knee_truth(SEED, int(cohort.ids[index]), side, timepoint)
            grown = truth.severity * lesion_depth_mm()
            planted = cohort.people.thinning_mm[index, visit_index(timepoint)]
            assert planted == pytest.approx(grown, abs=1e-12)
    assert lesion_depth_mm() == pytest.approx(1.6)


def test_a_wrong_number_of_people_is_refused():
    for wrong in (0, 100_000):
        with pytest.raises(ValueError, match="n_people"):
            simulate_cohort(wrong, seed=1)


def test_pain_goes_together_across_joints_and_visits(cohort):
    at = visit_index("V00")
    ticked = np.array([cohort.answers[stem].letter[:, at] == "" for stem in BOXES], float)
    knees = np.array([cohort.answers[stem].value[:, at] for stem in ("KPR30CV", "KPL30CV")])
    known = np.isfinite(knees).all(axis=0)
    both = np.corrcoef(np.vstack([ticked, knees])[:, known])
    off_diagonal = both[~np.eye(len(both), dtype=bool)]
    assert off_diagonal.min() > 0.02
    assert both[-1, -2] > 0.15
    # A person's right shoulder is more like the left one than like a foot.
    names = [*BOXES, "KPR30CV", "KPL30CV"]
    shoulders = both[names.index("OJPNRS"), names.index("OJPNLS")]
    assert shoulders > both[names.index("OJPNRS"), names.index("OJPNRF")] + 0.1
    pain = cohort.answers["KPR12CV"].value
    came = np.isfinite(pain[:, [at, visit_index("V06")]]).all(axis=1)
    later = np.corrcoef(pain[came, at], pain[came, visit_index("V06")])[0, 1]
    assert later > 0.3


def test_answers_agree_with_one_another(tables):
    visits = tables["clinical_visits"]
    for side in ("right", "left"):
        any_pain, frequent = (
            pl.col(f"knee_{what}_pain_12m_{side}") for what in ("any", "frequent")
        )
        months = pl.col(f"knee_frequent_pain_months_12m_{side}")
        assert visits.filter(~any_pain & frequent).is_empty()
        assert visits.filter(~any_pain & pl.col(f"knee_any_pain_30d_{side}")).is_empty()
        assert visits.filter(~frequent & months.is_not_null()).is_empty()
        assert visits.filter(months.is_not_null() & ~months.is_between(1, 12)).is_empty()
    back = pl.col("back_pain_frequency_30d").is_not_null()
    assert visits.filter(back & ~pl.col("back_any_pain_30d")).is_empty()


def test_knees_get_worse_and_people_older(cohort, imaging):
    rows = imaging.readings
    grades, widths = np.full((2, cohort.n, 2), np.nan), np.full((2, cohort.n, 2), np.nan)
    for number, visit in enumerate(("V00", "V06")):
        here = (rows.visit == visit_index(visit)) & (rows.project == 15)
        grades[number, rows.person[here], rows.side[here]] = rows.kl[here]
        widths[number, rows.person[here], rows.side[here]] = rows.jsw_mm[here]
    change = (grades[1] - grades[0])[np.isfinite(grades).all(axis=0)]
    narrowed = (widths[1] - widths[0])[np.isfinite(widths).all(axis=0)]
    assert np.mean(change > 0) > 3 * np.mean(change < 0)
    assert narrowed.mean() < -0.15
    years = cohort.age_years[:, visit_index("V06")] - cohort.age_years[:, 0]
    came = cohort.attended[:, visit_index("V06")]
    assert years[came].mean() == pytest.approx(4.03, abs=0.05)
    assert (np.diff(cohort.people.thinning_mm[:, [0, 1, 3, 5, 6, 8, 10]]) >= 0).all()
    weight = cohort.bmi[:, [0, visit_index("V06")]]
    assert 0.85 < np.corrcoef(weight.T)[0, 1] < 0.99


def test_grade_thinning_and_pain_tell_one_story(cohort, imaging):
    rows = imaging.readings
    first = (rows.visit == 0) & (rows.project == 15) & (rows.letter == "") & (rows.side == 0)
    person, grade = rows.person[first], rows.kl[first]
    assert np.corrcoef(grade, cohort.people.severity[person])[0, 1] > 0.5
    pain = cohort.answers["KPR12CV"].value[person, 0]
    assert np.nanmean(pain[grade >= 3]) > np.nanmean(pain[grade <= 1]) + 0.05
    width = rows.jsw_mm[first]
    known = np.isfinite(width)
    assert np.corrcoef(grade[known], width[known])[0, 1] < -0.4


@pytest.mark.parametrize(
    ("side", "level"), [("RIGHT", "any"), ("LEFT", "any"), ("RIGHT", "chronic")]
)
def test_a_logistic_regression_finds_the_planted_coefficients(cohort, side, level):
    import statsmodels.api as sm

    letter, truth = side[0], cohort.truth
    outcome, design, offset, group = [], [], [], []
    for visit in (*CLINIC, "V10"):
        at = visit_index(visit)
        pain = cohort.answers[f"KPN{letter}12"].value[:, at]
        if level == "chronic":
            months = cohort.answers[f"KPN{letter}12M"].value[:, at]
            frequent = cohort.answers[f"KP{letter}12CV"].value[:, at]
            unknown = np.isnan(frequent) | ((frequent == 1) & np.isnan(months))
            pain = np.where(unknown, np.nan, np.nan_to_num(months) > 6)
        bmi = cohort.answers["BMI"].value[:, at]
        known = np.isfinite(pain) & np.isfinite(bmi)
        outcome.append(pain[known])
        design.append(
            np.column_stack(
                [
                    (cohort.age_years[known, at] - 61.0) / 10.0,
                    (bmi[known] - 28.6) / 5.0,
                    cohort.enrollees.sex[known] == 2,
                    cohort.people.thinning_mm[known, at],
                ]
            )
        )
        threshold = truth.any_threshold if level == "any" else truth.chronic_threshold
        offset.append(np.full(known.sum(), -threshold[side][visit]))
        group.append(np.flatnonzero(known))
    x = sm.add_constant(np.concatenate(design).astype(float))
    model = sm.GLM(
        np.concatenate(outcome), x, sm.families.Binomial(), offset=np.concatenate(offset)
    )
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": np.concatenate(group)})
    planted = np.array([0.0, truth.age, truth.bmi, truth.female, truth.thinning])
    assert (np.abs(fit.params - planted) < 4.0 * fit.bse).all(), (fit.params, fit.bse)
    # Planted strongly enough to be told from nothing.
    assert fit.params[4] > 4.0 * fit.bse[4]


def test_tables_are_those_of_the_registry(tables):
    for name, table in tables.items():
        registered = TABLES[name]
        expected = [
            column for column in registered.columns if column.name not in {"retracted", "batch_id"}
        ]
        assert set(table.columns) == {column.name for column in expected}
        for column in expected:
            series = table[column.name]
            if column.allowed:
                assert set(series.drop_nulls().unique()) <= set(column.allowed), column.name
            if column.minimum is not None:
                assert (series.drop_nulls() >= column.minimum).all(), column.name
            if column.maximum is not None:
                assert (series.drop_nulls() <= column.maximum).all(), column.name
            if f"{column.name}_missing" in table.columns:
                reason = table[f"{column.name}_missing"]
                assert (series.is_null() == reason.is_not_null()).all(), column.name
                assert set(reason.drop_nulls().unique()) <= set(MISSING_REASONS)
        assert table.select(registered.grain).is_unique().all()


def test_readings_follow_the_projects_rules(imaging, cohort):
    rows = imaging.readings
    assert set(rows.written_project.tolist()) == {15, 37, 42}
    assert (rows.project[rows.written_project == 42] == 37).all()
    key = np.stack([rows.person, rows.side, rows.visit])
    twice = key.shape[1] - np.unique(key, axis=1).shape[1]
    assert twice > 4000
    for visit in ("V08", "V10"):
        here = (rows.visit == visit_index(visit)) & (rows.letter == "")
        assert (rows.project[here] == 37).all()
        assert np.mean(rows.kl[here] <= 1) > 0.85
    without = cohort.n - len(np.unique(rows.person))
    assert abs(without - 288) < Z_LIMIT * np.sqrt(2 * 288)


def test_t2_maps_are_of_right_knees_but_for_a_few(imaging):
    scans = imaging.scans
    t2 = scans.acquired & (scans.sequence == 1)
    left = np.mean(scans.side[t2] == 1)
    assert 0.0 < left < 0.06
    dess = scans.acquired & (scans.sequence == 0)
    assert 0.45 < np.mean(scans.side[dess] == 1) < 0.52
    assert {VISITS[visit] for visit in np.unique(scans.visit)} == set(VISIT_YEARS)


def _widespread(visits: pl.DataFrame, *, any_back: bool) -> pl.DataFrame:
    """The paper's words, done anew: above the waist, below it, and along the axis."""

    def some(*names: str) -> pl.Expr:
        return pl.any_horizontal([pl.col(name).fill_null(value=False) for name in names])

    def pair(name: str) -> list[str]:
        return [f"{name}_right", f"{name}_left"]

    above = some(*(n for j in ("shoulder", "elbow", "wrist", "hand")
                   for n in pair(f"{j}_frequent_pain_30d")))  # fmt: skip
    below = some(
        *pair("hip_frequent_pain_12m"), *pair("knee_frequent_pain_30d"),
        *pair("ankle_frequent_pain_30d"), *pair("foot_frequent_pain_30d"),
    )  # fmt: skip
    often = (pl.col("back_pain_frequency_30d") >= 2).fill_null(value=False)
    back = pl.col("back_any_pain_30d").fill_null(value=False) if any_back else often
    axial = back | some("neck_frequent_pain_30d")
    return visits.select("subject_id", "timepoint", widespread=above & below & axial)


@pytest.mark.parametrize(("any_back", "by_patient"), [(True, False), (False, True)])
def test_the_flow_keeps_the_papers_shares(cohort, imaging, tables, any_back, by_patient):
    visits, scans, films = (
        tables[name] for name in ("clinical_visits", "scans_listed", "radiographs")
    )
    dess = scans.filter((pl.col("sequence") == "DESS") & pl.col("acquired"))
    volumes = cohort_tissue_volumes(cohort, imaging)
    score = (pl.col("volume_mm3") - pl.col("volume_mm3").mean()) / pl.col("volume_mm3").std()
    poor = volumes.filter(score.over("tissue").abs() > 3.0)["knee_visit"].unique()
    segmented = dess.filter(~pl.col("knee_visit").is_in(poor.implode()))
    right = segmented.filter(pl.col("side") == "RIGHT")
    read = films.filter(pl.col("kl_grade").is_not_null())["knee_visit"].unique()
    graded = right.filter(pl.col("knee_visit").is_in(read.implode()))

    widespread = _widespread(visits, any_back=any_back)
    if by_patient:
        widespread = widespread.with_columns(pl.col("widespread").any().over("subject_id"))
    chronic = pl.col("knee_frequent_pain_12m_right") & (
        pl.col("knee_frequent_pain_months_12m_right") > 6
    )
    none = ~pl.col("knee_any_pain_12m_right")
    labelled = (
        graded.join(visits, on=["subject_id", "timepoint"])
        .join(widespread, on=["subject_id", "timepoint"])
        .filter(chronic.fill_null(value=False) | none.fill_null(value=False))
        .filter(~pl.col("widespread"))
    )
    counts = [len(dess), len(segmented), len(right), len(graded), len(labelled)]
    paper = [47_078, 46_817, 24_353, 21_118, 7_437]
    for before, after, paper_before, paper_after in zip(
        counts, counts[1:], paper, paper[1:], strict=False
    ):
        kept, published = after / before, paper_after / paper_before
        assert abs(kept - published) < 0.05, (counts, kept, published)
    planted = volumes.filter("is_planted_failure")["knee_visit"].unique()
    assert set(poor.to_list()) == set(planted.to_list())
