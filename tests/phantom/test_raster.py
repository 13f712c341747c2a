"""Sampling a knee on a grid."""

import numpy as np
import pytest

from imaging.labels import BONES
from phantom.fields import THICKEST_MM
from phantom.implicit import capsule
from phantom.knee import knee_truth
from phantom.raster import (
    _paint_bone,
    _Painted,
    label_volume,
    labels_of,
    place_grid,
    rasterise,
    t2_volume,
)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("subject", [1000001, 1000112, 1000223])
def test_no_voxel_belongs_to_two_tissues(seed, subject, coarse):
    truth = knee_truth(seed, subject, "RIGHT", "V00")
    affine = place_grid(truth, _grid_of(coarse))
    assert rasterise(truth, affine, coarse.code.shape, with_t2=False).overlaps == 0


def _grid_of(raster):
    from phantom.raster import Grid

    return Grid(raster.code.shape, tuple(np.linalg.norm(raster.affine[:3, :3], axis=0)))


def test_labels_agree_with_the_truth_voxel_by_voxel(knee, coarse):
    """No block is skipped or filled that should not be: voxels anywhere are asked again."""
    labels = labels_of(coarse)
    index = np.argwhere(np.ones(coarse.code.shape, bool))
    index = index[np.random.default_rng(0).permutation(len(index))[:20_000]]
    points = index @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    for bone in BONES:
        is_bone = labels.bone(bone)[tuple(index.T)]
        is_cartilage = labels.cartilage(bone)[tuple(index.T)]
        distance = knee.bone_distance_mm(bone, points)
        thickness = knee.thickness_mm(bone, points)
        clear = (np.abs(distance) > 0.01) & (np.abs(distance - thickness) > 0.02)
        np.testing.assert_array_equal(is_bone[clear], distance[clear] < 0.0)
        wanted = (distance > 0.0) & (distance < thickness)
        assert wanted[clear].sum() > 10
        np.testing.assert_array_equal(is_cartilage[clear], wanted[clear])


def test_t2_agrees_with_the_truth(knee, coarse):
    labels = labels_of(coarse)
    t2 = t2_volume(coarse).array
    for bone in BONES:
        index = np.argwhere(labels.cartilage(bone))
        points = index @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
        np.testing.assert_allclose(
            t2[tuple(index.T)], knee.t2_ms(bone, points), atol=0.1, equal_nan=False
        )
    assert np.isnan(t2[~np.isin(labels.array, (1, 2, 3, 4))]).all()


def test_shell_around_a_sphere_has_the_closed_form_volume():
    radius, thickness, step = 20.0, 2.5, 0.5
    sphere = capsule((0.0, 0.0, 0.0), (radius, radius), radius)[None]
    everywhere = capsule((0.0, 0.0, 0.0), (90.0, 90.0), 90.0)[None]
    constant = np.array([[0.0, 0.0, 0.0, np.inf, thickness]])
    nothing = np.zeros((0, 5))
    bone = _Painted(
        sphere, everywhere, constant, nothing, constant, nothing, 10.0, 5, 1, THICKEST_MM
    )
    code = np.zeros((100, 100, 100), np.uint8)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -step * 49.5
    overlaps = _paint_bone(code, np.zeros((1, 1, 1), np.float32), affine, np.array([5, 5, 5]), bone)
    assert overlaps == 0
    coordinate = step * (np.arange(100) - 49.5)
    from_centre = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[coordinate] * 3)))
    in_shell = (from_centre > radius) & (from_centre < radius + thickness)
    np.testing.assert_array_equal(code == 1, in_shell)
    shell = 4.0 / 3.0 * np.pi * ((radius + thickness) ** 3 - radius**3)
    assert (code == 1).sum() * step**3 == pytest.approx(shell, rel=0.01)
    assert (code > 1).sum() * step**3 == pytest.approx(4.0 / 3.0 * np.pi * radius**3, rel=0.002)


def test_shafts_run_out_of_the_image(knee, coarse):
    labels = label_volume(knee, coarse.affine, coarse.code.shape)
    assert labels.bone("femur")[:, 0].any()
    assert labels.bone("tibia")[:, -1].any()
    assert not labels.bone("femur")[:, -1].any()
    assert set(np.unique(labels.array)) == set(range(11))


def test_grid_is_sagittal_and_centred(knee):
    from phantom.raster import FULL

    affine = place_grid(knee, FULL)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), FULL.spacing_mm)
    directions = affine[:3, :3] / FULL.spacing_mm
    np.testing.assert_allclose(directions, [[-1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    tilted = place_grid(knee, FULL, (4.0, -3.0))[:3, :3] / FULL.spacing_mm
    np.testing.assert_allclose(tilted.T @ tilted, np.eye(3), atol=1e-12)
    assert np.rad2deg(np.arccos(-tilted[0, 0])) == pytest.approx(5.0, abs=0.01)
