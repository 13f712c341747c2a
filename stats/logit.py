"""Logistic regression in SQL: one model, many by group, two nested in each other, bootstrap.

Newton's method in one statement (`stats.logit_sql`), or pass by pass with polars' streaming engine
(`stats.logit_polars`). Both leave out rows with a missing, NaN or infinite value in any column of
the largest model, count them, and refuse what has no answer: one class only, a constant or
collinear term, fewer rows than coefficients. Where a combination of terms separates the classes no
finite estimate exists; that is flagged and warned of.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from stats.design import Design, Roles, resolve
from stats.engines import Engine, check_engine
from stats.errors import StatisticsError, StatisticsWarning
from stats.logit_polars import fit_scan, roc_of_scan, term_rows
from stats.logit_resampling import bootstrap_logit, with_profile
from stats.logit_results import (
    InSampleRoc,
    LikelihoodRatio,
    LogitFit,
    NestedLogit,
    TermEstimate,
    WaldTest,
)
from stats.logit_run import fit_of_rows, problem_of, run_statement
from stats.logit_sql import fit_statement, ln_chi_square_text, roc_statement
from stats.scan import scan_relation

__all__ = [
    "Engine",
    "InSampleRoc",
    "LikelihoodRatio",
    "LogitFit",
    "NestedLogit",
    "TermEstimate",
    "WaldTest",
    "bootstrap_logit",
    "fit_logit",
    "fit_logit_groups",
    "nested_logit",
]

_SINGULAR = 1e12
"""Condition number from which a correlation matrix of estimates tells no rank from rounding."""


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


def _check(confidence: float, engine: str = "sql") -> None:
    if not 0 < confidence < 1:
        raise StatisticsError(f"the confidence level {confidence} is not between 0 and 1")
    check_engine(engine)


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
    engine: Engine = "sql",
    file: Path | None = None,
    profile: bool = False,
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
        engine: 'sql', one statement; or 'polars', in a stream and the least memory.
        file: for polars, the file the relation is a view of; Parquet is read in place rather than
            copied to a temporary file first.
        profile: whether profile-likelihood intervals are worked out too (a second statement).
        confidence: level of the intervals.

    Raises:
        StatisticsError: the table, a column or a term is unknown or unusable, or the data have no
            answer; the text says which and why.

    Warns:
        StatisticsWarning: separation, or no convergence.
    """
    _check(confidence, engine)
    design = resolve(connection, relation, Roles(outcome, cluster, weights, offset), terms)
    names, problem = _names(design), problem_of(design)
    if engine == "polars":
        with scan_relation(connection, design, file) as scan:
            (result,) = fit_scan(scan, design, [len(names)])
        statement, rows = "", term_rows(connection, names, result, confidence)
    else:
        statement = fit_statement(problem, [("full", len(names))], names, confidence)
        rows = run_statement(connection, statement)
    fit = fit_of_rows(rows, design, confidence, statement)
    if fit.problem is not None:
        raise StatisticsError(fit.problem)
    warn_of(fit)
    return with_profile(connection, problem, fit) if profile and fit.converged else fit


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
    _check(confidence)
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
    engine: Engine = "sql",
    file: Path | None = None,
    profile: bool = False,
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
        engine: as `fit_logit`.
        file: as `fit_logit`.
        profile: as `fit_logit`, for both models.
        confidence: level of the intervals.

    Raises:
        StatisticsError: as `fit_logit`; or nothing is added.

    Warns:
        StatisticsWarning: separation, or no convergence, of either model; too few clusters for
            their Wald test.
    """
    _check(confidence, engine)
    if not add:
        raise StatisticsError("name at least one term to add to the base model")
    roles = Roles(outcome, cluster, weights, offset)
    design = resolve(connection, relation, roles, base, add)
    names, problem, smaller = _names(design), problem_of(design), design.base
    if engine == "polars":
        with scan_relation(connection, design, file) as scan:
            results = fit_scan(scan, design, [smaller, len(names)])
            parts = [term_rows(connection, names, result, confidence) for result in results]
            statement, fits = "", _both(parts, design, confidence, "")
            rocs = [roc_of_scan(scan, design, [t.estimate for t in fit.terms]) for fit in fits]
    else:
        sizes = [("base", smaller), ("full", len(names))]
        statement = fit_statement(problem, sizes, names, confidence)
        rows = run_statement(connection, statement)
        parts = [[row for row in rows if row["fit"] == name] for name, _ in sizes]
        fits = _both(parts, design, confidence, statement)
        estimates = [
            (name, [term.estimate for term in fit.terms])
            for (name, _), fit in zip(sizes, fits, strict=True)
        ]
        rocs = run_statement(connection, roc_statement(problem, estimates))
    if profile:
        rest = tuple(f"isfinite({text})" for text in problem.columns[smaller:])
        reduced = replace(
            problem, columns=problem.columns[:smaller], conditions=problem.conditions + rest
        )
        fits = [
            with_profile(connection, part, fit) if fit.converged else fit
            for part, fit in zip((reduced, problem), fits, strict=True)
        ]
    base_roc, full_roc = (
        InSampleRoc(0.5, row["sensitivity"], row["specificity"], row["auc"]) for row in rocs
    )
    added = len(names) - smaller
    chi2 = 2 * (fits[1].loglik - fits[0].loglik)
    robust = _wald_chi2(fits[1], added)
    lr, *wald = _tails(connection, [chi2] if robust is None else [chi2, robust], added)
    return NestedLogit(
        fits[0],
        fits[1],
        tuple(names[smaller:]),
        LikelihoodRatio(chi2, added, *lr),
        None if robust is None else WaldTest(robust, added, *wald[0]),
        base_roc,
        full_roc,
        statement,
    )


def _both(
    parts: Sequence[Sequence[dict[str, Any]]], design: Design, confidence: float, statement: str
) -> list[LogitFit]:
    """The smaller and the larger fit, or a refusal."""
    fits = [fit_of_rows(rows, design, confidence, statement) for rows in parts]
    if fits[1].problem is not None:
        raise StatisticsError(fits[1].problem)
    for fit in fits:
        warn_of(fit)
    return fits


def _tails(
    connection: duckdb.DuckDBPyConnection, chi2: Sequence[float], df: int
) -> list[tuple[float, float]]:
    """P and ln p of chi-square statistics; one below 0 is rounding of no gain at all."""
    # One query, and the tail once in it: DuckDB takes long to read the macro each time.
    return connection.execute(
        f"SELECT exp(ln_p), ln_p FROM (SELECT place, {ln_chi_square_text('x', df)} AS ln_p FROM "  # noqa: S608 - a number of ours
        "(SELECT greatest(unnest($1::DOUBLE[]), 0) AS x, generate_subscripts($1::DOUBLE[], 1) AS "
        "place)) ORDER BY place",
        [list(chi2)],
    ).fetchall()


def _wald_chi2(fit: LogitFit, added: int) -> float | None:
    """Cluster-robust statistic of a fit's last terms; None where their covariance is singular."""
    if fit.cluster_covariance is None:
        return None
    values = np.array([term.estimate for term in fit.terms[-added:]])
    covariance = fit.cluster_covariance[-added:, -added:]
    scale = np.sqrt(np.diag(covariance))
    scaled, correlation = values / scale, covariance / np.outer(scale, scale)
    # The scores of G clusters add up to 0, so that they have G - 1 dimensions at most.
    if not np.isfinite(correlation).all() or np.linalg.cond(correlation) > _SINGULAR:
        warnings.warn(
            f"no clustered Wald test: {fit.n_clusters} clusters do not give {added} added terms a "
            "covariance of full rank",
            StatisticsWarning,
            stacklevel=3,
        )
        return None
    return float(scaled @ np.linalg.solve(correlation, scaled))
