"""Writers to be killed: a server that forks one per line `<root> <n_batch>` of its input.

Importing once and forking makes a kill cost tens of milliseconds instead of seconds. A writer
commits batches of two knees until the lake has `n_batch`, appending each batch_id to `<root>.acks`
once the lake has acknowledged it.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import pyarrow.dataset  # noqa: F401 - imported before the forks, for speed
import xarray  # noqa: F401
import zarr  # noqa: F401
from lake_samples import biomarker, ledger, part

from lake.store import Lake

BONES = ("femur", "tibia")


def numbers(batch_number: int) -> list[int]:
    """The knees of a batch, told by its number."""
    return [1000000 + 2 * batch_number, 1000001 + 2 * batch_number]


def write_batch(lake: Lake, batch_number: int) -> str | None:
    """One batch: map parts of two bones, biomarkers and the ledger."""
    with lake.batch("maps", "V00", "1", "c") as batch:
        for bone in BONES:
            batch.add_map_part(bone, part(numbers(batch_number), bone=bone))
        for number in numbers(batch_number):
            batch.add(
                "biomarkers",
                [biomarker(number, bone=bone) for bone in BONES],
            )
            batch.add("ledger", [ledger(f"{number}_RIGHT_V00", "maps", f"f{batch_number}")])
    return batch.batch_id


def run(root: Path, n_batch: int) -> None:
    """Commit what is missing, in order, acknowledging each."""
    lake = Lake(root)
    done = lake.sql("SELECT coalesce(max(batch_number), 0) AS last FROM batches")["last"][0]
    acknowledged = os.open(f"{root}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for batch_number in range(done + 1, n_batch + 1):
        batch_id = write_batch(lake, batch_number)
        os.write(acknowledged, f"{batch_id}\n".encode())


def serve() -> None:
    """Fork a writer per line; its number goes to standard output."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        root, n_batch = line.rsplit(" ", 1)
        child = os.fork()
        if child == 0:
            try:
                run(Path(root), int(n_batch))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
