"""Random changes of training images, made on the device they are on.

The paper describes none, so none is the default. A map is not a photograph: theta closes on itself,
left and right are medial and lateral, up and down are ends of a bone. `SmallShifts` respects that;
`AuthorsAugmentation` is what the authors' code does all the same (torchvision's RandomResizedCrop
and both flips, a quarter of the time each), to compare with.

An augmentation is a function of levels (b, 3, n_phi, n_theta) and a generator on the CPU, so that a
seed gives the same images on any device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from models.bank import Augmentation

AugmentationName = Literal["none", "small_shifts", "authors"]

_ATTEMPTS = 10
"""Of torchvision's RandomResizedCrop to find a crop that fits."""


@dataclass(frozen=True)
class SmallShifts:
    """Whole-pixel shifts, as if the bone's axes had been found a little differently.

    What leaves the map along theta comes back on its other side; along phi the border is repeated.

    Attributes:
        theta_pixels, phi_pixels: largest shift either way; 6 and 5 of 224 are 10 and 2.5 degrees.
    """

    theta_pixels: int = 6
    phi_pixels: int = 5

    def __call__(self, images: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """Shift every image by its own draw; same type and shape."""
        import torch

        n, _, n_phi, n_theta = images.shape
        limits = (self.phi_pixels, self.theta_pixels)
        phi_shift, theta_shift = (
            torch.randint(-limit, limit + 1, (n, 1), generator=generator).to(images.device)
            for limit in limits
        )
        row = torch.arange(n_phi, device=images.device) - phi_shift
        column = torch.arange(n_theta, device=images.device) - theta_shift
        row, column = row.clamp(0, n_phi - 1), column.remainder(n_theta)
        image = torch.arange(n, device=images.device)[:, None, None]
        # Indices either side of a slice put the channels last.
        return images[image, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class AuthorsAugmentation:
    """A random crop stretched to the full map, and flips along either axis.

    A horizontal flip swaps medial and lateral.

    Attributes:
        scale: least and greatest share of the map's area that is kept.
        ratio: least and greatest width by height of the crop.
        flip_share: of the images, for each axis.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    flip_share: float = 0.25

    def __call__(self, images: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """Crop and flip every image by its own draws; float32, same shape."""
        import torch
        from torch.nn import functional

        n = len(images)
        width, height = self._crops(n, generator)
        place, flips = torch.rand(2, n, generator=generator), torch.rand(2, n, generator=generator)
        middle = (1.0 - torch.stack([width, height])) * (2.0 * place - 1.0)
        sign = torch.where(flips < self.flip_share, -1.0, 1.0)
        transform = torch.zeros(n, 2, 3)
        transform[:, 0, 0], transform[:, 1, 1] = sign[0] * width, sign[1] * height
        transform[:, :, 2] = middle.T
        grid = functional.affine_grid(
            transform.to(images.device), list(images.shape), align_corners=False
        )
        return functional.grid_sample(
            images.to(torch.float32), grid, padding_mode="border", align_corners=False
        )

    def _crops(self, n: int, generator: "torch.Generator") -> tuple["torch.Tensor", "torch.Tensor"]:
        """Width and height of each crop as shares of the map's; the whole map if none fits."""
        import torch

        drawn = torch.rand(2, _ATTEMPTS, n, generator=generator)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[0]
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * drawn[1])
        width, height = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
        fits = (width <= 1.0) & (height <= 1.0)
        first = fits.to(torch.uint8).argmax(dim=0)
        everywhere = torch.arange(n)
        found = fits[first, everywhere]
        one = torch.ones(n)
        return (
            torch.where(found, width[first, everywhere], one),
            torch.where(found, height[first, everywhere], one),
        )


authors_augmentation = AuthorsAugmentation()
"""With torchvision's defaults, as the authors' script has them."""

AUGMENTATIONS: "Mapping[AugmentationName, Augmentation | None]" = {
    "none": None,
    "small_shifts": SmallShifts(),
    "authors": authors_augmentation,
}
"""By name."""
