"""The text of a logistic regression as one SQL statement: fits, their nesting, and the test."""

from collections.abc import Iterator, Sequence

from stats.identifiers import quote_literal
from stats.logit_newton_sql import coefficients, likelihood_rows, newton, separation, solution
from stats.logit_rows_sql import Problem, numbers, plus, row_steps


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
    yield from solution(fit, p, rows=rows, grouped=grouped)
    if problem.cluster is not None:
        scores = ["sum(r) AS s0", *(f"sum(r * z{k}) AS s{k}" for k in numbers(1, p))]
        each_row = likelihood_rows(
            problem, p, model, rows.format(state=coefficients(model, f"{fit}_solution", p))
        )
        meat = ", ".join(
            "[" + ", ".join(f"sum(s{min(i, j)} * s{max(i, j)})" for j in range(size)) + "]"
            for i in range(size)
        )
        yield (
            f"{fit}_meat AS MATERIALIZED (\n"
            f"    SELECT {model or '1 AS model, '}count(*) AS n_clusters, [{meat}] AS meat\n"
            f"    FROM (SELECT {model}{', '.join(scores)} FROM ({each_row})\n"
            f"        GROUP BY {model}cluster){' GROUP BY model' if grouped else ''}\n)"
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
        f"        {separation()} AS separation,\n"
        f"        matrix_vector({back}, solution.candidate) AS estimates,\n"
        f"        matrix_product(matrix_product({back}, solution.inverse), {to_design})\n"
        "            AS covariance,\n"
        f"        list_transform(range(1, {size}), lambda k: list_sum(list_transform(\n"
        f"            whitening[1:{p}], lambda t: t[k] * t[k]))) AS vif{robust}\n"
        f"    FROM {fit}_solution AS solution JOIN frame USING (model) "
        f"LEFT JOIN {fit}_margins USING (model)"
        f"{meat_join}{null_join}\n)"
    )


def ln_chi_square_text(x: str, df: int) -> str:
    """Logarithm of the upper tail of an expression that is never below 0.

    With one degree of freedom it is a normal tail, a fifth of what the macro for any number has
    DuckDB read.
    """
    if df == 1:
        return f"ln_normal_two_sided(sqrt({x}))"
    return f"ln_chi_square_upper_tail({x}, {df})"


def _term_columns(problem: Problem) -> list[str]:
    columns = [
        "estimate",
        "se",
        "estimate / se AS z",
        # One tail of each kind: DuckDB takes longer to read one than to fit a small model.
        "ln_normal_two_sided(estimate / se) AS log_p",
        "exp(log_p) AS p",
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
            f" LEFT JOIN (SELECT *, {ln_chi_square_text('lr_chi2', df)} AS lr_log_p,\n"
            "        exp(lr_log_p) AS lr_p\n"
            f"    FROM (SELECT {full}_summary.model AS model, {df} AS lr_df,\n"
            f"            greatest({chi2}, 0) AS lr_chi2\n"
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
            "    coalesce(sum(positives) FILTER (score >= 0), 0) / sum(positives) AS sensitivity,\n"
            "    coalesce(sum(negatives) FILTER (score < 0), 0) / sum(negatives) AS specificity,\n"
            "    sum(positives * (below + negatives / 2))\n"
            "        / sum(positives) / sum(negatives) AS auc\n"
            "FROM (SELECT *, sum(negatives) OVER (ORDER BY score) - negatives AS below FROM (\n"
            f"    SELECT {linear} AS score, sum({weight} * y) AS positives, "
            f"sum({weight} * (1 - y)) AS negatives\n"
            "    FROM usable GROUP BY score))"
        )
    union = "\nUNION ALL\n".join(parts)
    return f"WITH {', '.join(rows)}\n{union}\nORDER BY fit_order"
