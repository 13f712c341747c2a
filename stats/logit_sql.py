"""The text of a logistic regression as one SQL statement.

Newton's method is a recursive query: its state is one row per model, each step one scan of the
table that sums the gradient and the information, and the sweep operator solves for the step.
The terms are first centred, scaled and made orthogonal (`matrix_whitening`), so that neither large
offsets nor collinearity cost digits; estimates and covariance are turned back at the end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from stats.identifiers import quote_literal

MAX_ITERATIONS = 30
"""At separation the decrement falls by a factor e per step: 30 leave it far above TOLERANCE."""
TOLERANCE = 1e-21
"""Newton decrement g' H^-1 g per row below which a model has converged; the step is still taken.
The information is worked out before it, at log-odds that are 6e-11 off."""
STALLED = (1e-10, 0.6)
"""Converged too: a decrement below the first that is no longer the second times the one before."""


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


def matrix_of(size: int, element: str) -> str:
    """A symmetric matrix as a list of lists; `element` names its upper half by {i} and {j}."""
    rows = (
        ", ".join(element.format(i=min(i, j), j=max(i, j)) for j in range(size))
        for i in range(size)
    )
    return "[" + ", ".join(f"[{row}]" for row in rows) + "]"


def plus(parts: Sequence[str]) -> str:
    """A sum, balanced: DuckDB limits how deep an expression may be."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({plus(parts[:half])} + {plus(parts[half:])})"


def _times_weight(problem: Problem, expression: str) -> str:
    return expression if problem.weights is None else f"w * ({expression})"


def _on_model(problem: Problem, table: str) -> str:
    return f"JOIN {table} USING (model)" if problem.by else f"CROSS JOIN {table}"


def _model(problem: Problem) -> str:
    return "model, " if problem.by else ""


def _group(problem: Problem) -> str:
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
        f"SELECT {rest}{', ' * bool(whitened)}{whitened}\nFROM usable {_on_model(problem, frame)}",
    )


def _moment_steps(problem: Problem) -> Iterator[tuple[str, str]]:
    p = len(problem.columns)
    model, group = _model(problem), _group(problem)
    total = "count(*)::DOUBLE" if problem.weights is None else "sum(w)"
    fractional = "false" if problem.weights is None else "bool_or(w <> round(w))"
    offset = "0::DOUBLE" if problem.offset is None else f"sum({_times_weight(problem, 'o')})"
    means = [f"sum({_times_weight(problem, f'x{k}')}) / {total} AS m{k}" for k in numbers(1, p)]
    same = [f"min(x{k}) = max(x{k})" for k in numbers(1, p)]
    negative = "0" if problem.weights is None else "count(*) FILTER (w < 0)"
    yield (
        "counts AS MATERIALIZED",
        f"SELECT {model}count(*) AS rows_given, {negative} AS rows_negative_weight,\n"
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
        f"    FROM usable {_on_model(problem, 'means')}){group}",
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


def _state(model: str, relation: str, p: int) -> str:
    """The coefficients of each model as scalars: a list would be copied for every row."""
    scalars = ", ".join(f"candidate[{k + 1}] AS b{k}" for k in range(p + 1))
    return f"(SELECT {model}{scalars} FROM {relation})"


def likelihood_rows(problem: Problem, p: int, model: str, rows: str) -> str:
    """Per row of a design joined to coefficients: residual r, information h, log-likelihood l.

    e = exp(-|eta|) and u = 1 / (1 + e) keep every digit of the rare class.
    """
    weight = "" if problem.weights is None else "w * "
    linear = plus(["b0", *(f"b{k} * z{k}" for k in numbers(1, p))])
    if problem.offset is not None:
        linear = f"({linear} + o)"
    carried = model + "".join(f"z{k}, " for k in numbers(1, p))
    carried += "cluster, " if problem.cluster is not None else ""
    more = "" if problem.weights is None else "w, "
    return (
        f"SELECT {carried}{weight}(y - CASE WHEN eta >= 0 THEN u ELSE e * u END) AS r,\n"
        f"        {weight}(e * u * u) AS h,\n"
        f"        {weight}(y * eta - greatest(eta, 0) + ln(u)) AS l\n"
        f"    FROM (SELECT *, 1 / (1 + e) AS u FROM (SELECT *, exp(-abs(eta)) AS e FROM (\n"
        f"        SELECT {carried}{more}y, {linear} AS eta FROM {rows})))"
    )


def newton(problem: Problem, name: str, p: int, *, seeds: str, rows: str, grouped: bool) -> str:
    """A recursive query of Newton's method with step halving.

    Args:
        problem: what is fitted.
        name: of the common table expression.
        p: terms, the first of the design.
        seeds: query of (model, n, position, step, loglik) to start from.
        rows: FROM clause of the design, its end joined to a table of coefficients by the caller's
            `{state}`.
        grouped: whether there are several models.

    Returns:
        "name AS (...)": a row per model and iteration: model, n, iteration, position, step, loglik,
        decrement, inverse (of the information), converged. The estimate is position + step.
    """
    model = "model, " if grouped else ""
    size = p + 1
    sums = ["sum(l) AS reached", "sum(r) AS g0", "sum(h) AS h0_0"]
    sums += [f"sum(r * z{k}) AS g{k}" for k in numbers(1, p)]
    sums += [f"sum(h * z{k}) AS h0_{k}" for k in numbers(1, p)]
    sums += [
        f"sum(h * z{i} * z{j}) AS h{i}_{j}"
        for i, j in combinations_with_replacement(numbers(1, p), 2)
    ]
    gradient = ", ".join(f"g{k}" for k in range(size))
    information = ", ".join(
        "[" + ", ".join([f"h{min(i, j)}_{max(i, j)}" for j in range(size)] + [f"g{i}"]) + "]"
        for i in range(size)
    )
    active = (
        f"SELECT *, list_transform(position, lambda v, k: v + step[k]) AS candidate\n"
        f"        FROM {name} WHERE NOT converged AND iteration < {MAX_ITERATIONS}"
    )
    each_row = likelihood_rows(
        problem, p, model, rows.format(state=_state(model, f"({active})", p))
    )
    group = " GROUP BY model" if grouped else ""
    summed = (
        f"(SELECT {model}{', '.join(sums)} FROM ({each_row}){group} HAVING count(*) > 0) AS sums"
    )
    together = f"JOIN {summed} USING (model)" if grouped else f"CROSS JOIN {summed}"
    small, shrinking = STALLED
    return f"""{name} AS (
    SELECT model, n, 0 AS iteration, position, step, loglik, 'infinity'::DOUBLE AS decrement,
        NULL::DOUBLE[][] AS inverse, false AS converged
    FROM ({seeds})
    UNION ALL
    SELECT model, n,
        CASE WHEN worse OR isfinite(next_decrement) THEN iteration + 1 ELSE {MAX_ITERATIONS} END,
        CASE WHEN worse THEN position ELSE candidate END,
        CASE
            WHEN worse THEN list_transform(step, lambda v: v / 2)
            WHEN isfinite(next_decrement)
                THEN list_transform(swept[1:{size}], lambda matrix_row: matrix_row[{size + 1}])
            ELSE step
        END,
        CASE WHEN worse THEN loglik ELSE reached END,
        CASE WHEN worse THEN decrement ELSE next_decrement END,
        CASE
            WHEN worse THEN inverse
            ELSE list_transform(swept[1:{size}], lambda matrix_row: matrix_row[1:{size}])
        END,
        NOT worse AND isfinite(next_decrement) AND (
            next_decrement <= {TOLERANCE} * n
            OR next_decrement <= {small} AND next_decrement >= {shrinking} * decrement
        )
    FROM (
        SELECT *, -swept[{size + 1}][{size + 1}] AS next_decrement
        FROM (
            SELECT *,
                NOT isfinite(reached) OR reached < loglik - 1e-10 * (1 + abs(loglik)) AS worse,
                matrix_sweep([{information}, [{gradient}, 0]], {size}) AS swept
            FROM ({active})
            {together}
        )
    )
)"""


def _null_loglik() -> str:
    return "n_events * ln(n_events / n) + (n - n_events) * ln((n - n_events) / n)"


def fit_steps(problem: Problem, fit: str, p: int) -> list[str]:
    """Common table expressions of one model: its Newton, its solution, its summary."""
    return list(_fit_steps(problem, fit, p))


def _fit_steps(problem: Problem, fit: str, p: int) -> Iterator[str]:
    grouped = bool(problem.by)
    model = "model, " if grouped else ""
    size = p + 1
    zeros = f"list_resize([]::DOUBLE[], {p}, 0::DOUBLE)"
    rows = "design JOIN {state} USING (model)" if grouped else "design CROSS JOIN {state}"
    if problem.offset is None:
        # From the null model, the first step follows from sums that are known already.
        odds = "ln(n_events / (n - n_events))"
        share = "(n_events / n * (1 - n_events / n))"
        seeds = (
            f"SELECT model, n, list_concat([{odds}], {zeros}) AS position,\n"
            "        list_concat([0::DOUBLE], list_transform(matrix_vector(list_transform(\n"
            f"            whitening[1:{p}], lambda t: t[1:{p}]), list_transform(slope[1:{p}],\n"
            f"            lambda v, k: v / scale[k])), lambda v: v / {share})) AS step,\n"
            f"        {_null_loglik()} AS loglik\n    FROM frame WHERE problem IS NULL"
        )
        if not p:
            seeds = (
                f"SELECT model, n, [{odds}] AS position, [0::DOUBLE] AS step,\n"
                "        '-infinity'::DOUBLE AS loglik FROM frame WHERE problem IS NULL"
            )
    else:
        seeds = (
            "SELECT model, n, list_concat([ln(n_events / (n - n_events)) - mean_offset], "
            f"{zeros}) AS position,\n"
            f"        list_concat([0::DOUBLE], {zeros}) AS step, '-infinity'::DOUBLE AS loglik\n"
            "    FROM frame WHERE problem IS NULL"
        )
    yield newton(problem, f"{fit}_newton", p, seeds=seeds, rows=rows, grouped=grouped)
    yield (
        f"{fit}_solution AS MATERIALIZED (\n"
        "    SELECT * EXCLUDE (n), CASE\n"
        "        WHEN converged THEN list_transform(position, lambda v, k: v + step[k])\n"
        "        ELSE position END AS candidate\n"
        f"    FROM {fit}_newton\n"
        "    QUALIFY row_number() OVER (PARTITION BY model ORDER BY iteration DESC) = 1\n)"
    )
    steps = ", ".join(f"step[{k + 1}] AS b{k}" for k in range(size))
    unsettled = f"(SELECT {model}{steps} FROM {fit}_solution WHERE NOT converged)"
    joined = rows.format(state=unsettled)
    linear = plus(["b0", *(f"b{k} * z{k}" for k in numbers(1, p))])
    group = " GROUP BY model" if grouped else ""
    yield (
        f"{fit}_margins AS MATERIALIZED (\n"
        f"    SELECT {model or '1 AS model, '}min((2 * y - 1) * {linear}) AS least, "
        f"max((2 * y - 1) * {linear}) AS most\n    FROM {joined}{group}\n)"
    )
    if problem.cluster is not None:
        scores = ["sum(r) AS s0", *(f"sum(r * z{k}) AS s{k}" for k in numbers(1, p))]
        each_row = likelihood_rows(
            problem, p, model, rows.format(state=_state(model, f"{fit}_solution", p))
        )
        meat = ", ".join(
            "[" + ", ".join(f"sum(s{min(i, j)} * s{max(i, j)})" for j in range(size)) + "]"
            for i in range(size)
        )
        yield (
            f"{fit}_meat AS MATERIALIZED (\n"
            f"    SELECT {model or '1 AS model, '}count(*) AS n_clusters, [{meat}] AS meat\n"
            f"    FROM (SELECT {model}{', '.join(scores)} FROM ({each_row})\n"
            f"        GROUP BY {model}cluster){group}\n)"
        )
    yield _summary(problem, fit, p)


def _summary(problem: Problem, fit: str, p: int) -> str:
    """Estimates and covariance of a model, back on the user's scales."""
    size = p + 1
    to_design = f"list_transform(to_design[1:{size}], lambda t: t[1:{size}])"
    back = f"matrix_transpose({to_design})"
    robust, meat_join = "", ""
    if problem.cluster is not None:
        robust = (
            ",\n        n_clusters, list_transform(\n"
            f"            matrix_product(matrix_product(matrix_product({back}, inverse), meat),\n"
            f"                matrix_product(inverse, {to_design})),\n"
            "            lambda matrix_row: list_transform(matrix_row, lambda v: v\n"
            f"                * n_clusters / (n_clusters - 1) * (n - 1) / (n - {size}))\n"
            "        ) AS cluster_covariance"
        )
        meat_join = f" LEFT JOIN {fit}_meat USING (model)"
    null = f"{_null_loglik()} AS loglik_null"
    null_join = ""
    if problem.offset is not None:
        null = "null_solution.loglik AS loglik_null"
        null_join = " JOIN null_solution USING (model)"
    return (
        f"{fit}_summary AS MATERIALIZED (\n"
        f"    SELECT model, {p} AS df, solution.loglik AS loglik, {null},\n"
        "        solution.converged AS converged, solution.iteration AS iterations,\n"
        "        solution.decrement AS decrement,\n"
        "        CASE\n"
        "            WHEN solution.converged OR NOT most > 1e-3 OR NOT least >= -1e-6 * most\n"
        "                THEN 'none'\n"
        "            WHEN least > 1e-3 * most THEN 'complete'\n"
        "            ELSE 'quasi'\n"
        "        END AS separation,\n"
        f"        matrix_vector({back}, solution.candidate) AS estimates,\n"
        f"        matrix_product(matrix_product({back}, solution.inverse), {to_design})\n"
        "            AS covariance,\n"
        f"        list_transform(range(1, {size}), lambda k: list_sum(list_transform(\n"
        f"            whitening[1:{p}], lambda t: t[k] * t[k]))) AS vif{robust}\n"
        f"    FROM {fit}_solution AS solution JOIN frame USING (model) "
        f"LEFT JOIN {fit}_margins USING (model)"
        f"{meat_join}{null_join}\n)"
    )


def _term_columns(problem: Problem) -> list[str]:
    columns = [
        "estimate",
        "se",
        "estimate / se AS z",
        "normal_two_sided(estimate / se) AS p",
        "estimate - quantile * se AS ci_low",
        "estimate + quantile * se AS ci_high",
        "exp(estimate) AS odds_ratio",
        "exp(estimate - quantile * se) AS or_low",
        "exp(estimate + quantile * se) AS or_high",
        "vif",
    ]
    if problem.cluster is not None:
        columns += [
            "cluster_se",
            "estimate / cluster_se AS cluster_z",
            "normal_two_sided(estimate / cluster_se) AS cluster_p",
            "estimate - quantile * cluster_se AS cluster_ci_low",
            "estimate + quantile * cluster_se AS cluster_ci_high",
        ]
    return columns


def _final(
    problem: Problem, fits: Sequence[tuple[str, int]], names: Sequence[str], confidence: float
) -> str:
    """Every model's terms, one row each; a model that cannot be fitted has one row, its problem."""
    robust = ""
    fit_columns = ["loglik", "loglik_null", "2 * (df + 1) - 2 * loglik AS aic", "df"]
    fit_columns += ["converged", "iterations", "decrement", "separation"]
    whole = ["covariance"]
    if problem.cluster is not None:
        robust = ", sqrt(cluster_covariance[k][k]) AS cluster_se"
        fit_columns.append("n_clusters")
        whole.append("cluster_covariance")
    parts = []
    for order, (fit, p) in enumerate(fits):
        listed = ", ".join(quote_literal(name) for name in ("Intercept", *names[:p]))
        parts.append(
            f"SELECT {order} AS fit_order, '{fit}' AS fit, frame.model AS model, k, rows_used, n, "
            "n_events, rows_given, rows_not_binary, problem, is_constant, whitening, correlation,\n"
            f"        {p + 1} AS size, summary.* EXCLUDE (model),\n"
            f"        ([{listed}])[k] AS term, estimates[k] AS estimate,\n"
            f"        sqrt(covariance[k][k]) AS se{robust},\n"
            "        CASE WHEN k > 1 THEN vif[k - 1] END AS vif_of_term\n"
            f"    FROM frame LEFT JOIN {fit}_summary AS summary USING (model),\n"
            f"        unnest(range(1, CASE WHEN problem IS NULL THEN {p + 2} ELSE 2 END)) AS t(k)"
        )
    columns = [*_term_columns(problem), *fit_columns]
    columns = ["vif_of_term AS vif" if text == "vif" else text for text in columns]
    test = ""
    if len(fits) == 2:
        (base, p_base), (full, p_full) = fits
        chi2, df = f"2 * ({full}_summary.loglik - {base}_summary.loglik)", p_full - p_base
        test = (
            f" LEFT JOIN (SELECT *, chi_square_upper_tail(lr_chi2, {df}) AS lr_p,\n"
            f"        ln_chi_square_upper_tail(lr_chi2, {df}) AS lr_log_p\n"
            f"    FROM (SELECT {full}_summary.model AS model, {df} AS lr_df, {chi2} AS lr_chi2\n"
            f"        FROM {full}_summary JOIN {base}_summary USING (model))\n"
            ") AS test USING (model)"
        )
        columns += ["lr_chi2", "lr_df", "lr_p", "lr_log_p"]
    keys = ", ".join(f"groups.key{k} AS key{k}" for k in numbers(1, len(problem.by)))
    union = "\n    UNION ALL\n    ".join(parts)
    return (
        f"SELECT fit, {keys + ', ' if keys else ''}term, {', '.join(columns)},\n"
        "    n, rows_given - coalesce(rows_used, 0) AS n_dropped, n_events, rows_given, "
        "rows_used,\n    rows_not_binary, problem, is_constant, whitening, correlation, "
        f"{', '.join(whole)}\n"
        f"FROM (\n    {union}\n) AS terms\n"
        f"CROSS JOIN (SELECT normal_quantile('{(1 + confidence) / 2!r}'::DOUBLE) AS quantile)"
        f"\n{test}{' JOIN groups USING (model)' if keys else ''}\n"
        "ORDER BY model, fit_order, k"
    )


def fit_statement(
    problem: Problem, fits: Sequence[tuple[str, int]], names: Sequence[str], confidence: float
) -> str:
    """One statement that fits models nested in each other, and the likelihood-ratio test of two.

    Args:
        problem: the largest model.
        fits: name of each model and how many of the columns it has, the first ones.
        names: of the columns.
        confidence: level of the intervals.
    """
    steps = [f"{head} (\n{body}\n)" for head, body in row_steps(problem)]
    if problem.offset is not None:
        steps += fit_steps(problem, "null", 0)[:2]
    for fit, p in fits:
        steps += fit_steps(problem, fit, p)
    return "WITH RECURSIVE " + ",\n".join(steps) + "\n" + _final(problem, fits, names, confidence)


def roc_statement(problem: Problem, estimates: Sequence[tuple[str, Sequence[float]]]) -> str:
    """In-sample sensitivity and specificity at probability 1/2, and AUC, one row per model.

    Args:
        problem: the largest model; its complete rows are used.
        estimates: name of each model and its coefficients, the intercept first.
    """
    rows = [f"{head} (\n{body}\n)" for head, body in row_steps(problem)][: 3 if problem.by else 2]
    weight = "1" if problem.weights is None else "w"
    parts = []
    for order, (fit, values) in enumerate(estimates):
        linear = plus(
            [
                f"'{value!r}'::DOUBLE" + (f" * x{k}" if k else "")
                for k, value in enumerate(float(value) for value in values)
            ]
        )
        if problem.offset is not None:
            linear = f"{linear} + o"
        parts.append(
            f"SELECT {order} AS fit_order, '{fit}' AS fit,\n"
            "    sum(positives) FILTER (score >= 0) / sum(positives) AS sensitivity,\n"
            "    sum(negatives) FILTER (score < 0) / sum(negatives) AS specificity,\n"
            "    sum(positives * (below + negatives / 2))\n"
            "        / sum(positives) / sum(negatives) AS auc\n"
            "FROM (SELECT *, sum(negatives) OVER (ORDER BY score) - negatives AS below FROM (\n"
            f"    SELECT {linear} AS score, sum({weight} * y) AS positives, "
            f"sum({weight} * (1 - y)) AS negatives\n"
            "    FROM usable GROUP BY score))"
        )
    union = "\nUNION ALL\n".join(parts)
    return f"WITH {', '.join(rows)}\n{union}\nORDER BY fit_order"
