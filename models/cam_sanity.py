"""Does a Grad-CAM depend on what the network learned, and does the network use what it shows?

Cascading weight randomisation: from the head down to the stem, weights are replaced by fresh ones;
a map that stays the same shows the image's edges, not the network (Adebayo et al. 2018,
arXiv:1810.03292). Label randomisation: the same with a network trained on permuted labels.
Deletion and insertion: pixels are taken away, or put in, most important first; the prediction has
to change faster than in a random order (Petsiuk et al. 2018, arXiv:1806.07421). What is taken away
is replaced by the mean image of a group, so that what the network sees still looks like a knee.
"""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.cam_views import upsampled
from models.classifier import NO, YES, seeded
from models.gradcam import ClassMaps, GradCamError, class_maps

if TYPE_CHECKING:
    import torch
    from torch import nn

STAGES: tuple[tuple[str, ...], ...] = (
    ("fc",),
    ("layer4",),
    ("layer3",),
    ("layer2",),
    ("layer1",),
    ("bn1", "conv1"),
)
"""In the order they are randomised, each together with those before."""

FRACTIONS = tuple(np.round(np.linspace(0.0, 1.0, 11), 2).tolist())
"""Shares of pixels taken away or put in."""


@dataclass(frozen=True, eq=False)
class Randomization:
    """Similarity of maps as weights are randomised from the head down.

    Attributes:
        stages: the last layer randomised; the first entry is none.
        spearman: of each image's contrastive map with the network's own, shape (n_stage, n);
            NaN for a map of one value.
    """

    stages: tuple[str, ...]
    spearman: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """Probability of the class predicted for the whole image, as pixels go or come.

    Attributes:
        fractions: shares of pixels, shape (n_fraction,).
        deletion: taken away in the map's order, shape (n, n_fraction).
        deletion_random: in the order of the same map with its cells shuffled.
        insertion: put into the mean image in the map's order.
        insertion_random: in the shuffled order.
    """

    fractions: NDArray[np.float64]
    deletion: NDArray[np.float64]
    deletion_random: NDArray[np.float64]
    insertion: NDArray[np.float64]
    insertion_random: NDArray[np.float64]

    def areas(self) -> dict[str, float]:
        """Mean area under each curve; a faithful map has low deletion and high insertion."""
        names = ("deletion", "deletion_random", "insertion", "insertion_random")
        return {
            name: float(np.trapezoid(getattr(self, name), self.fractions, axis=1).mean())
            for name in names
        }


def contrast(found: ClassMaps) -> NDArray[np.float32]:
    """Evidence for pain over no pain, shape (n, h, w): all that a softmax goes by."""
    return (found.maps[:, YES] - found.maps[:, NO]).cpu().numpy()


def similarity(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman correlation of each pair of maps over their cells, shape (n,); NaN if one is flat.

    Args:
        first: maps, shape (n, h, w).
        second: others of the same shape.

    Raises:
        ValueError: shapes that differ.
    """
    from scipy.stats import rankdata

    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {first.shape} and {second.shape} cannot be compared")
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    sizes = [np.sqrt((one**2).sum(axis=1)) for one in centred]
    product = (centred[0] * centred[1]).sum(axis=1)
    scale = sizes[0] * sizes[1]
    return np.where(scale > 0, product / np.where(scale > 0, scale, 1.0), np.nan)


def cascading_randomization(
    network: "nn.Module", images: "torch.Tensor", fresh: "nn.Module"
) -> Randomization:
    """Maps as the network's weights are replaced, head first, by those of a fresh one.

    Args:
        network: trained, in eval mode; it is not changed.
        images: normalised, shape (n, 3, H, W).
        fresh: of the same architecture, with newly drawn weights.

    Raises:
        GradCamError: a network without the layers of a ResNet.
    """
    own = contrast(class_maps(network, images))
    changed = copy.deepcopy(network)
    names, rows = ["none"], [similarity(own, own)]
    for stage in STAGES:
        for name in stage:
            if not hasattr(changed, name):
                raise GradCamError(f"the network has no {name}; randomisation is of ResNets")
            getattr(changed, name).load_state_dict(getattr(fresh, name).state_dict())
        names.append(stage[-1])
        rows.append(similarity(own, contrast(class_maps(changed, images))))
    return Randomization(tuple(names), np.stack(rows))


def perturbation_curves(
    network: "nn.Module",
    images: "torch.Tensor",
    infill: "torch.Tensor",
    *,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> PerturbationCurves:
    """Deletion and insertion in the order of the contrastive map of the predicted class.

    Args:
        network: in eval mode.
        images: normalised, shape (n, 3, H, W).
        infill: what takes a pixel's place, such as a group's mean image, shape (3, H, W).
        seed: of the shuffled order, which keeps the maps' smoothness.
        fractions: shares of pixels, rising from 0 to 1.

    Raises:
        ValueError: an infill of another shape than the images.
    """
    if infill.shape != images.shape[1:]:
        raise ValueError(
            f"an infill of shape {tuple(infill.shape)} for images of {tuple(images.shape[1:])}"
        )
    found = class_maps(network, images)
    predicted = (found.logits[:, YES] > found.logits[:, NO]).cpu().numpy()
    maps = np.where(predicted[:, None, None], 1, -1) * contrast(found)
    shuffled = _shuffled(maps, seed)
    curves = {}
    for name, order in (("", maps), ("_random", shuffled)):
        ranks = _pixel_ranks(upsampled(order, (images.shape[2], images.shape[3])))
        for kind in ("deletion", "insertion"):
            curves[kind + name] = _curve(
                network, images, infill, ranks, predicted, fractions, inserts=kind == "insertion"
            )
    return PerturbationCurves(np.asarray(fractions, np.float64), **curves)


def _shuffled(maps: NDArray[np.floating], seed: int) -> NDArray[np.floating]:
    rng = np.random.default_rng(seed)
    flat = maps.reshape(len(maps), -1)
    return np.stack([rng.permutation(one) for one in flat]).reshape(maps.shape)


def _pixel_ranks(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each pixel's place when sorted by importance, as a share: 0 is the most important."""
    flat = maps.reshape(len(maps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty(flat.shape)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None] / flat.shape[1], axis=1)
    return ranks.reshape(maps.shape)


def _curve(
    network: "nn.Module",
    images: "torch.Tensor",
    infill: "torch.Tensor",
    ranks: NDArray[np.float64],
    predicted: NDArray[np.bool_],
    fractions: Sequence[float],
    *,
    inserts: bool,
) -> NDArray[np.float64]:
    import torch

    place = torch.from_numpy(ranks).to(images.device)[:, None]
    chosen = torch.from_numpy(predicted.astype(np.int64)).to(images.device)[:, None]
    columns = []
    for fraction in fractions:
        touched = place < fraction
        seen = torch.where(touched, *((images, infill) if inserts else (infill, images)))
        with torch.no_grad():
            share = network(seen).float().softmax(dim=1).gather(1, chosen)
        columns.append(share[:, 0].cpu().numpy().astype(np.float64))
    return np.stack(columns, axis=1)


def fresh_network(network: "nn.Module", seed: int) -> "nn.Module":
    """The same architecture with newly drawn weights, in eval mode.

    Of a stream of its own: trainings count their seeds from 0 too, and a head drawn from the seed
    it began training with is hardly another one.
    """
    from torch import nn

    drawn = copy.deepcopy(network)
    with seeded(zlib.crc32(f"fresh weights {seed}".encode()) % 2**31):
        for module in drawn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    return drawn.eval()
