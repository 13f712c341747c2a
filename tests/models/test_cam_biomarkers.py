"""Numbers of maps against sums over the enlarged map, and cases that can be worked out by hand."""

import numpy as np
import pytest
import torch

from imaging.compartments import medial_pixels
from models.cam_biomarkers import MapRegions, cam_numbers
from models.cam_views import rectified, upsampled
from models.classifier import NetworkConfig, build_network, seeded
from models.errors import ModelError
from models.folding import folded
from models.gradcam import class_maps

PHI = np.linspace(-1.5, 0.4, 224)
THETA = -np.pi + (np.arange(224) + 0.5) * 2 * np.pi / 224


def regions() -> MapRegions:
    rng = np.random.default_rng(0)
    shown = rng.random((224, 224)) > 0.1
    medial = np.zeros((224, 224), bool)
    medial[:, 60:150] = True
    area = np.where(shown, rng.uniform(0.2, 2.0, (224, 224)), np.nan)
    return MapRegions(shown, medial & shown, (rng.random((224, 224)) > 0.5) & shown, area)


def test_shares_are_sums_over_the_enlarged_map() -> None:
    maps = np.random.default_rng(1).normal(size=(3, 7, 7))
    where = regions()
    large = upsampled(rectified(maps))
    for found, values in zip(cam_numbers(maps, where, PHI, THETA), large, strict=True):
        inside = values[where.medial].sum() / values[where.shown].sum()
        assert found.medial_share == pytest.approx(inside)
        mass = values * np.nan_to_num(where.area_mm2)
        covered = mass[where.covered].sum() / mass[where.shown].sum()
        assert found.covered_share_surface == pytest.approx(covered)


def test_peak_entropy_and_sums_of_simple_maps() -> None:
    one_cell = np.full((7, 7), -1.0)
    one_cell[2, 5] = 3.0
    even = np.ones((7, 7))
    nothing = -np.ones((7, 7))
    first, second, third = cam_numbers(np.stack([one_cell, even, nothing]), regions(), PHI, THETA)
    assert first.peak_theta == pytest.approx(-np.pi + 5.5 * 2 * np.pi / 7)
    assert first.entropy == pytest.approx(0)
    assert (first.signed_sum, first.positive_sum) == (pytest.approx(-45), pytest.approx(3))
    assert second.entropy == pytest.approx(1)
    assert third.all_zero
    assert third.medial_share is third.peak_phi is third.entropy is None
    with pytest.raises(ValueError, match="NaN"):
        cam_numbers(np.full((1, 7, 7), np.nan), regions(), PHI, THETA)


def test_the_tibia_is_split_between_its_plateaus_even_across_the_seam() -> None:
    x = np.broadcast_to(20.0 * np.cos(THETA), (224, 224))
    points = np.stack([x, x, x], axis=-1)
    coverage = np.zeros((224, 224), bool)
    coverage[50:100] = np.abs(x[0]) > 12
    # The lateral plateau (x < -12) lies on the seam of theta: it is one piece, not two.
    medial = medial_pixels("tibia", points, coverage, 5.0)
    split = x[medial].min(), x[~medial].max()
    assert split[0] > 0 > split[1] or abs(sum(split)) < 1.0
    # Elsewhere the centre of the map parts the sides.
    np.testing.assert_array_equal(medial_pixels("femur", points, coverage, 5.0), x > 5.0)


def test_a_folded_network_says_the_same() -> None:
    with seeded(2):
        network = build_network(NetworkConfig("resnet50", 1 / 16))
        images = torch.randn(2, 3, 224, 224)
        # Statistics that are not those of a new layer.
        network(images)
    network.eval()
    quick = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    own, other = class_maps(network, images), class_maps(quick, images)
    torch.testing.assert_close(other.maps, own.maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.logits, own.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="eval"):
        folded(network.train())
