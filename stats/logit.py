"""Logistic regression in SQL: one model, many by group, two nested in each other, bootstrap.

Newton's method in one statement (`stats.logit_sql`), or pass by pass with polars' streaming engine
(`stats.logit_polars`). Both leave out rows with a missing, NaN or infinite value in any column of
the largest model, count them, and refuse what has no answer: one class only, a constant or
collinear term, fewer rows than coefficients. Where a combination of terms separates the classes no
finite estimate exists; that is flagged and warned of.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import duckdb
import numpy as np

from stats.design import Design, Roles, resolve
from stats.errors import StatisticsError, StatisticsWarning
from stats.logit_results import (
    InSampleRoc,
    LikelihoodRatio,
    LogitFit,
    NestedLogit,
    TermEstimate,
    WaldTest,
)
from stats.logit_run import fit_of_rows, problem_of, run_statement
from stats.logit_sql import fit_statement, roc_statement

__all__ = [
    "Engine",
    "InSampleRoc",
    "LikelihoodRatio",
    "LogitFit",
    "NestedLogit",
    "TermEstimate",
    "WaldTest",
    "fit_logit",
    "fit_logit_groups",
    "nested_logit",
]

Engine = Literal["sql", "polars"]


def warn_of(fit: LogitFit) -> None:
    """Say aloud that a fit's numbers should not be read as they stand."""
    where = "" if fit.group is None else f" where {dict(fit.group)}"
    if fit.problem is not None:
        text = f"no model{where}: {fit.problem}"
    elif fit.separated:
        text = (
            f"{fit.separation} separation of {fit.outcome}{where}: some combination of terms "
            "predicts it without error, so that estimates and standard errors are not finite"
        )
    elif not fit.converged:
        text = f"the model of {fit.outcome}{where} did not converge in {fit.iterations} steps"
    else:
        return
    warnings.warn(text, StatisticsWarning, stacklevel=4)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise StatisticsError(f"the confidence level {confidence} is not between 0 and 1")


def _names(design: Design) -> list[str]:
    return [column.name for column in design.columns]


def fit_logit(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    outcome: str,
    terms: Sequence[str],
    *,
    cluster: str | None = None,
    weights: str | None = None,
    offset: str | None = None,
    confidence: float = 0.95,
) -> LogitFit:
    """Fit one logistic regression by maximum likelihood.

    Wald inference takes rows to be independent; with `cluster` a robust (CR1) covariance is given
    beside it, which only takes clusters to be independent and many (some 40 at least). CR1 is the
    sandwich times G / (G - 1) (n - 1) / (n - k), as statsmodels' cov_type='cluster'.

    Args:
        connection: with the macros (`stats.source.load_macros`).
        relation: name of a table or view.
        outcome: column of 0 and 1, or boolean.
        terms: formula terms, see `stats.formula`; text columns are factors.
        cluster: column that rows of one patient share.
        weights: column of frequency weights, whole numbers.
        offset: column added to the log-odds with coefficient 1.
        confidence: level of the intervals.

    Raises:
        StatisticsError: the table, a column or a term is unknown or unusable, or the data have no
            answer; the text says which and why.

    Warns:
        StatisticsWarning: separation, or no convergence.
    """
    _check_confidence(confidence)
    design = resolve(connection, relation, Roles(outcome, cluster, weights, offset), terms)
    names = _names(design)
    statement = fit_statement(problem_of(design), [("full", len(names))], names, confidence)
    fit = fit_of_rows(run_statement(connection, statement), design, confidence, statement, None)
    if fit.problem is not None:
        raise StatisticsError(fit.problem)
    warn_of(fit)
    return fit


def fit_logit_groups(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    outcome: str,
    terms: Sequence[str],
    *,
    by: Sequence[str],
    cluster: str | None = None,
    weights: str | None = None,
    offset: str | None = None,
    confidence: float = 0.95,
) -> list[LogitFit]:
    """Fit one model per combination of the `by` columns' values, all in one statement.

    Arguments as `fit_logit`. A factor has the levels of all groups together. A group without an
    answer has its reason in `problem` and no terms, and is warned of.

    Returns:
        One fit per combination there is, in the order of the `by` columns.

    Raises:
        StatisticsError: the table, a column or a term is unknown or unusable.
    """
    _check_confidence(confidence)
    if not by:
        raise StatisticsError("name at least one column to fit the models by")
    design = resolve(
        connection, relation, Roles(outcome, cluster, weights, offset, tuple(by)), terms
    )
    names = _names(design)
    statement = fit_statement(problem_of(design), [("full", len(names))], names, confidence)
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for row in run_statement(connection, statement):
        groups.setdefault(tuple(row[f"key{k}"] for k in range(1, len(by) + 1)), []).append(row)
    fits = [
        fit_of_rows(rows, design, confidence, statement, dict(zip(by, key, strict=True)))
        for key, rows in groups.items()
    ]
    for fit in fits:
        warn_of(fit)
    return fits


def nested_logit(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    outcome: str,
    base: Sequence[str],
    add: Sequence[str],
    *,
    cluster: str | None = None,
    weights: str | None = None,
    offset: str | None = None,
    confidence: float = 0.95,
) -> NestedLogit:
    """Fit a model and a larger one, both on the complete rows of the larger, and compare them.

    The likelihood-ratio test takes rows to be independent; with `cluster` a Wald test with the
    cluster-robust covariance of the added terms is given beside it, which does not.

    Args:
        connection: with the macros.
        relation: name of a table or view.
        outcome: column of 0 and 1, or boolean.
        base: formula terms of the smaller model; () for an intercept alone.
        add: terms the larger one has besides.
        cluster: column that rows of one patient share.
        weights: column of frequency weights, whole numbers.
        offset: column added to the log-odds with coefficient 1.
        confidence: level of the intervals.

    Raises:
        StatisticsError: as `fit_logit`; or nothing is added.

    Warns:
        StatisticsWarning: separation, or no convergence, of either model.
    """
    _check_confidence(confidence)
    if not add:
        raise StatisticsError("name at least one term to add to the base model")
    roles = Roles(outcome, cluster, weights, offset)
    design = resolve(connection, relation, roles, base, add)
    names, problem = _names(design), problem_of(design)
    fits = [("base", design.base), ("full", len(names))]
    statement = fit_statement(problem, fits, names, confidence)
    rows = run_statement(connection, statement)
    smaller, larger = (
        fit_of_rows([row for row in rows if row["fit"] == fit], design, confidence, statement, None)
        for fit, _ in fits
    )
    if larger.problem is not None:
        raise StatisticsError(larger.problem)
    warn_of(smaller)
    warn_of(larger)
    test = rows[-1]
    rocs = run_statement(
        connection,
        roc_statement(
            problem,
            [
                (fit, [t.estimate for t in model.terms])
                for (fit, _), model in zip(fits, (smaller, larger), strict=True)
            ],
        ),
    )
    base_roc, full_roc = (
        InSampleRoc(0.5, row["sensitivity"], row["specificity"], row["auc"]) for row in rocs
    )
    return NestedLogit(
        smaller,
        larger,
        tuple(names[design.base :]),
        LikelihoodRatio(test["lr_chi2"], test["lr_df"], test["lr_p"], test["lr_log_p"]),
        _wald(connection, larger, len(names) - design.base),
        base_roc,
        full_roc,
        statement,
    )


def _wald(connection: duckdb.DuckDBPyConnection, fit: LogitFit, added: int) -> WaldTest | None:
    """Cluster-robust test of a fit's last terms."""
    if fit.cluster_covariance is None:
        return None
    values = np.array([term.estimate for term in fit.terms[-added:]])
    covariance = fit.cluster_covariance[-added:, -added:]
    scale = np.sqrt(np.diag(covariance))
    scaled = values / scale
    chi2 = float(scaled @ np.linalg.solve(covariance / np.outer(scale, scale), scaled))
    (row,) = connection.execute(
        "SELECT chi_square_upper_tail($1, $2), ln_chi_square_upper_tail($1, $2)", [chi2, added]
    ).fetchall()
    return WaldTest(chi2, added, *row)
