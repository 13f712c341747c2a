"""Tails, their logarithms and quantiles in SQL against mpmath at 60 digits."""

import subprocess
import sys
from pathlib import Path

import duckdb
import mpmath
import numpy as np
import polars as pl
import pytest
from mpmath import mpf
from scipy import stats

import sql

RELATIVE = 1e-12
SMALLEST = mpf("1e-305")


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as made:
        made.execute(sql.macro_text())
        yield made


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def evaluate(connection: duckdb.DuckDBPyConnection, query: str, **columns) -> np.ndarray:
    arrays = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    connection.register("given", pl.DataFrame(arrays).to_arrow())
    return connection.sql(f"SELECT ({query})::DOUBLE AS p FROM given").pl()["p"].to_numpy()


def worst(ours: np.ndarray, exact: list) -> float:
    """Largest relative difference."""
    assert np.isfinite(ours).all()
    return max(
        float(abs(mpf(float(our)) / truth - 1)) for our, truth in zip(ours, exact, strict=True)
    )


def normal_tail(z: float):
    return mpmath.erfc(mpf(float(z)) / mpmath.sqrt(2)) / 2


def beta_series(a, b, x, y):
    """I_x(a, b) by its series of positive terms."""
    term = total = mpf(1)
    k = 0
    while term > total * mpf(10) ** (-mpmath.mp.dps):
        term *= (a + b + k) / (a + 1 + k) * x
        total += term
        k += 1
    ln_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    return mpmath.exp(a * mpmath.log(x) + b * mpmath.log(y) - mpmath.log(a) - ln_beta) * total


def f_tail(f: float, df1: float, df2: float):
    """P(F >= f) from the series that needs fewer terms."""
    p, q, f = mpf(float(df1)) / 2, mpf(float(df2)) / 2, mpf(f)
    x, y = q / (q + p * f), p * f / (q + p * f)
    if x < y:
        return beta_series(q, p, x, y)
    with mpmath.workdps(400):  # 1 less nearly 1 has to leave digits of 1e-300.
        x, y = q / (q + p * f), p * f / (q + p * f)
        return 1 - beta_series(p, q, y, x)


Z = [-37, -10, -5, -2, -0.68, -0.67, -1e-9, 1e-12, 0.5, 0.674, 0.675, 1.96, 5.65, 5.66, 10, 30, 37]


@pytest.mark.parametrize("scale", ["", "ln_"])
def test_normal_tails(connection, scale: str) -> None:
    z = [*Z, 100, 1e3, 1e4] if scale else Z
    upper, both = [normal_tail(v) for v in z], [2 * normal_tail(abs(v)) for v in z]
    if scale:
        with mpmath.workdps(400):
            upper, both = ([mpmath.log(p) for p in tails] for tails in (upper, both))
            upper = [
                mpmath.log1p(-normal_tail(-v)) if v < 0 else p
                for v, p in zip(z, upper, strict=True)
            ]
    limit = RELATIVE if not scale else 1e-14
    assert worst(evaluate(connection, f"{scale}normal_upper_tail(z)", z=z), upper) < limit
    keep = np.abs(z) > 1e-6
    both = [p for p, kept in zip(both, keep, strict=True) if kept]
    ours = evaluate(connection, f"{scale}normal_two_sided(z)", z=np.asarray(z)[keep])
    assert worst(ours, both) < limit


def test_chi_square_tails(connection) -> None:
    df, x = (
        grid.ravel()
        for grid in np.meshgrid(
            [1, 2, 3, 7, 50, 300, 1000],
            [1e-6, 0.01, 0.5, 2, 9, 60, 290, 310, 900, 1000, 1100, 1370],
        )
    )
    exact = [
        mpmath.gammainc(mpf(d) / 2, mpf(float(v)) / 2, mpmath.inf, regularized=True)
        for d, v in zip(df.tolist(), x, strict=True)
    ]
    assert min(exact) < mpf("1e-290")
    assert worst(evaluate(connection, "chi_square_upper_tail(x, d)", x=x, d=df), exact) < RELATIVE
    keep = [p < 0.99 for p in exact]
    logs = [mpmath.log(p) for p, kept in zip(exact, keep, strict=True) if kept]
    ours = evaluate(connection, "ln_chi_square_upper_tail(x, d)", x=x[keep], d=df[keep])
    assert worst(ours, logs) < RELATIVE


def test_logarithms_far_beyond_the_smallest_double(connection) -> None:
    x = [1e4, 1e6, 1e8]
    for df in (1, 3, 8):
        exact = [
            mpmath.log(mpmath.gammainc(mpf(df) / 2, mpf(v) / 2, mpmath.inf))
            - mpmath.loggamma(mpf(df) / 2)
            for v in x
        ]
        ours = evaluate(connection, f"ln_chi_square_upper_tail(x, {df})", x=x)
        assert ours.min() < -4.9e7
        assert worst(ours, exact) < 1e-14
    t = [1.2e3, 3e3]
    exact = [mpmath.log(f_tail(v * v, 1, 1e6)) for v in t]
    assert max(exact) < -4e5
    assert worst(evaluate(connection, "ln_t_two_sided(t, 1000000)", t=t), exact) < 1e-14


def test_chi_square_tail_of_the_published_anchor(connection) -> None:
    # The paper's likelihood-ratio test of the femur.
    ours = evaluate(connection, "chi_square_upper_tail(x, 1)", x=[142.64889826615763])
    assert ours[0] == pytest.approx(7.0145249802217564e-33, rel=1e-13)


def test_t_tails(connection) -> None:
    df, t = (
        grid.ravel()
        for grid in np.meshgrid(
            [1, 2, 3, 5, 30, 266, 2143, 1e4], [1e-3, 0.5, 1, 1.5, 1.73, 1.8, 3, 10, 37]
        )
    )
    # As far as p = 1e-300, and where t^2 is beyond the largest DOUBLE.
    far = [(1, 1e200), (1, 1e299), (2, 1e149), (3, 1e99), (10, 9e29), (5, 1e60), (1e6, 37.0)]
    far += [(1e5, 2.0), (1e6, 1.7), (1e6, 3.0)]
    df = np.concatenate([df, [pair[0] for pair in far]])
    t = np.concatenate([t, [pair[1] for pair in far]])
    exact = [f_tail(v, 1, d) for d, v in zip(df, (mpf(float(u)) ** 2 for u in t), strict=True)]
    assert min(exact) > SMALLEST
    assert worst(evaluate(connection, "t_two_sided(t, d)", t=t, d=df), exact) < RELATIVE
    assert worst(evaluate(connection, "t_upper_tail(t, d)", t=t, d=df), [p / 2 for p in exact]) < (
        RELATIVE
    )
    below = [1 - p / 2 for p in exact]
    assert worst(evaluate(connection, "t_upper_tail(-t, d)", t=t, d=df), below) < RELATIVE
    logs = [mpmath.log(p / 2) for p in exact]
    assert worst(evaluate(connection, "ln_t_upper_tail(t, d)", t=t, d=df), logs) < RELATIVE
    logs = [mpmath.log1p(-p / 2) for p in exact]
    keep = np.array([float(p) > 1e-300 for p in exact])
    ours = evaluate(connection, "ln_t_upper_tail(-t, d)", t=t[keep], d=df[keep])
    assert worst(ours, [v for v, kept in zip(logs, keep, strict=True) if kept]) < RELATIVE


def test_f_tails(connection) -> None:
    df1, df2, f = (
        grid.ravel()
        for grid in np.meshgrid(
            [1, 2, 3, 10, 100, 1000], [1, 2, 5, 30, 1000], [1e-4, 0.3, 0.9, 1, 1.1, 2.4, 60, 1000]
        )
    )
    many = [(1.01, 10000, 14866), (60, 3, 14866), (2.4, 11, 42228), (1.2, 1000, 14866)]
    f, df1, df2 = (
        np.concatenate([old, [row[k] for row in many]]) for k, old in enumerate((f, df1, df2))
    )
    exact = [f_tail(*row) for row in zip(f, df1, df2, strict=True)]
    keep = np.array([p > SMALLEST for p in exact])
    kept = [p for p in exact if p > SMALLEST]
    ours = evaluate(connection, "f_upper_tail(f, a, b)", f=f[keep], a=df1[keep], b=df2[keep])
    assert worst(ours, kept) < RELATIVE
    assert min(kept) < mpf("1e-250")


def test_quantiles(connection) -> None:
    p = [1e-300, 1e-100, 1e-11, 1e-5, 0.025, 0.074, 0.076, 0.3, 0.4999, 0.6, 0.975, 1 - 1e-10]
    z = evaluate(connection, "normal_quantile(p)", p=p)
    for probability, value in zip(p, z, strict=True):
        tail = mpf(probability) if probability < 0.5 else 1 - mpf(probability)
        slope = mpmath.exp(-(mpf(float(value)) ** 2) / 2) / mpmath.sqrt(2 * mpmath.pi)
        error = (normal_tail(abs(value)) - tail) / slope
        assert abs(error / mpf(float(value))) < 1e-14
    p, df = (
        grid.ravel()
        for grid in np.meshgrid(
            [1e-90, 1e-12, 1e-4, 0.025, 0.3, 0.49, 0.6, 0.975, 0.9999],
            [1, 1.5, 2, 3, 7, 30, 266, 2143, 1e5, 1e6, np.inf],
        )
    )
    t = evaluate(connection, "t_quantile(p, d)", p=p, d=df)
    tails = evaluate(connection, "t_upper_tail(t, d)", t=np.abs(t), d=df)
    np.testing.assert_allclose(tails, np.minimum(p, 1 - p), rtol=1e-11)
    assert (np.sign(t) == np.sign(p - 0.5)).all()
    middle = p > 1e-13
    np.testing.assert_allclose(t[middle], stats.t.ppf(p, df)[middle], rtol=1e-11)


EDGES = {
    "normal_two_sided(NULL)": None,
    "normal_upper_tail('NaN')": "nan",
    "normal_upper_tail('-inf')": 1.0,
    "normal_upper_tail('inf')": 0.0,
    "ln_normal_upper_tail('inf')": "-inf",
    "ln_normal_two_sided('NaN')": "nan",
    "t_two_sided(NULL, 3)": None,
    "t_two_sided(1, NULL)": None,
    "t_two_sided('NaN', 3)": "nan",
    "t_two_sided(1, 'NaN')": "nan",
    "t_two_sided(1, 0)": None,
    "t_two_sided('-inf', 3)": 0.0,
    "t_two_sided(0, 3)": 1.0,
    "t_upper_tail(1.959963984540054, 'inf')": 0.025,
    "f_upper_tail(NULL, 1, 2)": None,
    "f_upper_tail('NaN', 1, 2)": "nan",
    "f_upper_tail(-1, 1, 2)": None,
    "f_upper_tail(1, -1, 2)": None,
    "f_upper_tail(0, 4, 2)": 1.0,
    "f_upper_tail('inf', 4, 2)": 0.0,
    "ln_f_upper_tail('inf', 4, 2)": "-inf",
    "chi_square_upper_tail(NULL, 1)": None,
    "chi_square_upper_tail(-1, 1)": None,
    "chi_square_upper_tail(-1, 4)": None,
    "chi_square_upper_tail(1, 0)": None,
    "chi_square_upper_tail('NaN', 1)": "nan",
    "chi_square_upper_tail('NaN', 3)": "nan",
    "chi_square_upper_tail('inf', 1)": 0.0,
    "chi_square_upper_tail('inf', 3)": 0.0,
    "chi_square_upper_tail(0, 1)": 1.0,
    "normal_quantile(NULL)": None,
    "normal_quantile('NaN')": "nan",
    "normal_quantile(0)": "-inf",
    "normal_quantile(1)": "inf",
    "normal_quantile(0.5)": 0.0,
    "normal_quantile(1.5)": None,
    "t_quantile(0.975, NULL)": None,
    "t_quantile(NULL, 3)": None,
    "t_quantile('NaN', 3)": "nan",
    "t_quantile(0.5, 3)": 0.0,
    "t_quantile(1, 3)": "inf",
    "t_quantile(-1, 3)": None,
    "t_quantile(0.9, 0)": None,
}


@pytest.mark.parametrize("expression", EDGES)
def test_edges(connection, expression: str) -> None:
    found = connection.sql(f"SELECT {expression}").fetchall()[0][0]
    expected = EDGES[expression]
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(float(expected), nan_ok=True)


def test_one_file_makes_every_macro_in_a_client_that_knows_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "macros.sql"
    file.write_text(sql.macro_text(), encoding="utf-8")
    program = (
        "import duckdb, sys; c = duckdb.connect(); c.execute(open(sys.argv[1]).read());"
        "print(c.sql('SELECT normal_two_sided(1.96), t_two_sided(2.1, 10)').fetchall())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    normal, t = eval(done.stdout)[0]
    assert normal == pytest.approx(2 * stats.norm.sf(1.96), rel=1e-14)
    assert t == pytest.approx(2 * stats.t.sf(2.1, 10), rel=1e-13)


def test_a_macro_file_comes_after_those_it_uses() -> None:
    names = [file.name for file in sql.macros()]
    assert names.index("distributions") < names.index("comparisons")
    assert names.index("choices") < names.index("roc")


def test_only_the_macros_a_query_uses_are_made() -> None:
    query = "SELECT T_two_sided(2.1, 10) -- not normal_quantile"
    with duckdb.connect() as bare:
        for statement in sql.macro_statements([query]):
            bare.execute(statement)
        assert bare.sql(query).fetchall()[0][0] == pytest.approx(2 * stats.t.sf(2.1, 10))
        with pytest.raises(duckdb.CatalogException):
            bare.sql("SELECT normal_quantile(0.5)")
