"""How well scores tell cases from others: ROC, DeLong's test, bootstrap by patient, calibration.

The figures are the table macros of `sql/macros/roc.sql`; here the rows are checked and the
statement is written. Many models (bones, biomarkers, labels ...) are judged in one statement. A
connection needs the macros (`stats.source.load_macros`). `stats.roc_models` has ensembles, and
tests between models whose scores are rows of one table. All but the bootstrap take rows to be
independent of each other, which several knee-visits of one patient are not.
"""

from dataclasses import dataclass, replace
from typing import Literal

import duckdb
import polars as pl

from stats.errors import StatisticsError
from stats.roc_rows import Missing, Scores, check_scores, statement

Interval = Literal["logit", "plain"]
METRICS = ("accuracy", "auc", "balanced_accuracy", "npv", "ppv", "sensitivity", "specificity")
"""Metrics of the bootstrap."""
SMALLEST_PROBABILITY = 1e-7
"""A predicted 0 counts as this in a logit: the resolution of a network's 32-bit output."""


@dataclass(frozen=True, eq=False)
class RocTable:
    """Figures of one or more models.

    Attributes:
        table: the `by` columns, the figures, and n_dropped, the rows left out.
        sql: the statement, for any DuckDB 2.0 client that has read `sql.macro_text()`.
    """

    table: pl.DataFrame
    sql: str


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise StatisticsError(f"{name} is {value}; give a number between 0 and 1")
    return float(value)


def _finite_number(name: str, value: float) -> float:
    if not abs(float(value)) < float("inf"):
        raise StatisticsError(f"{name} is {value}; give a finite number")
    return float(value)


def _judge(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    macro: str,
    missing: Missing,
    *,
    probability: bool = False,
    **arguments: str | float,
) -> RocTable:
    dropped = check_scores(connection, scores, missing=missing, probability=probability)
    text = statement(scores, macro, **arguments)
    found = connection.sql(text).pl()
    if scores.by:
        found = found.join(
            dropped, on=scores.by, how="left", nulls_equal=True, maintain_order="left"
        )
    else:
        found = found.with_columns(n_dropped=pl.lit(dropped["n_dropped"][0], dtype=pl.Int64))
    return RocTable(found, text)


def performance(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    *,
    threshold: float = 0.5,
    interval: Interval = "logit",
    confidence: float = 0.95,
    missing: Missing = "refuse",
) -> RocTable:
    """Performance at a threshold and over all thresholds.

    Args:
        connection: with the macros.
        scores: the rows.
        threshold: a score of at least this is called a case.
        interval: scale of DeLong's interval of the AUC; "logit" keeps to 0..1 and its coverage near
            1, "plain" is AUC -+ 1.96 SE as in most packages.
        confidence: of the interval.
        missing: whether rows without an outcome or a finite score are refused, or left out and
            counted.

    Returns:
        One row per model: n, n_positive, n_negative, threshold, the four counts, sensitivity,
        specificity, balanced_accuracy, accuracy, ppv, npv (NULL where nobody is called so), auc,
        auc_se (DeLong; NULL with one row in a class), auc_low, auc_high, youden_threshold,
        youden_index, n_dropped.

    Raises:
        StatisticsError: as `stats.roc_rows.check_scores`.
    """
    if interval not in {"logit", "plain"}:
        raise StatisticsError(f"interval is {interval}; use logit or plain")
    return _judge(
        connection,
        scores,
        "roc_performance",
        missing,
        threshold=_finite_number("threshold", threshold),
        scale=interval,
        confidence=_share("confidence", confidence),
    )


def curve(
    connection: duckdb.DuckDBPyConnection, scores: Scores, *, missing: Missing = "refuse"
) -> RocTable:
    """The ROC curve: one row per model and distinct score, from the strictest threshold.

    Returns:
        Columns threshold (the first infinite), true_positive, false_positive, sensitivity,
        specificity, n_dropped.

    Raises:
        StatisticsError: as `stats.roc_rows.check_scores`.
    """
    return _judge(connection, scores, "roc_curve", missing)


def paired_test(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    second: str,
    *,
    confidence: float = 0.95,
    missing: Missing = "refuse",
) -> RocTable:
    """DeLong's test that two scores of the same rows have the same AUC.

    Not valid for nested models judged on the rows they were fitted on: there the likelihood ratio
    is the test. Rows are taken to be independent.

    Args:
        connection: with the macros.
        scores: the rows; `scores.score` is the first score.
        second: column of the second score.
        confidence: of the interval of the difference.
        missing: as in `performance`, of either score.

    Returns:
        One row per model: n, n_positive, n_negative, first_auc, second_auc, difference (first less
        second), se, difference_low, difference_high, z, p (two-sided), ln_p, n_dropped.

    Raises:
        StatisticsError: as `stats.roc_rows.check_scores`, of either score.
    """
    return _judge(
        connection,
        replace(scores, second=second),
        "roc_paired_test",
        missing,
        confidence=_share("confidence", confidence),
    )


def bootstrap(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    *,
    n_replicates: int = 100,
    seed: int = 0,
    threshold: float = 0.5,
    confidence: float = 0.95,
    missing: Missing = "refuse",
) -> RocTable:
    """Bootstrap of the performance by patient, with replacement.

    The draws are made of MD5, so that they are the same on every machine and by any number of
    threads; models on the same patients share them.

    Args:
        connection: with the macros.
        scores: the rows, with `subject`.
        n_replicates: 100 as in the paper.
        seed: of the draws.
        threshold: a score of at least this is called a case.
        confidence: of the percentile interval.
        missing: as in `performance`.

    Returns:
        One row per model and metric (`METRICS`): estimate; n_replicates and n_undefined, those in
        which the metric has and has no value; bootstrap_mean, bootstrap_sd; percentile_low and
        percentile_high, the interval of the metric; mean_low and mean_high, the paper's, mean -+
        1.96 SD / sqrt(n_replicates), which is that of the mean over replicates and says nothing of
        the sampling error; n_dropped.

    Raises:
        StatisticsError: no `subject`, fewer than 2 replicates, or as
            `stats.roc_rows.check_scores`.
    """
    if scores.subject is None:
        raise StatisticsError("the bootstrap draws patients; name their column as `subject`")
    if n_replicates < 2:
        raise StatisticsError(f"n_replicates is {n_replicates}; give 2 or more")
    return _judge(
        connection,
        scores,
        "roc_bootstrap",
        missing,
        seed=int(seed),
        n_replicates=int(n_replicates),
        threshold=_finite_number("threshold", threshold),
        confidence=_share("confidence", confidence),
    )


def calibration(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    *,
    confidence: float = 0.95,
    missing: Missing = "refuse",
) -> RocTable:
    """Whether predicted probabilities mean what they say.

    Returns:
        One row per model: n, n_positive, n_bounded (probabilities within `SMALLEST_PROBABILITY` of
        0 or 1, taken as that far from them in the logit), mean_predicted, share_of_cases, brier,
        scaled_brier, converged, iterations, intercept and slope of the logistic recalibration with
        their se, low and high, in_the_large (the intercept with the slope at 1) and its se,
        n_dropped. Intercept, slope and in_the_large are NULL where not converged.

    Raises:
        StatisticsError: as `stats.roc_rows.check_scores`; a score outside 0..1.
    """
    return _judge(
        connection,
        scores,
        "calibration_of",
        missing,
        probability=True,
        smallest=SMALLEST_PROBABILITY,
        confidence=_share("confidence", confidence),
    )


def reliability(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    *,
    n_bins: int = 10,
    confidence: float = 0.95,
    missing: Missing = "refuse",
) -> RocTable:
    """Predicted probability against the share of cases, in bins of equal width.

    Returns:
        One row per model and bin that has rows: bin (from 1), bin_from, bin_to, n, n_positive,
        mean_predicted, observed, observed_low, observed_high (Wilson), n_dropped.

    Raises:
        StatisticsError: as `calibration`, or no bins.
    """
    if n_bins < 1:
        raise StatisticsError(f"n_bins is {n_bins}; give 1 or more")
    return _judge(
        connection,
        scores,
        "reliability_of",
        missing,
        probability=True,
        n_bins=int(n_bins),
        confidence=_share("confidence", confidence),
    )
