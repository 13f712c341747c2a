"""Implicit bone surfaces: primitives blended smoothly, their gradients and nearest surface points.

A solid is a float64 array of shape (n, 21), one row per primitive, combined from the first row to
the last. A point lies inside where the field is negative. The zero level is analytic, so surface
points, normals and distances are known to any accuracy and carry no voxel staircase.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNION, SUBTRACT, INTERSECT = 0.0, 1.0, 2.0
_CAPSULE, _PLANE = 0.0, 1.0

LIPSCHITZ = 1.4
"""How fast the field is taken to change per millimetre when blocks are settled by their centre.
The ellipsoid distance of the capsules is approximate and locally steeper; a test compares the
blocks with every voxel asked for itself."""


def capsule(
    centre_mm: Sequence[float],
    radii_mm: tuple[float, float],
    cap_mm: float,
    *,
    half_length_mm: float = 0.0,
    end_radii_mm: tuple[float, float] | None = None,
    axes: FloatArray | None = None,
    operation: float = UNION,
    blend_mm: float = 6.0,
) -> FloatArray:
    """A rod of elliptical section with rounded ends; of no length it is an ellipsoid.

    Args:
        centre_mm: middle of the rod.
        radii_mm: half-axes of the section along the first two axes, at the end of negative w.
        cap_mm: how far the rounded ends stand out along the third axis w.
        half_length_mm: half the length along w between the caps.
        end_radii_mm: half-axes at the end of positive w; as `radii_mm` if not given.
        axes: shape (3, 3), unit rows u, v, w; default x, y, z.
        operation: UNION, SUBTRACT or INTERSECT with the primitives before it.
        blend_mm: width of the smooth transition.
    """
    end = radii_mm if end_radii_mm is None else end_radii_mm
    frame = np.eye(3) if axes is None else axes
    return np.array(
        [
            operation,
            blend_mm,
            _CAPSULE,
            *centre_mm,
            *np.ravel(frame),
            half_length_mm,
            *radii_mm,
            *end,
            cap_mm,
        ]
    )


def half_space(
    point_mm: Sequence[float],
    outward: Sequence[float],
    *,
    operation: float = INTERSECT,
    blend_mm: float = 3.0,
) -> FloatArray:
    """The half-space behind a plane through a point, `outward` pointing out of it."""
    normal = np.asarray(outward, float) / np.linalg.norm(outward)
    row = np.zeros(21)
    row[:3] = operation, blend_mm, _PLANE
    row[3:6] = point_mm
    row[6:9] = normal
    return row


def scaled(solid: FloatArray, factor: float) -> FloatArray:
    """The same solid with every length multiplied."""
    solid = solid.copy()
    solid[:, 1] *= factor
    solid[:, 3:6] *= factor
    solid[:, 15:] *= factor
    return solid


@njit(cache=True)
def _capsule_field(
    row: FloatArray, x: float, y: float, z: float, limit: float
) -> tuple[float, float, float, float]:
    """Approximate distance to a tapered elliptical capsule and its exact gradient.

    A value known to lie above `limit` is returned as `limit` with no gradient.
    """
    x -= row[3]
    y -= row[4]
    z -= row[5]
    u = row[6] * x + row[7] * y + row[8] * z
    v = row[9] * x + row[10] * y + row[11] * z
    w = row[12] * x + row[13] * y + row[14] * z
    half = row[15]
    along = 0.5
    share_slope = 0.0
    rest = w
    if half > 0.0:
        along = min(max(0.5 * (w / half + 1.0), 0.0), 1.0)
        rest = w - min(max(w, -half), half)
        share_slope = 3.0 * along * (1.0 - along) / half
    share = along * along * (3.0 - 2.0 * along)
    ru = row[16] + share * (row[18] - row[16])
    rv = row[17] + share * (row[19] - row[17])
    rw = row[20]
    iu, iv, iw = 1.0 / ru, 1.0 / rv, 1.0 / rw
    a, b, c = u * iu, v * iv, rest * iw
    k0 = np.sqrt(a * a + b * b + c * c)
    # The value is k0 (k0 - 1) / k1 with k1 <= k0 / (least radius).
    if (k0 - 1.0) * min(ru, rv, rw) > limit:
        return limit, 0.0, 0.0, 0.0
    if k0 < 1e-9:
        return -min(ru, rv), 0.0, 0.0, 0.0
    au, bv, cw = a * iu, b * iv, c * iw
    k1_squared = au * au + bv * bv + cw * cw
    k1 = np.sqrt(k1_squared)
    value = k0 * (k0 - 1.0) / k1
    lead = (2.0 * k0 - 1.0) / (k0 * k1)
    lag = value / k1_squared
    du = au * (lead - lag * iu * iu)
    dv = bv * (lead - lag * iv * iv)
    dw = cw * (lead - lag * iw * iw)
    if share_slope != 0.0:
        du_radius = -a * au * (lead - 2.0 * lag * iu * iu)
        dv_radius = -b * bv * (lead - 2.0 * lag * iv * iv)
        dw += share_slope * (du_radius * (row[18] - row[16]) + dv_radius * (row[19] - row[17]))
    return (
        value,
        row[6] * du + row[9] * dv + row[12] * dw,
        row[7] * du + row[10] * dv + row[13] * dw,
        row[8] * du + row[11] * dv + row[14] * dw,
    )


@njit(cache=True)
def field(solid: FloatArray, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Field of a solid and its gradient at one point; negative inside.

    Blending is the quadratic smooth minimum, whose gradient is the same mix of the gradients. A
    primitive beyond the reach of its blend is not evaluated in full, which changes nothing.
    """
    value, gx, gy, gz = 1e9, 0.0, 0.0, 0.0
    for i in range(solid.shape[0]):
        row = solid[i]
        operation, blend = row[0], row[1]
        if row[2] == 1.0:
            f = row[6] * (x - row[3]) + row[7] * (y - row[4]) + row[8] * (z - row[5])
            fx, fy, fz = row[6], row[7], row[8]
        else:
            limit = 1e9
            if i > 0 and operation == 0.0:
                limit = value + blend
            elif i > 0 and operation == 1.0:
                limit = blend - value
            f, fx, fy, fz = _capsule_field(row, x, y, z, limit)
        if i == 0:
            value, gx, gy, gz = f, fx, fy, fz
            continue
        if operation == 1.0:
            f, fx, fy, fz = -f, -fx, -fy, -fz
        sign = 1.0 if operation == 0.0 else -1.0
        mix = min(max(0.5 + 0.5 * sign * (f - value) / blend, 0.0), 1.0)
        rest = 1.0 - mix
        value = mix * value + rest * f - sign * blend * mix * rest
        gx, gy, gz = mix * gx + rest * fx, mix * gy + rest * fy, mix * gz + rest * fz
    return value, gx, gy, gz


@njit(cache=True)
def nearest(
    solid: FloatArray, x: float, y: float, z: float, tolerance_mm: float
) -> tuple[float, float, float, float, float, float, float]:
    """Signed distance to the surface, the nearest surface point and the outward normal there.

    Each step takes the point of the tangent plane at the present guess that is nearest to the
    query; it converges at the rate distance times curvature, so it is for points nearer than the
    radius of curvature. Farther away it may fail to converge; then the surface point is the one
    reached by following the gradient, which is on the surface but need not be the nearest.
    """
    px, py, pz = x, y, z
    nx, ny, nz = 0.0, 0.0, 0.0
    outside = field(solid, x, y, z)[0] > 0.0
    for attempt in range(2):
        px, py, pz = x, y, z
        moved = 1e9
        for _ in range(40):
            f, gx, gy, gz = field(solid, px, py, pz)
            norm = np.sqrt(gx * gx + gy * gy + gz * gz)
            if norm < 1e-12:
                break
            nx, ny, nz = gx / norm, gy / norm, gz / norm
            step = f / norm
            if attempt == 0:
                step += (x - px) * nx + (y - py) * ny + (z - pz) * nz
                qx, qy, qz = x - step * nx, y - step * ny, z - step * nz
            else:
                step = min(max(step, -3.0), 3.0)
                qx, qy, qz = px - step * nx, py - step * ny, pz - step * nz
            moved = abs(qx - px) + abs(qy - py) + abs(qz - pz)
            px, py, pz = qx, qy, qz
            if moved < tolerance_mm:
                break
        if moved < max(tolerance_mm, 1e-6):
            along = (x - px) * nx + (y - py) * ny + (z - pz) * nz
            if (along > 0.0) == outside or abs(along) < 10.0 * tolerance_mm:
                break
    distance = np.sqrt((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2)
    return (distance if outside else -distance), px, py, pz, nx, ny, nz


@njit(cache=True)
def field_at(solid: FloatArray, points_mm: FloatArray) -> FloatArray:
    """Field and gradient at points (n, 3): shape (n, 4)."""
    out = np.empty((points_mm.shape[0], 4))
    for i in range(points_mm.shape[0]):
        out[i] = field(solid, points_mm[i, 0], points_mm[i, 1], points_mm[i, 2])
    return out


@njit(cache=True)
def nearest_at(solid: FloatArray, points_mm: FloatArray, tolerance_mm: float) -> FloatArray:
    """Signed distance, nearest surface point and normal at points (n, 3): shape (n, 7)."""
    out = np.empty((points_mm.shape[0], 7))
    for i in range(points_mm.shape[0]):
        out[i] = nearest(solid, points_mm[i, 0], points_mm[i, 1], points_mm[i, 2], tolerance_mm)
    return out
