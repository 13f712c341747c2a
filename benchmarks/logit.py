"""Logistic regression of 2,000 to 10 million rows x 6 terms: kneelake, statsmodels, glum.

The rows are simulated with a fixed seed. Every tool reads the same Parquet file, gives estimates
and standard errors, and runs in a process of its own; BLAS and OpenMP have one thread, so that CPU
seconds are those of the work and not of threads that wait. The bootstrap loop is timed with the
default threads too, since that is what a user meets.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.peers import OWN, run_peer

SIZES = (2_000, 1_000_000, 10_000_000)
PUBLISHED_ROWS = 2149
LOOP_REFITS = 50
"""Refits that the statsmodels loop gets; its time is multiplied up to 1,000, and said to be."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """BLAS and OpenMP of the processes started inside on one thread, or on as many as they like."""
    before = {name: os.environ.pop(name, None) for name in _THREADS}
    if wanted:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def write_rows(path: Path, n: int) -> None:
    """`n` simulated rows: terms of different scales, two of them correlated, 31 % events."""
    rng = np.random.default_rng(n)
    columns: dict[str, NDArray] = {}
    odds = np.full(n, -0.9)
    previous = np.zeros(n)
    for k, effect in enumerate((0.2, -0.1, 0.3, 0.4, -0.2, 0.1), 1):
        x = rng.normal(size=n)
        if k == 4:
            x = 0.8 * previous + 0.6 * x
        odds += effect * x
        columns[f"x{k}"] = 10.0 * k + k * x
        previous = x
    columns["y"] = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    pl.DataFrame(columns).write_parquet(path)


def _row(name: str, cost: NDArray, first: NDArray | None, error: str) -> None:
    cpu, wall, peak, before = cost
    ratio = "" if first is None else f"{cpu / first[0]:.2f}"
    print(
        f"| {name} | {cpu:.3f} | {ratio} | {wall:.3f} | {peak:.0f} ({before:.0f}) | {error} |",
        flush=True,
    )


def fits(folder: Path, n: int) -> None:
    path = folder / f"{n}.parquet"
    write_rows(path, n)
    print(f"\n{n:,} rows x 6 terms, {path.stat().st_size / 1e6:.0f} MB of Parquet\n")
    print("| method | CPU s | x kneelake polars | wall s | peak MB (import) | largest difference |")
    print("|---|---|---|---|---|---|")
    common = {
        "rows_file": np.array(str(path)),
        "repeats": np.array(5 if n < 10**5 else 3 if n < 10**7 else 1),
        "refits": np.array(0),
    }
    runs = (
        ("kneelake, polars", OWN, "logit_kneelake.py", "polars"),
        ("kneelake, SQL", OWN, "logit_kneelake.py", "sql"),
        ("statsmodels Logit", OWN, "logit_statsmodels.py", ""),
        ("glum", "glum", "logit_glum.py", ""),
    )
    first, wanted = None, None
    with one_thread():
        for name, peer, script, method in runs:
            found = run_peer(peer, script, common | {"method": np.array(method)})
            if wanted is None:
                wanted = found["estimates"]
            off = np.abs(found["estimates"] / wanted - 1).max()
            _row(name, found["cost"], first, f"{off:.0e}")
            first = found["cost"] if first is None else first
    path.unlink()


def bootstrap(folder: Path) -> None:
    path = folder / "published_size.parquet"
    write_rows(path, PUBLISHED_ROWS)
    print(f"\n1,000 bootstrap refits of {PUBLISHED_ROWS} rows x 6 terms; statsmodels from ")
    print(f"{LOOP_REFITS} refits, multiplied up\n")
    print("| method | CPU s | x kneelake polars | wall s | peak MB (import) | spread of x1 |")
    print("|---|---|---|---|---|---|")
    common = {"rows_file": np.array(str(path))}
    first = None
    for name, script, threaded, refits in (
        ("bootstrap by polars", "logit_kneelake.py", False, 0),
        ("bootstrap by sql", "logit_kneelake.py", False, 0),
        ("statsmodels loop, BLAS threads as installed", "logit_statsmodels.py", True, LOOP_REFITS),
        ("statsmodels loop, one BLAS thread", "logit_statsmodels.py", False, LOOP_REFITS),
    ):
        more = {"refits": np.array(refits), "repeats": np.array(3 if not refits else 1)}
        more["method"] = np.array(name)
        with one_thread(not threaded):
            found = run_peer(OWN, script, common | more)
        cost = found["cost"] * ([1000 / refits, 1000 / refits, 1, 1] if refits else 1)
        _row(
            name.replace("bootstrap by", "kneelake,"),
            cost,
            first,
            f"{found['estimates'][:, 1].std():.4f}",
        )
        first = cost if first is None else first


def run() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bootstrap(folder)
        for n in SIZES:
            fits(folder, n)
