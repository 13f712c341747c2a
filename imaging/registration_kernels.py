"""The inner loops of the registration, compiled by numba."""

import math
from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

# "contract" lets a product and a sum become one instruction; NaN and infinity keep their meaning.
_compile: Callable[[Callable], Callable] = njit(
    cache=True, error_model="numpy", fastmath={"contract"}
)


@_compile
def _keys_weights(fraction: float, weights: NDArray[np.float64]) -> None:
    """Cubic convolution weights of the four neighbours (Keys 1981, a = -1/2)."""
    t = fraction
    weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
    weights[1] = (1.5 * t - 2.5) * t * t + 1.0
    weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
    weights[3] = (0.5 * t - 0.5) * t * t


@_compile
def sample_slices(
    array: NDArray[np.float32],
    voxels: NDArray[np.int64],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    nearest_slice: bool,
    signals: NDArray[np.float32],
) -> None:
    """Read every echo at given voxels of another grid: bicubic in the slice, linear between slices.

    Args:
        array: shape (n_echo, n_slice, n_row, n_column).
        voxels: indices into the other grid, shape (n_voxel, 3).
        matrix: shape (3, 3); index here = matrix @ index there + offset.
        offset: shape (3,).
        nearest_slice: take the nearest slice instead of interpolating between two.
        signals: filled; shape (n_voxel, n_echo), NaN outside the field of view.
    """
    n_echo, n_slice, n_row, n_column = array.shape
    row_weights = np.empty(4)
    column_weights = np.empty(4)
    rows = np.empty(4, np.int64)
    columns = np.empty(4, np.int64)
    for voxel in range(voxels.shape[0]):
        i, j, k = voxels[voxel, 0], voxels[voxel, 1], voxels[voxel, 2]
        z = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + offset[0]
        y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + offset[1]
        x = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + offset[2]
        inside = (
            -0.5 <= z <= n_slice - 0.5 and -0.5 <= y <= n_row - 0.5 and -0.5 <= x <= n_column - 0.5
        )
        if not inside:
            signals[voxel] = np.nan
            continue
        y0 = math.floor(y)
        x0 = math.floor(x)
        _keys_weights(y - y0, row_weights)
        _keys_weights(x - x0, column_weights)
        for step in range(4):
            rows[step] = min(max(y0 - 1 + step, 0), n_row - 1)
            columns[step] = min(max(x0 - 1 + step, 0), n_column - 1)
        z = min(max(z, 0.0), n_slice - 1.0)
        below = math.floor(z + 0.5) if nearest_slice else math.floor(z)
        upper = 0.0 if nearest_slice else z - below
        # A neighbour of weight zero is not read: it may be a NaN, or lie beyond the last slice.
        for echo in range(n_echo):
            value = 0.0
            for side in range(2):
                weight = upper if side else 1.0 - upper
                if weight == 0.0:
                    continue
                plane = array[echo, below + side]
                total = 0.0
                for a in range(4):
                    along_row = 0.0
                    for b in range(4):
                        along_row += column_weights[b] * plane[rows[a], columns[b]]
                    total += row_weights[a] * along_row
                value += weight * total
            signals[voxel, echo] = value


@_compile
def mutual_information(
    fixed_bin: NDArray[np.int64],
    points: NDArray[np.float64],
    offset: NDArray[np.float64],
    moving: NDArray[np.float32],
    n_bin: int,
) -> float:
    """Mutual information, in nats, of samples and a volume read at shifted points.

    The volume is read trilinearly and its value shared between the two nearest bins, so that the
    result is continuous in the offset.

    Args:
        fixed_bin: bin of each sample, shape (n_point,).
        points: index of each sample in the volume, shape (n_point, 3).
        offset: added to the points, shape (3,); all must then lie within the volume.
        moving: the volume, its values in units of bins, in [0, n_bin - 1].
        n_bin: number of bins of both.
    """
    joint = np.zeros((n_bin, n_bin + 1))
    n_point = fixed_bin.size
    for point in range(n_point):
        z = points[point, 0] + offset[0]
        y = points[point, 1] + offset[1]
        x = points[point, 2] + offset[2]
        k, j, i = int(z), int(y), int(x)
        w, v, u = z - k, y - j, x - i
        k1 = min(k + 1, moving.shape[0] - 1)
        j1 = min(j + 1, moving.shape[1] - 1)
        i1 = min(i + 1, moving.shape[2] - 1)
        near = (1 - v) * ((1 - u) * moving[k, j, i] + u * moving[k, j, i1]) + v * (
            (1 - u) * moving[k, j1, i] + u * moving[k, j1, i1]
        )
        far = (1 - v) * ((1 - u) * moving[k1, j, i] + u * moving[k1, j, i1]) + v * (
            (1 - u) * moving[k1, j1, i] + u * moving[k1, j1, i1]
        )
        value = (1 - w) * near + w * far
        low = int(value)
        part = value - low
        joint[fixed_bin[point], low] += 1.0 - part
        joint[fixed_bin[point], low + 1] += part
    total = 0.0
    of_moving = np.zeros(n_bin + 1)
    for a in range(n_bin):
        of_fixed = 0.0
        for b in range(n_bin + 1):
            of_fixed += joint[a, b]
            of_moving[b] += joint[a, b]
            if joint[a, b] > 0.0:
                total += joint[a, b] * math.log(joint[a, b])
        if of_fixed > 0.0:
            total -= of_fixed * math.log(of_fixed)
    for b in range(n_bin + 1):
        if of_moving[b] > 0.0:
            total -= of_moving[b] * math.log(of_moving[b])
    return total / n_point + math.log(n_point)
