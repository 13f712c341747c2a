"""Which DESS and MSME scans a release says were made: MRInn, NDA's image03, old contents.csv."""

import re
from collections.abc import Mapping

import polars as pl

from clinical.cells import NOT_DELIVERED, NOT_EXPECTED
from clinical.decode import decode, decode_keys, decode_subjects
from clinical.delimited import ROW
from clinical.release import Contribution
from clinical.variables import VISITS, Variable
from imaging.errors import BadInputError, Reason

KEYS = ("subject_id", "side", "timepoint", "sequence")
COLUMNS = ("acquired", "barcode", "quality", "not_acquired_reason", "n_series")

_PLANNED = r"^([RL]) SAG (3D DESS|T2 MAP)"
_DESCRIBED = r"^SAG_(3D_DESS|T2_MAP)_(RIGHT|LEFT)$"
_RELEASE = re.compile(r"(?:^|\D)(\d{1,2})\.?([CDEG])\.?(\d)(?:\D|$)", re.IGNORECASE)
_REASONS = {
    "1": "Not eligible",
    "2": "Stopped at participant request",
    "3": "Equipment failure",
    "4": "Other",
    "5": "Metal distortion",
    "6": "Refused",
    "7": "No-show",
    "8": "Knee with short protocol",
    "9": "Not available",
    "10": "Knee not expected per protocol",
    "11": "Knee not eligible",
    "12": "Missed visit",
    "13": "Participant opted for one knee only",
    "14": "Before thigh protocol",
}
"""Codes of MNDREAS."""
_QUALITY = {value.lower(): value for value in ("Y", "YD", "NR", "N")}
_ACQUIRED = Variable("scans_listed", "acquired", "MRCOMP", "yes_no")
_BARCODE = Variable("scans_listed", "barcode", "MRBARCD", "barcode")
_RESULT = Variable("scans_listed", "quality", "QCRESLT", "choice", choices=_QUALITY)
_WHY = Variable("scans_listed", "not_acquired_reason", "MNDREAS", "choice", choices=_REASONS)


def mri_columns(visit: str) -> tuple[tuple[str, Variable | None], ...]:
    """Names of the columns of MRInn that are used."""
    return (
        (f"{visit}MEXAMTP", None),
        (f"{visit}{_ACQUIRED.stem}", _ACQUIRED),
        (f"{visit}{_BARCODE.stem}", _BARCODE),
        (f"{visit}{_RESULT.stem}", _RESULT),
        (f"{visit}{_WHY.stem}", _WHY),
    )


def of_mri_table(frame: pl.DataFrame, visit: str, file: str, *, is_sas: bool) -> Contribution:
    """Scans of an MRInn table: planned ones too, with why they were not made.

    Raises:
        BadInputError: a cell that cannot be read, with row and column.
    """
    exam = pl.col(f"{visit}MEXAMTP").str.strip_chars().str.to_uppercase()
    used = frame.filter(exam.str.contains(_PLANNED))
    columns = [decode_subjects(used, "ID", file)]
    for name, variable in mri_columns(visit):
        if variable is not None:
            columns += decode(used, name, variable, keeps_reasons=is_sas, file=file)
    series = used.select(
        side=pl.when(exam.str.starts_with("R")).then(pl.lit("RIGHT")).otherwise(pl.lit("LEFT")),
        sequence=pl.when(exam.str.contains("DESS")).then(pl.lit("DESS")).otherwise(pl.lit("MSME")),
        timepoint=pl.lit(visit),
    ).with_columns(columns)
    names = {variable.column: name for name, variable in mri_columns(visit) if variable}
    return _one_per_knee(series, names | {"n_series": f"{visit}MRBARCD"}, visit, partial=False)


def of_descriptions(frame: pl.DataFrame, names: Mapping[str, str], file: str) -> list[Contribution]:
    """Scans of an inventory that lists images: image03 or contents.csv, by visit.

    Args:
        frame: cells as text.
        names: which columns are `subject`, `series`, `barcode`, and `visit` or `release` or both.
        file: the file's name, for messages.

    Raises:
        BadInputError: a cell that cannot be read, with row and column.
    """
    described = pl.col(names["series"]).str.strip_chars().str.to_uppercase()
    used = frame.filter(described.str.contains(_DESCRIBED))
    if used.is_empty():
        return []
    columns = [
        decode_subjects(used, names["subject"], file),
        _visits(used, names, file),
        *decode(used, names["barcode"], _BARCODE, keeps_reasons=False, file=file),
    ]
    series = used.select(
        side=described.str.extract(_DESCRIBED, 2),
        sequence=pl.when(described.str.contains("DESS"))
        .then(pl.lit("DESS"))
        .otherwise(pl.lit("MSME")),
        acquired=pl.lit(value=True),
        acquired_missing=pl.lit(None, pl.String),
        quality=pl.lit(None, pl.String),
        quality_missing=pl.lit(NOT_DELIVERED),
        not_acquired_reason=pl.lit(None, pl.String),
        not_acquired_reason_missing=pl.lit(NOT_EXPECTED),
    ).with_columns(columns)
    sources = {
        "acquired": names["series"],
        "barcode": names["barcode"],
        "not_acquired_reason": names["series"],
        "n_series": names["series"],
    }
    return [
        _one_per_knee(share, sources, str(visit), partial=True)
        for (visit,), share in sorted(series.group_by(["timepoint"]))
    ]


def _visits(frame: pl.DataFrame, names: Mapping[str, str], file: str) -> pl.Series:
    known = {visit: visit for visit in VISITS}
    said = names.get("visit")
    if said is not None and frame[said].str.strip_chars().str.len_chars().min():
        return decode_keys(frame, said, known.get, "a visit from V00 to V11", file).alias(
            "timepoint"
        )
    release = names["release"]
    visits = {
        text: visit_of_release(text.split("/")[0] if "/" in text else text)
        for text in frame[release].unique()
    }
    unknown = sorted(text for text, visit in visits.items() if visit is None)
    if unknown:
        row = frame.filter(pl.col(release) == unknown[0])[ROW][0]
        raise BadInputError(
            Reason.UNKNOWN_VISIT,
            file,
            f"row {row}, column {release}: {unknown[0].split('/')[0]!r} names no image release of "
            "a visit, such as 0.C.2",
            "Correct the cell, or get the inventory again",
        )
    return frame[release].replace_strict(visits, return_dtype=pl.String).alias("timepoint")


def visit_of_release(text: str) -> str | None:
    """The visit of an image release (`0.C.2`, `OAI Image Release 10.E.1`): its first number."""
    match = _RELEASE.search(text)
    visit = f"V{int(match.group(1)):02d}" if match else None
    return visit if visit in VISITS else None


def _one_per_knee(
    series: pl.DataFrame, sources: dict[str, str], visit: str, *, partial: bool
) -> Contribution:
    """One row per knee-visit and sequence; of repeats the later archive number counts."""
    acquired = pl.col("acquired").fill_null(value=False)
    rows = (
        series.sort(
            "subject_id",
            "side",
            "sequence",
            acquired,
            "barcode",
            "quality",
            "not_acquired_reason",
            nulls_last=False,
        )
        .with_columns(
            n_series=acquired.cast(pl.Int64).sum().over(*KEYS),
            n_series_missing=pl.lit(None, pl.String),
        )
        .unique(list(KEYS), keep="last", maintain_order=True)
        .with_columns(
            # What was not made has no barcode, whatever filler the release puts there.
            barcode=pl.when(acquired).then("barcode"),
            barcode_missing=pl.when(acquired)
            .then("barcode_missing")
            .otherwise(pl.lit(NOT_EXPECTED)),
            quality=pl.when(acquired).then("quality"),
            quality_missing=pl.when(acquired)
            .then("quality_missing")
            .otherwise(pl.lit(NOT_EXPECTED)),
            not_acquired_reason=pl.when(~acquired).then("not_acquired_reason"),
            not_acquired_reason_missing=pl.when(acquired)
            .then(pl.lit(NOT_EXPECTED))
            .otherwise("not_acquired_reason_missing"),
        )
    )
    both = [name for column in COLUMNS for name in (column, f"{column}_missing")]
    return Contribution(
        "scans_listed", visit, sources, KEYS, rows.select(*KEYS, *both), partial=partial
    )
