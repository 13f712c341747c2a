"""The two steps after ingest: labels checked, and maps with biomarkers computed.

Pending is what the ledger does not list under the same inputs, parameters and code version. Workers
compute; this process commits, a batch of up to 32 knee-visits at a time in the order of their
names, so the same pending knees give the same bytes whoever finished first, and a killed run
goes on where it was. One bad knee is quarantined and stops nobody else.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import polars as pl

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.labels import BONES, Bone
from lake.maps import MapPart, concatenate_parts
from lake.store import Lake, local_root
from pipeline.cluster import Cluster
from pipeline.computing import Grid, Input, KneeResult, KneeTask, check_label, compute_maps
from pipeline.config import CODE_VERSION, Settings, config_hash
from pipeline.inbox import locate, located, missing_input
from pipeline.ingest import Progress, unexpected
from pipeline.locator import Locator

BATCH_KNEES = 32
"""Knee-visits committed at once: what a kill can cost, against files per visit."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

ComputeStep = Literal["segmentation", "maps"]
_Answer = KneeResult | Exception


@dataclass(frozen=True)
class StepReport:
    """What a step did at one visit.

    Attributes:
        step: 'network_labels', 'segmentation' or 'maps'.
        timepoint: the visit.
        n_pending: knee-visits that were pending.
        n_done: of these computed.
        n_quarantined: of these refused, each with a row of `quarantine`.
        seconds: the whole step took.
        batch_id: the last batch written; None where nothing was.
        n_missing: of these left pending, since their data are not in the inbox any more.
    """

    step: str
    timepoint: str
    n_pending: int
    n_done: int
    n_quarantined: int
    seconds: float
    batch_id: str | None
    n_missing: int = 0


def materialize_segmentations(
    lake: Lake,
    settings: Settings,
    timepoint: str,
    *,
    cluster: Cluster,
    progress: Progress | None = None,
) -> StepReport:
    """Check every pending label of a visit and record it with its tissue volumes.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    return _materialize("segmentation", lake, settings, timepoint, check_label, cluster, progress)


def materialize_maps(
    lake: Lake,
    settings: Settings,
    timepoint: str,
    *,
    cluster: Cluster,
    progress: Progress | None = None,
) -> StepReport:
    """Compute maps and biomarkers of every pending knee of a visit.

    A knee without MSME gets no T2, and is computed again when MSME comes.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    function = partial(compute_maps, parameters=settings.maps)
    return _materialize("maps", lake, settings, timepoint, function, cluster, progress)


def data_version(lake: Lake, step: str, timepoint: str) -> str:
    """A hash of what a step has committed for a visit: the same until it computes something."""
    rows = lake.sql(
        "SELECT knee_visit, input_fingerprint, status FROM ledger "
        "WHERE step = $step AND timepoint = $timepoint ORDER BY knee_visit",
        {"step": step, "timepoint": timepoint},
    ).rows()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def status(lake: Lake, settings: Settings) -> pl.DataFrame:
    """Knee-visits by timepoint and stage under these settings."""
    return lake.status(
        config_hash(settings, "segmentation"),
        CODE_VERSION["segmentation"],
        config_hash(settings, "maps"),
        CODE_VERSION["maps"],
    )


def _materialize(
    step: ComputeStep,
    lake: Lake,
    settings: Settings,
    timepoint: str,
    function: Callable[[KneeTask], KneeResult],
    cluster: Cluster,
    progress: Progress | None,
) -> StepReport:
    start = time.perf_counter()
    pending = lake.pending(step, config_hash(settings, step), CODE_VERSION[step], timepoint)
    rows = pending.sort("knee_visit").to_dicts()
    counts = {"done": 0, "quarantined": 0, "missing": 0}
    batch_id = None
    if rows:
        grids = grids_of(lake, timepoint)
        answers = _answers(step, settings, rows, grids, function, cluster, progress)
        for chunk in _in_chunks(rows, answers):
            batch_id = _commit(step, lake, settings, timepoint, chunk, counts) or batch_id
    return StepReport(
        step,
        timepoint,
        len(rows),
        counts["done"],
        counts["quarantined"],
        time.perf_counter() - start,
        batch_id,
        counts["missing"],
    )


def grids_of(lake: Lake, timepoint: str) -> dict[str, Grid]:
    """The grid of every DESS scan of a visit, by fingerprint."""
    rows = lake.sql(
        "SELECT series_fingerprint, n_slice, n_row, n_column, affine FROM scans "
        "WHERE sequence = 'DESS' AND timepoint = $timepoint",
        {"timepoint": timepoint},
    ).to_dicts()
    return {
        row["series_fingerprint"]: Grid(
            (row["n_slice"], row["n_row"], row["n_column"]), tuple(row["affine"])
        )
        for row in rows
    }


def _task(
    step: ComputeStep, settings: Settings, row: Mapping[str, Any], grids: Mapping[str, Grid]
) -> KneeTask:
    """A pending row with the places of its inputs.

    Raises:
        BadInputError: MISSING_INPUT.
    """

    def find(fingerprint: str | None) -> Input | None:
        if fingerprint is None or step == "segmentation":
            return None
        return Input(locate(settings.inbox, fingerprint), fingerprint)

    label, scheme_source = label_of(settings, row)
    return KneeTask(
        row,
        label,
        scheme_source,
        grids.get(row["dess_fingerprint"]),
        # DESS is read for the shift of MSME only.
        find(row["dess_fingerprint"]) if row.get("msme_fingerprint") else None,
        find(row.get("msme_fingerprint")),
    )


def label_of(settings: Settings, row: Mapping[str, Any]) -> tuple[Input, str]:
    """Where the label of a row lies, delivered or a network's, and its tissue map.

    Raises:
        BadInputError: MISSING_INPUT.
    """
    fingerprint = row["label_fingerprint"]
    if row["source"] != "delivered":
        path = network_label_path(settings, row["timepoint"], fingerprint)
        if not path.is_file():
            raise missing_input(fingerprint)
        return Input(path, fingerprint), row["scheme"]
    record = located(settings.inbox, fingerprint)
    return (
        Input(Locator(settings.inbox).path(record.key), fingerprint),
        (record.outcome or {})["scheme_source"],
    )


def network_label_path(settings: Settings, timepoint: str, fingerprint: str) -> Path:
    """Where the lake keeps a network's label; named for its content, it never changes."""
    root = local_root(settings.lake_root)
    return root / "labels" / f"timepoint={timepoint}" / f"{fingerprint}.nrrd"


def _answers(
    step: ComputeStep,
    settings: Settings,
    rows: Sequence[Mapping[str, Any]],
    grids: Mapping[str, Grid],
    function: Callable[[KneeTask], KneeResult],
    cluster: Cluster,
    progress: Progress | None,
) -> Iterator[tuple[str, _Answer]]:
    """The result or error of each knee-visit, as they complete."""
    gone: dict[str, BadInputError] = {}

    def tasks() -> Iterator[KneeTask]:
        for row in rows:
            try:
                task = _task(step, settings, row, grids)
            except BadInputError as error:
                gone[row["knee_visit"]] = error
            else:
                yield task

    done = 0
    for task, answer in cluster.map(function, tasks()):
        done += 1
        if progress is not None:
            progress(done, len(rows), f"{step} of {task.row['knee_visit']}")
        yield task.row["knee_visit"], answer
    for knee_visit, error in gone.items():
        done += 1
        if progress is not None:
            progress(done, len(rows), f"{knee_visit} left pending: {error}")
        yield knee_visit, error


def _in_chunks(
    rows: Sequence[Mapping[str, Any]], answers: Iterable[tuple[str, _Answer]]
) -> Iterator[list[tuple[Mapping[str, Any], _Answer]]]:
    """Answers with their rows, in the rows' order, a batch as soon as it is complete."""
    chunks = [rows[first : first + BATCH_KNEES] for first in range(0, len(rows), BATCH_KNEES)]
    ready: dict[str, _Answer] = {}
    next_chunk = 0
    for knee_visit, answer in answers:
        ready[knee_visit] = answer
        while next_chunk < len(chunks) and all(
            row["knee_visit"] in ready for row in chunks[next_chunk]
        ):
            yield [(row, ready.pop(row["knee_visit"])) for row in chunks[next_chunk]]
            next_chunk += 1


def _is_missing(answer: _Answer) -> bool:
    """Whether a knee waits for its data rather than being bad."""
    return isinstance(answer, BadInputError) and answer.reason == Reason.MISSING_INPUT


def _commit(
    step: ComputeStep,
    lake: Lake,
    settings: Settings,
    timepoint: str,
    chunk: Sequence[tuple[Mapping[str, Any], _Answer]],
    counts: dict[str, int],
) -> str | None:
    """One batch: results, refusals and the ledger. Its id, or None where all data are missing."""
    tried = [(row, answer) for row, answer in chunk if not _is_missing(answer)]
    counts["missing"] += len(chunk) - len(tried)
    if not tried:
        return None
    rows: dict[str, list[dict[str, Any]]] = {"quarantine": [], "ledger": []}
    parts: dict[Bone, list[MapPart]] = {bone: [] for bone in BONES}
    for row, answer in tried:
        if isinstance(answer, KneeResult):
            for table, table_rows in answer.tables.items():
                rows.setdefault(table, []).extend(table_rows)
            for bone, part in answer.parts.items():
                parts[bone].append(part)
        else:
            rows["quarantine"].append(_refusal(step, row, answer))
        outcome = "done" if isinstance(answer, KneeResult) else "quarantined"
        counts[outcome] += 1
        rows["ledger"].append(
            {
                "knee_visit": row["knee_visit"],
                "step": step,
                "input_fingerprint": row["input_fingerprint"],
                "status": outcome,
                "seconds": answer.seconds if isinstance(answer, KneeResult) else 0.0,
            }
        )
    with lake.batch(step, timepoint, CODE_VERSION[step], config_hash(settings, step)) as batch:
        for table, table_rows in rows.items():
            if table_rows:
                batch.add(table, table_rows)
        for bone, knees in parts.items():
            if knees:
                batch.add_map_part(bone, concatenate_parts(knees))
    return batch.batch_id


def _refusal(step: ComputeStep, row: Mapping[str, Any], answer: Exception) -> dict[str, Any]:
    error = unexpected(answer, row["knee_visit"])
    return {
        **{name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")},
        "stage": step,
        "file": short_name(error.file),
        "reason": str(error.reason),
        "what": error.what,
        "remedy": error.remedy,
        "input_fingerprint": row["input_fingerprint"],
    }


def one_ahead(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Iterator[tuple[ItemT, ResultT]]:
    """Each item with its result, in order; a thread works on the next while the caller has this.

    Args:
        function: what only reads, since the caller may write meanwhile.
        items: what to work on.
    """
    with ThreadPoolExecutor(1) as thread:
        before: tuple[ItemT, Future[ResultT]] | None = None
        for item in items:
            begun = item, thread.submit(function, item)
            if before is not None:
                yield before[0], before[1].result()
            before = begun
        if before is not None:
            yield before[0], before[1].result()
