"""Skeleton thickness against slabs, planted thickness and published figures."""

import nrrd
import numpy as np
import pytest

from imaging.labels import LabelVolume, Tissue, load_scheme
from imaging.morphometry import PAPER_PIXEL_MM, skeleton_thickness, tissue_volumes_mm3
from imaging.projection import cross_cartilage, cylinder_means
from imaging.surface import bone_surface
from imaging.volume import Volume, to_knee_frame
from tests.imaging.shells import DESS_SPACING_MM, shell_labels, true_thickness_mm


def slab(n: int) -> np.ndarray:
    mask = np.zeros((3, 80, 40), dtype=bool)
    mask[1, 10:70, 10 : 10 + n] = True
    return mask


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9])
def test_slab_reads_as_the_method_is_known_to_and_the_subvoxel_chord_is_unbiased(n: int) -> None:
    """Facts of the method: n + 1 pixels for odd n, n for even n (docs/decisions.md)."""
    found = skeleton_thickness(slab(n), np.diag([*DESS_SPACING_MM, 1.0]))
    middle = np.abs(found.points_mm[:, 1] - 40 * PAPER_PIXEL_MM) < 5
    assert np.median(found.skeleton_mm[middle]) / PAPER_PIXEL_MM == pytest.approx(
        n + 1 if n % 2 else n
    )
    assert np.median(found.chord_mm[middle]) / PAPER_PIXEL_MM == pytest.approx(n, abs=0.1)


def test_cartilage_that_resampling_leaves_nothing_of_has_no_thickness() -> None:
    mask = np.zeros((5, 20, 20), dtype=bool)
    mask[2, 10, 10] = True
    found = skeleton_thickness(mask, np.diag([0.7, 0.2, 0.2, 1.0]))
    assert found.points_mm.shape == (0, 3)
    assert found.skeleton_mm.size == found.chord_mm.size == 0


def test_planted_thickness_of_the_two_unbiased_methods_and_the_bias_of_the_papers() -> None:
    labels = shell_labels(lowest_y=0.2)
    surface = bone_surface(labels.bone("femur"), labels.affine)
    cartilage = labels.cartilage("femur")
    crossing = cross_cartilage(surface, cartilage, labels.affine)
    skeleton = skeleton_thickness(cartilage, labels.affine)
    truth = true_thickness_mm(
        surface.vertices_mm / np.linalg.norm(surface.vertices_mm, axis=1, keepdims=True)
    )
    tilt = surface.normals @ skeleton.slice_normal
    measured = {
        name: cylinder_means(surface, crossing, skeleton.points_mm, values).mean
        for name, values in (("paper", skeleton.skeleton_mm), ("chord", skeleton.chord_mm))
    }
    measured["chord"] *= np.sqrt(np.clip(1 - tilt**2, 0, 1))
    measured["normal"] = crossing.thickness_mm
    error = {name: (values - truth)[np.isfinite(values)] for name, values in measured.items()}
    for name in ("chord", "normal"):
        assert abs(error[name].mean()) < 0.10, name
        assert np.sqrt((error[name] ** 2).mean()) < 0.30, name
    # A ball shows every obliquity, so here the paper's method is at its worst.
    assert error["paper"].mean() > 0.3


def test_thickness_of_the_paper_does_not_follow_the_labels_grid() -> None:
    means = []
    for spacing in (DESS_SPACING_MM, (0.5, 0.5, 0.5)):
        labels = shell_labels(spacing_mm=spacing, lowest_y=0.5)
        means.append(
            skeleton_thickness(labels.cartilage("femur"), labels.affine).skeleton_mm.mean()
        )
    assert means[1] == pytest.approx(means[0], rel=0.03)


def test_no_cartilage_gives_no_skeleton() -> None:
    found = skeleton_thickness(np.zeros((4, 10, 10), dtype=bool), np.eye(4))
    assert len(found.skeleton_mm) == 0


def test_volumes_count_voxels() -> None:
    labels = shell_labels(10.0)
    volumes = tissue_volumes_mm3(labels)
    assert volumes[Tissue.FEMUR] == pytest.approx(
        (labels.array == 5).sum() * np.prod(DESS_SPACING_MM)
    )


def test_real_label_equals_the_independent_per_slice_figures(shared_data) -> None:
    """Skeleton + EDT of another implementation: 2.351, 2.262, 2.500 and 1.622 mm."""
    array, header = nrrd.read(str(shared_data / "knee" / "sag_3d_dess_right_label.nrrd"))
    affine = np.eye(4)
    affine[:3, :3] = np.array(header["space directions"]).T
    affine[:3, 3] = header["space origin"]
    volume = to_knee_frame(Volume(array, affine), "RIGHT")
    labels = LabelVolume(volume.array, volume.affine, load_scheme("mskt"))
    expected = {
        Tissue.FEMORAL_CARTILAGE: 2.351,
        Tissue.MEDIAL_TIBIAL_CARTILAGE: 2.262,
        Tissue.LATERAL_TIBIAL_CARTILAGE: 2.500,
        Tissue.PATELLAR_CARTILAGE: 1.622,
    }
    for tissue, thickness in expected.items():
        found = skeleton_thickness(labels.mask(tissue), labels.affine)
        assert found.skeleton_mm.mean() == pytest.approx(thickness, abs=0.002)
