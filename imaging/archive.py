"""The files of a delivery: a folder, a zip, a tar, or one file.

Nothing is unpacked to disk, so no member name can write anywhere.
"""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from imaging.errors import BadInputError, Reason

DEFAULT_MAX_BYTES = 4 * 1024**3
"""Most an archive may hold uncompressed; a DESS and an MSME series take 0.1 GB."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)

_DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)",
)
_CLUTTER_NAMES = frozenset({"dicomdir", "thumbs.db", "desktop.ini", "lockfile"})
_CLUTTER_SUFFIXES = frozenset(
    {".sas7bdat", ".sas7bcat", ".xpt"}
    | {".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".md", ".pdf", ".log", ".md5"}
)


@dataclass(frozen=True)
class DeliveredFile:
    """One file of a delivery.

    Attributes:
        name: fit for messages: see `short_name`.
        content: all its bytes.
    """

    name: str
    content: bytes


def short_name(path: Path | str) -> str:
    """The last two parts of a path, dates blanked: enough to find a file, no more.

    OAI folders are named by participant, then date, then series.
    """
    parts = PurePosixPath(str(path).replace("\\", "/")).parts[-2:]
    return _DATE.sub("<date>", "/".join(part for part in parts if part != "/"))


def delivery_files(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> Iterator[DeliveredFile]:
    """The files of a folder (recursively), a .zip, .tar, .tar.gz or .tgz, or the one file given.

    Hidden files and plain clutter (.DS_Store, __MACOSX, DICOMDIR, text, PDF) are left out.

    Args:
        path: the folder, archive or file.
        max_bytes: most an archive may hold uncompressed.

    Raises:
        BadInputError: MISSING_INPUT, BAD_ARCHIVE, or UNSAFE_ARCHIVE for members that are links or
            devices or point outside the archive, and for more than `max_bytes`.
    """
    lower = path.name.lower()
    if path.is_dir():
        yield from _folder_files(path)
    elif not path.is_file():
        raise BadInputError(
            Reason.MISSING_INPUT, short_name(path), "is not there", "Check the path"
        )
    elif lower.endswith(".zip"):
        yield from _zip_files(path, max_bytes)
    elif lower.endswith(TAR_SUFFIXES):
        yield from _tar_files(path, max_bytes)
    else:
        yield DeliveredFile(short_name(path), path.read_bytes())


def is_clutter(name: PurePosixPath) -> bool:
    """Whether a file is beside the data: hidden, a directory listing, text, PDF."""
    return (
        any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
        or name.name.lower() in _CLUTTER_NAMES
        or name.suffix.lower() in _CLUTTER_SUFFIXES
    )


def _folder_files(folder: Path) -> Iterator[DeliveredFile]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not is_clutter(PurePosixPath(file.relative_to(folder).as_posix())):
            try:
                content = file.read_bytes()
            except OSError as error:
                raise BadInputError(
                    Reason.UNREADABLE_FILE,
                    short_name(file),
                    f"cannot be read ({error.strerror})",
                    "Check its permissions and the disk",
                ) from None
            yield DeliveredFile(short_name(file), content)


def _refuse_outside(archive: Path, name: str) -> None:
    posix = name.replace("\\", "/")
    if posix.startswith("/") or re.match(r"[A-Za-z]:", posix) or ".." in posix.split("/"):
        _refuse_unsafe(archive, "holds a member whose path points outside the archive")


def _refuse_unsafe(archive: Path, what: str) -> NoReturn:
    raise BadInputError(
        Reason.UNSAFE_ARCHIVE,
        short_name(archive),
        what,
        "Unpack it yourself, look at what it holds, and deliver the folder",
    )


def _refuse_large(archive: Path, max_bytes: int) -> NoReturn:
    _refuse_unsafe(archive, f"unpacks to more than {max_bytes / 1024**3:.3g} GiB")


def _refuse_broken(archive: Path, kind: str) -> NoReturn:
    raise BadInputError(
        Reason.BAD_ARCHIVE,
        short_name(archive),
        f"cannot be read as a {kind} archive: it is damaged, cut short, encrypted or not one",
        "Download or make it again, without a password",
    ) from None


def _zip_files(archive: Path, max_bytes: int) -> Iterator[DeliveredFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            for member in members:
                _refuse_outside(archive, member.filename)
                # The upper half of the attributes is the Unix mode; 0o12 marks a link.
                if (member.external_attr >> 28) not in (0, 0o4, 0o10):
                    _refuse_unsafe(archive, "holds a link or a device file")
            # Declared sizes can be trusted: zipfile stops there and then fails the checksum.
            if sum(member.file_size for member in members) > max_bytes:
                _refuse_large(archive, max_bytes)
            for member in members:
                name = PurePosixPath(member.filename)
                if not member.is_dir() and not is_clutter(name):
                    content = opened.read(member)
                    yield DeliveredFile(short_name(f"{archive.name}/{name.name}"), content)
    # RuntimeError: encrypted. NotImplementedError: a compression zipfile does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError):
        _refuse_broken(archive, "zip")


class _LimitedReader:
    """Counts what comes out of a decompressor, since a tar header can itself be a bomb."""

    def __init__(self, stream: io.BufferedIOBase, archive: Path, max_bytes: int) -> None:
        self._stream = stream
        self._archive = archive
        self._max_bytes = max_bytes
        # Headers and padding take up to 1.5 kB a member on top of the content.
        self._left = max_bytes + max_bytes // 4 + 1024**2

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            _refuse_large(self._archive, self._max_bytes)
        return content


def _tar_files(archive: Path, max_bytes: int) -> Iterator[DeliveredFile]:
    compressed = not archive.name.lower().endswith(".tar")
    total = 0
    try:
        with (
            gzip.open(archive) if compressed else archive.open("rb") as stream,
            tarfile.open(
                fileobj=_LimitedReader(stream, archive, max_bytes),  # type: ignore[call-overload]
                mode="r|",
            ) as opened,
        ):
            for member in opened:
                _refuse_outside(archive, member.name)
                if not (member.isfile() or member.isdir()):
                    _refuse_unsafe(archive, "holds a link or a device file")
                total += member.size
                if total > max_bytes:
                    _refuse_large(archive, max_bytes)
                name = PurePosixPath(member.name)
                reader = None if is_clutter(name) else opened.extractfile(member)
                if reader is not None:
                    content = reader.read()
                    if len(content) < member.size:
                        _refuse_broken(archive, "tar")
                    yield DeliveredFile(short_name(f"{archive.name}/{name.name}"), content)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError):
        _refuse_broken(archive, "tar")
