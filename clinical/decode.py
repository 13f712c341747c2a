"""Cells of a column to typed values and reasons; each distinct cell is looked at once."""

import re
from collections.abc import Callable

import polars as pl

from clinical.cells import REASONS, Cell, parse_cell
from clinical.delimited import ROW
from clinical.variables import Variable
from imaging.errors import BadInputError, Reason

TYPES = {
    "yes_no": pl.Boolean,
    "integer": pl.Int64,
    "number": pl.Float64,
    "choice": pl.String,
    "barcode": pl.String,
}
_DIGITS = re.compile(r"\d+(?:\.0+)?")
_BARCODE_PREFIX = "0166"


class BadCellError(ValueError):
    """A cell that cannot mean anything in its column; the text says what is expected."""


def barcode_of(code: str) -> str:
    """An archive barcode of 12 digits: inventories lose its leading zeros, or its `0166`.

    Raises:
        BadCellError: not a barcode.
    """
    digits = code.split(".", maxsplit=1)[0]
    if not _DIGITS.fullmatch(code) or not 1 <= len(digits) <= 12:
        raise BadCellError("expected a barcode of 12 (or the last 8) digits")
    if len(digits) <= 8:
        return _BARCODE_PREFIX + digits.zfill(8)
    return digits.zfill(12)


def _number(variable: Variable, code: str) -> float:
    try:
        value = float(code)
    except ValueError:
        raise BadCellError("expected a number or a missing code") from None
    if not variable.minimum <= value <= variable.maximum:
        raise BadCellError(f"expected {variable.minimum:g} to {variable.maximum:g}")
    return value


def _choice(variable: Variable, code: str, label: str) -> str:
    whole = _number_text(code)
    # `Y: QCd and found acceptable` is a letter with its label.
    for word in (whole, whole.split(":")[0].strip().strip("'"), label):
        meaning = variable.choices.get(word.lower())
        if meaning is not None:
            return meaning
    allowed = ", ".join(dict.fromkeys(variable.choices))
    raise BadCellError(f"expected one of {allowed}")


def _number_text(code: str) -> str:
    """`1.0` as `1`."""
    return code.split(".", maxsplit=1)[0] if _DIGITS.fullmatch(code) else code


_YES_NO_WORDS = {"yes": 1.0, "no": 0.0}


def _value(variable: Variable, code: str, label: str) -> object:
    if variable.kind == "choice":
        return _choice(variable, code, label)
    if variable.kind == "barcode":
        return barcode_of(code)
    number = (
        _number(variable, code)
        if code.lower() not in _YES_NO_WORDS
        else _YES_NO_WORDS[code.lower()]
    )
    if variable.kind == "number":
        return number
    if not number.is_integer():
        raise BadCellError("expected a whole number")
    return bool(number) if variable.kind == "yes_no" else int(number)


def decode(
    frame: pl.DataFrame, name: str, variable: Variable, *, keeps_reasons: bool, file: str
) -> tuple[pl.Series, pl.Series]:
    """Values and reasons of one column.

    Args:
        frame: cells as text, with `row_of_file`.
        name: the column in `frame`.
        variable: what it holds.
        keeps_reasons: whether the form keeps reasons; see `parse_cell`.
        file: the file's name, for messages.

    Raises:
        BadInputError: BAD_VALUE, with row and column.
    """
    cells = frame[name].unique().sort()
    values: list[object] = []
    reasons: list[str | None] = []
    for text in cells:
        cell = parse_cell(text, keeps_reasons=keeps_reasons)
        if variable.kind == "barcode" and cell.code in REASONS:
            cell = Cell(None, reason=REASONS[cell.code])
        value = None
        if cell.code is not None:
            try:
                value = _value(variable, cell.code, cell.label)
            except BadCellError as error:
                row = frame.filter(pl.col(name) == text)[ROW][0]
                raise BadInputError(
                    Reason.BAD_VALUE,
                    file,
                    f"row {row}, column {name}: {text.strip()!r}: {error}",
                    "Correct the cell, or get the release again",
                ) from None
        values.append(value)
        reasons.append(cell.reason)
    places = pl.DataFrame({"cell": cells, "place": range(len(cells))})
    at = frame.select(cell=pl.col(name)).join(
        places, on="cell", how="left", maintain_order="left", nulls_equal=True
    )["place"]
    return (
        pl.Series(variable.column, values, TYPES[variable.kind]).gather(at),
        pl.Series(f"{variable.column}_missing", reasons, pl.String).gather(at),
    )


def decode_subjects(frame: pl.DataFrame, name: str, file: str) -> pl.Series:
    """Study numbers.

    Raises:
        BadInputError: BAD_SUBJECT_ID, with row and column.
    """
    plain = frame[name].str.strip_chars()
    # SAS files hold them as text or as numbers.
    plain = plain.str.replace(r"\.0+$", "")
    bad = frame.filter(~plain.str.contains(r"^[1-9]\d{6}$").fill_null(False))
    if len(bad):
        raise BadInputError(
            Reason.BAD_SUBJECT_ID,
            file,
            f"row {bad[ROW][0]}, column {name}: {bad[name][0].strip()!r} is no study number of "
            "7 digits",
            "Correct the cell, or get the release again",
        )
    return plain.cast(pl.Int64).alias("subject_id")


def decode_keys(
    frame: pl.DataFrame, name: str, meaning: Callable[[str], object | None], what: str, file: str
) -> pl.Series:
    """A key column; unlike a value it may not be missing.

    Raises:
        BadInputError: BAD_VALUE (UNKNOWN_VISIT for visits), with row and column.
    """
    cells = frame[name].unique().sort()
    meanings = []
    for text in cells:
        code = parse_cell(text, keeps_reasons=False).code
        value = None if code is None else meaning(_number_text(code))
        if value is None:
            row = frame.filter(pl.col(name) == text)[ROW][0]
            raise BadInputError(
                Reason.UNKNOWN_VISIT if what.startswith("a visit") else Reason.BAD_VALUE,
                file,
                f"row {row}, column {name}: {text.strip()!r} is not {what}",
                "Correct the cell, or get the release again",
            )
        meanings.append(value)
    return frame[name].replace_strict(cells, pl.Series(meanings))
