"""Dice and point-to-surface distance against closed forms and against MONAI."""

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, SurfaceDistanceMetric

from models.segmentation_metrics import (
    agreement,
    bootstrap_mean,
    dice,
    edge_distance_mm,
    point_to_surface_mm,
)

SPACING_MM = np.array([0.7, 0.5, 0.5])
AFFINE = np.diag([*SPACING_MM, 1.0])
SHAPE = (64, 84, 84)


def _ball(radius_mm: float, shift_mm: float = 0.0) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING_MM, strict=True)]
    axes[2] = axes[2] - shift_mm
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) <= radius_mm**2


def test_dice_of_two_balls() -> None:
    # The lens of two balls of one radius R at distance d: pi (4R + d) (2R - d)^2 / 12.
    radius, apart = 15.0, 5.0
    lens = np.pi * (4 * radius + apart) * (2 * radius - apart) ** 2 / 12
    expected = lens / (4 / 3 * np.pi * radius**3)
    assert dice(_ball(radius), _ball(radius, apart)) == pytest.approx(expected, abs=2e-3)
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_distance_of_a_smaller_ball() -> None:
    found = agreement(_ball(13.0), _ball(15.0), AFFINE)
    assert found.mpts_mm == pytest.approx(2.0, abs=0.05)
    assert found.predicted_mm3 == pytest.approx(4 / 3 * np.pi * 13.0**3, rel=5e-3)


def test_distance_of_a_shifted_ball() -> None:
    # From a point at angle a of a ball shifted by s to the sphere about 0: |sqrt(R2 + s2 +
    # 2 R s cos a) - R|, averaged over the sphere.
    radius, shift = 15.0, 2.0
    cosine = (np.arange(100_000) + 0.5) / 50_000 - 1
    expected = np.abs(np.sqrt(radius**2 + shift**2 + 2 * radius * shift * cosine) - radius).mean()
    found = point_to_surface_mm(_ball(radius, shift), _ball(radius), AFFINE)
    assert found == pytest.approx(expected, abs=0.03)


def test_monai_agrees() -> None:
    predicted, true = _ball(12.0, 1.5), _ball(13.0)
    hot = [
        torch.from_numpy(np.stack([~one, one])[None].astype(np.float32))
        for one in (predicted, true)
    ]
    monai_dice = DiceMetric(include_background=False)(*hot)
    assert dice(predicted, true) == pytest.approx(float(monai_dice), abs=1e-6)
    metric = SurfaceDistanceMetric(include_background=False, symmetric=False)
    monai_mm = float(metric(*hot, spacing=SPACING_MM.tolist()))
    assert edge_distance_mm(predicted, true, SPACING_MM) == pytest.approx(monai_mm, abs=1e-5)


def test_an_empty_prediction_has_no_distance() -> None:
    found = agreement(np.zeros(SHAPE, bool), _ball(9.0), AFFINE)
    assert (found.dice, found.mpts_mm, found.mpts_voxel_mm) == (0.0, None, None)


def test_the_bootstrap_interval_has_its_width() -> None:
    values = np.random.default_rng(5).normal(0.9, 0.05, 200)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert bootstrap_mean(values) == found
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
