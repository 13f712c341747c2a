"""ROC and p-values in SQL against scikit-learn and scipy: agreement, and CPU seconds.

Scores are simulated with a fixed seed. BLAS has nothing to do here; DuckDB runs on one thread, so
that CPU seconds are comparable; the better of three runs counts.
"""

import time
from collections.abc import Callable

import duckdb
import numpy as np
import polars as pl

import sql
from stats.roc import bootstrap, paired_test, performance
from stats.roc_rows import Scores

REPLICATES = 100
PATIENTS = 875


def _cpu(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of the better of three runs, and what it gave."""
    best, given = float("inf"), None
    for _ in range(3):
        start = time.process_time()
        given = work()
        best = min(best, time.process_time() - start)
    return best, given


def simulated(n: int) -> pl.DataFrame:
    random = np.random.default_rng(n)
    truth = random.random(n) < 0.33
    return pl.DataFrame(
        {
            "subject_id": np.arange(n),
            "is_case": truth,
            "score": random.normal(size=n) + 0.8 * truth,
            "other": random.normal(size=n) + 0.7 * truth,
        }
    )


def _row(name: str, ours: float, theirs: float | None, difference: float | None) -> None:
    peer = "-" if theirs is None else f"{theirs:.3f}"
    ratio = "-" if theirs is None else f"{theirs / ours:.1f}x"
    agreement = "-" if difference is None else f"{difference:.1e}"
    print(f"| {name} | {ours:.3f} | {peer} | {ratio} | {agreement} |")


def _discrimination(connection: duckdb.DuckDBPyConnection, n: int) -> None:
    from sklearn.metrics import roc_auc_score

    rows = simulated(n)
    connection.register("arrow_rows", rows.to_arrow())
    connection.execute("CREATE OR REPLACE TABLE knees AS FROM arrow_rows")
    scores = Scores("knees", "is_case", "score", subject="subject_id")
    truth, score = rows["is_case"].to_numpy(), rows["score"].to_numpy()
    ours, found = _cpu(lambda: performance(connection, scores).table["auc"][0])
    theirs, expected = _cpu(lambda: roc_auc_score(truth, score))
    _row(f"AUC, DeLong interval and Youden, n = {n:,} (scikit-learn: AUC only)", ours, theirs,
         abs(found - expected))  # fmt: skip
    ours, _ = _cpu(lambda: paired_test(connection, scores, "other"))
    _row(f"paired DeLong test, n = {n:,}", ours, None, None)


def _bootstrap(connection: duckdb.DuckDBPyConnection) -> None:
    from sklearn.metrics import roc_auc_score

    rows = simulated(PATIENTS)
    connection.register("arrow_rows", rows.to_arrow())
    connection.execute("CREATE OR REPLACE TABLE knees AS FROM arrow_rows")
    scores = Scores("knees", "is_case", "score", subject="subject_id")
    truth, score = rows["is_case"].to_numpy(), rows["score"].to_numpy()
    random = np.random.default_rng(0)

    def loop() -> float:
        draws = random.integers(0, PATIENTS, (REPLICATES, PATIENTS))
        return float(np.std([roc_auc_score(truth[draw], score[draw]) for draw in draws], ddof=1))

    ours, _ = _cpu(lambda: bootstrap(connection, scores, n_replicates=REPLICATES).table)
    theirs, _ = _cpu(loop)
    _row(f"bootstrap of 7 metrics x {REPLICATES}, n = {PATIENTS} (scikit-learn: AUC only)",
         ours, theirs, None)  # fmt: skip


def _tails(connection: duckdb.DuckDBPyConnection, n: int = 50_000) -> None:
    from scipy import stats

    random = np.random.default_rng(1)
    t, df = random.normal(scale=3, size=n), random.integers(5, 2000, n)
    connection.register("tests", pl.DataFrame({"t": t, "df": df}).to_arrow())
    ours, found = _cpu(lambda: connection.sql("SELECT t_two_sided(t, df) AS p FROM tests").pl())
    theirs, expected = _cpu(lambda: 2 * stats.t.sf(np.abs(t), df))
    difference = float(np.max(np.abs(found["p"].to_numpy() / expected - 1)))
    _row(f"p of {n:,} t statistics (scipy)", ours, theirs, difference)
    ours, found = _cpu(lambda: connection.sql("SELECT normal_two_sided(t) AS p FROM tests").pl())
    theirs, expected = _cpu(lambda: 2 * stats.norm.sf(np.abs(t)))
    difference = float(np.max(np.abs(found["p"].to_numpy() / expected - 1)))
    _row(f"p of {n:,} z statistics (scipy)", ours, theirs, difference)


def run() -> None:
    print("| what | kneelake, CPU s | peer, CPU s | ratio | largest difference |")
    print("|---|---|---|---|---|")
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(sql.macro_text())
        _discrimination(connection, PATIENTS)
        _discrimination(connection, 1_000_000)
        _bootstrap(connection)
        _tails(connection)
