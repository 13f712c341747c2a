"""Trained networks as files: safetensors with everything that says what they are.

No pickle is written. The authors' pickled checkpoints can be read, with nothing executed but numpy
arrays being made.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.classifier import NetworkConfig, build_network, seeded
from models.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT_VERSION = 1
HASH_LENGTH = 16
_KEY = "kneelake"
UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError),
    *(IndexError, KeyError, AttributeError, TypeError),
)
"""What torch raises on a file that is none of its own: its reader takes bytes for instructions."""

_WRAPPED = (
    (re.compile(r"^(layer[1-4])\.1\.(\d+)\."), r"\1.\2."),
    (re.compile(r"^fc\.1\."), "fc."),
)
"""The authors train on osteoarthritis with dropout before each layer, which renames the layers."""


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint is, beside its weights.

    Attributes:
        network: architecture and width.
        task: 'oa' or 'chronic_pain'.
        bone: femur, tibia or patella.
        strategy: how the maps are merged into three channels.
        normalization: what is done to the 8-bit images before the network sees them.
        ranges_id: the map ranges the images were made with.
        data_hash: hash of the knee-visits, labels, splits and images of the training.
        seed: of weights and batches.
        config: the whole training configuration.
        best_epoch: the epoch whose weights these are, counted from 1.
        metrics: of that epoch, on the validation split.
        code_version: of the training code.
        initialized_from: the file or checkpoint the training began with; '' for random weights.
        classes: what the two logits stand for.
    """

    network: NetworkConfig
    task: str
    bone: str
    strategy: str
    normalization: Mapping[str, Any]
    ranges_id: str
    data_hash: str
    seed: int
    config: Mapping[str, Any]
    best_epoch: int
    metrics: Mapping[str, float]
    code_version: str
    initialized_from: str = ""
    classes: tuple[str, str] = ("no", "yes")

    def to_json(self) -> str:
        """As it stands in the file; the same content gives the same text."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "CheckpointMetadata":
        """What `to_json` wrote.

        Raises:
            CheckpointError: of a newer kneelake, or not all there.
        """
        try:
            content = json.loads(text)
            version = int(content.pop("format_version", 0))
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's description is not whole: {error}") from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint format {version}, this kneelake reads up to {FORMAT_VERSION}; "
                "install a newer kneelake"
            )
        try:
            network = NetworkConfig(**content.pop("network"))
            classes = tuple(content.pop("classes"))
            return cls(network=network, classes=classes, **content)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's description is not whole: {error}") from error


def save_checkpoint(path: Path, network: "nn.Module", metadata: CheckpointMetadata) -> str:
    """Write a network; readers see all of it or nothing. The same network gives the same bytes.

    Returns:
        the first 16 hex digits of the file's SHA-256.
    """
    content = _serialized(network, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(path, content)
    return hashlib.sha256(content).hexdigest()[:HASH_LENGTH]


def store_checkpoint(folder: Path, network: "nn.Module", metadata: CheckpointMetadata) -> Path:
    """Write a network as `<folder>/<hash of its content>.safetensors`."""
    content = _serialized(network, metadata)
    digest = hashlib.sha256(content).hexdigest()[:HASH_LENGTH]
    path = folder / f"{digest}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(path, content)
    return path


def _serialized(network: "nn.Module", metadata: CheckpointMetadata) -> bytes:
    from safetensors.torch import save

    tensors = {
        # Channels-last weights would be stored in another order.
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    return save(tensors, metadata={_KEY: metadata.to_json()})


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers, and a power cut, see either nothing or all of it."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    with staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_metadata(path: Path) -> CheckpointMetadata:
    """What a checkpoint is, without its weights.

    Raises:
        CheckpointError: not a checkpoint of kneelake.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is no safetensors file ({error}); it may be cut off: train again, or "
            "deliver it again"
        ) from error
    if _KEY not in found:
        raise CheckpointError(
            f"{path.name} does not say which network it is; kneelake's own checkpoints do. To "
            "begin a training with weights of others, name the file as ImageNet or OA weights"
        )
    return CheckpointMetadata.from_json(found[_KEY])


def load_checkpoint(
    path: Path, *, expected_hash: str | None = None
) -> "tuple[nn.Module, CheckpointMetadata]":
    """A trained network, in evaluation mode on the CPU, and what it is.

    Args:
        path: the file.
        expected_hash: first hex digits of its SHA-256, as table `classifiers` lists them.

    Raises:
        CheckpointError: missing, damaged, changed, or not kneelake's.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    if expected_hash is not None:
        require_hash(path, expected_hash)
    # Drawing weights that are replaced at once should not move anybody's random numbers.
    with seeded(0):
        network = build_network(metadata.network)
    load_weights(network, load_file(path), path.name)
    return network.eval(), metadata


def require_file(path: Path) -> None:
    """Raises CheckpointError where there is no such file."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path.name} in {path.parent}; check the path")


def require_hash(path: Path, expected: str) -> str:
    """The file's SHA-256, which has to begin as expected.

    Raises:
        CheckpointError: it does not.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise CheckpointError(
            f"{path.name}: its content's SHA-256 begins {digest[: len(expected)]}, not {expected}; "
            "the file is damaged or was renamed: get it again"
        )
    return digest


def load_weights(
    network: "nn.Module",
    weights: "Mapping[str, torch.Tensor]",
    source: str,
    without: tuple[str, ...] = (),
) -> None:
    """Copy weights into a network; every one has to fit.

    Counts of batches may be absent: torchvision's first ImageNet files are older than they are,
    and nothing in evaluation or training here reads them.

    Args:
        network: receives them.
        weights: by name.
        source: their file, for messages.
        without: names the network keeps its own values of, and the file may lack.

    Raises:
        CheckpointError: weights of another network; names or shapes that do not fit are listed.
    """
    own = network.state_dict()
    wanted = {name for name in own if name not in without}
    given = {name for name in weights if name not in without}
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} here"
        for name in own
        if name in wanted & given and weights[name].shape != own[name].shape
    ]
    problems = [
        *_listed("missing in the file", sorted(_needed(wanted) - given)),
        *_listed("unknown to the network", sorted(given - wanted)),
        *_listed("of another shape", shapes),
    ]
    if problems:
        raise CheckpointError(
            f"{source} holds another network: {'; '.join(problems)}. Name a file of the network "
            "that is asked for, or ask for the network of the file"
        )
    network.load_state_dict({**own, **{name: weights[name] for name in wanted & given}})


def _needed(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(".num_batches_tracked")}


def _listed(what: str, names: list[str], at_most: int = 3) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return [f"{len(names)} {what} ({', '.join(names[:at_most])}{more})"]


def unwrapped(weights: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Weights of the authors' networks with dropout under the names of those without."""
    renamed = {}
    for name, tensor in weights.items():
        plain = name
        for pattern, replacement in _WRAPPED:
            plain = pattern.sub(replacement, plain)
        renamed[plain] = tensor
    return renamed


def read_pickled(path: Path) -> "dict[str, torch.Tensor]":
    """Weights of a `.pth` file: a plain dictionary, or the authors' with `model_state_dict`.

    Raises:
        CheckpointError: not such a file, or one that asks for more than tensors and numpy arrays.
    """
    import torch

    require_file(path)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path.name} cannot be read as weights ({type(error).__name__}); give a file of "
            "torch.save(state_dict), or a .safetensors file"
        ) from error
    weights = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not weights or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise CheckpointError(
            f"{path.name} holds no dictionary of weights; give a file of torch.save(state_dict)"
        )
    return dict(weights)


def _numpy_globals() -> list[Any]:
    """What an array of the authors' `output_dict` needs to be made, by old and new names."""
    import numpy as np
    from numpy._core import multiarray

    made = [multiarray._reconstruct, multiarray.scalar]
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "i8", "i4", "u1", "?", "U1", "O")]
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        *((function, f"numpy.core.multiarray.{function.__name__}") for function in made),
        *((function, f"numpy._core.multiarray.{function.__name__}") for function in made),
    ]
