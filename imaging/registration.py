"""The multi-echo series on the grid of the structural scan (paper: Methods, "Relaxometry").

Both scans are taken in one session and share the patient coordinate system of their tags, so the
alignment is rigid and known: `resample_to_grid`. What is left is the patient's movement between
the two scans, which the paper takes up by shifting slices until the images match;
`estimate_shift_mm` finds that shift in all three directions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import minimize

from imaging.registration_kernels import mutual_information, sample_slices
from imaging.volume import EchoSeries, Volume, index_to_world, world_to_index

BetweenSlices = Literal["linear", "nearest"]
BoxMm = tuple[tuple[float, float, float], tuple[float, float, float]]

_BINS = 32
"""Histogram bins. Fewer lose cartilage against fluid, more need more samples."""

_WORKING_MM = 1.2
"""Voxel size both scans are averaged to before they are compared. The shift is found to a fraction
of it, and full resolution costs twenty times as much for nothing but noise."""

_COARSE_STEP_MM = 2.0
"""Step of the exhaustive search, about half the width of the peak of the similarity in plane."""

_COARSE_POINTS = 20_000
"""Samples of the exhaustive search; the refinement uses all."""

_FEWEST_POINTS = 2_000
"""Samples below which a 32 x 32 histogram is too empty for its peak to mean anything."""

_LEAST_GAIN = 0.002
"""Relative gain in similarity below which a shift is noise and is not applied."""


@dataclass(frozen=True)
class ShiftEstimate:
    """The movement between two scans.

    Attributes:
        shift_mm: LPS translation that carries the multi-echo series onto the structural scan, ready
            for `resample_to_grid`; zero where it was not accepted.
        similarity_before: mutual information in nats as the tags say.
        similarity_after: mutual information at the best shift found, applied or not.
        accepted: whether the shift is to be applied.
        reason: why, in words.
    """

    shift_mm: tuple[float, float, float]
    similarity_before: float
    similarity_after: float
    accepted: bool
    reason: str


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Two scans made ready to be compared at any shift.

    Attributes:
        fixed_bin: histogram bin of each sample of the series, shape (n_point,).
        points: where each lies in the structural scan as the tags say, in its index, (n_point, 3).
        moving: the structural scan in units of bins.
        to_index: shape (3, 3), a move in mm along the series' axes -> index of the structural scan.
    """

    fixed_bin: NDArray[np.int64]
    points: NDArray[np.float64]
    moving: NDArray[np.float32]
    to_index: NDArray[np.float64]

    def similarity(self, move_mm: NDArray[np.float64]) -> float:
        """Mutual information once the series has moved along its axes, shape (3,)."""
        # The structural scan is read where the moved series would lie.
        offset = self.to_index @ move_mm
        return mutual_information(self.fixed_bin, self.points, offset, self.moving, _BINS)

    def thinned(self) -> "_Comparison":
        """The same with about `_COARSE_POINTS` of the samples."""
        step = max(1, len(self.points) // _COARSE_POINTS)
        return _Comparison(
            self.fixed_bin[::step].copy(), self.points[::step].copy(), self.moving, self.to_index
        )


def resample_to_grid(
    msme: EchoSeries,
    grid_affine: NDArray[np.float64],
    grid_shape: tuple[int, ...],
    *,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    mask: NDArray[np.bool_] | None = None,
    between_slices: BetweenSlices = "linear",
) -> NDArray[np.float32]:
    """Read every echo at the voxels of another grid of the same patient coordinate system.

    In the slice plane the interpolation is bicubic as in the paper (cubic convolution, Keys 1981,
    doi:10.1109/TASSP.1981.1163711, which is what MATLAB calls bicubic). Between slices it is
    linear: the slices are 2-D acquisitions 3 to 4 mm apart, and a cubic through them would make up
    over- and undershoots from tissue it has not seen.

    Args:
        msme: the series.
        grid_affine: shape (4, 4), (slice, row, column) index -> LPS mm of the wanted grid.
        grid_shape: (n_slice, n_row, n_column) of the wanted grid.
        shift_mm: LPS translation of the series before it is read, see `estimate_shift_mm`.
        mask: where to read, of shape `grid_shape`; everywhere by default.
        between_slices: `linear`, or `nearest` to keep every value that of one acquired slice.

    Returns:
        Shape (n_voxel, n_echo), voxels in the C order of the mask; NaN where the series does not
        reach (more than half a voxel beyond its outermost voxel centres).

    Raises:
        ValueError: the mask is not of the grid's shape, or an unknown `between_slices`.
    """
    if between_slices not in {"linear", "nearest"}:
        raise ValueError(f"between_slices is {between_slices!r}; use linear or nearest")
    if mask is None:
        mask = np.ones(grid_shape, dtype=bool)
    if mask.shape != tuple(grid_shape):
        raise ValueError(f"the mask has shape {mask.shape} and the grid {tuple(grid_shape)}")
    to_series = np.linalg.inv(msme.affine[:3, :3])
    matrix = to_series @ grid_affine[:3, :3]
    offset = to_series @ (grid_affine[:3, 3] - np.asarray(shift_mm) - msme.affine[:3, 3])
    voxels = np.argwhere(mask)
    signals = np.empty((len(voxels), len(msme.array)), dtype=np.float32)
    array = np.ascontiguousarray(msme.array, dtype=np.float32)
    sample_slices(array, voxels, matrix, offset, between_slices == "nearest", signals)
    return signals


def mask_box_mm(
    affine: NDArray[np.float64], mask: NDArray[np.bool_], margin_mm: float = 10.0
) -> BoxMm:
    """The LPS box around a mask, for the `region_mm` of `estimate_shift_mm`.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty; there is no box around it")
    corners = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        corners.append((hit[0], hit[-1]))
    points_mm = index_to_world(affine, np.array(np.meshgrid(*corners)).reshape(3, -1).T)
    low, high = points_mm.min(axis=0) - margin_mm, points_mm.max(axis=0) + margin_mm
    return (
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )


def estimate_shift_mm(
    msme_first_echo: Volume,
    dess: Volume,
    *,
    largest_shift_mm: float = 8.0,
    region_mm: BoxMm | None = None,
) -> ShiftEstimate:
    """The translation between the two scans that maximises their mutual information.

    Mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072) because the contrasts
    differ. The structural scan is read at the voxel centres of the multi-echo slices, after being
    blurred across them as they are, so that nothing is interpolated between slices. Every shift of
    a 2 mm grid within the limit is tried before the best is refined, so that the result does not
    depend on a start; the samples are the same for every shift and no random numbers are used.

    Args:
        msme_first_echo: first echo of the series.
        dess: structural scan in the same patient coordinate system.
        largest_shift_mm: limit along each axis of the series. A knee does not move further between
            two scans of a session; a best shift at the limit is a failure and is not applied.
        region_mm: LPS box to compare in, e.g. `mask_box_mm` of the cartilage; all by default.

    Returns:
        A shift that was not accepted is zero, and the reason says why.
    """
    fixed = _average_blocks(msme_first_echo, through_slices=False)
    moving = _average_blocks(dess, through_slices=True)
    moving = _blur_across_slices(moving, fixed)
    points_mm, values = _samples(fixed, region_mm)
    points = world_to_index(moving.affine, points_mm)
    # Unit vectors of the series' own axes, so that slice shifts and in-plane shifts stay apart.
    axes = fixed.affine[:3, :3] / fixed.spacing_mm
    to_index = np.linalg.inv(moving.affine[:3, :3]) @ axes
    reach = np.abs(to_index).sum(axis=1) * largest_shift_mm
    room = np.array(moving.array.shape) - 1 - reach
    inside = ((points >= reach) & (points <= room)).all(axis=1)
    points, values = points[inside], values[inside]
    if len(points) < _FEWEST_POINTS:
        return _rejected(0.0, 0.0, "the two scans overlap too little to be compared")
    fixed_bins = _to_bins(values)
    moving_bins = _to_bins(moving.array)
    if fixed_bins is None or moving_bins is None:
        return _rejected(0.0, 0.0, "one of the two scans has no contrast")
    pair = _Comparison(fixed_bins.astype(np.int64), points, moving_bins, to_index)
    before = pair.similarity(np.zeros(3))
    refined = minimize(
        lambda move: -pair.similarity(move),
        _best_on_grid(pair.thinned(), largest_shift_mm),
        method="Powell",
        bounds=[(-largest_shift_mm, largest_shift_mm)] * 3,
        options={"xtol": 0.01, "ftol": 1e-7, "maxfev": 400},
    )
    after = -float(refined.fun)
    if np.abs(refined.x).max() > largest_shift_mm - 0.1:
        return _rejected(
            before, after, f"the best shift lies at the limit of {largest_shift_mm} mm"
        )
    if after < before * (1 + _LEAST_GAIN):
        return _rejected(before, after, "no shift makes the scans more alike")
    shift = axes @ refined.x
    return ShiftEstimate(
        (float(shift[0]), float(shift[1]), float(shift[2])), before, after, True, "more alike"
    )


def _rejected(before: float, after: float, reason: str) -> ShiftEstimate:
    return ShiftEstimate((0.0, 0.0, 0.0), before, after, False, reason)


def _best_on_grid(pair: _Comparison, largest_mm: float) -> NDArray[np.float64]:
    """The most similar of all moves on a regular grid that contains zero."""
    n = int(largest_mm // _COARSE_STEP_MM)
    line = np.arange(-n, n + 1) * _COARSE_STEP_MM
    moves = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    return moves[int(np.argmax([pair.similarity(move) for move in moves]))]


def _average_blocks(volume: Volume, *, through_slices: bool) -> Volume:
    """Average whole blocks of voxels down to about the working voxel size."""
    factors = np.maximum(1, np.round(_WORKING_MM / volume.spacing_mm).astype(int))
    if not through_slices:
        factors[0] = 1
    shape = np.array(volume.array.shape) // factors
    kept = volume.array[tuple(slice(n * f) for n, f in zip(shape, factors, strict=True))]
    blocks = kept.reshape(*(int(v) for pair in zip(shape, factors, strict=True) for v in pair))
    array = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    affine = volume.affine.copy()
    affine[:3, 3] = index_to_world(volume.affine, (factors - 1) / 2)
    affine[:3, :3] *= factors
    return Volume(np.nan_to_num(array), affine)


def _blur_across_slices(dess: Volume, msme: Volume) -> Volume:
    """Blur along the axis nearest the slice normal by the spread of a slice of full width."""
    normal = np.cross(msme.affine[:3, 1], msme.affine[:3, 2])
    alignment = np.abs(dess.affine[:3, :3].T @ normal) / dess.spacing_mm
    axis = int(np.argmax(alignment))
    # The standard deviation of a box of width w is w / sqrt(12).
    missing_mm2 = (msme.spacing_mm[0] ** 2 - dess.spacing_mm[axis] ** 2) / 12
    if missing_mm2 <= 0:
        return dess
    sigma = np.sqrt(missing_mm2) / dess.spacing_mm[axis]
    blurred = gaussian_filter1d(dess.array, sigma, axis=axis, mode="nearest", truncate=3.0)
    return Volume(blurred, dess.affine)


def _samples(
    volume: Volume, region_mm: BoxMm | None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Voxel centres (n, 3) in LPS mm and values (n,), within the region."""
    index = np.indices(volume.array.shape).reshape(3, -1).T.astype(np.float64)
    points_mm = index_to_world(volume.affine, index)
    values = volume.array.ravel()
    if region_mm is None:
        return points_mm, values
    low, high = np.array(region_mm)
    inside = ((points_mm >= low) & (points_mm <= high)).all(axis=1)
    return points_mm[inside], values[inside]


def _to_bins(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Intensities in units of bins, [0, n_bin - 1]; None without contrast.

    The brightest and darkest half per cent share the end bins, or one bright vessel would take
    most of the range.
    """
    low, high = np.percentile(values, [0.5, 99.5])
    if not high > low:
        return None
    scaled = (np.clip(values, low, high) - low) * ((_BINS - 1) / (high - low))
    return np.ascontiguousarray(scaled, dtype=np.float32)
