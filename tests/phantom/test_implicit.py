"""The implicit surfaces against closed forms and finite differences."""

import numpy as np
import pytest

from phantom.fields import cartilage_thicknesses, random_waves, smooth_values
from phantom.implicit import (
    INTERSECT,
    SUBTRACT,
    capsule,
    field_at,
    half_space,
    nearest_at,
    scaled,
)


@pytest.fixture
def points_mm() -> np.ndarray:
    return np.random.default_rng(0).uniform(-30.0, 30.0, size=(500, 3))


def test_sphere_is_exact(points_mm):
    sphere = capsule((1.0, 2.0, 3.0), (12.0, 12.0), 12.0)[None]
    offset = points_mm - np.array([1.0, 2.0, 3.0])
    radius = np.linalg.norm(offset, axis=1)
    found = nearest_at(sphere, points_mm, 1e-9)
    np.testing.assert_allclose(field_at(sphere, points_mm)[:, 0], radius - 12.0, atol=1e-9)
    np.testing.assert_allclose(found[:, 0], radius - 12.0, atol=1e-9)
    np.testing.assert_allclose(found[:, 4:7], offset / radius[:, None], atol=1e-9)
    np.testing.assert_allclose(
        found[:, 1:4], np.array([1.0, 2.0, 3.0]) + 12.0 * offset / radius[:, None], atol=1e-9
    )


def test_nearest_point_of_an_ellipsoid_is_stationary():
    """The line from the query to the nearest point is normal to x2/a2 + y2/b2 + z2/c2 = 1."""
    radii = np.array([30.0, 20.0, 15.0])
    ellipsoid = capsule((0.0, 0.0, 0.0), (radii[0], radii[1]), radii[2])[None]
    rng = np.random.default_rng(1)
    on_surface = rng.normal(size=(300, 3))
    on_surface /= np.linalg.norm(on_surface / radii, axis=1, keepdims=True)
    normal = on_surface / radii**2
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = rng.uniform(-3.0, 5.0, size=(300, 1))
    found = nearest_at(ellipsoid, on_surface + height * normal, 1e-9)
    np.testing.assert_allclose(found[:, 0], height[:, 0], atol=1e-7)
    np.testing.assert_allclose(found[:, 1:4], on_surface, atol=1e-6)
    np.testing.assert_allclose(found[:, 4:7], normal, atol=1e-7)


def test_gradient_is_that_of_the_field(knee):
    step = 1e-5
    rng = np.random.default_rng(2)
    for truth in knee.bones.values():
        solid = truth.anatomy.solid
        points = rng.uniform(-35.0, 35.0, size=(2000, 3))
        field = field_at(solid, points)
        numeric = np.stack(
            [
                (field_at(solid, points + step * axis) - field_at(solid, points - step * axis))[
                    :, 0
                ]
                / (2.0 * step)
                for axis in np.eye(3)
            ],
            axis=1,
        )
        agree = np.abs(numeric - field[:, 1:]).max(axis=1) < 1e-4
        # The rest straddle the middle of a primitive, where its distance has a kink.
        assert agree[np.abs(field[:, 0]) < 6.0].mean() > 0.999


def test_set_operations_match_their_definition_away_from_the_blend(points_mm):
    ball = capsule((0.0, 0.0, 0.0), (20.0, 20.0), 20.0)
    hole = capsule((8.0, 0.0, 0.0), (9.0, 9.0), 9.0, operation=SUBTRACT, blend_mm=0.01)
    cut = half_space((0.0, 0.0, 5.0), (0.0, 0.0, 1.0), operation=INTERSECT, blend_mm=0.01)
    inside = field_at(np.array([ball, hole, cut]), points_mm)[:, 0] < 0
    wanted = (
        (np.linalg.norm(points_mm, axis=1) < 20.0)
        & (np.linalg.norm(points_mm - [8.0, 0.0, 0.0], axis=1) > 9.0)
        & (points_mm[:, 2] < 5.0)
    )
    assert wanted.any()
    np.testing.assert_array_equal(inside, wanted)


def test_scaling_scales_distances(knee, points_mm):
    solid = knee.bones["tibia"].anatomy.solid
    bigger = field_at(scaled(solid, 1.3), 1.3 * points_mm)
    np.testing.assert_allclose(bigger[:, 0], 1.3 * field_at(solid, points_mm)[:, 0], rtol=1e-9)


def test_random_waves_have_the_stated_deviation():
    rng = np.random.default_rng(3)
    points = rng.uniform(-400.0, 400.0, size=(20000, 3))
    nothing = np.zeros((0, 5))
    values = smooth_values(nothing, random_waves(rng, 0.2, (15.0, 30.0)), points)
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(0.2, rel=0.05)


def test_cartilage_rises_from_its_margin():
    domain = half_space((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))[None]
    constant = np.array([[0.0, 0.0, 0.0, np.inf, 2.0]])
    depth = np.array([-1.0, 0.0, 1.25, 2.5, 10.0])
    points = np.stack([-depth, np.zeros(5), np.zeros(5)], axis=1)
    found = cartilage_thicknesses(domain, constant, np.zeros((0, 5)), points)
    np.testing.assert_allclose(found, [0.0, 0.0, 1.0, 2.0, 2.0], atol=1e-12)
