"""A trained network on a bank of images: logits and, from the same pass, both classes' maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.bank import ImageBank
from models.folding import folded
from models.gradcam import Explanation, GradCamError, explained_maps
from models.normalization import IMAGENET, ChannelNormalization
from models.training_config import Precision
from models.training_loop import is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

BATCH_SIZE = 64
"""Images at once. The result does not depend on it beyond the last digits."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a network says of some images.

    Attributes:
        logits: no and yes, shape (n, 2).
        maps: signed Grad-CAM of no and yes on the block's grid, shape (n, 2, h, w). Half
            precision: a cell is right to 0.05 %, and 25 knees fit into 10 kB at the last block.
    """

    logits: NDArray[np.float32]
    maps: NDArray[np.float16]

    @property
    def probability(self) -> NDArray[np.float64]:
        """Softmax probability of yes, shape (n,)."""
        margin = self.logits[:, 1].astype(np.float64) - self.logits[:, 0]
        # Of the smaller exponential, so that no margin overflows.
        small = np.exp(-np.abs(margin))
        return np.where(margin >= 0, 1 / (1 + small), small / (1 + small))


def predict(
    network: "nn.Module",
    bank: ImageBank,
    rows: Sequence[int] | NDArray[np.integer],
    strategy: str,
    *,
    normalization: ChannelNormalization = IMAGENET,
    precision: Precision = "float32",
    explanation: Explanation | None = None,
    batch_size: int = BATCH_SIZE,
    say: Callable[[str], None] | None = None,
) -> Predicted:
    """Logits and maps of some rows of a bank.

    Args:
        network: in eval mode, on the bank's device.
        bank: images of one bone.
        rows: of the bank, at least one.
        strategy: how its planes are merged.
        normalization: that the network was trained with.
        precision: of the convolutions.
        explanation: how evidence is read; the paper's way where None.
        batch_size: images at once; halved, and said aloud, where the device's memory is full.
        say: told about that.

    Raises:
        ValueError: no rows, or rows that lack a map of the strategy.
        GradCamError: the network has no closed form, or maps beyond half precision.
    """
    index = np.asarray(rows, np.int64)
    if len(index) == 0:
        raise ValueError("there are no rows to predict")
    bank.require(index, strategy)
    logits, maps = [], []
    quick = folded(network)
    first = 0
    while first < len(index):
        some = index[first : first + batch_size]
        try:
            images = bank.batch(some, strategy, normalization=normalization)
            found = explained_maps(quick, images, explanation or Explanation(), precision=precision)
        except RuntimeError as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
            batch_size //= 2
            if say is not None:
                say(f"the device's memory is full: going on with {batch_size} images at once")
            continue
        logits.append(found.logits.cpu().numpy())
        maps.append(found.maps.cpu().numpy())
        first += len(some)
    raw = np.concatenate(maps)
    if np.abs(raw).max() > np.finfo(np.float16).max:
        raise GradCamError(
            f"a map reaches {np.abs(raw).max():.3g}, beyond half precision: the network's logits "
            "have exploded; train it again at a lower learning rate"
        )
    return Predicted(np.concatenate(logits), raw.astype(np.float16))
