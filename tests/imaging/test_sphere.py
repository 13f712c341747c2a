"""Spherical maps against closed forms and against VTK's own ray tracer."""

import numpy as np
import pytest
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkFiltersGeneral import vtkOBBTree

from imaging.labels import BONES
from imaging.sphere import (
    FRAMES,
    MAP_SIZE,
    hidden_vertices,
    map_faces,
    map_values,
    read_map,
    sample_sphere,
    surface_points,
)
from imaging.surface import BoneSurface, bone_surface

FRAME = FRAMES["femur"]


def two_balls() -> BoneSurface:
    """A shape that is not star-shaped: rays pass the neck between two balls and a far one."""
    spacing = np.array([0.7, 0.7, 0.7])
    n = 100
    index = np.stack(np.meshgrid(*(np.arange(n),) * 3, indexing="ij"), axis=-1)
    points = (index - n / 2) * spacing
    mask = np.linalg.norm(points - [0, 0, -4.0], axis=-1) < 14
    mask |= np.linalg.norm(points - [12, -14, 6.0], axis=-1) < 9
    mask |= (
        (np.abs(points[..., 0] - 22) < 4)
        & (np.abs(points[..., 1] - 4) < 9)
        & (np.abs(points[..., 2] + 8) < 12)
    )
    mask |= (np.hypot(points[..., 1] - 4, points[..., 2] + 16) < 3) & (
        (points[..., 0] > 0) & (points[..., 0] < 20)
    )
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)
    affine[:3, 3] = -n / 2 * spacing
    return bone_surface(mask, affine)


SURFACE = two_balls()


def vtk_hits(surface: BoneSurface, direction: np.ndarray) -> np.ndarray:
    points, cells, mesh, tree = vtkPoints(), vtkCellArray(), vtkPolyData(), vtkOBBTree()
    points.SetData(numpy_to_vtk(surface.vertices_mm, deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(surface.faces).ravel(), deep=1))
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    tree.SetDataSet(mesh)
    tree.BuildLocator()
    hits = []
    for ray in direction:
        found = vtkPoints()
        tree.IntersectWithLine(surface.centroid_mm, surface.centroid_mm + 200 * ray, found, None)
        at = np.array([found.GetPoint(i) for i in range(found.GetNumberOfPoints())])
        distance = np.linalg.norm(at - surface.centroid_mm, axis=1)
        hits.append((distance.min(), distance.max()))
    return np.array(hits)


def test_hits_equal_another_ray_tracer() -> None:
    rng = np.random.default_rng(3)
    pixel = rng.integers(0, MAP_SIZE, size=(400, 2))
    expected = vtk_hits(SURFACE, FRAME.directions[pixel[:, 0], pixel[:, 1]])
    for rule, column in (("nearest", 0), ("outermost", 1)):
        sampling = sample_sphere(SURFACE, FRAME, hit_rule=rule)
        rho = sampling.rho_mm[pixel[:, 0], pixel[:, 1]]
        assert np.abs(rho - expected[:, column]).max() < 2e-3
        several = expected[:, 1] - expected[:, 0] > 0.1
        assert several.any()
        assert (sampling.multi_hit[pixel[:, 0], pixel[:, 1]] == several).mean() > 0.995


def test_every_ray_hits_a_closed_surface() -> None:
    for bone in BONES:
        assert np.isfinite(sample_sphere(SURFACE, FRAMES[bone]).rho_mm).all()


def test_axes_are_orthonormal_and_theta_rises_towards_lateral() -> None:
    lateral = np.array([-1.0, 0.0, 0.0])
    for bone in BONES:
        axes = FRAMES[bone].axes
        assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
        assert FRAMES[bone].pixel(lateral)[1] > MAP_SIZE / 2
        assert FRAMES[bone].theta[0] > -np.pi
        assert FRAMES[bone].theta[-1] < np.pi
        middle = FRAMES[bone].directions[50, 60]
        assert FRAMES[bone].pixel(middle * 30) == pytest.approx([50, 60], abs=1e-9)


def test_pixel_areas_add_up_to_the_surface() -> None:
    """On a ball the map's areas are those of the zone between its two elevations."""
    radius = 20.0
    n = 120
    points = (np.stack(np.meshgrid(*(np.arange(n),) * 3, indexing="ij"), -1) - n / 2) * 0.5
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -n / 4
    ball = bone_surface(np.linalg.norm(points, axis=-1) < radius, affine)
    sampling = sample_sphere(ball, FRAME)
    zone = 2 * np.pi * radius**2 * (np.sin(np.pi / 8) + 1)
    assert sampling.area_mm2.sum() == pytest.approx(zone, rel=0.02)
    assert np.abs(sampling.rho_mm - radius).max() < 0.3
    assert not sampling.multi_hit.any()


def test_map_to_surface_to_map() -> None:
    """Values carried from the map to the surface and back, within 0.05 mm."""
    value = 2.0 + np.sin(SURFACE.vertices_mm[:, 0] / 8) * np.cos(SURFACE.vertices_mm[:, 2] / 9)
    sampling = sample_sphere(SURFACE, FRAME)
    on_map = map_values(sampling, SURFACE, value)
    relative = SURFACE.vertices_mm - SURFACE.centroid_mm
    visible = FRAME.shows(relative)
    visible &= ~hidden_vertices(SURFACE, FRAME, visible)
    on_surface = np.full(len(relative), np.nan)
    on_surface[visible] = read_map(on_map, FRAME, relative[visible])
    again = map_values(sampling, SURFACE, on_surface)
    both = np.isfinite(again) & ~sampling.multi_hit
    assert np.sqrt(np.mean((again - on_map)[both] ** 2)) < 0.05
    assert np.median(np.abs(again - on_map)[both]) < 0.01


def test_bone_shape_map_is_the_surface() -> None:
    """The map's own mesh, sampled again, gives the map back: shape is kept to 0.05 mm."""
    sampling = sample_sphere(SURFACE, FRAME)
    points = surface_points(sampling.rho_mm, FRAME, SURFACE.centroid_mm).reshape(-1, 3)
    faces = map_faces(sampling.rho_mm)
    mesh = BoneSurface(
        points, faces, np.zeros_like(points), np.zeros(len(points)), SURFACE.centroid_mm
    )
    again = sample_sphere(mesh, FRAME).rho_mm[1:-1]
    assert np.nanmax(np.abs(again - sampling.rho_mm[1:-1])) < 0.05
    assert np.isfinite(again).mean() > 0.999


def test_hidden_surface_is_counted() -> None:
    everything = np.ones(len(SURFACE.vertices_mm), dtype=bool)
    hidden = hidden_vertices(SURFACE, FRAME, everything)
    relative = SURFACE.vertices_mm - SURFACE.centroid_mm
    assert hidden[~FRAME.shows(relative)].all()
    rng = np.random.default_rng(5)
    chosen = rng.choice(np.flatnonzero(FRAME.shows(relative)), 300)
    distance = np.linalg.norm(relative[chosen], axis=1)
    # VTK drops rays that pass exactly through a vertex: look a hundredth of a degree past it.
    ray = relative[chosen] / distance[:, None] + rng.normal(scale=1e-4, size=(300, 3))
    farthest = vtk_hits(SURFACE, ray / np.linalg.norm(ray, axis=1, keepdims=True))[:, 1]
    assert (hidden[chosen] == (farthest - distance > 0.1)).mean() > 0.99
    assert hidden[chosen].any()


def test_uncovered_surface_is_missing_not_zero() -> None:
    sampling = sample_sphere(SURFACE, FRAME)
    value = np.where(SURFACE.vertices_mm[:, 0] > 0, 2.0, np.nan)
    on_map = map_values(sampling, SURFACE, value)
    finite = on_map[np.isfinite(on_map)]
    assert 0 < len(finite) < on_map.size
    assert finite == pytest.approx(2.0)


def test_bicubic_reading_is_exact_for_smooth_fields_and_wraps() -> None:
    phi, theta = np.meshgrid(FRAME.phi, FRAME.theta, indexing="ij")
    field = np.cos(phi) * np.cos(theta) + 0.5 * np.sin(phi)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=(2000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    local = direction @ FRAME.axes.T
    shown = FRAME.shows(direction) & (FRAME.pixel(direction)[:, 0] < MAP_SIZE - 2)
    read = read_map(field, FRAME, direction)
    assert np.abs(read - (local[:, 0] + 0.5 * local[:, 2]))[shown].max() < 1e-4
    assert np.isnan(read[~FRAME.shows(direction)]).all()
