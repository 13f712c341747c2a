"""ROC, DeLong's test, the bootstrap and calibration against peers and direct sums."""

import hashlib

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score, roc_curve
from statsmodels.discrete.discrete_model import Logit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.stats.proportion import proportion_confint

import sql
from stats.errors import StatisticsError
from stats.roc import (
    METRICS,
    bootstrap,
    calibration,
    curve,
    paired_test,
    performance,
    reliability,
)
from stats.roc_models import compare_models, ensemble
from stats.roc_rows import Scores


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as made:
        made.execute(sql.macro_text())
        yield made


def knees(n: int = 400, *, seed: int = 0, digits: int = 2, models: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.4
    person = random.integers(0, n // 3, n)
    frames = []
    for model in range(models):
        logit = random.normal(size=n) + 0.4 * (model + 1) * truth - 0.5
        p = np.round(1 / (1 + np.exp(-logit)), digits)
        frames.append(
            pl.DataFrame(
                {
                    "the model": f"m{model}",
                    "person": person,
                    "knee_visit": np.arange(n),
                    "is_case": truth.astype(int),
                    "P": p,
                    "other": np.round(np.clip(p + random.normal(size=n) / 5, 0, 1), digits),
                }
            )
        )
    return pl.concat(frames)


def given_scores(connection: duckdb.DuckDBPyConnection, rows: pl.DataFrame, **columns) -> Scores:
    connection.register("knees", rows.to_arrow())
    return Scores("knees", "is_case", "P", **columns)


def one_row(result) -> dict:
    assert len(result.table) == 1
    return result.table.row(0, named=True)


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other class that each case beats: the double sum itself."""
    positive, negative = score[truth == 1][:, None], score[truth == 0][None, :]
    wins = (positive > negative) + 0.5 * (positive == negative)
    return wins.mean(1), wins.mean(0)


def delong(truth: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and their covariance."""
    ten, one = zip(*(placements(truth, score) for score in scores), strict=True)
    covariance = np.cov(ten) / len(ten[0]) + np.cov(one) / len(one[0])
    return np.array([part.mean() for part in ten]), np.atleast_2d(covariance)


@pytest.mark.parametrize("threshold", [0.5, 0.37, 0.0, 1.0])
def test_performance_equals_scikit_learn(connection, threshold: float) -> None:
    rows = knees(digits=1)
    found = one_row(performance(connection, given_scores(connection, rows), threshold=threshold))
    truth, p = rows["is_case"].to_numpy(), rows["P"].to_numpy()
    tn, fp, fn, tp = confusion_matrix(truth, p >= threshold).ravel()
    assert found["sensitivity"] == tp / (tp + fn)
    assert found["specificity"] == tn / (tn + fp)
    assert found["accuracy"] == (tp + tn) / len(truth)
    assert found["balanced_accuracy"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
    assert found["ppv"] == (tp / (tp + fp) if tp + fp else None)
    assert found["npv"] == (tn / (tn + fn) if tn + fn else None)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, p), rel=1e-14)


def test_the_interval_of_auc_is_delongs(connection) -> None:
    rows = knees()
    truth, p = rows["is_case"].to_numpy(), rows["P"].to_numpy()
    (auc,), covariance = delong(truth, p)
    se = np.sqrt(covariance[0, 0])
    scores = given_scores(connection, rows)
    plain = one_row(performance(connection, scores, interval="plain"))
    assert plain["auc_se"] == pytest.approx(se, rel=1e-12)
    z = stats.norm.ppf(0.975)
    assert (plain["auc_low"], plain["auc_high"]) == pytest.approx((auc - z * se, auc + z * se))
    logit = one_row(performance(connection, scores))
    middle, step = np.log(auc / (1 - auc)), z * se / (auc * (1 - auc))
    expected = 1 / (1 + np.exp(-(middle + np.array([-step, step]))))
    assert (logit["auc_low"], logit["auc_high"]) == pytest.approx(tuple(expected))


def test_a_perfect_score_has_no_interval_rather_than_a_point(connection) -> None:
    rows = pl.DataFrame({"is_case": [0, 0, 1, 1], "P": [0.1, 0.2, 0.8, 0.9]})
    found = one_row(performance(connection, given_scores(connection, rows)))
    assert (found["auc"], found["auc_se"]) == (1.0, 0.0)
    assert found["auc_low"] is None
    assert found["youden_threshold"] == 0.8
    alone = one_row(performance(connection, given_scores(connection, rows[1:])))
    assert alone["auc_se"] is None


def test_curve_equals_scikit_learn_and_youden_is_its_highest(connection) -> None:
    rows = knees()
    truth, p = rows["is_case"].to_numpy(), rows["P"].to_numpy()
    fpr, tpr, thresholds = roc_curve(truth, p, drop_intermediate=False)
    found = curve(connection, given_scores(connection, rows)).table
    np.testing.assert_array_equal(found["threshold"], thresholds)
    np.testing.assert_allclose(found["sensitivity"], tpr, rtol=1e-15)
    np.testing.assert_allclose(1 - found["specificity"].to_numpy(), fpr, atol=1e-15)
    best = one_row(performance(connection, given_scores(connection, rows)))
    assert best["youden_index"] == pytest.approx((tpr - fpr).max())
    assert best["youden_threshold"] in thresholds[np.isclose(tpr - fpr, (tpr - fpr).max())]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.5, 1e300, -1e-300])
        ),
        min_size=2,
        max_size=30,
    ).filter(lambda rows: 0 < sum(row[0] for row in rows) < len(rows))
)
def test_any_ties_give_the_double_sum(connection, rows: list) -> None:
    truth, first, second = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    frame = pl.DataFrame({"is_case": truth == 1, "P": first, "other": second})
    found = one_row(paired_test(connection, given_scores(connection, frame), "other"))
    expected = [placements(truth, score)[0].mean() for score in (first, second)]
    assert found["first_auc"] == pytest.approx(expected[0], abs=1e-15)
    assert found["second_auc"] == pytest.approx(expected[1], abs=1e-15)
    single = one_row(performance(connection, given_scores(connection, frame)))
    assert single["auc"] == found["first_auc"]
    if 1 < truth.sum() < len(truth) - 1:
        _, covariance = delong(truth, first, second)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        assert found["se"] == pytest.approx(np.sqrt(max(variance, 0)), abs=1e-7)


def test_paired_test_is_delongs(connection) -> None:
    rows = knees()
    truth = rows["is_case"].to_numpy()
    auc, covariance = delong(truth, rows["P"].to_numpy(), rows["other"].to_numpy())
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = one_row(paired_test(connection, given_scores(connection, rows), "other"))
    assert found["difference"] == pytest.approx(auc[0] - auc[1], rel=1e-12)
    assert found["se"] == pytest.approx(se, rel=1e-10)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(auc[0] - auc[1]) / se), rel=1e-9)
    assert found["ln_p"] == pytest.approx(np.log(found["p"]), rel=1e-12)


def test_scores_that_rank_alike_do_not_differ(connection) -> None:
    rows = knees().with_columns(other=pl.col("P") * 3 - 7)
    found = one_row(paired_test(connection, given_scores(connection, rows), "other"))
    assert (found["difference"], found["se"], found["p"]) == (0.0, 0.0, 1.0)


def test_p_of_the_paired_test_is_uniform_under_the_null(connection) -> None:
    # Two equally noisy readings of one signal, 2,000 times, in one statement.
    random = np.random.default_rng(5)
    draws, n = 2000, 80
    truth = np.tile(np.arange(n) < n // 2, draws)
    signal = random.normal(size=draws * n) + 0.8 * truth
    frame = pl.DataFrame(
        {
            "draw": np.repeat(np.arange(draws), n),
            "is_case": truth,
            "P": signal + random.normal(size=draws * n),
            "other": signal + random.normal(size=draws * n),
        }
    )
    found = paired_test(connection, given_scores(connection, frame, by=("draw",)), "other").table
    assert len(found) == draws
    assert stats.kstest(found["p"], "uniform").pvalue > 0.01


def resampled(seed: int, replicate: int, n_patients: int) -> np.ndarray:
    """The patients a replicate draws, from MD5 as documented."""
    names = (f"{seed}:{replicate}:{draw}" for draw in range(1, n_patients + 1))
    digits = (hashlib.md5(name.encode()).hexdigest()[:13] for name in names)
    return np.array([int(int(text, 16) / 2**52 * n_patients) for text in digits])


def test_bootstrap_equals_numpys_on_the_same_draws(connection) -> None:
    rows = knees(150, digits=1)
    found = bootstrap(
        connection, given_scores(connection, rows, subject="person"), seed=7, n_replicates=40
    ).table
    truth, p, person = (rows[name].to_numpy() for name in ("is_case", "P", "person"))
    people = np.unique(person)
    figures = []
    for replicate in range(1, 41):
        chosen = people[resampled(7, replicate, len(people))]
        index = np.concatenate([np.flatnonzero(person == who) for who in chosen])
        tn, fp, fn, tp = confusion_matrix(truth[index], p[index] >= 0.5).ravel()
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        figures.append(
            (
                (tp + tn) / len(index),
                roc_auc_score(truth[index], p[index]),
                (sensitivity + specificity) / 2,
                tn / (tn + fn),
                tp / (tp + fp),
                sensitivity,
                specificity,
            )
        )
    figures = np.array(figures)
    assert tuple(found["metric"]) == METRICS
    mean, sd = figures.mean(0), figures.std(0, ddof=1)
    np.testing.assert_allclose(found["bootstrap_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found["bootstrap_sd"], sd, rtol=1e-10)
    low, high = np.quantile(figures, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found["percentile_low"], low, rtol=1e-12)
    np.testing.assert_allclose(found["percentile_high"], high, rtol=1e-12)
    np.testing.assert_allclose(found["mean_low"], mean - 1.96 * sd / np.sqrt(40), rtol=1e-12)
    np.testing.assert_allclose(found["mean_high"], mean + 1.96 * sd / np.sqrt(40), rtol=1e-12)
    whole = one_row(performance(connection, given_scores(connection, rows)))
    assert found["estimate"].to_list() == pytest.approx([whole[name] for name in METRICS])


def test_bootstrap_is_the_same_by_any_number_of_threads(connection) -> None:
    rows = knees(300, models=3, digits=15)
    scores = given_scores(connection, rows, by=("the model",), subject="person")
    tables = []
    for threads in (1, 2, 4):
        connection.execute(f"SET threads = {threads}")
        tables.append(bootstrap(connection, scores, seed=1).table)
    connection.execute("RESET threads")
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert not tables[0].equals(bootstrap(connection, scores, seed=2).table)


def test_replicates_of_one_class_are_counted(connection) -> None:
    rows = pl.DataFrame({"is_case": [1, 0, 0], "P": [0.9, 0.2, 0.4], "person": ["a", "b", "c"]})
    found = bootstrap(connection, given_scores(connection, rows, subject="person")).table
    auc = found.row(by_predicate=pl.col("metric") == "auc", named=True)
    assert auc["n_undefined"] > 0
    assert auc["n_replicates"] + auc["n_undefined"] == 100
    accuracy = found.row(by_predicate=pl.col("metric") == "accuracy", named=True)
    assert accuracy["n_undefined"] == 0


def test_calibration_equals_statsmodels(connection) -> None:
    rows = knees(800, models=2, digits=6)
    scores = given_scores(connection, rows, by=("the model",))
    found = calibration(connection, scores).table
    for row in found.iter_rows(named=True):
        part = rows.filter(pl.col("the model") == row["the model"])
        truth, p = part["is_case"].to_numpy(), part["P"].to_numpy()
        logit = np.log(p / (1 - p))
        fit = Logit(truth, np.column_stack([np.ones_like(p), logit])).fit(disp=0, tol=1e-14)
        assert row["converged"]
        assert (row["intercept"], row["slope"]) == pytest.approx(tuple(fit.params), rel=1e-9)
        assert (row["intercept_se"], row["slope_se"]) == pytest.approx(tuple(fit.bse), rel=1e-8)
        low, high = fit.conf_int()[1]
        assert (row["slope_low"], row["slope_high"]) == pytest.approx((low, high), rel=1e-8)
        large = GLM(truth, np.ones_like(p), family=Binomial(), offset=logit).fit(tol=1e-14)
        assert row["in_the_large"] == pytest.approx(large.params[0], rel=1e-8)
        assert row["in_the_large_se"] == pytest.approx(large.bse[0], rel=1e-8)
        assert row["brier"] == pytest.approx(brier_score_loss(truth, p), rel=1e-12)


def test_probabilities_far_from_calibrated_still_settle(connection) -> None:
    random = np.random.default_rng(8)
    logit = random.normal(size=500) * 6 - 9
    truth = random.random(500) < 1 / (1 + np.exp(-(0.1 * logit + 1.5)))
    p = 1 / (1 + np.exp(-logit))
    rows = pl.DataFrame({"is_case": truth, "P": p})
    found = one_row(calibration(connection, given_scores(connection, rows)))
    bounded = np.clip(p, 1e-7, 1 - 1e-7)
    x = np.log(bounded / (1 - bounded))
    fit = Logit(truth.astype(int), np.column_stack([np.ones(500), x])).fit(disp=0, tol=1e-14)
    assert found["converged"]
    assert found["n_bounded"] == (bounded != p).sum() > 0
    assert (found["intercept"], found["slope"]) == pytest.approx(tuple(fit.params), rel=1e-9)


def test_separated_classes_are_flagged(connection) -> None:
    rows = pl.DataFrame({"is_case": [0] * 20 + [1] * 20, "P": np.linspace(0.01, 0.99, 40)})
    found = one_row(calibration(connection, given_scores(connection, rows)))
    assert not found["converged"]
    assert found["slope"] is None


def test_one_probability_for_everybody_is_flagged(connection) -> None:
    rows = pl.DataFrame({"is_case": [0, 1, 1, 0], "P": 0.3})
    found = one_row(calibration(connection, given_scores(connection, rows)))
    assert not found["converged"]
    assert found["slope"] is None


def test_reliability_table(connection) -> None:
    rows = knees()
    truth, p = rows["is_case"].to_numpy(), rows["P"].to_numpy()
    found = reliability(connection, given_scores(connection, rows), n_bins=5).table
    bins = np.minimum((p * 5).astype(int), 4)
    for row in found.iter_rows(named=True):
        inside = bins == row["bin"] - 1
        assert row["n"] == inside.sum()
        assert row["observed"] == truth[inside].mean()
        assert row["mean_predicted"] == pytest.approx(p[inside].mean())
        low, high = proportion_confint(truth[inside].sum(), inside.sum(), method="wilson")
        assert (row["observed_low"], row["observed_high"]) == pytest.approx((low, high))
    assert found["n"].sum() == len(rows)


def test_many_models_in_one_statement_equal_each_alone(connection) -> None:
    rows = knees(200, models=18)
    scores = given_scores(connection, rows, by=("the model",), subject="person")
    together = performance(connection, scores).table
    boot = bootstrap(connection, scores, n_replicates=10).table
    assert len(together) == 18
    for model in ("m0", "m17"):
        part = rows.filter(pl.col("the model") == model)
        alone = given_scores(connection, part, subject="person")
        assert (
            together.filter(pl.col("the model") == model)
            .drop("the model")
            .equals(performance(connection, alone).table)
        )
        assert (
            boot.filter(pl.col("the model") == model)
            .drop("the model")
            .equals(bootstrap(connection, alone, n_replicates=10).table)
        )


def test_the_printed_statement_runs_by_itself(connection) -> None:
    rows = knees(50)
    scores = given_scores(connection, rows, by=("the model",))
    result = performance(connection, scores)
    assert connection.sql(result.sql).pl().equals(result.table.drop("n_dropped"))


def test_ensemble_is_the_mean_and_models_compare_over_it(connection) -> None:
    rows = knees(60, models=3, digits=6)
    scores = given_scores(connection, rows, subject="person", case=("knee_visit",))
    made = ensemble(connection, scores, ["the model"]).table
    expected = rows.group_by("knee_visit").agg(pl.col("P").mean()).sort("knee_visit")
    np.testing.assert_allclose(made["P"], expected["P"], rtol=1e-14)
    assert made["n_members"].unique().to_list() == [3]
    found = one_row(compare_models(connection, scores, {"the model": "m0"}, {"the model": "m2"}))
    wide = rows.pivot(on="the model", index=["knee_visit", "is_case"], values="P")
    side = given_scores(connection, wide.rename({"m0": "P"}))
    direct = one_row(paired_test(connection, side, "m2"))
    assert found["p"] == direct["p"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.filter(pl.col("knee_visit") != 3).vstack(
            rows.filter((pl.col("knee_visit") == 3) & (pl.col("the model") == "m0"))),
         "1 cases lack the score of a member"),
        (lambda rows: rows.with_columns(
            is_case=pl.when((pl.col("knee_visit") == 3) & (pl.col("the model") == "m0"))
            .then(1 - pl.col("is_case")).otherwise(pl.col("is_case"))),
         "disagree on the outcome or patient of 1 cases"),
        (lambda rows: rows.vstack(rows[:1]), "repeat a case"),
    ],
)  # fmt: skip
def test_members_of_an_ensemble_have_to_agree(connection, change, told: str) -> None:
    rows = change(knees(20, models=2))
    scores = given_scores(connection, rows, case=("knee_visit",))
    with pytest.raises(StatisticsError, match=told):
        ensemble(connection, scores, ["the model"])


@pytest.mark.parametrize(
    ("values", "columns", "told"),
    [
        ({"is_case": 1}, {}, "20 cases and 0 others"),
        ({"is_case": 2}, {}, "neither 0 nor 1 in 20 rows"),
        ({"is_case": "yes"}, {}, "outcome is_case is VARCHAR"),
        ({"P": "high"}, {}, "score P is VARCHAR"),
        ({"P": float("nan")}, {}, "20 rows have no outcome or no finite score"),
        ({}, {"by": ("the modle",)}, "did you mean the model"),
        ({"knee_visit": 1}, {"case": ("knee_visit",)}, "19 rows repeat a case"),
        ({"person": None}, {"subject": "person"}, "person is missing in 20 rows"),
        # As pandas keeps whole numbers with gaps.
        ({"person": float("nan")}, {"subject": "person"}, "person is missing in 20 rows"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(connection, values, columns, told: str) -> None:
    rows = knees(20).with_columns(**{name: pl.lit(value) for name, value in values.items()})
    with pytest.raises(StatisticsError, match=told):
        performance(connection, given_scores(connection, rows, **columns))


def test_other_refusals(connection) -> None:
    rows = knees(20).with_columns(P=pl.col("P") * 2)
    scores = given_scores(connection, rows)
    with pytest.raises(StatisticsError, match=r"outside 0\.\.1"):
        calibration(connection, scores)
    with pytest.raises(StatisticsError, match="name their column as `subject`"):
        bootstrap(connection, scores)
    with pytest.raises(StatisticsError, match="there is no table nowhere"):
        performance(connection, Scores("nowhere", "is_case", "P"))
    with pytest.raises(StatisticsError, match="threshold is nan"):
        performance(connection, scores, threshold=float("nan"))


def test_missing_scores_are_dropped_on_demand_and_counted(connection) -> None:
    rows = knees(50, models=2)
    holes = rows.with_columns(
        P=pl.when(pl.col("knee_visit") < 2).then(None).otherwise(pl.col("P")),
        is_case=pl.when((pl.col("knee_visit") == 9) & (pl.col("the model") == "m1"))
        .then(None)
        .otherwise(pl.col("is_case")),
    )
    by = ("the model",)
    found = performance(connection, given_scores(connection, holes, by=by), missing="drop").table
    assert found["n_dropped"].to_list() == [2, 3]
    assert found["n"].to_list() == [48, 47]
    kept = rows.filter(pl.col("knee_visit") >= 2)
    whole = performance(connection, given_scores(connection, kept, by=by)).table
    assert found["auc"][0] == whole["auc"][0]


def test_names_of_a_user_are_only_names(connection) -> None:
    name = 'a "quoted"; DROP TABLE knees --'
    rows = knees(40).rename({"the model": name, "P": "it's P"})
    connection.register("roc_scores", rows.to_arrow())
    scores = Scores("roc_scores", "is_case", "it's P", by=(name,))
    found = performance(connection, scores).table
    assert found[name].to_list() == ["m0"]
