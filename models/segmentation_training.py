"""Training one network of a segmentation ensemble.

Patches are drawn around voxels of each tissue in turn and of background, rotated in the sagittal
plane, and seen by Adam; every so often the whole validation volumes are segmented, and the weights
with the best mean Dice are kept (Caliva 2019 trains with Adam at 1e-4 and in-plane rotations).

What a step draws depends on the seed and the step's number only, so a training that was killed goes
on from its last validation and ends with the same bytes. On a processor the arithmetic is always
float32: gradients of 3-D convolutions in bfloat16 are wrong there in torch 2.13.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.segmentation_checkpoint import CheckpointMetadata, save_checkpoint
from models.segmentation_inference import (
    InferenceOptions,
    Network,
    ensemble_probabilities,
    most_probable,
)
from models.segmentation_losses import LOSSES, PatchTruth
from models.segmentation_metrics import dice
from models.segmentation_preparation import PreparedCase, Spacing
from models.vnet import SIZE_MULTIPLE, TASKS, Member, TaskName, build_network

if TYPE_CHECKING:
    import torch
    from torch import nn

Say = Callable[[str], None]

DECAY_POWER = 0.9


class TrainingDivergedError(ValueError):
    """A loss or a gradient that is no number."""


@dataclass(frozen=True)
class TrainingOptions:
    """How one network is trained.

    Attributes:
        steps: of the optimiser, at most.
        patch: of a 3-D network; a 2-D one sees (1, *patch_2d).
        patch_2d: rows and columns of a 2-D network's patch.
        batch: patches a step, 3-D.
        batch_2d: patches a step, 2-D.
        learning_rate: of Adam at the first step; it falls to nothing at the last, as in nnU-Net
            (doi:10.1038/s41592-020-01008-z).
        validate_every: steps between validations.
        patience: validations without a better Dice that end the training.
        foreground_share: share of the patches drawn around a tissue rather than anywhere.
        rotation_deg: largest in-plane rotation.
        seed: of weights, sampling and augmentation.
        spacing_mm: the networks' voxels; None for the scans' own.
        device: 'cpu' or 'cuda'.
    """

    steps: int = 20_000
    patch: tuple[int, int, int] = (64, 128, 128)
    patch_2d: tuple[int, int] = (320, 320)
    batch: int = 2
    batch_2d: int = 8
    learning_rate: float = 1e-4
    validate_every: int = 500
    patience: int = 10
    foreground_share: float = 0.8
    rotation_deg: float = 10.0
    seed: int = 0
    spacing_mm: Spacing | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if any(size % SIZE_MULTIPLE for size in (*self.patch, *self.patch_2d)):
            raise ValueError(f"patch sizes have to be multiples of {SIZE_MULTIPLE}")
        if min(self.steps, self.batch, self.batch_2d, self.validate_every, self.patience) < 1:
            raise ValueError("steps, batches, validate_every and patience are at least 1")

    def patch_of(self, member: Member) -> tuple[int, int, int]:
        """The patch a member is trained on."""
        return (1, *self.patch_2d) if member.dimensions == 2 else self.patch


@dataclass(frozen=True)
class Validation:
    """One look at the validation volumes.

    Attributes:
        step: after how many.
        loss: mean of the training loss since the last look.
        dice: by class 1, 2, ... of the task, mean over cases.
    """

    step: int
    loss: float
    dice: tuple[float, ...]

    @property
    def mean_dice(self) -> float:
        """Over the tissues."""
        return float(np.mean(self.dice))


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training came to.

    Attributes:
        checkpoint: where the best weights lie.
        metadata: what is stored with them.
        history: every validation.
    """

    checkpoint: Path
    metadata: CheckpointMetadata
    history: tuple[Validation, ...]


def train_member(
    member: Member,
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    options: TrainingOptions,
    checkpoint: Path,
    *,
    data_hash: str,
    say: Say | None = None,
) -> Trained:
    """Train a network and keep its best weights as a checkpoint.

    Args:
        member: what to train.
        training: prepared at `options.spacing_mm`.
        validation: other people's, prepared the same way.
        options: how.
        checkpoint: where to; `<checkpoint>.resume` lies beside it while training goes on.
        data_hash: of the cases, for the record.
        say: told of validations and of smaller batches.

    Raises:
        ValueError: no cases, or a tissue that no training case has.
        TrainingDivergedError: a loss or gradient is no number.
    """
    import torch

    _require_cases(member, training, validation)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    network = build_network(member).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    resume = checkpoint.with_name(checkpoint.name + ".resume")
    key = _resume_key(member, options, data_hash)
    step, history = _resumed(resume, key, network, optimiser)
    sampler = _Sampler(member.task, training, options.patch_of(member), options)
    tell = say or (lambda _text: None)
    losses: list[float] = []
    micro = options.batch_2d if member.dimensions == 2 else options.batch
    while step < options.steps and not _is_over(history, options):
        loss, micro = _one_step(
            member, network, optimiser, sampler, step, options, micro, device, tell
        )
        losses.append(loss)
        step += 1
        if step % options.validate_every == 0 or step == options.steps:
            found = _validate(member, network, validation, options)
            history.append(Validation(step, float(np.mean(losses)), found))
            losses.clear()
            tell(f"{member.name}: step {step}, loss {history[-1].loss:.4f}, "
                 f"Dice {history[-1].mean_dice:.3f}")  # fmt: skip
            if _best(history).step == step:
                metadata = _metadata(member, options, data_hash, history)
                save_checkpoint(checkpoint, network, metadata)
            _save_resume(resume, key, network, optimiser, step, history)
    resume.unlink(missing_ok=True)
    return Trained(checkpoint, _metadata(member, options, data_hash, history), tuple(history))


def data_hash(cases: Mapping[str, Sequence[str]]) -> str:
    """A hash of which prepared cases are in which split."""
    words = [f"{split}:{key}" for split in sorted(cases) for key in sorted(cases[split])]
    return hashlib.sha256("|".join(words).encode()).hexdigest()


def _require_cases(
    member: Member, training: Sequence[PreparedCase], validation: Sequence[PreparedCase]
) -> None:
    if not training or not validation:
        raise ValueError(
            f"{member.name} needs labelled scans for training and for validation, of different "
            f"people; there are {len(training)} and {len(validation)}"
        )
    present = {value for case in training for value in case.points(member.task)}
    tissues = TASKS[member.task].tissues
    missing = [str(tissue) for value, tissue in enumerate(tissues, 1) if value not in present]
    if missing:
        raise ValueError(f"no training label has {', '.join(missing)}, which {member.name} needs")


def _metadata(
    member: Member, options: TrainingOptions, data: str, history: Sequence[Validation]
) -> CheckpointMetadata:
    best = _best(history)
    return CheckpointMetadata(
        member,
        options.spacing_mm,
        options.patch_of(member),
        data,
        options.seed,
        best.step,
        best.mean_dice,
        {**asdict(options), "history": [asdict(one) for one in history[: history.index(best) + 1]]},
    )


def _best(history: Sequence[Validation]) -> Validation:
    """The first of the highest mean Dice."""
    return max(history, key=lambda one: (one.mean_dice, -one.step))


def _is_over(history: Sequence[Validation], options: TrainingOptions) -> bool:
    if not history:
        return False
    since = [one for one in history if one.step > _best(history).step]
    return len(since) >= options.patience


def _one_step(
    member: Member,
    network: "nn.Module",
    optimiser: "torch.optim.Optimizer",
    sampler: "_Sampler",
    step: int,
    options: TrainingOptions,
    micro: int,
    device: "torch.device",
    say: Say,
) -> tuple[float, int]:
    """One step of the optimiser; where memory runs out the batch goes in smaller shares.

    Returns:
        The loss, and the share that fitted.
    """
    import torch

    network.train()
    for group in optimiser.param_groups:
        group["lr"] = options.learning_rate * (1.0 - step / options.steps) ** DECAY_POWER
    images, classes, penalty = (one.to(device) for one in sampler.batch(step))
    while True:
        # Dropout draws from torch's own generator.
        torch.manual_seed(options.seed * 1_000_003 + step + 1)
        optimiser.zero_grad(set_to_none=True)
        try:
            loss = _backward(member, network, images, classes, penalty, sampler.spacing_mm, micro)
            break
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
            micro = (micro + 1) // 2
            torch.cuda.empty_cache()
            say(f"{member.name}: memory ran out; the batch goes on in shares of {micro}")
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), math.inf)
    if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
        raise TrainingDivergedError(
            f"{member.name}: the loss or its gradient is no number at step {step + 1} (loss "
            f"{loss}); give a smaller learning rate than {options.learning_rate:g}"
        )
    optimiser.step()
    return loss, micro


def _backward(
    member: Member,
    network: "nn.Module",
    images: "torch.Tensor",
    classes: "torch.Tensor",
    penalty: "torch.Tensor",
    spacing_mm: Spacing,
    micro: int,
) -> float:
    spacing = spacing_mm[1:] if member.dimensions == 2 else spacing_mm
    total = 0.0
    for first in range(0, len(images), micro):
        part = slice(first, first + micro)
        share = len(images[part]) / len(images)
        truth = PatchTruth(classes[part], penalty[part], spacing)
        loss = LOSSES[member.loss](network(images[part]), truth)
        (loss * share).backward()
        total += float(loss.detach()) * share
    return total


def _validate(
    member: Member,
    network: "nn.Module",
    cases: Sequence[PreparedCase],
    options: TrainingOptions,
) -> tuple[float, ...]:
    """Mean Dice of each class over the cases that have it."""
    patch = options.patch_of(member)
    window = (SIZE_MULTIPLE, *patch[1:]) if member.dimensions == 2 else patch
    how = InferenceOptions(window=window, device=options.device)
    n_class = TASKS[member.task].n_class
    found: list[list[float]] = [[] for _ in range(1, n_class)]
    for case in cases:
        image = np.asarray(case.image(), dtype=np.float32)
        truth = case.classes(member.task)
        share = ensemble_probabilities(image, [Network(member, network)], how)
        guess = most_probable(share, image.shape)
        for number in range(1, n_class):
            mask = truth == number
            if mask.any():
                found[number - 1].append(dice(guess == number, mask))
    return tuple(float(np.mean(values)) if values else 0.0 for values in found)


class _Sampler:
    """Batches of patches; step k always gives the same."""

    def __init__(
        self,
        task: TaskName,
        cases: Sequence[PreparedCase],
        patch: tuple[int, int, int],
        options: TrainingOptions,
    ) -> None:
        self.spacing_mm = cases[0].spacing_mm
        self._task = task
        self._patch = patch
        self._options = options
        self._images = [case.image() for case in cases]
        self._classes = [case.classes(task) for case in cases]
        self._penalties = [case.penalty(task) for case in cases]
        self._points = [case.points(task) for case in cases]

    def batch(self, step: int) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Images (b, 1, *patch), classes and penalties (b, *patch); 2-D patches lose their axis."""
        import torch

        flat = self._patch[0] == 1
        size = self._options.batch_2d if flat else self._options.batch
        rng = np.random.default_rng([self._options.seed, step])
        drawn = [self._draw(rng) for _ in range(size)]
        images, classes, penalties = (
            torch.from_numpy(np.stack(kind)) for kind in zip(*drawn, strict=True)
        )
        if flat:
            images, classes, penalties = images[:, 0], classes[:, 0], penalties[:, 0]
        return images[:, None], classes, penalties

    def _draw(self, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        case = int(rng.integers(len(self._images)))
        shape = self._images[case].shape
        tissues = sorted(value for value in self._points[case] if value > 0)
        if tissues and rng.random() < self._options.foreground_share:
            points = self._points[case][tissues[int(rng.integers(len(tissues)))]]
            centre = points[int(rng.integers(len(points)))]
        else:
            centre = rng.integers(0, shape)
        limit = math.radians(self._options.rotation_deg)
        angle = float(rng.uniform(-limit, limit))
        jitter = (rng.uniform(-0.25, 0.25, 3) * self._patch).astype(int)
        volumes = (self._images[case], self._classes[case], self._penalties[case])
        return rotated_patch(volumes, centre + jitter, self._patch, angle, self.spacing_mm)


def rotated_patch(
    volumes: tuple[NDArray, NDArray, NDArray],
    centre: NDArray[np.int64],
    patch: tuple[int, int, int],
    angle_rad: float,
    spacing_mm: Spacing,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """A patch turned in the sagittal plane about its centre; beyond the volume its edge goes on.

    Args:
        volumes: image, classes and penalty (in 255ths) on one grid.
        centre: index of the patch's middle.
        patch: its shape.
        angle_rad: of the turn from rows to columns, in millimetres.
        spacing_mm: between voxels.

    Returns:
        Image (linear), classes (nearest) and penalty in [0, 1] (linear).
    """
    image, classes, penalty = volumes
    starts = [int(at) - size // 2 for at, size in zip(centre, patch, strict=True)]
    # Patches stay inside where they fit.
    starts = [
        min(max(start, 0), max(total - size, 0))
        for start, size, total in zip(starts, patch, image.shape, strict=True)
    ]
    if angle_rad == 0.0:
        index = np.ix_(
            *(
                np.clip(np.arange(start, start + size), 0, total - 1)
                for start, size, total in zip(starts, patch, image.shape, strict=True)
            )
        )
        crops = (image[index], classes[index], penalty[index])
        return (
            crops[0].astype(np.float32),
            np.ascontiguousarray(crops[1]),
            crops[2].astype(np.float32) / 255.0,
        )
    slices = np.clip(np.arange(starts[0], starts[0] + patch[0]), 0, image.shape[0] - 1)
    rows, columns = _turned(patch[1:], starts[1:], angle_rad, spacing_mm)
    low = np.maximum(np.floor([rows.min(), columns.min()]).astype(int), 0)
    high = np.minimum(np.ceil([rows.max(), columns.max()]).astype(int) + 1, image.shape[1:])
    low = np.minimum(low, high - 1)
    window = np.s_[slices[0] : slices[-1] + 1, low[0] : high[0], low[1] : high[1]]
    pick = slices - slices[0]
    rows, columns = rows - low[0], columns - low[1]
    return (
        _linear(np.asarray(image[window], np.float32)[pick], rows, columns),
        _nearest(np.asarray(classes[window])[pick], rows, columns),
        _linear(np.asarray(penalty[window], np.float32)[pick] / 255.0, rows, columns),
    )


def _turned(
    size: Sequence[int], start: Sequence[int], angle_rad: float, spacing_mm: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each pixel of a turned patch is read, in rows and columns of the volume."""
    row_mm, column_mm = spacing_mm[1], spacing_mm[2]
    half = [(one - 1) / 2 for one in size]
    down = (np.arange(size[0]) - half[0])[:, None] * row_mm
    across = (np.arange(size[1]) - half[1])[None, :] * column_mm
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    rows = (cosine * down - sine * across) / row_mm + half[0] + start[0]
    columns = (sine * down + cosine * across) / column_mm + half[1] + start[1]
    return rows, columns


def _linear(
    planes: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bilinear values of every plane; beyond the edge the edge."""
    n_row, n_column = planes.shape[1:]
    rows, columns = np.clip(rows, 0, n_row - 1), np.clip(columns, 0, n_column - 1)
    r0, c0 = np.floor(rows).astype(int), np.floor(columns).astype(int)
    r1, c1 = np.minimum(r0 + 1, n_row - 1), np.minimum(c0 + 1, n_column - 1)
    down, across = (rows - r0).astype(np.float32), (columns - c0).astype(np.float32)
    upper = planes[:, r0, c0] * (1 - across) + planes[:, r0, c1] * across
    lower = planes[:, r1, c0] * (1 - across) + planes[:, r1, c1] * across
    return upper * (1 - down) + lower * down


def _nearest(
    planes: NDArray[np.uint8], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.uint8]:
    row = np.clip(np.rint(rows).astype(int), 0, planes.shape[1] - 1)
    column = np.clip(np.rint(columns).astype(int), 0, planes.shape[2] - 1)
    return planes[:, row, column]


def _resume_key(member: Member, options: TrainingOptions, data: str) -> str:
    """What has to be the same for a training to go on."""
    return f"{member.name}|{options}|{data}"


def _save_resume(
    path: Path,
    key: str,
    network: "nn.Module",
    optimiser: "torch.optim.Optimizer",
    step: int,
    history: Sequence[Validation],
) -> None:
    import torch

    staged = path.with_name(path.name + ".new")
    state: dict[str, Any] = {
        "key": key,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "history": [asdict(one) for one in history],
    }
    torch.save(state, staged)
    staged.replace(path)


def _resumed(
    path: Path, key: str, network: "nn.Module", optimiser: "torch.optim.Optimizer"
) -> tuple[int, list[Validation]]:
    """The step and history of an interrupted training of the same kind; else the start."""
    import torch

    if not path.is_file():
        return 0, []
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key:
        return 0, []
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    history = [Validation(one["step"], one["loss"], tuple(one["dice"])) for one in state["history"]]
    return state["step"], history
