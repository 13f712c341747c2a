"""The loop of a training: epochs, early stopping, memory that runs out, and going on after a kill.

What goes in and what learns are its caller's business (`models.training`).
"""

import copy
import gc
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import UNREADABLE, write_bytes_whole
from models.classifier import seeded
from models.errors import TrainingError
from models.metrics import Metrics, classification_metrics
from models.training_config import TPN_FLOOR, SelectionRule, TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: from 1.
        train_loss: mean class-weighted loss while the weights moved.
        validation: after it.
        seconds: it took.
    """

    epoch: int
    train_loss: float
    validation: Metrics
    seconds: float


class Source(Protocol):
    """Where batches come from."""

    def batch(self, rows: "torch.Tensor", generator: "torch.Generator | None") -> "torch.Tensor":
        """Inputs of some rows, ready for the learner; a generator where they may be augmented."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """What learns from what.

    Attributes:
        learner: takes batches of the source to two logits.
        learning_mode: puts the network into training mode, as far as it learns.
        source: of batches.
        rows, is_case: of the training split.
        validation_rows, validation_is_case: of the validation split.
        class_weights: of no and yes in the loss.
    """

    learner: "nn.Module"
    learning_mode: Callable[[], None]
    source: Source
    rows: NDArray[np.int64]
    is_case: NDArray[np.bool_]
    validation_rows: NDArray[np.int64]
    validation_is_case: NDArray[np.bool_]
    class_weights: tuple[float, float]


@dataclass(eq=False)
class Progress:
    """What changes while training goes on, and what a state file holds beside the weights."""

    optimizer: "torch.optim.Optimizer"
    batch_size: int
    epochs: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: "dict[str, torch.Tensor]" = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def autocast(config: TrainingConfig, device: str) -> "torch.autocast":
    """Computing in bfloat16 where the configuration says so."""
    import torch

    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is one of memory, of a GPU or of the CPU."""
    import torch

    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_better(rule: SelectionRule, candidate: Metrics, best: Metrics | None) -> bool:
    """Whether an epoch takes the place of the best so far."""
    if rule == "tpn":
        if min(candidate.sensitivity, candidate.specificity) < TPN_FLOOR:
            return False
        return best is None or candidate.tpn > best.tpn
    if best is None:
        return True
    if rule == "val_auc":
        return candidate.auc > best.auc
    return candidate.loss < best.loss


class Loop:
    """One training's loop."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        device: str,
        on_epoch: Callable[[EpochRow], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        import torch

        self._task = task
        self._config = config
        self._device = device
        self._on_epoch = on_epoch
        self._on_note = on_note
        self._rows = torch.as_tensor(task.rows).to(device)
        self._labels = torch.as_tensor(task.is_case.astype(np.int64)).to(device)
        self._validation_rows = torch.as_tensor(task.validation_rows).to(device)
        self._weights = np.array(task.class_weights)
        self._total_weight = float(self._weights[task.is_case.astype(int)].sum())
        self._device_weights = torch.tensor(self._weights, dtype=torch.float32, device=device)

    def to_the_end(self, state_file: Path | None, state_every_s: float, key: str) -> Progress:
        """Train until patience or the epochs run out, from the state file's epoch on.

        Raises:
            TrainingError: a loss that is not finite, no memory, or no epoch the rule allows.
        """
        progress = self._begin()
        if state_file is not None and state_file.is_file():
            self._resume(progress, state_file, key)
        saved = time.monotonic()
        while not self._is_over(progress):
            self._epoch(progress)
            due = self._is_over(progress) or time.monotonic() - saved >= state_every_s
            if state_file is not None and due:
                self._save(progress, state_file, key)
                saved = time.monotonic()
        if not progress.best_epoch:
            raise TrainingError(
                f"none of {len(progress.epochs)} epochs reached a sensitivity and a specificity of "
                f"{TPN_FLOOR:g}, as rule tpn asks; use val_loss or val_auc, or train longer"
            )
        return progress

    def _is_over(self, progress: Progress) -> bool:
        losses = [row.validation.loss for row in progress.epochs]
        waited = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return len(losses) >= self._config.max_epochs or waited >= self._config.patience

    def _begin(self) -> Progress:
        import torch

        optimizer = torch.optim.Adam(
            [one for one in self._task.learner.parameters() if one.requires_grad],
            lr=self._config.learning_rate,
            weight_decay=self._config.weight_decay,
            fused=self._device.startswith("cuda"),
        )
        return Progress(optimizer, self._config.batch_size)

    def _resume(self, progress: Progress, state_file: Path, key: str) -> None:
        state = _read_state(state_file, key)
        if state is None:
            self._note(progress, f"{state_file.name} is of another training; this one begins anew")
            return
        self._task.learner.load_state_dict(state["weights"])
        progress.optimizer.load_state_dict(state["optimizer"])
        progress.batch_size = state["batch_size"]
        progress.best_epoch = state["best_epoch"]
        progress.best_weights = state["best_weights"]
        progress.notes = state["notes"]
        progress.epochs = [
            EpochRow(row["epoch"], row["train_loss"], Metrics(**row["validation"]), row["seconds"])
            for row in json.loads(state["epochs"])
        ]

    def _save(self, progress: Progress, path: Path, key: str) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(
            {
                "key": key,
                "weights": self._task.learner.state_dict(),
                "optimizer": progress.optimizer.state_dict(),
                "batch_size": progress.batch_size,
                "epochs": json.dumps([asdict(row) for row in progress.epochs]),
                "best_epoch": progress.best_epoch,
                "best_weights": progress.best_weights,
                "notes": progress.notes,
            },
            buffer,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(path, buffer.getvalue())

    def _epoch(self, progress: Progress) -> None:
        began = time.perf_counter()
        number = len(progress.epochs) + 1
        before = (
            copy.deepcopy(self._task.learner.state_dict()),
            copy.deepcopy(progress.optimizer.state_dict()),
        )
        while True:
            try:
                train_loss = self._train(progress, number)
                metrics = self._validate(progress, number)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Out of the handler: the error's traceback holds the tensors that filled the memory.
            self._halve(progress, number)
            self._task.learner.load_state_dict(before[0])
            progress.optimizer.load_state_dict(copy.deepcopy(before[1]))
        row = EpochRow(number, train_loss, metrics, time.perf_counter() - began)
        best = progress.epochs[progress.best_epoch - 1].validation if progress.best_epoch else None
        progress.epochs.append(row)
        if is_better(self._config.selection_rule, metrics, best):
            progress.best_epoch = number
            progress.best_weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self._task.learner.state_dict().items()
            }
        if self._on_epoch is not None:
            self._on_epoch(row)

    def _halve(self, progress: Progress, number: int) -> None:
        import torch

        asked = progress.batch_size
        if asked == 1:
            raise TrainingError(
                f"epoch {number}: memory does not hold one image at a time; use a smaller network, "
                "or free memory"
            )
        progress.batch_size = asked // 2
        progress.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
        self._note(
            progress,
            f"epoch {number}: out of memory at {asked} images a batch; the epoch is done again, "
            f"and the training goes on, at {progress.batch_size}",
        )

    def _note(self, progress: Progress, text: str) -> None:
        progress.notes.append(text)
        if self._on_note is not None:
            self._on_note(text)

    def _train(self, progress: Progress, number: int) -> float:
        """One pass over the training split; its loss."""
        import torch
        from torch.nn import functional

        config, learner = self._config, self._task.learner
        self._task.learning_mode()
        generator = torch.Generator().manual_seed((config.seed << 20) + number)
        order = torch.randperm(len(self._rows), generator=generator).to(self._device)
        total = torch.zeros((), device=self._device)
        with seeded((config.seed << 20) + number, self._device):
            for some in self._batches(order, progress.batch_size):
                images = self._task.source.batch(self._rows[some], generator)
                labels = self._labels[some]
                with autocast(config, self._device):
                    logits = learner(images)
                loss = functional.cross_entropy(
                    logits.float(), labels, weight=self._device_weights, reduction="none"
                )
                weight = self._device_weights[labels].sum()
                progress.optimizer.zero_grad(set_to_none=True)
                (loss.sum() / weight).backward()
                progress.optimizer.step()
                total += loss.detach().sum()
        # The one wait for the device in an epoch.
        mean = float(total) / self._total_weight
        _require_finite(mean, "training", number, config)
        return mean

    def _validate(self, progress: Progress, number: int) -> Metrics:
        import torch

        if self._config.batch_norm_statistics == "recomputed":
            self._recompute_statistics(progress.batch_size)
        self._task.learner.eval()
        found = []
        with torch.no_grad(), autocast(self._config, self._device):
            for some in self._validation_rows.split(progress.batch_size):
                found.append(self._task.learner(self._task.source.batch(some, None)).float())
        logits = torch.cat(found).cpu().numpy()
        metrics = classification_metrics(logits, self._task.validation_is_case, self._weights)
        _require_finite(metrics.loss, "validation", number, self._config)
        return metrics

    def _recompute_statistics(self, batch_size: int) -> None:
        """Replace running statistics of layers that learn by averages over the training split."""
        import torch

        learner = self._task.learner
        self._task.learning_mode()
        layers = [
            layer
            for layer in learner.modules()
            if isinstance(layer, torch.nn.BatchNorm2d) and layer.training
        ]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            # None is torch's way of saying: the plain average of all batches.
            layer.momentum = None
        with torch.no_grad(), autocast(self._config, self._device):
            for some in self._batches(self._rows, batch_size) if layers else ():
                learner(self._task.source.batch(some, None))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    @staticmethod
    def _batches(rows: "torch.Tensor", batch_size: int) -> "tuple[torch.Tensor, ...]":
        # Of nearly the same size: a last batch of a few images has no good statistics.
        return rows.tensor_split(math.ceil(len(rows) / batch_size))


def _require_finite(loss: float, what: str, number: int, config: TrainingConfig) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"epoch {number}: the {what} loss is {loss}; lower learning_rate "
            f"({config.learning_rate:g}), or use precision float32 ({config.precision})"
        )


def _read_state(path: Path, key: str) -> dict[str, Any] | None:
    """The state of the same training, or None."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
