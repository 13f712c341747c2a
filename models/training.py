"""Training of a classifier: one loop, on images resident on the device.

Adam on a class-weighted cross-entropy over two logits, early stopping on the validation loss
(paper: Methods, "Chronic pain model training"). Nothing in an epoch waits for the device: the loss
stays there until the epoch's end. Each epoch draws its random numbers from (seed, epoch), so what
is resumed goes on exactly as if it had not stopped; on a CPU, with one thread, to the bit.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.augmentation import AUGMENTATIONS
from models.bank import ImageBank, channel_statistics
from models.classifier import freeze, pooled_features, set_training_mode
from models.errors import TrainingError
from models.initialization import Initialization, initialized_network
from models.normalization import IMAGENET, ChannelNormalization
from models.training_config import AUTHORS_WEIGHTS, TrainingConfig
from models.training_loop import EpochRow, Loop, Source, Task, autocast

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a bank and what they are.

    Attributes:
        rows: of the bank, shape (n,).
        is_case: shape (n,).
    """

    rows: NDArray[np.int64]
    is_case: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a classifier is trained on.

    Attributes:
        bank: images of a bone.
        strategy: how its maps are merged.
        training, validation: its splits; the test split is nobody's business here.
    """

    bank: ImageBank
    strategy: str
    training: Split
    validation: Split


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network.

    Attributes:
        network: with the best epoch's weights, in evaluation mode, on the CPU.
        epochs: every epoch.
        best_epoch: whose weights these are, from 1.
        normalization: of the channels, as every later use of the network needs it.
        initialized_from: '' for random weights, else the file and its SHA-256.
        stopped_early: whether patience ended it.
        batch_size: at the end; smaller than asked for where memory ran out.
        notes: what a person should know of this training.
    """

    network: "nn.Module"
    epochs: tuple[EpochRow, ...]
    best_epoch: int
    normalization: ChannelNormalization
    initialized_from: str
    stopped_early: bool
    batch_size: int
    notes: tuple[str, ...]

    @property
    def best(self) -> EpochRow:
        """The best epoch."""
        return self.epochs[self.best_epoch - 1]

    @property
    def auc_variation_percent(self) -> float:
        """Coefficient of variation of the validation AUC over the epochs, %; 0 with one epoch.

        The paper's measure of smoothness.
        """
        aucs = np.array([row.validation.auc for row in self.epochs])
        return float(100 * aucs.std(ddof=1) / aucs.mean()) if len(aucs) > 1 else 0.0


FeatureCache = MutableMapping[str, "torch.Tensor"]
"""Frozen features by what they depend on; share one among trainings of the same data."""


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of a bank; augmented where a generator is given."""

    data: TrainingData
    config: TrainingConfig
    normalization: ChannelNormalization

    def batch(self, rows: "torch.Tensor", generator: "torch.Generator | None") -> "torch.Tensor":
        import torch

        augmentation = AUGMENTATIONS[self.config.augmentation] if generator is not None else None
        return self.data.bank.batch(
            rows,
            self.data.strategy,
            dtype=torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32,
            normalization=self.normalization,
            augmentation=augmentation,
            generator=generator,
        )


@dataclass(frozen=True, eq=False)
class _Features:
    """What a frozen trunk makes of every row of a bank, (n rows of the bank, channels)."""

    values: "torch.Tensor"

    def batch(self, rows: "torch.Tensor", generator: "torch.Generator | None") -> "torch.Tensor":
        del generator
        return self.values[rows.to(self.values.device)]


def train(
    data: TrainingData,
    config: TrainingConfig,
    *,
    initialization: Initialization | None = None,
    device: str = "cpu",
    threads: int = 1,
    state_file: Path | None = None,
    state_every_s: float = 0.0,
    features: FeatureCache | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a classifier and keep its best epoch.

    Where only the head learns, on frozen statistics and without augmentation, the trunk sees each
    image once and the head is trained on what it made of them: the same function of the weights.

    Args:
        data: images, labels and splits; the bank has to lie on the device.
        config: every choice.
        initialization: the weights to begin with; random where None.
        device: 'cpu' or 'cuda'.
        threads: of the CPU; results are repeatable to the bit for the same number.
        state_file: where to keep what a killed training needs to go on. It is left there at the
            end, so that a kill before its result is stored costs nothing: remove it then.
        state_every_s: seconds between writing it; 0 for every epoch.
        features: shared by trainings of the same data with only the head learning.
        on_epoch: told each epoch.
        on_note: told what a person should know at once, such as a halved batch.

    Raises:
        TrainingError: a split without cases or controls, a loss that is not finite (with its
            epoch), memory that does not hold one image, or no epoch that the rule allows.
        CheckpointError: initial weights that are absent or do not fit.
        ValueError: rows that lack a map of the strategy.
    """
    given = initialization or Initialization(config.initialization)
    if given.kind != config.initialization:
        raise TrainingError(
            f"the configuration begins with {config.initialization} weights, but {given.kind} "
            "weights were given"
        )
    require_trainable(data)
    with _environment(device, threads):
        network, begun_with = initialized_network(config.network, given, config.seed)
        network = _on_device(network, device)
        freeze(network, config.trained)
        normalization = _normalization(data, config)
        source: Source = _Images(data, config, normalization)
        learner = network

        def learning_mode() -> None:
            set_training_mode(network, config.trained, config.frozen_batch_norm)

        if features_are_exact(config):
            source = _frozen_features(network, source, data, config, begun_with, features)
            learner = network.fc  # type: ignore[assignment]
        task = Task(
            learner,
            learning_mode,
            source,
            data.training.rows,
            data.training.is_case,
            data.validation.rows,
            data.validation.is_case,
            loss_weights(config, data.training.is_case),
        )
        loop = Loop(task, config, device, on_epoch, on_note)
        ended = loop.to_the_end(state_file, state_every_s, _state_key(data, config, begun_with))
        learner.load_state_dict(ended.best_weights)
    for parameter in network.parameters():
        parameter.requires_grad = True
    return TrainingResult(
        network=network.to("cpu").eval(),
        epochs=tuple(ended.epochs),
        best_epoch=ended.best_epoch,
        normalization=normalization,
        initialized_from=begun_with,
        stopped_early=len(ended.epochs) < config.max_epochs,
        batch_size=ended.batch_size,
        notes=tuple(ended.notes),
    )


def features_are_exact(config: TrainingConfig) -> bool:
    """Whether the trunk makes the same of an image in every epoch."""
    return (
        config.trained == "head"
        and config.frozen_batch_norm == "eval"
        and config.augmentation == "none"
    )


def require_trainable(data: TrainingData) -> None:
    """Refuse data no classifier can be trained on.

    Raises:
        TrainingError: a split without cases or controls, knee-visits in both, or images that are
            no levels.
        ValueError: rows that lack a map of the strategy.
    """
    import torch

    if data.bank.planes.dtype != torch.uint8:
        raise TrainingError(
            f"the {data.bank.bone} bank holds {data.bank.planes.dtype}, not 8-bit levels: a map "
            "may hold NaN, a level cannot; make the bank from training_images"
        )
    for name, split in (("training", data.training), ("validation", data.validation)):
        cases = int(split.is_case.sum())
        controls = len(split.is_case) - cases
        if len(split.rows) != len(split.is_case):
            raise TrainingError(
                f"the {name} split has {len(split.rows)} rows and {len(split.is_case)} labels"
            )
        if not cases or not controls:
            raise TrainingError(
                f"the {name} split of {data.bank.bone} {data.strategy} has {cases} cases and "
                f"{controls} controls; a classifier needs both: add knee-visits, or change the "
                "split (`split_seed` of cohort_parameters)"
            )
        data.bank.require(split.rows, data.strategy)
    both = np.intersect1d(data.training.rows, data.validation.rows)
    if len(both):
        raise TrainingError(
            f"{data.bank.knee_visits[both[0]]} is in the training and the validation split"
        )


def loss_weights(config: TrainingConfig, is_case: NDArray[np.bool_]) -> tuple[float, float]:
    """Weights of no and yes in the loss; balanced ones average 1 over the split."""
    if config.class_weights == "authors":
        return AUTHORS_WEIGHTS
    if config.class_weights == "none":
        return (1.0, 1.0)
    n, cases = len(is_case), int(is_case.sum())
    return (n / (2 * (n - cases)), n / (2 * cases))


def _normalization(data: TrainingData, config: TrainingConfig) -> ChannelNormalization:
    if config.normalization == "imagenet":
        return IMAGENET
    return channel_statistics(data.bank, data.training.rows, data.strategy)


def _on_device(network: "nn.Module", device: str) -> "nn.Module":
    import torch

    # Convolutions read channels last: 1.3 to 2 times as fast on a CPU as on a GPU.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def _environment(device: str, threads: int) -> Iterator[None]:
    """One number of threads on a CPU; the fastest algorithms on a GPU."""
    import torch

    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = device.startswith("cuda")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _frozen_features(
    network: "nn.Module",
    images: Source,
    data: TrainingData,
    config: TrainingConfig,
    begun_with: str,
    cache: FeatureCache | None,
) -> _Features:
    """What the frozen trunk makes of the rows of both splits; other rows stay 0."""
    import torch

    # The trunk's weights are a function of these; two trainings with the same differ in the head.
    key = json.dumps(
        [
            asdict(config.network),
            begun_with or ["random", config.seed],
            config.precision,
            config.normalization,
            data.bank.bone,
            data.strategy,
            _rows_digest(data),
        ]
    )
    if cache is not None and key in cache:
        return _Features(cache[key])
    device = str(data.bank.planes.device)
    rows = torch.as_tensor(np.concatenate([data.training.rows, data.validation.rows]))
    network.eval()
    values = torch.zeros(len(data.bank), config.network.n_features, device=device)
    with torch.no_grad(), autocast(config, device):
        for some in rows.split(config.batch_size):
            values[some.to(device)] = pooled_features(network, images.batch(some, None)).float()
    if cache is not None:
        cache[key] = values
    return _Features(values)


def _rows_digest(data: TrainingData) -> str:
    digest = hashlib.sha256()
    for split in (data.training, data.validation):
        names = [data.bank.knee_visits[row] for row in split.rows]
        digest.update(json.dumps([names, split.is_case.tolist()]).encode())
    return digest.hexdigest()


def _state_key(data: TrainingData, config: TrainingConfig, begun_with: str) -> str:
    """What a state belongs to. The caller names the file for the images' content."""
    stated = [
        config.config_hash,
        begun_with,
        data.bank.bone,
        data.strategy,
        _rows_digest(data),
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()
