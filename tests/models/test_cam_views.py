"""Views of Grad-CAM against torch's interpolation and cases that can be worked out by hand."""

import numpy as np
import pytest
import torch

from models.cam_views import (
    enlarged_extremes,
    interpolation_matrix,
    rectified,
    scaled,
    upsampled,
)


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(5, 7, 7)).astype(np.float32)


def test_upsampling_is_that_of_the_authors(maps: np.ndarray) -> None:
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], (224, 224), mode="bilinear", align_corners=False
    )[0].numpy()
    found = upsampled(maps)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_periodic_upsampling_does_not_know_where_the_seam_is(maps: np.ndarray) -> None:
    found = upsampled(maps, periodic_theta=True)
    turned = upsampled(np.roll(maps, 2, axis=2), periodic_theta=True)
    np.testing.assert_allclose(turned, np.roll(found, 2 * 32, axis=2), atol=1e-6)
    seam = np.abs(found[:, :, 0] - found[:, :, -1]).max()
    assert seam < np.abs(upsampled(maps)[:, :, 0] - upsampled(maps)[:, :, -1]).max() / 4


@pytest.mark.parametrize("periodic", [True, False])
def test_a_sum_over_pixels_is_a_sum_over_cells(maps: np.ndarray, periodic: bool) -> None:
    weight = np.random.default_rng(4).uniform(size=(224, 224))
    rows, columns = interpolation_matrix(7, 224), interpolation_matrix(7, 224, periodic=periodic)
    np.testing.assert_allclose(rows.sum(1), 1)
    by_cell = rows.T @ weight @ columns
    by_pixel = (upsampled(maps, periodic_theta=periodic) * weight).sum((1, 2))
    np.testing.assert_allclose((maps * by_cell).sum((1, 2)), by_pixel, rtol=1e-5)


def test_scaling_spans_zero_to_one_and_flags_what_has_no_scale(maps: np.ndarray) -> None:
    maps[1] = -np.abs(maps[1])
    maps[2] = 4.0
    with np.errstate(all="raise"):
        found = scaled(rectified(maps))
    np.testing.assert_array_equal(found.is_flat, [False, True, True, False, False])
    np.testing.assert_allclose(found.values.max((1, 2)), [1, 0, 0, 1, 1])
    assert (found.values.min((1, 2)) == 0).all()
    with pytest.raises(ValueError, match="NaN"):
        scaled(np.full((1, 2, 2), np.nan))


def test_maps_are_not_made_smaller(maps: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot be enlarged"):
        upsampled(maps, (4, 224))


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (5, 9), (1, 3), (224, 224)])
def test_extremes_are_those_of_the_enlarged_maps(grid):
    maps = np.random.default_rng(6).standard_normal((40, *grid))
    large = upsampled(maps)
    lowest, highest = enlarged_extremes(maps)
    np.testing.assert_allclose(lowest, large.min(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(highest, large.max(axis=(1, 2)), rtol=1e-12)
