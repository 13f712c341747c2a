"""Values of a map to 8 bits, and 8 bits to what a network is fed.

A map becomes 8 bits by the group's range of its bone and biomarker (Morales 2021, "Spherical
transformation"): the range's lower end is 0, its upper end 255, and halves are rounded up, so that
0.8, 0.5 and 0.1 of the range are the paper's 204, 128 and 26. Pixels without a value are 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 255
MISSING_LEVEL = 0
"""Level of a pixel without a value: black, as the paper's images are off the cartilage."""


@dataclass(frozen=True)
class MapRange:
    """What the two ends of the 8-bit scale stand for.

    Attributes:
        minimum, maximum: of a biomarker over one bone, mm or ms.
    """

    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.minimum, self.maximum]).all() and self.minimum < self.maximum):
            raise ValueError(
                f"{self.minimum:g} to {self.maximum:g} is no range; its ends have to be finite and "
                "rise"
            )


def to_levels(values: NDArray[np.floating], scale: MapRange) -> NDArray[np.uint8]:
    """Values of any shape as 8-bit levels; beyond the range they take its end, NaN is 0."""
    # Times 255 before the division: 0.5 of 5 mm is then exactly 25.5.
    levels = (np.asarray(values) - scale.minimum) * LEVELS
    levels /= scale.maximum - scale.minimum
    np.clip(levels, 0, LEVELS, out=levels)
    # Truncation after adding a half: rint would take halves to the even neighbour.
    levels += 0.5
    levels[np.isnan(levels)] = MISSING_LEVEL
    return levels.astype(np.uint8)


def from_levels(levels: NDArray[np.uint8], scale: MapRange) -> NDArray[np.float64]:
    """The values that levels stand for, within half a level; 0 is the minimum or no value."""
    step = (scale.maximum - scale.minimum) / LEVELS
    return scale.minimum + np.asarray(levels, np.float64) * step


@dataclass(frozen=True)
class ChannelNormalization:
    """What is taken from each channel, and divided by, once levels are scaled to 0 to 1.

    Attributes:
        mean, sd: of the three channels.
    """

    mean: tuple[float, float, float]
    sd: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.sd) <= 0 or not np.isfinite([*self.mean, *self.sd]).all():
            raise ValueError(f"channel SDs {self.sd} and means {self.mean}: expected SDs above 0")


IMAGENET = ChannelNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""For networks that start from torchvision's ImageNet weights, and what the authors' code uses."""
