"""Views of a raw Grad-CAM: rectified, scaled to [0, 1], at the size of the image.

The raw map is what is kept, since each of these loses something: rectifying the evidence against,
scaling the magnitude, and both for an image without any evidence for the class, whose map is all
zero. The published maps are rectified, then enlarged, then scaled per image. Arrays in, arrays out.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class ScaledMaps:
    """Maps scaled per image.

    Attributes:
        values: from 0 to 1, shape (n, H, W); all zero where `is_flat`.
        is_flat: maps of one value, of zeros for one, which have no scale, shape (n,).
    """

    values: FloatArray
    is_flat: NDArray[np.bool_]


def rectified(maps: FloatArray) -> FloatArray:
    """Evidence for the target only: negative cells become zero."""
    return np.maximum(maps, 0)


def relative_to(maps: FloatArray, reference: FloatArray) -> FloatArray:
    """Evidence beyond that of the average of some reference maps.

    The logit is the sum of the raw map's cells (and a bias), so a cell less its mean over reference
    knees is that cell's exact Shapley value against them. It shows evidence a network codes as
    something missing, such as thin cartilage, which is positive nowhere on the raw map.

    Args:
        maps: raw, shape (n, h, w).
        reference: raw maps of the reference knees, shape (m, h, w), at least one.

    Raises:
        ValueError: no reference, or another grid.
    """
    if len(reference) == 0 or reference.shape[1:] != maps.shape[1:]:
        raise ValueError(
            f"reference maps of shape {reference.shape} for maps of {maps.shape}; give at least "
            "one of the same grid"
        )
    return maps - reference.mean(axis=0, dtype=np.float64).astype(maps.dtype)


def scaled(maps: FloatArray) -> ScaledMaps:
    """Each map from its own lowest to its own highest value, as 0 to 1.

    Args:
        maps: shape (n, H, W), finite.

    Raises:
        ValueError: a map with NaN or infinity.
    """
    if not np.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinity; look for NaN in its image or network")
    low = maps.min(axis=(1, 2), keepdims=True)
    extent = maps.max(axis=(1, 2), keepdims=True) - low
    is_flat = extent == 0
    values = (maps - low) / np.where(is_flat, 1, extent)
    return ScaledMaps(values, is_flat[:, 0, 0])


def upsampled(
    maps: FloatArray, size: tuple[int, int] = (224, 224), *, periodic_theta: bool = False
) -> FloatArray:
    """Maps enlarged by bilinear interpolation between cell centres.

    The default is OpenCV's `resize` and torch's `interpolate(align_corners=False)`, which hold the
    outermost cells to the border. A spherical map closes in theta: `periodic_theta` interpolates
    across the seam instead.

    Args:
        maps: shape (..., h, w), phi before theta.
        size: pixels wanted, at least (h, w).
        periodic_theta: whether the last column of cells borders on the first.

    Raises:
        ValueError: a size below the grid's, which this is no filter for.
    """
    height, width = maps.shape[-2:]
    if size[0] < height or size[1] < width:
        raise ValueError(f"maps of {height} x {width} cells cannot be enlarged to {size}")
    rows = interpolation_matrix(height, size[0])
    columns = interpolation_matrix(width, size[1], periodic=periodic_theta)
    return (rows @ maps @ columns.T).astype(np.result_type(maps.dtype, np.float32))


def enlarged_extremes(
    maps: FloatArray, size: tuple[int, int] = (224, 224)
) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest pixel of each map once `upsampled`, without enlarging all of it.

    Between the centres of two cells the enlarged map is linear along either axis, so its extremes
    lie in the first or last pixel there.

    Args:
        maps: shape (..., h, w), phi before theta.
        size: pixels of the image.
    """
    rows, columns = (
        interpolation_matrix(cells, pixels)[_patch_ends(cells, pixels)]
        for cells, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    at_ends = rows @ maps @ columns.T
    return at_ends.min(axis=(-2, -1)), at_ends.max(axis=(-2, -1))


def _cell_position(n_cells: int, n_pixels: int) -> FloatArray:
    """Where each pixel's centre lies along an axis, in cells from the first one's centre."""
    return (np.arange(n_pixels) + 0.5) * (n_cells / n_pixels) - 0.5


@cache
def _patch_ends(n_cells: int, n_pixels: int) -> NDArray[np.int64]:
    """First and last pixel between each two cell centres."""
    below = np.floor(_cell_position(n_cells, n_pixels))
    first = np.flatnonzero(np.diff(below, prepend=below[0] - 1))
    return np.union1d(first, np.append(first[1:] - 1, n_pixels - 1))


@cache
def interpolation_matrix(n_cells: int, n_pixels: int, *, periodic: bool = False) -> FloatArray:
    """Weights of the cells in each pixel along one axis, shape (n_pixels, n_cells); rows sum to 1.

    Its transpose takes weights of pixels to weights of cells: a sum over the enlarged map is a sum
    over the grid.
    """
    position = _cell_position(n_cells, n_pixels)
    below = np.floor(position).astype(int)
    share = position - below
    neighbours = np.stack([below, below + 1])
    neighbours = neighbours % n_cells if periodic else np.clip(neighbours, 0, n_cells - 1)
    weights = np.zeros((n_pixels, n_cells))
    pixel = np.arange(n_pixels)
    np.add.at(weights, (pixel, neighbours[0]), 1 - share)
    np.add.at(weights, (pixel, neighbours[1]), share)
    weights.setflags(write=False)
    return weights
