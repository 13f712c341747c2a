"""One delivery read whole and checked: what a worker of ingest does.

What comes back is plain JSON: a row for the lake, or a reason. It is remembered beside the data,
so that a lake is filled again without reading an unchanged delivery twice.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imaging.archive import short_name
from imaging.dicom import Series, peek_header, read_series
from imaging.dicom_header import SeriesHeader
from imaging.errors import BadInputError, Reason
from imaging.label_files import LABEL_SUFFIXES, file_fingerprint, read_labels
from imaging.labels import Scheme, load_scheme
from imaging.side import resolve_side
from imaging.volume import EchoSeries
from lake.errors import SchemaError
from lake.rows import to_arrow
from lake.tables import TABLES
from pipeline.inbox import Delivery, label_content, loose_beside_folders
from pipeline.knee_visit import KneeVisit, of_header, of_path, require_complete, resolve

Row = dict[str, Any]
Outcome = dict[str, Any]
"""`status` is landed, quarantined or skipped; `table` and `row` are those of the lake;
`fingerprint` is of the content; a label also has `scheme_source`, a shipped name or a .toml
file."""

MIN_ECHOES = 3
"""A decay with an offset has three unknowns."""


@dataclass(frozen=True)
class Reading:
    """What a worker is asked to read.

    Attributes:
        delivery: what `discover` found.
        parts: of its path below the inbox.
        declared: what the caller says of whose it is.
        scheme: tissue map of a label, a shipped name or a .toml file.
    """

    delivery: Delivery
    parts: tuple[str, ...]
    declared: KneeVisit
    scheme: str


def read_delivery(reading: Reading) -> Outcome:
    """Read and check one delivery; what is wrong with it is an outcome too."""
    try:
        if reading.delivery.kind == "labels":
            return _read_label(reading)
        return _read_scan(reading)
    except BadInputError as error:
        return refused(reading, error, _content_fingerprint(reading.delivery.path))


def refused(reading: Reading, error: BadInputError, fingerprint: str | None) -> Outcome:
    """The outcome of a delivery that cannot be used."""
    delivery = reading.delivery
    visit = reading.declared.filled(
        KneeVisit(delivery.subject_id, delivery.side, delivery.timepoint)
    )
    if error.reason == Reason.UNKNOWN_KNEE_VISIT:
        visit = KneeVisit()
    return {
        "status": "quarantined",
        "table": "quarantine",
        "fingerprint": None,
        "row": {
            **_knee(visit),
            "stage": "ingest",
            "file": error.file,
            "reason": str(error.reason),
            "what": error.what,
            "remedy": error.remedy,
            "input_fingerprint": fingerprint,
        },
    }


def scheme_name(source: str) -> str:
    """What a tissue map is called in the lake: a user's own with a hash of its content.

    Raises:
        BadInputError: UNKNOWN_SCHEME.
    """
    name = load_scheme(source).name
    if not source.endswith(".toml"):
        return name
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return f"{short_name(name)}@{digest[:8]}"


def named_scheme(source: str, name: str, fingerprint: str) -> Scheme:
    """The tissue map a label was ingested with.

    Raises:
        BadInputError: MISSING_INPUT where the file of the tissue map changed since.
    """
    if scheme_name(source) != name:
        raise BadInputError(
            Reason.MISSING_INPUT,
            fingerprint[:12],
            f"is a label whose tissue map {name} changed since it was ingested",
            "Run `kneelake ingest` again",
        )
    return load_scheme(source)


def label_fingerprint(path: Path) -> str:
    """Fingerprint of a label volume, the pixels of a detached header included.

    Raises:
        BadInputError: there is nothing to read.
    """
    files = label_content(path) if path.is_file() else [path]
    digests = [file_fingerprint(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("|".join(digests).encode()).hexdigest()


def _knee(visit: KneeVisit) -> dict[str, Any]:
    return {
        "knee_visit": visit.name,
        "subject_id": visit.subject_id,
        "side": visit.side,
        "timepoint": visit.timepoint or "unknown",
    }


def _content_fingerprint(path: Path) -> str | None:
    try:
        return label_fingerprint(path)
    except (BadInputError, OSError):
        return None


def _visit(reading: Reading, header: SeriesHeader) -> KneeVisit:
    name = short_name(reading.delivery.path)
    return resolve(reading.declared, of_path(reading.parts, name), of_header(header), name)


def _read_scan(reading: Reading) -> Outcome:
    path = reading.delivery.path
    if path.is_dir() and loose_beside_folders(path):
        raise BadInputError(
            Reason.MIXED_SERIES,
            short_name(path),
            "holds loose files beside folders of files",
            "Put the files of each series into a folder of their own",
        )
    # What the path says costs nothing to check before 160 files are read.
    of_path(reading.parts, short_name(path))
    series = read_series(path)
    if series.header.sequence is None:
        return {"status": "skipped", "fingerprint": series.fingerprint}
    _require_usable(series, short_name(path))
    visit = _visit(reading, series.header)
    require_complete(visit, short_name(path))
    echo_times_ms: Sequence[float] = (
        series.image.echo_times_ms.tolist() if isinstance(series.image, EchoSeries) else []
    )
    row = {
        **_knee(visit),
        "sequence": series.header.sequence,
        "series_fingerprint": series.fingerprint,
        "n_files": series.n_files,
        **grid_columns(series.image.array.shape[-3:], series.image.affine),
        "affine": [float(value) for value in series.image.affine.ravel()],
        "echo_times_ms": list(echo_times_ms),
    }
    require_storable({"scans": [row]}, path, Reason.IRREGULAR_SPACING)
    return {
        "status": "landed",
        "table": "scans",
        "fingerprint": series.fingerprint,
        "row": row,
    }


def require_storable(tables: Mapping[str, list[Row]], file: Path, reason: Reason) -> None:
    """Check one knee's rows by themselves, so that they cannot spoil a batch of others.

    Raises:
        BadInputError: of the reason given, for a value out of its column's range.
    """
    for name, rows in tables.items():
        try:
            to_arrow(TABLES[name], rows, {"batch_id": ""})
        except SchemaError as error:
            raise BadInputError(
                reason,
                short_name(file),
                f"gives a value that cannot be right ({error})",
                "Look at the images and the label; if they are good, report this",
            ) from None


def grid_columns(shape: Sequence[int], affine: np.ndarray) -> dict[str, Any]:
    """The columns that describe a grid."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    axes = ("slice", "row", "column")
    return {f"n_{axis}": int(size) for axis, size in zip(axes, shape, strict=True)} | {
        f"{axis}_spacing_mm": float(size) for axis, size in zip(axes, spacing_mm, strict=True)
    }


def _require_usable(series: Series, name: str) -> None:
    """A series has the echoes that its sequence needs."""
    times_ms = series.image.echo_times_ms if isinstance(series.image, EchoSeries) else np.zeros(1)
    if series.header.sequence == "DESS":
        if len(times_ms) > 1:
            raise BadInputError(
                Reason.MIXED_SERIES,
                name,
                f"holds {len(times_ms)} echoes of each slice where DESS is one combined image",
                "Deliver the combined DESS image as a series of its own",
            )
        return
    if len(times_ms) < MIN_ECHOES:
        raise BadInputError(
            Reason.MISSING_ECHO,
            name,
            f"holds {len(times_ms)} echo(es) of each slice where T2 needs {MIN_ECHOES}",
            "Deliver the T2 series with all its echoes",
        )


def _read_label(reading: Reading) -> Outcome:
    path = reading.delivery.path
    name = short_name(path)
    labels = read_labels(path, load_scheme(reading.scheme))
    is_dicom = path.is_dir() or not path.name.lower().endswith(LABEL_SUFFIXES)
    visit = _visit(reading, peek_header(path) if is_dicom else SeriesHeader())
    if visit.side is None:
        side, _ = resolve_side(None, None, labels, path)
        visit = visit.filled(KneeVisit(side=side))
    require_complete(visit, name)
    fingerprint = label_fingerprint(path)
    return {
        "status": "landed",
        "table": "label_files",
        "fingerprint": fingerprint,
        "scheme_source": reading.scheme,
        "row": {
            **_knee(visit),
            "scheme": scheme_name(reading.scheme),
            "source": "delivered",
            "label_fingerprint": fingerprint,
        },
    }
