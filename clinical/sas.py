"""SAS7BDAT files as text cells, so that every form is decoded by one grammar.

SAS keeps why a value is missing as `.A` to `.Z`; pyreadstat yields these as bare letters in a
column of numbers, and NaN for a plain `.`.
"""

import math
from pathlib import Path
from typing import Any

import polars as pl

from clinical.delimited import ROW
from imaging.archive import short_name
from imaging.errors import BadInputError, Reason


def _failed(path: Path, error: Exception) -> BadInputError:
    return BadInputError(
        Reason.UNREADABLE_FILE,
        short_name(path),
        f"row 1, column 1: cannot be read as a SAS file ({type(error).__name__}: {error})",
        "Copy the file again from the release",
    )


def sas_columns(path: Path) -> list[str]:
    """Names of the columns, as spelled.

    Raises:
        BadInputError: EMPTY_FILE or UNREADABLE_FILE.
    """
    if path.stat().st_size == 0:
        raise BadInputError(
            Reason.EMPTY_FILE,
            short_name(path),
            "is empty: there is no row 1",
            "Copy the file again from the release",
        )
    import pyreadstat

    try:
        _, metadata = pyreadstat.read_sas7bdat(str(path), metadataonly=True)
    except Exception as error:  # pyreadstat raises its own and Python's errors
        raise _failed(path, error) from error
    return list(metadata.column_names)


def read_sas(path: Path, columns: list[str]) -> pl.DataFrame:
    """Some columns as text, named in upper case, with `row_of_file` (the observation, from 1).

    Raises:
        BadInputError: EMPTY_FILE or UNREADABLE_FILE.
    """
    import pyreadstat

    try:
        content, metadata = pyreadstat.read_sas7bdat(
            str(path),
            usecols=columns,
            user_missing=True,
            disable_datetime_conversion=True,
            output_format="dict",
        )
    except Exception as error:  # pyreadstat raises its own and Python's errors
        raise _failed(path, error) from error
    kinds = metadata.readstat_variable_types
    frame = pl.DataFrame(
        [
            pl.Series(
                name.upper(),
                _text(values) if kinds.get(name) == "string" else _numbers(values),
                pl.String,
            )
            for name, values in content.items()
        ]
    )
    if frame.is_empty():
        raise BadInputError(
            Reason.EMPTY_FILE,
            short_name(path),
            "has no row 1: there are columns, but no observations",
            "Copy the file again from the release",
        )
    return frame.with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64))


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(values: Any) -> list[str]:
    return ["" if _is_nan(value) else str(value) for value in values]


def _numbers(values: Any) -> list[str]:
    known: dict[Any, str] = {}
    texts = []
    for value in values:
        # NaN is unequal to itself, so it is told apart before the look-up.
        if _is_nan(value):
            texts.append(".")
            continue
        text = known.get(value)
        if text is None:
            text = known[value] = _number(value)
        texts.append(text)
    return texts


def _number(value: Any) -> str:
    if isinstance(value, str):
        return f".{value}" if value else "."
    return str(int(value)) if float(value).is_integer() else repr(float(value))
