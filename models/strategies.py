"""The six ways of merging a bone's maps into one three-channel image.

A knee is stored once as five 8-bit planes; a strategy is a choice of three of them, so no merged
image is ever stored. Source: Morales 2021, "Spherical transformation" and Fig. 4.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

PLANES = ("bone_shape", "cartilage_thickness", "t2_deep", "t2_superficial", "t2_mean")
"""Maps of a bone, in the order their planes are stored."""

Channels = tuple[str | None, str | None, str | None]
"""The plane in each of the three channels; None for an empty one."""

STRATEGIES: Mapping[str, Channels] = {
    "thickness": ("cartilage_thickness", "cartilage_thickness", "cartilage_thickness"),
    "bone_shape": ("bone_shape", "bone_shape", "bone_shape"),
    "t2": ("t2_deep", "t2_superficial", "t2_mean"),
    "bone_thickness": ("cartilage_thickness", "bone_shape", None),
    "thickness_t2": ("t2_deep", "t2_superficial", "cartilage_thickness"),
    "all_biomarkers": ("cartilage_thickness", "bone_shape", "t2_mean"),
}
"""Channels of each strategy, (a) to (f) of Fig. 4."""

_Planes = TypeVar("_Planes", NDArray[np.uint8], "torch.Tensor")


def channels_of(strategy: str) -> Channels:
    """The planes of a strategy's three channels.

    Raises:
        ValueError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy!r} is not a strategy; use one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]


def planes_of(strategy: str) -> tuple[str, ...]:
    """The planes a strategy needs, each once, in stored order."""
    return tuple(plane for plane in PLANES if plane in channels_of(strategy))


def channel_indices(strategy: str) -> tuple[int | None, ...]:
    """Where in `PLANES` each channel of a strategy is; None for an empty channel."""
    return tuple(None if plane is None else PLANES.index(plane) for plane in channels_of(strategy))


def merge(planes: _Planes, strategy: str) -> _Planes:
    """The three-channel images of a strategy.

    Args:
        planes: 8-bit planes in the order of `PLANES`, shape (n, 5, n_phi, n_theta).
        strategy: a key of `STRATEGIES`.

    Returns:
        Shape (n, 3, n_phi, n_theta), of the same type; an empty channel is 0.

    Raises:
        ValueError: no such strategy, or planes of another shape.
    """
    if planes.ndim != 4 or planes.shape[1] != len(PLANES):
        raise ValueError(
            f"planes have shape {tuple(planes.shape)}; expected (n, {len(PLANES)}, n_phi, n_theta)"
        )
    indices: Sequence[int | None] = channel_indices(strategy)
    # One indexing copies; the empty channel borrows plane 0 and is blanked.
    images: Any = planes[:, [index or 0 for index in indices]]
    for channel, index in enumerate(indices):
        if index is None:
            images[:, channel] = 0
    return images
