"""Training images of drawn knees, without a lake: what `benchmarks` train networks on."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from models.bank import ImageBank
from models.normalization import MapRange, to_levels
from models.strategies import PLANES
from phantom.map_cohort import DrawnKnee, DrawnMaps, PlantedEffect, draw_maps

SHARES = (0.54, 0.17)
"""Training and validation, as in the paper; the rest is the test split."""
DRAWN_AT_ONCE = 64


def split_rows(n: int) -> dict[str, NDArray[np.int64]]:
    """Rows of the training, validation and test split of n knees, in their order."""
    cuts = np.cumsum([round(share * n) for share in SHARES])
    return dict(zip(("training", "validation", "test"), np.split(np.arange(n), cuts), strict=True))


def draw_images(
    bone: Bone,
    amplitude: NDArray[np.float64],
    effect: PlantedEffect,
    seed: int,
    look: Callable[[slice, DrawnMaps], None],
) -> ImageBank:
    """Draw a right knee per person, and its 8-bit images.

    Args:
        bone: which.
        amplitude: of each knee's planted change, shape (n,).
        effect: what is planted.
        seed: of everything else.
        look: given the rows and the maps of some knees at a time, before the maps are let go.
    """
    import torch

    n = len(amplitude)
    knees = [DrawnKnee(1_000_001 + row, "RIGHT", "V00", float(amplitude[row])) for row in range(n)]
    planes = np.empty((n, len(PLANES), 224, 224), np.uint8)
    ranges: dict[str, MapRange] = {}
    for first in range(0, n, DRAWN_AT_ONCE):
        rows = slice(first, min(first + DRAWN_AT_ONCE, n))
        drawn = draw_maps(seed, knees[rows], bone, effect)
        for place, plane in enumerate(PLANES):
            values = drawn.maps[plane]
            # Of the first knees, which are of the training split; what lies beyond is clipped.
            if plane not in ranges:
                ranges[plane] = MapRange(float(np.nanmin(values)), float(np.nanmax(values)))
            planes[rows, place] = to_levels(values, ranges[plane])
        look(rows, drawn)
    return ImageBank(bone, tuple(knee.knee_visit for knee in knees), torch.from_numpy(planes))
