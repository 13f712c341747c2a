"""A smooth displacement of a bone's surface: a low-rank Gaussian process.

displacement(point) = basis(point) @ weights, with weights ~ N(0, 1) per axis. The covariance is a
sum of Gaussian kernels of several widths and of a linear one, which lets the bone stretch and
shear (Lüthi 2018, doi 10.1109/TPAMI.2017.2739743).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from imaging.triangles import FloatArray, IntArray

_N_MATCHES = 5000


@dataclass(frozen=True)
class DisplacementPrior:
    """What displacements are expected, mm, on a bone of the size of an adult femur's end.

    Attributes:
        kernel_mm: widths (standard deviations) of the kernels.
        amplitude_mm: expected displacement of each.
        affine_mm: expected displacement by stretching and shearing, at one radius from the middle.
        n_control: points the kernels are centred at.
    """

    kernel_mm: tuple[float, ...] = (80.0, 40.0, 20.0, 10.0)
    amplitude_mm: tuple[float, ...] = (4.0, 3.0, 2.0, 2.0)
    affine_mm: float = 5.0
    n_control: int = 150


@dataclass(frozen=True, eq=False)
class Displacement:
    """The process on one bone.

    Attributes:
        centres: of the kernels, mm, shape (n_control, 3).
        whitening: shape (n_control, n_basis).
        middle: of the bone, mm, shape (3,).
        radius: of the bone, mm.
        size: by which the prior's lengths are multiplied.
        prior: what is expected.
    """

    centres: FloatArray
    whitening: FloatArray
    middle: FloatArray
    radius: float
    size: float
    prior: DisplacementPrior

    def basis(self, points: FloatArray) -> FloatArray:
        """Displacement of points (n, 3) by each weight, shape (n, n_basis)."""
        return self._covariance(points) @ self.whitening

    def _covariance(self, points: FloatArray) -> FloatArray:
        return _covariance(points, self.centres, self.middle, self.radius, self.size, self.prior)


def displacement(
    points: FloatArray, middle: FloatArray, radius: float, size: float, prior: DisplacementPrior
) -> Displacement:
    """The process on a bone given by points spread over its surface, mm, shape (n, 3)."""
    centres = points[_spread_out(points, prior.n_control)]
    values, vectors = np.linalg.eigh(_covariance(centres, centres, middle, radius, size, prior))
    kept = values > values[-1] * 1e-6
    return Displacement(
        centres, vectors[:, kept] / np.sqrt(values[kept]), middle, radius, size, prior
    )


def _covariance(
    points: FloatArray,
    centres: FloatArray,
    middle: FloatArray,
    radius: float,
    size: float,
    prior: DisplacementPrior,
) -> FloatArray:
    """Covariance of the displacements of points and centres, shape (n_point, n_centre)."""
    squared = np.maximum(
        (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T,
        0.0,
    )
    stretch = (points - middle) @ (centres - middle).T / radius**2
    total = (prior.affine_mm * size) ** 2 * (1 + stretch)
    for width, amplitude in zip(prior.kernel_mm, prior.amplitude_mm, strict=True):
        total += (amplitude * size) ** 2 * np.exp(squared / (-2 * (width * size) ** 2))
    return total


def _spread_out(points: FloatArray, n: int) -> IntArray:
    """Indices of points far from each other: each next one is the farthest from those taken."""
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(axis=1)
    for _ in range(min(n, len(points)) - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.int64)


def most_probable_weights(
    basis: FloatArray,
    sample: IntArray,
    normals: FloatArray,
    wanted: FloatArray,
    distance: FloatArray,
    noise: float,
    tangential: FloatArray,
) -> FloatArray:
    """The most probable weights, given the displacements wanted of some samples.

    Args:
        basis: of all samples, shape (n_sample, n_basis).
        sample: which one each match is of, shape (n,).
        normals: unit; along them the distance counts in full, shape (n, 3).
        wanted: displacements, mm, shape (n, 3).
        distance: of the samples, as displaced so far, from their matches, mm, shape (n,).
        noise: expected distance, mm, were there `_N_MATCHES` matches: more or fewer say as much.
        tangential: of each match, weight of the distance within the surface against that along the
            normal, shape (n,).

    Returns:
        Shape (n_basis, 3).
    """
    # Student's t weights: far matches are probably wrong ones.
    trust = 1 / (1 + (distance / (3 * noise)) ** 2) / noise**2
    trust *= _N_MATCHES / max(len(sample), 1)
    n_sample, n_basis = basis.shape

    def summed(values: FloatArray) -> FloatArray:
        return np.bincount(sample, values, minlength=n_sample).astype(np.float64)

    # All matches of a sample share its row of the basis: add them up before the large product. In
    # single precision, half the time; places change by some micrometres on average.
    along = (normals * wanted).sum(axis=1)
    single = basis.astype(np.float32)
    scaled = np.empty_like(single)
    left = np.empty((n_basis, 3, n_basis, 3))
    right = np.empty((n_basis, 3))
    for i in range(3):
        pull = trust * (normals[:, i] * along + tangential**2 * wanted[:, i])
        right[:, i] = basis.T @ summed(pull)
        for j in range(i + 1):
            weight = normals[:, i] * normals[:, j]
            if i == j:
                weight += tangential**2
            np.multiply(single, summed(trust * weight)[:, None], out=scaled, casting="same_kind")
            left[:, i, :, j] = single.T @ scaled
            left[:, j, :, i] = left[:, i, :, j]
    square = left.reshape(3 * n_basis, 3 * n_basis)
    square[np.diag_indices(3 * n_basis)] += 1.0
    factor = cho_factor(square, lower=True, overwrite_a=True, check_finite=False)
    return cho_solve(factor, right.ravel(), check_finite=False).reshape(-1, 3)
