"""Batches from a resident bank, and what may be done to them at random."""

import numpy as np
import pytest
import torch

from models.augmentation import AUGMENTATIONS, AuthorsAugmentation, SmallShifts
from models.bank import ImageBank, channel_statistics
from models.normalization import IMAGENET
from models.strategies import PLANES, STRATEGIES, merge

NAMES = tuple(f"{1000001 + row}_RIGHT_V00" for row in range(6))


@pytest.fixture
def bank() -> ImageBank:
    levels = np.random.default_rng(0).integers(1, 256, (6, 5, 24, 24), np.uint8)
    return ImageBank("femur", NAMES, torch.from_numpy(levels))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_is_the_merged_images_normalised(bank: ImageBank, strategy: str) -> None:
    batch = bank.batch([4, 0, 4], strategy)
    images = merge(bank.planes.numpy()[[4, 0, 4]], strategy) / 255.0
    expected = (images - np.reshape(IMAGENET.mean, (3, 1, 1))) / np.reshape(IMAGENET.sd, (3, 1, 1))
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(batch.numpy(), expected, atol=1e-6)
    half = bank.batch([4, 0, 4], strategy, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.float().numpy(), expected, atol=0.02)


def test_channels_own_statistics_make_mean_0_and_sd_1(bank: ImageBank) -> None:
    own = channel_statistics(bank, range(6), "bone_thickness")
    batch = bank.batch(range(6), "bone_thickness", normalization=own)
    mean, sd = batch.mean(dim=(0, 2, 3)), batch.std(dim=(0, 2, 3), correction=0)
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)
    np.testing.assert_allclose(sd, [1.0, 1.0, 0.0], atol=1e-5)
    with pytest.raises(ValueError, match="no rows"):
        channel_statistics(bank, [], "t2")


def test_a_map_that_a_knee_lacks_is_named(bank: ImageBank) -> None:
    planes = bank.planes.clone()
    planes[2, [PLANES.index(name) for name in ("t2_deep", "t2_superficial", "t2_mean")]] = 0
    without = ImageBank("femur", NAMES, planes)
    assert without.has("t2").tolist() == [True, True, False, True, True, True]
    assert without.has("bone_thickness").all()
    without.require([0, 1], "t2")
    without.require([0, 1, 2], "thickness")
    with pytest.raises(ValueError, match="thickness_t2 needs t2_deep, t2_superficial of the femur"):
        without.require([0, 1, 2], "thickness_t2")


def test_rows_by_name(bank: ImageBank) -> None:
    assert bank.rows_of([NAMES[3], NAMES[1]]).tolist() == [3, 1]
    with pytest.raises(ValueError, match="no femur images of 1999999_RIGHT_V00"):
        bank.rows_of([NAMES[0], "1999999_RIGHT_V00"])


def test_a_bank_that_does_not_agree_with_itself_is_refused(bank: ImageBank) -> None:
    with pytest.raises(ValueError, match="do not agree"):
        ImageBank("femur", NAMES[:5], bank.planes)
    with pytest.raises(ValueError, match="twice"):
        ImageBank("femur", (NAMES[0], *NAMES[:5]), bank.planes)


def test_small_shifts_roll_theta_and_never_flip(bank: ImageBank) -> None:
    images = bank.planes[:, :3]
    moved = SmallShifts(theta_pixels=3, phi_pixels=0)(images, torch.Generator().manual_seed(1))
    assert moved.dtype == torch.uint8
    shifts = set()
    for before, after in zip(images, moved, strict=True):
        (shift,) = [s for s in range(-3, 4) if torch.equal(before.roll(s, dims=2), after)]
        shifts.add(shift)
    assert len(shifts) > 2
    tall = SmallShifts(theta_pixels=0, phi_pixels=2)(images, torch.Generator().manual_seed(1))
    for before, after in zip(images, tall, strict=True):
        rows = [torch.arange(24).sub(s).clamp(0, 23) for s in range(-2, 3)]
        assert any(torch.equal(before[:, row], after) for row in rows)


def test_the_authors_augmentation_without_a_draw_is_the_image_or_its_flip(bank: ImageBank) -> None:
    images = bank.planes[:, :3]
    generator = torch.Generator().manual_seed(0)
    whole = AuthorsAugmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_share=0.0)
    torch.testing.assert_close(whole(images, generator), images.float(), atol=1e-3, rtol=0)
    flipped = AuthorsAugmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_share=1.0)
    both = images.float().flip(2, 3)
    torch.testing.assert_close(flipped(images, generator), both, atol=1e-3, rtol=0)


def test_the_authors_crops_have_torchvisions_distribution() -> None:
    # Closed form: area uniform on [.08, 1], log ratio uniform, crops that do not fit drawn again.
    width, height = AuthorsAugmentation()._crops(40_000, torch.Generator().manual_seed(3))
    rng = np.random.default_rng(0)
    area, ratio = rng.uniform(0.08, 1, 10**6), np.exp(rng.uniform(*np.log([3 / 4, 4 / 3]), 10**6))
    fits = (area * ratio <= 1) & (area / ratio <= 1)
    assert abs(float((width * height).mean()) - area[fits].mean()) < 0.005
    assert float(torch.maximum(width, height).max()) <= 1.0
    assert abs(float((width / height).log().mean())) < 0.005
    shares = ratio[fits]
    assert abs(float((width / height).log().std()) - np.log(shares).std()) < 0.005


@pytest.mark.parametrize("name", ["small_shifts", "authors"])
def test_augmentation_is_repeatable_and_asks_for_a_generator(bank: ImageBank, name: str) -> None:
    augmentation = AUGMENTATIONS[name]

    def batch(seed: int) -> torch.Tensor:
        return bank.batch(
            range(6),
            "t2",
            augmentation=augmentation,
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(batch(1), batch(1))
    assert not torch.equal(batch(1), batch(2))
    assert batch(1).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="needs a generator"):
        bank.batch([0], "t2", augmentation=augmentation)


def test_no_augmentation_by_default(bank: ImageBank) -> None:
    assert AUGMENTATIONS["none"] is None
    assert torch.equal(bank.batch([0, 1], "t2"), bank.batch([0, 1], "t2"))
