"""The six merges against Fig. 4's words, and the 8-bit scale against the paper's pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.normalization import (
    IMAGENET,
    ChannelNormalization,
    MapRange,
    from_levels,
    to_levels,
)
from models.strategies import PLANES, STRATEGIES, merge, planes_of

# Fig. 4's caption, word for word in the paper's order: what each channel holds.
FIGURE_4 = {
    "thickness": ["cartilage_thickness"] * 3,
    "bone_shape": ["bone_shape"] * 3,
    "t2": ["t2_deep", "t2_superficial", "t2_mean"],
    "bone_thickness": ["cartilage_thickness", "bone_shape", "empty"],
    "thickness_t2": ["t2_deep", "t2_superficial", "cartilage_thickness"],
    "all_biomarkers": ["cartilage_thickness", "bone_shape", "t2_mean"],
}
# A range per map that shares nothing with another, so that no value can pass for another's.
RANGES = {
    "bone_shape": MapRange(10.0, 60.0),
    "cartilage_thickness": MapRange(0.0, 5.0),
    "t2_deep": MapRange(10.0, 60.0),
    "t2_superficial": MapRange(20.0, 80.0),
    "t2_mean": MapRange(15.0, 65.0),
}


def at(name: str, share: float) -> float:
    """The value that lies at a share of a map's range."""
    scale = RANGES[name]
    return scale.minimum + share * (scale.maximum - scale.minimum)


def pixel(**shares: float) -> np.ndarray:
    """Planes of one knee of 1 x 1 pixels; a map that is not named lies at a quarter."""
    return np.array(
        [to_levels(np.array([[at(name, shares.get(name, 0.25))]]), RANGES[name]) for name in PLANES]
    )[np.newaxis]


def test_the_papers_dark_yellow_pixel() -> None:
    # "elevated T2 values for both the deep and superficial cartilage layers as well as cartilage
    # thinning could have a 3-channel value of (204, 204, 26)"
    planes = pixel(t2_deep=0.8, t2_superficial=0.8, cartilage_thickness=0.1)
    assert merge(planes, "thickness_t2")[0, :, 0, 0].tolist() == [204, 204, 26]


def test_the_papers_dark_green_pixel() -> None:
    # "elevated T2 values for the superficial cartilage layer with average cartilage thickness"
    planes = pixel(t2_deep=0.5, t2_superficial=0.8, cartilage_thickness=0.5)
    assert merge(planes, "thickness_t2")[0, :, 0, 0].tolist() == [128, 204, 128]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_papers_levels_in_either_precision(dtype) -> None:
    scale = MapRange(0.0, 5.0)
    levels = to_levels(np.array([4.0, 2.5, 0.5], dtype), scale)
    assert levels.tolist() == [204, 128, 26]


def test_the_strategies_are_those_of_figure_4() -> None:
    assert list(STRATEGIES) == list(FIGURE_4)
    generator = np.random.default_rng(0)
    planes = generator.integers(1, 256, (4, 5, 6, 7), np.uint8)
    for strategy, channels in FIGURE_4.items():
        images = merge(planes, strategy)
        assert images.shape == (4, 3, 6, 7)
        for channel, name in enumerate(channels):
            expected = 0 if name == "empty" else planes[:, PLANES.index(name)]
            assert np.array_equal(images[:, channel], np.broadcast_to(expected, (4, 6, 7)))
        of_torch = merge(torch.from_numpy(planes), strategy)
        assert np.array_equal(of_torch.numpy(), images)


def test_merging_leaves_the_planes_alone() -> None:
    planes = np.full((1, 5, 2, 2), 9, np.uint8)
    merge(planes, "bone_thickness")
    assert (planes == 9).all()


def test_what_a_strategy_needs() -> None:
    assert planes_of("thickness") == ("cartilage_thickness",)
    assert planes_of("bone_thickness") == ("bone_shape", "cartilage_thickness")
    assert set(planes_of("t2")) == {"t2_deep", "t2_superficial", "t2_mean"}
    with pytest.raises(ValueError, match="'t3' is not a strategy; use one of thickness"):
        planes_of("t3")
    with pytest.raises(ValueError, match=r"planes have shape \(5, 2, 2\)"):
        merge(np.zeros((5, 2, 2), np.uint8), "t2")


def test_values_beyond_the_range_and_missing_ones() -> None:
    levels = to_levels(np.array([-1.0, 6.0, np.nan, np.inf, 0.0, 5.0]), MapRange(0.0, 5.0))
    assert levels.tolist() == [0, 255, 0, 255, 0, 255]


@given(st.floats(0.0, 1.0), st.floats(-100.0, 100.0), st.floats(0.01, 200.0))
def test_a_level_stands_for_its_value_within_half_a_level(share, low, width) -> None:
    scale = MapRange(low, low + width)
    value = np.array([low + share * width])
    back = from_levels(to_levels(value, scale), scale)
    assert abs(back[0] - value[0]) <= width / 255 / 2 * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (0.0, np.inf)])
def test_a_range_without_two_ends_is_refused(ends) -> None:
    with pytest.raises(ValueError, match="is no range"):
        MapRange(*ends)


def test_imagenet_normalisation_is_torchvisions() -> None:
    # https://pytorch.org/vision/stable/models.html
    assert IMAGENET.mean == (0.485, 0.456, 0.406)
    assert IMAGENET.sd == (0.229, 0.224, 0.225)
    with pytest.raises(ValueError, match="expected SDs above 0"):
        ChannelNormalization((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
