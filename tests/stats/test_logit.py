"""Logistic regression against statsmodels, and against the paper's published file."""

import hashlib

import duckdb
import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logit_reference import reference
from scipy.optimize import brentq
from scipy.stats import chi2, kstest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from stats.errors import StatisticsWarning
from stats.logit import bootstrap_logit, fit_logit, fit_logit_groups, nested_logit
from stats.source import load_macros, open_source

FEMUR = ["Age", "BMI", "Sex", "MF", "LF"]


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        load_macros(opened)
        yield opened


@pytest.fixture(scope="module")
def femur(shared_data):
    with open_source(shared_data / "published" / "femurlogisticvariables.csv") as source:
        yield source


def values(fit, name):
    return np.array([getattr(term, name) for term in fit.terms])


def table(connection, name="rows", **columns):
    connection.register("columns_given", pl.DataFrame(columns))
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM columns_given")
    connection.unregister("columns_given")


def sample(rng, n, p, effect=0.5, intercept=-0.7):
    x = rng.normal(size=(n, p))
    odds = intercept + effect * x[:, 0] - effect / 2 * x[:, -1]
    return x, (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(float)


def put(connection, x, y, **more):
    table(connection, **{f"x{k}": x[:, k] for k in range(x.shape[1])}, y=y, **more)
    return [f"x{k}" for k in range(x.shape[1])]


def assert_agree(fit, wanted, rtol=1e-10):
    np.testing.assert_allclose(
        values(fit, "estimate"), wanted.estimates, rtol=rtol, atol=1e-10 * wanted.se.min()
    )
    np.testing.assert_allclose(values(fit, "se"), wanted.se, rtol=rtol)
    np.testing.assert_allclose(values(fit, "p"), wanted.p, rtol=1e-8)
    assert fit.loglik == pytest.approx(wanted.loglik, rel=1e-12)
    assert fit.loglik_null == pytest.approx(wanted.loglik_null, rel=1e-12)


# statsmodels 0.15 on the authors' file, to 9 digits (Newton, tolerance 1e-14).
PUBLISHED = {
    "base": {
        "Intercept": (-3.97283376, 0.728232248, 4.88492982e-08),
        "Age": (-0.0110231528, 0.00509904502, 0.030633032),
        "BMI": (0.0770092403, 0.0100520008, 1.84367713e-14),
        "Sex": (0.193140005, 0.114098468, 0.0905033578),
        "LF": (1.28685636, 0.246450361, 1.77418189e-07),
        "MF": (-0.582259369, 0.264498661, 0.0277098539),
    },
    "full": {
        "Intercept": (-2.69912418, 0.756676593, 3.60984512e-04),
        "Age": (-0.0197154674, 0.00535770833, 2.33387513e-04),
        "BMI": (0.0513946217, 0.0105604666, 1.13477143e-06),
        "Sex": (0.087779311, 0.117544356, 0.45519875),
        "LF": (2.28723644, 0.268390281, 1.56748384e-17),
        "MF": (2.24528879, 0.363509601, 6.54563822e-10),
        "DLROI": (-3.66454662, 0.319676993, 2.01729446e-30),
    },
}


@pytest.mark.parametrize("engine", ["sql", "polars"])
def test_published_femur_table(femur, engine):
    nested = nested_logit(
        femur.connection, femur.relation, "Outcome", FEMUR, ["DLROI"],
        engine=engine, file=femur.path if engine == "polars" else None,
    )  # fmt: skip
    for fit, wanted in ((nested.base, PUBLISHED["base"]), (nested.full, PUBLISHED["full"])):
        assert (fit.n, fit.n_dropped, fit.n_events) == (2149, 0, 713)
        for name, (estimate, se, p) in wanted.items():
            term = fit.term(name)
            assert term.estimate == pytest.approx(estimate, rel=5e-9)
            assert term.se == pytest.approx(se, rel=5e-9)
            assert term.p == pytest.approx(p, rel=5e-9)
    assert nested.base.loglik_null == pytest.approx(-1365.5468147, abs=5e-8)
    assert nested.base.loglik == pytest.approx(-1310.2897060725, abs=5e-10)
    assert nested.full.loglik == pytest.approx(-1238.9652569394, abs=5e-10)
    assert nested.lrt.p == pytest.approx(7.01452498e-33, rel=1e-9)
    assert nested.lrt.log_p == pytest.approx(np.log(7.0145249802217564e-33), rel=1e-12)
    rocs = [
        (round(100 * roc.sensitivity, 4), round(100 * roc.specificity, 4), round(100 * roc.auc, 6))
        for roc in (nested.base_roc, nested.full_roc)
    ]
    assert rocs == [(13.4642, 95.195, 63.264503), (33.5203, 89.7632, 69.246329)]


def test_printed_statement_gives_the_same_in_another_session(femur):
    nested = nested_logit(femur.connection, femur.relation, "Outcome", FEMUR, ["DLROI"])
    with open_source(femur.path) as other:
        found = other.connection.sql(nested.sql).pl()
    assert found.filter(fit="full", term="DLROI")["estimate"].item() == pytest.approx(
        -3.66454662, rel=1e-8
    )
    assert found["lr_p"][-1] == pytest.approx(7.01452498e-33, rel=1e-8)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    p=st.integers(1, 20),
    collinear=st.sampled_from([0.0, 1e-3, 1e-6]),
    shift=st.sampled_from([0.0, 1e3, 1e6]),
    weighted=st.booleans(),
    with_offset=st.booleans(),
    rare=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_statsmodels(
    connection, p, collinear, shift, weighted, with_offset, rare, seed
):
    rng = np.random.default_rng(seed)
    n = 200 + 60 * p + 2000 * rare
    x, y = sample(rng, n, p, intercept=-3.5 if rare else -0.7)
    if collinear and p > 1:
        # Correlation 1 - collinear.
        x[:, 1] = x[:, 0] + np.sqrt(2 * collinear) * x[:, 1]
    x += shift
    weights = rng.integers(1, 4, n).astype(float) if weighted else None
    offset = rng.normal(size=n) if with_offset else None
    more = {"w": weights} if weighted else {}
    more |= {"o": offset} if with_offset else {}
    terms = put(connection, x, y, **more)
    fit = fit_logit(
        connection, "rows", "y", terms,
        weights="w" if weighted else None, offset="o" if with_offset else None,
    )  # fmt: skip
    assert fit.converged
    assert not fit.separated
    assert fit.n == (n if weights is None else weights.sum())
    assert_agree(fit, reference(y, x, weights, offset))


def test_tiny_p_values_keep_their_digits(connection):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60_000, 2))
    y = (rng.random(60_000) < 1 / (1 + np.exp(-0.3 * x[:, 0]))).astype(float)
    fit = fit_logit(connection, "rows", "y", put(connection, x, y))
    assert 1e-300 < fit.terms[1].p < 1e-200
    assert fit.terms[1].log_p == pytest.approx(np.log(fit.terms[1].p), rel=1e-13)
    assert_agree(fit, reference(y, x))


def test_weights_are_repeated_rows(connection):
    rng = np.random.default_rng(1)
    x, y = sample(rng, 150, 2)
    weights = rng.integers(0, 4, 150)
    terms = put(connection, x, y, w=weights, patient=np.arange(150) // 3)
    weighted = fit_logit(connection, "rows", "y", terms, weights="w", cluster="patient")
    polars = fit_logit(
        connection, "rows", "y", terms, weights="w", cluster="patient", engine="polars"
    )
    put(connection, np.repeat(x, weights, 0), np.repeat(y, weights),
        patient=np.repeat(np.arange(150) // 3, weights))  # fmt: skip
    repeated = fit_logit(connection, "rows", "y", terms, cluster="patient")
    for fit in (weighted, polars):
        assert (fit.n, fit.n_events) == (repeated.n, repeated.n_events)
        for name in ("estimate", "se", "cluster_se", "vif"):
            np.testing.assert_allclose(
                values(fit, name)[1:].astype(float),
                values(repeated, name)[1:].astype(float),
                rtol=1e-12,
            )


@pytest.mark.parametrize("engine", ["sql", "polars"])
def test_cluster_robust(connection, engine):
    rng = np.random.default_rng(2)
    x, y = sample(rng, 600, 3)
    patient = rng.integers(0, 120, 600)
    terms = put(connection, x, y, patient=[f"p{k}" for k in patient])
    nested = nested_logit(
        connection, "rows", "y", terms[:1], terms[1:], cluster="patient", engine=engine
    )
    wanted = sm.Logit(y, sm.add_constant(x)).fit(
        disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": patient}
    )
    fit = nested.full
    assert fit.n_clusters == len(np.unique(patient))
    np.testing.assert_allclose(values(fit, "cluster_se"), wanted.bse, rtol=1e-10)
    np.testing.assert_allclose(values(fit, "cluster_p"), wanted.pvalues, rtol=1e-8)
    np.testing.assert_allclose(fit.cluster_covariance, wanted.cov_params(), rtol=1e-9)
    joint = wanted.wald_test(np.eye(4)[2:], scalar=True)
    assert nested.wald.chi2 == pytest.approx(float(joint.statistic), rel=1e-9)
    assert nested.wald.p == pytest.approx(float(joint.pvalue), rel=1e-8)
    bounds = wanted.conf_int()
    np.testing.assert_allclose(values(fit, "cluster_ci_low"), bounds[:, 0], rtol=1e-9)
    np.testing.assert_allclose(values(fit, "cluster_ci_high"), bounds[:, 1], rtol=1e-9)


def test_fit_level_numbers(connection):
    rng = np.random.default_rng(3)
    x, y = sample(rng, 400, 3)
    x[:, 2] += x[:, 0]
    fit = fit_logit(connection, "rows", "y", put(connection, x, y), confidence=0.9)
    wanted = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14)
    assert fit.aic == pytest.approx(wanted.aic, rel=1e-12)
    assert fit.df == 3
    np.testing.assert_allclose(fit.covariance, wanted.cov_params(), rtol=1e-9)
    bounds = wanted.conf_int(0.1)
    np.testing.assert_allclose(values(fit, "ci_low"), bounds[:, 0], rtol=1e-9)
    np.testing.assert_allclose(values(fit, "odds_ratio"), np.exp(wanted.params), rtol=1e-10)
    np.testing.assert_allclose(values(fit, "or_high"), np.exp(bounds[:, 1]), rtol=1e-9)
    vif = [variance_inflation_factor(sm.add_constant(x), k) for k in (1, 2, 3)]
    np.testing.assert_allclose(values(fit, "vif")[1:].astype(float), vif, rtol=1e-10)
    standard = (x - x.mean(0)) / x.std(0)
    assert fit.condition_number == pytest.approx(
        np.linalg.cond(sm.add_constant(standard)), rel=1e-10
    )


def test_factors_and_interactions(connection):
    rng = np.random.default_rng(4)
    n = 900
    sex, race = rng.choice(["F", "M"], n), rng.choice([1, 2, 3], n)
    age = rng.normal(60, 9, n)
    y = rng.random(n) < 1 / (1 + np.exp(0.3 - 0.5 * (sex == "M") + 0.2 * race - 0.02 * (age - 60)))
    table(connection, y=y, Sex=sex, race=race, age=age)
    fit = fit_logit(connection, "rows", "y", ["Sex*age", "C(race, 2)"])
    names = [term.term for term in fit.terms]
    assert names == [
        "Intercept", "Sex[M vs F]", "age", "Sex[M vs F]:age", "race[1 vs 2]", "race[3 vs 2]",
    ]  # fmt: skip
    assert fit.levels == {"Sex": ("F", "M"), "race": ("2", "1", "3")}
    male = (sex == "M").astype(float)
    x = np.column_stack([male, age, male * age, race == 1, race == 3]).astype(float)
    assert_agree(fit, reference(y.astype(float), x))
    polars = fit_logit(connection, "rows", "y", ["Sex*age", "C(race, 2)"], engine="polars")
    np.testing.assert_allclose(values(polars, "estimate"), values(fit, "estimate"), rtol=1e-11)
    swapped = fit_logit(connection, "rows", "y", ["C(Sex, 'M')", "age"])
    assert swapped.terms[1].term == "Sex[F vs M]"


def test_many_models_in_one_statement(connection):
    rng = np.random.default_rng(6)
    x, y = sample(rng, 900, 2)
    bone = rng.choice(["femur", "tibia", "patella"], 900)
    y[bone == "patella"] = 1
    terms = put(connection, x, y, bone=bone, site=rng.integers(0, 2, 900))
    with pytest.warns(UserWarning, match="is 1 in all"):
        fits = fit_logit_groups(connection, "rows", "y", terms, by=["bone", "site"])
    assert [tuple(fit.group.values()) for fit in fits] == [
        (b, s) for b in ("femur", "patella", "tibia") for s in (0, 1)
    ]
    for fit in fits:
        alone = f"(FROM rows WHERE bone = '{fit.group['bone']}' AND site = {fit.group['site']})"
        connection.execute(f"CREATE OR REPLACE VIEW alone AS {alone}")
        if fit.group["bone"] == "patella":
            assert fit.terms == ()
            assert "nothing to tell apart" in fit.problem
            continue
        wanted = fit_logit(connection, "alone", "y", terms)
        assert fit.n == wanted.n
        for name in ("estimate", "se", "p"):
            np.testing.assert_allclose(values(fit, name), values(wanted, name), rtol=1e-10)


def mixed(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def draws_by_hand(seed, replicate, units):
    digest = int.from_bytes(hashlib.md5(f"{seed}:{replicate}".encode()).digest(), "little")
    key1, key2 = digest & 0xFFFFFFFF, (digest >> 32) & 0xFFFFFFFF
    return [(mixed(mixed(d ^ key1) ^ key2) * units) >> 32 for d in range(units)]


@pytest.mark.parametrize("engine", ["sql", "polars"])
def test_bootstrap_by_patient(connection, engine):
    rng = np.random.default_rng(7)
    x, y = sample(rng, 400, 2)
    patient = np.sort(rng.integers(0, 100, 400))
    terms = put(connection, x, y, patient=patient)
    found = bootstrap_logit(
        connection, "rows", "y", terms, cluster="patient", n_replicates=60, seed=9, engine=engine
    )
    connection.execute("SET threads = 1")
    again = bootstrap_logit(
        connection, "rows", "y", terms, cluster="patient", n_replicates=60, seed=9, engine=engine
    )
    connection.execute("RESET threads")
    assert again["n"].equals(found["n"])
    np.testing.assert_allclose(found["x0"], again["x0"], rtol=1e-11)
    known = np.unique(patient)
    for replicate in (1, 2, 60):
        times = np.bincount(draws_by_hand(9, replicate, len(known)), minlength=len(known))
        weights = times[np.searchsorted(known, patient)]
        assert found["n"][replicate - 1] == weights.sum()
        wanted = reference(y, x, weights.astype(float))
        row = found.row(replicate - 1, named=True)
        np.testing.assert_allclose(
            [row["Intercept"], row["x0"], row["x1"]], wanted.estimates, rtol=1e-9, atol=1e-11
        )
        assert row["loglik"] == pytest.approx(wanted.loglik, rel=1e-9)


@pytest.mark.parametrize("engine", ["sql", "polars"])
def test_bootstrap_by_row_spreads_as_the_standard_error(connection, engine):
    rng = np.random.default_rng(8)
    x, y = sample(rng, 500, 2)
    terms = put(connection, x, y)
    found = bootstrap_logit(connection, "rows", "y", terms, n_replicates=400, seed=1, engine=engine)
    assert (found["n"] == 500).all()
    assert found["converged"].all()
    fit = fit_logit(connection, "rows", "y", terms)
    # The standard error of a spread from 400 draws is 3.5 %.
    assert found["x0"].std() == pytest.approx(fit.terms[1].se, rel=0.12)
    connection.execute("CREATE OR REPLACE TABLE rows AS FROM rows ORDER BY random()")
    shuffled = bootstrap_logit(
        connection, "rows", "y", terms, n_replicates=400, seed=1, engine=engine
    )
    np.testing.assert_allclose(shuffled["x0"], found["x0"], rtol=1e-10)


@pytest.mark.parametrize("of", ["rows", "names of patients"])
def test_both_bootstraps_draw_and_answer_alike(connection, of):
    rng = np.random.default_rng(12)
    x, y = np.round(rng.normal(size=(50, 2)), 1), np.zeros(50)
    y[[2, 11, 21, 40]] = 1
    x[3, 0] = np.nan
    known = 0.1 * rng.normal(size=50)
    patient = [f"P{k % 14}" for k in range(50)]
    terms = put(connection, x, y, known=known, patient=patient)
    cluster = None if of == "rows" else "patient"
    with pytest.warns(StatisticsWarning, match="replicates have no estimates"):
        by_sql, by_polars = (
            bootstrap_logit(
                connection, "rows", "y", terms, cluster=cluster, offset="known", engine=engine
            )
            for engine in ("sql", "polars")
        )
    assert by_sql["separation"].value_counts().height > 1
    same = ["replicate", "n", "converged", "separation"]
    assert by_polars.select(same).equals(by_sql.select(same))
    # Close to separation rounding decides the last digits.
    clear = (by_sql["Intercept"] > -50).fill_null(True)
    assert clear.mean() > 0.9
    for name in ("loglik", "Intercept", *terms):
        np.testing.assert_allclose(
            by_polars.filter(clear)[name].to_numpy(),
            by_sql.filter(clear)[name].to_numpy(),
            rtol=1e-8,
        )


def test_profile_likelihood_interval(connection):
    rng = np.random.default_rng(10)
    x, y = sample(rng, 60, 2, effect=1.5)
    fit = fit_logit(connection, "rows", "y", put(connection, x, y), profile=True)
    design = sm.add_constant(x)
    limit = fit.loglik - chi2.ppf(0.95, 1) / 2

    def depth(k, value):
        rest = np.delete(design, k, 1)
        model = sm.GLM(y, rest, family=sm.families.Binomial(), offset=value * design[:, k])
        return model.fit(tol=1e-14, maxiter=200).llf - limit

    for k, term in enumerate(fit.terms):
        low = brentq(lambda v, k=k: depth(k, v), term.estimate - 6 * term.se, term.estimate)
        high = brentq(lambda v, k=k: depth(k, v), term.estimate, term.estimate + 6 * term.se)
        assert term.profile_low == pytest.approx(low, rel=1e-8, abs=1e-9)
        assert term.profile_high == pytest.approx(high, rel=1e-8, abs=1e-9)
    asymmetry = fit.terms[1].profile_high + fit.terms[1].profile_low - 2 * fit.terms[1].estimate
    assert abs(asymmetry) > 0.01


def test_profile_of_nested_models_uses_the_same_rows(connection):
    rng = np.random.default_rng(11)
    x, y = sample(rng, 200, 2)
    x[:20, 1] = np.nan
    terms = put(connection, x, y)
    nested = nested_logit(connection, "rows", "y", terms[:1], terms[1:], profile=True)
    assert (nested.base.n, nested.base.n_dropped) == (180, 20)
    put(connection, x[20:], y[20:])
    alone = fit_logit(connection, "rows", "y", terms[:1], profile=True)
    for name in ("estimate", "se", "profile_low", "profile_high"):
        np.testing.assert_allclose(values(nested.base, name), values(alone, name), rtol=1e-9)


def test_p_values_are_uniform_under_the_null(connection):
    draws, n = 2000, 250
    rng = np.random.default_rng(12)
    table(
        connection, y=rng.random(draws * n) < 0.35, x=rng.normal(size=draws * n),
        draw=np.repeat(np.arange(draws), n),
    )  # fmt: skip
    fits = fit_logit_groups(connection, "rows", "y", ["x"], by=["draw"])
    assert len(fits) == draws
    wald = [fit.terms[1].p for fit in fits]
    ratio = [chi2.sf(2 * (fit.loglik - fit.loglik_null), 1) for fit in fits]
    assert kstest(wald, "uniform").pvalue > 0.01
    assert kstest(ratio, "uniform").pvalue > 0.01


@pytest.mark.parametrize("engine", ["sql", "polars"])
def test_intercept_alone(connection, engine):
    rng = np.random.default_rng(13)
    x, y = sample(rng, 80, 1)
    offset = rng.normal(size=80)
    put(connection, x, y, o=offset)
    alone = fit_logit(connection, "rows", "y", [], engine=engine)
    assert alone.terms[0].estimate == pytest.approx(np.log(y.mean() / (1 - y.mean())), rel=1e-12)
    assert alone.loglik == pytest.approx(alone.loglik_null, rel=1e-13)
    nested = nested_logit(connection, "rows", "y", [], ["x0"], offset="o", engine=engine)
    assert nested.base.loglik == pytest.approx(nested.base.loglik_null, rel=1e-13)
    wanted = reference(y, x, offset=offset)
    assert nested.lrt.chi2 == pytest.approx(2 * (wanted.loglik - wanted.loglik_null), rel=1e-9)
