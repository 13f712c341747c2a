"""One batch: everything of it becomes visible at once, or nothing does.

The order is the protocol. 1. take the writer's lock; 2. make the batch's staging folder, the sign
that something is under way; 3. write map parts there; 4. move them into place; 5. append the
tables; 6. append the row of `batches`, from which moment the batch counts; 7. remove the staging
folder. Whoever finds a staging folder sweeps what its batch left behind.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from imaging.labels import Bone
from lake import delta, files
from lake.arrays import ArrayPart, write_array_part
from lake.errors import LakeBusyError, LakeError, SchemaError
from lake.keys import TIMEPOINTS, UNKNOWN_TIMEPOINT
from lake.maps import MapPart, write_part
from lake.rows import Rows, to_arrow
from lake.tables import ALL_TIMEPOINTS, LEDGER_STEPS, SPANNING_STEPS, STEPS, TABLES, Table

STAGING = "staging"
LOCK = "writer.lock"
_POLL_S = 0.05


@contextmanager
def writer_lock(root: Path, wait_s: float) -> Iterator[None]:
    """Hold the one writer's place of a lake; the kernel frees it when the process ends.

    Raises:
        LakeBusyError: another writer held it for all of `wait_s` seconds.
    """
    files.make_directory(root)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                    raise LakeBusyError(
                        f"{root} is being written to by process {holder or 'unknown'}; wait for "
                        f"it to finish (waited {wait_s:g} s) or stop it"
                    ) from None
                time.sleep(_POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Swept:
    """What a sweep removed of batches that never counted.

    Attributes:
        table_files: Parquet files of rows.
        parts: Zarr parts.
        staging: staging folders.
    """

    table_files: int
    parts: int
    staging: int


def staging_folders(root: Path) -> list[Path]:
    """Signs of batches under way or interrupted."""
    return sorted((root / STAGING).glob("*"))


def sweep(root: Path, committed: set[str], parts_in_use: set[str]) -> Swept:
    """Remove what interrupted batches left. The caller holds the writer's lock.

    A sweep that is itself interrupted is done again: the staging folders go last.
    """
    table_files = 0
    for table in TABLES.values():
        if table.name != "batches":
            lost = [
                file
                for file in delta.live_files(root, table)
                if file.batch_id is not None and file.batch_id not in committed
            ]
            if lost:
                delta.remove(root, table, lost)
            table_files += len(lost)
        for path in sorted(delta.table_folder(root, table).glob("**/batch-*.parquet")):
            if path.stem.removeprefix("batch-") not in committed:
                files.remove_file(path)
                table_files += 1
    orphans = [
        path
        for table in TABLES.values()
        if table.parts
        for path in sorted((root / table.parts).glob("timepoint=*/bone=*/part-*.zarr"))
        if path.relative_to(root).as_posix() not in parts_in_use
    ]
    for path in orphans:
        files.remove_tree(path)
    leftovers = staging_folders(root)
    for path in leftovers:
        files.remove_tree(path)
    return Swept(table_files, len(orphans), len(leftovers))


@dataclass(frozen=True)
class _StagedPart:
    path: Path
    relative: str
    table: str


class Batch:
    """Rows and map parts of one step at one timepoint, on their way in. Made by `Lake.batch`.

    Attributes:
        number: its place in the lake's order of batches.
        batch_id: known once the batch is committed; None before, and for an empty batch.
    """

    def __init__(
        self,
        root: Path,
        number: int,
        step: str,
        timepoint: str,
        code_version: str,
        config_hash: str,
    ) -> None:
        if step not in STEPS:
            raise LakeError(f"{step} is not a step; use one of {', '.join(STEPS)}")
        # A release of clinical tables lands whole, and spans visits; so does an analysis.
        others = (ALL_TIMEPOINTS,) if step in SPANNING_STEPS else (UNKNOWN_TIMEPOINT,)
        if timepoint not in (*TIMEPOINTS, *others):
            raise LakeError(
                f"{timepoint} is not a timepoint of {step}; use V00 to V11 or '{others[0]}'"
            )
        self.number = number
        self.batch_id: str | None = None
        self._root = root
        self._step = step
        self._timepoint = timepoint
        self._code_version = code_version
        self._config_hash = config_hash
        self._rows: dict[str, list[pa.Table]] = {}
        self._parts: list[_StagedPart] = []
        self._staging = root / STAGING / f"batch-{number:08d}"
        files.make_directory(self._staging)

    def add(self, table_name: str, rows: Rows) -> None:
        """Add rows of a table; batch_id is filled in, and timepoint where rows leave it out.

        Raises:
            SchemaError: a row does not fit; the message names table, row and column.
        """
        table = TABLES.get(table_name)
        if table is None or table_name == "batches":
            writable = ", ".join(name for name in TABLES if name != "batches")
            raise SchemaError(f"there is no table {table_name} to write to; use one of {writable}")
        if table.step not in ("", self._step):
            raise SchemaError(
                f"{table_name} is written by step {table.step}; this is a batch of {self._step}"
            )
        # The id is a hash of the rows, so a row cannot know it yet.
        filled = {"timepoint": self._timepoint, "batch_id": ""}
        arrow = to_arrow(table, rows, filled)
        if self._timepoint != ALL_TIMEPOINTS:
            self._require_own_timepoint(table, arrow)
        if arrow.num_rows:
            self._rows.setdefault(table_name, []).append(arrow)

    def _require_own_timepoint(self, table: Table, arrow: pa.Table) -> None:
        if "timepoint" not in table.column_names:
            return
        own = {self._timepoint, UNKNOWN_TIMEPOINT} & set(table.column("timepoint").allowed)
        for row, timepoint in enumerate(arrow.column("timepoint").to_pylist()):
            if timepoint not in own:
                raise SchemaError(
                    f"{table.name}, row {row}: timepoint = {timepoint!r} in a batch of "
                    f"{self._timepoint}; commit each timepoint as a batch of its own"
                )

    def add_map_part(self, bone: Bone, part: MapPart) -> None:
        """Add maps of a bone and their rows of `maps_index`.

        Raises:
            LakeError: the part is another bone's.
            SchemaError: a knee does not belong to this batch.
        """
        if part.bone != bone:
            raise LakeError(f"this part holds the {part.bone}, not the {bone}")
        relative = f"maps/timepoint={self._timepoint}/bone={bone}/part-{part.content_hash}.zarr"
        self.add("maps_index", _index_rows(part, relative))
        staged = self._staging / relative
        if not staged.exists():
            write_part(staged, part)
            self._parts.append(_StagedPart(staged, relative, "maps_index"))

    def add_array_part(self, table_name: str, part: ArrayPart) -> str:
        """Add a Zarr part; the rows that say where its knees lie are added apart.

        Args:
            table_name: the table that lists it, in a column `part`.
            part: the arrays.

        Returns:
            The part's path relative to the lake's root, for that column.

        Raises:
            SchemaError: the table lists no parts, or those of maps.
        """
        folder = TABLES[table_name].parts if table_name in TABLES else ""
        if not folder or table_name == "maps_index":
            raise SchemaError(f"{table_name} lists no parts of arrays")
        relative = (
            f"{folder}/timepoint={self._timepoint}/bone={part.bone}/part-{part.content_hash}.zarr"
        )
        staged = self._staging / relative
        if not staged.exists():
            write_array_part(staged, part)
            self._parts.append(_StagedPart(staged, relative, table_name))
        return relative

    def discard(self) -> None:
        """Forget everything; nothing of it was visible."""
        # What cannot be removed now is swept before the next batch.
        with suppress(OSError):
            shutil.rmtree(self._staging)
            files.fsync_directory(self._staging.parent)

    def commit(self) -> None:
        """Make the batch count. After an error it does not, unless `batches` lists it.

        Raises:
            SchemaError: results without their ledger row, or two rows of the same thing.
            OSError: the disk refused.
        """
        tables = {name: pa.concat_tables(shares) for name, shares in self._rows.items()}
        if not tables:
            self.discard()
            return
        for name, rows in tables.items():
            _require_grain(TABLES[name], rows)
        self._require_ledger(tables)
        self._require_listed(tables)
        ordered = {name: _in_order(TABLES[name], tables[name]) for name in sorted(tables)}
        batch_id = self._identify({name: lines for name, (_, lines) in ordered.items()})
        for part in self._parts:
            target = self._root / part.relative
            # A part is named for its content: what lies there is the same part, and it counts.
            if not target.exists():
                files.move_into_place(part.path, target)
        for name, (rows, _) in ordered.items():
            delta.append(self._root, TABLES[name], _stamped(rows, batch_id), batch_id)
        self._list_batch(batch_id, tables)
        self.batch_id = batch_id
        self.discard()

    def _list_batch(self, batch_id: str, tables: Mapping[str, pa.Table]) -> None:
        knee_visits = {
            knee_visit
            for rows in tables.values()
            if "knee_visit" in rows.column_names
            for knee_visit in rows.column("knee_visit").to_pylist()
            if knee_visit is not None
        }
        row = {
            "batch_id": batch_id,
            "batch_number": self.number,
            "step": self._step,
            "timepoint": self._timepoint,
            "n_knee_visit": len(knee_visits),
            "n_quarantined": tables["quarantine"].num_rows if "quarantine" in tables else 0,
            "code_version": self._code_version,
            "config_hash": self._config_hash,
        }
        batches = TABLES["batches"]
        delta.append(self._root, batches, to_arrow(batches, [row], {}), batch_id)

    def _require_ledger(self, tables: Mapping[str, pa.Table]) -> None:
        """A result without its ledger row would never be shown, and be computed again for ever."""
        ledger = tables["ledger"].to_pylist() if "ledger" in tables else []
        status: dict[str, str] = {}
        for row in ledger:
            if row["step"] != self._step:
                raise SchemaError(
                    f"ledger: {row['knee_visit']} has step {row['step']} in a batch of {self._step}"
                )
            status[row["knee_visit"]] = row["status"]
        for name, rows in tables.items():
            if TABLES[name].step not in LEDGER_STEPS:
                continue
            for knee_visit in rows.column("knee_visit").to_pylist():
                if status.get(knee_visit) != "done":
                    raise SchemaError(
                        f"{name} has rows of {knee_visit}, but the ledger of this batch does not "
                        "list it as done; add its ledger row"
                    )

    def _require_listed(self, tables: Mapping[str, pa.Table]) -> None:
        """A part no row points to could never be found, and would be swept one day."""
        for part in self._parts:
            rows = tables.get(part.table)
            if rows is None or part.relative not in set(rows.column("part").to_pylist()):
                raise SchemaError(f"{part.relative} is in no row of {part.table}; add its rows")

    def _identify(self, lines: Mapping[str, Sequence[str]]) -> str:
        heading = [
            self.number,
            self._step,
            self._timepoint,
            self._code_version,
            self._config_hash,
        ]
        digest = hashlib.sha256(json.dumps(heading).encode())
        for name, rows in lines.items():
            digest.update(json.dumps([name, list(rows)]).encode())
        return f"{self.number:08d}-{digest.hexdigest()[:16]}"


def _index_rows(part: MapPart, relative: str) -> list[dict[str, Any]]:
    has_t2 = _has_values(part, "t2_mean")
    return [
        {
            "knee_visit": knee.knee_visit,
            "subject_id": knee.subject_id,
            "side": knee.side,
            "bone": part.bone,
            "part": relative,
            "row": row,
            "centroid_x_mm": knee.centroid_mm[0],
            "centroid_y_mm": knee.centroid_mm[1],
            "centroid_z_mm": knee.centroid_mm[2],
            "mirrored": knee.mirrored,
            "multi_hit_share": knee.multi_hit_share,
            # NaN is "no cartilage"; the tables say that as NULL.
            "hidden_cartilage_share": None
            if np.isnan(knee.hidden_cartilage_share)
            else knee.hidden_cartilage_share,
            "covered_share": knee.covered_share,
            "has_t2": has_t2[row],
        }
        for row, knee in enumerate(part.knees)
    ]


def _has_values(part: MapPart, variable: str) -> list[bool]:
    values = part.maps[variable]
    return [bool(np.isfinite(one).any()) for one in values]


def _require_grain(table: Table, rows: pa.Table) -> None:
    if not table.grain:
        return
    keys = pl.DataFrame(rows.select(list(table.grain)))
    twice = keys.filter(keys.is_duplicated())
    if len(twice):
        raise SchemaError(
            f"{table.name}: {', '.join(map(str, twice.row(0)))} is in this batch twice; one row "
            "per " + ", ".join(table.grain)
        )


def _in_order(table: Table, rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows in an order that does not depend on which worker was done first, and as text."""
    kept = [column.name for column in table.columns if not column.varies]
    frame = pl.DataFrame(_digested(rows.select(kept)))
    lines = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list()
    order = sorted(range(len(lines)), key=lines.__getitem__)
    return rows.take(order), [lines[index] for index in order]


def _digested(rows: pa.Table) -> pa.Table:
    """Lists of single-precision numbers, which hold thousands, as digests of their bytes."""
    for index, field in enumerate(rows.schema):
        if field.type == pa.list_(pa.float32()):
            digests = [
                hashlib.sha256(
                    np.asarray(one.values.to_numpy(zero_copy_only=False), np.float32).tobytes()
                ).hexdigest()
                for one in rows.column(index)
            ]
            rows = rows.set_column(index, field.name, pa.array(digests, pa.string()))
    return rows


def _stamped(rows: pa.Table, batch_id: str) -> pa.Table:
    index = rows.column_names.index("batch_id")
    stamp = pa.array([batch_id] * rows.num_rows, pa.string())
    return rows.set_column(index, rows.schema.field(index), stamp)
