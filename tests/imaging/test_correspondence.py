"""Correspondence against known ones: a planted bending, and bones of a published shape model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvista as pv
from scipy.spatial import cKDTree, procrustes

from imaging.correspondence import DEFAULT_OPTIONS, correspond, prepare_source
from imaging.errors import BadInputError, Reason
from imaging.surface import bone_surface
from imaging.surface_features import curvatures, flat_end
from imaging.triangles import Surface, sample, vertex_normals

BONES = ("Femur", "Tibia", "Patella")
PAIRS = (("S001", "S002"), ("S002", "S010"), ("S010", "S001"))


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


def as_mesh(surface: Surface) -> pv.PolyData:
    faces = np.c_[np.full(len(surface.faces), 3), surface.faces]
    return pv.PolyData(surface.vertices_mm, faces.ravel())


def as_surface(mesh: pv.PolyData) -> Surface:
    return Surface(
        np.asarray(mesh.points, dtype=float), mesh.faces.reshape(-1, 4)[:, 1:].astype(np.int64)
    )


def decimated(surface: Surface, share: float) -> Surface:
    """The same surface with other, uneven triangles: vertex order says nothing any more."""
    return as_surface(as_mesh(surface).decimate(share))


def uniform(surface: Surface) -> Surface:
    """The same surface with even triangles, by way of voxels: no vertex is where one was."""
    spacing = 0.8 if len(surface.vertices_mm) > 2000 else 0.5
    image = as_mesh(surface).voxelize_binary_mask(spacing=(spacing,) * 3)
    mask = image.point_data["mask"].reshape(image.dimensions, order="F") > 0
    affine = np.diag([*image.spacing, 1.0])
    affine[:3, 3] = image.origin
    found = bone_surface(mask, affine)
    return Surface(found.vertices_mm, found.faces)


def cut(surface: Surface, height: float, up: float = 1.0) -> Surface:
    """Cut off at a height along z and closed by a flat face."""
    mesh = as_mesh(surface).clip_closed_surface(normal=(0, 0, -up), origin=(0, 0, height))
    return as_surface(mesh.triangulate().clean())


def mirrored(surface: Surface) -> Surface:
    return Surface(surface.vertices_mm * [-1.0, 1.0, 1.0], surface.faces[:, ::-1])


def shape_model_bone(folder: Path, subject: str, bone: str) -> Surface:
    return as_surface(pv.read(folder / "ssm" / f"{subject}_{bone}.ply"))


def decimated_by_0_6(surface: Surface) -> Surface:
    return decimated(surface, 0.6)


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


@pytest.mark.parametrize("tessellated", [decimated_by_0_6, uniform])
@pytest.mark.parametrize("bone", BONES)
def test_landmarks_of_the_shape_model(
    shared_data: Path, bone: str, tessellated: Callable[[Surface], Surface]
) -> None:
    errors = []
    for one, other in PAIRS:
        source = shape_model_bone(shared_data, one, bone)
        true = shape_model_bone(shared_data, other, bone)
        found = correspond(Surface(turned(source.vertices_mm), source.faces), tessellated(true))
        errors.append(mean_error_mm(found.points_mm, true.vertices_mm))
        assert found.quality.flipped_share < 0.005
    assert np.mean(errors) < 1.7


@pytest.mark.parametrize(("bone", "up", "left_mm"), [("Femur", 1.0, 70.0), ("Tibia", -1.0, 65.0)])
def test_a_shaft_cut_elsewhere_does_not_pull(
    shared_data: Path, bone: str, up: float, left_mm: float
) -> None:
    """Whole shafts are 92 to 101 mm long."""
    errors: dict[str, list[float]] = {"target": [], "source": []}
    for one, other in PAIRS:
        source = shape_model_bone(shared_data, one, bone)
        true = shape_model_bone(shared_data, other, bone)
        for which, whole in (("target", true), ("source", source)):
            height = up * ((up * whole.vertices_mm[:, 2]).min() + left_mm)
            shorter = cut(whole, height, up)
            rows = np.flatnonzero(up * (height - whole.vertices_mm[:, 2]) > 6.0)
            if which == "target":
                found = correspond(source, shorter)
                kept = rows
                beyond = up * (true.vertices_mm[:, 2] - height) > 6.0
                assert found.on_border[beyond].mean() > 0.8
            else:
                found = correspond(shorter, decimated_by_0_6(true))
                kept = cKDTree(shorter.vertices_mm).query(whole.vertices_mm[rows])[1]
            assert found.on_border[kept].mean() < 0.02
            errors[which].append(mean_error_mm(found.points_mm[kept], true.vertices_mm[rows]))
    assert np.mean(errors["target"]) < 1.7
    assert np.mean(errors["source"]) < 1.7


@pytest.mark.parametrize("bone", BONES)
def test_the_other_side_is_refused(shared_data: Path, bone: str) -> None:
    for one, other in PAIRS:
        source = shape_model_bone(shared_data, one, bone)
        with pytest.raises(BadInputError, match="mirror image"):
            correspond(source, mirrored(shape_model_bone(shared_data, other, bone)))


def test_half_a_bone_is_refused(shared_data: Path) -> None:
    source = shape_model_bone(shared_data, "S001", "Femur")
    whole = as_mesh(shape_model_bone(shared_data, "S002", "Femur"))
    for normal in ((1, 0, 0), (-1, 0, 0), (0, 1, 0)):
        half = whole.clip_closed_surface(normal=normal, origin=whole.center)
        with pytest.raises(BadInputError, match="could not be matched"):
            correspond(source, as_surface(half.triangulate().clean()))


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


def test_a_prepared_source_gives_the_same_bytes(body: Surface) -> None:
    target = Surface(bend(body.vertices_mm), body.faces)
    prepared = prepare_source(body)
    # Another target first: nothing of it is left behind.
    correspond(prepared, body)
    found = correspond(prepared, target)
    assert found.points_mm.tobytes() == correspond(body, target).points_mm.tobytes()
    with pytest.raises(ValueError, match="prepared"):
        correspond(prepared, target, replace(DEFAULT_OPTIONS, max_energy=2.0))


def test_curvatures_of_a_ball_and_a_cylinder() -> None:
    sphere = Surface(25.0 * ball(5).vertices_mm, ball(5).faces)
    found = curvatures(sample(sphere, 20000), 5.0)
    assert np.abs(found - 5.0 / 25.0).mean() < 0.02
    tube = as_surface(pv.Cylinder(radius=20.0, height=90.0, resolution=200).triangulate())
    tube = as_surface(as_mesh(tube).subdivide(2, "linear"))
    samples = sample(tube, 20000)
    found = curvatures(samples, 5.0)[np.abs(samples.points[:, 0]) < 35.0]
    assert np.abs(np.median(found, axis=0) - [5.0 / 20.0, 0.0]).max() < 0.02


@pytest.mark.parametrize("tilt_deg", [0.0, 20.0])
def test_a_cut_is_found_and_a_rounded_end_is_none(body: Surface, tilt_deg: float) -> None:
    assert flat_end(body, sample(body, 20000)) is None
    long = Surface(body.vertices_mm * [1.0, 1.0, 3.0], body.faces)
    tilt = np.radians(tilt_deg)
    normal = np.array([np.sin(tilt), 0.0, np.cos(tilt)])
    mesh = as_mesh(long).clip_closed_surface(normal=-normal, origin=45.0 * normal)
    shorter = as_surface(mesh.triangulate().clean())
    end = flat_end(shorter, sample(shorter, 20000))
    assert end is not None
    assert end.direction @ normal > np.cos(np.radians(2.0))
    assert end.height == pytest.approx(45.0, abs=0.2)
