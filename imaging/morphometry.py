"""Cartilage thickness on the morphological skeleton, tissue volumes.

The paper's method (Morales 2021, "Morphometry"; Iriondo 2021, doi 10.1002/jor.24743) works in each
sagittal slice: the Euclidean distance transform, read on the morphological skeleton and doubled.
That value is quantised and biased: the transform measures to the *centre* of the first background
pixel, so a slab of n pixels reads n + 1 pixels when n is odd and n when it is even. The sub-voxel
variant measures the chord through the skeleton pixel to the sub-pixel border on both sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from imaging.labels import LabelVolume, Tissue
from imaging.surface import bounding_box
from imaging.volume import index_to_world

PAPER_PIXEL_MM = 140.0 / 384.0
"""In-plane pixel of the paper's 3D-DESS, mm. The bias of the skeleton method is in pixels, so a
label on another in-plane grid is first resampled to this one: otherwise the published thickness
would change with the grid a label happens to be stored on."""

_PHASES = (0.0, 0.5)
"""Where a resampled grid starts, in pixels along rows and columns. Odd and even slabs read one
pixel apart, so one start alone moves a real medial tibia's mean by 5 %; the mean over four is
within 3 % of the label's own grid."""

_RESAMPLING_SMOOTHING_MM = 0.25
"""In-plane Gaussian before resampling, so that old pixels' corners do not grow spurs."""

_SAME_PIXEL = 0.02
"""In-plane pixels within this share of PAPER_PIXEL_MM are taken as they are."""

_EDGE_SMOOTHING_PIXELS = 0.7
"""In-plane Gaussian that turns the pixel staircase into a border of sub-pixel position."""

_SLOPE_SMOOTHING_PIXELS = 1.5
"""In-plane Gaussian under which the direction across the cartilage is taken from the border."""

_MAX_HALF_CHORD_MM = 12.0
_CHORD_STEP_MM = 0.09


@dataclass(frozen=True, eq=False)
class SkeletonThickness:
    """Thickness of one cartilage at its skeleton pixels.

    Attributes:
        points_mm: skeleton pixels in the knee frame, shape (n, 3).
        skeleton_mm: the paper's thickness, doubled distance transform, shape (n,).
        chord_mm: the sub-pixel chord through the pixel, across the cartilage, shape (n,); NaN where
            the direction across is not defined (the cartilage's very ends).
        slice_normal: unit normal of the sagittal slices, shape (3,).
    """

    points_mm: NDArray[np.float64]
    skeleton_mm: NDArray[np.float64]
    chord_mm: NDArray[np.float64]
    slice_normal: NDArray[np.float64]


def tissue_volumes_mm3(labels: LabelVolume) -> dict[Tissue, float]:
    """Volume of every tissue of the scheme, voxel count times voxel volume, mm3."""
    voxel_mm3 = abs(float(np.linalg.det(labels.affine[:3, :3])))
    counts = np.bincount(labels.array.ravel())
    volumes: dict[Tissue, float] = {}
    for value, tissue in sorted(labels.scheme.tissues.items()):
        count = int(counts[value]) if value < len(counts) else 0
        volumes[tissue] = volumes.get(tissue, 0.0) + count * voxel_mm3
    return volumes


def skeleton_thickness(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], *, pixel_mm: float | None = PAPER_PIXEL_MM
) -> SkeletonThickness:
    """Thickness at the skeleton of a cartilage, slice by slice.

    Args:
        mask: one bone's cartilage in the knee frame, shape (n_slice, n_row, n_column).
        affine: index -> knee frame mm.
        pixel_mm: in-plane pixel the paper's method runs on; None keeps the label's own.

    Returns:
        Empty arrays where the mask is empty, or too thin to outlast resampling.
    """
    normal = np.cross(affine[:3, 1], affine[:3, 2])
    normal /= np.linalg.norm(normal)
    nothing = SkeletonThickness(np.empty((0, 3)), np.empty(0), np.empty(0), normal)
    if not mask.any():
        return nothing
    box = bounding_box(mask)
    slices = np.pad(mask[box], ((0, 0), (4, 4), (4, 4)))
    affine = affine.copy()
    start = np.array([edge.start for edge in box]) - np.array([0, 4, 4])
    affine[:3, 3] = index_to_world(affine, start)
    found = []
    for planes, at in _on_paper_grid(slices, affine, pixel_mm):
        pixel = np.linalg.norm(at[:3, 1:3], axis=0)
        for index, plane in enumerate(planes):
            if plane.any():
                pixels, skeleton_mm, chord_mm = _slice_thickness(plane, index, pixel)
                found.append((index_to_world(at, pixels), skeleton_mm, chord_mm))
    if not found:
        return nothing
    points_mm, skeleton_mm, chord_mm = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return SkeletonThickness(points_mm, skeleton_mm, chord_mm, normal)


def _slice_thickness(
    plane: NDArray[np.bool_], index: int, pixel: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Skeleton pixels of one slice as (slice, row, column), with both thicknesses."""
    distance, nearest = ndimage.distance_transform_edt(plane, sampling=pixel, return_indices=True)
    rows, columns = np.nonzero(skeletonize(plane))
    binary = plane.astype(np.float32)
    slope = ndimage.gaussian_filter(binary, _SLOPE_SMOOTHING_PIXELS)
    border = tuple(nearest[:, rows, columns])
    toward = -np.stack(
        [np.gradient(slope, pixel[axis], axis=axis)[border] for axis in range(2)], axis=1
    ).astype(np.float64)
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    chord = _chords(
        ndimage.gaussian_filter(binary, _EDGE_SMOOTHING_PIXELS), rows, columns, toward, pixel
    )
    # Where a skeleton runs out, the nearest border can be the cartilage's end, not its face.
    across = 2.0 * distance[rows, columns] + 2.0 * pixel.max()
    chord[chord > across * 1.5] = np.nan
    at = np.stack([np.full(len(rows), index), rows, columns], axis=1).astype(np.float64)
    return at, 2.0 * distance[rows, columns], chord


def _on_paper_grid(
    slices: NDArray[np.bool_], affine: NDArray[np.float64], pixel_mm: float | None
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The slices on the paper's in-plane pixel: as they are, or resampled at several phases."""
    pixel = np.linalg.norm(affine[:3, 1:3], axis=0)
    if pixel_mm is None or np.all(np.abs(pixel / pixel_mm - 1.0) < _SAME_PIXEL):
        yield slices, affine
        return
    shape = [
        int((size - 1) * old / pixel_mm) for size, old in zip(slices.shape[1:], pixel, strict=True)
    ]
    sigma = _RESAMPLING_SMOOTHING_MM / pixel
    fields = {
        index: ndimage.gaussian_filter(plane.astype(np.float32), sigma)
        for index, plane in enumerate(slices)
        if plane.any()
    }
    step = pixel_mm / pixel
    for phase in product(_PHASES, repeat=2):
        grid = np.meshgrid(
            *((np.arange(shape[axis]) + phase[axis]) * step[axis] for axis in range(2)),
            indexing="ij",
        )
        resampled = np.zeros((len(slices), *shape), dtype=bool)
        for index, plane in fields.items():
            resampled[index] = ndimage.map_coordinates(plane, grid, order=1) >= 0.5
        moved = affine.copy()
        moved[:3, 3] = index_to_world(affine, np.array([0.0, *(np.array(phase) * step)]))
        moved[:3, 1:3] *= step
        yield resampled, moved


@njit(cache=True)
def _to_border_mm(
    field: NDArray[np.float32], row: float, column: float, d_row: float, d_column: float
) -> float:
    """Distance to the 0.5 level along a direction given in pixels per mm; NaN if not met."""
    before = 1.0
    travelled = 0.0
    while travelled < _MAX_HALF_CHORD_MM:
        r, c = row + d_row * travelled, column + d_column * travelled
        r0, c0 = int(np.floor(r)), int(np.floor(c))
        if r0 < 0 or c0 < 0 or r0 + 1 >= field.shape[0] or c0 + 1 >= field.shape[1]:
            break
        fr, fc = r - r0, c - c0
        value = (1 - fr) * ((1 - fc) * field[r0, c0] + fc * field[r0, c0 + 1]) + fr * (
            (1 - fc) * field[r0 + 1, c0] + fc * field[r0 + 1, c0 + 1]
        )
        if value < 0.5:
            if travelled == 0.0:
                break
            return travelled - _CHORD_STEP_MM * (0.5 - value) / (before - value)
        before = value
        travelled += _CHORD_STEP_MM
    return np.nan


@njit(cache=True)
def _chords(
    field: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    toward: NDArray[np.float64],
    pixel: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Chord through each pixel along the given unit directions (n, 2) in mm; NaN if open."""
    out = np.empty(len(rows))
    for point in range(len(rows)):
        d_row, d_column = toward[point, 0] / pixel[0], toward[point, 1] / pixel[1]
        out[point] = _to_border_mm(
            field, float(rows[point]), float(columns[point]), d_row, d_column
        ) + _to_border_mm(field, float(rows[point]), float(columns[point]), -d_row, -d_column)
    return out
