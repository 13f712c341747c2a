"""Distance-weighted losses of the segmentation ensembles.

All take logits (batch, n_class, *spatial) and the truth of their patches and give one number.
Voxels near a border weigh more through Caliva's penalty 1 + Phi (arXiv:1908.03679, eq. 2), or the
distance itself enters: Kervadec's boundary loss (doi:10.1016/j.media.2020.101851) and Karimi's
Hausdorff loss (doi:10.1109/TMI.2019.2930068), both beside a loss by region as their authors advise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.vnet import Loss

if TYPE_CHECKING:
    import torch

FOCAL_GAMMA = 2.0
HAUSDORFF_EXPONENT = 2.0
BOUNDARY_SHARE = 0.1
"""Weight of the boundary term per millimetre, beside the loss by region."""

HAUSDORFF_SHARE = 0.02
"""Weight of the Hausdorff term per square millimetre, beside the loss by region."""

_SMOOTH = 1.0


@dataclass(frozen=True, eq=False)
class PatchTruth:
    """What is true of a batch of patches.

    Attributes:
        classes: (batch, *spatial), 0 for background.
        penalty: Caliva's Phi, (batch, *spatial).
        spacing_mm: between voxels along each spatial axis.
    """

    classes: "torch.Tensor"
    penalty: "torch.Tensor"
    spacing_mm: Sequence[float]


LossFunction = Callable[["torch.Tensor", PatchTruth], "torch.Tensor"]


def distance_penalty(
    classes: NDArray[np.uint8], spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Caliva's Phi: 1 at the borders, falling linearly to 0 at each class's innermost voxel.

    Inside each class, background included, it is 1 - d / d_max with d the distance in mm to the
    nearest voxel of another class. A class that fills the array has no border: 0.

    Args:
        classes: class of each voxel, any number of dimensions.
        spacing_mm: between voxels along each axis.

    Returns:
        Phi in [0, 1], same shape.
    """
    penalty = np.zeros(classes.shape, np.float32)
    present = np.unique(classes)
    if len(present) < 2:
        return penalty
    for value in present:
        inside = classes == value
        distance_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
        penalty[inside] = 1.0 - distance_mm[inside] / distance_mm.max()
    return penalty


def signed_distance_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance to the border of a mask in mm, negative inside; 0 where there is no border.

    The border lies between voxels: half the smallest spacing nearer than the nearest voxel on its
    other side.
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    half_mm = 0.5 * min(spacing_mm)
    signed = np.where(mask, -np.maximum(inside - half_mm, 0), np.maximum(outside - half_mm, 0))
    return signed.astype(np.float32)


def _one_hot(classes: "torch.Tensor", n_class: int) -> "torch.Tensor":
    from torch.nn import functional

    return functional.one_hot(classes.long(), n_class).movedim(-1, 1).float()


def _cross_entropy(logits: "torch.Tensor", classes: "torch.Tensor") -> "torch.Tensor":
    """Per voxel."""
    from torch.nn import functional

    return functional.cross_entropy(logits, classes.long(), reduction="none")


def weighted_cross_entropy(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """Mean of (1 + Phi) times the cross-entropy: Caliva's own loss."""
    return ((1.0 + truth.penalty) * _cross_entropy(logits, truth.classes)).mean()


def weighted_focal(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """Mean of (1 + Phi) (1 - p)^2 times the cross-entropy, p the true class's probability."""
    entropy = _cross_entropy(logits, truth.classes)
    missed = 1.0 - (-entropy).exp()
    return ((1.0 + truth.penalty) * missed**FOCAL_GAMMA * entropy).mean()


def weighted_dice(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """1 - mean Dice over the classes, each voxel weighted by 1 + Phi.

    Sums run over the whole batch, and background counts as a class: a patch without a tissue
    then still has a gradient.
    """
    share = logits.softmax(1)
    wanted = _one_hot(truth.classes, logits.shape[1])
    weight = (1.0 + truth.penalty).unsqueeze(1)
    axes = (0, *range(2, logits.ndim))
    both = (weight * share * wanted).sum(axes)
    either = (weight * (share + wanted)).sum(axes)
    return 1.0 - ((2.0 * both + _SMOOTH) / (either + _SMOOTH)).mean()


def dice_and_entropy(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """Weighted Dice plus weighted cross-entropy.

    Dice by itself has next to no gradient where a wrong class is certain, and a small tissue can
    stick there; cross-entropy has one wherever a class is wrong.
    """
    return weighted_dice(logits, truth) + weighted_cross_entropy(logits, truth)


def boundary_dice(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """`dice_and_entropy`, plus the mean of each tissue's probability times signed distance."""
    import torch

    share = logits.softmax(1)
    numbers = truth.classes.cpu().numpy()
    distance_mm = np.stack(
        [
            [
                signed_distance_mm(one == value, truth.spacing_mm)
                for value in range(1, logits.shape[1])
            ]
            for one in numbers
        ]
    )
    boundary = (share[:, 1:] * torch.from_numpy(distance_mm).to(share)).mean()
    return dice_and_entropy(logits, truth) + BOUNDARY_SHARE * boundary


def hausdorff_dice(logits: "torch.Tensor", truth: PatchTruth) -> "torch.Tensor":
    """`dice_and_entropy`, plus the squared error weighted by squared distances to both borders.

    The borders are those of the truth and of the prediction at a probability of one half.
    """
    wanted = _one_hot(truth.classes, logits.shape[1])
    term = hausdorff_term(logits.softmax(1), wanted, truth.spacing_mm)
    return dice_and_entropy(logits, truth) + HAUSDORFF_SHARE * term


def hausdorff_term(
    share: "torch.Tensor", truth: "torch.Tensor", spacing_mm: Sequence[float]
) -> "torch.Tensor":
    """Karimi's distance-transform term over the tissues, background left out, mm2.

    Args:
        share: probabilities (batch, n_class, *spatial).
        truth: the same of the truth, 0 or 1.
        spacing_mm: between voxels along each axis.
    """
    import torch

    fields = []
    for image in (share, truth):
        masks = (image[:, 1:].detach() > 0.5).cpu().numpy()
        fields.append(
            np.stack([[_border_distance_mm(one, spacing_mm) for one in case] for case in masks])
        )
    weight = fields[0] ** HAUSDORFF_EXPONENT + fields[1] ** HAUSDORFF_EXPONENT
    error = (share[:, 1:] - truth[:, 1:]) ** 2
    return (error * torch.from_numpy(weight).to(share)).mean()


def _border_distance_mm(
    mask: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Distance to the nearest voxel on the other side of a mask's border; 0 without a border."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return (inside + outside).astype(np.float32)


LOSSES: Mapping[Loss, LossFunction] = {
    "cross_entropy": weighted_cross_entropy,
    "dice": dice_and_entropy,
    "focal": weighted_focal,
    "boundary_dice": boundary_dice,
    "hausdorff_dice": hausdorff_dice,
}
"""The loss of each name."""
