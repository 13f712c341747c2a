"""From a scan to what a network sees, and training cases kept on disk.

A scan is put into the right-knee frame (a left knee is mirrored), whitened, and, where a spacing is
asked for, resampled; the extent of the volume stays as it is, so the way back is one interpolation.
Training cases are plain `.npy` files that are read through memory maps: 118 full-size volumes
would fill 10 GB of memory otherwise.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelVolume
from imaging.volume import Side, Volume, to_knee_frame
from models.segmentation_losses import distance_penalty
from models.vnet import TASKS, TaskName

if TYPE_CHECKING:
    import torch

Spacing = tuple[float, float, float]

CLIPPED_SHARE = 0.005
"""Share of the brightest and of the darkest voxels that whitening clips: vessels and noise."""

_SAMPLED_POINTS = 4096
_PREPARATION = "1"
"""Raised by hand when prepared cases change."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as a network sees it.

    Attributes:
        image: float32, whitened, knee frame, shape (n_slice, n_row, n_column).
        spacing_mm: between its voxels.
        native_shape: of the scan in the knee frame.
        native_affine: of the scan in the knee frame, index -> knee frame mm.
    """

    image: NDArray[np.float32]
    spacing_mm: Spacing
    native_shape: tuple[int, int, int]
    native_affine: NDArray[np.float64]


def prepare(scan: Volume, side: Side, spacing_mm: Spacing | None = None) -> Prepared:
    """Put a scan into the knee frame, whiten it and resample it.

    Args:
        scan: the structural scan.
        side: of the knee.
        spacing_mm: of slices, rows and columns; None leaves the scan's own.

    Raises:
        ValueError: a scan of one value, or one that is not finite.
    """
    framed = to_knee_frame(scan, side)
    image = whitened(framed.array)
    native = framed.spacing_mm
    shape = resampled_shape(image.shape, native, spacing_mm)
    resampled = resample_image(image, shape)
    reached = native * np.array(image.shape) / np.array(shape)
    return Prepared(resampled, _three(reached), _sizes(framed.array.shape), framed.affine)


def prepared_classes(
    labels: LabelVolume, side: Side, task: TaskName, spacing_mm: Spacing | None
) -> NDArray[np.uint8]:
    """The classes of a task on the grid that `prepare` gives the scan of these labels."""
    framed = to_knee_frame(labels, side)
    classes = TASKS[task].targets(LabelVolume(framed.array, framed.affine, labels.scheme))
    shape = resampled_shape(classes.shape, framed.spacing_mm, spacing_mm)
    return resample_nearest(classes, shape)


def whitened(image: NDArray) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1, after clipping the extremes.

    Raises:
        ValueError: one value everywhere, or values that are not finite.
    """
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the scan has values that are not finite")
    # Every 7th voxel settles a quantile of millions.
    sample = values.ravel()[::7] if values.size > 1_000_000 else values.ravel()
    low, high = np.quantile(sample, [CLIPPED_SHARE, 1.0 - CLIPPED_SHARE])
    if high <= low:
        raise ValueError("the scan has one value almost everywhere")
    np.clip(values, low, high, out=values)
    return (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)


def resampled_shape(
    shape: Sequence[int], native_mm: NDArray[np.float64], wanted_mm: Spacing | None
) -> tuple[int, int, int]:
    """The shape whose voxels come closest to a spacing over the same extent."""
    if wanted_mm is None:
        return _sizes(shape)
    return _sizes(
        [
            max(1, round(size * own / wanted))
            for size, own, wanted in zip(shape, native_mm, wanted_mm, strict=True)
        ]
    )


def resample_image(image: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Interpolate to another number of voxels over the same extent; shrunk axes are averaged."""
    if image.shape == shape:
        return image
    import torch
    from torch.nn import functional

    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    shrunk = _sizes(np.minimum(image.shape, shape))
    tensor = functional.adaptive_avg_pool3d(tensor, shrunk)
    return interpolated(tensor, shape)[0, 0].numpy()


def interpolated(values: "torch.Tensor", shape: Sequence[int]) -> "torch.Tensor":
    """Trilinear interpolation of (batch, channel, *spatial) over the same extent."""
    from torch.nn import functional

    if tuple(values.shape[2:]) == tuple(shape):
        return values
    return functional.interpolate(values, list(shape), mode="trilinear", align_corners=False)


def resample_nearest(classes: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The nearest voxel's class over the same extent."""
    index = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(classes.shape, shape, strict=True)
    ]
    return classes[np.ix_(*index)]


@dataclass(frozen=True)
class PreparedCase:
    """One knee-visit ready for training.

    Attributes:
        folder: its files.
        knee_visit: whose it is.
        spacing_mm: between its voxels.
    """

    folder: Path
    knee_visit: str
    spacing_mm: Spacing

    def image(self) -> NDArray[np.float16]:
        """The whitened scan, a memory map."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def classes(self, task: TaskName) -> NDArray[np.uint8]:
        """The class of each voxel, a memory map."""
        return np.load(self.folder / f"{task}-classes.npy", mmap_mode="r")

    def penalty(self, task: TaskName) -> NDArray[np.uint8]:
        """Caliva's Phi in 255ths, a memory map."""
        return np.load(self.folder / f"{task}-penalty.npy", mmap_mode="r")

    def points(self, task: TaskName) -> Mapping[int, NDArray[np.int64]]:
        """Voxels of each class that is there, shape (n, 3) each, at most a few thousand."""
        with np.load(self.folder / f"{task}-points.npz") as stored:
            return {int(name): stored[name] for name in stored.files}


def case_key(
    dess_fingerprint: str, label_fingerprint: str, scheme: str, spacing_mm: Spacing | None
) -> str:
    """The name of a prepared case: the same for the same scan, label and spacing."""
    words = [_PREPARATION, dess_fingerprint, label_fingerprint, scheme, spacing_mm]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def write_case(
    folder: Path,
    knee_visit: str,
    scan: Volume,
    labels: LabelVolume,
    side: Side,
    spacing_mm: Spacing | None,
) -> PreparedCase:
    """Prepare a labelled scan for both tasks; a case that is there already is used as it is.

    Args:
        folder: named by `case_key`.
        knee_visit: whose it is.
        scan: the structural scan.
        labels: on the grid of the scan.
        side: of the knee.
        spacing_mm: of the networks; None for the scan's own.

    Raises:
        ValueError: what `prepare` raises.
    """
    about = folder / "case.json"
    if not about.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(scan, side, spacing_mm)
        np.save(folder / "image.npy", prepared.image.astype(np.float16))
        for task in TASKS:
            classes = prepared_classes(labels, side, task, spacing_mm)
            penalty = distance_penalty(classes, prepared.spacing_mm)
            np.save(folder / f"{task}-classes.npy", classes)
            np.save(folder / f"{task}-penalty.npy", np.rint(penalty * 255.0).astype(np.uint8))
            _save_points(folder / f"{task}-points.npz", classes)
        # Written last: a killed preparation is done again.
        about.write_text(json.dumps({"spacing_mm": prepared.spacing_mm}), encoding="utf-8")
    return open_case(folder, knee_visit)


def open_case(folder: Path, knee_visit: str) -> PreparedCase:
    """A case that `write_case` wrote."""
    about: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return PreparedCase(folder, knee_visit, _three(about["spacing_mm"]))


def _save_points(path: Path, classes: NDArray[np.uint8]) -> None:
    found: dict[str, Any] = {}
    for value in np.unique(classes):
        flat = np.flatnonzero(classes == value)
        chosen = flat[np.linspace(0, len(flat) - 1, min(len(flat), _SAMPLED_POINTS)).astype(int)]
        found[str(value)] = np.stack(np.unravel_index(chosen, classes.shape), axis=1)
    np.savez(path, **found)


def _three(values: Sequence[float] | NDArray[np.float64]) -> Spacing:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _sizes(values: Sequence[int] | NDArray[np.int64]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in values)
    return first, second, third
