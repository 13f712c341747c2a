"""The text of a bootstrap and of profile-likelihood intervals, each as one SQL statement."""

from dataclasses import replace

from stats.logit_newton_sql import (
    MAX_ITERATIONS,
    bordered_information,
    coefficients,
    likelihood_sums,
    newton,
    separation,
    solution,
)
from stats.logit_rows_sql import Problem, numbers, plus, row_steps
from stats.logit_sql import fit_steps

BOOTSTRAP_TOLERANCE = 2e-12
"""Per row. No covariance is wanted of a replicate, and the step that is still taken leaves the
log-odds 3e-12 off."""
_PROFILE_TOLERANCE = 1e-16
_DRAWN_KEPT = 30_000_000
"""Values of all replicates' rows that are kept in memory (240 MB)."""


def _rows_and_full_fit(problem: Problem) -> list[str]:
    steps = [f"{head} (\n{body}\n)" for head, body in row_steps(problem)]
    return steps + fit_steps(problem, "full", len(problem.columns))[:2]


def _random_words() -> str:
    """A 32-bit word per replicate and draw: the draw's number, mixed with one key, then the other.

    The mixing is `lowbias32` (Wellons 2018): a bijection whose every output bit depends on every
    input bit. Its products stay below 2^64, which DuckDB would refuse to wrap around.
    """
    text = (
        "SELECT replicate, units, key2, xor(draw::UBIGINT, key1) AS word\n"
        "        FROM keys, range((SELECT units FROM size)) AS d(draw)"
    )
    for left in ("xor(word, key2) AS word", "word"):
        for shift, factor in ((16, 2146121005), (15, 2221713035), (16, 1)):
            mixed = f"xor(word, word >> {shift})"
            if factor > 1:
                mixed = f"({mixed} * {factor}) & 4294967295"
            text = f"SELECT replicate, units, key2, {mixed} AS word FROM (\n        {text})"
        text = f"SELECT replicate, units, key2, {left} FROM (\n        {text})"
    return text


def _draw_steps(problem: Problem, n_replicates: int, seed: int) -> list[str]:
    """Common table expressions `numbered` (rows with their unit) and `draws` (of units)."""
    if problem.cluster is not None:
        units = (
            "SELECT cluster, row_number() OVER (ORDER BY cluster) AS unit\n"
            "    FROM (SELECT DISTINCT cluster FROM design)"
        )
        numbered = "SELECT * FROM design JOIN units USING (cluster)"
    else:
        # Numbered by content: rows that tie are the same, so the order of a file does not matter.
        order = ["y", *(f"z{k}" for k in numbers(1, len(problem.columns)))]
        order += ["o"] * (problem.offset is not None)
        units = "SELECT 1 FROM design"
        numbered = f"SELECT *, row_number() OVER (ORDER BY {', '.join(order)}) AS unit FROM design"
    return [
        f"units AS MATERIALIZED (\n    {units}\n)",
        f"numbered AS MATERIALIZED (\n    {numbered}\n)",
        "size AS MATERIALIZED (SELECT count(*) AS units FROM units)",
        "keys AS MATERIALIZED (\n"
        "    SELECT replicate, units, (digest & 4294967295::UHUGEINT)::UBIGINT AS key1,\n"
        "        ((digest >> 32::UHUGEINT) & 4294967295::UHUGEINT)::UBIGINT AS key2\n"
        f"    FROM (SELECT replicate, units, md5_number('{seed}:' || replicate) AS digest\n"
        f"        FROM size, range(1, {n_replicates + 1}) AS r(replicate))\n)",
        "draws AS MATERIALIZED (\n"
        "    SELECT replicate, 1 + ((word * units) >> 32) AS unit, count(*)::DOUBLE AS times\n"
        f"    FROM ({_random_words()})\n"
        "    GROUP BY replicate, unit\n)",
    ]


def bootstrap_statement(problem: Problem, n_replicates: int, seed: int, rows: int) -> str:
    """One statement that draws units with replacement and refits the model to every draw.

    Args:
        problem: the model; without weights.
        n_replicates: how many draws.
        seed: of the draws.
        rows: there are.

    Returns:
        A query with one row per replicate, or one row with `problem` where there is no model.
    """
    p = len(problem.columns)
    keep = "" if rows * n_replicates * (p + 4) <= _DRAWN_KEPT else "NOT "
    carried = ", o" * (problem.offset is not None) + "".join(f", z{k}" for k in numbers(1, p))
    scores = ["sum(w * r)", *(f"sum(w * r * z{k})" for k in numbers(1, p))]
    linear = plus(["b0", *(f"b{k} * z{k}" for k in numbers(1, p))])
    linear += " + o" * (problem.offset is not None)
    drawn = replace(problem, weights="times", cluster=None)
    joined = "drawn JOIN {state} USING (model)"
    steps = _rows_and_full_fit(problem)
    steps += _draw_steps(problem, n_replicates, seed)
    steps += [
        f"drawn AS {keep}MATERIALIZED (\n"
        f"    SELECT replicate AS model, times AS w, y, r{carried}\n"
        "    FROM draws JOIN (\n"
        f"        SELECT *, y - 1 / (1 + exp(-({linear}))) AS r FROM numbered\n"
        f"        CROSS JOIN {coefficients('', 'full_solution', p)}\n"
        "    ) USING (unit)\n)",
        "replicates AS MATERIALIZED (\n"
        f"    SELECT model, sum(w) AS n, sum(w * y) AS n_events, [{', '.join(scores)}] AS score\n"
        "    FROM drawn GROUP BY model\n)",
        # A refit starts one step, by the information of all rows, from the model of all rows.
        newton(
            drawn,
            "refit_newton",
            p,
            seeds="SELECT replicates.model AS model, replicates.n AS n, candidate AS position,\n"
            "        matrix_vector(inverse, score) AS step, '-infinity'::DOUBLE AS loglik\n"
            "    FROM replicates CROSS JOIN full_solution\n"
            "    WHERE full_solution.converged AND n_events > 0 AND n_events < replicates.n\n"
            # Cuts nothing off: it tells the planner that these are few, the rows drawn many.
            f"    LIMIT {n_replicates}",
            rows=joined,
            grouped=True,
            tolerance=BOOTSTRAP_TOLERANCE,
        ),
        *solution("refit", p, rows=joined, grouped=True),
    ]
    return (
        "WITH RECURSIVE " + ",\n".join(steps) + "\n"
        "SELECT replicates.model AS replicate, replicates.n AS n_drawn,\n"
        "    replicates.n_events AS n_events_drawn,\n"
        "    coalesce(solution.converged, false) AS converged,\n"
        f"    {separation()} AS separation,\n"
        "    coalesce(solution.iteration, 0) AS iterations,\n"
        "    CASE WHEN solution.converged THEN solution.loglik END AS loglik,\n"
        "    CASE WHEN solution.converged THEN matrix_vector(matrix_transpose(to_design),\n"
        "        solution.candidate) END AS estimates,\n"
        "    full_solution.converged AS full_converged, problem, is_constant, whitening,\n"
        "    frame.n AS n, frame.n_events AS n_events, rows_used, rows_given, rows_not_binary\n"
        "FROM frame LEFT JOIN full_solution ON true LEFT JOIN replicates ON true\n"
        "LEFT JOIN refit_solution AS solution ON solution.model = replicates.model\n"
        "LEFT JOIN refit_margins AS margins ON margins.model = replicates.model\n"
        "ORDER BY replicate"
    )


def profile_statement(problem: Problem, confidence: float) -> str:
    """One statement of both ends of every coefficient's profile-likelihood interval.

    Each end is where a coefficient is largest, or smallest, among all models whose log-likelihood
    is the limit. With u = H^-1 g and v = H^-1 a, for a the coefficient's direction, the step is
    u +- nu v with nu^2 = (2 (loglik - limit) + g' u) / a' v (Venzon and Moolgavkar 1988,
    doi:10.2307/2347496).

    Args:
        problem: the model.
        confidence: level of the intervals.

    Returns:
        A query with columns k (1 for the intercept), side (-1 or 1), bound and converged.
    """
    p = len(problem.columns)
    size = p + 1
    model = "model, "
    limit = f"pow(normal_quantile('{(1 + confidence) / 2!r}'::DOUBLE), 2)"
    active = (
        "SELECT profiles.*, list_transform(position, lambda v, k: v + step[k]) AS candidate,\n"
        "        direction, side, lowest, highest\n"
        "        FROM profiles JOIN targets USING (model)\n"
        f"        WHERE NOT converged AND iteration < {MAX_ITERATIONS}"
    )
    summed = likelihood_sums(
        problem, p, model, f"design CROSS JOIN {coefficients(model, f'({active})', p)}"
    )
    steps = _rows_and_full_fit(problem)
    steps += [
        "targets AS MATERIALIZED (\n"
        "    SELECT 2 * k + (side > 0)::INTEGER AS model, k, side::DOUBLE AS side,\n"
        "        matrix_column(to_design, k) AS direction, loglik AS highest,\n"
        f"        loglik - {limit} / 2 AS lowest, candidate, inverse\n"
        "    FROM frame JOIN full_solution USING (model),\n"
        f"        unnest(range(1, {size + 1})) AS t(k), unnest([-1, 1]) AS s(side)\n"
        "    WHERE full_solution.converged\n)",
        f"""profiles AS (
    SELECT model, 0 AS iteration, candidate AS position,
        list_transform(
            matrix_vector(inverse, direction),
            lambda v: side * v * sqrt(2 * (highest - lowest)
                / list_dot_product(direction, matrix_vector(inverse, direction)))
        ) AS step,
        'infinity'::DOUBLE AS decrement, false AS converged
    FROM targets
    UNION ALL
    SELECT model, iteration + 1,
        CASE WHEN worse THEN position ELSE candidate END,
        CASE
            WHEN worse THEN list_transform(step, lambda v: v / 2)
            ELSE list_transform(swept[1:{size}],
                lambda matrix_row: matrix_row[{size + 1}] + side * nu * matrix_row[{size + 2}])
        END,
        CASE WHEN worse THEN decrement ELSE next_decrement END,
        NOT worse AND isfinite(next_decrement) AND abs(reached - lowest) <= 1e-6
            AND (next_decrement <= {_PROFILE_TOLERANCE}
                OR next_decrement <= 1e-10 AND next_decrement >= 0.6 * decrement)
    FROM (
        SELECT *, -(swept[{size + 1}][{size + 1}] + 2 * side * nu * swept[{size + 1}][{size + 2}]
            + nu * nu * swept[{size + 2}][{size + 2}]) AS next_decrement
        FROM (
            SELECT *, sqrt(greatest(0, (2 * (reached - lowest) - swept[{size + 1}][{size + 1}])
                / -swept[{size + 2}][{size + 2}])) AS nu
            FROM (
                SELECT *,
                    NOT isfinite(reached) OR reached < lowest - 3 * (highest - lowest) AS worse,
                    matrix_sweep({bordered_information(p, 2)}, {size}) AS swept
                FROM ({active})
                JOIN {summed} USING (model)
            )
        )
    )
)""",
    ]
    return (
        "WITH RECURSIVE " + ",\n".join(steps) + "\n"
        "SELECT k, side, converged,\n"
        "    list_dot_product(direction, list_transform(position, lambda v, j: v + step[j]))\n"
        "        AS bound\n"
        "FROM profiles JOIN targets USING (model)\n"
        "QUALIFY row_number() OVER (PARTITION BY model ORDER BY iteration DESC) = 1\n"
        "ORDER BY k, side"
    )
