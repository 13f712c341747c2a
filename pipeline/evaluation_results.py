"""An evaluation as one analysis of the lake: run when predictions are new, stored, written out."""

from dataclasses import asdict
from pathlib import Path

import duckdb
import polars as pl

from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from pipeline.config import CODE_VERSION, Settings, config_hash
from pipeline.evaluation import Evaluation, EvaluationOptions, Task, Visits, evaluate
from pipeline.evaluation_tables import TITLES, roc_figure, tables_of
from pipeline.manuscript import table_files, write_files
from pipeline.regressions import fingerprint

ANALYSIS = "model_evaluation"
JUDGED: tuple[tuple[Task, Visits], ...] = tuple(TITLES)
NOTES = (
    "Bootstraps draw participants; the paper's intervals are those of the bootstrap's mean.",
    "DeLong's intervals and tests take rows to be independent: first or last visits only.",
    "Networks and thresholds were chosen without the test split.",
)


def test_rows(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Every score of the test split: what an evaluation depends on."""
    return connection.sql(
        "SELECT * EXCLUDE (predicted, is_correct) FROM scored_predictions WHERE split = 'test'"
    ).pl()


def evaluation_fingerprint(rows: pl.DataFrame, options: EvaluationOptions) -> str:
    """SHA-256 of the rows judged, the choices and the code version."""
    return fingerprint(rows, asdict(options))


def evaluate_lake(
    connection: duckdb.DuckDBPyConnection, options: EvaluationOptions | None = None
) -> list[Evaluation]:
    """Every task and choice of visits with predictions of test knees.

    On one thread, which the connection is left with: a sum over threads differs from run to run in
    its last digits, and so would the bytes.
    """
    connection.execute("SET threads = 1")
    found = [evaluate(connection, task, visits, options) for task, visits in JUDGED]
    return [one for one in found if one.performance]


def store_evaluation(
    lake: Lake,
    settings: Settings,
    evaluations: list[Evaluation],
    input_fingerprint: str,
    n_rows: int,
) -> None:
    """Write an evaluation as one batch; it replaces the former one.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    tables = {
        "model_performance": [row for one in evaluations for row in one.performance],
        "model_calibration": [row for one in evaluations for row in one.calibration],
        "model_comparisons": [row for one in evaluations for row in one.comparisons],
    }
    calibration = tables["model_calibration"]
    n_failed = sum(row["reason"] is not None for row in calibration)
    version, choices = CODE_VERSION["statistics"], config_hash(settings, "statistics")
    with lake.batch("statistics", ALL_TIMEPOINTS, version, choices) as batch:
        batch.add(
            "analyses",
            [
                {
                    "analysis": ANALYSIS,
                    "input_fingerprint": input_fingerprint,
                    "n_rows": n_rows,
                    "n_results": len(calibration) - n_failed,
                    "n_failed": n_failed,
                    "notes": "\n".join(NOTES),
                }
            ],
        )
        for name, rows in tables.items():
            if rows:
                batch.add(name, [{"analysis": ANALYSIS, **row} for row in rows])


def write_evaluation(evaluations: list[Evaluation], folder: Path) -> list[Path]:
    """Tables 1, S2 and S3 with their comparisons (HTML, Markdown, CSV) and the ROC figures (PNG).

    Returns:
        the files written.
    """
    contents: dict[str, bytes] = {}
    for name, (table, title, notes) in tables_of(evaluations).items():
        contents |= table_files(name, table, title, (*notes, *NOTES))
    for found in evaluations:
        name, title = TITLES[found.task, found.visits]
        contents[f"{name}_roc.png"] = roc_figure(found, title=title)
    return write_files(folder, contents)
