"""Reading a maps file and timing a job, the same for every tool that `benchmarks.spm` compares."""

import sys
import time
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])


def read_maps() -> np.ndarray:
    """The maps of the Parquet file as float64, shape (n_case, n_vertex)."""
    import pyarrow.parquet as pq

    table = pq.read_table(str(np.load(FOLDER / "maps_file.npy")))
    values = table["values"].combine_chunks()
    flat = values.values.to_numpy()
    return flat.reshape(len(values), -1).T.astype(np.float64)


def peak_mb() -> float:
    """Peak resident memory so far; getrusage would count that of the process that started this."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(job, repeats: int) -> tuple:
    """The answer of the last run; writes CPU s, wall s of the quickest, and peak MB, as `cost`."""
    before = peak_mb()
    best = (np.inf, np.inf)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = job()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    np.save(FOLDER / "cost.npy", np.array([*best, peak_mb(), before]))
    return answer
