import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imaging.volume import (
    EchoSeries,
    Volume,
    from_knee_frame,
    index_to_world,
    to_knee_frame,
    world_to_index,
)

PERMUTATIONS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def oblique_volume(order=(0, 1, 2), flips=(1, 1, 1), degrees=(6.0, -8.0, 5.0)) -> Volume:
    """A volume whose axes lie near x, z, y in some order and direction, turned by some degrees."""
    rng = np.random.default_rng(5)
    base = np.array([[0.7, 0, 0], [0, 0, 0.4], [0, -0.36, 0]])
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ base
    affine = np.eye(4)
    affine[:3, :3] = (turned * np.array(flips))[:, list(order)]
    affine[:3, 3] = [-70.0, -40.0, 55.0]
    return Volume(rng.permutation(5 * 6 * 7).reshape(5, 6, 7), affine)


def test_index_to_world_and_back():
    volume = oblique_volume()
    index = np.random.default_rng(0).uniform(0, 9, (50, 3))
    np.testing.assert_allclose(
        world_to_index(volume.affine, index_to_world(volume.affine, index)), index, atol=1e-10
    )
    np.testing.assert_allclose(volume.spacing_mm, [0.7, 0.36, 0.4])


@pytest.mark.parametrize("side", ["RIGHT", "LEFT"])
@pytest.mark.parametrize("order", PERMUTATIONS)
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_every_voxel_keeps_its_place_in_the_patient(side, order, flips):
    volume = oblique_volume(order, flips)
    knee = to_knee_frame(volume, side)
    index = np.argwhere(volume.array >= 0)
    places = dict(
        zip(volume.array[tuple(index.T)], index_to_world(volume.affine, index), strict=True)
    )
    knee_index = np.argwhere(knee.array >= 0)
    back = from_knee_frame(index_to_world(knee.affine, knee_index), side)
    wanted = np.array([places[value] for value in knee.array[tuple(knee_index.T)]])
    np.testing.assert_allclose(back, wanted, atol=1e-9)


@pytest.mark.parametrize("side", ["RIGHT", "LEFT"])
@pytest.mark.parametrize("order", PERMUTATIONS)
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_axes_of_the_knee_frame(side, order, flips):
    affine = to_knee_frame(oblique_volume(order, flips), side).affine
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Slices towards +x, rows to inferior, columns to posterior; the tilts are under 12 degrees.
    assert directions[0, 0] > 0.97
    assert directions[2, 1] < -0.97
    assert directions[1, 2] > 0.97


def test_a_left_knee_becomes_a_right_one():
    right = oblique_volume()
    left = Volume(right.array, np.diag([-1.0, 1, 1, 1]) @ right.affine)
    a, b = to_knee_frame(right, "RIGHT"), to_knee_frame(left, "LEFT")
    np.testing.assert_array_equal(a.array, b.array)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-12)


def test_mirroring_twice_is_nothing():
    points = np.random.default_rng(1).normal(size=(10, 3))
    twice = from_knee_frame(from_knee_frame(points, "LEFT"), "LEFT")
    np.testing.assert_array_equal(twice, points)
    np.testing.assert_array_equal(from_knee_frame(points, "RIGHT"), points)


def test_echoes_follow_their_grid():
    volume = oblique_volume((2, 0, 1), (-1, 1, -1))
    echoes = EchoSeries(
        np.stack([volume.array, volume.array * 2]), volume.affine, np.array([10.0, 20.0])
    )
    knee = to_knee_frame(echoes, "LEFT")
    alone = to_knee_frame(volume, "LEFT")
    np.testing.assert_array_equal(knee.array[0], alone.array)
    np.testing.assert_array_equal(knee.echo(1).array, alone.array * 2)
    np.testing.assert_array_equal(knee.affine, alone.affine)
    np.testing.assert_array_equal(knee.echo_times_ms, [10.0, 20.0])
