"""From cartilage volumes to the bone surface, along the outward normal.

Each surface vertex looks along its normal through a cylinder of 0.729 mm radius, twice the
in-plane pixel of 3D-DESS, and takes the average of what the cylinder covers (Morales 2021, "Bone
surface projection"). The paper gives no length for the cylinder: here it ends where the cartilage
does.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imaging.surface import BoneSurface, smooth_mask

CYLINDER_RADIUS_MM = 0.729
"""Twice the in-plane pixel of the paper's 3D-DESS."""

MAX_GAP_MM = 1.5
"""Cartilage that begins farther than this from the bone does not cover it."""

CARTILAGE_SMOOTHING_MM = 0.5
"""Gaussian sigma of the cartilage mask: less than the bone's, since it thins a sheet of less than
about 2.5 sigma."""

_INSIDE_MM = 1.5
"""How far under the smoothed bone surface the search for cartilage begins."""

_MAX_THICKNESS_MM = 8.0
"""A normal that stays in cartilage longer than this runs along it, not across it: the thickest
human cartilage, on the patella, is 6 to 7 mm."""

_STEP_MM = 0.15
_CELL_MM = 1.5
_N_RING = 6


@dataclass(frozen=True, eq=False)
class NormalCrossing:
    """Where the cartilage begins and ends along each vertex's normal.

    Attributes:
        covered: the central normal meets cartilage that begins at the bone, shape (n_vertex,).
        begin_mm: distance from the vertex to the deep border, NaN where uncovered, (n_vertex,).
        end_mm: distance from the vertex to the superficial border, NaN where uncovered.
    """

    covered: NDArray[np.bool_]
    begin_mm: NDArray[np.float64]
    end_mm: NDArray[np.float64]

    @property
    def thickness_mm(self) -> NDArray[np.float64]:
        """Surface-to-surface thickness along the normal, shape (n_vertex,)."""
        return self.end_mm - self.begin_mm


@dataclass(frozen=True, eq=False)
class LayerMeans:
    """Cylinder means over the whole cartilage and over its two halves, each (n_vertex,)."""

    mean: NDArray[np.float64]
    deep: NDArray[np.float64]
    superficial: NDArray[np.float64]


def cross_cartilage(
    surface: BoneSurface,
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    radius_mm: float = CYLINDER_RADIUS_MM,
    sigma_mm: float = CARTILAGE_SMOOTHING_MM,
) -> NormalCrossing:
    """Find the cartilage borders along every normal, averaged over the cylinder.

    The cylinder is a bundle of the central normal and a ring of parallels at the radius whose
    disc it represents (radius / sqrt(2), equal area inside and outside). Borders are the 0.5
    level of the smoothed mask, so they are sub-voxel.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    n_vertex = len(surface.vertices_mm)
    if not mask.any():
        nothing = np.full(n_vertex, np.nan)
        return NormalCrossing(np.zeros(n_vertex, dtype=bool), nothing, nothing.copy())
    field, offset = smooth_mask(mask, spacing_mm, sigma_mm)
    inverse = np.asarray(np.linalg.inv(affine[:3, :3]), dtype=np.float64)
    begin, end = _crossings(
        field,
        (surface.vertices_mm - affine[:3, 3]) @ inverse.T - offset,
        surface.normals,
        inverse,
        radius_mm / np.sqrt(2.0),
    )
    return NormalCrossing(np.isfinite(begin), begin, end)


def cylinder_means(
    surface: BoneSurface,
    crossing: NormalCrossing,
    points_mm: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    radius_mm: float = CYLINDER_RADIUS_MM,
    margin_mm: float = 0.4,
) -> LayerMeans:
    """Average the values of the points that lie in each vertex's cylinder.

    Args:
        surface: where the cylinders stand.
        crossing: between which distances each cylinder reaches; deep is the half nearer the bone.
        points_mm: shape (n_point, 3), knee frame.
        values: shape (n_point,); NaN values are left out.
        radius_mm: of the cylinder.
        margin_mm: how far beyond the cartilage's borders a point may lie, mm.

    Returns:
        NaN where a vertex is uncovered or its cylinder holds no value.
    """
    keep = np.isfinite(values)
    points_mm, values = points_mm[keep], values[keep].astype(np.float64)
    n_vertex = len(surface.vertices_mm)
    if len(values) == 0:
        nothing = np.full((3, n_vertex), np.nan)
        return LayerMeans(nothing[0], nothing[1], nothing[2])
    low = points_mm.min(axis=0)
    cell = np.floor((points_mm - low) / _CELL_MM).astype(np.int64)
    shape = cell.max(axis=0) + 1
    flat = np.ravel_multi_index(tuple(cell.T), tuple(shape))
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], np.arange(int(np.prod(shape)) + 1))
    means = _cylinder_kernel(
        surface.vertices_mm,
        surface.normals,
        crossing.begin_mm,
        crossing.end_mm,
        points_mm[order],
        values[order],
        first,
        shape,
        low,
        radius_mm,
        margin_mm,
    )
    return LayerMeans(means[0], means[1], means[2])


@njit(cache=True)
def _sample(field: NDArray[np.float32], at: NDArray[np.float64]) -> float:
    """Trilinear value, zero outside."""
    i, j, k = int(np.floor(at[0])), int(np.floor(at[1])), int(np.floor(at[2]))
    if i < 0 or j < 0 or k < 0:
        return 0.0
    if i + 1 >= field.shape[0] or j + 1 >= field.shape[1] or k + 1 >= field.shape[2]:
        return 0.0
    u, v, w = at[0] - i, at[1] - j, at[2] - k
    return (1 - u) * (
        (1 - v) * ((1 - w) * field[i, j, k] + w * field[i, j, k + 1])
        + v * ((1 - w) * field[i, j + 1, k] + w * field[i, j + 1, k + 1])
    ) + u * (
        (1 - v) * ((1 - w) * field[i + 1, j, k] + w * field[i + 1, j, k + 1])
        + v * ((1 - w) * field[i + 1, j + 1, k] + w * field[i + 1, j + 1, k + 1])
    )


@njit(cache=True)
def _cross_one(
    field: NDArray[np.float32], start: NDArray[np.float64], direction: NDArray[np.float64]
) -> tuple[float, float]:
    """First stretch above 0.5 along a ray given in index units per mm, as distances in mm."""
    distance = -_INSIDE_MM
    before = _sample(field, start + direction * distance)
    begin = distance if before >= 0.5 else np.nan
    while distance < _MAX_THICKNESS_MM + MAX_GAP_MM:
        distance += _STEP_MM
        value = _sample(field, start + direction * distance)
        if before < 0.5 <= value:
            begin = distance - _STEP_MM * (value - 0.5) / (value - before)
        elif value < 0.5 <= before:
            return begin, distance - _STEP_MM * (0.5 - value) / (before - value)
        if np.isnan(begin) and distance > MAX_GAP_MM:
            break
        before = value
    return np.nan, np.nan


@njit(cache=True)
def _crossings(
    field: NDArray[np.float32],
    start: NDArray[np.float64],
    normals: NDArray[np.float64],
    inverse: NDArray[np.float64],
    ring_mm: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Begin and end of the cartilage at each vertex, averaged over its bundle of rays."""
    n_vertex = len(start)
    begin = np.full(n_vertex, np.nan)
    end = np.full(n_vertex, np.nan)
    for vertex in range(n_vertex):
        normal = normals[vertex]
        direction = inverse @ normal
        central = _cross_one(field, start[vertex], direction)
        if np.isnan(central[0]):
            continue
        helper = np.array([1.0, 0.0, 0.0]) if abs(normal[0]) < 0.7 else np.array([0.0, 1.0, 0.0])
        u = np.cross(normal, helper)
        u /= np.sqrt(np.dot(u, u))
        v = np.cross(normal, u)
        total_begin, total_end, count = central[0], central[1], 1
        for spoke in range(_N_RING):
            angle = 2.0 * np.pi * spoke / _N_RING
            aside = inverse @ ((np.cos(angle) * u + np.sin(angle) * v) * ring_mm)
            crossed = _cross_one(field, start[vertex] + aside, direction)
            if not np.isnan(crossed[0]):
                total_begin += crossed[0]
                total_end += crossed[1]
                count += 1
        begin[vertex] = total_begin / count
        end[vertex] = total_end / count
    return begin, end


@njit(cache=True)
def _cylinder_kernel(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    begin: NDArray[np.float64],
    end: NDArray[np.float64],
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    first: NDArray[np.int64],
    shape: NDArray[np.int64],
    low: NDArray[np.float64],
    radius_mm: float,
    margin_mm: float,
) -> NDArray[np.float64]:
    """Means over the whole, deep and superficial cylinder, shape (3, n_vertex)."""
    n_vertex = len(vertices)
    out = np.full((3, n_vertex), np.nan)
    lower = np.empty(3, dtype=np.int64)
    upper = np.empty(3, dtype=np.int64)
    for vertex in range(n_vertex):
        if np.isnan(begin[vertex]):
            continue
        s0, s1 = begin[vertex] - margin_mm, end[vertex] + margin_mm
        middle = (begin[vertex] + end[vertex]) / 2.0
        for axis in range(3):
            p0 = vertices[vertex, axis] + normals[vertex, axis] * s0
            p1 = vertices[vertex, axis] + normals[vertex, axis] * s1
            lower[axis] = max(0, int(np.floor((min(p0, p1) - radius_mm - low[axis]) / _CELL_MM)))
            upper[axis] = min(
                shape[axis] - 1, int(np.floor((max(p0, p1) + radius_mm - low[axis]) / _CELL_MM))
            )
        # Far from every point; past the last cell the index below would leave the array.
        if (lower > upper).any():
            continue
        total = np.zeros(3)
        count = np.zeros(3)
        for i in range(lower[0], upper[0] + 1):
            for j in range(lower[1], upper[1] + 1):
                row = (i * shape[1] + j) * shape[2]
                for point in range(first[row + lower[2]], first[row + upper[2] + 1]):
                    dx = points[point, 0] - vertices[vertex, 0]
                    dy = points[point, 1] - vertices[vertex, 1]
                    dz = points[point, 2] - vertices[vertex, 2]
                    along = (
                        dx * normals[vertex, 0] + dy * normals[vertex, 1] + dz * normals[vertex, 2]
                    )
                    if along < s0 or along > s1:
                        continue
                    if dx * dx + dy * dy + dz * dz - along * along > radius_mm * radius_mm:
                        continue
                    layer = 1 if along < middle else 2
                    total[0] += values[point]
                    count[0] += 1
                    total[layer] += values[point]
                    count[layer] += 1
        for layer in range(3):
            if count[layer] > 0:
                out[layer, vertex] = total[layer] / count[layer]
    return out
