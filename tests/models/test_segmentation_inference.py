"""Windows and ensembles against the plain computation, and the way to a label volume and back."""

import numpy as np
import pytest
import torch

from imaging.labels import LabelVolume, Tissue, load_scheme
from imaging.volume import Volume
from models.segmentation_inference import (
    InferenceOptions,
    Network,
    ensemble_probabilities,
    most_probable,
)
from models.segmentation_postprocessing import (
    Postprocessing,
    closed,
    in_stored_scheme,
    label_volume,
    without_specks,
)
from models.segmentation_preparation import prepare, resample_image, resample_nearest, whitened
from models.vnet import Member

BONE_3D = Member("bone", 3, "dice")
BONE_2D = Member("bone", 2, "dice")


class Local(torch.nn.Module):
    """Sees one voxel at a time, so windows cannot change what it says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weights = np.random.default_rng(seed).normal(size=(2, 4))
        self.scale, self.shift = torch.from_numpy(weights).float()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shape = (1, 4, *(1,) * (image.ndim - 2))
        return image * self.scale.view(shape) + self.shift.view(shape)


def _image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(21, 40, 37)).astype(np.float32)


def test_windows_give_what_the_whole_volume_gives() -> None:
    network, image = Local(0), _image()
    whole = network(torch.from_numpy(image)[None, None]).softmax(1)[0]
    for member, window in ((BONE_3D, (16, 16, 32)), (BONE_2D, (16, 16, 16))):
        options = InferenceOptions(window=window, overlap=0.25, windows_at_once=3)
        found = ensemble_probabilities(image, [Network(member, network)], options)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_an_ensemble_is_the_mean_over_all_its_networks() -> None:
    image = _image()
    networks = [Network(BONE_3D, Local(0)), Network(BONE_3D, Local(1)), Network(BONE_2D, Local(2))]
    options = InferenceOptions(window=(16, 16, 16))
    found = ensemble_probabilities(image, networks, options)
    alone = [ensemble_probabilities(image, [one], options) for one in networks]
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.ones(image.shape), rtol=1e-5, atol=1e-5)


def test_an_ensemble_of_two_tasks_is_refused() -> None:
    mixed = [Network(BONE_3D, Local(0)), Network(Member("cartilage", 3, "dice"), Local(1))]
    with pytest.raises(ValueError, match="one task; given: bone, cartilage"):
        ensemble_probabilities(_image(), mixed, InferenceOptions())


def test_a_window_that_a_v_net_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        InferenceOptions(window=(80, 100, 128))


def test_the_most_probable_class_after_interpolation() -> None:
    share = torch.rand((4, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(most_probable(share, (6, 7, 8)), share.argmax(0).numpy())
    larger = torch.nn.functional.interpolate(share[None], (12, 9, 8), mode="trilinear")[0]
    np.testing.assert_array_equal(most_probable(share, (12, 9, 8)), larger.argmax(0).numpy())


def test_resampling_keeps_the_extent() -> None:
    # A ramp along each axis stays the same ramp in millimetres.
    ramp = np.add.outer(np.add.outer(np.arange(8.0), np.arange(12.0)), np.arange(16.0))
    half = resample_image(ramp.astype(np.float32), (4, 6, 8))
    blocks = ramp.reshape(4, 2, 6, 2, 8, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(half, blocks, rtol=1e-5)
    classes = np.random.default_rng(0).integers(0, 5, (4, 6, 8)).astype(np.uint8)
    np.testing.assert_array_equal(
        resample_nearest(classes, (8, 12, 16)), np.kron(classes, np.ones((2, 2, 2), np.uint8))
    )


def test_a_left_knee_looks_like_its_mirror_image() -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, -1.0, 1.0])[:, [0, 2, 1, 3]] @ np.diag([1.5, 0.7, 0.7, 1.0])
    right = Volume(rng.normal(size=(10, 12, 14)), affine)
    left = Volume(right.array, np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine)
    np.testing.assert_array_equal(prepare(right, "RIGHT").image, prepare(left, "LEFT").image)


def test_a_scan_without_contrast_is_refused() -> None:
    with pytest.raises(ValueError, match="one value almost everywhere"):
        whitened(np.full((4, 4, 4), 7, np.int16))


def test_closing_fills_a_hole_and_leaves_the_outline() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    holed = mask.copy()
    holed[9:11, 9:11, 9:11] = False
    found = closed(holed, np.array([1.0, 1.0, 1.0]), 2.0)
    np.testing.assert_array_equal(found, mask)


def test_labels_from_classes() -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    bone = np.zeros((20, 20, 20), np.uint8)
    bone[2:10, 2:18, 2:18] = 1
    bone[19, 19, 19] = 1
    bone[12:18, 2:18, 2:18] = 2
    cartilage = np.zeros_like(bone)
    cartilage[9:12, 4:16, 4:16] = 1
    cartilage[0, 0, 0] = 1
    labels = label_volume(bone, cartilage, affine, Postprocessing(2.0, 20.0))
    femur = labels.mask(Tissue.FEMUR)
    # A stray voxel is no bone, a speck is no cartilage, and cartilage wins where both claim.
    assert not femur[19, 19, 19]
    assert not labels.mask(Tissue.FEMORAL_CARTILAGE)[0, 0, 0]
    assert labels.mask(Tissue.FEMORAL_CARTILAGE)[9:12, 4:16, 4:16].all()
    assert femur.sum() == 8 * 16 * 16 - 12 * 12
    assert not labels.mask(Tissue.PATELLA).any()


def test_specks_go_by_volume() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, :3] = True
    mask[3:5, 3:5, 3:5] = True
    assert without_specks(mask, 2.0, 7.0).sum() == 8
    assert without_specks(mask, 2.0, 6.0).sum() == 11


def test_every_tissue_has_its_stored_value() -> None:
    scheme = load_scheme("mskt")
    values = np.array(sorted(scheme.tissues), np.uint8).reshape(1, 1, -1)
    stored = in_stored_scheme(LabelVolume(values, np.eye(4), scheme))
    found = [stored.scheme.tissues[value] for value in stored.array.ravel().tolist()]
    assert found == [scheme.tissues[value] for value in values.ravel().tolist()]
