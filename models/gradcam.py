"""Grad-CAM: where a classifier found its evidence for pain, and for no pain.

For a network that ends in global average pooling and one linear layer, the gradient of logit c with
respect to channel k of the last block is w_ck / (H W) at every cell. Grad-CAM there needs no
backward pass: cam_c = (1 / (H W)) sum_k w_ck A_k, from the forward pass that gives the logits. The
map is signed and complete: its sum plus the bias is the logit, so it says where all of the evidence
lies. Other layers and Grad-CAM++ go through autograd. Cells of earlier blocks are smaller; HiResCAM
weights each by its own gradient, Grad-CAM by the map's average, which is not faithful there.

Sources: the paper's Methods; Selvaraju et al. 2017 (doi:10.1109/ICCV.2017.74); HiResCAM: Draelos
and Carin 2020 (arXiv:2011.08891); Grad-CAM++: Chattopadhay et al. 2018
(doi:10.1109/WACV.2018.00097).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from numpy.typing import NDArray

from models.classifier import NO, YES
from models.errors import ModelError
from models.training_config import Precision

if TYPE_CHECKING:
    import torch
    from torch import nn

Method = Literal["grad_cam", "hires_cam", "grad_cam_plus_plus"]
Target = Literal["pain", "no_pain", "predicted", "contrastive"]

METHODS: tuple[Method, ...] = get_args(Method)
TARGETS: tuple[Target, ...] = get_args(Target)
LAST_BLOCK = "layer4"
"""The last convolutional block of a ResNet, the layer of the paper's maps."""
BLOCKS = (LAST_BLOCK, "layer3", "layer2")
"""Where evidence may be read: 7, 14 and 28 cells along each side of an image of 224 pixels."""


@dataclass(frozen=True)
class Explanation:
    """How a network's evidence is read.

    Attributes:
        method: `grad_cam`, or `hires_cam`. Both are linear in the gradient, so that the map of pain
            less no pain is that of pain less that of no pain.
        layer: the block whose cells it is laid out on; the paper's is the last.

    Raises:
        ModelError: another method or layer.
    """

    method: Method = "grad_cam"
    layer: str = LAST_BLOCK

    def __post_init__(self) -> None:
        if self.method not in ("grad_cam", "hires_cam") or self.layer not in BLOCKS:
            raise ModelError(
                f"{self} is no way to read evidence; give grad_cam or hires_cam, a colon, and "
                f"{', '.join(BLOCKS)}"
            )

    @classmethod
    def of(cls, text: str) -> "Explanation":
        """From its text, such as `hires_cam:layer2`.

        Raises:
            ModelError: another method or layer.
        """
        method, _, layer = text.partition(":")
        return cls(method, layer or LAST_BLOCK)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Its text."""
        return f"{self.method}:{self.layer}"

    @property
    def in_fingerprints(self) -> list[str]:
        """What a fingerprint states of it: its text, but nothing for the paper's way.

        So what was computed before there was a choice stays current.
        """
        return [] if self == Explanation() else [str(self)]


_Classes = TypeVar("_Classes", "torch.Tensor", NDArray[Any])

_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.1}
"""How far a network's own logits may lie from pooled features times weights, of their size."""


class GradCamError(ModelError):
    """The network, layer, method or target cannot give the map asked for."""


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Logits and the evidence for both, from one forward pass.

    Attributes:
        logits: no pain and pain, float32, shape (n, 2).
        maps: their signed maps on the grid of the last block, float32, shape (n, 2, h, w);
            `maps.sum((2, 3)) + bias` are the logits.
    """

    logits: "torch.Tensor"
    maps: "torch.Tensor"


def class_maps(
    network: "nn.Module", images: "torch.Tensor", *, precision: Precision = "float32"
) -> ClassMaps:
    """Logits and the raw Grad-CAM of both classes at the last block, in closed form.

    Args:
        network: in eval mode; ends in `layer4`, global average pooling and the linear `fc`.
        images: normalised, shape (n, 3, H, W), on the network's device.
        precision: of the convolutions; the head is always computed in float32.

    Raises:
        GradCamError: the network is training, has no such layers, or computes its logits otherwise.
    """
    import torch

    head = _head(network)
    with torch.no_grad(), _captured(network, LAST_BLOCK) as taken, _cast(images, precision):
        own = network(images).float()
    features = taken[0].float()
    height, width = features.shape[2:]
    with torch.no_grad():
        maps = (head.weight.float() @ features.flatten(2)) / (height * width)
        pooled = features.mean((2, 3))
        logits = torch.nn.functional.linear(pooled, head.weight.float(), head.bias.float())
        gap = (own - logits).abs().max() / (1.0 + logits.abs().max())
    # Not `gap > tolerance`: a NaN must not pass.
    if not float(gap) <= _TOLERANCE[precision]:
        raise GradCamError(
            f"the network's logits are not its pooled {LAST_BLOCK} times `fc` (off by "
            f"{float(gap):.2g} of their size), so the closed form does not hold: take out what it "
            f"adds in between, or look at NaN weights or images; gradient_cam() needs neither"
        )
    return ClassMaps(logits, maps.unflatten(2, (height, width)))


def explained_maps(
    network: "nn.Module",
    images: "torch.Tensor",
    explanation: Explanation,
    *,
    precision: Precision = "float32",
) -> ClassMaps:
    """Logits and the raw maps of both classes; at the last block in closed form.

    Args:
        network: in eval mode.
        images: normalised, shape (n, 3, H, W), on the network's device.
        explanation: how evidence is read.
        precision: of the convolutions.

    Raises:
        GradCamError: as `class_maps` or `gradient_cam`.
    """
    import torch

    if explanation.layer == LAST_BLOCK:
        # HiResCAM and Grad-CAM are the same map there.
        return class_maps(network, images, precision=precision)
    logits, features, gradients = _gradients(network, images, explanation.layer, precision)
    if logits.shape[1] != len((NO, YES)):
        raise GradCamError(f"expected the two classes no pain and pain, not {logits.shape[1]}")
    maps = [_linear_map(features, one, explanation.method) for one in gradients]
    return ClassMaps(logits, torch.stack(maps, dim=1))


def gradient_cam(
    network: "nn.Module",
    images: "torch.Tensor",
    target: Target = "pain",
    *,
    layer: str = LAST_BLOCK,
    method: Method = "grad_cam",
    precision: Precision = "float32",
) -> "torch.Tensor":
    """The raw signed map of one target by autograd, at any layer.

    Every image has the gradient of its own score only, so a batch gives what single images give.

    Args:
        network: in eval mode.
        images: normalised, shape (n, 3, H, W), on the network's device.
        target: the logit explained; `predicted` is the larger one (no pain where they are equal),
            `contrastive` pain minus no pain, the evidence that a softmax goes by.
        layer: name of the module whose output is weighted, as `network.get_submodule` knows it.
        method: `grad_cam` weights a channel by its mean gradient; `hires_cam` multiplies cell by
            cell, which is faithful at layers before the last too; `grad_cam_plus_plus` weights
            positive gradients by their share of the score.
        precision: of the convolutions.

    Returns:
        shape (n, h, w), float32.

    Raises:
        GradCamError: unknown layer, method or target, a network that is training or whose layer
            has no spatial output.
    """
    if method not in METHODS:
        raise GradCamError(f"{method} is not a method; use one of {', '.join(METHODS)}")
    _, features, (gradients,) = _gradients(
        network, images, layer, precision, lambda own: [target_of(own, target, own)]
    )
    if method == "grad_cam_plus_plus":
        return (_plus_plus_weights(features, gradients) * features).sum(1)
    return _linear_map(features, gradients, method)


def _gradients(
    network: "nn.Module",
    images: "torch.Tensor",
    layer: str,
    precision: Precision,
    scores_of: "Callable[[torch.Tensor], Sequence[torch.Tensor]] | None" = None,
) -> "tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]":
    """Logits, a layer's output, and its gradient of some scores; of each logit where None."""
    import torch

    _require_eval(network)
    # Only what comes after the layer is differentiated: no gradient of any weight is computed.
    with (
        torch.no_grad(),
        _captured(network, layer, restart=True) as taken,
        _cast(images, precision),
    ):
        logits = network(images)
        if len(taken) != 1:
            raise GradCamError(f"{layer} is used {len(taken)} times; choose a layer used once")
        own = logits.float()
        scores = list(own.T) if scores_of is None else scores_of(own)
        gradients = [
            torch.autograd.grad(one.sum(), taken[0], retain_graph=one is not scores[-1])[0].float()
            for one in scores
        ]
    return own.detach(), taken[0].detach().float(), gradients


def _linear_map(
    features: "torch.Tensor", gradients: "torch.Tensor", method: Method
) -> "torch.Tensor":
    """HiResCAM weights cell by cell, Grad-CAM a channel by its mean gradient; (n, h, w)."""
    if method == "hires_cam":
        return (features * gradients).sum(1)
    return (gradients.mean((2, 3), keepdim=True) * features).sum(1)


def cam(
    network: "nn.Module",
    images: "torch.Tensor",
    target: Target = "pain",
    *,
    layer: str = LAST_BLOCK,
    method: Method = "grad_cam",
    precision: Precision = "float32",
) -> "torch.Tensor":
    """The raw signed map of one target, in closed form where that is exact, else by autograd.

    Args and errors as `gradient_cam`; at the last block Grad-CAM and HiResCAM are the same map.
    """
    if layer == LAST_BLOCK and method in ("grad_cam", "hires_cam"):
        found = class_maps(network, images, precision=precision)
        return target_of(found.maps, target, found.logits)
    return gradient_cam(network, images, target, layer=layer, method=method, precision=precision)


def target_of(classes: _Classes, target: Target, logits: _Classes | None = None) -> _Classes:
    """What belongs to a target of values given per class; tensors and numpy arrays alike.

    Args:
        classes: logits or maps, shape (n, 2, ...), no pain first.
        target: which; of a map, `contrastive` explains logit_yes - logit_no.
        logits: shape (n, 2), needed for `predicted`.

    Returns:
        shape (n, ...).

    Raises:
        GradCamError: unknown target, not two classes, or `predicted` without logits.
    """
    if classes.shape[1] != len((NO, YES)):
        raise GradCamError(f"expected the two classes no pain and pain, not {classes.shape[1]}")
    if target == "pain":
        return classes[:, YES]
    if target == "no_pain":
        return classes[:, NO]
    if target == "contrastive":
        return classes[:, YES] - classes[:, NO]
    if target != "predicted":
        raise GradCamError(f"{target} is not a target; use one of {', '.join(TARGETS)}")
    if logits is None:
        raise GradCamError("the target `predicted` needs the logits")
    is_pain = logits[:, YES] > logits[:, NO]
    # Indexing, not a product: it is exact, and a NaN of the other class stays out.
    return classes[range(len(is_pain)), [int(one) for one in is_pain]]


def _plus_plus_weights(features: "torch.Tensor", gradients: "torch.Tensor") -> "torch.Tensor":
    """Channel weights of Grad-CAM++, eq. 19 for an exponential of the score; (n, k, 1, 1)."""
    import torch

    squared = gradients.square()
    total = features.sum((2, 3), keepdim=True)
    below = 2.0 * squared + total * squared * gradients
    # Where the gradient is zero so are both sides; where `below` alone vanishes alpha is undefined.
    alpha = torch.where(below != 0, squared / torch.where(below != 0, below, 1.0), 0.0)
    return (alpha * gradients.relu()).sum((2, 3), keepdim=True)


def _require_eval(network: "nn.Module") -> None:
    if network.training:
        raise GradCamError(
            "the network is in training mode, where batch statistics mix the images of a batch; "
            "call network.eval()"
        )


def _head(network: "nn.Module") -> "nn.Linear":
    from torch import nn

    _require_eval(network)
    head = getattr(network, "fc", None)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise GradCamError(
            f"the closed form needs a network that ends in a linear layer `fc` with a bias; "
            f"{type(network).__name__} has {type(head).__name__}; use gradient_cam()"
        )
    return head


def _cast(images: "torch.Tensor", precision: Precision) -> AbstractContextManager:
    import torch

    if precision not in _TOLERANCE:
        raise GradCamError(f"{precision} is not a precision; use float32 or bfloat16")
    if precision == "float32":
        return nullcontext()
    return torch.autocast(images.device.type, torch.bfloat16)


@contextmanager
def _captured(
    network: "nn.Module", layer: str, *, restart: bool = False
) -> "Iterator[list[torch.Tensor]]":
    """The output of a layer in the next forward pass; with `restart` the graph begins there."""
    import torch

    try:
        module = network.get_submodule(layer)
    except AttributeError as error:
        there = ", ".join(name for name, _ in network.named_children())
        raise GradCamError(f"the network has no layer {layer}; there are {there}") from error
    taken: list[torch.Tensor] = []

    def take(_: "nn.Module", __: object, output: "torch.Tensor") -> "torch.Tensor | None":
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise GradCamError(f"{layer} has no maps as output; choose a convolutional layer")
        if not restart:
            taken.append(output)
            return None
        start = output.detach().requires_grad_()
        taken.append(start)
        torch.set_grad_enabled(True)
        # A copy, since what follows may work in place.
        return start.clone()

    handle = module.register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()
