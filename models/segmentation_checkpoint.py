"""One trained segmentation network on disk: safetensors, with what it takes to use it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaging.errors import BadInputError, Reason
from models.segmentation_preparation import Spacing
from models.vnet import TASKS, Member, build_network

if TYPE_CHECKING:
    from torch import nn

KIND = "kneelake segmentation network 1"


@dataclass(frozen=True)
class CheckpointMetadata:
    """What is stored beside the weights.

    Attributes:
        member: what the network is.
        spacing_mm: it was trained at; None for the scans' own.
        patch: shape of its training patches, (1, row, column) in 2-D.
        data_hash: of the training and validation cases.
        seed: of weights, sampling and augmentation.
        best_step: whose weights these are.
        validation_dice: mean over validation cases and tissues at that step.
        training: every other setting of the training, for the record.
    """

    member: Member
    spacing_mm: Spacing | None
    patch: tuple[int, int, int]
    data_hash: str
    seed: int
    best_step: int
    validation_dice: float
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, network: "nn.Module", metadata: CheckpointMetadata) -> None:
    """Write weights and metadata, whole or not at all; same network, same bytes."""
    from safetensors.torch import save

    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    staged = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = asdict(metadata)
    about = json.dumps({KIND: stored.pop("member"), **stored}, sort_keys=True)
    staged.write_bytes(save(tensors, {"kneelake": about}))
    staged.replace(path)


def read_metadata(path: Path) -> CheckpointMetadata:
    """What a checkpoint says of itself; the weights are not read.

    Raises:
        BadInputError: MISSING_INPUT; UNREADABLE_FILE for another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInputError(Reason.MISSING_INPUT, path.name, "is not there", "Train the networks")
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {})["kneelake"])
        member = Member(**about.pop(KIND))
        spacing, patch = about.pop("spacing_mm"), about.pop("patch")
        return CheckpointMetadata(
            member, None if spacing is None else tuple(spacing), tuple(patch), **about
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            path.name,
            "is not a checkpoint of a kneelake segmentation network",
            "Give a .safetensors file that `segmentation_networks` wrote",
        ) from None


def load_checkpoint(path: Path) -> tuple["nn.Module", CheckpointMetadata]:
    """The network, in eval mode, and its metadata.

    Raises:
        BadInputError: what `read_metadata` raises; UNREADABLE_FILE where the weights are of
            another architecture than the metadata say.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    network = build_network(metadata.member)
    stored = load_file(path)
    own = network.state_dict()
    differing = sorted(
        name
        for name in {*stored, *own}
        if name not in stored or name not in own or stored[name].shape != own[name].shape
    )
    if differing:
        n_class = TASKS[metadata.member.task].n_class
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            path.name,
            f"holds weights of another architecture than {metadata.member.name} with {n_class} "
            f"classes: {len(differing)} tensor(s) differ, first {differing[0]}",
            "Train the networks again, or give the file that belongs to this architecture",
        )
    network.load_state_dict(stored)
    return network.eval(), metadata
