"""Which table a file holds, in which form, and what a file read yields."""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinical.delimited import first_line
from clinical.variables import ALL_VISITS, NO_PREFIX_TABLES, TABLE_VARIABLES, VISITS
from imaging.archive import short_name
from imaging.errors import BadInputError, Reason

_STEM = re.compile(r"(.+?)(\d\d)?")
_TEXT_SUFFIXES = (".txt", ".csv", ".tsv")


@dataclass(frozen=True)
class Identity:
    """What a file is, by its name and first line.

    Attributes:
        source_table: in lower case, without visit code: `allclinical`, `oai_oapain01`.
        dialect: 'ascii', 'sas', 'nda' or 'contents'.
        visit: of a file per visit; 'all' otherwise.
    """

    source_table: str
    dialect: str
    visit: str


@dataclass(frozen=True)
class Contribution:
    """Columns a file has for one visit of one table.

    Attributes:
        table: the clinical table.
        visit: 'V00' .. 'V11', or 'all' for tables that know no visit.
        sources: its columns, and the name of each in the file.
        keys: the columns that tell its rows apart.
        rows: keys, values and `<value>_missing`.
        partial: whether other files of the same rank may list other participants.
    """

    table: str
    visit: str
    sources: dict[str, str]
    keys: tuple[str, ...]
    rows: pl.DataFrame
    partial: bool = False


@dataclass(frozen=True)
class Release:
    """A file that was read whole and found good.

    Attributes:
        file: its name.
        identity: what it is.
        version: the VERSION its rows carry; None without one.
        sha256: of the file.
        n_rows: its rows.
        contributions: what it tells, by visit.
    """

    file: str
    identity: Identity
    version: str | None
    sha256: str
    n_rows: int
    contributions: tuple[Contribution, ...]


def identify(path: Path) -> Identity | None:
    """What a file is; None where it is no clinical table kneelake uses.

    Raises:
        BadInputError: UNKNOWN_VISIT: a table that is used, of a visit that is not known.
    """
    suffix, stem = path.suffix.lower(), path.stem.lower()
    # Files called .xpt lie beside them in a release: CPORT in truth, and the same content.
    if suffix == ".sas7bdat":
        return _flat(path, stem, "sas")
    return _identify_text(path, suffix, stem) if suffix in _TEXT_SUFFIXES else None


def _identify_text(path: Path, suffix: str, stem: str) -> Identity | None:
    if suffix == ".csv" and stem.startswith("contents"):
        return Identity("contents", "contents", ALL_VISITS)
    if stem == "image03" or re.fullmatch(r"oai_\w+\d\d", stem):
        return Identity(stem, "nda", ALL_VISITS)
    if suffix != ".txt" or "\t" in first_line(path):
        return None
    return _flat(path, stem, "ascii")


def _flat(path: Path, stem: str, dialect: str) -> Identity | None:
    match = _STEM.fullmatch(stem)
    table, code = (match.group(1), match.group(2)) if match else (stem, None)
    if table not in TABLE_VARIABLES and table != "mri":
        return None
    if table in NO_PREFIX_TABLES:
        return Identity(table, dialect, ALL_VISITS)
    visit = f"V{code}"
    if visit not in VISITS:
        raise BadInputError(
            Reason.UNKNOWN_VISIT,
            short_name(path),
            f"row 1, column 1: the file is of visit {code or 'unknown'}, by its name; V12 to V14 "
            "are extended follow-up without a nominal month",
            "Name it as the release does, with 00 to 11 at the end, or leave it out",
        )
    return Identity(table, dialect, visit)
