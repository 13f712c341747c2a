"""All images of a bone resident on one device, and batches cut from them there.

A knee is 250 kB a bone, so the whole study is read once and stays. A batch is an index of rows, a
gather of channels and a normalisation, all on the device; there is no loader and no worker.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.normalization import IMAGENET, LEVELS, ChannelNormalization
from models.strategies import PLANES, channel_indices, planes_of

if TYPE_CHECKING:
    import torch

Augmentation = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]
"""Images (b, 3, n_phi, n_theta), uint8, to images of the same shape, uint8 or float in levels."""


@dataclass(frozen=True, eq=False)
class ImageBank:
    """The 8-bit planes of one bone of many knee-visits.

    Attributes:
        bone: the bone.
        knee_visits: `<subject_id>_<side>_<timepoint>` of each row.
        planes: uint8, shape (n, 5, n_phi, n_theta), in the order of `models.strategies.PLANES`.

    Raises:
        ValueError: shapes that do not agree, or a knee-visit twice.
    """

    bone: str
    knee_visits: tuple[str, ...]
    planes: "torch.Tensor"

    def __post_init__(self) -> None:
        shape, n = tuple(self.planes.shape), len(self.knee_visits)
        if len(shape) != 4 or shape[:2] != (n, len(PLANES)):
            raise ValueError(
                f"{n} knee-visits and planes {shape} do not agree; expected "
                f"(n, {len(PLANES)}, n_phi, n_theta)"
            )
        if len(set(self.knee_visits)) != n:
            raise ValueError("a knee-visit is in the bank twice")

    def __len__(self) -> int:
        return len(self.knee_visits)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """Which planes hold values, shape (n, 5): a knee without MSME has no T2."""
        return np.asarray(self.planes.flatten(2).any(dim=2).cpu().numpy(), dtype=bool)

    def to(self, device: "torch.device | str") -> "ImageBank":
        """The same bank on another device."""
        return replace(self, planes=self.planes.to(device))

    def rows_of(self, knee_visits: Iterable[str]) -> NDArray[np.int64]:
        """The rows of some knee-visits, in their order.

        Raises:
            ValueError: a knee-visit without images, by name.
        """
        place = {knee_visit: row for row, knee_visit in enumerate(self.knee_visits)}
        wanted = list(knee_visits)
        missing = [knee_visit for knee_visit in wanted if knee_visit not in place]
        if missing:
            raise ValueError(
                f"no {self.bone} images of {_named(missing)}; materialize training_images first"
            )
        return np.array([place[knee_visit] for knee_visit in wanted], np.int64)

    def has(self, strategy: str) -> NDArray[np.bool_]:
        """Which rows hold every map a strategy needs, shape (n,)."""
        columns = [PLANES.index(plane) for plane in planes_of(strategy)]
        return np.asarray(self.present[:, columns].all(axis=1))

    def require(self, rows: Sequence[int] | NDArray[np.integer], strategy: str) -> None:
        """Refuse rows that lack a map of a strategy.

        Raises:
            ValueError: names the knee-visits and the maps.
        """
        chosen = np.asarray(rows, np.int64)
        lacking = chosen[~self.has(strategy)[chosen]]
        if len(lacking):
            planes = [
                plane
                for plane in planes_of(strategy)
                if not self.present[lacking, PLANES.index(plane)].all()
            ]
            names = [self.knee_visits[row] for row in lacking]
            raise ValueError(
                f"strategy {strategy} needs {', '.join(planes)} of the {self.bone}, which "
                f"{_named(names)} lack; leave them out (`ImageBank.has`) or deliver their scans"
            )

    def batch(
        self,
        rows: "Sequence[int] | NDArray[np.integer] | torch.Tensor",
        strategy: str,
        *,
        dtype: "torch.dtype | None" = None,
        normalization: ChannelNormalization = IMAGENET,
        augmentation: Augmentation | None = None,
        generator: "torch.Generator | None" = None,
    ) -> "torch.Tensor":
        """Images of some rows, ready for a network.

        A map a row lacks is black in it: call `require` once for the rows of a model.

        Args:
            rows: of this bank.
            strategy: a key of `models.strategies.STRATEGIES`.
            dtype: of the result; float32 where None.
            normalization: of the channels.
            augmentation: see `models.augmentation`; none by default, as in the paper.
            generator: of the augmentation's draws, on the CPU.

        Returns:
            Shape (b, 3, n_phi, n_theta), channels last in memory.

        Raises:
            ValueError: no such strategy, or augmentation without a generator.
        """
        import torch

        device = self.planes.device
        index = torch.as_tensor(rows, dtype=torch.int64).to(device)
        indices = channel_indices(strategy)
        channels = torch.tensor([place or 0 for place in indices], device=device)
        images = self.planes[index[:, None], channels]
        for channel, place in enumerate(indices):
            if place is None:
                images[:, channel] = 0
        if augmentation is not None:
            if generator is None:
                raise ValueError(
                    "augmentation needs a generator, so that its draws can be repeated"
                )
            images = augmentation(images, generator)
        mean = torch.tensor(normalization.mean, device=device)[:, None, None]
        sd = torch.tensor(normalization.sd, device=device)[:, None, None]
        images = images.contiguous(memory_format=torch.channels_last)
        normalized = (images.to(torch.float32) - LEVELS * mean) / (LEVELS * sd)
        return normalized.to(dtype or torch.float32, memory_format=torch.channels_last)


def channel_statistics(
    bank: ImageBank, rows: Sequence[int] | NDArray[np.integer], strategy: str
) -> ChannelNormalization:
    """The channels' own mean and SD over some rows (the training split's), for other weights.

    A channel that never varies, such as an empty one, keeps SD 1.

    Raises:
        ValueError: no rows.
    """
    import torch

    if len(rows) == 0:
        raise ValueError("there are no rows to take channel means of")
    index = torch.as_tensor(np.asarray(rows, np.int64)).to(bank.planes.device)
    moments: dict[int, tuple[float, float]] = {}
    for place in {place for place in channel_indices(strategy) if place is not None}:
        levels = bank.planes[index, place]
        # Counts of levels are exact whatever the order or number of threads.
        counts = torch.bincount(levels.flatten(), minlength=LEVELS + 1).cpu().double()
        values = torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        moments[place] = (mean, float(np.sqrt(variance)) or 1.0)
    found = [(0.0, 1.0) if place is None else moments[place] for place in channel_indices(strategy)]
    return ChannelNormalization(
        (found[0][0], found[1][0], found[2][0]), (found[0][1], found[1][1], found[2][1])
    )


def _named(names: Sequence[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
