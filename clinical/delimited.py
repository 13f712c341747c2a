"""Delimited text as OAI and NDA deliver it: exact, or refused with the row and column.

ASCII releases are `|`-separated without quotes, NDA structures tab-separated with every field in
double quotes, old inventories comma-separated. Rows are lines of the file, counted from 1.
"""

import io
from pathlib import Path

import numpy as np
import polars as pl

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason

_UTF8_BOM = b"\xef\xbb\xbf"
_COPY_AGAIN = "Copy the file again from the release"


def read_bytes(path: Path) -> bytes:
    """All of a text file.

    Raises:
        BadInputError: UNREADABLE_FILE, EMPTY_FILE, WRONG_ENCODING for 16-bit text.
    """
    name = short_name(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(
            Reason.UNREADABLE_FILE, name, f"cannot be read ({error.strerror})", "Check the disk"
        ) from error
    if not content.strip():
        raise BadInputError(
            Reason.EMPTY_FILE, name, "is empty: there is no header in row 1", _COPY_AGAIN
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        row = content.count(b"\n", 0, max(content.find(b"\0"), 0)) + 1
        raise BadInputError(
            Reason.WRONG_ENCODING,
            name,
            f"row {row}, column 1: is not 8-bit text (UTF-16 perhaps)",
            "Save it as UTF-8 or Windows-1252",
        )
    return content.removeprefix(_UTF8_BOM)


def first_line(path: Path) -> str:
    """The header, as far as 64 KiB tell; '' where there is none."""
    try:
        with path.open("rb") as file:
            start = file.read(65536)
    except OSError:
        return ""
    line = start.removeprefix(_UTF8_BOM).split(b"\n", 1)[0]
    return line.decode("cp1252", errors="replace").strip("\r")


def _as_utf8(content: bytes, name: str, separator: bytes) -> bytes:
    """The text as UTF-8; releases come as Windows-1252."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        try:
            return content.decode("cp1252").encode()
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + 1
            line_start = content.rfind(b"\n", 0, error.start) + 1
            column = content.count(separator, line_start, error.start)
            names = content.split(b"\n", 1)[0].split(separator)
            said = names[column].decode("cp1252", "replace").strip() if column < len(names) else "?"
            raise BadInputError(
                Reason.WRONG_ENCODING,
                name,
                f"row {row}, column {said}: holds a byte that is neither UTF-8 nor Windows-1252",
                "Save it as UTF-8 or Windows-1252",
            ) from error
    return content


def _checked_lines(content: bytes, name: str, separator: bytes) -> tuple[bytes, np.ndarray]:
    """The text with every record on one line, and the line of the file each began on.

    A record broken by a line end inside a field is joined again: its shares together have as many
    fields as the header.

    Raises:
        BadInputError: TRUNCATED_FILE or RAGGED_ROW.
    """
    header = content.split(b"\n", 1)[0]
    names = [one.decode().strip().strip('"') for one in header.split(separator)]
    expected = len(names) - 1
    codes = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    if not content.endswith(b"\n"):
        last = content.rsplit(b"\n", 1)[-1]
        at = min(last.count(separator), expected)
        raise BadInputError(
            Reason.TRUNCATED_FILE,
            name,
            f"row {len(ends) + 1}, column {names[at]}: the last line has no line end, "
            "so the file was cut off there",
            f"{_COPY_AGAIN}; if it is complete, end its last line",
        )
    before = np.searchsorted(np.flatnonzero(codes == ord(separator)), ends)
    counts = np.diff(before, prepend=0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    blank = (ends - starts <= 1) & (counts == 0)
    if (counts[~blank] == expected).all() and not blank.any():
        return content, np.arange(1, len(ends) + 1)
    return _rejoined(content, name, names, counts, starts, ends)


def _rejoined(
    content: bytes,
    name: str,
    names: list[str],
    counts: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> tuple[bytes, np.ndarray]:
    expected = len(names) - 1
    records: list[bytes] = []
    rows: list[int] = []
    index = 0
    while index < len(ends):
        began = index
        pieces = [content[starts[index] : ends[index]].rstrip(b"\r")]
        total = int(counts[index])
        # A broken last field leaves a line that is complete by count, followed by one without
        # separators: it belongs to the record before.
        if total == 0 and expected > 0 and records:
            records[-1] = (records[-1] + b" " + pieces[0]).rstrip()
            index += 1
            continue
        while total < expected and index + 1 < len(ends):
            index += 1
            total += int(counts[index])
            pieces.append(content[starts[index] : ends[index]].rstrip(b"\r"))
        if total != expected:
            found = int(counts[began])
            raise BadInputError(
                Reason.TRUNCATED_FILE if began == len(ends) - 1 else Reason.RAGGED_ROW,
                name,
                f"row {began + 1}, column {names[min(found + 1, expected)]}: the row has "
                f"{found + 1} fields, the header {len(names)}",
                _COPY_AGAIN,
            )
        records.append(b" ".join(pieces))
        rows.append(began + 1)
        index += 1
    return b"\r\n".join(records) + b"\r\n", np.array(rows)


ROW = "row_of_file"


def read_delimited(
    path: Path, separator: str, *, quoted: bool = False, header_rows: int = 1
) -> pl.DataFrame:
    """All cells as text, columns named in upper case, with `row_of_file`.

    Args:
        path: the file.
        separator: one character.
        quoted: whether fields may be in double quotes.
        header_rows: 2 where the row after the names describes them (NDA).

    Raises:
        BadInputError: empty, cut off, ragged, in another encoding, or two columns of one name.
    """
    name = short_name(path)
    content = read_bytes(path)
    mark = separator.encode()
    text, rows = _checked_lines(_as_utf8(content, name, mark), name, mark)
    if len(rows) <= header_rows:
        raise BadInputError(
            Reason.EMPTY_FILE,
            name,
            f"has no row {header_rows + 1}: there is a header, but no data under it",
            _COPY_AGAIN,
        )
    names = [
        one.strip().strip('"').strip().upper()
        for one in text.split(b"\n", 1)[0].decode().split(separator)
    ]
    twice = next((one for place, one in enumerate(names) if one in names[:place]), None)
    if twice is not None:
        raise BadInputError(
            Reason.DUPLICATE_COLUMN,
            name,
            f"row 1, column {twice}: the name is there twice",
            "Remove one of the two columns",
        )
    frame = pl.read_csv(
        io.BytesIO(text),
        separator=separator,
        quote_char='"' if quoted else None,
        has_header=False,
        skip_rows=header_rows,
        new_columns=names,
        infer_schema=False,
    ).fill_null("")
    return frame.with_columns(pl.Series(ROW, rows[header_rows:]))
