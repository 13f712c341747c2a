"""What a training depends on, as data, and the two sets of choices that ship.

`paper` is the paper's Methods ("Chronic pain model training"); `demo` is a narrow ResNet-18 at
rates that learn within a few epochs of a small cohort on a CPU.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from models.augmentation import AugmentationName
from models.classifier import (
    TRAINED,
    FrozenBatchNorm,
    NetworkConfig,
    Trained,
)
from models.errors import ModelError
from models.initialization import INITIALIZATIONS, InitializationKind

SelectionRule = Literal["val_loss", "tpn", "val_auc"]
ClassWeights = Literal["balanced", "authors", "none"]
Precision = Literal["float32", "bfloat16"]
NormalizationName = Literal["imagenet", "training"]
BatchNormStatistics = Literal["running", "recomputed"]
Preset = Literal["demo", "paper"]

AUTHORS_WEIGHTS = (0.86589497, 1.18325617)
"""Fixed in the authors' code, whatever the split's balance."""
TPN_FLOOR = 0.5
"""Under rule `tpn` an epoch counts only with at least this sensitivity and specificity."""

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "initialization": INITIALIZATIONS,
    "trained": TRAINED,
    "frozen_batch_norm": get_args(FrozenBatchNorm),
    "selection_rule": get_args(SelectionRule),
    "class_weights": get_args(ClassWeights),
    "precision": get_args(Precision),
    "augmentation": get_args(AugmentationName),
    "normalization": get_args(NormalizationName),
    "batch_norm_statistics": get_args(BatchNormStatistics),
}


@dataclass(frozen=True)
class TrainingConfig:
    """One training, apart from its data.

    Attributes:
        network: architecture and width.
        initialization: weights it begins with.
        trained: what learns; the rest is frozen.
        frozen_batch_norm: whether running statistics of frozen layers stay (eval) or drift (train,
            as in the authors' code).
        learning_rate: of Adam.
        weight_decay: of Adam, as an L2 penalty; 0.1 in the authors' code, none in the paper.
        batch_size: images at once; halved, and said so, where memory runs out.
        max_epochs: at most.
        patience: epochs without a lower validation loss before it stops.
        selection_rule: which epoch's weights are kept: lowest validation loss (paper), highest
            validation AUC, or `tpn`, the authors' code: highest sensitivity + specificity + AUC
            among epochs with at least 0.5 of the first two.
        class_weights: of the loss: inverse to the training split's shares (paper), the authors'
            constants, or none.
        precision: bfloat16 computes under autocast with float32 weights.
        augmentation: none (paper), small shifts, or the crops and flips of the authors' code.
        normalization: of the channels: ImageNet's, or the training split's own.
        batch_norm_statistics: what layers that learn use outside training: running averages, or
            averages over the training split recomputed after each epoch (Wu and Johnson,
            arXiv 2105.07576), a third more work. With a few batches an epoch, running averages are
            those of weights long gone, and the validation loss jumps tenfold.
        seed: of new weights, the order of images and augmentation.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    initialization: InitializationKind = "oa"
    trained: Trained = "all"
    frozen_batch_norm: FrozenBatchNorm = "eval"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    batch_size: int = 300
    max_epochs: int = 100
    patience: int = 15
    selection_rule: SelectionRule = "val_loss"
    class_weights: ClassWeights = "balanced"
    precision: Precision = "bfloat16"
    augmentation: AugmentationName = "none"
    normalization: NormalizationName = "imagenet"
    batch_norm_statistics: BatchNormStatistics = "running"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ModelError for a choice that does not exist or a number out of range."""
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} = {getattr(self, name)!r}: use {', '.join(allowed)}")
        if not 0 < self.learning_rate < 1:
            raise ModelError(f"learning_rate = {self.learning_rate:g}: use more than 0, below 1")
        if not 0 <= self.weight_decay < 1:
            raise ModelError(f"weight_decay = {self.weight_decay:g}: use 0 to below 1")
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} = {getattr(self, name)}: use 1 or more")
        if not 0 <= self.seed < 2**31:
            raise ModelError(f"seed = {self.seed}: use 0 to 2147483647")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files and tables."""
        return dataclasses.asdict(self)

    @property
    def config_hash(self) -> str:
        """SHA-256 of every choice."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def changed(self, **changes: Any) -> "TrainingConfig":
        """The same with some choices other.

        Raises:
            ModelError: a choice that does not exist.
        """
        unknown = sorted(set(changes) - {one.name for one in dataclasses.fields(self)})
        if unknown:
            raise ModelError(f"{', '.join(unknown)}: no such choice of a training")
        return dataclasses.replace(self, **changes)


_DEMO = TrainingConfig(
    network=NetworkConfig("resnet18", 0.25),
    learning_rate=1e-3,
    batch_size=16,
    max_epochs=5,
    patience=3,
    batch_norm_statistics="recomputed",
)

PRESETS: Mapping[Preset, Mapping[str, TrainingConfig]] = {
    "demo": {
        "oa": _DEMO.changed(initialization="random", learning_rate=3e-3, max_epochs=3),
        "chronic_pain": _DEMO,
    },
    "paper": {
        "oa": TrainingConfig(initialization="random"),
        "chronic_pain": TrainingConfig(initialization="oa"),
    },
}
"""Preset -> task -> training. The paper does not say what its osteoarthritis models began with;
random is ours."""


def preset(name: str, task: str) -> TrainingConfig:
    """The training of a task under a preset.

    Raises:
        ModelError: no such preset or task.
    """
    if name not in PRESETS:
        raise ModelError(f"{name!r} is no preset; use {', '.join(PRESETS)}")
    tasks = PRESETS[name]  # type: ignore[index]
    if task not in tasks:
        raise ModelError(f"{task!r} is no task; use {', '.join(tasks)}")
    return tasks[task]
