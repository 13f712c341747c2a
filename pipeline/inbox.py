"""What lies in the inbox, cheaply: folders and archives of DICOM, and label volumes.

Accepted are the OAI's tree (`<month>m/<release>/<subject>/<yyyymmdd>/<barcode>/001` ..., each
series also as `.tar.gz` or `.zip`), any other folders of DICOM with one series each, label volumes
named `<subject>_<SIDE>_<timepoint>*.nrrd|.nii|.nii.gz|.mha|.mhd`, and folders with one DICOM-SEG
file.

A label's tissue map is that of the nearest `scheme.toml` (a tissue map) or `scheme.txt` (a name)
in its folder or above it, up to the inbox; else that of the settings.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from imaging.archive import (
    ARCHIVE_SUFFIXES,
    DeliveredFile,
    delivery_files,
    is_clutter,
    short_name,
)
from imaging.dicom_frames import read_header
from imaging.dicom_header import Sequence as MrSequence
from imaging.dicom_header import SeriesHeader
from imaging.errors import BadInputError, Reason
from imaging.label_files import LABEL_SUFFIXES, is_segmentation
from imaging.volume import Side
from lake.keys import UNKNOWN_TIMEPOINT
from pipeline.knee_visit import KneeVisit, of_header, of_path
from pipeline.locator import NOTHING_DECLARED, Locator, Record

Kind = Literal["series", "labels", "unknown"]

SCHEME_FILES = ("scheme.toml", "scheme.txt")
# Pixels of a detached NRRD or MetaImage header; they belong to the header's delivery.
_DETACHED = {".nhdr": (".raw", ".raw.gz"), ".mhd": (".raw", ".zraw")}


@dataclass(frozen=True)
class Delivery:
    """One series or label volume as delivered.

    Attributes:
        path: a folder, archive or file.
        kind: 'series' or 'labels'; 'unknown' where only reading all of it can tell.
        subject_id, side, timepoint: as declared, else from its path, else its header; None where
            none tells.
        sequence: DESS or MSME; None for other series, which are not used, and for labels.
        stamp: hash of relative path, size and modification time of its files.
    """

    path: Path
    kind: Kind
    subject_id: int | None
    side: Side | None
    timepoint: str | None
    sequence: MrSequence | None
    stamp: str

    @property
    def unused(self) -> bool:
        """A series of a kind kneelake does not measure, such as a localizer."""
        return self.kind == "series" and self.sequence is None


def discover(inbox: Path, within: Sequence[Path] | None = None) -> list[Delivery]:
    """All deliveries, by path. One header of each new or changed one is read, no pixels.

    Args:
        inbox: where deliveries lie, and what is known of them.
        within: folders or files to look at instead; they may lie outside the inbox.

    Raises:
        BadInputError: MISSING_INPUT where one of `within` is not there; UNREADABLE_FILE where the
            inbox cannot be written to.
    """
    locator = Locator(inbox)
    known = locator.records()
    found: dict[str, Delivery] = {}
    news: list[Record] = []
    for place in [inbox] if within is None else within:
        if within is not None and not place.exists():
            raise BadInputError(
                Reason.MISSING_INPUT, short_name(place), "is not there", "Check the path"
            )
        for path in _candidates(place.absolute()):
            key = locator.key(path)
            stamp = _stamp(path, inbox.absolute())
            record = known.get(key)
            if record is None or record.stamp != stamp:
                declared = record.declared if record is not None else NOTHING_DECLARED
                record = Record(key, stamp, asdict(_describe(path, key)), declared)
                if key not in found:
                    news.append(record)
            found[key] = _delivery(path, record)
    locator.describe(news)
    return [found[key] for key in sorted(found)]


def _delivery(path: Path, record: Record) -> Delivery:
    said = record.described
    visit = KneeVisit(*record.declared).filled(
        KneeVisit(said["subject_id"], said["side"], said["timepoint"])
    )
    return Delivery(
        path,
        said["kind"],
        visit.subject_id,
        visit.side,
        visit.timepoint,
        said["sequence"],
        record.stamp,
    )


def pending_deliveries(inbox: Path) -> dict[str, list[Delivery]]:
    """Deliveries not yet ingested, or changed since, by timepoint (or 'unknown')."""
    deliveries = discover(inbox)
    locator = Locator(inbox)
    concluded = {key for key, record in locator.records().items() if record.outcome is not None}
    pending: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        if not delivery.unused and locator.key(delivery.path) not in concluded:
            pending.setdefault(delivery.timepoint or UNKNOWN_TIMEPOINT, []).append(delivery)
    return pending


def locate(inbox: Path, fingerprint: str) -> Path:
    """Where the data of a fingerprint lie.

    Raises:
        BadInputError: MISSING_INPUT: they are gone, or changed since they were ingested.
    """
    return Locator(inbox).path(located(inbox, fingerprint).key)


def located(inbox: Path, fingerprint: str) -> Record:
    """What is known of the data of a fingerprint.

    Raises:
        BadInputError: MISSING_INPUT.
    """
    record = Locator(inbox).find(fingerprint)
    if record is None:
        raise missing_input(fingerprint)
    return record


def missing_input(fingerprint: str) -> BadInputError:
    """The data of a fingerprint are not where they were."""
    return BadInputError(
        Reason.MISSING_INPUT,
        fingerprint[:12],
        "is the fingerprint of data that are gone from the inbox, or changed since",
        "Put them back, or run `kneelake ingest` again",
    )


def path_parts(key: str) -> tuple[str, ...]:
    """The parts of a delivery's key, the suffix of a label or archive taken off the last."""
    parts = PurePosixPath(key).parts
    if not parts:
        return ()
    last = parts[-1]
    for suffix in sorted((*LABEL_SUFFIXES, *ARCHIVE_SUFFIXES, ".dcm"), key=len, reverse=True):
        if last.lower().endswith(suffix):
            last = last[: -len(suffix)]
            break
    return (*parts[:-1], last)


def scheme_of(label: Path, inbox: Path, default: str) -> str:
    """The tissue map of a label: a shipped name, or the path of a .toml file."""
    sidecar = _scheme_file(label, inbox.absolute())
    if sidecar is None:
        return default
    if sidecar.suffix == ".toml":
        return str(sidecar)
    return sidecar.read_text(encoding="utf-8", errors="replace").strip()


def label_content(label: Path) -> list[Path]:
    """The files a label volume consists of: itself, and the pixels of a detached header."""
    suffix = label.suffix.lower()
    beside = [label.with_name(label.stem + other) for other in _DETACHED.get(suffix, ())]
    return [label, *(file for file in beside if file.is_file())]


def loose_beside_folders(folder: Path) -> bool:
    """Whether a folder has files of its own beside folders with files: no telling what belongs."""
    entries = _entries(folder)
    return any(entry.is_file() for entry in entries) and any(
        any(_data_files(entry)) for entry in entries if entry.is_dir()
    )


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without clutter and without the tissue maps."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        entry
        for entry in entries
        if not is_clutter(PurePosixPath(entry.name)) and entry.name.lower() not in SCHEME_FILES
    ]


def _data_files(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, but not in circles."""
    real = folder.resolve()
    if real in seen:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _data_files(entry, seen | {real})
        elif entry.is_file():
            yield entry


def _candidates(place: Path) -> Iterator[Path]:
    """The paths that are one delivery each."""
    if place.is_file():
        yield place
    else:
        yield from _within(place, frozenset(), is_root=True)


def _within(folder: Path, seen: frozenset[Path], *, is_root: bool = False) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    entries = _entries(folder)
    own = [entry for entry in entries if entry.is_file()]
    pixels = {file for label in own if _is_label(label) for file in label_content(label)[1:]}
    loose = []
    for file in own:
        if _is_label(file) or file.name.lower().endswith(ARCHIVE_SUFFIXES):
            yield file
        elif file not in pixels:
            loose.append(file)
    below = [path for entry in entries if entry.is_dir() for path in _within(entry, seen | {real})]
    if loose and is_root and (below or not _is_one_series(loose)):
        yield from loose
    elif loose:
        yield folder
    yield from below


def _is_one_series(loose: Sequence[Path]) -> bool:
    """Whether the files of a folder the caller named look like slices rather than a heap."""
    return len(loose) > 1 and len({file.suffix for file in loose}) == 1


def _is_label(path: Path) -> bool:
    return path.name.lower().endswith(LABEL_SUFFIXES)


def _scheme_file(label: Path, inbox: Path) -> Path | None:
    for folder in label.absolute().parents:
        for name in SCHEME_FILES:
            if (folder / name).is_file():
                return folder / name
        # Outside the inbox only the label's own folder counts.
        if folder == inbox or not folder.is_relative_to(inbox):
            return None
    return None


def _stamp(path: Path, inbox: Path) -> str:
    if path.is_dir():
        files = list(_data_files(path))
    else:
        files = label_content(path)
        scheme = _scheme_file(path, inbox) if _is_label(path) else None
        files += [scheme] if scheme is not None else []
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        relative = os.path.relpath(file, path)
        digest.update(f"{relative}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Description:
    kind: Kind
    subject_id: int | None
    side: Side | None
    timepoint: str | None
    sequence: MrSequence | None


def _describe(path: Path, key: str) -> _Description:
    """What the path and one header say; what is wrong is left for ingest to find and tell."""
    kind: Kind = "unknown"
    header = SeriesHeader()
    try:
        if path.is_file() and _is_label(path):
            kind = "labels"
        elif not (path.is_dir() and loose_beside_folders(path)):
            kind, header = _peek(path)
    except BadInputError:
        pass
    try:
        by_path = of_path(path_parts(key), short_name(path))
    except BadInputError:
        return _Description("unknown", None, None, None, None)
    visit: KneeVisit = by_path.filled(of_header(header))
    return _Description(kind, visit.subject_id, visit.side, visit.timepoint, header.sequence)


def _peek(path: Path) -> tuple[Kind, SeriesHeader]:
    """The kind and header of DICOM files.

    Three files of a folder are looked at, so that a stray first file does not hide a series.

    Raises:
        BadInputError: one of them cannot be read.
    """
    files = _sample(path)
    if len(files) == 1 and is_segmentation(files[0]):
        return "labels", read_header(files[0])
    headers = [read_header(file) for file in files]
    if not headers:
        return "unknown", SeriesHeader()
    header = headers[0]
    same = all(other.sequence == header.sequence for other in headers)
    if not same or (header.sequence is None and not header.series_description):
        return "unknown", header
    return "series", header


def _sample(path: Path) -> list[DeliveredFile]:
    if path.is_dir():
        files = list(_data_files(path))
        chosen = sorted({0, len(files) // 2, len(files) - 1}) if files else []
        return [
            DeliveredFile(short_name(files[index]), files[index].read_bytes()) for index in chosen
        ]
    return [file for _, file in zip(range(1), delivery_files(path), strict=False)]
