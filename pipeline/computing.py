"""One knee-visit computed: what the workers of the two steps do.

A worker finds its inputs by path, makes sure they are still the ones that were ingested, and gives
back rows and compact arrays. It writes nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imaging.dicom import read_series
from imaging.errors import BadInputError, Reason
from imaging.knee import KneeMaps, MapParameters, knee_maps
from imaging.label_files import (
    read_labels,
    require_bones,
    require_fine_grid,
    require_same_grid,
    require_whole,
)
from imaging.labels import Bone, LabelVolume
from imaging.morphometry import tissue_volumes_mm3
from imaging.side import resolve_side
from imaging.volume import EchoSeries, Side, Volume, to_knee_frame
from lake.maps import MapPart
from pipeline.config import CODE_VERSION
from pipeline.inbox import missing_input
from pipeline.parts import map_parts
from pipeline.reading import grid_columns, label_fingerprint, named_scheme, require_storable

Row = dict[str, Any]


@dataclass(frozen=True)
class Input:
    """One file, folder or archive a knee is computed from.

    Attributes:
        path: where it lies.
        fingerprint: of its content when it was ingested.
    """

    path: Path
    fingerprint: str


@dataclass(frozen=True)
class Grid:
    """The grid of a scan.

    Attributes:
        shape: (n_slice, n_row, n_column).
        affine: 16 numbers by rows, (slice, row, column) index -> LPS mm.
    """

    shape: tuple[int, int, int]
    affine: tuple[float, ...]

    def volume(self) -> Volume:
        """A volume of nothing on this grid."""
        nothing = np.broadcast_to(np.uint8(0), self.shape)
        return Volume(nothing, np.array(self.affine).reshape(4, 4))


@dataclass(frozen=True)
class KneeTask:
    """A pending knee-visit.

    Attributes:
        row: knee_visit, subject_id, side, timepoint, scheme, source, label_fingerprint,
            input_fingerprint, as the pending query gives them.
        label: the label volume.
        scheme_source: its tissue map, a shipped name or a .toml file.
        grid: of the DESS scan, where there is one.
        dess, msme: the scans, where they are needed.
    """

    row: Mapping[str, Any]
    label: Input
    scheme_source: str
    grid: Grid | None = None
    dess: Input | None = None
    msme: Input | None = None


@dataclass(frozen=True, eq=False)
class KneeResult:
    """What a knee-visit yields.

    Attributes:
        tables: rows by table.
        parts: maps by bone, one knee each; none for segmentation.
        seconds: it took.
    """

    tables: Mapping[str, list[Row]]
    parts: Mapping[Bone, MapPart]
    seconds: float


def check_label(task: KneeTask) -> KneeResult:
    """A delivered label against its scheme, its scan's grid and its declared side.

    Raises:
        BadInputError: MISSING_BONE, GRID_MISMATCH, WRONG_SIDE and what reading raises.
    """
    start = time.perf_counter()
    labels, evidence = checked_label(task)
    in_frame = to_knee_frame(labels, _side(task))
    key = _key(task)
    segmentation = {
        **key,
        "scheme": task.row["scheme"],
        "source": task.row["source"],
        "label_fingerprint": task.label.fingerprint,
        "side_evidence": evidence,
        "mirrored": _side(task) == "LEFT",
        **grid_columns(in_frame.array.shape, in_frame.affine),
    }
    volumes = [
        {**key, "tissue": str(tissue), "volume_mm3": float(volume)}
        for tissue, volume in tissue_volumes_mm3(labels).items()
    ]
    tables = {"segmentations": [segmentation], "tissue_volumes": volumes}
    require_storable(tables, task.label.path, Reason.IRREGULAR_SPACING)
    return KneeResult(tables, {}, time.perf_counter() - start)


def compute_maps(task: KneeTask, parameters: MapParameters) -> KneeResult:
    """Maps and biomarkers of a knee-visit.

    Raises:
        BadInputError: what reading and measuring raise.
    """
    start = time.perf_counter()
    labels, _ = checked_label(task)
    echoes = scan_image(task.msme)
    with_shift = echoes is not None and parameters.align_t2
    structural = scan_image(task.dess) if with_shift else None
    measured = knee_maps(
        labels,
        _side(task),
        t2_series=echoes if isinstance(echoes, EchoSeries) else None,
        structural=structural if isinstance(structural, Volume) else None,
        parameters=parameters,
    )
    tables = _map_tables(_key(task), measured)
    require_storable(tables, task.label.path, Reason.BAD_SURFACE)
    return KneeResult(
        tables,
        map_parts(
            measured,
            parameters,
            CODE_VERSION["maps"],
            knee_visit=task.row["knee_visit"],
            subject_id=int(task.row["subject_id"]),
        ),
        time.perf_counter() - start,
    )


def _key(task: KneeTask) -> Row:
    return {name: task.row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")}


def _side(task: KneeTask) -> Side:
    return "LEFT" if task.row["side"] == "LEFT" else "RIGHT"


def checked_label(task: KneeTask) -> tuple[LabelVolume, str]:
    """A label checked and put on its scan's grid, and what its side rests on.

    Raises:
        BadInputError: MISSING_BONE, GRID_MISMATCH, WRONG_SIDE and what reading raises.
    """
    path, fingerprint = task.label.path, task.label.fingerprint
    if label_fingerprint(path) != fingerprint:
        raise missing_input(fingerprint)
    scheme = named_scheme(task.scheme_source, task.row["scheme"], fingerprint)
    grid = task.grid.volume() if task.grid is not None else None
    labels = read_labels(path, scheme, grid)
    require_bones(labels, path)
    require_whole(labels, path)
    require_fine_grid(labels, path)
    if grid is not None:
        labels = require_same_grid(labels, grid, path)
    _, evidence = resolve_side(_side(task), None, labels, path)
    return labels, evidence


def scan_image(scan: Input | None) -> Volume | EchoSeries | None:
    """The pixels of a scan; None where there is none.

    Raises:
        BadInputError: MISSING_INPUT where it is not what was ingested any more.
    """
    if scan is None:
        return None
    try:
        series = read_series(scan.path)
    except BadInputError:
        # It was whole when it was ingested.
        raise missing_input(scan.fingerprint) from None
    if series.fingerprint != scan.fingerprint:
        raise missing_input(scan.fingerprint)
    return series.image


def _finite(value: float | None) -> float | None:
    """NULL instead of NaN."""
    return None if value is None or not np.isfinite(value) else float(value)


def _map_tables(key: Row, measured: KneeMaps) -> dict[str, list[Row]]:
    shift = measured.shift
    shift_mm = shift.shift_mm if shift is not None else (0.0, 0.0, 0.0)
    return {
        "biomarkers": [
            {**key, **vars(one), "mean": _finite(one.mean), "sd": _finite(one.sd)}
            for one in measured.biomarkers
        ],
        "map_agreement": [{**key, **vars(one)} for one in measured.agreement],
        "t2_quality": [
            {
                **key,
                **vars(one),
                "median_residual": _finite(one.median_residual),
                **{
                    f"shift_{axis}_mm": float(value)
                    for axis, value in zip("xyz", shift_mm, strict=True)
                },
                "shift_accepted": shift is not None and shift.accepted,
            }
            for one in measured.t2_quality
        ],
    }
