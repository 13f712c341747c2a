"""Bone surface <-> spherical map of 224 x 224 pixels, both ways.

A map samples the surface by one ray per pixel from the bone's centroid: theta is the angle in the
x-y plane from the +x axis, phi the elevation from that plane (Morales 2021, "Spherical
transformation"). Pixels are cell-centred, so that no ray is cast twice: theta runs over
[-pi, pi] and phi over the bone's range. The paper does not print its axes; it asks that the
articular surface lie in the middle of the map, which fixes them (docs/decisions.md).

A ray can meet the surface more than once: 4.5 % of a real femur's do, and the hits lie 14 mm
apart. Which hit counts is the hit rule; where it mattered is the map's multi_hit mask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imaging.labels import Bone
from imaging.surface import BoneSurface

MAP_SIZE = 224
"""Pixels along theta and along phi: the ImageNet size the paper conforms to."""

HitRule = Literal["outermost", "nearest"]

MULTI_HIT_MM = 0.05
"""Hits closer together than this are one crossing met on a shared edge."""

_HIDDEN_MM = 0.1
_MIN_COSINE = 0.1
"""A pixel seen at a grazing angle stands for at most ten times its frontal area."""

# Knee frame, LPS: of a right knee, or of a left one mirrored.
_LATERAL = np.array([-1.0, 0.0, 0.0])
_ANTERIOR = np.array([0.0, -1.0, 0.0])
_SUPERIOR = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class SphereFrame:
    """The axes of a bone's map.

    Attributes:
        axes: rows are the unit x, y and z axes of the map in the knee frame, shape (3, 3).
        phi_range: lowest and highest elevation shown, rad.
    """

    axes: NDArray[np.float64]
    phi_range: tuple[float, float]

    @property
    def theta(self) -> NDArray[np.float64]:
        """Pixel centres along theta, rad, shape (224,)."""
        pixel = np.arange(MAP_SIZE, dtype=np.float64)
        return -np.pi + (pixel + 0.5) * (2 * np.pi / MAP_SIZE)

    @property
    def phi(self) -> NDArray[np.float64]:
        """Pixel centres along phi, rad, shape (224,)."""
        low, high = self.phi_range
        pixel = np.arange(MAP_SIZE, dtype=np.float64)
        return low + (pixel + 0.5) * ((high - low) / MAP_SIZE)

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """Unit ray of every pixel in the knee frame, shape (224 phi, 224 theta, 3)."""
        phi, theta = np.meshgrid(self.phi, self.theta, indexing="ij")
        local = np.stack(
            [np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1
        )
        rays = local @ self.axes
        rays.setflags(write=False)
        return rays

    def pixel(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional (phi, theta) pixel index of points relative to the centroid, (..., 2)."""
        local = points_mm @ self.axes.T
        phi = np.arctan2(local[..., 2], np.hypot(local[..., 0], local[..., 1]))
        return self.pixel_of_angles(phi, np.arctan2(local[..., 1], local[..., 0]))

    def pixel_of_angles(
        self, phi: NDArray[np.float64], theta: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fractional (phi, theta) pixel index of angles in the map's axes, rad, (..., 2)."""
        low, high = self.phi_range
        return np.stack(
            [
                (phi - low) / ((high - low) / MAP_SIZE) - 0.5,
                (theta + np.pi) / (2 * np.pi / MAP_SIZE) - 0.5,
            ],
            axis=-1,
        )

    def shows(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points relative to the centroid lie inside the map's range, (...,)."""
        return _is_shown(self.pixel(points_mm))


def _is_shown(pixel: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether fractional (phi, theta) pixels, shape (..., 2), lie inside the map."""
    row = pixel[..., 0]
    return (row >= -0.5) & (row <= MAP_SIZE - 0.5)


def _tilted(toward: NDArray, away: NDArray, tilt_deg: float) -> NDArray[np.float64]:
    """Axes whose z is `away` turned by a tilt towards -`toward`; y is lateral in every map."""
    tilt = np.radians(tilt_deg)
    return np.stack(
        [
            np.cos(tilt) * toward + np.sin(tilt) * away,
            _LATERAL,
            np.cos(tilt) * away - np.sin(tilt) * toward,
        ]
    )


PAPER_PHI_RANGE = (-np.pi / 2, np.pi / 8)
"""The range the paper prints, for all three bones (once by misprint)."""

FRAMES: Mapping[Bone, SphereFrame] = {
    # The trochlea in the middle, the condyles on either side, the notch at the south pole and
    # the seam between the posterior condyles; the shaft is cut away by the range of phi.
    "femur": SphereFrame(_tilted(_ANTERIOR, _SUPERIOR, -10.0), PAPER_PHI_RANGE),
    # The plateaus in the middle, anterior up.
    "tibia": SphereFrame(_tilted(_SUPERIOR, _ANTERIOR, 33.75), PAPER_PHI_RANGE),
    # The facets in the middle, superior up.
    "patella": SphereFrame(_tilted(-_ANTERIOR, _SUPERIOR, 48.0), PAPER_PHI_RANGE),
}
"""Default axes: each puts the articular surface in the middle of the map and hides none of it on
the real knee; theta rises towards lateral in all of them."""


@dataclass(frozen=True, eq=False)
class SphereSampling:
    """Which point of the surface each pixel of a map shows.

    Attributes:
        frame: the map's axes.
        rho_mm: distance from the centroid to the hit, NaN where no ray hits, (224, 224).
        face: face hit, -1 where none, shape (224, 224).
        weights: barycentric weights of the face's vertices, shape (224, 224, 3).
        multi_hit: where the ray meets the surface more than once, shape (224, 224).
        area_mm2: surface area the pixel stands for, shape (224, 224).
    """

    frame: SphereFrame
    rho_mm: NDArray[np.float64]
    face: NDArray[np.int64]
    weights: NDArray[np.float64]
    multi_hit: NDArray[np.bool_]
    area_mm2: NDArray[np.float64]


def sample_sphere(
    surface: BoneSurface, frame: SphereFrame, *, hit_rule: HitRule = "outermost"
) -> SphereSampling:
    """Cast one ray per pixel from the centroid onto the surface."""
    local = (surface.vertices_mm - surface.centroid_mm) @ frame.axes.T
    theta, phi = np.meshgrid(frame.theta, frame.phi)
    rays = np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], -1)
    rays = np.ascontiguousarray(rays.reshape(-1, 3))
    first = np.arange(len(rays) + 1)
    near, far, near_face, far_face = _cast(
        local, surface.faces, rays, first, frame.phi_range[0], frame.phi_range[1]
    )
    rho, face = (far, far_face) if hit_rule == "outermost" else (near, near_face)
    weights, area = _at_hits(local, surface.faces, rays, rho, face)
    shape = (MAP_SIZE, MAP_SIZE)
    low, high = frame.phi_range
    solid_angle = np.cos(phi) * ((high - low) / MAP_SIZE) * (2 * np.pi / MAP_SIZE)
    return SphereSampling(
        frame,
        rho.reshape(shape),
        face.reshape(shape),
        weights.reshape(*shape, 3),
        (far - near > MULTI_HIT_MM).reshape(shape),
        area.reshape(shape) * solid_angle,
    )


def map_values(
    sampling: SphereSampling, surface: BoneSurface, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Vertex values (n_vertex,) at the hits, shape (224, 224).

    Linear inside the face hit. A face at the border of the covered region counts as covered when
    most of the weight at the hit is; the value is then the mean over its covered vertices.
    """
    corner = values[surface.faces[sampling.face]]
    weights = np.where(np.isfinite(corner), sampling.weights, 0.0)
    total = weights.sum(axis=-1)
    value = (weights * np.where(np.isfinite(corner), corner, 0.0)).sum(axis=-1)
    enough = (total > 0.5) & (sampling.face >= 0)
    return np.where(enough, value / np.where(enough, total, 1.0), np.nan)


def hidden_vertices(
    surface: BoneSurface,
    frame: SphereFrame,
    candidates: NDArray[np.bool_],
    *,
    hit_rule: HitRule = "outermost",
) -> NDArray[np.bool_]:
    """Which of the candidate vertices the map cannot show, shape (n_vertex,).

    A vertex is hidden when it lies outside the range of phi, or when the hit rule prefers another
    point of the surface on its ray.
    """
    hidden = np.zeros(len(surface.vertices_mm), dtype=bool)
    local = (surface.vertices_mm - surface.centroid_mm) @ frame.axes.T
    shown = frame.shows(surface.vertices_mm - surface.centroid_mm)
    hidden[candidates & ~shown] = True
    chosen = np.flatnonzero(candidates & shown)
    if len(chosen) == 0:
        return hidden
    pixel = np.round(frame.pixel(surface.vertices_mm[chosen] - surface.centroid_mm)).astype(int)
    row = np.clip(pixel[:, 0], 0, MAP_SIZE - 1)
    cell = row * MAP_SIZE + pixel[:, 1] % MAP_SIZE
    order = np.argsort(cell, kind="stable")
    chosen, cell = chosen[order], cell[order]
    rho = np.linalg.norm(local[chosen], axis=1)
    near, far, _, _ = _cast(
        local,
        surface.faces,
        local[chosen] / rho[:, None],
        np.searchsorted(cell, np.arange(MAP_SIZE * MAP_SIZE + 1)),
        frame.phi_range[0],
        frame.phi_range[1],
    )
    preferred = far if hit_rule == "outermost" else near
    hidden[chosen] = np.abs(preferred - rho) > _HIDDEN_MM
    return hidden


def surface_points(
    rho_mm: NDArray[np.floating], frame: SphereFrame, centroid_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The inverse: a bone_shape map back to points of the knee frame, shape (224, 224, 3)."""
    return centroid_mm + np.asarray(rho_mm, dtype=np.float64)[..., None] * frame.directions


def map_faces(rho_mm: NDArray[np.floating]) -> NDArray[np.int64]:
    """Triangles over the pixels of a map, closed across the seam, shape (n, 3).

    Vertex i is pixel i of the raveled map. Cells with a missing pixel are left open.
    """
    index = np.arange(MAP_SIZE * MAP_SIZE).reshape(MAP_SIZE, MAP_SIZE)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = index[1:], np.roll(index, -1, axis=1)[1:]
    faces = np.concatenate(
        [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    )
    finite = np.isfinite(np.asarray(rho_mm)).ravel()
    return faces[finite[faces].all(axis=1)]


def read_map(
    values: NDArray[np.floating], frame: SphereFrame, points_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The inverse for values: a map read between its pixels, by bicubic convolution.

    Args:
        values: shape (224, 224), NaN where missing.
        frame: the map's axes.
        points_mm: points relative to the centroid, shape (n, 3).

    Returns:
        Shape (n,). Where one of the sixteen pixels around a point is missing the four nearest
        are weighted linearly, missing ones left out; NaN where the nearest pixel is missing or
        the point lies outside the range of phi.
    """
    return read_map_at(values, frame.pixel(points_mm))


def read_map_at(values: NDArray[np.floating], pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same at fractional (phi, theta) pixels, shape (n, 2), of `SphereFrame.pixel`."""
    out = _bicubic(np.asarray(values, dtype=np.float64), pixel)
    out[~_is_shown(pixel)] = np.nan
    return out


@njit(cache=True, nogil=True)
def _cubic(t: float) -> tuple[float, float, float, float]:
    """Keys' cubic convolution weights (a = -1/2)."""
    return (
        -0.5 * t + t * t - 0.5 * t * t * t,
        1.0 - 2.5 * t * t + 1.5 * t * t * t,
        0.5 * t + 2.0 * t * t - 1.5 * t * t * t,
        -0.5 * t * t + 0.5 * t * t * t,
    )


@njit(cache=True, nogil=True)
def _bicubic(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bicubic reading, periodic in theta; across the south pole theta turns by half a circle."""
    n_row, n_column = values.shape
    out = np.full(len(at), np.nan)
    patch = np.empty((4, 4))
    for point in range(len(at)):
        r0, c0 = int(np.floor(at[point, 0])), int(np.floor(at[point, 1]))
        fr, fc = at[point, 0] - r0, at[point, 1] - c0
        complete = True
        for i in range(4):
            row, turn = r0 - 1 + i, 0
            if row < 0:
                row, turn = -1 - row, n_column // 2
            row = min(row, n_row - 1)
            for j in range(4):
                patch[i, j] = values[row, (c0 - 1 + j + turn) % n_column]
                complete = complete and not np.isnan(patch[i, j])
        if complete:
            wr, wc = _cubic(fr), _cubic(fc)
            total = 0.0
            for i in range(4):
                for j in range(4):
                    total += wr[i] * wc[j] * patch[i, j]
            out[point] = total
        elif not np.isnan(patch[1 + int(np.round(fr)), 1 + int(np.round(fc))]):
            total, weight = 0.0, 0.0
            for i in range(2):
                for j in range(2):
                    w = (fr if i else 1.0 - fr) * (fc if j else 1.0 - fc)
                    if not np.isnan(patch[1 + i, 1 + j]):
                        total += w * patch[1 + i, 1 + j]
                        weight += w
            out[point] = total / weight
    return out


@njit(cache=True)
def _angular_box(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """A cap around a triangle seen from the origin: phi low, phi high, theta, half-width."""
    a, b, c = (a / np.sqrt(np.dot(a, a)), b / np.sqrt(np.dot(b, b)), c / np.sqrt(np.dot(c, c)))
    middle = a + b + c
    length = np.sqrt(np.dot(middle, middle))
    if length < 1e-9:
        return -np.pi, np.pi, 0.0, np.pi
    middle /= length
    cosine = min(np.dot(a, middle), np.dot(b, middle), np.dot(c, middle))
    radius = np.arccos(max(-1.0, min(1.0, cosine))) + 1e-6
    phi = np.arcsin(max(-1.0, min(1.0, middle[2])))
    if abs(phi) + radius >= np.pi / 2:
        half = np.pi
    else:
        half = np.arcsin(min(1.0, np.sin(radius) / np.cos(phi))) + 1e-9
    return phi - radius, phi + radius, np.arctan2(middle[1], middle[0]), half


@njit(cache=True)
def _ray_triangle(
    ray: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    c: NDArray[np.float64],
) -> tuple[float, float, float]:
    """Distance from the origin and barycentric weights of b and c; negative distance: no hit."""
    e1, e2 = b - a, c - a
    p = np.cross(ray, e2)
    determinant = np.dot(e1, p)
    if abs(determinant) < 1e-14:
        return -1.0, 0.0, 0.0
    u = -np.dot(a, p) / determinant
    q = np.cross(-a, e1)
    v = np.dot(ray, q) / determinant
    if u < -1e-9 or v < -1e-9 or u + v > 1.0 + 1e-9:
        return -1.0, 0.0, 0.0
    return np.dot(e2, q) / determinant, u, v


@njit(cache=True)
def _cast(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    rays: NDArray[np.float64],
    first: NDArray[np.int64],
    phi_low: float,
    phi_high: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Nearest and farthest hit of rays from the origin, binned by the map pixel they point into.

    Each triangle is tested against the rays of the pixels it can cover, so no search tree is
    built and no hit is dropped. `first` has the first ray of every pixel, in raveled order.
    """
    n_ray = len(rays)
    near, far = np.full(n_ray, np.nan), np.full(n_ray, np.nan)
    near_face, far_face = np.full(n_ray, -1), np.full(n_ray, -1)
    d_phi, d_theta = (phi_high - phi_low) / MAP_SIZE, 2 * np.pi / MAP_SIZE
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        low, high, theta, half = _angular_box(a, b, c)
        if high < phi_low or low > phi_high:
            continue
        row0 = max(0, int(np.floor((low - phi_low) / d_phi)))
        row1 = min(MAP_SIZE - 1, int(np.floor((high - phi_low) / d_phi)))
        column0 = int(np.floor((theta - half + np.pi) / d_theta))
        column1 = int(np.floor((theta + half + np.pi) / d_theta))
        column1 = min(column1, column0 + MAP_SIZE - 1)
        for row in range(row0, row1 + 1):
            for unrolled in range(column0, column1 + 1):
                cell = row * MAP_SIZE + unrolled % MAP_SIZE
                for ray in range(first[cell], first[cell + 1]):
                    distance, _, _ = _ray_triangle(rays[ray], a, b, c)
                    if distance <= 0.0:
                        continue
                    if not distance >= near[ray]:
                        near[ray], near_face[ray] = distance, face
                    if not distance <= far[ray]:
                        far[ray], far_face[ray] = distance, face
    return near, far, near_face, far_face


@njit(cache=True)
def _at_hits(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    rays: NDArray[np.float64],
    rho: NDArray[np.float64],
    face: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Barycentric weights of the hits, and surface area per steradian, mm2."""
    weights = np.zeros((len(rays), 3))
    area = np.zeros(len(rays))
    for ray in range(len(rays)):
        if face[ray] < 0:
            continue
        corners = faces[face[ray]]
        a, b, c = vertices[corners[0]], vertices[corners[1]], vertices[corners[2]]
        _, u, v = _ray_triangle(rays[ray], a, b, c)
        weights[ray, 0], weights[ray, 1], weights[ray, 2] = 1.0 - u - v, u, v
        normal = np.cross(b - a, c - a)
        cosine = abs(np.dot(normal, rays[ray])) / np.sqrt(np.dot(normal, normal))
        area[ray] = rho[ray] * rho[ray] / max(cosine, _MIN_COSINE)
    return weights, area
