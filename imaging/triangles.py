"""Triangulated surfaces: normals, areas, borders, points spread by area, closest points."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangulated surface, closed or with a border.

    Attributes:
        vertices_mm: shape (n_vertex, 3).
        faces: shape (n_face, 3), counter-clockwise seen from outside.
    """

    vertices_mm: FloatArray
    faces: IntArray


@dataclass(frozen=True, eq=False)
class Samples:
    """Points spread over a surface by area.

    Attributes:
        points: mm, shape (n, 3).
        normals: outward, unit, shape (n, 3).
        face: triangle each lies in, shape (n,).
        border: at the surface's border, shape (n,).
    """

    points: FloatArray
    normals: FloatArray
    face: IntArray
    border: BoolArray

    def every(self, step: int) -> "Samples":
        """Each step-th of them: they are in the order of the triangles, so these are spread too."""
        some = slice(None, None, max(1, step))
        return Samples(self.points[some], self.normals[some], self.face[some], self.border[some])


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors (..., 3) of length 1."""
    return vectors / np.maximum(np.sqrt((vectors**2).sum(axis=-1, keepdims=True)), 1e-30)


def area_vectors(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Normals of the triangles, as long as their areas, shape (n_face, 3)."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a) / 2


def areas(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Of the triangles, mm2, none of them 0, shape (n_face,)."""
    return np.maximum(np.linalg.norm(area_vectors(vertices, faces), axis=1), 1e-12)


def vertex_normals(surface: Surface) -> FloatArray:
    """Outward unit normals, area-weighted means of the triangles', shape (n_vertex, 3)."""
    weighted = area_vectors(surface.vertices_mm, surface.faces)
    total = np.zeros_like(surface.vertices_mm)
    for corner in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(
                surface.faces[:, corner], weighted[:, axis], minlength=len(total)
            )
    return unit(total)


def border_edges(surface: Surface) -> IntArray:
    """Edges that only one triangle has, as pairs of vertices, shape (n_edge, 2)."""
    edges = np.concatenate([surface.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    n = len(surface.vertices_mm)
    keys = np.sort(edges.min(axis=1) * n + edges.max(axis=1))
    differs = keys[1:] != keys[:-1]
    once = keys[np.r_[True, differs] & np.r_[differs, True]]
    return np.column_stack([once // n, once % n])


def sample(surface: Surface, n: int) -> Samples:
    """Points spread evenly by area: stratified over the triangles, golden-ratio inside them."""
    area = np.linalg.norm(area_vectors(surface.vertices_mm, surface.faces), axis=1)
    reached = np.cumsum(area) / area.sum()
    face = np.minimum(np.searchsorted(reached, (np.arange(n) + 0.5) / n), len(area) - 1)
    first = np.sqrt((np.arange(n) * 0.7548776662466927) % 1.0)
    second = (np.arange(n) * 0.5698402909980532) % 1.0
    weights = np.stack([1 - first, first * (1 - second), first * second], axis=1)
    corners = surface.faces[face]
    at_border = np.zeros(len(surface.vertices_mm), dtype=bool)
    at_border[border_edges(surface).ravel()] = True
    return Samples(
        np.einsum("nk,nkd->nd", weights, surface.vertices_mm[corners]),
        unit(np.einsum("nk,nkd->nd", weights, vertex_normals(surface)[corners])),
        face,
        np.asarray(at_border[corners].any(axis=1)),
    )


def faces_around(faces: IntArray, n_vertex: int) -> tuple[IntArray, IntArray]:
    """Triangles of every vertex: first index of each into a list of triangles, and that list."""
    order = np.argsort(faces.ravel(), kind="stable")
    first = np.zeros(n_vertex + 1, dtype=np.int64)
    np.cumsum(np.bincount(faces.ravel(), minlength=n_vertex), out=first[1:])
    return first, order // 3


def near_border(points: FloatArray, surface: Surface, distance_mm: float) -> BoolArray:
    """Which points (n, 3) on a surface lie at its border."""
    edges = border_edges(surface)
    if len(edges) == 0:
        return np.zeros(len(points), dtype=bool)
    start, end = surface.vertices_mm[edges[:, 0]], surface.vertices_mm[edges[:, 1]]
    longest = np.linalg.norm(end - start, axis=1).max()
    away, _ = cKDTree(start).query(points, distance_upper_bound=longest + distance_mm)
    close = np.flatnonzero(np.isfinite(away))
    if len(close) == 0:
        return np.zeros(len(points), dtype=bool)
    _, near = cKDTree((start + end) / 2).query(points[close], k=min(6, len(edges)))
    near = near.reshape(len(close), min(6, len(edges)))
    along = end[near] - start[near]
    to_point = points[close][:, None] - start[near]
    length = np.maximum((along**2).sum(axis=-1, keepdims=True), 1e-30)
    share = np.clip((to_point * along).sum(axis=-1, keepdims=True) / length, 0, 1)
    out = np.zeros(len(points), dtype=bool)
    out[close] = np.linalg.norm(share * along - to_point, axis=-1).min(axis=1) < distance_mm
    return out


@njit(cache=True)
def _closest_on_triangle(
    p: FloatArray, a: FloatArray, b: FloatArray, c: FloatArray, out: FloatArray
) -> float:  # pragma: no cover - compiled
    """Closest point of a triangle (Ericson 2005, 5.1.5), written to out; its squared distance."""
    d00, d01, d11, d20, d21 = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(3):
        ab, ac, ap = b[k] - a[k], c[k] - a[k], p[k] - a[k]
        d00 += ab * ab
        d01 += ab * ac
        d11 += ac * ac
        d20 += ap * ab
        d21 += ap * ac
    determinant = d00 * d11 - d01 * d01
    if determinant > 1e-24:
        v = (d11 * d20 - d01 * d21) / determinant
        w = (d00 * d21 - d01 * d20) / determinant
    else:
        v, w = -1.0, -1.0
    if v < 0.0 or w < 0.0 or v + w > 1.0:
        # On one of the edges: a to b, b to c, or c to a.
        best_edge = np.inf
        v, w = 0.0, 0.0
        for edge in range(3):
            if edge == 0:
                share = min(max(d20 / max(d00, 1e-30), 0.0), 1.0)
                v_edge, w_edge = share, 0.0
            elif edge == 1:
                length = d00 - 2.0 * d01 + d11
                share = min(max((d21 - d20 - d01 + d00) / max(length, 1e-30), 0.0), 1.0)
                v_edge, w_edge = 1.0 - share, share
            else:
                share = min(max(d21 / max(d11, 1e-30), 0.0), 1.0)
                v_edge, w_edge = 0.0, share
            # Squared distance less that of p from a.
            far = v_edge * v_edge * d00 + 2.0 * v_edge * w_edge * d01 + w_edge * w_edge * d11
            far -= 2.0 * (v_edge * d20 + w_edge * d21)
            if far < best_edge:
                best_edge, v, w = far, v_edge, w_edge
    squared = 0.0
    for k in range(3):
        out[k] = a[k] + v * (b[k] - a[k]) + w * (c[k] - a[k])
        squared += (p[k] - out[k]) ** 2
    return squared


@njit(cache=True)
def closest_on_faces(
    points: FloatArray,
    start: IntArray,
    vertices: FloatArray,
    faces: IntArray,
    first: IntArray,
    around: IntArray,
) -> tuple[FloatArray, IntArray]:  # pragma: no cover - compiled
    """Closest points on a surface, walking from a first guess to ever closer triangles.

    Args:
        points: shape (n, 3).
        start: triangle to start at, shape (n,).
        vertices: shape (n_vertex, 3).
        faces: shape (n_face, 3).
        first: of `faces_around`.
        around: of `faces_around`.

    Returns:
        The closest points, shape (n, 3), and the triangles they lie in, shape (n,).
    """
    out, chosen = np.empty_like(points), start.copy()
    at = np.empty(3)
    for i in range(len(points)):
        face = start[i]
        best = _closest_on_triangle(
            points[i],
            vertices[faces[face, 0]],
            vertices[faces[face, 1]],
            vertices[faces[face, 2]],
            out[i],
        )
        for _ in range(20):
            centre = face
            for corner in range(3):
                vertex = faces[centre, corner]
                for position in range(first[vertex], first[vertex + 1]):
                    other = around[position]
                    far = _closest_on_triangle(
                        points[i],
                        vertices[faces[other, 0]],
                        vertices[faces[other, 1]],
                        vertices[faces[other, 2]],
                        at,
                    )
                    if far < best - 1e-12:
                        best, face = far, other
                        out[i] = at
            if face == centre:
                break
        chosen[i] = face
    return out, chosen
