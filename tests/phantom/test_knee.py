"""The truth of a knee: reproducible, life-sized, consistent with itself."""

import numpy as np
import pytest
from skimage.measure import marching_cubes

from imaging.labels import BONES, Tissue
from imaging.volume import MIRROR_X
from phantom.implicit import field_at
from phantom.knee import JOINT_GAP_MM, knee_truth
from phantom.raster import DEMO, label_volume, labels_of, place_grid, rasterise


def surface(knee, bone, step_mm=1.0):
    """Vertices (LPS) and faces of a bone from its analytic field."""
    truth = knee.bones[bone]
    axes = [np.arange(low, high, step_mm) for low, high in ((-45, 45), (-60, 35), (-52, 60))]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    field = field_at(truth.anatomy.solid, points.reshape(-1, 3))[:, 0].reshape(points.shape[:3])
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(step_mm,) * 3)
    vertices = vertices + [axis[0] for axis in axes]
    vertices = vertices @ truth.to_patient[:3, :3].T + truth.to_patient[:3, 3]
    return knee.surface_points_mm(bone, vertices), faces


def signed_volume_ml(vertices, faces):
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6000.0


def test_same_arguments_same_truth(knee, coarse):
    again = knee_truth(7, 1000038, "RIGHT", "V00", severity=0.5)
    raster = rasterise(again, coarse.affine, coarse.code.shape, with_t2=True)
    assert raster.code.tobytes() == coarse.code.tobytes()
    assert raster.t2_ms.tobytes() == coarse.t2_ms.tobytes()
    other = knee_truth(8, 1000038, "RIGHT", "V00", severity=0.5)
    assert not np.array_equal(other.knee_to_patient, again.knee_to_patient)


def test_volumes_are_those_of_knees():
    """Range: the real label's volumes, and a fifth of human variation about them."""
    real_ml = {
        Tissue.FEMUR: (143.0, 0.25),
        Tissue.TIBIA: (102.0, 0.25),
        Tissue.PATELLA: (13.4, 0.45),
        Tissue.FEMORAL_CARTILAGE: (11.9, 0.3),
        Tissue.MEDIAL_TIBIAL_CARTILAGE: (1.9, 0.4),
        Tissue.LATERAL_TIBIAL_CARTILAGE: (1.9, 0.4),
        Tissue.FIBULA: (10.4, 0.25),
        Tissue.MEDIAL_MENISCUS: (2.35, 0.35),
        Tissue.LATERAL_MENISCUS: (2.14, 0.35),
    }
    for subject in (1000001, 1000038, 1000075):
        truth = knee_truth(7, subject, "RIGHT", "V00")
        labels = label_volume(truth, place_grid(truth, DEMO), DEMO.shape)
        voxel_ml = np.prod(DEMO.spacing_mm) / 1000.0
        for tissue, (wanted, tolerance) in real_ml.items():
            volume = labels.mask(tissue).sum() * voxel_ml
            assert volume == pytest.approx(wanted, rel=tolerance), (subject, tissue)
        assert 1.0 < labels.cartilage("patella").sum() * voxel_ml < 3.5


def test_mean_thickness_is_that_of_knees(knee):
    for bone, low, high in (("femur", 1.9, 2.5), ("tibia", 2.0, 2.8), ("patella", 1.9, 2.7)):
        thickness = knee.thickness_mm(bone, surface(knee, bone)[0])
        assert low < thickness[thickness > 0.5].mean() < high


@pytest.mark.parametrize("bone", BONES)
def test_cartilage_volume_is_the_integral_of_thickness(knee, bone):
    """Voxels counted against the volume between the surface and the surface moved by thickness."""
    vertices, faces = surface(knee, bone)
    outer = vertices + knee.thickness_mm(bone, vertices)[:, None] * knee.normal(bone, vertices)
    wanted = abs(signed_volume_ml(outer, faces) - signed_volume_ml(vertices, faces))
    labels = label_volume(knee, place_grid(knee, DEMO), DEMO.shape)
    found = labels.cartilage(bone).sum() * np.prod(DEMO.spacing_mm) / 1000.0
    assert found == pytest.approx(wanted, rel=0.02)


def test_surface_points_lie_on_the_surface(knee):
    for bone in BONES:
        vertices, _ = surface(knee, bone, 2.0)
        truth = knee.bones[bone]
        near = vertices + 0.3
        points = knee.surface_points_mm(bone, near)
        field = field_at(truth.anatomy.solid, truth.to_bone(points))[:, 0]
        np.testing.assert_allclose(field, 0.0, atol=1e-5)
        apart = near - points
        distance = knee.bone_distance_mm(bone, near)
        np.testing.assert_allclose(np.linalg.norm(apart, axis=1), np.abs(distance), atol=1e-6)


def test_t2_is_layered(knee):
    vertices, _ = surface(knee, "femur", 2.0)
    deep, middle, top = (knee.t2_ms("femur", vertices, depth) for depth in (0.25, 0.5, 0.75))
    covered = knee.thickness_mm("femur", vertices) > 0.5
    assert np.isfinite(deep[covered]).all()
    np.testing.assert_allclose((top - deep)[covered], knee.traits.t2_step_ms)
    np.testing.assert_allclose(0.5 * (top + deep)[covered], middle[covered])
    assert 30.0 < np.median(deep[covered]) < 40.0
    bare = knee.thickness_mm("femur", vertices) == 0.0
    assert np.isnan(deep[bare]).all()
    inside = vertices[covered] + 0.25 * (
        knee.thickness_mm("femur", vertices[covered])[:, None]
        * knee.normal("femur", vertices[covered])
    )
    np.testing.assert_allclose(knee.t2_ms("femur", inside), deep[covered], atol=0.02)


def test_joint_is_closed_to_the_gap(knee):
    """Opposing cartilages come near, and nowhere nearer than a hair's breadth of the gap."""
    for bone in ("tibia", "patella"):
        vertices, _ = surface(knee, bone)
        outer = vertices + knee.thickness_mm(bone, vertices)[:, None] * knee.normal(bone, vertices)
        gap = knee.bone_distance_mm("femur", outer) - knee.thickness_mm("femur", outer)
        near = np.linalg.norm(outer - knee.surface_points_mm("femur", outer), axis=1) < 12.0
        assert 0.3 * JOINT_GAP_MM < gap[near].min() < 2.0 * JOINT_GAP_MM


def test_left_knee_is_the_mirror_image(knee, coarse):
    left = knee_truth(7, 1000038, "LEFT", "V00", severity=0.5)
    mirrored = rasterise(left, MIRROR_X @ coarse.affine, coarse.code.shape, with_t2=True)
    np.testing.assert_array_equal(mirrored.code, coarse.code)
    np.testing.assert_allclose(mirrored.t2_ms, coarse.t2_ms, rtol=1e-5)
    vertices, _ = surface(knee, "tibia", 3.0)
    flip = np.array([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        left.thickness_mm("tibia", vertices * flip), knee.thickness_mm("tibia", vertices), atol=1e-6
    )
    np.testing.assert_allclose(
        left.normal("tibia", vertices * flip), knee.normal("tibia", vertices) * flip, atol=1e-6
    )
    assert np.linalg.det(left.knee_to_patient[:3, :3]) == pytest.approx(-1.0)
    np.testing.assert_allclose(left.msme_offset_mm, knee.msme_offset_mm * flip)


def test_right_knee_lies_right_with_its_medial_side_towards_the_body(knee, coarse):
    labels = labels_of(coarse)

    def centroid(tissue):
        return np.argwhere(labels.mask(tissue)).mean(axis=0) @ coarse.affine[:3, :3].T

    assert knee.knee_to_patient[0, 3] < -60.0
    medial, lateral = map(centroid, (Tissue.MEDIAL_MENISCUS, Tissue.LATERAL_MENISCUS))
    assert medial[0] > lateral[0] + 30.0
    assert centroid(Tissue.FIBULA)[0] < lateral[0]
    assert centroid(Tissue.PATELLA)[1] < centroid(Tissue.FEMUR)[1] - 20.0
    assert centroid(Tissue.FEMUR)[2] > centroid(Tissue.TIBIA)[2] + 40.0


def test_follow_up_thins_cartilage_on_the_same_bone(knee):
    later = knee_truth(7, 1000038, "RIGHT", "V06", severity=0.5)
    vertices, _ = surface(knee, "femur", 2.0)
    moved = later.knee_to_patient @ np.linalg.inv(knee.knee_to_patient)
    there = vertices @ moved[:3, :3].T + moved[:3, 3]
    np.testing.assert_allclose(later.bone_distance_mm("femur", there), 0.0, atol=0.5)
    before, after = knee.thickness_mm("femur", vertices), later.thickness_mm("femur", there)
    covered = before > 1.0
    loss = 1.0 - after[covered] / before[covered]
    assert loss.min() > 0.9 * 4.0 * knee.traits.thinning_per_year
    assert 0.0 < loss.mean() < 0.15
    assert later.severity > knee.severity


def test_severity_thins_the_medial_side_only():
    healthy, ill = (knee_truth(7, 1000038, "RIGHT", "V00", severity=value) for value in (0.0, 1.0))
    for bone in ("femur", "tibia"):
        vertices, _ = surface(healthy, bone, 2.0)
        # The joint closes further over thinner cartilage, so the same point of the bone moves.
        moved = ill.bones[bone].to_patient @ np.linalg.inv(healthy.bones[bone].to_patient)
        there = vertices @ moved[:3, :3].T + moved[:3, 3]
        loss = healthy.thickness_mm(bone, vertices) - ill.thickness_mm(bone, there)
        medial = healthy.is_medial(vertices)
        assert loss[medial].max() > 1.2
        assert np.abs(loss[~medial]).max() < 0.1
        risen = ill.t2_ms(bone, there, 0.5) - healthy.t2_ms(bone, vertices, 0.5)
        assert np.nanmax(risen[medial]) > 8.0
