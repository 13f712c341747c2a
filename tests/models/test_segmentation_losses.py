"""Caliva's Phi on shapes it is known for, and losses that teach a real V-Net."""

import numpy as np
import pytest
import torch
from monai.losses import HausdorffDTLoss

from models.segmentation_losses import (
    LOSSES,
    PatchTruth,
    distance_penalty,
    hausdorff_term,
    signed_distance_mm,
)
from models.vnet import Loss, Member, build_network, paper_members

RADIUS_MM = 9.0
SPACING_MM = (1.0, 0.5, 0.5)


def _ball(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], radius_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """A centred ball, and each voxel's distance from its centre in mm."""
    axes = [
        (np.arange(size) - (size - 1) / 2) * step
        for size, step in zip(shape, spacing_mm, strict=True)
    ]
    r = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    return (r <= radius_mm).astype(np.uint8), r


def test_phi_of_a_ball_is_linear_in_the_radius() -> None:
    ball, r = _ball((25, 49, 49), SPACING_MM, RADIUS_MM)
    phi = distance_penalty(ball, SPACING_MM)
    inside = ball == 1
    # 1 - (R - r) / R, but for a voxel's size.
    assert np.abs(phi[inside] - r[inside] / RADIUS_MM).max() < 1.0 / RADIUS_MM
    farthest = r.max() - RADIUS_MM
    assert np.abs(phi[~inside] - (1 - (r[~inside] - RADIUS_MM) / farthest)).max() < 1.5 / farthest
    assert phi.min() == 0.0
    assert phi.max() < 1.0


def test_phi_without_a_border_is_nothing() -> None:
    assert not distance_penalty(np.ones((4, 5, 6), np.uint8), (1.0, 1.0, 1.0)).any()


def test_phi_goes_by_millimetres() -> None:
    classes = np.zeros((1, 9, 9), np.uint8)
    classes[:, :, 4:] = 1
    fine = distance_penalty(classes, (1.0, 1.0, 0.25))
    np.testing.assert_allclose(fine, distance_penalty(classes, (1.0, 1.0, 1.0)))


def test_signed_distance_of_a_ball() -> None:
    ball, r = _ball((31, 31, 31), (1.0, 1.0, 1.0), RADIUS_MM)
    found = signed_distance_mm(ball == 1, (1.0, 1.0, 1.0))
    assert np.abs(found - (r - RADIUS_MM)).max() < 1.0


def test_the_hausdorff_term_is_monais() -> None:
    rng = torch.Generator().manual_seed(3)
    share = torch.randn((2, 3, 12, 12, 12), generator=rng).softmax(1)
    classes = torch.zeros((2, 12, 12, 12), dtype=torch.long)
    classes[:, 2:7, 3:9, 3:9] = 1
    classes[1, 8:, 5:, :4] = 2
    truth = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    ours = hausdorff_term(share, truth, (1.0, 1.0, 1.0))
    torch.testing.assert_close(ours, HausdorffDTLoss(alpha=2.0)(share, truth), rtol=1e-5, atol=0)


def _patch(dimensions: int) -> tuple[torch.Tensor, PatchTruth]:
    """Two noisy patches of a bright disc or ball (the femur) beside a darker one (the tibia)."""
    shape = (2, *(32,) * dimensions) if dimensions == 2 else (2, 16, 16, 16)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[1:]), indexing="ij")
    one = (sum(axis**2 for axis in axes[1:]) + (axes[0] + 0.5) ** 2) < 0.16
    two = (sum(axis**2 for axis in axes[1:]) + (axes[0] - 0.5) ** 2) < 0.16
    classes = np.stack([np.where(one, 1, np.where(two, 2, 0))] * 2).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    image = np.where(classes == 1, 2.0, np.where(classes == 2, -1.5, 0.0)) + noise
    spacing = (1.0,) * dimensions
    phi = np.stack([distance_penalty(case, spacing) for case in classes])
    truth = PatchTruth(torch.from_numpy(classes), torch.from_numpy(phi), spacing)
    return torch.from_numpy(image).float()[:, None], truth


@pytest.mark.parametrize(
    ("dimensions", "loss", "steps"),
    [*((2, loss, 8) for loss in LOSSES), (3, "cross_entropy", 5)],
)
def test_a_v_net_learns_by_each_loss(dimensions: int, loss: Loss, steps: int) -> None:
    torch.manual_seed(0)
    network = build_network(Member("bone", 3 if dimensions == 3 else 2, loss))
    images, truth = _patch(dimensions)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = LOSSES[loss](network(images), truth)
        value.backward()
        optimiser.step()
        found.append(float(value.detach()))
    assert np.isfinite(found).all()
    # Dropout of one half makes single steps noisy.
    assert np.mean(found[-2:]) < 0.95 * found[0]


def test_the_paper_has_eleven_networks_of_two_kinds() -> None:
    members = paper_members()
    bones = [one for one in members if one.task == "bone"]
    cartilages = [one for one in members if one.task == "cartilage"]
    assert [one.dimensions for one in bones] == [3] * 5
    assert len({one.loss for one in bones}) == 5
    assert sorted(one.dimensions for one in cartilages) == [2, 2, 2, 3, 3, 3]
    assert {one.architecture for one in members} == {"vnet"}
    assert len({one.name for one in members}) == 11
