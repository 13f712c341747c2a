"""Five regions of a femur's articular surface, drawn by one geometric rule on any femur.

Anterior, and medial and lateral weight-bearing and posterior: what lies in front of the
intercondylar notch, behind 60 % of the way from there to the back of the condyles, and between.
The rule looks at each femur by itself, so that regions carried from one femur to another can be
compared with the other's own.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from imaging.triangles import Surface, area_vectors, vertex_normals

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_COLUMN_MM = 1.5
_NOTCH_MM = 10.0
"""The notch begins where the surface between the condyles lies this far above their lowest."""
_POSTERIOR = 0.6


def femoral_regions(femur: Surface) -> IntArray:
    """Region of every vertex: 0 none, 1 anterior, 2 to 5 as named above, shape (n_vertex,).

    Args:
        femur: of a right knee, or of a left one mirrored: x medial, y posterior, z superior.
    """
    vertices, normals = femur.vertices_mm, vertex_normals(femur)
    bottom = vertices[:, 2].min()
    width = float(np.ptp(vertices[vertices[:, 2] < bottom + 40.0][:, 0]))
    low = vertices[:, 2] < bottom + 0.5 * width
    front, middle = _notch(femur, bottom, width)
    x, y, z = vertices.T
    anterior = y < front
    posterior = y > front + _POSTERIOR * (y[low].max() - front)
    sideways, backward, upward = np.abs(normals[:, 0]), normals[:, 1], normals[:, 2]
    articular = low & (sideways < 0.75)
    articular &= ~anterior | ((backward < 0.3) & (z < bottom + 0.45 * width) & (sideways < 0.6))
    articular &= anterior | (np.abs(x - middle) >= 6.0)
    articular &= ~posterior | (backward > -0.3)
    articular &= anterior | posterior | (upward < 0.0)
    medial = x > middle
    region = np.select([anterior, ~posterior & medial, ~posterior, medial], [1, 2, 3, 4], default=5)
    return np.where(articular, region, 0)


def _notch(femur: Surface, bottom: float, width: float) -> tuple[float, float]:
    """Where the intercondylar notch begins from behind, and its middle, mm along y and x."""
    points = np.concatenate([femur.vertices_mm, femur.vertices_mm[femur.faces].mean(axis=1)])
    points = points[points[:, 2] < bottom + 0.6 * width]
    low = points[points[:, 2] < bottom + 0.5 * width]
    left = points[:, 0].min()
    n_column = int((points[:, 0].max() - left) / _COLUMN_MM) + 1
    middles: list[float] = []
    y = low[:, 1].max() - 12.0
    while y > low[:, 1].min() + 5.0:
        near = points[np.abs(points[:, 1] - y) < 1.0]
        # The lowest surface of each column; where there is none the notch is open.
        lowest = np.full(n_column, bottom + 0.6 * width)
        np.minimum.at(lowest, ((near[:, 0] - left) / _COLUMN_MM).astype(int), near[:, 2])
        half = n_column // 2
        first, last = int(lowest[:half].argmin()), half + int(lowest[half:].argmin())
        condyles = (lowest[first] + lowest[last]) / 2
        between = lowest[first : last + 1]
        if between.max() - condyles <= _NOTCH_MM:
            break
        inside = first + np.flatnonzero(between > condyles + 6.0)
        middles.append(left + _COLUMN_MM * (inside[0] + inside[-1] + 1) / 2)
        y -= 0.5
    return y, float(np.mean(middles[-20:]))


def region_dice(points: FloatArray, regions: IntArray, target: Surface, own: IntArray) -> float:
    """Mean Dice, by area, of regions carried to a target with the target's own.

    Args:
        points: where the source's vertices lie on the target, mm, shape (n_source, 3).
        regions: of the source's vertices, shape (n_source,).
        target: the other femur.
        own: regions of its vertices, shape (n_vertex,).
    """
    carried = regions[cKDTree(points).query(target.vertices_mm)[1]]
    area = np.zeros(len(target.vertices_mm))
    of_face = np.linalg.norm(area_vectors(target.vertices_mm, target.faces), axis=1)
    for corner in range(3):
        area += np.bincount(target.faces[:, corner], of_face, minlength=len(area))
    return float(
        np.mean(
            [
                2 * area[(carried == one) & (own == one)].sum()
                / (area[carried == one].sum() + area[own == one].sum())
                for one in range(1, 6)
            ]
        )
    )  # fmt: skip
