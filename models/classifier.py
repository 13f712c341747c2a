"""ResNet-18, -34 and -50 with two logits.

Paper: Methods, "Chronic pain model training"; He et al., doi 10.1109/CVPR.2016.90.
MONAI's ResNets in two dimensions with the first stride and the shortcuts of torchvision: names,
shapes and order of all weights are then torchvision's, so its files load as they are.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from models.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

Architecture = Literal["resnet18", "resnet34", "resnet50"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
Trained = Literal["all", "from_layer2", "from_layer3", "head"]
TRAINED: tuple[Trained, ...] = get_args(Trained)
"""What is trained; the paper freezes nothing, the first layer, the first two layers, all layers.
Its first layer is the stem with the first block of four, as in the authors' code."""
FROZEN_MODULES: dict[Trained, tuple[str, ...]] = {
    "all": (),
    "from_layer2": ("conv1", "bn1", "layer1"),
    "from_layer3": ("conv1", "bn1", "layer1", "layer2"),
    "head": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
}
FrozenBatchNorm = Literal["eval", "train"]
NO, YES = 0, 1
"""The logits' order: no pain (no osteoarthritis), pain (osteoarthritis)."""
IMAGE_SIZE = 224
CHANNELS = 3

_STEPS = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class NetworkConfig:
    """Which network.

    Attributes:
        architecture: depth of the ResNet.
        width: channels relative to the published network; 1 is the published one.
    """

    architecture: Architecture = "resnet50"
    width: float = 1.0

    def __post_init__(self) -> None:
        """Raises ModelError for a network that does not exist."""
        if self.architecture not in ARCHITECTURES:
            raise ModelError(f"{self.architecture!r} is no network; use {', '.join(ARCHITECTURES)}")
        if not 1 / 64 <= self.width <= 4:
            raise ModelError(f"width {self.width:g}: use 1/64 to 4 (1 is the published network)")

    @property
    def n_features(self) -> int:
        """Channels of the last block, which the head reads."""
        expansion = 4 if self.architecture == "resnet50" else 1
        return int(512 * self.width) * expansion


def build_network(config: NetworkConfig) -> "nn.Module":
    """A network with freshly drawn weights (He's for convolutions), in training mode.

    Weights are drawn from torch's global generator; `seeded` makes that repeatable.

    Returns:
        (n, 3, 224, 224) -> (n, 2) logits, `NO` then `YES`.
    """
    from monai.networks import nets

    build = getattr(nets, config.architecture)
    return build(
        spatial_dims=2,
        n_input_channels=CHANNELS,
        num_classes=2,
        conv1_t_stride=2,
        bias_downsample=False,
        widen_factor=config.width,
    )


def trunk_features(network: "nn.Module", images: "torch.Tensor") -> "torch.Tensor":
    """Output of the last convolutional block, (n, channels, 7, 7) for images of 224 x 224."""
    for name in _STEPS:
        images = getattr(network, name)(images)
    return images


def pooled_features(network: "nn.Module", images: "torch.Tensor") -> "torch.Tensor":
    """What the head reads: the last block's mean over the image, (n, channels)."""
    return network.avgpool(trunk_features(network, images)).flatten(1)  # type: ignore[operator]


def freeze(network: "nn.Module", trained: Trained) -> None:
    """Let only what `trained` names learn; see `set_training_mode` for batch normalisation.

    Raises:
        ModelError: no such variant.
    """
    if trained not in FROZEN_MODULES:
        raise ModelError(f"{trained!r} cannot be trained; use {', '.join(TRAINED)}")
    for parameter in network.parameters():
        parameter.requires_grad = True
    for name in FROZEN_MODULES[trained]:
        for parameter in getattr(network, name).parameters():
            parameter.requires_grad = False


def set_training_mode(
    network: "nn.Module", trained: Trained, frozen_batch_norm: FrozenBatchNorm
) -> None:
    """Put the network into training mode.

    Args:
        network: the network.
        trained: what is trained.
        frozen_batch_norm: 'eval' keeps the running statistics of frozen layers, so that they are
            frozen indeed; 'train' lets them drift, as in the authors' code.
    """
    network.train()
    if frozen_batch_norm == "eval":
        for name in FROZEN_MODULES[trained]:
            getattr(network, name).eval()


@contextlib.contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Draw random numbers from a seed of its own, and leave the caller's generators alone."""
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
