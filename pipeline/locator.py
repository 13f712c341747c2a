"""Where delivered data lie, and what became of them: kept beside the data, never in the lake.

Real paths hold dates and sometimes names, so the lake knows a delivery by its fingerprint alone.
The way back is this small database in `<inbox>/.kneelake/`. It holds no pixels, can be deleted at
any time, and is then made again by reading every delivery once more.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.volume import Side

FOLDER = ".kneelake"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    key TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    described TEXT NOT NULL,
    declared TEXT,
    outcome TEXT,
    fingerprint TEXT
);
CREATE INDEX IF NOT EXISTS by_fingerprint ON deliveries (fingerprint);
"""


_EVERYTHING = "SELECT key, stamp, described, declared, outcome FROM deliveries"

Declared = tuple[int | None, Side | None, str | None]
NOTHING_DECLARED: Declared = (None, None, None)


@dataclass(frozen=True)
class Record:
    """What is known of one delivery.

    Attributes:
        key: path below the inbox, or absolute for data that lie elsewhere.
        stamp: of its files, as `inbox.Delivery`.
        described: fields of `inbox.Delivery` from its path and headers.
        declared: subject, side and timepoint as a caller of ingest declared them; it holds until
            another is declared, for corrected files too.
        outcome: what ingest made of it; None before.
    """

    key: str
    stamp: str
    described: dict[str, Any]
    declared: Declared = NOTHING_DECLARED
    outcome: dict[str, Any] | None = None


def _record(row: tuple[Any, ...]) -> Record:
    key, stamp, *texts = row
    described, declared, outcome = (json.loads(text or "null") for text in texts)
    subject_id, side, timepoint = declared or NOTHING_DECLARED
    return Record(key, stamp, described, (subject_id, side, timepoint), outcome)


class Locator:
    """The private database of an inbox."""

    def __init__(self, inbox: Path) -> None:
        self._inbox = inbox.absolute()
        self._path = self._inbox / FOLDER / "deliveries.sqlite"

    def key(self, path: Path) -> str:
        """How a path is called here."""
        path = path.absolute()
        if path.is_relative_to(self._inbox):
            return path.relative_to(self._inbox).as_posix()
        return path.as_posix()

    def path(self, key: str) -> Path:
        """The path of a key."""
        return self._inbox / key

    def records(self) -> dict[str, Record]:
        """Everything known, by key."""
        if not self._path.is_file():
            return {}
        with self._open() as database:
            rows = database.execute(_EVERYTHING).fetchall()
        return {row[0]: _record(row) for row in rows}

    def describe(self, records: list[Record]) -> None:
        """Remember new or changed deliveries; what became of their former state is forgotten."""
        if records:
            with self._open() as database:
                database.executemany(
                    "INSERT INTO deliveries (key, stamp, described) VALUES (?, ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET stamp = excluded.stamp, "
                    "described = excluded.described, outcome = NULL, fingerprint = NULL",
                    [
                        (record.key, record.stamp, json.dumps(record.described))
                        for record in records
                    ],
                )

    def declare(self, keys: list[str], declared: Declared) -> None:
        """Remember what a caller says of deliveries that are described already."""
        with self._open() as database:
            database.executemany(
                "UPDATE deliveries SET declared = ? WHERE key = ?",
                [(json.dumps(declared), key) for key in keys],
            )

    def conclude(self, key: str, stamp: str, outcome: dict[str, Any]) -> None:
        """Remember what ingest made of a delivery, if it is still the one that was read."""
        with self._open() as database:
            database.execute(
                "UPDATE deliveries SET outcome = ?, fingerprint = ? WHERE key = ? AND stamp = ?",
                (json.dumps(outcome), outcome.get("fingerprint"), key, stamp),
            )

    def find(self, fingerprint: str) -> Record | None:
        """The delivery of a fingerprint that is still there; of several the last by key."""
        if not self._path.is_file():
            return None
        with self._open() as database:
            rows = database.execute(
                _EVERYTHING + " WHERE fingerprint = ? ORDER BY key DESC", (fingerprint,)
            ).fetchall()
        records = map(_record, rows)
        return next((record for record in records if self.path(record.key).exists()), None)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=60.0)
        except (OSError, sqlite3.OperationalError):
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                short_name(self._inbox),
                f"is an inbox that cannot be written to, and {FOLDER}/ is kept in it",
                "Give write permission, or set KNEELAKE_INBOX to a folder of links to the data",
            ) from None
        try:
            with database:
                database.executescript(_SCHEMA)
                yield database
        finally:
            database.close()
