"""Cylinders along the normal, on a ball whose layers are known."""

from dataclasses import replace

import numpy as np
import pytest

from imaging.projection import NormalCrossing, cross_cartilage, cylinder_means
from imaging.surface import bone_surface
from imaging.volume import index_to_world
from tests.imaging.shells import shell_labels, true_thickness_mm

LABELS = shell_labels(lowest_y=0.2)
SURFACE = bone_surface(LABELS.bone("femur"), LABELS.affine)
CARTILAGE = LABELS.cartilage("femur")
CROSSING = cross_cartilage(SURFACE, CARTILAGE, LABELS.affine)
DIRECTION = SURFACE.vertices_mm / np.linalg.norm(SURFACE.vertices_mm, axis=1, keepdims=True)


def test_coverage_is_the_planted_cap() -> None:
    inside, outside = DIRECTION[:, 1] > 0.23, DIRECTION[:, 1] < 0.17
    assert CROSSING.covered[inside].mean() > 0.995
    assert not CROSSING.covered[outside].any()
    assert np.isnan(CROSSING.thickness_mm[~CROSSING.covered]).all()


def test_thickness_along_the_normal_is_the_planted_one() -> None:
    inside = DIRECTION[:, 1] > 0.3
    error = CROSSING.thickness_mm[inside] - true_thickness_mm(DIRECTION[inside])
    assert abs(np.nanmean(error)) < 0.03
    assert np.sqrt(np.nanmean(error**2)) < 0.10


def test_layers_average_the_two_halves() -> None:
    points = index_to_world(LABELS.affine, np.argwhere(CARTILAGE))
    distance = np.linalg.norm(points, axis=1)
    thickness = true_thickness_mm(points / distance[:, None])
    depth = (distance - 20.0) / thickness
    t2 = np.where(depth < 0.5, 30.0, 45.0)
    layers = cylinder_means(SURFACE, CROSSING, points, t2)
    inside = DIRECTION[:, 1] > 0.3
    assert np.nanmean(layers.deep[inside]) == pytest.approx(30.0, abs=1.0)
    assert np.nanmean(layers.superficial[inside]) == pytest.approx(45.0, abs=1.0)
    assert np.nanmean(layers.mean[inside]) == pytest.approx(37.5, abs=0.8)
    assert np.isnan(layers.mean[~CROSSING.covered]).all()


def test_missing_values_are_left_out_not_counted_as_zero() -> None:
    points = index_to_world(LABELS.affine, np.argwhere(CARTILAGE))
    values = np.where(np.arange(len(points)) % 3 == 0, np.nan, 40.0)
    mean = cylinder_means(SURFACE, CROSSING, points, values).mean
    assert np.nanmax(np.abs(mean - 40.0)) < 1e-9


def test_cylinder_is_a_cylinder() -> None:
    """Against the plain definition, at a few vertices."""
    rng = np.random.default_rng(1)
    points = index_to_world(LABELS.affine, np.argwhere(CARTILAGE))
    values = rng.normal(size=len(points))
    mean = cylinder_means(SURFACE, CROSSING, points, values, margin_mm=0.4).mean
    for vertex in rng.choice(np.flatnonzero(CROSSING.covered), 20):
        relative = points - SURFACE.vertices_mm[vertex]
        along = relative @ SURFACE.normals[vertex]
        aside = np.linalg.norm(relative - np.outer(along, SURFACE.normals[vertex]), axis=1)
        inside = (
            (aside <= 0.729)
            & (along >= CROSSING.begin_mm[vertex] - 0.4)
            & (along <= CROSSING.end_mm[vertex] + 0.4)
        )
        assert mean[vertex] == pytest.approx(values[inside].mean())


def test_no_cartilage_covers_nothing() -> None:
    crossing = cross_cartilage(SURFACE, np.zeros_like(CARTILAGE), LABELS.affine)
    assert not crossing.covered.any()
    means = cylinder_means(SURFACE, crossing, np.empty((0, 3)), np.empty(0))
    assert np.isnan(means.mean).all()


def test_a_vertex_far_from_every_point_has_no_value() -> None:
    """As where the T2 series covers a part of the knee; beyond the last cell of the points."""
    points = np.random.default_rng(0).uniform(0.0, 10.0, (2000, 3))
    above, inside, below = (8.6, 8.6, 40.0), (5.0, 5.0, 5.0), (5.0, 5.0, -30.0)
    surface = replace(
        SURFACE,
        vertices_mm=np.array([above, inside, below, (8.6, 8.6, 5e5)]),
        normals=np.array([[0.0, 0.0, 1.0]] * 4),
    )
    crossing = NormalCrossing(np.ones(4, dtype=bool), np.zeros(4), np.full(4, 2.0))
    mean = cylinder_means(surface, crossing, points, np.full(2000, 7.0)).mean
    np.testing.assert_array_equal(mean, [np.nan, 7.0, np.nan, np.nan])
