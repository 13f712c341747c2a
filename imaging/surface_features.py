"""What tells one place of a bone's surface from another: where it was cut off, its curvatures.

Neither hangs on how the surface is triangulated: both are found from points spread by area.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from imaging.triangles import (
    BoolArray,
    FloatArray,
    IntArray,
    Samples,
    Surface,
    area_vectors,
    unit,
)

_FLAT_COSINE, _RIM_COSINE = np.cos(np.radians(8.0)), np.cos(np.radians(50.0))
_FLAT_DEPTH_MM, _RIM_DEPTH_MM = 1.0, 5.0
_CUT_SHARE = 0.01
"""A cut's least share of a surface: femora and tibiae cut by the scan or the model have 0.024 to
0.063."""
_RIM_SHARE = 1.5
"""A cut ends in an edge, a rounded bone does not: the surface at its top that is tilted by 8 to 50
degrees is 0.06 to 0.9 of what is flat there, and 2.5 to 14 on bones that were not cut."""
_CUT_REACH = 0.9
"""A cut lies farther from the middle than this many root mean square radii; flat facets of a
patella do not."""


@dataclass(frozen=True, eq=False)
class FlatEnd:
    """Where a bone was cut off.

    Attributes:
        direction: outward normal of the cut, shape (3,).
        height: of the cut along it, mm.
    """

    direction: FloatArray
    height: float


def flat_end(surface: Surface, samples: Samples) -> FlatEnd | None:
    """Where the bone was cut off: a flat face with an edge that all of the surface lies behind.

    Args:
        surface: of the bone.
        samples: of the surface.
    """
    some = samples.every(len(samples.points) // 2500)
    # Of the triangles: a cut may have no vertex but those at its edge.
    normals = unit(area_vectors(surface.vertices_mm, surface.faces[some.face]))
    middle = some.points.mean(axis=0)
    radius = np.sqrt(((some.points - middle) ** 2).sum(axis=1).mean())

    def flat_and_rim(directions: FloatArray) -> tuple[BoolArray, BoolArray, FloatArray]:
        height = (some.points - middle) @ directions.T
        cosine, below = normals @ directions.T, height.max(axis=0) - height
        flat = (below < _FLAT_DEPTH_MM) & (cosine > _FLAT_COSINE)
        rim = (below < _RIM_DEPTH_MM) & (cosine <= _FLAT_COSINE) & (cosine > _RIM_COSINE)
        return flat, rim, height.max(axis=0)

    candidates = normals[:: max(1, len(some.points) // 300)]
    flat, rim, top = flat_and_rim(candidates)
    score = flat.mean(axis=0) - rim.mean(axis=0) / _RIM_SHARE
    score[top < _CUT_REACH * radius] = -1.0
    direction = candidates[[score.argmax()]]
    for _ in range(3):
        flat, rim, _ = flat_and_rim(direction)
        if flat.mean() < _CUT_SHARE or rim.mean() > _RIM_SHARE * flat.mean():
            return None
        direction = unit(normals[flat[:, 0]].mean(axis=0))[None]
    return FlatEnd(direction[0], float(np.median(some.points[flat[:, 0]] @ direction[0])))


_NEIGHBOURS = 28
"""Neighbours among which those within the radius are looked for."""

_FITTED_SHARE = 4
"""Curvatures are fitted at one in so many samples: neighbours have nearly the same."""


@njit(cache=True)
def _principal_curvatures(
    points: FloatArray, normals: FloatArray, near: IntArray, radius: float
) -> FloatArray:  # pragma: no cover - compiled
    """Least-squares quadrics over the neighbours (n, k) within a radius; maximum and minimum."""
    out = np.zeros((len(points), 2))
    row = np.empty(5)
    for i in range(len(points)):
        n = normals[i]
        u = np.array([0.0, n[2], -n[1]]) if abs(n[0]) < 0.7 else np.array([-n[2], 0.0, n[0]])
        u /= np.sqrt(np.dot(u, u))
        v = np.cross(n, u)
        left, right = np.zeros((5, 5)), np.zeros(5)
        for position in range(near.shape[1]):
            j = near[i, position]
            away = points[j] - points[i]
            far = np.dot(away, away)
            facing = np.dot(normals[j], n)
            if far > radius * radius or facing < 0.0:
                continue
            x, y, z = np.dot(away, u) / radius, np.dot(away, v) / radius, np.dot(away, n) / radius
            weight = (1.0 - far / (radius * radius)) * facing
            row[0], row[1], row[2], row[3], row[4] = x * x / 2, x * y, y * y / 2, x, y
            for a in range(5):
                right[a] += weight * row[a] * z
                for b in range(5):
                    left[a, b] += weight * row[a] * row[b]
        for a in range(5):
            left[a, a] += 1e-3
        fit = np.linalg.solve(left, right)
        # Of the graph over the tangent plane, to first order in its slope; outward bulges count
        # positive. In units of 1 / radius.
        mean = -(fit[0] + fit[2]) / 2
        half = np.sqrt(((fit[0] - fit[2]) / 2) ** 2 + fit[1] ** 2)
        out[i, 0], out[i, 1] = mean + half, mean - half
    return out


def curvatures(samples: Samples, radius: float) -> FloatArray:
    """Maximum and minimum curvature times the radius they are fitted over, shape (n_sample, 2).

    Args:
        samples: of the surface.
        radius: of the neighbourhood they are fitted over, mm.
    """
    some = samples.every(_FITTED_SHARE)
    points, normals = map(np.ascontiguousarray, (some.points, some.normals))
    tree = cKDTree(points)
    _, near = tree.query(points, k=min(len(points), _NEIGHBOURS))
    found = _principal_curvatures(points, normals, near, radius)
    return found[tree.query(samples.points)[1]]
