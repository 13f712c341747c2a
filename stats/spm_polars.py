"""The point-by-point ANCOVA by compiled loops and polars: what the SQL statement answers, sooner.

DuckDB reads the maps, in batches where they are one row per vertex. A vertex's inner products with
an orthonormal basis of the design, and their elimination where values are missing, are a compiled
loop (`stats.vertex_fits`); the rest are polars expressions, spelled as in `stats.spm_sql`.
"""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import duckdb
import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray
from scipy.special import stdtrit

from stats.permutation import orthonormal_basis
from stats.spm_maps import CheckedMaps, map_matrix, vertex_batches
from stats.spm_sql import EXACT_FIT, SMALLEST_PIVOT
from stats.vertex_fits import SUMS, least_squares

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of I_x(a, b) for x below (a + 1) / (a + b + 2).

    Abramowitz and Stegun 26.5.8 by Lentz's method (doi:10.1364/AO.15.000668).
    """
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for k in range(1, 100_000):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        fraction *= d * c
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return fraction


@njit(cache=True, nogil=True)
def ln_t_tails(t: Floats, df: Floats, ln_beta: Floats) -> Floats:
    """Logarithm of P(|T| >= |t|) of each; `ln_beta` is ln B(df / 2, 1 / 2); NaN for NaN."""
    found = np.full(t.shape[0], np.nan)
    for i in range(t.shape[0]):
        t2, half = t[i] * t[i], df[i] / 2
        if t2 * (df[i] + 2) > 3 * df[i]:
            found[i] = (
                -half * math.log1p(t2 / df[i])
                - 0.5 * math.log1p(df[i] / t2)
                - math.log(half)
                - ln_beta[i]
                + math.log(_beta_fraction(half, 0.5, df[i] / (df[i] + t2)))
            )
        elif t2 >= 0:
            share = t2 / (df[i] + t2)
            within = 2 * math.sqrt(share) * math.exp(-half * math.log1p(t2 / df[i]) - ln_beta[i])
            found[i] = math.log1p(-within * _beta_fraction(0.5, half, share))
    return found


def _batches(
    connection: duckdb.DuckDBPyConnection, checked: CheckedMaps
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.int64]]]:
    """Numbers of some vertices, their values (v, width) and the index into them of each case."""
    if checked.layout == "vertex_rows":
        for vertex, values in vertex_batches(connection, checked):
            yield vertex, values, checked.cases.position - 1
    else:
        matrix = map_matrix(connection, checked)
        yield matrix.vertex, np.ascontiguousarray(matrix.values.T), np.arange(checked.cases.n)


def _sums(
    connection: duckdb.DuckDBPyConnection, checked: CheckedMaps, basis: Floats
) -> pl.DataFrame:
    """Of each vertex, by number, `vertex` and `SUMS`; NaN what cannot be. `basis` is (n, p)."""
    by_column = np.ascontiguousarray(basis.T)
    in_group1 = checked.cases.group.astype(np.float64)
    numbers, parts = [], []
    for vertex, values, chosen in _batches(connection, checked):
        part = np.empty((len(vertex), len(SUMS)))
        least_squares(values, chosen, by_column, in_group1, part)
        numbers.append(vertex)
        parts.append(part)
    # Column by column, as polars keeps them.
    columns = np.ascontiguousarray(np.concatenate(parts).T)
    return pl.DataFrame(
        {"vertex": np.concatenate(numbers)} | dict(zip(SUMS, columns, strict=True))
    ).sort("vertex")


def _reason(size: int, min_per_group: int) -> pl.Expr:
    n, n_group1 = pl.col("n"), pl.col("n_group1")
    smaller = pl.min_horizontal(n_group1, n - n_group1)
    return (
        pl.when(pl.col("yy").is_infinite())
        .then(pl.lit("infinite"))
        .when(n == 0)
        .then(pl.lit("no_values"))
        .when((n_group1 == 0) | (n_group1 == n))
        .then(pl.lit("one_group"))
        .when((n <= size) | (smaller < min_per_group))
        .then(pl.lit("too_few_cases"))
        .when(pl.col("yy") == 0)
        .then(pl.lit("constant"))
        .when((pl.col("group_m") > SMALLEST_PIVOT).not_() | pl.col("group_m").is_nan())
        .then(pl.lit("collinear"))
        .when(pl.col("rss") <= EXACT_FIT * pl.col("total_ss"))
        .then(pl.lit("exact_fit"))
    )


def _of_df(connection: duckdb.DuckDBPyConnection, df: pl.Series, confidence: float) -> pl.DataFrame:
    """What the distributions need once for all vertices of the same degrees of freedom."""
    different = df.unique().sort()
    rows = connection.execute(
        "SELECT t_ln_beta(df), CASE WHEN df > 1 THEN hedges_factor(df) END "
        "FROM unnest($1::BIGINT[]) WITH ORDINALITY AS of_df(df, k) ORDER BY k",
        [different.to_list()],
    ).fetchall()
    return pl.DataFrame(
        {
            "df": different,
            "ln_beta": pl.Series([row[0] for row in rows], dtype=pl.Float64),
            "small_sample": pl.Series([row[1] for row in rows], dtype=pl.Float64),
            "t_limit": stdtrit(different.to_numpy(), 0.5 + confidence / 2),
        }
    )


def ln_q_values(ln_p: Floats) -> Floats:
    """Logarithms of Benjamini and Hochberg's q of logarithms of p, NaN where NaN; above 0 is q = 1.

    doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    found = np.full(len(ln_p), np.nan)
    order = np.argsort(ln_p)[: np.count_nonzero(~np.isnan(ln_p))]
    share = np.arange(1, len(order) + 1) / len(order)
    found[order] = np.minimum.accumulate((ln_p[order] - np.log(share))[::-1])[::-1]
    return found


def _mean(total: pl.Expr, count: pl.Expr) -> pl.Expr:
    return pl.when(count > 0).then(pl.col("shift") + total / count)


def _fitted(
    connection: duckdb.DuckDBPyConnection, checked: CheckedMaps, confidence: float
) -> pl.DataFrame:
    """Of each vertex, its estimate, its t and what they are made from; NULL where not tested."""
    cases = checked.cases
    basis = orthonormal_basis(cases.matrix)
    size = basis.shape[1]
    # What a unit of the group's coefficient is on the group's own axis.
    unit = float(cases.group.astype(np.float64) @ basis[:, -1])
    tested, df = pl.col("reason").is_null(), pl.col("df")
    sums = (
        _sums(connection, checked, basis)
        .with_columns(pl.col("n", "n_group1").round().cast(pl.Int64))
        .with_columns(reason=_reason(size, cases.design.min_per_group))
        .with_columns(df=pl.when(tested).then(pl.col("n") - size))
    )
    of_df = _of_df(connection, sums["df"].drop_nulls(), confidence)
    return (
        sums.join(of_df, on="df", how="left", maintain_order="left")
        .with_columns(
            estimate=pl.when(tested).then(pl.col("group_s") / pl.col("group_m") / unit),
            sigma=pl.when(tested).then((pl.col("rss").clip(lower_bound=0) / df).sqrt()),
            unit_variance=1 / (pl.col("group_m") * unit**2),
        )
        .with_columns(
            se=pl.col("sigma") * pl.col("unit_variance").sqrt(),
            d=pl.when(df > 1).then(pl.col("estimate") / pl.col("sigma")),
        )
        .with_columns(t=pl.col("estimate") / pl.col("se"))
    )


def points_of(
    connection: duckdb.DuckDBPyConnection, checked: CheckedMaps, confidence: float
) -> pl.DataFrame:
    """The ANCOVA of every vertex, as `stats.spm_sql.statement_text` gives it.

    Args:
        connection: with the macros of `sql.macros()`.
        checked: the maps and their cases.
        confidence: of the intervals.

    Returns:
        `stats.spm_sql.POINT_COLUMNS`, by vertex.

    Raises:
        StatisticsError: not as many values at every vertex, or a case's value at one more than
            once.
    """
    fitted = _fitted(connection, checked, confidence)
    given = fitted.select(pl.col("t", "df", "ln_beta").cast(pl.Float64).fill_null(np.nan))
    ln_p = ln_t_tails(*(column.to_numpy() for column in given))
    n_tested = int(np.count_nonzero(~np.isnan(ln_p)))
    ln_harmonic = float(np.log((1 / np.arange(1, max(n_tested, 1) + 1)).sum()))
    n, n_group1, df = pl.col("n"), pl.col("n_group1"), pl.col("df")
    g, t, mean = pl.col("hedges_g"), pl.col("t"), _mean(pl.col("sum_shifted"), n)
    margin = NormalDist().inv_cdf(0.5 + confidence / 2) * pl.col("small_sample")
    with_p = fitted.with_columns(
        ln_p=pl.Series(ln_p),
        ln_q=pl.Series(ln_q_values(ln_p)),
        hedges_g=pl.col("small_sample") * pl.col("d"),
        g_margin=margin * (pl.col("unit_variance") + pl.col("d") ** 2 / (2 * df)).sqrt(),
    ).with_columns(p=pl.col("ln_p").exp())
    return with_p.select(
        "vertex",
        "n",
        (n - n_group1).alias("n_group0"),
        "n_group1",
        "df",
        "estimate",
        "se",
        (pl.col("estimate") - pl.col("t_limit") * pl.col("se")).alias("ci_low"),
        (pl.col("estimate") + pl.col("t_limit") * pl.col("se")).alias("ci_high"),
        "t",
        (t * t).alias("f"),
        "p",
        "ln_p",
        pl.col("ln_q").exp().clip(upper_bound=1).alias("q_bh"),
        (pl.col("ln_q") + ln_harmonic).exp().clip(upper_bound=1).alias("q_by"),
        (pl.col("p") * n_tested).clip(upper_bound=1).alias("p_bonferroni"),
        (t * t / (t * t + df)).alias("partial_eta2"),
        "hedges_g",
        (g - pl.col("g_margin")).alias("hedges_g_low"),
        (g + pl.col("g_margin")).alias("hedges_g_high"),
        _mean(pl.col("sum_shifted") - pl.col("sum_shifted_group1"), n - n_group1).alias(
            "mean_group0"
        ),
        _mean(pl.col("sum_shifted_group1"), n_group1).alias("mean_group1"),
        (mean - pl.col("estimate") * n_group1 / n).alias("adjusted_mean_group0"),
        (mean + pl.col("estimate") * (n - n_group1) / n).alias("adjusted_mean_group1"),
        "reason",
    ).with_columns(pl.col(pl.Float64).fill_nan(None))
