"""Power cuts and privacy: what lies on the disk at an acknowledgement, and what the log says."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lake_samples import biomarker, label, ledger, part, refusal

from lake import delta
from lake.store import Lake

SUBJECT = 1234567


def _write_everything(lake: Lake) -> None:
    with lake.batch("ingest", "V00", "1", "c") as batch:
        batch.add("label_files", [label(SUBJECT, "l")])
        batch.add("quarantine", [refusal(SUBJECT, "ingest", f"{SUBJECT}.zip")])
    with lake.batch("maps", "V00", "1", "c") as batch:
        batch.add_map_part("femur", part([SUBJECT]))
        batch.add("biomarkers", [biomarker(SUBJECT)])
        batch.add("ledger", [ledger(f"{SUBJECT}_RIGHT_V00", "maps", "f")])


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every path fsynced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return paths


def test_every_file_and_directory_is_on_the_disk_before_the_batch_counts(
    lake: Lake, synced: list[str]
) -> None:
    _write_everything(lake)
    where = {path: position for position, path in enumerate(synced)}
    # A part was fsynced where it was staged, then moved as a whole.
    staged = {path.split("/batch-00000002/")[-1] for path in synced if "/staging/" in path}
    for path in lake.root.rglob("*"):
        relative = path.relative_to(lake.root).as_posix()
        if relative == "writer.lock":
            continue
        if ".zarr" in relative:
            assert relative in staged
        else:
            # A small file is fsynced under its staged name, then renamed.
            assert str(path) in where or f"{path}.new" in where, relative
    assert str(lake.root) in where

    last_commit = where[str(sorted((lake.root / "tables/batches/_delta_log").glob("*.json"))[-1])]
    for table in ("biomarkers", "ledger", "maps_index"):
        folder = lake.root / "tables" / table
        data = next(folder.glob("timepoint=V00/*.parquet"))
        entry = sorted((folder / "_delta_log").glob("*.json"))[-1]
        # File, its name, the log entry, its name; and all that before the commit point.
        order = [str(data), str(entry)]
        assert [where[path] for path in order] == sorted(where[path] for path in order)
        assert synced.index(str(data.parent)) < where[str(entry)] < last_commit
        assert where[str(entry)] < where[str(entry.parent)] < last_commit
    parts = lake.root / "maps" / "timepoint=V00" / "bone=femur"
    assert where[str(parts)] < where[str(lake.root / "tables/maps_index/_delta_log")]


def test_no_participant_is_in_the_log(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY", 1)
    _write_everything(lake)
    logs = [path for path in lake.root.glob("tables/*/_delta_log/*") if path.is_file()]
    checkpoints = [path for path in logs if path.suffix == ".parquet"]
    assert len(checkpoints) >= 6
    assert len(logs) > len(checkpoints)
    for path in logs:
        assert str(SUBJECT).encode() not in path.read_bytes(), path
    for path in checkpoints:
        assert str(SUBJECT) not in str(pq.ParquetFile(path).read().to_pylist())
    # The search would find it: the rows do hold it.
    assert lake.sql("SELECT DISTINCT subject_id AS s FROM biomarkers")["s"].to_list() == [SUBJECT]


def test_no_time_of_day_is_in_a_table(lake: Lake) -> None:
    _write_everything(lake)
    for path in lake.root.glob("tables/*/**/batch-*.parquet"):
        for name in pq.ParquetFile(path).schema_arrow.names:
            assert not any(word in name for word in ("date", "created", "timestamp")), name
