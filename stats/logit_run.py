"""From a design to its statement, and from the statement's rows to fits and refusals."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from stats.design import Design, given_column
from stats.identifiers import quote_identifier
from stats.logit_results import LogitFit, TermEstimate
from stats.logit_rows_sql import Problem

_ROWS_KEPT = 10_000_000
"""Values of rows as read that are kept in memory between scans (80 MB)."""
_DESIGN_KEPT = 75_000_000
"""Values of the design that are kept in memory between scans (600 MB)."""
_TERM_FIELDS = (
    "term",
    "estimate",
    "se",
    "z",
    "p",
    "ci_low",
    "ci_high",
    "odds_ratio",
    "or_low",
    "or_high",
    "vif",
    "cluster_se",
    "cluster_z",
    "cluster_p",
    "cluster_ci_low",
    "cluster_ci_high",
    "log_p",
)


def problem_of(design: Design) -> Problem:
    """What the statement of a design is generated from."""
    roles = design.roles

    def number(name: str | None) -> str | None:
        return None if name is None else f"CAST({given_column(name)} AS DOUBLE)"

    numeric_factors = [name for name, is_text in design.factors.items() if not is_text]
    conditions = [f"isfinite({number(name)})" for name in numeric_factors]
    if roles.cluster is not None and design.cluster_is_float:
        conditions.append(f"isfinite({given_column(roles.cluster)})")
    values = design.rows * (len(design.columns) + 1)
    return Problem(
        relation=quote_identifier(design.relation),
        outcome=str(number(roles.outcome)),
        columns=tuple(column.sql() for column in design.columns),
        conditions=tuple(conditions),
        weights=number(roles.weights),
        offset=number(roles.offset),
        cluster=None if roles.cluster is None else given_column(roles.cluster),
        by=tuple(given_column(name) for name in roles.by),
        keep_rows=values <= _ROWS_KEPT,
        keep_design=values <= _DESIGN_KEPT,
    )


def _collinear(names: Sequence[str], whitening: Sequence[Sequence[float]], n: float) -> str:
    limit = 1e-13 + 4e-16 * np.sqrt(n)
    for k, row in enumerate(whitening):
        if not 1 / row[k] ** 2 > limit:
            with_ = [names[j] for j in range(k) if abs(row[j]) > 1e-6 * abs(row[k])]
            return f"{names[k]} is a combination of {', '.join(with_) or 'other terms'}"
    return "the terms are collinear"


def problem_text(code: str, names: Sequence[str], outcome: str, row: Mapping[str, Any]) -> str:
    """What to tell about a model that has no answer.

    Args:
        code: the statement's `problem`.
        names: of the design's columns.
        outcome: name of the outcome.
        row: of the statement's result.
    """
    used = f"{int(row['rows_used'] or 0)} complete rows of {int(row['rows_given'])}"
    if code == "constant":
        listed = [name for name, flat in zip(names, row["is_constant"], strict=True) if flat]
        what = f"{', '.join(listed)} has one value on all {used}; leave it out"
    elif code == "collinear":
        what = f"{_collinear(names, row['whitening'], row['n'])} on {used}; leave one of them out"
    elif code.startswith("extreme"):
        name = names[int(code.split()[1]) - 1]
        what = (
            f"the values of {name} are too large or too close together for their squares to be "
            "double precision numbers; give it another unit"
        )
    elif code == "outcome":
        what = (
            f"the outcome {outcome} is neither 0 nor 1 in {int(row['rows_not_binary'])} rows; "
            "code it as 0 and 1 or as a boolean"
        )
    elif code == "one_class":
        value = 0 if row["n_events"] == 0 else 1
        what = f"the outcome {outcome} is {value} in all {used}; there is nothing to tell apart"
    elif code == "too_few_rows":
        what = f"{used} are too few for {len(names) + 1} coefficients; leave terms out"
    elif code == "weights":
        what = "frequency weights have to be whole numbers from 0"
    else:
        what = f"no row is complete ({used}); look for a column that is mostly missing"
    return what


def condition_number(correlation: NDArray[np.float64]) -> float:
    """Of the standardised design: root of the largest over the smallest eigenvalue of X'X."""
    if correlation.size == 0:
        return 1.0
    values = np.linalg.eigvalsh(correlation)
    return float(np.sqrt(values[-1] / values[0])) if values[0] > 0 else float("inf")


def _matrix(value: Any) -> NDArray[np.float64] | None:
    return None if value is None else np.array(value, dtype=np.float64)


def fit_of_rows(
    rows: Sequence[Mapping[str, Any]],
    design: Design,
    confidence: float,
    sql: str,
    group: Mapping[str, Any] | None = None,
) -> LogitFit:
    """A fit from the statement's rows of one model, one per term."""
    first = rows[0]
    names = [column.name for column in design.columns]
    problem = first["problem"]
    outcome = design.roles.outcome
    told = None if problem is None else problem_text(problem, names, outcome, first)
    if told is None and first.get("n_clusters") == 1:
        told = (
            f"all {int(first['rows_used'])} rows are of one {design.roles.cluster}; robust "
            "standard errors need at least two"
        )
    nan = float("nan")
    p = first["df"] or 0
    covariance = _matrix(first["covariance"])
    return LogitFit(
        outcome=outcome,
        n=int(first["n"] or 0),
        n_dropped=int(first["n_dropped"]),
        n_events=int(first["n_events"] or 0),
        n_clusters=first.get("n_clusters"),
        loglik=nan if told else first["loglik"],
        loglik_null=nan if told else first["loglik_null"],
        aic=nan if told else first["aic"],
        df=int(p),
        converged=bool(first["converged"]),
        iterations=int(first["iterations"] or 0),
        separated=first["separation"] in ("quasi", "complete"),
        separation=first["separation"] or "none",
        condition_number=nan
        if told
        else condition_number(
            np.array(first["correlation"]).reshape(len(names), len(names))[:p, :p]
        ),
        terms=()
        if told
        else tuple(
            TermEstimate(**{name: row[name] for name in _TERM_FIELDS if name in row})
            for row in rows
        ),
        covariance=np.empty((0, 0)) if covariance is None else covariance,
        cluster_covariance=_matrix(first.get("cluster_covariance")),
        levels=design.levels,
        confidence=confidence,
        sql=sql,
        engine="sql" if sql else "polars",
        group=group,
        problem=told,
    )


def run_statement(connection: duckdb.DuckDBPyConnection, statement: str) -> list[dict[str, Any]]:
    """Rows of a statement, by column name."""
    connection.execute(statement)
    description = connection.description or []
    columns = [column[0] for column in description]
    return [dict(zip(columns, row, strict=True)) for row in connection.fetchall()]
