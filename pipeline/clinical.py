"""Releases of the OAI's clinical tables into the lake: read whole, compared, and only what differs.

What counts is decided per column and visit, not by what came first: of two releases that hold the
same column the one in the richer form counts (SAS, then ASCII, NDA, inventories), then the higher
VERSION. Where both are equal the file is a correction, and the later delivery counts. Everything of
a call becomes visible in one batch.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from clinical.cells import BLANK, COLLAPSED, MISSING_FORM, NOT_DELIVERED, NOT_EXPECTED
from clinical.reading import read_release
from clinical.release import Contribution, Identity, Release, identify
from clinical.variables import ALL_VISITS
from imaging.errors import BadInputError, Reason
from lake.keys import UNKNOWN_TIMEPOINT
from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS, DIALECTS, TABLES
from pipeline.config import CODE_VERSION, Settings, config_hash

KEYS: Mapping[str, tuple[str, ...]] = {
    "enrollees": ("subject_id",),
    "clinical_visits": ("subject_id", "timepoint"),
    "radiographs": ("subject_id", "side", "timepoint", "reading_project"),
    "scans_listed": ("subject_id", "side", "timepoint", "sequence"),
    "outcomes": ("subject_id", "side"),
}
"""The clinical tables, and what tells their rows apart."""
# Of tables that hold the same column in the same form, the first listed counts.
_PREFERRED_TABLES = (
    "allclinical",
    "subjectchar",
    "jointsx",
    "medhist",
    "physexam",
    "oai_oapain01",
    "oai_koos_womac01",
    "oai_oarisk01",
)
_SUFFIXES = (".txt", ".csv", ".tsv", ".sas7bdat")
_UNTOLD = (MISSING_FORM, BLANK, COLLAPSED, NOT_DELIVERED, NOT_EXPECTED, "missed_visit")
Row = dict[str, Any]
Rank = tuple[int, int, str, tuple[int, ...]]


@dataclass(frozen=True)
class ClinicalReport:
    """What an ingest of clinical tables did.

    Attributes:
        landed: rows written to `releases`: the files that are new.
        changes: by table, rows `added`, `changed` and `retracted`.
        unchanged: files whose content the lake has.
        superseded: new files with columns that give way to another release: `file`, `columns`
            (how many) and `kept`, the file that counts.
        quarantined: rows written to `quarantine`.
        refused: files that are refused, those that were before included.
        absent: columns, as `table.column`, of tables that have rows, that no release has told.
        skipped: other tables, which are not used.
    """

    landed: list[Row] = field(default_factory=list)
    changes: dict[str, dict[str, int]] = field(default_factory=dict)
    unchanged: int = 0
    superseded: list[Row] = field(default_factory=list)
    quarantined: list[Row] = field(default_factory=list)
    refused: int = 0
    absent: list[str] = field(default_factory=list)
    skipped: int = 0


def clinical_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files below some paths that may be clinical tables, by name; hidden ones are left out."""
    for path in paths:
        if path.is_file():
            if path.name.lower().endswith(_SUFFIXES):
                yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                    yield Path(folder) / name


def is_clinical_file(path: Path) -> bool:
    """Whether a file is a clinical table, or would be one if it were of a known visit."""
    try:
        return path.is_file() and identify(path) is not None
    except BadInputError:
        return True


def ingest_clinical(lake: Lake, settings: Settings, paths: Sequence[Path]) -> ClinicalReport:
    """Land clinical tables; each file counts whole or not at all, and all of them at once.

    Args:
        lake: where to.
        settings: what the rows are written with.
        paths: files, and folders to look for them in.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    known, shown = _known(lake)
    releases: dict[str, Release] = {}
    refusals: list[Row] = []
    unchanged = skipped = 0
    for path in clinical_files(paths):
        try:
            identity = identify(path)
        except BadInputError as error:
            refusals.append(_refusal(path, error))
            continue
        if identity is None:
            skipped += 1
            continue
        if (sha256 := _sha256(path)) in known or sha256 in releases:
            unchanged += 1
            continue
        try:
            releases[sha256] = read_release(path, identity)
        except BadInputError as error:
            refusals.append(_refusal(path, error))
    rivals = _rivals(releases.values())
    refusals += [_rivalry(release, rival) for release, rival in rivals]
    for release, _ in rivals:
        releases.pop(release.sha256, None)
    ordered = sorted(releases.values(), key=lambda one: (_rank(one), one.sha256))
    report = ClinicalReport(
        landed=[_release_row(release) for release in ordered],
        unchanged=unchanged,
        quarantined=[row for row in refusals if row not in shown],
        refused=len(refusals),
        skipped=skipped,
    )
    return _commit(lake, settings, ordered, report)


def _commit(
    lake: Lake, settings: Settings, ordered: Sequence[Release], report: ClinicalReport
) -> ClinicalReport:
    """Write what differs, and say what that is."""
    if not ordered and not report.quarantined:
        return report
    with lake.batch(
        "clinical", ALL_TIMEPOINTS, CODE_VERSION["clinical"], config_hash(settings, "clinical")
    ) as batch:
        batch.add("quarantine", report.quarantined)
        if ordered:
            # Merged while nobody else can write: it starts from what the tables hold.
            merge = _Merge(lake)
            superseded = [row for release in ordered for row in merge.add(release)]
            rows, changes = merge.differences()
            batch.add("releases", report.landed)
            batch.add("column_sources", merge.new_sources())
            for table, frame in rows.items():
                batch.add(table, frame)
            report = replace(report, changes=changes, superseded=superseded, absent=merge.absent())
    return report


def _known(lake: Lake) -> tuple[set[str], list[Row]]:
    """Files that landed, by SHA-256, and the refusals that the lake shows."""
    with lake.connect(query="FROM releases FROM quarantine") as now:
        sha256 = {row[0] for row in now.sql("SELECT sha256 FROM releases").fetchall()}
        shown = now.sql(
            "SELECT timepoint, stage, file, reason, what, remedy, input_fingerprint "
            "FROM quarantine WHERE stage = 'clinical'"
        ).to_arrow_table()
    return sha256, shown.to_pylist()


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _refusal(path: Path, error: BadInputError) -> Row:
    return _quarantine_row(error, _sha256(path))


def _quarantine_row(error: BadInputError, sha256: str) -> Row:
    return {
        "timepoint": UNKNOWN_TIMEPOINT,
        "stage": "clinical",
        "file": error.file,
        "reason": str(error.reason),
        "what": error.what,
        "remedy": error.remedy,
        "input_fingerprint": sha256,
    }


def _rivals(releases: Iterable[Release]) -> list[tuple[Release, Release]]:
    """New files of the same table, visit, form and version: nothing tells which one counts."""
    alike: dict[tuple[Identity, str | None], list[Release]] = {}
    for release in releases:
        if not any(share.partial for share in release.contributions):
            alike.setdefault((release.identity, release.version), []).append(release)
    return [
        (release, same[0] if release is not same[0] else same[1])
        for same in alike.values()
        if len(same) > 1
        for release in same
    ]


def _rivalry(release: Release, rival: Release) -> Row:
    identity = release.identity
    error = BadInputError(
        Reason.MIXED_RELEASES,
        release.file,
        f"row 2, column VERSION: {release.version or 'none'}, as in {rival.file} of the same "
        f"delivery, but they differ; both are {identity.source_table} ({identity.dialect}, "
        f"{identity.visit})",
        "Deliver the one that counts; a correction goes in after the file that it corrects",
    )
    return _quarantine_row(error, release.sha256)


def _release_row(release: Release) -> Row:
    return {
        "sha256": release.sha256,
        "file": release.file,
        "source_table": release.identity.source_table,
        "dialect": release.identity.dialect,
        "version": release.version,
        "visit": release.identity.visit,
        "n_rows": release.n_rows,
    }


def _version_order(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "").split(".") if part.isdecimal())


def _ranked(dialect: str, source_table: str, version: str | None) -> Rank:
    preferred = (
        _PREFERRED_TABLES.index(source_table)
        if source_table in _PREFERRED_TABLES
        else len(_PREFERRED_TABLES)
    )
    return DIALECTS.index(dialect), -preferred, source_table, _version_order(version)


def _rank(release: Release) -> Rank:
    identity = release.identity
    return _ranked(identity.dialect, identity.source_table, release.version)


@dataclass(frozen=True)
class _Source:
    rank: Rank
    row: Row
    file: str


class _Merge:
    """What the clinical tables should hold once some releases are added."""

    def __init__(self, lake: Lake) -> None:
        read = " ".join(f"FROM {table}" for table in (*KEYS, "column_sources", "releases"))
        with lake.connect(query=read) as now:
            self._before = {
                table: pl.DataFrame(
                    now.sql(
                        f"SELECT * EXCLUDE (batch_id, retracted) FROM {table}"  # noqa: S608 - registry name
                    ).to_arrow_table()
                )
                for table in KEYS
            }
            sources = now.sql(
                "SELECT column_sources.* EXCLUDE (batch_id), source_table, file "
                "FROM column_sources JOIN releases USING (sha256)"
            ).to_arrow_table()
        self._after = dict(self._before)
        self._sources = {
            (row["table_name"], row["column_name"], row["visit"]): _Source(
                _ranked(row["dialect"], row["source_table"], row["version"]),
                {name: row[name] for name in row if name not in ("source_table", "file")},
                row["file"],
            )
            for row in sources.to_pylist()
        }
        self._sources_before = dict(self._sources)

    def add(self, release: Release) -> list[Row]:
        """Lay a release over what is there; says which of its columns give way."""
        yields: dict[str, int] = {}
        for share in release.contributions:
            won = []
            extends = share.partial
            for column, name in share.sources.items():
                slot = (share.table, column, share.visit)
                held = self._sources.get(slot)
                if held is not None and held.rank > _rank(release):
                    yields[held.file] = yields.get(held.file, 0) + 1
                    continue
                extends = extends and held is not None and held.rank == _rank(release)
                won.append(column)
                self._sources[slot] = _Source(
                    _rank(release),
                    {
                        "table_name": share.table,
                        "column_name": column,
                        "visit": share.visit,
                        "source_variable": name,
                        "dialect": release.identity.dialect,
                        "version": release.version,
                        "sha256": release.sha256,
                    },
                    release.file,
                )
            if won:
                self._lay(share, won, extends=extends)
        return [
            {"file": release.file, "columns": count, "kept": kept}
            for kept, count in sorted(yields.items())
        ]

    def _lay(self, share: Contribution, won: Sequence[str], *, extends: bool) -> None:
        table, keys = self._after[share.table], list(share.keys)
        if share.visit == ALL_VISITS:
            scope, others = table, table.clear()
        else:
            of_visit = pl.col("timepoint") == share.visit
            scope, others = table.filter(of_visit), table.filter(~of_visit)
        columns = [name for column in won for name in (column, f"{column}_missing")]
        new = share.rows.select(*keys, *columns)
        if extends:
            new = _later_scans(new, scope.select(*keys, *columns), keys)
        joined = scope.drop(columns).join(
            new, on=keys, how="full", coalesce=True, nulls_equal=True, maintain_order="left_right"
        )
        self._after[share.table] = pl.concat(
            [others, _completed(share.table, joined).select(table.columns)]
        )

    def differences(self) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, int]]]:
        """Rows to write by table, and how many are added, changed and retracted."""
        rows: dict[str, pl.DataFrame] = {}
        changes: dict[str, dict[str, int]] = {}
        for table, keys in KEYS.items():
            before, after = self._before[table], self._after[table]
            fresh = after.join(before, on=after.columns, how="anti", nulls_equal=True)
            gone = before.join(after, on=list(keys), how="anti")
            changed = fresh.join(before, on=list(keys), how="semi").height
            identifying = [name for name in (*keys, "knee_visit") if name in before.columns]
            written = pl.concat(
                [
                    fresh.with_columns(retracted=pl.lit(value=False)),
                    gone.select(identifying).with_columns(retracted=pl.lit(value=True)),
                ],
                how="diagonal",
            )
            if written.height:
                rows[table] = written
                changes[table] = {
                    "added": fresh.height - changed,
                    "changed": changed,
                    "retracted": gone.height,
                }
        return rows, changes

    def new_sources(self) -> list[Row]:
        """Rows of `column_sources` that differ."""
        return [
            source.row
            for slot, source in sorted(self._sources.items())
            if self._sources_before.get(slot) != source
        ]

    def absent(self) -> list[str]:
        """Columns of tables with rows that no release has told for any visit."""
        told = {slot[:2] for slot in self._sources}
        return [
            f"{table}.{name.removesuffix('_missing')}"
            for table, rows in self._after.items()
            if rows.height
            for name in rows.columns
            if name.endswith("_missing") and (table, name.removesuffix("_missing")) not in told
        ]


def _later_scans(new: pl.DataFrame, held: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Scans of several inventories that each list some participants: the later archive counts."""
    return (
        pl.concat([held, new.select(held.columns)])
        .sort("barcode", nulls_last=False, maintain_order=True)
        .unique(keys, keep="last", maintain_order=True)
    )


def _completed(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Reasons filled in, keys spelled out, and rows that tell nothing left out."""
    reasons = [name for name in rows.columns if name.endswith("_missing")]
    rows = rows.with_columns(
        pl.when(pl.col(name.removesuffix("_missing")).is_null())
        .then(pl.col(name).fill_null(NOT_DELIVERED))
        .alias(name)
        for name in reasons
    )
    if "knee_visit" in TABLES[table].column_names:
        rows = rows.with_columns(
            knee_visit=pl.concat_str("subject_id", "side", "timepoint", separator="_")
        )
    # Some forms list those who did not come, others do not: of them nothing is told.
    untold = list(_UNTOLD) if table == "clinical_visits" else [NOT_DELIVERED]
    # Enrollment's day and nothing else is no visit either.
    judged = [name for name in reasons if name != "visit_day_missing"]
    return rows.filter(~pl.all_horizontal(pl.col(judged).is_in(untold).fill_null(value=False)))
