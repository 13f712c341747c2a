"""The authors' published regression tables into the lake.

A table is known by its columns, `Age, BMI, Sex, <compartment>, <compartment>, DLROI, Outcome`, and
its bone by the file's name: the authors call the compartments of all three bones LF and MF. One
table of a bone counts, the one that landed last.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from clinical.delimited import ROW, first_line, read_delimited
from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.labels import BONES
from lake.keys import UNKNOWN_TIMEPOINT
from lake.registry import Column
from lake.statistics_tables import PUBLISHED_CASES
from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from pipeline.clinical import clinical_files
from pipeline.config import CODE_VERSION, Settings, config_hash

Row = dict[str, Any]

BEFORE, AFTER = ("AGE", "BMI", "SEX"), ("DLROI", "OUTCOME")
"""Columns by which a table is known, in any order; the two others are the compartments."""
# Written by pandas where the rows' numbers were kept.
_ROW_LABELS = ("", "UNNAMED: 0")
_STORED = {"AGE": "age_years", "BMI": "bmi", "SEX": "sex_code", "OUTCOME": "chronic_pain"}
_MISSING = ("", "nan", "na", "null")


@dataclass(frozen=True)
class PublishedReport:
    """What an ingest of published tables did.

    Attributes:
        landed: `file`, `bone` and `n_rows` of each table that is new.
        unchanged: files whose content the lake has.
        quarantined: rows written to `quarantine`.
    """

    landed: list[Row] = field(default_factory=list)
    unchanged: int = 0
    quarantined: list[Row] = field(default_factory=list)


def is_published_table(path: Path) -> bool:
    """Whether a file has the columns of a published regression table."""
    return path.suffix.lower() == ".csv" and {*BEFORE, *AFTER} <= set(_names(path))


def _names(path: Path) -> list[str]:
    return [name.strip().strip('"').strip().upper() for name in first_line(path).split(",")]


def read_published_table(path: Path) -> pl.DataFrame:
    """Rows of `published_cases`, all but `batch_id`.

    Raises:
        BadInputError: it tells no bone (UNKNOWN_LABEL_VALUE), lacks a compartment
            (MISSING_COLUMN), or a cell is no such value (BAD_VALUE).
    """
    name = short_name(path)
    first, second = _compartments(path, name)
    bone = _bone(path, name)
    cells = read_delimited(path, ",", quoted=True)
    stored = {**_STORED, first: "compartment_1_mm", second: "compartment_2_mm"}
    stored["DLROI"] = "dl_guided_mm"
    table = PUBLISHED_CASES
    values = {
        target: _numbers(cells, source, table.column(target), name)
        for source, target in stored.items()
    }
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return pl.DataFrame(values).with_columns(
        pl.lit(bone).alias("bone"),
        pl.int_range(1, pl.len() + 1).alias("row_number"),
        pl.lit(first).alias("compartment_1"),
        pl.lit(second).alias("compartment_2"),
        pl.lit(name).alias("file"),
        pl.lit(sha256).alias("sha256"),
    )


def _compartments(path: Path, name: str) -> tuple[str, str]:
    names = [one for one in _names(path) if one not in _ROW_LABELS]
    between = [one for one in names if one not in (*BEFORE, *AFTER)]
    if len(set(between)) != 2 or len(names) != len(set(names)):
        raise BadInputError(
            Reason.MISSING_COLUMN,
            name,
            f"row 1: has the columns {', '.join(names)}",
            "Expected Age, BMI, Sex, the averages of two compartments, DLROI, Outcome, each once",
        )
    return between[0], between[1]


def _bone(path: Path, name: str) -> str:
    told = [bone for bone in BONES if bone in path.stem.lower()]
    if len(told) != 1:
        raise BadInputError(
            Reason.MISSING_BONE,
            name,
            f"its name tells {' and '.join(told) or 'no bone'}, and its columns cannot: they are "
            "called alike for all bones",
            f"Put one of {', '.join(BONES)} into the file's name",
        )
    return told[0]


def _numbers(cells: pl.DataFrame, source: str, column: Column, name: str) -> pl.Series:
    text = cells[source].str.strip_chars()
    text = text.set(text.str.to_lowercase().is_in(_MISSING), None)
    value = text.cast(pl.Float64, strict=False)
    is_whole = column.duckdb_type == "BIGINT"
    wrong = text.is_not_null() & (
        value.is_null()
        | ~value.is_finite().fill_null(value=False)
        | ~value.is_between(column.minimum, column.maximum).fill_null(value=False)
        | (is_whole & (value != value.floor()).fill_null(value=False))
    )
    if wrong.any():
        at = int(wrong.arg_max() or 0)
        raise BadInputError(
            Reason.BAD_VALUE,
            name,
            f"row {cells[ROW][at]}, column {source}: is {text[at]!r}; expected "
            f"{column.limits} {column.unit}".rstrip(),
            "Copy the file again from where it was published",
        )
    return value.cast(pl.Int64) if is_whole else value


def published_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Published regression tables below some paths."""
    yield from (path for path in clinical_files(paths) if is_published_table(path))


def ingest_published(lake: Lake, settings: Settings, paths: Sequence[Path]) -> PublishedReport:
    """Land published regression tables; each counts whole or not at all.

    Args:
        lake: where to.
        settings: what the rows are written with.
        paths: files, and folders to look for them in.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    files = list(published_files(paths))
    if not files:
        return PublishedReport()
    # A file renamed to another bone is another table.
    known = set(lake.sql("SELECT DISTINCT sha256, bone FROM published_cases_history").rows())
    shown = lake.sql("SELECT * EXCLUDE (batch_id) FROM quarantine WHERE stage = 'published'")
    tables: dict[str, pl.DataFrame] = {}
    refusals: list[Row] = []
    unchanged = 0
    for path in files:
        try:
            table = read_published_table(path)
        except BadInputError as error:
            refusals.append(_refusal(error))
            continue
        sha256, bone = table["sha256"][0], table["bone"][0]
        rival = tables.get(bone)
        if (sha256, bone) in known or (rival is not None and rival["sha256"][0] == sha256):
            unchanged += 1
        elif rival is not None:
            refusals.append(_refusal(_rivalry(short_name(path), bone, rival["file"][0])))
        else:
            tables[bone] = table
    before = shown.select("file", "what").rows()
    quarantined = [row for row in refusals if (row["file"], row["what"]) not in before]
    if tables or quarantined:
        with lake.batch(
            "published",
            ALL_TIMEPOINTS,
            CODE_VERSION["published"],
            config_hash(settings, "published"),
        ) as batch:
            batch.add("quarantine", quarantined)
            for table in tables.values():
                batch.add("published_cases", table)
    landed = [
        {"file": table["file"][0], "bone": bone, "n_rows": table.height}
        for bone, table in tables.items()
    ]
    return PublishedReport(landed, unchanged, quarantined)


def _rivalry(file: str, bone: str, kept: str) -> BadInputError:
    return BadInputError(
        Reason.MIXED_RELEASES,
        file,
        f"is a table of the {bone}, as is {kept} of the same delivery, but they differ",
        "Deliver the one that counts; a correction goes in after the file that it corrects",
    )


def _refusal(error: BadInputError) -> Row:
    return {
        "timepoint": UNKNOWN_TIMEPOINT,
        "stage": "published",
        "file": error.file,
        "reason": str(error.reason),
        "what": error.what,
        "remedy": error.remedy,
        "input_fingerprint": None,
    }
