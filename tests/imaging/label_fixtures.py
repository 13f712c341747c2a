"""Small label volumes whose geometry is known by construction."""

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelVolume, Scheme, Tissue, load_scheme

OBLIQUE_AFFINE = np.array(
    [
        [-0.697, 0.0, -0.0318, -6.65],
        [-0.061, 0.0, 0.3632, -77.41],
        [0.0, -0.3646, 0.0, 70.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Close to the grid of the real label."""


def lps_affine(origin_x_mm: float = -100.0) -> NDArray[np.float64]:
    """Slices along +x 2 mm apart, rows downwards, columns backwards 1 mm apart."""
    return np.array([[2.0, 0, 0, origin_x_mm], [0, 0, 1.0, -10], [0, -1.0, 0, 10], [0, 0, 0, 1.0]])


def blocks(
    places: dict[Tissue, int],
    scheme: Scheme | None = None,
    affine: NDArray[np.float64] | None = None,
) -> LabelVolume:
    """A volume of 20 slices with a 2 x 6 x 6 block of each tissue from the given slice on.

    Blocks of different tissues lie in different rows.
    """
    scheme = scheme or load_scheme("mskt")
    array = np.zeros((20, 8 * len(places) + 1, 8), np.uint8)
    for i, (tissue, start) in enumerate(places.items()):
        array[start : start + 2, 8 * i + 1 : 8 * i + 7, 1:7] = scheme.values([tissue])[0]
    return LabelVolume(array, lps_affine() if affine is None else affine, scheme)


def whole_knee(affine: NDArray[np.float64] | None = None) -> LabelVolume:
    """Every tissue of `mskt` somewhere, at random places."""
    rng = np.random.default_rng(11)
    array = rng.integers(0, 11, (7, 9, 8)).astype(np.uint8)
    return LabelVolume(array, OBLIQUE_AFFINE if affine is None else affine, load_scheme("mskt"))
