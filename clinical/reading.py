"""One file of a release, read whole: its columns, typed, by visit; or why it cannot be used."""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from clinical.answers import with_other_joints, with_skipped_questions
from clinical.cells import BLANK, parse_cell
from clinical.decode import decode, decode_keys, decode_subjects
from clinical.delimited import ROW, read_delimited
from clinical.inventory import mri_columns, of_descriptions, of_mri_table
from clinical.release import Contribution, Identity, Release
from clinical.sas import read_sas, sas_columns
from clinical.variables import (
    ALL_VISITS,
    CLINICAL_VISITS,
    KEYED_BY_SIDE,
    NDA_REQUIRED,
    NDA_VARIABLES,
    TABLE_VARIABLES,
    VISITS,
    WHOLE_TABLES,
    Variable,
)
from imaging.archive import short_name
from imaging.errors import BadInputError, Reason

_SIDES = {"1": "RIGHT", "2": "LEFT"}
_PREFIX = re.compile(r"(P0[12]|V\d\d)(.+)")
_KNOWN_PREFIXES = frozenset({"P01", "P02", "V99", *VISITS})
_KEYS = {
    "enrollees": ("subject_id",),
    "clinical_visits": ("subject_id", "timepoint"),
    "radiographs": ("subject_id", "side", "timepoint", "reading_project"),
    "outcomes": ("subject_id", "side"),
}
_RECODED_PROJECTS = {"42": 37}
"""Some participants are coded 42 that are in fact in reading project 37."""


def split_prefix(name: str) -> tuple[str, str] | None:
    """The visit prefix (always three characters) and stem of a variable; None without prefix.

    `V0020MPACE` is `V00` and `20MPACE`: a stem may begin with a digit.
    """
    match = _PREFIX.fullmatch(name.upper())
    return (match.group(1), match.group(2)) if match else None


def read_release(path: Path, identity: Identity) -> Release:
    """Read a file.

    Args:
        path: the file.
        identity: what it is; see `identify`.

    Raises:
        BadInputError: it cannot be used; says row and column.
    """
    file = short_name(path)
    if identity.dialect == "contents":
        frame = read_delimited(path, ",", quoted=True)
        contributions = _of_contents(frame, file)
    elif identity.dialect == "nda":
        frame = read_delimited(path, "\t", quoted=True, header_rows=2)
        contributions = _of_structure(frame, identity, file)
    else:
        frame = _flat_cells(path, identity, file)
        contributions = _of_table(frame, identity, file)
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return Release(
        file,
        identity,
        _version(frame, file),
        sha256,
        frame.height,
        tuple(contributions),
    )


def _flat_cells(path: Path, identity: Identity, file: str) -> pl.DataFrame:
    if identity.dialect == "ascii":
        return read_delimited(path, "|")
    spelled = {name.upper(): name for name in sas_columns(path)}
    needed = {"ID", "VERSION", "SIDE", "READPRJ", *_expected(identity)}
    _require(spelled, ["ID"], file)
    _require_known_prefixes(list(spelled), file)
    return read_sas(path, [spelled[name] for name in spelled if name in needed])


def _flat_name(variable: Variable, visit: str) -> str:
    first = visit in (ALL_VISITS, "V00")
    return f"{variable.baseline if first else visit}{variable.stem}"


def _expected(identity: Identity) -> dict[str, Variable | None]:
    """Columns of a table per visit that are used, and what each becomes."""
    if identity.source_table == "mri":
        return dict(mri_columns(identity.visit))
    variables = TABLE_VARIABLES[identity.source_table]
    return {_flat_name(variable, identity.visit): variable for variable in variables}


def _require(names: Mapping[str, object] | Sequence[str], wanted: Sequence[str], file: str) -> None:
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), 1, 0.7)
            hint = f"; {near[0]} looks like it" if near else ""
            raise BadInputError(
                Reason.MISSING_COLUMN,
                file,
                f"row 1, column {name}: there is no such column{hint}",
                "Get the release again, or name the column as the release does",
            )


def _require_known_prefixes(names: Sequence[str], file: str) -> None:
    for name in names:
        split = split_prefix(name)
        if split is not None and split[0] not in _KNOWN_PREFIXES:
            raise BadInputError(
                Reason.UNKNOWN_VISIT,
                file,
                f"row 1, column {name}: {split[0]} is no visit from V00 to V11",
                "Get the release again, or leave the column out",
            )


def _of_table(frame: pl.DataFrame, identity: Identity, file: str) -> list[Contribution]:
    names = frame.columns
    expected = _expected(identity)
    _require(names, ["ID"], file)
    _require_known_prefixes(names, file)
    is_sas = identity.dialect == "sas"
    visit = "V00" if identity.visit == ALL_VISITS else identity.visit
    if identity.source_table == "mri":
        _require(names, list(expected), file)
        return [of_mri_table(frame, visit, file, is_sas=is_sas)]
    wanted = [
        name
        for name, variable in expected.items()
        if variable is not None
        and identity.source_table in WHOLE_TABLES
        and (visit in variable.required or ALL_VISITS in variable.required)
    ]
    _require(names, wanted, file)
    present = {
        variable: name
        for name, variable in expected.items()
        if name in names and variable is not None
    }
    if not present:
        return []
    keys: list[pl.Series | pl.Expr] = [decode_subjects(frame, "ID", file)]
    table = next(iter(present)).table
    if identity.source_table in ("allclinical", "subjectchar") and visit == "V00":
        frame = frame.with_columns(pl.lit("0").alias("V00VISDYS"))
        present[CLINICAL_VISITS[0]] = "V00VISDYS"
    if table in KEYED_BY_SIDE:
        _require(names, ["SIDE", "READPRJ"], file)
        keys += _reading_keys(frame, file)
    keys.append(pl.lit(visit).alias("timepoint"))
    return _contributions(frame, table, keys, present, file, identity)


def _reading_keys(frame: pl.DataFrame, file: str) -> list[pl.Series]:
    def project(code: str) -> int | None:
        return _RECODED_PROJECTS.get(code, int(code)) if code.isdecimal() else None

    return [
        decode_keys(frame, "SIDE", _SIDES.get, "a knee's side, 1 (right) or 2 (left)", file).alias(
            "side"
        ),
        decode_keys(frame, "READPRJ", project, "a reading project", file)
        .cast(pl.Int64)
        .alias("reading_project"),
    ]


def _contributions(
    frame: pl.DataFrame,
    table: str,
    keys: Sequence[pl.Series | pl.Expr],
    present: Mapping[Variable, str],
    file: str,
    identity: Identity,
) -> list[Contribution]:
    """The columns of a table by visit, keys unique."""
    is_sas = identity.dialect == "sas"
    shares = []
    for side in sorted({variable.side for variable in present}):
        own = {variable: name for variable, name in present.items() if variable.side == side}
        columns = [
            column
            for variable, name in own.items()
            for column in decode(frame, name, variable, keeps_reasons=is_sas, file=file)
        ]
        share = frame.select(ROW).with_columns(*keys, *columns)
        shares.append(share.with_columns(side=pl.lit(side)) if side else share)
    names = {variable.column: name for variable, name in present.items()}
    rows = pl.concat(shares)
    if table == "clinical_visits":
        rows = with_skipped_questions(with_other_joints(rows))
    unique = _unique(rows, _KEYS[table], names, file)
    if "timepoint" not in _KEYS[table]:
        return [_contribution(table, ALL_VISITS, unique, names, identity)]
    return [
        _contribution(table, str(visit), share, names, identity)
        for (visit,), share in sorted(unique.group_by(["timepoint"]), key=lambda item: item[0])
    ]


def _contribution(
    table: str, visit: str, rows: pl.DataFrame, names: Mapping[str, str], identity: Identity
) -> Contribution:
    # Stacked visits leave the cells of questions that a visit has not empty throughout, and some
    # fields are empty in all of an export: these tell nothing.
    told = {
        column: name
        for column, name in names.items()
        if identity.dialect != "nda"
        or not rows[f"{column}_missing"].eq(BLANK).fill_null(value=False).all()
    }
    both = [name for column in told for name in (column, f"{column}_missing")]
    return Contribution(table, visit, told, _KEYS[table], rows.select(*_KEYS[table], *both))


def _unique(
    rows: pl.DataFrame, keys: Sequence[str], names: Mapping[str, str], file: str
) -> pl.DataFrame:
    """One row per key.

    Raises:
        BadInputError: DUPLICATE_KEY where two rows of a key disagree.
    """
    twice = rows.filter(pl.struct(keys).is_duplicated())
    if twice.is_empty():
        return rows
    for column, name in names.items():
        both = [column, f"{column}_missing"]
        spread = (
            twice.group_by(keys)
            .agg(pl.struct(both).n_unique().alias("n"), pl.col(ROW).sort())
            .filter(pl.col("n") > 1)
            .sort(pl.col(ROW).list.first())
        )
        if len(spread):
            first, second = spread[ROW][0][:2]
            raise BadInputError(
                Reason.DUPLICATE_KEY,
                file,
                f"row {second}, column {name}: disagrees with row {first}, which has the same "
                + ", ".join(keys),
                "Keep the row that is right",
            )
    return rows.unique(keys, keep="first", maintain_order=True)


def _version(frame: pl.DataFrame, file: str) -> str | None:
    """The one VERSION of all rows.

    Raises:
        BadInputError: MIXED_RELEASES.
    """
    if "VERSION" not in frame.columns:
        return None
    found: dict[str, int] = {}
    for text in frame["VERSION"].unique():
        code = parse_cell(text, keeps_reasons=False).code
        if code is not None:
            row = frame.filter(pl.col("VERSION") == text)[ROW][0]
            found[code] = min(row, found.get(code, row))
    if len(found) > 1:
        (first, first_row), (second, second_row), *_ = sorted(found.items(), key=lambda one: one[1])
        raise BadInputError(
            Reason.MIXED_RELEASES,
            file,
            f"row {second_row}, column VERSION: {second}, but row {first_row} has {first}: two "
            "releases are mixed",
            "Deliver each release as a file of its own",
        )
    return next(iter(found), None)


def _of_contents(frame: pl.DataFrame, file: str) -> list[Contribution]:
    barcode = "BARCODE" if "BARCODE" in frame.columns else "ACCESSIONNUMBER"
    names = {
        "subject": "PARTICIPANTID",
        "series": "SERIESDESCRIPTION",
        "release": "FOLDER",
        "barcode": barcode,
    }
    _require(frame.columns, list(names.values()), file)
    return of_descriptions(frame, names, file)


def _of_structure(frame: pl.DataFrame, identity: Identity, file: str) -> list[Contribution]:
    """An NDA structure: names without prefix, all visits stacked."""
    names = frame.columns
    if identity.source_table == "image03":
        wanted = {
            "subject": "SRC_SUBJECT_ID",
            "series": "IMAGE_DESCRIPTION",
            "barcode": "ACCESSION_NUMBER",
        }
        _require(names, list(wanted.values()), file)
        told = {"visit": "VISIT", "release": "STUDY"}
        return of_descriptions(
            frame, wanted | {use: name for use, name in told.items() if name in names}, file
        )
    variables = NDA_VARIABLES.get(identity.source_table, CLINICAL_VISITS)
    table = variables[0].table
    if table == "clinical_visits":
        frame = _with_age_and_day(frame, file)
    present = {}
    for variable in variables:
        spellings = [variable.stem, *(name.upper() for name in variable.also)]
        found = next((name for name in spellings if name in frame.columns), None)
        if found is not None:
            present[variable] = found
    stems = {variable.stem for variable in present}
    for stem in NDA_REQUIRED.get(identity.source_table, ()):
        if stem not in stems:
            _require(names, [stem], file)
    if not present:
        return []
    _require(names, ["SRC_SUBJECT_ID", "VISIT"], file)
    keys: list[pl.Series | pl.Expr] = [decode_subjects(frame, "SRC_SUBJECT_ID", file)]
    if "timepoint" in _KEYS[table]:
        known = {visit: visit for visit in VISITS}
        keys.append(
            decode_keys(frame, "VISIT", known.get, "a visit from V00 to V11", file).alias(
                "timepoint"
            )
        )
    if table in KEYED_BY_SIDE:
        _require(names, ["SIDE", "READPRJ"], file)
        keys += _reading_keys(frame, file)
    return _contributions(frame, table, keys, present, file, identity)


def _with_age_and_day(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Age in years and days since enrollment, which NDA tells as months and as a date."""
    if "AGE" not in frame.columns and "INTERVIEW_AGE" in frame.columns:
        months = frame["INTERVIEW_AGE"].str.strip_chars().cast(pl.Int64, strict=False)
        _require_read(frame, "INTERVIEW_AGE", months, "months", file)
        frame = frame.with_columns((months // 12).cast(pl.String).fill_null("").alias("AGE"))
    if "VISDYS" not in frame.columns and {"INTERVIEW_DATE", "VISIT"} <= set(frame.columns):
        date = frame["INTERVIEW_DATE"].str.strip_chars().str.to_date("%m/%d/%Y", strict=False)
        _require_read(frame, "INTERVIEW_DATE", date, "a date as MM/DD/YYYY", file)
        visit, subject = pl.col("VISIT").str.strip_chars(), pl.col("SRC_SUBJECT_ID")
        enrolled = pl.col("date").filter(visit == "V00").first().over(subject)
        days = frame.with_columns(date=date).select((pl.col("date") - enrolled).dt.total_days())
        frame = frame.with_columns(days.to_series().cast(pl.String).fill_null("").alias("VISDYS"))
    return frame


def _require_read(frame: pl.DataFrame, name: str, read: pl.Series, what: str, file: str) -> None:
    bad = frame.filter(read.is_null() & (frame[name].str.strip_chars() != ""))
    if len(bad):
        raise BadInputError(
            Reason.BAD_VALUE,
            file,
            f"row {bad[ROW][0]}, column {name}: {bad[name][0]!r} is not {what}",
            "Correct the cell, or get the release again",
        )
