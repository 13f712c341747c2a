"""The text of the point-by-point ANCOVA: one SQL statement, readable, that any client can run.

An orthonormal basis of [1, covariates, group] is made once in window functions, so a vertex needs
only its inner products with it. Where a vertex has no value in some cases, the basis is no longer
orthonormal over the rest: the inner products of the basis over those cases are taken as well and
eliminated, group last. Both are least squares on the cases that have a value, exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from stats.identifiers import quote_identifier
from stats.spm_design import SpmCases

Layout = Literal["vertex_rows", "long", "case_rows"]

SMALLEST_PIVOT = 1e-10
"""Squared share of a column's spread left by the others over the cases that have a value."""
EXACT_FIT = 1e-13
"""Residual share of the sum of squares below which only rounding is left."""
FAST_TAIL_CASES = 5000
"""Up to this many cases p-values come from `macros/spm.sql`, beyond from the general macros."""
NEAR_ZERO = 1e-4
"""Share of the sum of squares about the mean below which a vertex is first shifted towards 0."""

MAP_ROWS = "map_rows"
"""The statement's first name, the only one that a cases relation cannot have."""

POINT_COLUMNS = (
    "vertex",
    "n",
    "n_group0",
    "n_group1",
    "df",
    "estimate",
    "se",
    "ci_low",
    "ci_high",
    "t",
    "f",
    "p",
    "ln_p",
    "q_bh",
    "q_by",
    "p_bonferroni",
    "partial_eta2",
    "hedges_g",
    "hedges_g_low",
    "hedges_g_high",
    "mean_group0",
    "mean_group1",
    "adjusted_mean_group0",
    "adjusted_mean_group1",
    "reason",
)


@dataclass(frozen=True)
class SpmStatement:
    """What the text is made from.

    Attributes:
        maps: the maps' relation, unquoted.
        layout: how its rows hold the values.
        width: values per row of `vertex_rows`, whether their cases are used or not.
        confidence: of the intervals, between 0 and 1.
    """

    maps: str
    layout: Layout
    width: int
    confidence: float


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(size) for j in range(i, size))


def _map_rows(statement: SpmStatement, cases: SpmCases) -> str:
    """CTE: the maps, read before any other CTE could hide a relation of the same name."""
    key = quote_identifier(cases.design.case)
    columns = {
        "vertex_rows": "vertex::BIGINT AS vertex, values",
        "long": f"{key} AS case_key, vertex::BIGINT AS vertex, value::DOUBLE AS y",
        "case_rows": f"{key} AS case_key, generate_subscripts(values, 1) - 1 AS vertex,\n"
        "        unnest(values)::DOUBLE AS y",
    }[statement.layout]
    return f"""{MAP_ROWS} AS (
    SELECT {columns}
    FROM {quote_identifier(statement.maps)}
)"""


def _design(cases: SpmCases) -> list[str]:
    """CTEs: the cases, the basis, one column at a time by Gram-Schmidt done twice."""
    design = cases.design
    order = quote_identifier(design.position if cases.has_position else design.case)
    columns = "\n        ".join(
        f"/* {_comment(name)} */ {sql} AS x{index},"
        for index, (name, sql) in enumerate(zip(cases.names, cases.expressions, strict=True), 1)
    )
    ctes = [
        f"""used_cases AS (
    SELECT
        {quote_identifier(design.case)} AS case_key,
        row_number() OVER (ORDER BY {order}) AS place,
        {columns}
        {order if cases.has_position else "place"}::BIGINT AS position
    FROM {cases.relation}
    WHERE {cases.filter_sql}
)""",
        """basis_0 AS (
    SELECT *, 1 / sqrt((count(*) OVER ())::DOUBLE) AS q0 FROM used_cases
)""",
    ]
    for k in range(1, len(cases.names) + 1):

        def less(name: str, k: int = k) -> str:
            terms = "".join(f" - q{j} * (SUM({name} * q{j}) OVER ())" for j in range(k))
            return f"{name}{terms}"

        ctes.append(
            f"""basis_{k} AS (
    SELECT * EXCLUDE (once, twice), twice / sqrt(SUM(twice * twice) OVER ()) AS q{k}
    FROM (
        SELECT *, {less("once")} AS twice
        FROM (SELECT *, {less(f"x{k}")} AS once FROM basis_{k - 1})
    )
)"""
        )
    return ctes


def _comment(name: str) -> str:
    """A name inside a comment, which it can neither end nor nest."""
    return name.replace("*/", "* /").replace("/*", "/ *")


def _design_row(cases: SpmCases) -> str:
    """CTE: what the maps need of the design, in one row."""
    size = len(cases.names) + 1
    group = f"x{size - 1}"
    parts = [f"SUM({group} * q{k}) AS r{k}" for k in range(size)]
    if cases.has_position:
        parts.append("list(position ORDER BY place) AS positions")
        parts.append(f"list({group} ORDER BY place)::DOUBLE[{cases.n}] AS in_group1")
        parts += [f"list(q{k} ORDER BY place)::DOUBLE[{cases.n}] AS b{k}" for k in range(size)]
        parts += [
            f"list(q{i} * q{j} ORDER BY place)::DOUBLE[{cases.n}] AS b{i}_{j}"
            for i, j in _pairs(size)
        ]
    joined = ",\n        ".join(parts)
    return f"""design AS MATERIALIZED (
    SELECT
        {joined}
    FROM basis_{size - 1}
)"""


def _sums_of_vertex_rows(statement: SpmStatement, cases: SpmCases) -> list[str]:
    """CTEs: inner products of the map with the basis, for maps of one row per vertex."""
    n, size = cases.n, len(cases.names) + 1
    everyone = n == statement.width and bool((cases.position == range(1, n + 1)).all())
    picked = "map_rows.values" if everyone else "list_select(map_rows.values, design.positions)"
    # Over Parquet whose statistics leave NaN out, DuckDB 2.0 takes isnan() to be false unread.
    missing = "(x IS NULL OR NOT (isfinite(x) OR isinf(x)))"
    products = ",\n        ".join(
        [f"array_inner_product(y, b{k}) AS s{k}" for k in range(size)]
        + [
            f"CASE WHEN complete THEN {int(i == j)} "
            f"ELSE array_inner_product(present, b{i}_{j}) END AS m{i}_{j}"
            for i, j in _pairs(size)
        ]
    )
    basis = ", ".join([f"b{k}" for k in range(size)] + [f"b{i}_{j}" for i, j in _pairs(size)])
    return [
        f"""picked AS (
    SELECT map_rows.vertex, {picked} AS v, design.*
    FROM map_rows
    CROSS JOIN design
)""",
        f"""whole AS (
    SELECT
        *,
        CASE WHEN list_count(v) = {n} THEN v::DOUBLE[{n}] END AS all_values
    FROM picked
)""",
        f"""judged AS (
    SELECT
        *,
        coalesce(isfinite(array_inner_product(all_values, all_values)), false) AS complete,
        array_inner_product(all_values, all_values)
        - array_inner_product(all_values, b0) * array_inner_product(all_values, b0)
        > {NEAR_ZERO} * array_inner_product(all_values, all_values) AS near_zero
    FROM whole
)""",
        f"""filled AS (
    SELECT
        *,
        CASE WHEN complete AND near_zero THEN 0 ELSE list_min(v)::DOUBLE END AS shift,
        CASE
            WHEN complete AND near_zero THEN all_values
            ELSE list_transform(
                v, lambda x: CASE WHEN {missing} THEN 0 ELSE x::DOUBLE - list_min(v)::DOUBLE END
            )::DOUBLE[{n}]
        END AS y,
        CASE
            WHEN complete THEN NULL
            ELSE list_transform(v, lambda x: CASE WHEN {missing} THEN 0 ELSE 1 END)::DOUBLE[{n}]
        END AS present
    FROM judged
)""",
        f"""sums AS MATERIALIZED (
    SELECT
        vertex,
        shift,
        false AS repeated,
        CASE WHEN complete THEN {n} ELSE coalesce(round(list_sum(present)), 0) END::BIGINT AS n,
        CASE
            WHEN complete THEN {int(cases.group.sum())}
            ELSE coalesce(round(array_inner_product(present, in_group1)), 0)
        END::BIGINT AS n_group1,
        array_inner_product(y, y) AS yy,
        {products}
    FROM (SELECT vertex, shift, complete, y, present, in_group1, {basis} FROM filled)
)""",
    ]


def _sums_of_long(cases: SpmCases) -> list[str]:
    """CTEs: the same inner products, for maps of one row per case and vertex or per case."""
    n, size = cases.n, len(cases.names) + 1
    group = f"x{size - 1}"
    products = ",\n        ".join(
        [f"coalesce(SUM((y - low) * q{k}), 0) AS s{k}" for k in range(size)]
        + [f"coalesce(SUM(q{i} * q{j}) FILTER (has), 0) AS m{i}_{j}" for i, j in _pairs(size)]
    )
    basis = ", ".join(["place", group, *(f"q{k}" for k in range(size))])
    return [
        """placed AS (
    SELECT
        vertex, place, CASE WHEN place IS NOT NULL AND (isfinite(y) OR isinf(y)) THEN y END AS y
    FROM map_rows
    LEFT JOIN used_cases USING (case_key)
)""",
        f"""ranged AS MATERIALIZED (
    SELECT
        vertex,
        min(y) AS low,
        count(place) > bit_count(bitstring_agg(place, 1, {n})) AS repeated
    FROM placed
    GROUP BY vertex
)""",
        f"""sums AS MATERIALIZED (
    SELECT
        vertex,
        any_value(low) AS shift,
        any_value(repeated) AS repeated,
        count(y) AS n,
        round(coalesce(SUM({group}) FILTER (has), 0))::BIGINT AS n_group1,
        coalesce(SUM((y - low) * (y - low)), 0) AS yy,
        {products}
    FROM (
        SELECT vertex, low, repeated, y, y IS NOT NULL AS has, {basis}
        FROM placed
        JOIN ranged USING (vertex)
        LEFT JOIN (SELECT {basis} FROM basis_{size - 1}) USING (place)
    )
    GROUP BY vertex
)""",
    ]


def _elimination(size: int) -> list[str]:
    """CTEs: forward elimination of the symmetric system, the group's column last.

    s_k and m_k_k are then those of a column after all before it, and the residual sum of squares
    is yy less every s_k^2 / m_k_k.
    """
    ctes = [
        """step_0 AS (
    SELECT *, yy AS rss FROM sums
)"""
    ]
    for k in range(size):
        changed = [f"rss - s{k} * s{k} / own AS rss"]
        for j in range(k + 1, size):
            changed.append(f"s{j} - m{k}_{j} * s{k} / own AS s{j}")
            changed += [
                f"m{i}_{j} - m{k}_{i} * m{k}_{j} / own AS m{i}_{j}" for i in range(k + 1, j + 1)
            ]
        kept = "".join(f", s{i} AS sum{i}" for i in range(size)) if k == 0 else ""
        centred = ", yy - s0 * s0 / own AS total_ss" if k == 0 else ""
        joined = ",\n        ".join(changed)
        done = ["own"]
        if k < size - 1:
            done += [f"s{k}", *(f"m{k}_{j}" for j in range(k, size))]
        ctes.append(
            f"""step_{k + 1} AS (
    SELECT * EXCLUDE ({", ".join(done)}) REPLACE (
        {joined}
    ){centred}{kept}
    FROM (
        SELECT *, CASE WHEN m{k}_{k} > {SMALLEST_PIVOT} THEN m{k}_{k} END AS own FROM step_{k}
    )
)"""
        )
    return ctes


def _tests(cases: SpmCases, confidence: float) -> list[str]:
    """CTEs: estimate, its tests, effect sizes and corrections."""
    size = len(cases.names) + 1
    last = size - 1
    least = cases.design.min_per_group
    group_sum = " + ".join(f"r{k} * sum{k}" for k in range(size))
    upper = 0.5 + confidence / 2
    fast = cases.n <= FAST_TAIL_CASES
    ln_beta = "t_ln_beta(df)" if fast else "NULL"
    t_limit = (
        f"t_limit_of_maps({1 - confidence!r}, df, ln_beta)"
        if fast
        else f"t_quantile({upper!r}, df)"
    )
    ln_p = "t_ln_tails_of_maps(t * t, df, ln_beta)" if fast else "ln_f_upper_tail(t * t, 1, df)"
    return [
        f"""fitted AS (
    SELECT
        vertex,
        n,
        n - n_group1 AS n_group0,
        n_group1,
        n - {size} AS df,
        CASE
            WHEN repeated THEN 'repeated'
            WHEN NOT isfinite(yy) THEN 'infinite'
            WHEN n = 0 THEN 'no_values'
            WHEN n_group1 = 0 OR n_group1 = n THEN 'one_group'
            WHEN n <= {size} OR least(n_group1, n - n_group1) < {least} THEN 'too_few_cases'
            WHEN yy = 0 THEN 'constant'
            WHEN m{last}_{last} > {SMALLEST_PIVOT} IS NOT TRUE THEN 'collinear'
            WHEN rss <= {EXACT_FIT} * total_ss THEN 'exact_fit'
        END AS reason,
        s{last} / m{last}_{last} / r{last} AS slope,
        sqrt(greatest(rss, 0) / (n - {size})) AS sigma,
        1 / (m{last}_{last} * r{last} * r{last}) AS unit_variance,
        shift + sum0 * sqrt({cases.n}::DOUBLE) / n AS mean_all,
        shift + ({group_sum}) / n_group1 AS mean_group1,
        shift + (sum0 * sqrt({cases.n}::DOUBLE) - ({group_sum})) / (n - n_group1) AS mean_group0
    FROM step_{size}
    CROSS JOIN design
)""",
        """tested AS (
    SELECT
        *,
        CASE WHEN reason IS NULL THEN slope END AS estimate,
        CASE WHEN reason IS NULL THEN sigma * sqrt(unit_variance) END AS se,
        CASE WHEN reason IS NULL THEN slope / sigma / sqrt(unit_variance) END AS t,
        CASE WHEN reason IS NULL AND df > 1 THEN slope / sigma END AS d
    FROM fitted
)""",
        f"""of_df AS MATERIALIZED (
    SELECT
        df,
        ln_beta,
        {t_limit} AS t_limit,
        CASE WHEN df > 1 THEN hedges_factor(df) END AS small_sample
    FROM (
        SELECT df, {ln_beta} AS ln_beta
        FROM (SELECT DISTINCT n - {size} AS df FROM sums WHERE n > {size})
    )
)""",
        f"""with_p AS MATERIALIZED (
    SELECT
        tested.*,
        of_df.t_limit,
        small_sample,
        CASE WHEN reason IS NULL THEN {ln_p} END AS ln_p,
        {NormalDist().inv_cdf(upper)!r} * small_sample
        * sqrt(unit_variance + d * d / (2 * df)) AS g_margin
    FROM tested
    LEFT JOIN of_df USING (df)
)""",
        """ranked AS (
    SELECT
        *,
        exp(ln_p) AS p,
        count(ln_p) OVER () AS n_tested,
        row_number() OVER (ORDER BY ln_p NULLS LAST) AS rank
    FROM with_p
)""",
        """harmonic AS (
    SELECT coalesce(SUM(1::DOUBLE / i), 0) AS by_factor
    FROM (SELECT unnest(range(1, (SELECT count(ln_p) FROM with_p) + 1)) AS i)
)""",
        """corrected AS (
    SELECT
        *,
        MIN(ln_p + ln(n_tested / rank)) OVER (
            ORDER BY rank ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        ) AS ln_q
    FROM ranked
)""",
    ]


def statement_text(statement: SpmStatement, cases: SpmCases) -> str:
    """The whole statement, its CTEs in the order they are worked out."""
    size = len(cases.names) + 1
    sums = (
        _sums_of_vertex_rows(statement, cases)
        if statement.layout == "vertex_rows"
        else _sums_of_long(cases)
    )
    ctes = [
        _map_rows(statement, cases),
        *_design(cases),
        _design_row(cases),
        *sums,
        *_elimination(size),
        *_tests(cases, statement.confidence),
    ]
    joined = ",\n".join(ctes)
    formula = " + ".join(["1", *(_comment(name) for name in cases.names)])
    header = (
        f"/* Point-by-point ANCOVA: value ~ {formula}; tested: {_comment(cases.names[-1])}, "
        "group 1 less group 0.\n"
        "   grain: one row per vertex.\n"
        "   assumes: cases are independent; residuals normal, of one variance, at each vertex; "
        "values\n   missing for reasons that do not depend on them. p is not corrected; q_bh is "
        "over this map. */\n"
    )
    return f"""{header}WITH
{joined}
SELECT
    vertex,
    n,
    n_group0,
    n_group1,
    CASE WHEN reason IS NULL THEN df END AS df,
    estimate,
    se,
    estimate - t_limit * se AS ci_low,
    estimate + t_limit * se AS ci_high,
    t,
    t * t AS f,
    p,
    ln_p,
    CASE WHEN reason IS NULL THEN least(1, exp(ln_q)) END AS q_bh,
    CASE WHEN reason IS NULL THEN least(1, exp(ln_q + ln(by_factor))) END AS q_by,
    CASE WHEN reason IS NULL THEN least(1, p * n_tested) END AS p_bonferroni,
    t * t / (t * t + df) AS partial_eta2,
    small_sample * d AS hedges_g,
    small_sample * d - g_margin AS hedges_g_low,
    small_sample * d + g_margin AS hedges_g_high,
    CASE WHEN n_group0 > 0 THEN mean_group0 END AS mean_group0,
    CASE WHEN n_group1 > 0 THEN mean_group1 END AS mean_group1,
    mean_all - estimate * n_group1 / n AS adjusted_mean_group0,
    mean_all + estimate * n_group0 / n AS adjusted_mean_group1,
    reason
FROM corrected
CROSS JOIN harmonic
ORDER BY vertex"""
