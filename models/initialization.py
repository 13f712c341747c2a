"""What a training begins with: random, ImageNet or osteoarthritis weights.

Weights of others come from files the user names; where a file is absent the training is refused
with the reason, never begun with random weights in silence.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from models.checkpoint import (
    load_weights,
    read_metadata,
    read_pickled,
    require_file,
    require_hash,
    unwrapped,
)
from models.classifier import NetworkConfig, build_network, seeded
from models.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

InitializationKind = Literal["random", "imagenet", "oa"]
INITIALIZATIONS: tuple[InitializationKind, ...] = get_args(InitializationKind)
HEAD = ("fc.weight", "fc.bias")
SUFFIXES = (".pth", ".pt", ".safetensors")
# torchvision's files end in the first digits of their SHA-256, as resnet50-0676ba61.pth.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.(?:pth|pt|safetensors)$")


@dataclass(frozen=True)
class Initialization:
    """What a training begins with.

    Attributes:
        kind: 'random' (He et al., doi 10.1109/ICCV.2015.123), 'imagenet', or 'oa': trained on
            osteoarthritis.
        file: the weights; None for random ones.
    """

    kind: InitializationKind = "random"
    file: Path | None = None


def initialized_network(
    config: NetworkConfig, initialization: Initialization, seed: int
) -> "tuple[nn.Module, str]":
    """A network as a training begins with it; the head is always drawn new.

    Returns:
        the network and what it began with: '' for random, else `<file name>#<SHA-256>`.

    Raises:
        CheckpointError: the file is absent, damaged or of another network.
        ModelError: no such initialisation.
    """
    if initialization.kind not in INITIALIZATIONS:
        raise ModelError(
            f"{initialization.kind!r} is no initialisation; use {', '.join(INITIALIZATIONS)}"
        )
    with seeded(seed):
        network = build_network(config)
    if initialization.kind == "random":
        return network, ""
    if initialization.file is None:
        raise CheckpointError(_absent(initialization.kind, config))
    weights, digest = read_weights(initialization.file)
    if initialization.kind == "oa":
        weights = unwrapped(weights)
    load_weights(network, weights, initialization.file.name, without=HEAD)
    return network, f"{initialization.file.name}#{digest}"


def _absent(kind: InitializationKind, config: NetworkConfig) -> str:
    if kind == "imagenet":
        return (
            f"there are no ImageNet weights of {config.architecture}: name a file in torchvision's "
            f"or timm's format with KNEELAKE_IMAGENET_WEIGHTS={config.architecture}=FILE, or begin "
            "with random weights"
        )
    return (
        "there is no network trained on osteoarthritis to begin with: train it first "
        "(`kneelake materialize oa_classifiers`), or begin with random weights"
    )


def read_weights(path: Path) -> "tuple[dict[str, torch.Tensor], str]":
    """Weights of a .pth or .safetensors file, and its SHA-256.

    Raises:
        CheckpointError: absent, of another kind, damaged, or not what its name's hash says.
    """
    require_file(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path.name}: give a file that ends in {', '.join(SUFFIXES)}")
    named = _HASH_IN_NAME.search(path.name)
    digest = require_hash(path, named.group(1) if named else "")
    if path.suffix != ".safetensors":
        return read_pickled(path), digest
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path), digest
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is no safetensors file ({error}); get it again"
        ) from error


def require_pretrained(path: Path, *, task: str, bone: str, strategy: str) -> None:
    """Refuse a checkpoint of kneelake's that was trained for something else.

    Files of others say nothing of the kind and pass.

    Raises:
        CheckpointError: another task, bone or strategy.
    """
    if path.suffix != ".safetensors":
        return
    metadata = read_metadata(path)
    found = (metadata.task, metadata.bone, metadata.strategy)
    if found != (task, bone, strategy):
        raise CheckpointError(
            f"{path.name} was trained for {' '.join(found)}, not for {task} {bone} {strategy}"
        )
