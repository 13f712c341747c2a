"""The point-by-point ANCOVA against statsmodels, vertex by vertex, by both engines."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import duckdb
import mpmath
import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from spm_samples import cohort, connect, design_matrix, register
from statsmodels.stats.multitest import multipletests

import sql
from stats import spm as spm_module
from stats.spm import SpmResult, spm_sql
from stats.spm_design import SpmDesign
from stats.spm_maps import check_maps, map_matrix
from stats.spm_polars import ln_t_tails
from stats.spm_sql import POINT_COLUMNS

DESIGN = SpmDesign("pain")
N, V = 83, 60
Spm = Callable[..., SpmResult]


@pytest.fixture(params=["sql", "polars"])
def spm(request: pytest.FixtureRequest) -> Spm:
    return partial(spm_module.spm, engine=request.param)


@pytest.fixture(scope="module")
def cases() -> pl.DataFrame:
    return cohort(N)


@pytest.fixture(scope="module")
def values(cases: pl.DataFrame) -> np.ndarray:
    """Maps (N, V): vertices 0-19 complete, 20-39 with missing values, 40-59 far from 0."""
    rng = np.random.default_rng(1)
    found = rng.normal(2.3, 0.4, (N, V)) + 0.02 * cases["bmi"].to_numpy()[:, None]
    found[:, ::5] += 0.3 * cases["pain"].to_numpy()[:, None]
    found[:, 20:40][rng.random((N, 20)) < 0.15] = np.nan
    found[:, 40:] += 1e6
    found[:, 50:][rng.random((N, 10)) < 0.15] = np.nan
    return found


def connection_with(
    layout: str, cases: pl.DataFrame, values: np.ndarray
) -> duckdb.DuckDBPyConnection:
    connection = connect()
    # In an order of its own: nothing may depend on the order of the rows.
    connection.register("knees", cases.sample(fraction=1, shuffle=True, seed=3).to_arrow())
    keys = cases["case"].to_list()
    if layout == "vertex_rows":
        register(connection, "maps", values)
    elif layout == "case_rows":
        frame = pl.DataFrame({"case": keys, "values": values.tolist()})
        connection.register("maps", frame.sample(fraction=1, shuffle=True, seed=4).to_arrow())
    else:
        frame = pl.DataFrame(
            {
                "case": np.tile(keys, values.shape[1]),
                "vertex": np.repeat(np.arange(values.shape[1]), len(keys)),
                "value": values.T.ravel(),
            }
        )
        # Half the missing values are rows of NaN, half no row at all.
        absent = frame["value"].is_nan() & (frame["vertex"] % 2 == 0)
        connection.register("maps", frame.filter(~absent).to_arrow())
    return connection


def by_statsmodels(values: np.ndarray, matrix: np.ndarray) -> pl.DataFrame:
    rows = []
    for column in values.T:
        known = np.isfinite(column)
        # statsmodels itself loses digits far from 0; only the means depend on the offset.
        offset = np.round(np.nanmin(column))
        fit = sm.OLS(column[known] - offset, matrix[known]).fit()
        low, high = fit.conf_int()[-1]
        mean = matrix[known].mean(axis=0)
        adjusted = [fit.predict(np.r_[mean[:-1], group])[0] + offset for group in (0, 1)]
        rows.append(
            {
                "n": int(known.sum()),
                "df": int(fit.df_resid),
                "estimate": fit.params[-1],
                "se": fit.bse[-1],
                "ci_low": low,
                "ci_high": high,
                "t": fit.tvalues[-1],
                "f": fit.tvalues[-1] ** 2,
                "p": fit.pvalues[-1],
                "mean_group0": column[known & (matrix[:, -1] == 0)].mean(),
                "mean_group1": column[known & (matrix[:, -1] == 1)].mean(),
                "adjusted_mean_group0": adjusted[0],
                "adjusted_mean_group1": adjusted[1],
                "sigma": np.sqrt(fit.mse_resid),
            }
        )
    return pl.DataFrame(rows)


@pytest.mark.parametrize("layout", ["vertex_rows", "long", "case_rows"])
def test_every_vertex_is_that_of_statsmodels(
    spm: Spm, layout: str, cases: pl.DataFrame, values: np.ndarray
) -> None:
    connection = connection_with(layout, cases, values)
    result = spm(connection, "maps", "knees", DESIGN)
    expected = by_statsmodels(values, design_matrix(cases))
    assert tuple(result.points.columns) == POINT_COLUMNS
    assert result.points["vertex"].to_list() == list(range(V))
    assert (result.n_cases, result.n_tested, result.not_tested) == (N, V, {})
    for name in ("n", "df"):
        assert result.points[name].to_list() == expected[name].to_list()
    # Near 0 an estimate has no relative precision; its standard error is the scale.
    for name in ("estimate", "ci_low", "ci_high"):
        error = (result.points[name] - expected[name]).abs() / expected["se"]
        assert error.max() < 1e-10, name
    assert (result.points["t"] - expected["t"]).abs().max() < 1e-10
    for name in ("se", "p", *(c for c in expected.columns if c.startswith(("mean", "adjusted")))):
        np.testing.assert_allclose(result.points[name], expected[name], rtol=1e-10, err_msg=name)


def test_corrections_are_those_of_statsmodels(
    spm: Spm, cases: pl.DataFrame, values: np.ndarray
) -> None:
    points = spm(connection_with("vertex_rows", cases, values), "maps", "knees", DESIGN).points
    for column, method in (("q_bh", "fdr_bh"), ("q_by", "fdr_by"), ("p_bonferroni", "bonferroni")):
        expected = multipletests(points["p"].to_numpy(), method=method)[1]
        np.testing.assert_allclose(points[column], expected, rtol=1e-12, err_msg=method)


def test_vertices_without_a_test_are_not_counted_in_the_corrections(spm: Spm) -> None:
    cases = cohort(40)
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 10))
    values[:, 3] = 7.5
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", DESIGN).points
    tested = points.filter(pl.col("reason").is_null())
    np.testing.assert_allclose(
        tested["q_bh"], multipletests(tested["p"].to_numpy(), method="fdr_bh")[1], rtol=1e-12
    )
    assert points["q_bh"][3] is None


def test_effect_sizes(spm: Spm, cases: pl.DataFrame, values: np.ndarray) -> None:
    points = spm(connection_with("vertex_rows", cases, values), "maps", "knees", DESIGN).points
    expected = by_statsmodels(values, design_matrix(cases))
    df, t = expected["df"].to_numpy(), expected["t"].to_numpy()
    factor = np.array(
        [float(mpmath.gamma(v / 2) / (mpmath.sqrt(v / 2) * mpmath.gamma((v - 1) / 2))) for v in df]
    )
    g = factor * (expected["estimate"] / expected["sigma"]).to_numpy()
    np.testing.assert_allclose(points["hedges_g"], g, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(points["partial_eta2"], t**2 / (t**2 + df), rtol=1e-9)
    # The exact interval inverts the noncentral t; the large-sample one comes close to it.
    root = (expected["se"] / expected["sigma"]).to_numpy()
    for column, tail in (("hedges_g_low", 0.975), ("hedges_g_high", 0.025)):
        exact = [_noncentrality(t_v, v, tail) for t_v, v in zip(t, df, strict=True)]
        exact_g = factor * np.array(exact) * root
        assert np.abs(points[column].to_numpy() - exact_g).max() < 0.03


def _noncentrality(t: float, df: int, below: float) -> float:
    """Noncentrality at which t is the given quantile."""
    from scipy.optimize import brentq

    return brentq(lambda nc: scipy_stats.nct.cdf(t, df, nc) - below, t - 8, t + 8)


def test_p_of_strong_effects_keeps_its_digits_past_the_smallest_double(spm: Spm) -> None:
    cases = cohort(400)
    rng = np.random.default_rng(3)
    pain = cases["pain"].to_numpy()[:, None]
    values = rng.normal(size=(400, 4)) * [1, 0.2, 0.02, 0.001] + pain
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", DESIGN).points
    expected = by_statsmodels(values, design_matrix(cases))
    with mpmath.workdps(60):
        for row, t, df in zip(
            points.iter_rows(named=True), expected["t"], expected["df"], strict=True
        ):
            x = df / (df + mpmath.mpf(t) ** 2)
            tail = mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf(1) / 2, 0, x, regularized=True)
            assert row["ln_p"] == pytest.approx(float(mpmath.log(tail)), rel=1e-10)
    assert points["p"][3] == 0.0
    assert points["ln_p"][3] < -1000


def test_fast_tails_are_those_of_60_digits() -> None:
    connection = connect()
    cells = [
        (t, df) for df in (1, 2, 7, 81, 266, 2143, 5000) for t in (0, 1e-6, 0.3, 1, 1.72, 4, 30)
    ]
    rows = ", ".join(f"({t}::DOUBLE, {df})" for t, df in cells)
    found = connection.execute(
        "SELECT t_ln_tails_of_maps(t * t, df, t_ln_beta(df)), "
        "t_limit_of_maps(0.05, df, t_ln_beta(df)) "
        f"FROM (VALUES {rows}) AS given (t, df)"
    ).fetchall()
    with mpmath.workdps(60):
        for (t, df), (ln_p, limit) in zip(cells, found, strict=True):
            x = df / (df + mpmath.mpf(t) ** 2)
            tail = mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf(1) / 2, 0, x, regularized=True)
            ln_beta = float(mpmath.log(mpmath.beta(mpmath.mpf(df) / 2, mpmath.mpf(1) / 2)))
            given = (np.array([float(v)]) for v in (t, df, ln_beta))
            assert ln_p == pytest.approx(float(mpmath.log(tail)), abs=5e-13)
            assert ln_t_tails(*given)[0] == pytest.approx(float(mpmath.log(tail)), abs=5e-13)
            assert limit == pytest.approx(scipy_stats.t.isf(0.025, df), rel=1e-10)


def test_more_cases_than_the_fast_tails_take(spm: Spm) -> None:
    cases = cohort(5100)
    rng = np.random.default_rng(4)
    values = rng.normal(size=(5100, 3))
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", DESIGN).points
    expected = by_statsmodels(values, design_matrix(cases))
    np.testing.assert_allclose(points["p"], expected["p"], rtol=1e-10)
    np.testing.assert_allclose(points["ci_low"], expected["ci_low"], rtol=1e-8)


def test_why_a_vertex_is_not_tested(spm: Spm) -> None:
    cases = cohort(30)
    rng = np.random.default_rng(5)
    values = rng.normal(size=(30, 9))
    pain, sex = cases["pain"].to_numpy() == 1, cases["sex"].to_numpy()
    values[:, 1] = np.nan
    values[5:, 2] = np.nan
    values[pain, 3] = np.nan
    values[:, 4] = 3.3
    values[sex == 1, 5] = np.nan
    values[np.flatnonzero(pain)[1:], 6] = np.nan
    values[:, 7] = 0.5 + 0.1 * cases["age"].to_numpy() - 2 * pain
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    result = spm(connection, "maps", "knees", DESIGN)
    assert result.points["reason"].to_list() == [
        None,
        "no_values",
        "too_few_cases",
        "one_group",
        "constant",
        "collinear",
        "too_few_cases",
        "exact_fit",
        None,
    ]
    assert result.n_tested == 2
    assert result.not_tested == {
        "collinear": 1,
        "constant": 1,
        "exact_fit": 1,
        "no_values": 1,
        "one_group": 1,
        "too_few_cases": 2,
    }
    untested = result.points.filter(pl.col("reason").is_not_null())
    for name in ("estimate", "se", "t", "p", "q_bh", "hedges_g", "df", "adjusted_mean_group1"):
        assert untested[name].null_count() == untested.height, name
    kept = spm(connection, "maps", "knees", SpmDesign("pain", min_per_group=1))
    assert kept.points["reason"][6] is None


@pytest.mark.parametrize("subset", [False, True])
def test_a_vertex_whose_row_is_null_has_no_values(spm: Spm, subset: bool) -> None:
    cases = cohort(30)
    values = np.random.default_rng(11).normal(size=(30, 3))
    rows = pl.DataFrame({"vertex": [2, 0, 1, 3], "values": [*values.T.tolist(), None]})
    connection = connect()
    connection.register("knees", (cases.head(28) if subset else cases).to_arrow())
    connection.register("maps", rows.to_arrow())
    result = spm(connection, "maps", "knees", DESIGN, extra_maps="ignore")
    assert result.points["reason"].to_list() == [None, None, None, "no_values"]
    last = result.points.drop("vertex", "n", "n_group0", "n_group1", "reason").row(3)
    assert result.points.row(3)[:4] == (3, 0, 0, 0)
    assert set(last) == {None}
    n = result.n_cases
    expected = by_statsmodels(values[:n, [1, 2, 0]], design_matrix(cases)[:n])
    np.testing.assert_allclose(result.points["t"][:3], expected["t"], rtol=1e-10)
    checked = check_maps(connection, "maps", "knees", DESIGN, extra_maps="ignore")
    matrix = map_matrix(connection, checked).values
    np.testing.assert_array_equal(matrix[:, :3], values[:n, [1, 2, 0]])
    assert np.isnan(matrix[:, 3]).all()


def test_a_factor_and_a_boolean_group(spm: Spm) -> None:
    cases = cohort(60).with_columns(
        site=pl.Series(["A", "B", "C's"] * 20), pain=pl.col("pain") == 1
    )
    values = np.random.default_rng(6).normal(size=(60, 5))
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", SpmDesign("pain", ("age", "site"))).points
    dummies = np.column_stack([(cases["site"] == level).to_numpy() for level in ("B", "C's")])
    matrix = np.column_stack([np.ones(60), cases["age"], dummies, cases["pain"]]).astype(float)
    expected = by_statsmodels(values, matrix)
    np.testing.assert_allclose(points["t"], expected["t"], rtol=1e-10)
    assert points["df"].to_list() == [55] * 5


def test_without_covariates_it_is_the_t_test(spm: Spm) -> None:
    cases = cohort(25)
    values = np.random.default_rng(7).normal(size=(25, 6))
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", SpmDesign("pain", ())).points
    pain = cases["pain"].to_numpy() == 1
    expected = scipy_stats.ttest_ind(values[pain], values[~pain])
    np.testing.assert_allclose(points["t"], expected.statistic, rtol=1e-11)
    np.testing.assert_allclose(points["p"], expected.pvalue, rtol=1e-11)
    np.testing.assert_allclose(points["mean_group1"], points["adjusted_mean_group1"], rtol=1e-11)


def test_cases_with_a_missing_covariate_are_dropped_and_counted(spm: Spm) -> None:
    cases = cohort(50).with_columns(
        age=pl.when(pl.col("position") == 4).then(None).otherwise(pl.col("age")),
        bmi=pl.when(pl.col("position") == 9).then(float("nan")).otherwise(pl.col("bmi")),
        patient=pl.when(pl.col("position") == 12).then(float("nan")).otherwise(pl.col("position")),
    )
    values = np.random.default_rng(8).normal(size=(50, 4))
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    result = spm(connection, "maps", "knees", DESIGN)
    kept = np.delete(np.arange(50), [3, 8])
    expected = by_statsmodels(values[kept], design_matrix(cases)[kept])
    assert (result.n_cases, result.n_dropped) == (48, 2)
    assert result.n_group0 + result.n_group1 == 48
    blocked = spm(connection, "maps", "knees", replace(DESIGN, block="patient"))
    assert (blocked.n_cases, blocked.n_dropped) == (47, 3)
    np.testing.assert_allclose(result.points["t"], expected["t"], rtol=1e-10)


@pytest.mark.parametrize("layout", ["vertex_rows", "long", "case_rows"])
def test_a_subset_of_the_cases(
    spm: Spm, layout: str, cases: pl.DataFrame, values: np.ndarray
) -> None:
    chosen = cases.filter(pl.col("position") % 3 != 0)
    connection = connection_with(layout, cases, values)
    connection.register("knees", chosen.to_arrow())
    result = spm(connection, "maps", "knees", DESIGN, extra_maps="ignore")
    rows = chosen["position"].to_numpy() - 1
    expected = by_statsmodels(values[rows], design_matrix(chosen))
    np.testing.assert_allclose(result.points["t"], expected["t"], rtol=1e-9, atol=1e-10)
    checked = check_maps(connection, "maps", "knees", DESIGN, extra_maps="ignore")
    matrix = map_matrix(connection, checked)
    np.testing.assert_array_equal(matrix.cases.keys, chosen["case"])
    np.testing.assert_array_equal(matrix.values, values[rows])


def test_float32_maps_of_a_parquet_file(
    spm: Spm, cases: pl.DataFrame, values: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("maps") / "maps.parquet"
    single = values[:, :40].astype(np.float32)
    frame = pl.DataFrame({"vertex": np.arange(40), "values": single.T.tolist()})
    frame.with_columns(pl.col("values").cast(pl.List(pl.Float32))).write_parquet(path)
    connection = connect()
    connection.register("knees", cases.to_arrow())
    connection.execute(f"CREATE VIEW maps AS FROM '{path}'")
    points = spm(connection, "maps", "knees", DESIGN).points
    expected = by_statsmodels(single.astype(np.float64), design_matrix(cases))
    np.testing.assert_allclose(points["p"], expected["p"], rtol=1e-10)


def test_the_printed_statement_runs_anywhere(cases: pl.DataFrame, values: np.ndarray) -> None:
    text = spm_sql(connection_with("vertex_rows", cases, values), "maps", "knees", DESIGN)
    other = connection_with("vertex_rows", cases, values)
    expected = spm_module.spm(other, "maps", "knees", DESIGN)
    assert text == expected.sql
    assert other.execute(text).fetchall() == expected.points.rows()
    for word in ("grain:", "assumes:", "age", "pain"):
        assert word in text


@pytest.mark.parametrize(
    ("maps", "knees", "group"),
    [
        ('m"; DROP TABLE keep; --', "k'; DROP TABLE keep; --", 'g"; DROP TABLE keep; --'),
        ("the maps */ ;", "knees with spaces", "pain */ DROP TABLE keep; /*"),
        ("used_cases", "sums", "x1"),
        ("design", "picked", "q0"),
        ("map_rows", "Ranked", "vertex"),
    ],
)
def test_names_are_only_names(spm: Spm, maps: str, knees: str, group: str) -> None:
    cases = cohort(30)
    values = np.random.default_rng(9).normal(size=(30, 4))
    connection = connect()
    connection.execute("CREATE TABLE keep AS SELECT 1 AS a")
    connection.register("plain_knees", cases.rename({"pain": group}).to_arrow())
    register(connection, "plain_maps", values)
    quoted = [name.replace('"', '""') for name in (maps, knees)]
    connection.execute(f'CREATE TABLE "{quoted[0]}" AS FROM plain_maps')
    connection.execute(f'CREATE TABLE "{quoted[1]}" AS FROM plain_knees')
    points = spm(connection, maps, knees, SpmDesign(group)).points
    np.testing.assert_allclose(
        points["t"], by_statsmodels(values, design_matrix(cases))["t"], rtol=1e-10
    )
    assert connection.execute("FROM keep").fetchall() == [(1,)]


def test_p_values_are_uniform_under_the_null(spm: Spm) -> None:
    """2,500 independent vertices of skewed covariates and unequal groups, 10 % missing."""
    cases = cohort(60)
    rng = np.random.default_rng(10)
    values = rng.normal(size=(60, 2500)) + 0.1 * cases["bmi"].to_numpy()[:, None]
    values[rng.random(values.shape) < 0.1] = np.nan
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "maps", values)
    points = spm(connection, "maps", "knees", DESIGN).points
    assert scipy_stats.kstest(points["p"].to_numpy(), "uniform").pvalue > 0.01


def test_macros_of_the_statement_are_files_any_client_can_read() -> None:
    assert "t_ln_tails_of_maps" in sql.load("macros/spm").text
