"""Images in patient space, and the right-knee frame every computation runs in.

Axes are always (slice, row, column). An affine maps such an index to LPS millimetres
(x to the patient's left, y to posterior, z to superior), voxel centres at whole indices.

The *knee frame* is a lossless reordering of the array: slices run towards +x, rows from superior
to inferior, columns from anterior to posterior. In it a right knee has its lateral side at the
first slices. A left knee is mirrored (x -> -x) into it, which is recorded and reversible.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Side = Literal["RIGHT", "LEFT"]
FloatArray = NDArray[np.floating]
NumberArray = NDArray[np.number]

MIRROR_X = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image or label volume.

    Attributes:
        array: shape (n_slice, n_row, n_column).
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
    """

    array: NDArray
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxel centres along each axis, shape (3,), mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True, eq=False)
class EchoSeries:
    """A multi-echo series on one grid.

    Attributes:
        array: shape (n_echo, n_slice, n_row, n_column), echoes by rising echo time.
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
        echo_times_ms: shape (n_echo,), strictly rising.
    """

    array: NDArray
    affine: NDArray[np.float64]
    echo_times_ms: NDArray[np.float64]

    def echo(self, index: int) -> Volume:
        """One echo as a volume."""
        return Volume(self.array[index], self.affine)


ImageT = TypeVar("ImageT", Volume, EchoSeries)


def index_to_world(affine: NDArray[np.float64], index: NumberArray) -> NDArray[np.float64]:
    """Indices (..., 3) to LPS millimetres (..., 3)."""
    return np.asarray(index, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def world_to_index(affine: NDArray[np.float64], points_mm: FloatArray) -> NDArray[np.float64]:
    """LPS millimetres (..., 3) to (fractional) indices (..., 3)."""
    return (points_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


def _knee_axes(affine: NDArray[np.float64]) -> tuple[list[int], list[bool]]:
    """Which array axis lies along x, z and y, and whether it has to be flipped."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order: list[int] = []
    for world_axis in (0, 2, 1):
        strength = np.abs(directions[world_axis]).copy()
        strength[order] = -1.0
        order.append(int(np.argmax(strength)))
    wanted_sign = (1.0, -1.0, 1.0)
    world_axes = (0, 2, 1)
    flips = [
        bool(directions[world_axes[position], axis] * wanted_sign[position] < 0)
        for position, axis in enumerate(order)
    ]
    return order, flips


def _reorder(
    array: NDArray, affine: NDArray[np.float64], order: list[int], flips: list[bool]
) -> tuple[NDArray, NDArray[np.float64]]:
    """Permute and flip the last three axes of an array, with its affine."""
    leading = array.ndim - 3
    array = np.transpose(array, [*range(leading), *(leading + axis for axis in order)])
    affine = affine.copy()
    affine[:, :3] = affine[:, :3][:, order]
    for axis, flip in enumerate(flips):
        if flip:
            size = array.shape[leading + axis]
            array = np.flip(array, axis=leading + axis)
            affine[:3, 3] += affine[:3, axis] * (size - 1)
            affine[:3, axis] *= -1
    return array, affine


def to_knee_frame(image: ImageT, side: Side) -> ImageT:
    """Reorder an image into the knee frame; a left knee is mirrored.

    The inverse is `from_knee_frame`; nothing is resampled.
    """
    affine = MIRROR_X @ image.affine if side == "LEFT" else image.affine
    array, affine = _reorder(image.array, affine, *_knee_axes(affine))
    return replace(image, array=np.ascontiguousarray(array), affine=affine)


def from_knee_frame(points_mm: FloatArray, side: Side) -> NDArray[np.float64]:
    """Points (..., 3) of the knee frame back to the patient's LPS millimetres."""
    return points_mm * np.array([-1.0, 1.0, 1.0]) if side == "LEFT" else np.array(points_mm)
