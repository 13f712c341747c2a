"""Correspondence against known ones: a planted bending, and bones of a published shape model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvista as pv
from scipy.spatial import procrustes

from imaging.correspondence import (
    DEFAULT_OPTIONS,
    Surface,
    correspond,
    vertex_normals,
)
from imaging.errors import BadInputError, Reason


def ball(level: int = 4) -> Surface:
    sphere = pv.Icosphere(nsub=level, radius=1.0)
    return Surface(
        np.asarray(sphere.points, dtype=float), sphere.faces.reshape(-1, 4)[:, 1:].astype(np.int64)
    )


def bone_like(points: np.ndarray) -> np.ndarray:
    """A body without symmetry, some 70 mm long, from points of the unit sphere."""
    x, y, z = points.T
    bumps = 1 + 0.25 * np.exp(-8 * ((x - 0.8) ** 2 + (y - 0.5) ** 2 + z**2))
    bumps += 0.35 * np.exp(-8 * ((x + 0.7) ** 2 + (y - 0.6) ** 2 + (z - 0.2) ** 2))
    bumps += 0.3 * np.exp(-6 * (x**2 + (y + 0.8) ** 2 + (z - 0.5) ** 2))
    return points * bumps[:, None] * np.array([36.0, 28.0, 24.0])


def bend(points: np.ndarray) -> np.ndarray:
    """Wider, flatter, sheared and bulging by 4 mm on one side: what tells bones apart."""
    middle = np.array([10.0, -20.0, 5.0])
    bulge = 4.0 * np.exp(-((points - middle) ** 2).sum(axis=1) / (2 * 15.0**2))
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    sheared = points @ np.array([[1.12, 0.05, 0.0], [0.0, 0.92, 0.08], [0.0, 0.0, 1.03]])
    return sheared + bulge[:, None] * outward


def turned(points: np.ndarray, degrees: float = 15.0) -> np.ndarray:
    angle = np.radians(degrees)
    around_z = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    return points @ around_z.T + np.array([12.0, -14.0, 8.0])


def decimated(surface: Surface, share: float) -> Surface:
    """The same surface with other, uneven triangles: vertex order says nothing any more."""
    faces = np.c_[np.full(len(surface.faces), 3), surface.faces]
    mesh = pv.PolyData(surface.vertices_mm, faces.ravel()).decimate(share)
    return Surface(
        np.asarray(mesh.points, dtype=float), mesh.faces.reshape(-1, 4)[:, 1:].astype(np.int64)
    )


def shape_model_bone(folder: Path, subject: str, bone: str) -> Surface:
    mesh = pv.read(folder / "ssm" / f"{subject}_{bone}.ply")
    return Surface(
        np.asarray(mesh.points, dtype=float), mesh.faces.reshape(-1, 4)[:, 1:].astype(np.int64)
    )


def mean_error_mm(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true, axis=1).mean())


@pytest.fixture(scope="module")
def body() -> Surface:
    return Surface(bone_like(ball().vertices_mm), ball().faces)


def test_planted_bending_is_found(body: Surface) -> None:
    true = bend(body.vertices_mm)
    target = decimated(Surface(true, body.faces), 0.5)
    found = correspond(Surface(turned(body.vertices_mm), body.faces), target)
    # What no turning, moving and scaling can do better than.
    _, unbent, _ = procrustes(true, body.vertices_mm)
    spread = np.linalg.norm(true - true.mean(axis=0))
    best_similarity = mean_error_mm(unbent * spread, true - true.mean(axis=0))
    assert mean_error_mm(found.points_mm, true) < min(1.6, best_similarity)
    assert not found.on_border.any()
    assert found.quality.flipped_share == 0.0
    assert found.quality.rotation_deg == pytest.approx(15.0, abs=4.0)


def test_answer_does_not_hang_on_the_triangles(body: Surface) -> None:
    true = Surface(bend(body.vertices_mm), body.faces)
    source = Surface(turned(body.vertices_mm), body.faces)
    fine = correspond(source, true).points_mm
    uneven = correspond(source, decimated(true, 0.7)).points_mm
    assert mean_error_mm(fine, uneven) < 0.5


def test_a_surface_lies_on_itself(body: Surface) -> None:
    found = correspond(body, body)
    assert mean_error_mm(found.points_mm, body.vertices_mm) < 0.4
    assert found.quality.distance_mm < 0.05


def test_same_surfaces_give_the_same_bytes(body: Surface) -> None:
    target = Surface(bend(body.vertices_mm), body.faces)
    first, second = (correspond(body, target) for _ in range(2))
    assert first.points_mm.tobytes() == second.points_mm.tobytes()


def test_points_past_the_border_are_marked(body: Surface) -> None:
    true = bend(body.vertices_mm)
    kept = true[:, 0] > -28.0
    target = Surface(true, body.faces[kept[body.faces].all(axis=1)])
    found = correspond(body, target)
    far_out, well_in = true[:, 0] < -33.0, true[:, 0] > -20.0
    assert found.on_border[far_out].mean() > 0.95
    assert not found.on_border[well_in].any()
    assert mean_error_mm(found.points_mm[well_in], true[well_in]) < 1.5


def test_points_lie_on_the_target(body: Surface) -> None:
    target = decimated(Surface(bend(body.vertices_mm), body.faces), 0.6)
    found = correspond(body, target)
    mesh = pv.PolyData(
        target.vertices_mm, np.c_[np.full(len(target.faces), 3), target.faces].ravel()
    )
    _, closest = mesh.find_closest_cell(found.points_mm, return_closest_point=True)
    assert np.abs(closest - found.points_mm).max() < 1e-6


def test_normals_of_a_sphere_point_outward() -> None:
    sphere = ball(3)
    assert np.abs(vertex_normals(sphere) - sphere.vertices_mm).max() < 0.02


@pytest.mark.parametrize("bone", ["Femur", "Tibia", "Patella"])
def test_landmarks_of_the_shape_model(shared_data: Path, bone: str) -> None:
    errors = []
    for one, other in (("S001", "S002"), ("S002", "S010"), ("S010", "S001")):
        source = shape_model_bone(shared_data, one, bone)
        true = shape_model_bone(shared_data, other, bone)
        found = correspond(Surface(turned(source.vertices_mm), source.faces), decimated(true, 0.6))
        errors.append(mean_error_mm(found.points_mm, true.vertices_mm))
        assert found.quality.flipped_share < 0.005
    assert np.mean(errors) < 1.7


@pytest.mark.parametrize(
    ("source", "target"), [("Tibia", "Femur"), ("Femur", "Tibia"), ("Patella", "Tibia")]
)
def test_another_bone_is_refused(shared_data: Path, source: str, target: str) -> None:
    with pytest.raises(BadInputError) as refused:
        correspond(
            shape_model_bone(shared_data, "S001", source),
            shape_model_bone(shared_data, "S002", target),
            name="1000001_RIGHT_V00",
        )
    assert refused.value.reason == Reason.BAD_SURFACE
    assert "1000001_RIGHT_V00" in str(refused.value)


def test_an_empty_surface_is_refused(body: Surface) -> None:
    with pytest.raises(BadInputError, match="empty"):
        correspond(body, Surface(body.vertices_mm, body.faces[:0]))


def test_limits_are_the_users(body: Surface) -> None:
    target = Surface(bend(body.vertices_mm), body.faces)
    with pytest.raises(BadInputError, match="bending"):
        correspond(body, target, replace(DEFAULT_OPTIONS, max_energy=1e-6))
