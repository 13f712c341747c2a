"""Deliveries into the lake: read whole, checked, fingerprinted, landed or quarantined.

What should stand in the lake follows from what lies in the inbox now, whatever came first; only the
difference is written, one batch per timepoint. An unchanged inbox writes nothing and reads no
pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.labels import load_scheme
from lake.store import Lake
from lake.tables import TABLES
from pipeline.cluster import Cluster, WorkerDiedError
from pipeline.config import CODE_VERSION, Settings, config_hash
from pipeline.inbox import Delivery, discover, path_parts, scheme_of
from pipeline.knee_visit import KneeVisit
from pipeline.locator import Locator
from pipeline.reading import Outcome, Reading, read_delivery, refused

Progress = Callable[[int, int, str], None]
"""Told how many are done, of how many, and what was done last."""
Row = dict[str, Any]
Comparable = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        landed: rows written to `scans` and `label_files`.
        unchanged: deliveries the lake knew already, landed or refused.
        quarantined: rows written to `quarantine`.
        skipped: series of kinds that are not used, such as localizers.
        superseded: deliveries that give way to a later one of the same knee-visit: `knee_visit`,
            `sequence` (None for a label), `file` and the `kept` file.
    """

    landed: list[Row] = field(default_factory=list)
    unchanged: int = 0
    quarantined: list[Row] = field(default_factory=list)
    skipped: int = 0
    superseded: list[Row] = field(default_factory=list)


def unexpected(error: Exception, file: str) -> BadInputError:
    """A worker's failure as a refusal, with nothing of the message it died with."""
    if isinstance(error, BadInputError):
        return error
    if isinstance(error, WorkerDiedError):
        return BadInputError(
            Reason.UNREADABLE_FILE,
            file,
            f"ended its worker process twice ({error.where}), for want of memory perhaps",
            "Try it with one worker on a machine with more memory, or report it",
        )
    return BadInputError(
        Reason.UNREADABLE_FILE,
        file,
        f"could not be processed ({error})",
        "Check the file; if it is good, report this with the line named here",
    )


def ingest(
    lake: Lake,
    settings: Settings,
    paths: Sequence[Path] | None = None,
    *,
    timepoint: str | None = None,
    declared: KneeVisit | None = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Land deliveries, or quarantine them with their reason.

    Args:
        lake: where to.
        settings: inbox and default tissue map.
        paths: folders or files; None for the whole inbox. They may lie outside the inbox, and are
            then remembered by where they lie.
        timepoint: only deliveries of this visit, and those that tell no visit.
        declared: whose the deliveries are, over what paths and headers say; it is remembered.
        cluster: where they are read; None for this process.
        progress: called as each is read.

    Raises:
        BadInputError: a path is not there, the inbox cannot be written to, or the default tissue
            map is none.
        LakeBusyError: another process is writing to the lake.
    """
    # A mistyped default is the caller's, not a fault of every label.
    load_scheme(settings.scheme)
    locator = Locator(settings.inbox)
    deliveries = discover(settings.inbox, paths)
    if declared is not None and declared != KneeVisit():
        keys = [locator.key(delivery.path) for delivery in deliveries]
        locator.declare(keys, (declared.subject_id, declared.side, declared.timepoint))
        deliveries = discover(settings.inbox, paths)
    if timepoint is not None:
        deliveries = [one for one in deliveries if one.timepoint in (None, timepoint)]
    skipped = [delivery for delivery in deliveries if delivery.unused]
    used = [delivery for delivery in deliveries if not delivery.unused]
    outcomes = _read(locator, settings, used, cluster or Cluster(), progress)
    skipped_keys = {key for key, outcome in outcomes.items() if outcome["status"] == "skipped"}

    winners, superseded = _winners(locator, outcomes)
    in_lake, refused_now = _current(lake)
    landed = [row for slot, row in sorted(winners.items()) if in_lake.get(slot) != _comparable(row)]
    visits = {row["knee_visit"] for row in landed}
    refusals = [
        outcome["row"]
        for _, outcome in sorted(outcomes.items())
        if outcome["status"] == "quarantined"
    ]
    # Whatever lands answers former refusals of its knee, so those that still hold are said again.
    quarantined = [
        row
        for row in refusals
        if _comparable(row) not in refused_now or row["knee_visit"] in visits
    ]
    _commit(lake, settings, landed, quarantined)
    return IngestReport(
        landed,
        len(outcomes) - len(skipped_keys) - len(landed) - len(quarantined) - len(superseded),
        quarantined,
        len(skipped) + len(skipped_keys),
        superseded,
    )


def _read(
    locator: Locator,
    settings: Settings,
    deliveries: Iterable[Delivery],
    cluster: Cluster,
    progress: Progress | None,
) -> dict[str, Outcome]:
    """The outcome of every delivery by key; those unchanged since they were read are not read."""
    known = locator.records()
    outcomes: dict[str, Outcome] = {}
    readings: dict[str, Reading] = {}
    for delivery in deliveries:
        key = locator.key(delivery.path)
        scheme = scheme_of(delivery.path, settings.inbox, settings.scheme)
        reading = Reading(delivery, path_parts(key), KneeVisit(*known[key].declared), scheme)
        outcome = known[key].outcome
        if outcome is not None and outcome["read_as"] == _read_as(reading):
            outcomes[key] = outcome
        else:
            readings[key] = reading
    keys = {reading.delivery.path: key for key, reading in readings.items()}
    for done, (reading, result) in enumerate(cluster.map(read_delivery, readings.values()), 1):
        key = keys[reading.delivery.path]
        name = short_name(reading.delivery.path)
        outcome = (
            refused(reading, unexpected(result, name), None)
            if isinstance(result, Exception)
            else result
        )
        outcome["read_as"] = _read_as(reading)
        locator.conclude(key, reading.delivery.stamp, outcome)
        outcomes[key] = outcome
        if progress is not None:
            progress(done, len(readings), f"{outcome['status']} {name}")
    return outcomes


def _read_as(reading: Reading) -> list[Any]:
    """What an outcome depends on besides the delivery's own files."""
    declared = reading.declared
    return [
        CODE_VERSION["ingest"],
        reading.scheme if reading.delivery.kind == "labels" else None,
        [declared.subject_id, declared.side, declared.timepoint],
    ]


def _slot(table: str, row: Row) -> tuple[str, str]:
    """What there is one row of."""
    return table, "|".join(str(row[name]) for name in TABLES[table].key)


def _winners(
    locator: Locator, outcomes: dict[str, Outcome]
) -> tuple[dict[tuple[str, str], Row], list[Row]]:
    """One landed delivery per knee-visit and sequence, and those that give way to it.

    The same series scanned twice: the later archive id counts. Two labels: the last by name.
    """
    touched = {
        _slot(outcome["table"], outcome["row"])
        for outcome in outcomes.values()
        if outcome["status"] == "landed"
    }
    rivals: dict[tuple[str, str], dict[str, Outcome]] = {slot: {} for slot in touched}
    known = {key: record.outcome for key, record in locator.records().items()}
    for key, outcome in {**known, **outcomes}.items():
        if outcome is not None and outcome["status"] == "landed":
            slot = _slot(outcome["table"], outcome["row"])
            if slot in touched and (key in outcomes or locator.path(key).exists()):
                rivals[slot][key] = outcome
    winners = {}
    superseded = []
    for slot, entrants in sorted(rivals.items()):
        *others, best = sorted(entrants, key=_archive_order)
        row = entrants[best]["row"]
        winners[slot] = row
        superseded += [
            {
                "knee_visit": row["knee_visit"],
                "sequence": row.get("sequence"),
                "file": short_name(other),
                "kept": short_name(best),
            }
            for other in others
            if other in outcomes
        ]
    return winners, superseded


def _archive_order(key: str) -> tuple[int, str]:
    """The OAI numbers series in the order they were archived."""
    stem = path_parts(key)[-1] if path_parts(key) else ""
    return (int(stem) if stem.isdecimal() else -1, PurePosixPath(key).as_posix())


def _comparable(row: Row) -> Comparable:
    """A row without its batch, to tell whether it is in the lake already."""
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(row.items())
        if name != "batch_id"
    )


def _current(lake: Lake) -> tuple[dict[tuple[str, str], Comparable], set[Comparable]]:
    """What counts in the lake now: scans and labels by slot, and refusals at ingest."""
    landed = {
        _slot(table, row): _comparable(row)
        for table in ("scans", "label_files")
        for row in lake.sql(f"FROM {table}").to_dicts()
    }
    refusals = lake.sql("FROM quarantine WHERE stage = 'ingest'").to_dicts()
    return landed, set(map(_comparable, refusals))


def _commit(lake: Lake, settings: Settings, landed: list[Row], quarantined: list[Row]) -> None:
    """One batch per timepoint that has something new."""
    timepoints = sorted({row["timepoint"] for row in (*landed, *quarantined)})
    for timepoint in timepoints:
        with lake.batch(
            "ingest", timepoint, CODE_VERSION["ingest"], config_hash(settings, "ingest")
        ) as batch:
            for table in ("scans", "label_files", "quarantine"):
                rows = [
                    row
                    for row in (quarantined if table == "quarantine" else landed)
                    if row["timepoint"] == timepoint
                    and (table == "quarantine" or ("sequence" in row) == (table == "scans"))
                ]
                if rows:
                    batch.add(table, rows)
