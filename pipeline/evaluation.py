"""How well classifiers and ensembles do on the test split, as rows for the lake.

Every figure comes from `stats.roc`, SQL over `scored_predictions`. The paper judges a participant's
first visit (Table 1) and last (Table S3), where rows are independent; over all visits intervals
come from the bootstrap by participant only, and no test is made. A model that cannot be judged,
such as on one class, has a row that says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import polars as pl

from stats import roc
from stats.roc_rows import Scores

Visits = Literal["first", "last", "all"]
Task = Literal["oa", "chronic_pain"]
Row = dict[str, Any]

_OF_VISITS = {"first": "is_first", "last": "is_last", "all": "true"}
_SCORED, _JUDGED, _PAIRS = "evaluated_rows", "judged_rows", "judged_pairs"


@dataclass(frozen=True)
class EvaluationOptions:
    """Choices of an evaluation.

    Attributes:
        n_replicates: of the bootstrap; the paper's 100.
        seed: of its draws.
        threshold: probability from which a case is called.
    """

    n_replicates: int = 100
    seed: int = 0
    threshold: float = 0.5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found for one task and choice of visits.

    Attributes:
        task: of the models.
        visits: judged.
        performance: rows of `model_performance`.
        calibration: rows of `model_calibration`.
        comparisons: rows of `model_comparisons`.
        curves: ROC curves: bone, strategy, false_positive_rate, sensitivity.
        reliability: bins: bone, strategy, mean_predicted, observed and its Wilson interval, n.
    """

    task: Task
    visits: Visits
    performance: tuple[Row, ...]
    calibration: tuple[Row, ...]
    comparisons: tuple[Row, ...]
    curves: pl.DataFrame
    reliability: pl.DataFrame


def evaluate(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    visits: Visits,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Judge every model and ensemble of a task on its test split.

    Args:
        connection: a lake's own (`Lake.connect`); it gets temporary tables.
        task: of the models.
        visits: a participant's first, last, or all.
        options: the paper's where None.

    Raises:
        StatisticsError: predictions that cannot be, such as a knee-visit twice in a model.
    """
    options = options or EvaluationOptions()
    of_class, refused, scores = _judged(connection, task, visits)
    is_empty = len(refused) == len(of_class)
    independent = visits != "all"
    performance = [] if is_empty else _performance(connection, scores, options, independent)
    calibration = [] if is_empty else _calibration(connection, scores)
    for (bone, strategy), reason in refused.items():
        n, n_positive = of_class[bone, strategy]
        row = {"bone": bone, "strategy": strategy, "n": n, "n_positive": n_positive}
        calibration.append({**row, "reason": reason})
        performance += [{**row, "metric": metric, "reason": reason} for metric in roc.METRICS]
    key = {"task": task, "visits": visits}
    return Evaluation(
        task,
        visits,
        tuple({**key, **row} for row in performance),
        tuple({**key, **row} for row in calibration),
        tuple({**key, **row} for row in (_comparisons(connection) if independent else ())),
        pl.DataFrame() if is_empty else _curves(connection, scores),
        pl.DataFrame() if is_empty else roc.reliability(connection, scores).table,
    )


def curves_of(
    connection: duckdb.DuckDBPyConnection, task: Task, visits: Visits
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ROC curves and reliability bins of what `evaluate` judges, without judging it again.

    Returns:
        `curves` and `reliability` of `Evaluation`.
    """
    of_class, refused, scores = _judged(connection, task, visits)
    if len(refused) == len(of_class):
        return pl.DataFrame(), pl.DataFrame()
    return _curves(connection, scores), roc.reliability(connection, scores).table


def _judged(
    connection: duckdb.DuckDBPyConnection, task: Task, visits: Visits
) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[tuple[str, str], str], Scores]:
    """Make the tables of the rows judged: their counts by model, refused models, the scores."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {_SCORED} AS "  # noqa: S608 - our own texts, values bound
        "SELECT bone, strategy, knee_visit, subject_id, is_case, probability "
        f"FROM scored_predictions WHERE task = $1 AND split = 'test' AND {_OF_VISITS[visits]} "
        # Sums in another order differ in their last digits.
        "ORDER BY ALL",
        [task],
    )
    models = connection.sql(
        "SELECT bone, strategy, count(*) AS n, count_if(is_case) AS n_positive "  # noqa: S608 - our own name
        f"FROM {_SCORED} GROUP BY ALL ORDER BY ALL"
    ).pl()
    of_class = {
        (row["bone"], row["strategy"]): (row["n"], int(row["n_positive"]))
        for row in models.to_dicts()
    }
    refused = {key: reason for key, counts in of_class.items() if (reason := _one_class(*counts))}
    _keep(connection, _JUDGED, _SCORED, ("bone", "strategy"))
    scores = Scores(
        _JUDGED,
        "is_case",
        "probability",
        by=("bone", "strategy"),
        subject="subject_id",
        case=("knee_visit",),
    )
    return of_class, refused, scores


def _one_class(n: int, n_positive: int) -> str | None:
    if 0 < n_positive < n:
        return None
    return f"{n_positive} cases and {n - n_positive} others; both classes are needed"


def _keep(connection: duckdb.DuckDBPyConnection, name: str, source: str, by: Sequence[str]) -> None:
    """The rows of models with both classes."""
    columns = ", ".join(by)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {source} SEMI JOIN "  # noqa: S608 - our own names
        f"(SELECT {columns} FROM {source} GROUP BY {columns} "
        f"HAVING bool_or(is_case) AND NOT bool_and(is_case)) USING ({columns})"
    )


def _performance(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    options: EvaluationOptions,
    independent: bool,
) -> list[Row]:
    at_once = roc.performance(connection, scores, threshold=options.threshold).table
    models = {(row["bone"], row["strategy"]): row for row in at_once.to_dicts()}
    drawn = roc.bootstrap(
        connection,
        scores,
        n_replicates=options.n_replicates,
        seed=options.seed,
        threshold=options.threshold,
    ).table
    rows = []
    for row in drawn.to_dicts():
        model = models[row["bone"], row["strategy"]]
        has_delong = independent and row["metric"] == "auc"
        rows.append(
            {
                **{name: row[name] for name in ("bone", "strategy", "metric", "estimate")},
                "n": int(model["n"]),
                "n_positive": int(model["n_positive"]),
                **{
                    name: row[name]
                    for name in ("percentile_low", "percentile_high", "mean_low", "mean_high")
                },
                "delong_low": model["auc_low"] if has_delong else None,
                "delong_high": model["auc_high"] if has_delong else None,
                "n_replicates": int(row["n_replicates"]),
                "reason": None,
            }
        )
    return rows


def _calibration(connection: duckdb.DuckDBPyConnection, scores: Scores) -> list[Row]:
    names = (
        "bone",
        "strategy",
        "n",
        "n_positive",
        "brier",
        "scaled_brier",
        "mean_predicted",
        "intercept",
        "intercept_se",
        "slope",
        "slope_se",
        "in_the_large",
        "converged",
    )
    found = roc.calibration(connection, scores).table.select(names)
    return [{**row, "reason": None} for row in _counts_whole(found).to_dicts()]


def _counts_whole(found: pl.DataFrame) -> pl.DataFrame:
    """DuckDB's sums of whole numbers are wider than any column of the lake."""
    return found.with_columns(pl.col("n", "n_positive").cast(pl.Int64))


def _comparisons(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Every pair of strategies of a bone, on the knee-visits both predict."""
    by = ("bone", "first_strategy", "second_strategy")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE evaluated_pairs AS "  # noqa: S608 - our own names
        "SELECT one.bone, one.strategy AS first_strategy, other.strategy AS second_strategy, "
        "knee_visit, one.is_case, one.probability AS first_score, "
        "other.probability AS second_score "
        f"FROM {_SCORED} AS one JOIN {_SCORED} AS other USING (bone, knee_visit) "
        "WHERE one.strategy < other.strategy"
    )
    counts = connection.sql(
        "SELECT bone, first_strategy, second_strategy, count(*) AS n, "
        "count_if(is_case) AS n_positive FROM evaluated_pairs GROUP BY ALL ORDER BY ALL"
    ).pl()
    rows: list[Row] = [
        {**row, "reason": reason}
        for row in _counts_whole(counts).to_dicts()
        if (reason := _one_class(row["n"], row["n_positive"]))
    ]
    if len(rows) == len(counts):
        return rows
    _keep(connection, _PAIRS, "evaluated_pairs", by)
    scores = Scores(_PAIRS, "is_case", "first_score", by=by, case=("knee_visit",))
    tested = roc.paired_test(connection, scores, "second_score").table
    connection.register("tested_pairs", tested.select(*by, pl.col("bone").alias("family"), "p"))
    adjusted = connection.sql(
        "SELECT bone, first_strategy, second_strategy, q_bh FROM adjusted_p_values('tested_pairs')"
    ).pl()
    connection.unregister("tested_pairs")
    names = (
        *by,
        "n",
        "n_positive",
        "first_auc",
        "second_auc",
        "difference",
        "difference_low",
        "difference_high",
        "z",
        "p",
        "q_bh",
    )
    joined = tested.join(adjusted, on=by, how="left").select(names)
    return rows + [{**row, "reason": None} for row in _counts_whole(joined).to_dicts()]


def _curves(connection: duckdb.DuckDBPyConnection, scores: Scores) -> pl.DataFrame:
    found = roc.curve(connection, scores).table
    return found.select(
        "bone", "strategy", (1 - pl.col("specificity")).alias("false_positive_rate"), "sensitivity"
    )
