"""Delta tables, written so that a kill or a power cut leaves them readable.

A batch's rows of one table are one Parquet file named for the batch. It is on the disk before the
log mentions it, and the log entry is on the disk before the caller goes on. The log's statistics
hold the batch only: no participant's number leaves the Parquet files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, PostCommitHookProperties
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from lake.errors import LakeError
from lake.files import fsync_directory, fsync_file, make_directory, remove_file
from lake.tables import Table

LOG = "_delta_log"
CHECKPOINT_EVERY = 50
# delta-rs writes a checkpoint without fsync; ours is made, and made durable, in `_checkpoint`.
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class LiveFile:
    """A Parquet file the newest version of a table consists of.

    Attributes:
        relative: path from the table's folder.
        path: where it lies.
        size: bytes.
        timepoint: its partition; None in a table that is not partitioned.
        first_batch_id, last_batch_id: least and greatest batch_id in it; None in a file that
            another Delta client wrote without saying.
    """

    relative: str
    path: Path
    size: int
    timepoint: str | None
    first_batch_id: str | None
    last_batch_id: str | None

    @property
    def batch_id(self) -> str | None:
        """The batch that wrote it; None after another client's OPTIMIZE joined several."""
        return self.first_batch_id if self.first_batch_id == self.last_batch_id else None


def table_folder(root: Path, table: Table) -> Path:
    """Where a table lies."""
    return root / "tables" / table.name


def open_table(root: Path, table: Table) -> DeltaTable | None:
    """The table at its newest version; None when nothing was ever written to it.

    Raises:
        LakeError: its log cannot be read.
    """
    folder = table_folder(root, table)
    try:
        return DeltaTable(folder) if DeltaTable.is_deltatable(str(folder)) else None
    except DeltaError as error:
        raise LakeError(
            f"the log of {folder} cannot be read ({error}); if the power failed while a batch was "
            "written, `Lake.sweep` or the next batch repairs it"
        ) from error


def live_files(root: Path, table: Table) -> list[LiveFile]:
    """The files of the newest version, by path."""
    delta = open_table(root, table)
    if delta is None:
        return []
    actions = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    folder = table_folder(root, table)
    files = [
        LiveFile(
            relative=unquote(action["path"]),
            path=folder / unquote(action["path"]),
            size=action["size_bytes"],
            timepoint=action.get("partition.timepoint"),
            first_batch_id=action.get("min.batch_id"),
            last_batch_id=action.get("max.batch_id"),
        )
        for action in actions
    ]
    return sorted(files, key=lambda file: file.relative)


def _open_or_create(root: Path, table: Table) -> DeltaTable:
    existing = open_table(root, table)
    if existing is not None:
        return existing
    folder = table_folder(root, table)
    make_directory(folder)
    created = DeltaTable.create(
        folder,
        schema=table.schema,
        partition_by=["timepoint"] if table.partitioned else None,
        name=table.name,
        description=table.description,
        configuration={"delta.dataSkippingStatsColumns": "batch_id"},
    )
    fsync_directory(folder)
    _fsync_version(folder, created.version())
    return created


def _fsync_version(folder: Path, version: int) -> None:
    fsync_file(folder / LOG / f"{version:020d}.json")
    fsync_directory(folder / LOG)


def _commit(root: Path, table: Table, actions: Sequence[AddAction | RemoveAction]) -> None:
    delta = _open_or_create(root, table)
    delta.create_write_transaction(
        list(actions),
        "append",
        delta.schema(),
        partition_by=["timepoint"] if table.partitioned else None,
        post_commithook_properties=_NO_HOOKS,
    )
    folder = table_folder(root, table)
    delta.update_incremental()
    _fsync_version(folder, delta.version())
    if delta.version() % CHECKPOINT_EVERY == 0:
        _checkpoint(folder, delta)


def _checkpoint(folder: Path, delta: DeltaTable) -> None:
    """Sum the log up, so that opening a table does not get slower with every batch."""
    delta.create_checkpoint()
    for path in (folder / LOG).glob(f"{delta.version():020d}.checkpoint*"):
        fsync_file(path)
    fsync_file(folder / LOG / "_last_checkpoint")
    fsync_directory(folder / LOG)


def _write_parquet(root: Path, table: Table, rows: pa.Table, relative: str) -> int:
    """Write rows durably, without the column the path already tells; the file's size in bytes."""
    path = table_folder(root, table) / relative
    make_directory(path.parent)
    pq.write_table(
        rows.drop_columns(["timepoint"]) if table.partitioned else rows,
        path,
        compression="zstd",
    )
    fsync_file(path)
    fsync_directory(path.parent)
    return path.stat().st_size


def _add_action(
    table: Table, rows: pa.Table, relative: str, size: int, timepoint: str, *, data_change: bool
) -> AddAction:
    batch_ids = sorted(set(rows.column("batch_id").to_pylist()))
    statistics = {
        "numRecords": rows.num_rows,
        "minValues": {"batch_id": batch_ids[0]},
        "maxValues": {"batch_id": batch_ids[-1]},
        "nullCount": {"batch_id": 0},
    }
    partition = {"timepoint": timepoint} if table.partitioned else {}
    return AddAction(relative, size, partition, 0, data_change, json.dumps(statistics))


def append(root: Path, table: Table, rows: pa.Table, batch_id: str) -> None:
    """Add one batch's rows (of one or several timepoints) and have them on the disk.

    Raises:
        OSError: the disk refused; the rows are then not listed, or listed and swept later.
    """
    actions = []
    if table.partitioned:
        timepoints = sorted(set(rows.column("timepoint").to_pylist()))
        shares = {
            f"timepoint={timepoint}/batch-{batch_id}.parquet": (
                timepoint,
                rows.filter(pa.compute.equal(rows.column("timepoint"), timepoint)),
            )
            for timepoint in timepoints
        }
    else:
        shares = {f"batch-{batch_id}.parquet": ("", rows)}
    for relative, (timepoint, share) in shares.items():
        size = _write_parquet(root, table, share, relative)
        actions.append(_add_action(table, share, relative, size, timepoint, data_change=True))
    _commit(root, table, actions)


def remove(root: Path, table: Table, files: Sequence[LiveFile]) -> None:
    """Take files out of a table, then off the disk. Only for files no reader was ever shown."""
    _commit(root, table, [_remove_action(table, file, data_change=True) for file in files])
    for file in files:
        remove_file(file.path)


def _remove_action(table: Table, file: LiveFile, *, data_change: bool) -> RemoveAction:
    partition = {"timepoint": file.timepoint} if table.partitioned else {}
    return RemoveAction(file.relative, data_change, 0, file.size, partition)


def drop_torn_commit(root: Path, table: Table) -> None:
    """Remove a last log entry that a power cut left half-written.

    Every entry is on the disk before a batch goes on, so only the newest can be torn, and only
    one of a batch that was never acknowledged.
    """
    log = table_folder(root, table) / LOG
    entries = sorted(log.glob("*.json"))
    for path in sorted(log.glob("*.checkpoint.parquet"))[-1:]:
        if not _is_whole_parquet(path):
            # The log itself is complete; a checkpoint only sums it up.
            remove_file(path)
            remove_file(log / "_last_checkpoint")
    if entries and not _is_whole_entry(entries[-1]):
        remove_file(entries[-1])


def _is_whole_parquet(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _is_whole_entry(path: Path) -> bool:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
