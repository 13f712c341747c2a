"""Averages of a map weighted with a Grad-CAM, as sums over the Grad-CAM's own cells.

Enlarged to the image, a Grad-CAM is E = R C K' of its cells C and two interpolation matrices, which
is linear. So a sum over pixels is one over cells: sum(E v) = sum(C (R' v K)). What every cell sees
of a map is worked out once, and any Grad-CAM's average follows from it in SQL:

    sum(C value_sum) / sum(C weight_sum).

The paper scales the enlarged map from its lowest value l to its highest h first. Interpolation
weights sum to 1 in every pixel, so that sum(value_sum) is the plain sum of the map, and

    sum((E - l) / (h - l) v) = (sum(C value_sum) - l sum(value_sum)) / (h - l).

Here: arithmetic, arrays in and out. Not here: which maps, or the averages themselves
(`sql/association/dl_guided_biomarkers.sql`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from models.cam_biomarkers import cell_weights
from models.cam_views import enlarged_extremes, rectified

FloatArray = NDArray[np.floating]
Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class CellSums:
    """What each cell sees of a map in a region, each of the grid's shape.

    Attributes:
        value_sum: share of the cell in a pixel times the pixel's value, over pixels with a value.
        weight_sum: share of the cell, over the same pixels.
        value_sum_surface, weight_sum_surface: the same, each pixel times the surface it stands for.
    """

    value_sum: FloatArray
    weight_sum: FloatArray
    value_sum_surface: FloatArray
    weight_sum_surface: FloatArray


@dataclass(frozen=True, eq=False)
class RectifiedCells:
    """Rectified Grad-CAM maps on their own grid.

    Attributes:
        cells: shape (n, h, w).
        lowest, highest: extremes of each map enlarged to the image, shape (n,).
    """

    cells: FloatArray
    lowest: FloatArray
    highest: FloatArray


def rectified_cells(maps: FloatArray, size: Grid = (224, 224)) -> RectifiedCells:
    """Rectify raw maps; the extremes are those of the map enlarged as published maps are.

    Args:
        maps: signed, shape (n, h, w).
        size: of the image.

    Raises:
        ValueError: a map with NaN or infinity.
    """
    if not np.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinity; look for NaN in its image or network")
    cells = rectified(maps.astype(np.float64))
    return RectifiedCells(cells, *enlarged_extremes(cells, size))


def cell_sums(
    values: FloatArray, regions: NDArray[np.bool_], area_mm2: FloatArray, grid: Grid
) -> list[CellSums]:
    """What each cell of a grid sees of a map; pixels without a value are in neither sum.

    Args:
        values: a biomarker's map, NaN where it has no value, shape (n_phi, n_theta).
        regions: the pixels looked at, shape (n_region, n_phi, n_theta).
        area_mm2: surface a pixel stands for, shape (n_phi, n_theta); NaN counts as none.
        grid: the Grad-CAM's cells along phi and theta.

    Returns:
        The sums of each region.

    Raises:
        ValueError: shapes that differ.
    """
    if not values.shape == regions.shape[1:] == area_mm2.shape:
        raise ValueError(
            f"a map of shape {values.shape} with regions of {regions.shape[1:]} and areas of "
            f"{area_mm2.shape}"
        )
    has_value = np.isfinite(values)
    value = np.where(has_value, values, 0.0).astype(np.float64)
    area = np.where(has_value, np.nan_to_num(area_mm2), 0.0).astype(np.float64)
    of_pixel = np.stack([value, has_value.astype(np.float64), value * area, area])
    return [CellSums(*cell_weights(of_pixel * region, grid)) for region in regions]


def added(sums: Sequence[CellSums]) -> CellSums:
    """Sums of a region made of several that have no pixel in common."""
    names = [field.name for field in fields(CellSums)]
    return CellSums(*(sum(getattr(one, name) for one in sums) for name in names))


def guided_average(sums: CellSums, cells: FloatArray, lowest: float, highest: float) -> float:
    """The average of a map weighted with one scaled Grad-CAM, as the paper's text has it.

    The same as `sql/macros/guided.sql` with its defaults, for networks whose maps are not kept.

    Returns:
        NaN where the map is all zero or flat, or has no mass on a pixel with a value.
    """
    plain = float((cells * sums.weight_sum).sum())
    mass = plain - lowest * float(sums.weight_sum.sum())
    if not highest > lowest or not mass > NO_MASS * plain:
        return float("nan")
    return (float((cells * sums.value_sum).sum()) - lowest * float(sums.value_sum.sum())) / mass


NO_MASS = 1e-12
"""Below this share of the unscaled mass, what is left after scaling is rounding."""
