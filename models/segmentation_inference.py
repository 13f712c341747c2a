"""Ensembles at work: probabilities window by window, averaged over the networks, then labels.

What a window's networks say is averaged before it is added up, which is the same as averaging
afterwards. So an ensemble needs the memory of one network: 4 bytes per voxel and class for the sums
of the 3-D networks, as much again for those of the 2-D ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.segmentation_preparation import interpolated
from models.vnet import SIZE_MULTIPLE, TASKS, Member

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class InferenceOptions:
    """How networks are run over a volume.

    Attributes:
        window: of the 3-D networks, (slice, row, column); the 2-D ones see its rows and columns of
            one slice. Each a multiple of 16, best the training patch or larger; a scan that is
            smaller is seen whole.
        overlap: of neighbouring windows, as a share of the window.
        windows_at_once: batch size, 3-D; slices at once in 2-D are eight times as many.
        device: 'cpu' or 'cuda'. The sums stay in main memory.
        precision: of the networks' arithmetic. bfloat16 halves the time on processors that have it
            and changes 1 label in 1,000.
    """

    window: tuple[int, int, int] = (80, 128, 128)
    overlap: float = 0.25
    windows_at_once: int = 1
    device: str = "cpu"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if any(size < SIZE_MULTIPLE or size % SIZE_MULTIPLE for size in self.window):
            raise ValueError(
                f"window {self.window}: each size has to be a multiple of {SIZE_MULTIPLE}"
            )
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"overlap {self.overlap}: give a share from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Network:
    """A member with its weights, in eval mode."""

    member: Member
    module: "nn.Module"


def ensemble_probabilities(
    image: NDArray[np.floating], networks: Sequence[Network], options: InferenceOptions
) -> "torch.Tensor":
    """Mean probability of each class over the networks of one task.

    Args:
        image: whitened, shape (n_slice, n_row, n_column).
        networks: all of one task.
        options: windows and device.

    Returns:
        float32 on the CPU, shape (n_class, n_slice, n_row, n_column); sums to 1 over classes.

    Raises:
        ValueError: no network, or networks of different tasks.
    """
    import torch

    tasks = {network.member.task for network in networks}
    if len(tasks) != 1:
        given = ", ".join(sorted(tasks)) or "none"
        raise ValueError(f"an ensemble needs networks of one task; given: {given}")
    n_class = TASKS[networks[0].member.task].n_class
    total = torch.zeros((n_class, *image.shape), dtype=torch.float32)
    for dimensions in (2, 3):
        group = [one.module for one in networks if one.member.dimensions == dimensions]
        if group:
            part = _windowed(image, group, dimensions, options)
            total.add_(part, alpha=len(group) / len(networks))
    return total


def _windowed(
    image: NDArray[np.floating],
    modules: Sequence["nn.Module"],
    dimensions: int,
    options: InferenceOptions,
) -> "torch.Tensor":
    """Mean probabilities of networks that see the same windows."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    flat = dimensions == 2
    # A scan smaller than the window would be mostly padding.
    whole = [-(-size // SIZE_MULTIPLE) * SIZE_MULTIPLE for size in image.shape]
    window = [min(own, most) for own, most in zip(options.window, whole, strict=True)]
    if flat:
        window[0] = 1
    device = torch.device(options.device)
    for module in modules:
        module.to(device).eval()
    predict = _mean_of(modules, flat=flat, options=options)
    volume = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    with torch.no_grad():
        found = sliding_window_inference(
            volume,
            roi_size=window,
            sw_batch_size=options.windows_at_once * (8 if flat else 1),
            predictor=predict,
            overlap=(0.0 if flat else options.overlap, options.overlap, options.overlap),
            mode="gaussian",
            # Beyond the scan the image goes on as its edge does, as in training.
            padding_mode="replicate",
            sw_device=device,
            device=torch.device("cpu"),
        )
    if not isinstance(found, torch.Tensor):
        raise TypeError("the sliding window gave several outputs where one was expected")
    return found[0]


def _mean_of(
    modules: Sequence["nn.Module"], *, flat: bool, options: InferenceOptions
) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    import torch

    def predict(windows: "torch.Tensor") -> "torch.Tensor":
        seen = windows[:, :, 0] if flat else windows
        mean: torch.Tensor | None = None
        for module in modules:
            with torch.autocast(
                seen.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
            ):
                logits = module(seen)
            share = logits.float().softmax(1) / len(modules)
            mean = share if mean is None else mean.add_(share)
        if mean is None:
            raise ValueError("an ensemble needs at least one network")
        return mean[:, :, None] if flat else mean

    return predict


def most_probable(probabilities: "torch.Tensor", shape: Sequence[int]) -> NDArray[np.uint8]:
    """The most probable class of each voxel, after interpolation to a shape.

    One class at a time, so that two volumes at most are held at the full shape.

    Args:
        probabilities: (n_class, *spatial).
        shape: of the result.
    """
    import torch

    best = interpolated(probabilities[None, :1], shape)[0, 0]
    classes = torch.zeros(tuple(shape), dtype=torch.uint8)
    for number in range(1, probabilities.shape[0]):
        share = interpolated(probabilities[None, number : number + 1], shape)[0, 0]
        better = share > best
        classes[better] = number
        best = torch.where(better, share, best)
    return classes.numpy()
