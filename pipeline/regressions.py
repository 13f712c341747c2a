"""Fitted models as rows of the lake, and their storage: one batch per run of an analysis.

Here: turning what `stats.logit` hands back into rows, a refusal into a row with its reason, and
writing them when the input has changed. Not here: which models (`published_regressions`,
`cohort_regressions`), or how they are fitted (`stats`).
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl

from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from pipeline.config import CODE_VERSION, Settings, config_hash
from stats.errors import StatisticsError, StatisticsWarning
from stats.logit import InSampleRoc, LogitFit, NestedLogit, nested_logit

Row = dict[str, Any]
RESULT_TABLES = (
    "regression_models",
    "regression_terms",
    "regression_tests",
    "regression_performance",
    "regression_statements",
    "printed_comparisons",
)

ROWS_INDEPENDENT = (
    "Standard errors, intervals and p-values take rows to be independent unless they are said to "
    "be clustered by participant."
)


@dataclass(frozen=True)
class Question:
    """What a pair of nested models, or one model, is of.

    Attributes:
        population: which rows.
        bone: None where the model is of no bone.
        biomarker: None where it is of none.
        coding: how categories are coded.
    """

    population: str
    bone: str | None = None
    biomarker: str | None = None
    coding: str | None = None

    @property
    def key(self) -> Row:
        """The columns that name it in every result table."""
        return {
            "population": self.population,
            "bone": self.bone,
            "biomarker": self.biomarker,
        }


@dataclass
class Results:
    """Rows of an analysis as they come together.

    Attributes:
        tables: rows by table, without `analysis`.
        notes: what the analysis assumes.
        n_rows: rows analysed.
    """

    tables: dict[str, list[Row]] = field(
        default_factory=lambda: {name: [] for name in RESULT_TABLES}
    )
    notes: list[str] = field(default_factory=list)
    n_rows: int = 0

    @property
    def n_failed(self) -> int:
        """Models that could not be fitted."""
        return sum(row["reason"] is not None for row in self.tables["regression_models"])

    @property
    def n_fitted(self) -> int:
        """Models that could."""
        return len(self.tables["regression_models"]) - self.n_failed


def add_fit(
    results: Results, question: Question, model: str, fit: LogitFit, terms: Sequence[str]
) -> None:
    """Add a fitted model, its terms and the statement that fitted it."""
    digest = hashlib.sha256(fit.sql.encode()).hexdigest() if fit.sql else None
    known = {row["statement_sha256"] for row in results.tables["regression_statements"]}
    # A pair of nested models is one statement.
    if digest is not None and digest not in known:
        results.tables["regression_statements"].append(
            {"statement_sha256": digest, "statement": fit.sql}
        )
    results.tables["regression_models"].append(
        {
            **question.key,
            "model": model,
            "outcome": fit.outcome,
            "formula": " + ".join(terms),
            "coding": question.coding,
            "reason": None,
            "n": fit.n,
            "n_dropped": fit.n_dropped,
            "n_events": fit.n_events,
            "n_clusters": fit.n_clusters,
            "loglik": _finite(fit.loglik),
            "loglik_null": _finite(fit.loglik_null),
            "aic": _finite(fit.aic),
            "df": fit.df,
            "converged": fit.converged,
            "iterations": fit.iterations,
            "separated": fit.separated,
            "condition_number": _finite(fit.condition_number),
            "statement_sha256": digest,
        }
    )
    numbers = (
        *("estimate", "se", "z", "p", "ci_low", "ci_high", "odds_ratio", "or_low", "or_high"),
        *("vif", "cluster_se", "cluster_z", "cluster_p", "cluster_ci_low", "cluster_ci_high"),
    )
    results.tables["regression_terms"] += [
        {
            **question.key,
            "model": model,
            "term": term.term,
            "position": position,
            # Of separated classes no estimate is finite: where the iteration stopped means nothing.
            **{
                name: None if fit.separated and name != "vif" else _finite(getattr(term, name))
                for name in numbers
            },
        }
        for position, term in enumerate(fit.terms)
    ]


def add_refusal(
    results: Results,
    question: Question,
    model: str,
    outcome: str,
    terms: Sequence[str],
    reason: str,
) -> None:
    """Add a model that could not be fitted, and why."""
    results.tables["regression_models"].append(
        {
            **question.key,
            "model": model,
            "outcome": outcome,
            "formula": " + ".join(terms),
            "coding": question.coding,
            "reason": reason,
        }
    )


def add_in_sample_roc(
    results: Results, question: Question, model: str, fit: LogitFit, roc: InSampleRoc
) -> None:
    """Add how a model tells the classes of its own rows apart."""
    results.tables["regression_performance"].append(
        {
            **question.key,
            "model": model,
            "evaluated_on": "in_sample",
            "threshold_rule": "half",
            "threshold": roc.threshold,
            "n": fit.n,
            "n_events": fit.n_events,
            "sensitivity": _finite(roc.sensitivity),
            "specificity": _finite(roc.specificity),
            "auc": _finite(roc.auc),
        }
    )


def add_nested(
    results: Results,
    question: Question,
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    outcome: str,
    names: tuple[str, str],
    base: Sequence[str],
    added: Sequence[str],
    cluster: str | None = None,
) -> NestedLogit | None:
    """Fit a pair of nested models and add both, the test and their discrimination.

    Args:
        results: where to.
        question: what the pair is of.
        connection: where the rows are; it has the macros.
        relation: the rows: a table, view or subquery.
        outcome: column, 0 or 1.
        names: of the smaller and the larger model.
        base: terms of the smaller model.
        added: terms of the larger besides.
        cluster: column that tells participants; None where there is none.

    Returns:
        The pair; None where it could not be fitted, of which the rows tell the reason.
    """
    full = [*base, *added]
    try:
        with warnings.catch_warnings():
            # Flagged in the rows: `separated`, `converged`.
            warnings.simplefilter("ignore", StatisticsWarning)
            nested = nested_logit(connection, relation, outcome, base, added, cluster=cluster)
    except StatisticsError as error:
        for name, terms in zip(names, (base, full), strict=True):
            add_refusal(results, question, name, outcome, terms, str(error))
        return None
    pairs = (
        (names[0], nested.base, base, nested.base_roc),
        (names[1], nested.full, full, nested.full_roc),
    )
    for name, fit, terms, roc in pairs:
        add_fit(results, question, name, fit, terms)
        add_in_sample_roc(results, question, name, fit, roc)
    tests = {"likelihood_ratio": nested.lrt, "cluster_wald": nested.wald}
    # Of separated classes no statistic means anything.
    sound = not nested.base.separated and not nested.full.separated
    results.tables["regression_tests"] += [
        {
            **question.key,
            "base_model": names[0],
            "full_model": names[1],
            "added": " + ".join(nested.added),
            "test": name,
            "chi2": max(test.chi2, 0.0),
            "df": test.df,
            "p": _finite(test.p),
            "ln_p": min(test.log_p, 0.0),
        }
        for name, test in tests.items()
        if test is not None and sound and math.isfinite(test.chi2) and math.isfinite(test.log_p)
    ]
    return nested


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def fingerprint(rows: pl.DataFrame, choices: Mapping[str, Any]) -> str:
    """SHA-256 of the rows analysed (in any order), the choices and the code version."""
    lines = rows.select(pl.struct(pl.all()).struct.json_encode()).to_series().sort()
    stated = [CODE_VERSION["statistics"], sorted(choices.items())]
    digest = hashlib.sha256(json.dumps(stated, default=str).encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def is_current(
    connection: duckdb.DuckDBPyConnection, analysis: str, input_fingerprint: str
) -> bool:
    """Whether the lake has the results of this input."""
    found = connection.execute(
        "SELECT input_fingerprint FROM analyses WHERE analysis = $1", [analysis]
    ).fetchall()
    return found == [(input_fingerprint,)]


def store(
    lake: Lake, settings: Settings, analysis: str, input_fingerprint: str, results: Results
) -> None:
    """Write an analysis as one batch; it replaces the analysis' former results.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    with lake.batch(
        "statistics",
        ALL_TIMEPOINTS,
        CODE_VERSION["statistics"],
        config_hash(settings, "statistics"),
    ) as batch:
        batch.add(
            "analyses",
            [
                {
                    "analysis": analysis,
                    "input_fingerprint": input_fingerprint,
                    "n_rows": results.n_rows,
                    "n_results": results.n_fitted,
                    "n_failed": results.n_failed,
                    "notes": "\n".join(results.notes),
                }
            ],
        )
        for table, rows in results.tables.items():
            batch.add(table, [{"analysis": analysis, **row} for row in rows])
