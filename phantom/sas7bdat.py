"""A minimal writer of SAS7BDAT files: numbers with special missing values, and fixed-width text.

No Python package writes this format. What is written is the plain core of it: 32-bit,
little-endian, uncompressed, Windows-1252, metadata pages and then data pages, as the public
description by Shotwell (sas7bdat, CRAN) and the writer of ReadStat (MIT) lay them out. Two
independent readers agree on the files (pyreadstat, pandas); SAS itself has not been tried.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = bytes(12) + bytes.fromhex("c2ea8160b31411cfbd92080009c7318c181f1011")
_HEADER, _PAGE, _PAGE_HEADER, _POINTER = 1024, 65536, 24, 12
_WINDOWS_1252 = 62
_ROW_SIZE, _COLUMN_SIZE = 0xF7F7F7F7, 0xF6F6F6F6
_TEXT, _NAMES, _ATTRIBUTES, _FORMAT = 0xFFFFFFFD, 0xFFFFFFFF, 0xFFFFFFFC, 0xFFFFFBFE
_NUMBER, _CHARACTER = 1, 2
_TEXT_HEAD = 28
_DATA_PAGE = 0x0100
MISSING_CODES = frozenset(".ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, eq=False)
class SasNumbers:
    """A numeric column.

    Attributes:
        value: shape (rows,).
        letter: shape (rows,): '' where `value` counts, '.' for a missing value, 'A' to 'Z' for a
            special one.
    """

    value: NDArray[np.float64]
    letter: NDArray[np.str_]


SasColumn = SasNumbers | NDArray[np.str_]
"""Numbers, or text."""


def missing_bits(letter: str) -> int:
    """The 64 bits that stand for a missing value: a NaN with the inverted letter in byte 5.

    Raises:
        ValueError: not a missing code of SAS.
    """
    if letter not in MISSING_CODES or len(letter) != 1:
        raise ValueError(f"{letter!r} is no missing code of SAS")
    return 0xFFFF_0000_0000_0000 | (~ord(letter) & 0xFF) << 40


def _bytes_of(column: SasColumn) -> NDArray[np.uint8]:
    """A column as it lies in the rows, shape (rows, width)."""
    if isinstance(column, SasNumbers):
        bits = np.asarray(column.value, "<f8").view("<u8").copy()
        for letter in np.unique(column.letter):
            if letter:
                bits[column.letter == letter] = missing_bits(str(letter))
        return bits.view(np.uint8).reshape(-1, 8)
    encoded = np.char.encode(column, "cp1252")
    width = max(encoded.dtype.itemsize, 1)
    padded = np.char.ljust(encoded, width).astype(f"S{width}")
    return np.frombuffer(padded.tobytes(), np.uint8).reshape(len(column), width)


class _Texts:
    """The block of names that other parts point into."""

    def __init__(self) -> None:
        self._content = b""

    def reference(self, text: str) -> bytes:
        """Add a text, padded to four bytes; gives (block 0, offset, length)."""
        raw = text.encode("cp1252")
        reference = struct.pack("<HHH", 0, len(self._content) + _TEXT_HEAD, len(raw))
        self._content += raw + bytes(-len(raw) % 4)
        return reference

    def subheader(self) -> bytes:
        """The block; eight bytes at its end are not counted as text."""
        length = 4 + _TEXT_HEAD + len(self._content) + 8
        head = struct.pack("<IH", _TEXT, length - 12) + bytes(10) + b" " * 8 + bytes(8)
        return head + self._content + bytes(8)


def _subheaders(
    names: list[str], columns: list[SasColumn], widths: list[int], rows: int
) -> list[bytes]:
    row_size = bytearray(480)
    struct.pack_into("<I", row_size, 0, _ROW_SIZE)
    struct.pack_into("<II", row_size, 20, sum(widths), rows)
    struct.pack_into("<I", row_size, 36, len(names))
    struct.pack_into("<I", row_size, 52, _PAGE)
    texts = _Texts()
    name_list, attributes = b"", b""
    offset = 0
    for name, column, width in zip(names, columns, widths, strict=True):
        name_list += texts.reference(name) + bytes(2)
        kind = _NUMBER if isinstance(column, SasNumbers) else _CHARACTER
        long_name = 4 if len(name) <= 8 else 2048
        attributes += struct.pack("<IIHBB", offset, width, long_name, kind, 0)
        offset += width
    formats = [struct.pack("<I", _FORMAT) + bytes(48) for _ in names]
    length = 20 + 8 * len(names)
    name_part = struct.pack("<IH", _NAMES, length - 12) + bytes(6) + name_list + bytes(8)
    length = 20 + 12 * len(names)
    attribute_part = struct.pack("<IH", _ATTRIBUTES, length - 12) + bytes(6) + attributes + bytes(8)
    return [
        bytes(row_size),
        struct.pack("<III", _COLUMN_SIZE, len(names), 0),
        texts.subheader(),
        name_part,
        attribute_part,
        *formats,
    ]


def _metadata_pages(subheaders: list[bytes]) -> list[bytes]:
    pages: list[bytes] = []
    waiting = list(subheaders)
    while waiting:
        page = bytearray(_PAGE)
        pointer, end, count = _PAGE_HEADER, _PAGE, 0
        while waiting and len(waiting[0]) + _POINTER < end - pointer:
            content = waiting.pop(0)
            end -= len(content)
            signature = struct.unpack_from("<I", content)[0]
            variable_length = signature in {_TEXT, _NAMES, _ATTRIBUTES}
            struct.pack_into("<IIBB", page, pointer, end, len(content), 0, int(variable_length))
            page[end : end + len(content)] = content
            pointer += _POINTER
            count += 1
        struct.pack_into("<HHH", page, _PAGE_HEADER - 8, 0, count, count)
        pages.append(bytes(page))
    return pages


def _header(name: str, n_pages: int) -> bytes:
    header = bytearray(_HEADER)
    header[:32] = _MAGIC
    header[32:40] = bytes([0x22, 0x22, 0x00, 0x22, 0x22, 0x01, 0x02, ord("2")])
    header[70] = _WINDOWS_1252
    header[84:92] = b"SAS FILE"
    header[92:124] = name.encode("cp1252")[:32].ljust(32)
    header[156:164] = b"DATA    "
    # Times stay at zero, 1960, so that the same rows give the same bytes.
    struct.pack_into("<III", header, 196, _HEADER, _PAGE, n_pages)
    header[216:224] = b"9.0401M5"
    header[224:240] = b"X64_10PRO".ljust(16, b"\0")
    return bytes(header)


def write_sas7bdat(path: Path, columns: Mapping[str, SasColumn]) -> None:
    """Write a table; the same content always gives the same bytes.

    Args:
        path: of the file; its stem becomes the table's name.
        columns: by name (at most 32 letters, digits and underscores), all of the same length.

    Raises:
        ValueError: a row too long for a page, or columns of different lengths.
    """
    names, parts = list(columns), list(columns.values())
    blocks = [_bytes_of(part) for part in parts]
    rows = len(blocks[0])
    if any(len(block) != rows for block in blocks):
        raise ValueError("the columns differ in length")
    content = np.concatenate(blocks, axis=1)
    width = content.shape[1]
    per_page = (_PAGE - _PAGE_HEADER) // width
    if per_page == 0:
        raise ValueError(f"a row of {width} bytes does not fit a page")
    subheaders = _subheaders(names, parts, [block.shape[1] for block in blocks], rows)
    pages = _metadata_pages(subheaders)
    n_data = -(-rows // per_page)
    with path.open("wb") as file:
        file.write(_header(path.stem, len(pages) + n_data))
        file.writelines(pages)
        for start in range(0, rows, per_page):
            chunk = content[start : start + per_page]
            head = bytearray(_PAGE_HEADER)
            struct.pack_into("<HHH", head, _PAGE_HEADER - 8, _DATA_PAGE, len(chunk), 0)
            body = chunk.tobytes()
            file.write(bytes(head) + body + bytes(_PAGE - _PAGE_HEADER - len(body)))
