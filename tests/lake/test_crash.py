"""kill -9 at random moments, and errors of the disk at every moment."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from crash_writer import BONES, numbers, write_batch
from deltalake import DeltaTable

from lake import batch as batch_module
from lake import delta, files
from lake.errors import LakeError
from lake.maps import read_part
from lake.store import Lake
from lake.tables import TABLES

N_KILL = 20
N_BATCH = 400
ROWS_PER_BATCH = {"biomarkers": 2 * len(BONES), "maps_index": 2 * len(BONES), "ledger": 2}


READ = " ".join(
    f"FROM {name}"
    for name in (
        "batches",
        *(f"{table}_history" for table in ROWS_PER_BATCH),
        "biomarkers_wide",
        "maps_index_history",
    )
)
"""What is asked of a lake to see whether it is whole."""


def _require_whole(lake: Lake, acknowledged: set[str], newest: int = 2) -> int:
    """Every invariant a reader may rely on; the number of batches that count.

    Args:
        lake: read while a writer may go on.
        acknowledged: batches that must not be lost.
        newest: of how many batches the map parts are read, newest first.
    """
    # One connection sees one moment, also while a writer goes on.
    with lake.connect(query=READ) as connection:

        def ask(query: str) -> list[tuple]:
            return connection.execute(query).fetchall()

        batches = ask("SELECT batch_id, batch_number FROM batches ORDER BY batch_number")
        committed = [batch_id for batch_id, _ in batches]
        assert acknowledged <= set(committed), "an acknowledged batch is lost"
        assert [number for _, number in batches] == list(range(1, len(committed) + 1))
        for table, n_row in ROWS_PER_BATCH.items():
            counts = ask(f"SELECT batch_id, count(*) FROM {table}_history GROUP BY batch_id")
            assert dict(counts) == dict.fromkeys(committed, n_row), table
        assert ask("SELECT count(*) FROM biomarkers_wide") == [(2 * len(committed),)]
        index = ask("SELECT DISTINCT part, bone, batch_number FROM maps_index_history")
    for path, bone, number in index:
        if number <= len(committed) - newest:
            continue
        part = read_part(lake.root / path)
        assert part.bone == bone
        assert [knee.subject_id for knee in part.knees] == numbers(number)
        assert part.maps["bone_shape"][:, 3, 3].tolist() == [
            30.0 + subject_id % 10 for subject_id in numbers(number)
        ]
    return len(committed)


def _require_clean(lake: Lake) -> None:
    """Nothing lies about that no batch owns."""
    assert list((lake.root / "staging").glob("*")) == []
    parts = set(lake.sql("SELECT DISTINCT part FROM maps_index_history")["part"])
    on_disk = (lake.root / "maps").glob("*/*/part-*.zarr")
    assert {path.relative_to(lake.root).as_posix() for path in on_disk} == parts
    for table in TABLES.values():
        live = {file.path for file in delta.live_files(lake.root, table)}
        assert set(delta.table_folder(lake.root, table).glob("**/batch-*.parquet")) == live


def _acknowledged(root: Path) -> set[str]:
    path = Path(f"{root}.acks")
    # A kill can tear the writer's last line; an acknowledgement is a whole line.
    return set(path.read_text().rpartition("\n")[0].split()) if path.exists() else set()


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def spawn(lake: Lake) -> Iterator[Callable[[int], int]]:
    """Start a writer on the lake that wants that many batches; its process number."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_writer.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def start(n_batch: int) -> int:
        server.stdin.write(f"{lake.root} {n_batch}\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield start
    server.stdin.close()
    server.wait(30)


def test_kill_9_never_tears_or_loses_a_batch(lake: Lake, spawn: Callable[[int], int]) -> None:
    moments = random.Random(20210615)
    interrupted = 0
    staging = lake.root / "staging"
    for kill in range(N_KILL):
        before = _acknowledged(lake.root)
        writer = spawn(N_BATCH)
        # Every other writer gets its first batch through, however slow the machine; the others
        # die somewhere in it, or in sweeping up what the one before them left.
        while kill % 2 and _acknowledged(lake.root) == before:
            assert _is_alive(writer), "the writer failed by itself"
            time.sleep(0.005)
        time.sleep(moments.uniform(0.02, 0.5))
        _require_whole(lake, _acknowledged(lake.root))
        os.kill(writer, signal.SIGKILL)
        while _is_alive(writer):
            time.sleep(0.005)
        interrupted += bool(list(staging.glob("*")))
        _require_whole(lake, _acknowledged(lake.root))
    assert interrupted > 0, "no kill met a batch under way; the moments are badly chosen"
    n_committed = _require_whole(lake, _acknowledged(lake.root))
    assert n_committed >= N_KILL // 2
    writer = spawn(n_committed + 2)
    while _is_alive(writer):
        time.sleep(0.01)
    assert _require_whole(lake, _acknowledged(lake.root), newest=N_BATCH) == n_committed + 2
    _require_clean(lake)


class _FailAt:
    """Makes the n-th write of a process fail, as a full disk does."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.count = 0

    def guard(self, write: Callable) -> Callable:
        def guarded(*args, **kwargs):
            # Zarr's own writes are one write of ours, `write_part`.
            if not sys._getframe(1).f_globals["__name__"].startswith("lake."):
                return write(*args, **kwargs)
            self.count += 1
            if self.count == self.moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*args, **kwargs)

        return guarded


def _patch_writes(patch: pytest.MonkeyPatch, fail: _FailAt) -> None:
    for module, name in (
        (os, "fsync"),
        (shutil, "rmtree"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "write_text"),
        (Path, "replace"),
        (Path, "unlink"),
        (delta.pq, "write_table"),
        (DeltaTable, "create"),
        (DeltaTable, "create_write_transaction"),
        (DeltaTable, "create_checkpoint"),
        (batch_module, "write_part"),
    ):
        patch.setattr(module, name, fail.guard(getattr(module, name)))


def test_a_full_disk_at_every_write_leaves_a_whole_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A part's many small files are fsynced as one write here, and one by one in test_durability.
    monkeypatch.setattr("lake.maps.fsync_tree", files.fsync_directory)
    start = Lake(tmp_path / "start")
    write_batch(start, 1)
    moment = 0
    failures = 0
    while True:
        moment += 1
        lake = Lake(tmp_path / f"at{moment}")
        shutil.copytree(start.root, lake.root)
        fail = _FailAt(moment)
        with monkeypatch.context() as patch:
            _patch_writes(patch, fail)
            try:
                write_batch(lake, 2)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
        n_committed = _require_whole(lake, set())
        if fail.count < moment:
            assert n_committed == 2
            break
        # With room again, a sweep leaves nothing in the next writer's way.
        lake.sweep()
        _require_clean(lake)
        if moment % 10 == 0:
            write_batch(lake, n_committed + 1)
            assert _require_whole(lake, set()) == n_committed + 1
        shutil.rmtree(lake.root)
    assert failures > 25


def test_a_full_disk_while_sweeping_is_swept_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batch(lake, 1)

    def interrupt() -> None:
        """Leave a batch that has written everything but its row of `batches`."""
        with monkeypatch.context() as patch:
            patch.setattr(batch_module.Batch, "_list_batch", _FailAt(1).guard(lambda *_: None))
            with pytest.raises(OSError, match="No space"):
                write_batch(lake, 2)

    interrupt()
    assert lake.sql("FROM biomarkers_history").height == ROWS_PER_BATCH["biomarkers"]
    moment = 0
    while True:
        moment += 1
        fail = _FailAt(moment)
        with monkeypatch.context() as patch:
            _patch_writes(patch, fail)
            try:
                lake.sweep()
            except OSError:
                assert _require_whole(lake, set()) == 1
                continue
        break
    assert moment > 5
    _require_clean(lake)
    interrupt()
    swept = lake.sweep()
    assert (swept.table_files, swept.parts, swept.staging) == (3, 2, 1)
    _require_clean(lake)
    write_batch(lake, 2)
    assert _require_whole(lake, set()) == 2


def test_the_kernel_refusing_bytes_leaves_a_whole_lake(lake: Lake) -> None:
    """Below Python too: files may not grow beyond a limit, whoever writes them."""
    write_batch(lake, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    for limit in (0, 50, 200, 500, 800, 1500, 2500, 4000):
        number = _next(lake)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            write_batch(lake, number)
        except Exception:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        _require_whole(lake, set())
    assert refused > 3
    write_batch(lake, _next(lake))
    _require_whole(lake, set())
    _require_clean(lake)


def _next(lake: Lake) -> int:
    return lake.sql("SELECT max(batch_number) + 1 AS n FROM batches")["n"][0]


@pytest.mark.parametrize("torn", ["", '{"add":{"path":"timepo'])
def test_a_log_entry_torn_by_a_power_cut_is_dropped(lake: Lake, torn: str) -> None:
    write_batch(lake, 1)
    for table in ("biomarkers", "batches"):
        log = lake.root / "tables" / table / "_delta_log"
        last = sorted(log.glob("*.json"))[-1]
        (log / f"{int(last.stem) + 1:020d}.json").write_text(torn)
    if torn:
        # An empty entry changes nothing; half a line cannot be read until it is swept.
        with pytest.raises(LakeError, match="the next batch repairs it"):
            lake.sql("FROM biomarkers")
    # Under way when the power went: its staging folder is there.
    (lake.root / "staging" / "batch-00000002").mkdir()
    write_batch(lake, 2)
    assert _require_whole(lake, set()) == 2
    _require_clean(lake)


def test_a_torn_checkpoint_is_dropped(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY", 1)
    write_batch(lake, 1)
    log = lake.root / "tables" / "biomarkers" / "_delta_log"
    checkpoint = sorted(log.glob("*.checkpoint.parquet"))[-1]
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    (lake.root / "staging" / "batch-00000002").mkdir()
    write_batch(lake, 2)
    assert _require_whole(lake, set()) == 2


def test_arrow_is_what_refuses(tmp_path: Path) -> None:
    """The torn-file test of the sweep rests on pyarrow refusing a truncated Parquet file."""
    path = tmp_path / "torn.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 50)
    with pytest.raises(pa.ArrowInvalid):
        delta.pq.read_metadata(path)
