"""SQL of the rows of a regression: complete ones, their moments, and the design.

The terms are centred, scaled and made orthogonal (`matrix_whitening`), so that neither large
offsets nor collinearity cost digits; `frame` keeps what turns estimates back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

SPREADS = (1e-280, 1e290)
"""Sums of squares about the mean beyond these would leave the range of a double further on."""


@dataclass(frozen=True)
class Problem:
    """What a statement is made of; every text is SQL whose names are already quoted.

    Attributes:
        relation: table, view or subquery.
        outcome: expression, DOUBLE, 0 or 1.
        columns: expression of each term, DOUBLE.
        conditions: what a row must fulfil besides a finite outcome and finite terms.
        weights: expression of the frequency weight; None for 1.
        offset: expression of a known part of the log-odds; None for 0.
        cluster: expression of what rows of one cluster share; None without.
        by: expressions whose values tell the models apart.
        keep_rows: whether the rows as read are kept in memory between scans.
        keep_design: whether the design, their transformed terms, is.
    """

    relation: str
    outcome: str
    columns: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    weights: str | None = None
    offset: str | None = None
    cluster: str | None = None
    by: tuple[str, ...] = ()
    keep_rows: bool = True
    keep_design: bool = True


def _kept(keep: bool) -> str:
    return "MATERIALIZED" if keep else "NOT MATERIALIZED"


def numbers(first: int, last: int) -> range:
    """`first` to `last`, both included, as SQL counts."""
    return range(first, last + 1)


def plus(parts: Sequence[str]) -> str:
    """A sum, balanced: DuckDB limits how deep an expression may be."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({plus(parts[:half])} + {plus(parts[half:])})"


def _times_weight(problem: Problem, expression: str) -> str:
    return expression if problem.weights is None else f"w * ({expression})"


def _join_model(problem: Problem, table: str) -> str:
    return f"JOIN {table} USING (model)" if problem.by else f"CROSS JOIN {table}"


def _model(problem: Problem) -> str:
    return "model, " if problem.by else ""


def _group_by_model(problem: Problem) -> str:
    return " GROUP BY model" if problem.by else ""


def row_steps(problem: Problem) -> Iterator[tuple[str, str]]:
    """Common table expressions up to `design`: (head, body)."""
    p = len(problem.columns)
    chosen = [f"{problem.outcome} AS y"]
    chosen += [f"{text} AS x{k}" for k, text in enumerate(problem.columns, 1)]
    wanted = ["isfinite(y)", *(f"isfinite(x{k})" for k in numbers(1, p))]
    carried = ["y", *(f"x{k}" for k in numbers(1, p))]
    if problem.weights is not None:
        chosen.append(f"{problem.weights} AS w")
        wanted.append("isfinite(w)")
        carried.append("w")
    if problem.offset is not None:
        chosen.append(f"{problem.offset} AS o")
        wanted.append("isfinite(o)")
        carried.append("o")
    if problem.cluster is not None:
        chosen.append(f"{problem.cluster} AS cluster")
        wanted.append("cluster IS NOT NULL")
        carried.append("cluster")
    conditions = " AND ".join(f"({text})" for text in problem.conditions) or "true"
    chosen.append(f"{conditions} AS complete")
    wanted.append("complete")
    source = f"{problem.relation} AS given"
    if problem.by:
        keys = ", ".join(f"{text} AS key{k}" for k, text in enumerate(problem.by, 1))
        names = ", ".join(f"key{k}" for k in numbers(1, len(problem.by)))
        yield (
            "groups AS MATERIALIZED",
            f"SELECT row_number() OVER (ORDER BY {names}) AS model, {names}\n"
            f"FROM (SELECT DISTINCT {keys} FROM {source})",
        )
        same = " AND ".join(
            f"{text} IS NOT DISTINCT FROM groups.key{k}" for k, text in enumerate(problem.by, 1)
        )
        chosen.insert(0, "groups.model AS model")
        carried.insert(0, "model")
        source += f"\nJOIN groups ON {same}"
    yield (
        "given_rows AS NOT MATERIALIZED",
        f"SELECT {', '.join(chosen)}\nFROM {source}",
    )
    yield (
        f"usable AS {_kept(problem.keep_rows)}",
        f"SELECT {', '.join(carried)}\nFROM given_rows\nWHERE "
        + " AND ".join(wanted)
        + ("" if problem.weights is None else " AND w > 0"),
    )
    yield from _moment_steps(problem)
    whitened = ", ".join(
        plus([f"t{k}_{j} * (x{j} - m{j})" for j in numbers(1, k)]) + f" AS z{k}"
        for k in numbers(1, p)
    )
    scalars = [f"centre[{k}] AS m{k}" for k in numbers(1, p)]
    scalars += [
        f"to_design[{k + 1}][{j + 1}] AS t{k}_{j}" for k in numbers(1, p) for j in numbers(1, k)
    ]
    rest = ", ".join(c for c in carried if not c.startswith("x"))
    frame = f"(SELECT {_model(problem)}{', '.join(scalars) or '0'} FROM frame)"
    yield (
        f"design AS {_kept(problem.keep_design)}",
        f"SELECT {rest}{', ' * bool(whitened)}{whitened}\n"
        f"FROM usable {_join_model(problem, frame)}",
    )


def _moment_steps(problem: Problem) -> Iterator[tuple[str, str]]:
    p = len(problem.columns)
    model, group = _model(problem), _group_by_model(problem)
    total = "count(*)::DOUBLE" if problem.weights is None else "sum(w)"
    fractional = "false" if problem.weights is None else "bool_or(w <> round(w))"
    offset = "0::DOUBLE" if problem.offset is None else f"sum({_times_weight(problem, 'o')})"
    means = [f"sum({_times_weight(problem, f'x{k}')}) / {total} AS m{k}" for k in numbers(1, p)]
    same = [f"min(x{k}) = max(x{k})" for k in numbers(1, p)]
    negative = "0" if problem.weights is None else "count(*) FILTER (w < 0)"
    # A row of weight 0 stands for none: nothing of it is missing.
    given = "count(*)" if problem.weights is None else "count(*) FILTER (w IS DISTINCT FROM 0)"
    least, most = SPREADS
    extreme = "".join(
        f"        WHEN NOT c{k}_{k} BETWEEN {least} AND {most} THEN 'extreme {k}'\n"
        for k in numbers(1, p)
    )
    yield (
        "counts AS MATERIALIZED",
        f"SELECT {model}{given} AS rows_given, {negative} AS rows_negative_weight,\n"
        "    count(*) FILTER (isfinite(y) AND y NOT IN (0, 1)) AS rows_not_binary\n"
        f"FROM given_rows{group}",
    )
    yield (
        "means AS MATERIALIZED",
        f"SELECT {model}count(*) AS rows_used, coalesce({total}, 0) AS n,\n"
        f"    coalesce(sum({_times_weight(problem, 'y')}), 0) AS n_events, "
        f"{fractional} AS fractional_weights,\n"
        f"    coalesce({offset}, 0) / {total} AS mean_offset, [{', '.join(same)}]::BOOLEAN[] "
        f"AS is_constant{''.join(', ' + mean for mean in means)}\nFROM usable{group}",
    )
    pairs = list(combinations_with_replacement(numbers(1, p), 2))
    sums = [f"sum({_times_weight(problem, f'd{i} * d{j}')}) AS c{i}_{j}" for i, j in pairs]
    sums += [
        f"sum({_times_weight(problem, f'd{k} * (y - mean_y)')}) AS g{k}" for k in numbers(1, p)
    ]
    centred = "".join(f", x{k} - m{k} AS d{k}" for k in numbers(1, p))
    weighed = "" if problem.weights is None else ", w"
    yield (
        "products AS MATERIALIZED",
        f"SELECT {model}{', '.join(sums) or 'count(*)'}\n"
        f"FROM (SELECT {model}y, n_events / n AS mean_y{weighed}{centred}\n"
        f"    FROM usable {_join_model(problem, 'means')}){group}",
    )
    correlation = "["
    correlation += ", ".join(
        "["
        + ", ".join(
            "1::DOUBLE" if i == j else f"c{min(i, j)}_{max(i, j)} / sqrt(c{i}_{i}) / sqrt(c{j}_{j})"
            for j in numbers(1, p)
        )
        + "]"
        for i in numbers(1, p)
    )
    correlation += "]::DOUBLE[][]"
    centre = f"[{', '.join(f'm{k}' for k in numbers(1, p))}]::DOUBLE[]"
    scale = f"[{', '.join(f'sqrt(c{k}_{k} / n)' for k in numbers(1, p))}]::DOUBLE[]"
    slope = f"[{', '.join(f'g{k} / n' for k in numbers(1, p))}]::DOUBLE[]"
    joins = (
        "groups JOIN counts USING (model) LEFT JOIN means USING (model) "
        "LEFT JOIN products USING (model)"
        if problem.by
        else "means CROSS JOIN counts CROSS JOIN products"
    )
    yield (
        "scaled AS MATERIALIZED",
        f"SELECT {'*' if problem.by else '1 AS model, *'}, {centre} AS centre, {scale} AS scale,\n"
        f"    {correlation} AS correlation, {slope} AS slope,\n"
        "    CASE\n"
        "        WHEN rows_not_binary > 0 THEN 'outcome'\n"
        "        WHEN rows_negative_weight > 0 OR fractional_weights THEN 'weights'\n"
        "        WHEN coalesce(rows_used, 0) = 0 THEN 'no_rows'\n"
        "        WHEN n_events = 0 OR n_events = n THEN 'one_class'\n"
        f"        WHEN n <= {p + 1} THEN 'too_few_rows'\n"
        "        WHEN list_contains(is_constant, true) THEN 'constant'\n"
        f"{extreme}"
        "    END AS first_problem\n"
        f"FROM {joins}",
    )
    yield (
        "whitened AS MATERIALIZED",
        "SELECT *, CASE WHEN first_problem IS NULL THEN matrix_whitening(correlation) END "
        "AS whitening\nFROM scaled",
    )
    yield (
        "frame AS MATERIALIZED",
        "SELECT *,\n"
        "    coalesce(first_problem, CASE WHEN list_bool_or(list_transform(whitening,\n"
        "        lambda t, k: NOT (1 / t[k] / t[k] > 1e-13 + 4e-16 * sqrt(n))))\n"
        "        THEN 'collinear' END) AS problem,\n"
        "    list_concat(\n"
        f"        [list_concat([1::DOUBLE], list_resize([]::DOUBLE[], {p}, 0::DOUBLE))],\n"
        "        list_transform(\n"
        "            list_transform(whitening,\n"
        "                lambda t: list_transform(t, lambda v, j: v / scale[j])),\n"
        "            lambda t: list_concat([-list_dot_product(t, centre)], t)\n"
        "        )\n"
        "    ) AS to_design\nFROM whitened",
    )
