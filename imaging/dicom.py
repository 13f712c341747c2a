"""A DICOM series -> a volume, or echoes, in patient coordinates.

The place of a slice comes from ImagePositionPatient projected on the normal of
ImageOrientationPatient. SliceThickness is not the distance between slices wherever there is a gap
(the OAI's T2 series: 3 mm slices, 3.5 mm apart) and is not read. Echo times come from each file.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.archive import delivery_files, short_name
from imaging.dicom_frames import Frame, read_frames, read_header
from imaging.dicom_header import SeriesHeader
from imaging.errors import BadInputError, Reason
from imaging.volume import EchoSeries, Volume

SAME_SLICE_MM = 0.02
"""Positions closer than this are one slice: scanners write them to 1e-4 mm or better."""

SAME_ECHO_MS = 0.02
"""Echo times closer than this are one echo."""

_RE_EXPORT = "Export the series again, complete and once"


@dataclass(frozen=True, eq=False)
class Series:
    """One DICOM series.

    Attributes:
        image: a volume, or echoes where the slices have more than one echo time; float32.
        header: the allow-listed description.
        fingerprint: SHA-256 of the files' contents, whatever their names and order.
        n_files: how many files it came from.
    """

    image: Volume | EchoSeries
    header: SeriesHeader
    fingerprint: str
    n_files: int


def read_series(path: Path, spacing_tolerance: float = 0.01) -> Series:
    """Read the one series in a folder, archive or multi-frame file, files in any order.

    Args:
        path: folder, .zip, .tar, .tar.gz, .tgz or single file.
        spacing_tolerance: how much a slice distance may differ from the others, as a share of it
            (never less than 0.02 mm).

    Raises:
        BadInputError: whatever makes the series unusable; see `imaging.errors.Reason`.
    """
    frames: list[Frame] = []
    digests: list[bytes] = []
    for file in delivery_files(path):
        frames.extend(read_frames(file))
        digests.append(hashlib.sha256(file.content).digest())
    name = short_name(path)
    if not frames:
        raise BadInputError(
            Reason.MISSING_INPUT,
            name,
            "holds no DICOM file",
            "Give the folder or archive that holds the slices",
        )
    _require_one_series(frames, name)
    image = _assemble(frames, name, spacing_tolerance)
    n_echo = len(image.echo_times_ms) if isinstance(image, EchoSeries) else 1
    header = _common_header(frames)
    if n_echo > 1 and header.sequence is None and "CALC" not in header.series_description:
        header = replace(header, sequence="MSME")
    return Series(image, header, _combine(digests), len(digests))


def peek_header(path: Path) -> SeriesHeader:
    """The header of a series from its first file alone, pixels unread.

    Raises:
        BadInputError: the first file cannot be read, or there is none.
    """
    for file in delivery_files(path):
        return read_header(file)
    raise BadInputError(
        Reason.MISSING_INPUT,
        short_name(path),
        "holds no DICOM file",
        "Give the folder or archive that holds the slices",
    )


def read_volume(path: Path) -> Volume:
    """Read a series with one echo.

    Raises:
        BadInputError: as `read_series`, and MIXED_SERIES where there are several echoes.
    """
    image = read_series(path).image
    if isinstance(image, EchoSeries):
        raise BadInputError(
            Reason.MIXED_SERIES,
            short_name(path),
            f"holds {len(image.echo_times_ms)} echoes of each slice where one image is wanted",
            "Give the single-echo series (DESS), or give this one as the T2 series",
        )
    return image


def read_echoes(path: Path) -> EchoSeries:
    """Read a series with several echoes.

    Raises:
        BadInputError: as `read_series`, and MISSING_ECHO where there is only one.
    """
    image = read_series(path).image
    if isinstance(image, Volume):
        raise BadInputError(
            Reason.MISSING_ECHO,
            short_name(path),
            "holds one echo of each slice where a multi-echo series is wanted",
            "Give the T2 series (SAG_T2_MAP) with all its echoes",
        )
    return image


def _combine(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _common_header(frames: Sequence[Frame]) -> SeriesHeader:
    """The header most files carry; ties go to the one that sorts first, not the first read."""
    counts = Counter(frame.header for frame in frames)
    return min(counts, key=lambda header: (-counts[header], repr(header)))


def _odd_one_out(frames: Sequence[Frame], keys: Sequence[object]) -> Frame:
    """A frame that differs from the majority."""
    common = Counter(keys).most_common(1)[0][0]
    return next(frame for frame, key in zip(frames, keys, strict=True) if key != common)


def _require_one_series(frames: Sequence[Frame], name: str) -> None:
    """All frames belong on one stack: one series, one orientation, one pixel grid."""
    remedy = "Leave the files of one series in a folder; move localisers and other series elsewhere"
    if len({frame.series_uid for frame in frames}) > 1 and not _is_one_uid_per_echo(frames):
        raise BadInputError(
            Reason.MIXED_SERIES,
            name,
            f"holds files of {len({frame.series_uid for frame in frames})} series",
            remedy,
        )
    shapes = [frame.pixels.shape for frame in frames]
    if len(set(shapes)) > 1:
        odd = _odd_one_out(frames, shapes)
        rows, columns = odd.pixels.shape
        common = Counter(shapes).most_common(1)[0][0]
        raise BadInputError(
            Reason.WRONG_MATRIX_SIZE,
            odd.file,
            f"has {rows} x {columns} pixels where the rest of its series has "
            f"{common[0]} x {common[1]}",
            "Remove the file if it is not of this series, or export the series again",
        )
    first = frames[0]
    for frame in frames:
        turned = max(
            float(np.abs(frame.along_row - first.along_row).max()),
            float(np.abs(frame.along_column - first.along_column).max()),
        )
        if turned > 1e-3:
            raise BadInputError(
                Reason.MIXED_SERIES, frame.file, "lies in another plane than the rest", remedy
            )
        if not np.allclose(frame.pixel_spacing_mm, first.pixel_spacing_mm, rtol=1e-3):
            raise BadInputError(
                Reason.MIXED_SERIES, frame.file, "has other pixel spacing than the rest", remedy
            )


def _is_one_uid_per_echo(frames: Sequence[Frame]) -> bool:
    """Whether the series differ in nothing but one echo time each, as some scanners write."""
    by_uid: dict[str, list[Frame]] = {}
    for frame in frames:
        by_uid.setdefault(frame.series_uid, []).append(frame)
    echoes: set[float] = set()
    places: set[frozenset[object]] = set()
    for members in by_uid.values():
        times = {frame.echo_time_ms for frame in members}
        if len(times) != 1 or None in times:
            return False
        echoes |= {time for time in times if time is not None}
        places.add(
            frozenset(
                (
                    frame.pixels.shape,
                    tuple(np.round(frame.position_mm, 2) + 0.0),
                    tuple(np.round([*frame.along_row, *frame.along_column], 3) + 0.0),
                )
                for frame in members
            )
        )
    return len(echoes) == len(by_uid) and len(places) == 1


def _groups(values: NDArray[np.float64], gap: float) -> NDArray[np.intp]:
    """Number of the group each value falls in, groups rising and more than `gap` apart."""
    order = np.argsort(values, kind="stable")
    number = np.zeros(len(values), dtype=np.intp)
    number[order[1:]] = np.cumsum(np.diff(values[order]) > gap)
    return number


def _assemble(frames: list[Frame], name: str, spacing_tolerance: float) -> Volume | EchoSeries:
    first = frames[0]
    normal = np.cross(first.along_row, first.along_column)
    normal /= np.linalg.norm(normal)
    along_normal_mm = np.array([frame.position_mm @ normal for frame in frames])
    slice_number = _groups(along_normal_mm, SAME_SLICE_MM)
    echo_number, echo_times_ms = _echoes(frames)
    _require_no_echo_gap(echo_times_ms, name)
    n_slice = int(slice_number.max()) + 1
    if n_slice < 2:
        raise BadInputError(
            Reason.MISSING_SLICE,
            name,
            "holds a single slice position, which makes no volume",
            _RE_EXPORT,
        )
    n_echo = len(echo_times_ms)
    table = _frame_table(frames, slice_number, echo_number, (n_slice, n_echo), along_normal_mm)
    positions_mm = np.array([along_normal_mm[slice_number == i].mean() for i in range(n_slice)])
    _require_regular(positions_mm, name, spacing_tolerance)
    _require_complete(table, positions_mm, echo_times_ms, name)

    array = np.stack([[frames[i].pixels for i in row] for row in table.T])
    for echo, echo_time_ms in zip(array, echo_times_ms, strict=True):
        if echo.min() == echo.max():
            which = f"the echo at {echo_time_ms:g} ms" if n_echo > 1 else "every voxel"
            raise BadInputError(
                Reason.ALL_ZERO_VOLUME,
                name,
                f"is empty: {which} is {echo.flat[0]:g} throughout",
                "Check the export; the scan may have been anonymised away or not reconstructed",
            )
    affine = _affine(frames, table[:, 0], normal, positions_mm, spacing_tolerance)
    if n_echo == 1:
        return Volume(array[0], affine)
    return EchoSeries(array, affine, echo_times_ms)


def _echoes(frames: Sequence[Frame]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Echo number of each frame, and the echo times; one echo where no file gives a time."""
    silent = [frame for frame in frames if frame.echo_time_ms is None]
    if len(silent) == len(frames):
        return np.zeros(len(frames), dtype=np.intp), np.array([np.nan])
    if silent:
        raise BadInputError(
            Reason.MISSING_TAG,
            silent[0].file,
            "lacks EchoTime, which other files of its series have",
            "Export the original series again, with EchoTime kept",
        )
    times_ms = np.array([frame.echo_time_ms for frame in frames], dtype=np.float64)
    number = _groups(times_ms, SAME_ECHO_MS)
    return number, np.array([np.median(times_ms[number == i]) for i in range(number.max() + 1)])


def _require_no_echo_gap(echo_times_ms: NDArray[np.float64], name: str) -> None:
    """An otherwise even train with a gap of whole steps has lost an echo in every slice.

    Trains that are uneven by design (10, 20, 40, 80 ms) have no common step and pass.
    """
    gaps_ms = np.diff(echo_times_ms)
    if len(gaps_ms) < 2:
        return
    # The lower median: with one echo of four missing, the smaller gap is the true one.
    step_ms = float(np.sort(gaps_ms)[(len(gaps_ms) - 1) // 2])
    steps = np.rint(gaps_ms / step_ms)
    is_whole = np.abs(gaps_ms - steps * step_ms) <= 0.02 * step_ms
    if is_whole.all() and (steps == 1).mean() >= 0.5 and (steps > 1).any():
        last = int(np.argmax(steps > 1))
        raise BadInputError(
            Reason.MISSING_ECHO,
            name,
            f"lacks the echo at {echo_times_ms[last] + step_ms:g} ms of every slice (echoes lie "
            f"{step_ms:g} ms apart)",
            _RE_EXPORT,
        )


def _frame_table(
    frames: Sequence[Frame],
    slice_number: NDArray[np.intp],
    echo_number: NDArray[np.intp],
    shape: tuple[int, int],
    along_normal_mm: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Which frame is slice s at echo e, shape (n_slice, n_echo); -1 where there is none."""
    table = np.full(shape, -1, dtype=np.intp)
    for i, place in enumerate(zip(slice_number, echo_number, strict=True)):
        if table[place] >= 0:
            files = sorted({frames[i].file, frames[table[place]].file})
            raise BadInputError(
                Reason.DUPLICATE_SLICE,
                files[-1],
                f"is a second slice at {along_normal_mm[i]:.2f} mm along the normal"
                + (f", besides {files[0]}" if len(files) > 1 else ""),
                "Remove one of the two, or separate the two scans of the same knee",
            )
        table[place] = i
    return table


def _require_complete(
    table: NDArray[np.intp],
    positions_mm: NDArray[np.float64],
    echo_times_ms: NDArray[np.float64],
    name: str,
) -> None:
    holes = np.argwhere(table < 0)
    if len(holes):
        i_slice, i_echo = holes[0]
        more = f" (and {len(holes) - 1} more)" if len(holes) > 1 else ""
        raise BadInputError(
            Reason.MISSING_ECHO,
            name,
            f"lacks the echo at {echo_times_ms[i_echo]:g} ms of the slice at "
            f"{positions_mm[i_slice]:.2f} mm along the normal{more}",
            _RE_EXPORT,
        )


def _tolerance_mm(spacing_mm: float, spacing_tolerance: float) -> float:
    return max(spacing_tolerance * spacing_mm, SAME_SLICE_MM)


def _require_regular(
    positions_mm: NDArray[np.float64], name: str, spacing_tolerance: float
) -> None:
    gaps_mm = np.diff(positions_mm)
    # The lower median: with one slice of three missing, the smaller gap is the true one.
    spacing_mm = float(np.sort(gaps_mm)[(len(gaps_mm) - 1) // 2])
    allowed_mm = _tolerance_mm(spacing_mm, spacing_tolerance)
    for below_mm, gap_mm in zip(positions_mm, gaps_mm, strict=False):
        if abs(gap_mm - spacing_mm) <= allowed_mm:
            continue
        steps = round(gap_mm / spacing_mm)
        if steps >= 2 and abs(gap_mm - steps * spacing_mm) <= steps * allowed_mm:
            raise BadInputError(
                Reason.MISSING_SLICE,
                name,
                f"lacks {steps - 1} slice(s) between {below_mm:.2f} and "
                f"{below_mm + gap_mm:.2f} mm along the normal (slices lie {spacing_mm:.3f} mm "
                "apart)",
                _RE_EXPORT,
            )
        raise BadInputError(
            Reason.IRREGULAR_SPACING,
            name,
            f"has slices {gap_mm:.3f} mm apart at {below_mm:.2f} mm along the normal, where the "
            f"rest lie {spacing_mm:.3f} mm apart",
            "Use a series with evenly spaced slices; resampling would invent data",
        )


def _affine(
    frames: Sequence[Frame],
    first_echo: NDArray[np.intp],
    normal: NDArray[np.float64],
    positions_mm: NDArray[np.float64],
    spacing_tolerance: float,
) -> NDArray[np.float64]:
    """(slice, row, column) index -> LPS mm; slices run along the normal."""
    origins = np.array([frames[i].position_mm for i in first_echo])
    spacing_mm = float((positions_mm[-1] - positions_mm[0]) / (len(positions_mm) - 1))
    straight = origins[0] + np.outer(positions_mm - positions_mm[0], normal)
    sideways_mm = np.linalg.norm(origins - straight, axis=1)
    # A steady drift of under the tolerance a slice is rounding of the orientation.
    allowed_mm = _tolerance_mm(spacing_mm, spacing_tolerance) * np.arange(1, len(origins) + 1)
    if (sideways_mm > allowed_mm).any():
        worst = int(np.argmax(sideways_mm - allowed_mm))
        raise BadInputError(
            Reason.IRREGULAR_SPACING,
            frames[first_echo[worst]].file,
            f"is shifted {sideways_mm[worst]:.2f} mm within its plane against the other slices",
            "Use a series whose slices lie straight behind one another",
        )
    first = frames[first_echo[0]]
    affine = np.eye(4)
    affine[:3, 0] = (origins[-1] - origins[0]) / (len(origins) - 1)
    affine[:3, 1] = first.along_column * first.pixel_spacing_mm[0]
    affine[:3, 2] = first.along_row * first.pixel_spacing_mm[1]
    affine[:3, 3] = origins[0]
    return affine
