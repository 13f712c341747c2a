"""Reading the rows and timing a fit, the same for every tool that `benchmarks.logit` compares."""

import sys
import time
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])
ROWS = str(np.load(FOLDER / "rows_file.npy"))
TERMS = [f"x{k}" for k in range(1, 7)]


def read_rows() -> tuple[np.ndarray, np.ndarray]:
    """Outcome and terms of the Parquet file: shapes (n,) and (n, 6), float64."""
    import pyarrow.parquet as pq

    table = pq.read_table(ROWS)
    x = np.empty((table.num_rows, len(TERMS)))
    for k, name in enumerate(TERMS):
        x[:, k] = table[name].to_numpy()
    return table["y"].to_numpy().astype(np.float64), x


def peak_mb() -> float:
    """Largest resident memory of this program; getrusage would count the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(job, repeats: int) -> None:
    """Write CPU s and wall s of the quickest run, peak MB and MB before, and its estimates."""
    before = peak_mb()
    best = (np.inf, np.inf)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        estimates = job()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    np.save(FOLDER / "cost.npy", np.array([*best, peak_mb(), before]))
    np.save(FOLDER / "estimates.npy", np.array(estimates))
