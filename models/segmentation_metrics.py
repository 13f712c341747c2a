"""How well a segmentation agrees with a drawn one: Dice and point-to-surface distance.

The paper's Table S1 gives the Dice score coefficient and the mean point-to-surface distance (MPTS)
with 95 % confidence intervals. How it took the distance is not said; here it is taken between
triangulated surfaces, and between voxel edges as MONAI does, which a voxel's size quantises.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.surface import bone_surface, bounding_box

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

MESH_SMOOTHING_MM = 0.5
"""Gaussian smoothing of masks before their surface is taken: less than it rounds off a sheet."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: over cases.
        low, high: percentiles of the means of resampled cases.
        n: cases.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """One tissue of one case.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|), 0 to 1.
        mpts_mm: mean distance of the predicted surface's points to the true surface; None where
            either is empty.
        mpts_voxel_mm: the same between edge voxels.
        predicted_mm3, true_mm3: volumes.
    """

    dice: float
    mpts_mm: float | None
    mpts_voxel_mm: float | None
    predicted_mm3: float
    true_mm3: float


def dice(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """The Dice score coefficient; 1 where both are empty."""
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    if total == 0:
        return 1.0
    return 2.0 * int(np.count_nonzero(predicted & true)) / total


def agreement(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], affine: NDArray[np.float64]
) -> Agreement:
    """Dice and both distances of one tissue.

    Args:
        predicted: mask of the prediction.
        true: mask drawn, on the same grid.
        affine: index -> mm, shape (4, 4).
    """
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    there = bool(predicted.any() and true.any())
    return Agreement(
        dice(predicted, true),
        point_to_surface_mm(predicted, true, affine) if there else None,
        edge_distance_mm(predicted, true, spacing_mm) if there else None,
        float(np.count_nonzero(predicted)) * voxel_mm3,
        float(np.count_nonzero(true)) * voxel_mm3,
    )


def point_to_surface_mm(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], affine: NDArray[np.float64]
) -> float:
    """Mean distance, weighted by area, of the predicted surface's vertices to the true surface.

    Args:
        predicted: mask of the prediction, not empty.
        true: mask drawn, on the same grid, not empty.
        affine: index -> mm, shape (4, 4).
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkDoubleArray
    from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

    own = bone_surface(predicted, affine, sigma_mm=MESH_SMOOTHING_MM)
    other = bone_surface(true, affine, sigma_mm=MESH_SMOOTHING_MM)
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(_polydata(other.vertices_mm, other.faces))
    found = vtkDoubleArray()
    points = numpy_to_vtk(np.ascontiguousarray(own.vertices_mm), deep=True)
    distance.EvaluateFunction(points, found)
    values = np.abs(vtk_to_numpy(found))
    return float(np.average(values, weights=own.vertex_area_mm2))


def _polydata(vertices_mm: NDArray[np.float64], faces: NDArray[np.int64]) -> "vtkPolyData":
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    points = vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices_mm), deep=True))
    offsets = np.arange(0, 3 * len(faces) + 1, 3, dtype=np.int64)
    cells = vtkCellArray()
    cells.SetData(
        numpy_to_vtkIdTypeArray(offsets, deep=True),
        numpy_to_vtkIdTypeArray(np.ascontiguousarray(faces, np.int64).ravel(), deep=True),
    )
    mesh = vtkPolyData()
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    return mesh


def edge_distance_mm(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> float:
    """Mean distance of the predicted mask's edge voxels to the nearest of the true mask's.

    An edge voxel has a face neighbour outside the mask, as in MONAI's SurfaceDistanceMetric.
    """
    box = bounding_box(predicted | true)
    # One voxel around, so that masks at the edge of the box keep their edges.
    own, other = (np.pad(mask[box], 1) for mask in (predicted, true))
    own_edge, other_edge = (mask & ~ndimage.binary_erosion(mask) for mask in (own, other))
    distance_mm = ndimage.distance_transform_edt(~other_edge, sampling=spacing_mm)
    return float(distance_mm[own_edge].mean())


def bootstrap_mean(
    values: Sequence[float], *, n_replicate: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean over cases with its percentile bootstrap interval; cases are resampled whole.

    It assumes that the cases are independent: one per person, or the interval is too narrow.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("a bootstrap needs at least one value, and finite ones only")
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, array.size, (n_replicate, array.size))].mean(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(array.mean()), float(low), float(high), int(array.size))
