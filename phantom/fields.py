"""Smooth scalar fields over a bone (cartilage thickness, T2) and how cartilage ends at its margin.

A field is a sum of Gaussian bumps and plane waves of the bone's own coordinates: smooth, analytic,
cheap anywhere, and reproducible from a few numbers.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from phantom.implicit import field

FloatArray = NDArray[np.float64]

RIM_MM = 2.5
"""Over this distance from its margin, cartilage rises from nothing to its full thickness."""

THINNEST_MM, THICKEST_MM = 0.5, 4.5
"""Away from its margin cartilage stays within these, however deep a lesion is."""


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A sum of bumps and waves.

    Attributes:
        bumps: shape (n, 5): centre (3) and standard deviation in mm, amplitude. An infinite
            standard deviation makes a constant.
        waves: shape (m, 5): wave vector (3) in rad/mm, phase in rad, amplitude.
    """

    bumps: FloatArray
    waves: FloatArray


def random_waves(
    rng: np.random.Generator, sd: float, wavelengths_mm: tuple[float, float], count: int = 8
) -> FloatArray:
    """Waves of random direction that add up to a random field of mean 0 and the given SD."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.uniform(*wavelengths_mm, size=(count, 1))
    phases = rng.uniform(0.0, 2.0 * np.pi, size=(count, 1))
    amplitudes = np.full((count, 1), sd * np.sqrt(2.0 / count))
    return np.hstack([directions * 2.0 * np.pi / lengths, phases, amplitudes])


@njit(cache=True)
def smooth_value(bumps: FloatArray, waves: FloatArray, x: float, y: float, z: float) -> float:
    """Value of a smooth field at one point."""
    total = 0.0
    for i in range(bumps.shape[0]):
        dx, dy, dz = x - bumps[i, 0], y - bumps[i, 1], z - bumps[i, 2]
        total += bumps[i, 4] * np.exp(-0.5 * (dx * dx + dy * dy + dz * dz) / bumps[i, 3] ** 2)
    for i in range(waves.shape[0]):
        phase = waves[i, 0] * x + waves[i, 1] * y + waves[i, 2] * z + waves[i, 3]
        total += waves[i, 4] * np.cos(phase)
    return total


@njit(cache=True)
def cartilage_thickness(
    domain: FloatArray, bumps: FloatArray, waves: FloatArray, x: float, y: float, z: float
) -> float:
    """Cartilage thickness in mm over one point of the bone surface; 0 outside the domain.

    `domain` is the solid whose inside is covered; its field is the depth behind the margin.
    """
    depth = -field(domain, x, y, z)[0]
    if depth <= 0.0:
        return 0.0
    rise = min(depth / RIM_MM, 1.0)
    full = min(max(smooth_value(bumps, waves, x, y, z), THINNEST_MM), THICKEST_MM)
    return rise * rise * (3.0 - 2.0 * rise) * full


@njit(cache=True)
def smooth_values(bumps: FloatArray, waves: FloatArray, points_mm: FloatArray) -> FloatArray:
    """Values of a smooth field at points (n, 3): shape (n,)."""
    out = np.empty(points_mm.shape[0])
    for i in range(points_mm.shape[0]):
        out[i] = smooth_value(bumps, waves, points_mm[i, 0], points_mm[i, 1], points_mm[i, 2])
    return out


@njit(cache=True)
def cartilage_thicknesses(
    domain: FloatArray, bumps: FloatArray, waves: FloatArray, points_mm: FloatArray
) -> FloatArray:
    """Cartilage thickness over surface points (n, 3): shape (n,), mm."""
    out = np.empty(points_mm.shape[0])
    for i in range(points_mm.shape[0]):
        out[i] = cartilage_thickness(
            domain, bumps, waves, points_mm[i, 0], points_mm[i, 1], points_mm[i, 2]
        )
    return out
