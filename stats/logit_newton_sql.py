"""SQL of Newton's method for the logistic likelihood, as a recursive query.

Its state is one row per model, each step one scan of the design that sums the log-likelihood, the
gradient and the information, and the sweep operator solves for the step.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

from stats.logit_rows_sql import Problem, numbers, plus

MAX_ITERATIONS = 30
"""At separation the decrement falls by a factor e per step: 30 leave it far above TOLERANCE."""
TOLERANCE = 1e-21
"""Newton decrement g' H^-1 g per row below which a model has converged; the step is still taken.
The information is worked out before it, at log-odds that are 6e-11 off."""
STALLED = (1e-10, 0.6)
"""Also converged: a decrement below the first and above the second times that before it."""


def coefficients(model: str, relation: str, p: int) -> str:
    """Each model's `candidate` coefficients as scalars: a list would be copied for every row.

    DISTINCT changes nothing, since a model has one row; it keeps the planner from putting off the
    scalars until after the join.
    """
    scalars = ", ".join(f"candidate[{k + 1}] AS b{k}" for k in range(p + 1))
    return f"(SELECT DISTINCT {model}{scalars} FROM {relation})"


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


def likelihood_sums(problem: Problem, p: int, model: str, rows: str) -> str:
    """Per model: log-likelihood `reached`, gradient g<k>, information h<i>_<j>, as a subquery."""
    sums = ["sum(l) AS reached", "sum(r) AS g0", "sum(h) AS h0_0"]
    sums += [f"sum(r * z{k}) AS g{k}" for k in numbers(1, p)]
    sums += [f"sum(h * z{k}) AS h0_{k}" for k in numbers(1, p)]
    sums += [
        f"sum(h * z{i} * z{j}) AS h{i}_{j}"
        for i, j in combinations_with_replacement(numbers(1, p), 2)
    ]
    each_row = likelihood_rows(problem, p, model, rows)
    group = " GROUP BY model" if model else ""
    return f"(SELECT {model}{', '.join(sums)} FROM ({each_row}){group} HAVING count(*) > 0) AS sums"


def bordered_information(p: int, borders: int) -> str:
    """[[H, g], [g', 0]]; with two borders also a row and a column of the vector `direction`."""
    size = p + 1
    more = [[f"g{i}", f"direction[{i + 1}]"][:borders] for i in range(size)]
    rows = [[f"h{min(i, j)}_{max(i, j)}" for j in range(size)] + more[i] for i in range(size)]
    rows += [[more[i][k] for i in range(size)] + ["0"] * borders for k in range(borders)]
    return "[" + ", ".join(f"[{', '.join(row)}]" for row in rows) + "]"


def newton(
    problem: Problem,
    name: str,
    p: int,
    *,
    seeds: str,
    rows: str,
    grouped: bool,
    tolerance: float = TOLERANCE,
) -> str:
    """A recursive query of Newton's method with step halving.

    Args:
        problem: what is fitted.
        name: of the common table expression.
        p: terms, the first of the design.
        seeds: query of (model, n, position, step, loglik) to start from.
        rows: FROM clause of the design, its end joined to a table of coefficients by the caller's
            `{state}`.
        grouped: whether there are several models.
        tolerance: decrement per row below which a model has converged.

    Returns:
        "name AS (...)": a row per model and iteration: model, n, iteration, position, step, loglik,
        decrement, inverse (of the information), converged. The estimate is position + step.
    """
    model = "model, " if grouped else ""
    size = p + 1
    active = (
        f"SELECT *, list_transform(position, lambda v, k: v + step[k]) AS candidate\n"
        f"        FROM {name} WHERE NOT converged AND iteration < {MAX_ITERATIONS}"
    )
    summed = likelihood_sums(
        problem, p, model, rows.format(state=coefficients(model, f"({active})", p))
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
            next_decrement <= {tolerance} * n
            OR next_decrement <= {small} AND next_decrement >= {shrinking} * decrement
        )
    FROM (
        SELECT *, -swept[{size + 1}][{size + 1}] AS next_decrement
        FROM (
            SELECT *,
                NOT isfinite(reached) OR reached < loglik - 1e-10 * (1 + abs(loglik)) AS worse,
                matrix_sweep({bordered_information(p, 1)}, {size}) AS swept
            FROM ({active})
            {together}
        )
    )
)"""


def solution(fit: str, p: int, *, rows: str, grouped: bool) -> Iterator[str]:
    """Common table expressions of where a `newton` named `<fit>_newton` ended.

    `<fit>_solution`: a row per model with `candidate`, the estimates. `<fit>_margins`: of those
    that did not converge, the least and the most by which the last step moves a row towards its
    own class. At separation that step is a direction in which no row moves away.

    Args:
        fit: its name.
        p: its terms.
        rows: as for `newton`.
        grouped: whether there are several models.
    """
    model = "model, " if grouped else ""
    yield (
        f"{fit}_solution AS MATERIALIZED (\n"
        "    SELECT * EXCLUDE (n), CASE\n"
        "        WHEN converged THEN list_transform(position, lambda v, k: v + step[k])\n"
        "        ELSE position END AS candidate\n"
        f"    FROM {fit}_newton\n"
        "    QUALIFY row_number() OVER (PARTITION BY model ORDER BY iteration DESC) = 1\n)"
    )
    steps = ", ".join(f"step[{k + 1}] AS b{k}" for k in range(p + 1))
    joined = rows.format(state=f"(SELECT {model}{steps} FROM {fit}_solution WHERE NOT converged)")
    moved = f"(2 * y - 1) * {plus(['b0', *(f'b{k} * z{k}' for k in numbers(1, p))])}"
    yield (
        f"{fit}_margins AS MATERIALIZED (\n"
        f"    SELECT {model or '1 AS model, '}min(moved) AS least, max(moved) AS most\n"
        f"    FROM (SELECT {model}{moved} AS moved FROM {joined})"
        f"{' GROUP BY model' if grouped else ''}\n)"
    )


def separation(solution: str = "solution") -> str:
    """What a solution joined to its margins shows: 'none', 'quasi' or 'complete'."""
    return (
        "CASE\n"
        f"            WHEN {solution}.converged OR NOT most > 1e-3 OR NOT least >= -1e-6 * most\n"
        "                THEN 'none'\n"
        "            WHEN least > 1e-3 * most THEN 'complete'\n"
        "            ELSE 'quasi'\n"
        "        END"
    )
