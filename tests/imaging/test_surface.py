"""Surfaces against closed forms."""

import numpy as np
import pytest

from imaging.surface import bone_surface, crop_shaft
from tests.imaging.shells import DESS_SPACING_MM, shell_labels


def test_sphere_has_its_area_volume_centroid_and_outward_normals() -> None:
    radius = 20.0
    labels = shell_labels(radius)
    surface = bone_surface(labels.bone("femur"), labels.affine)
    a, b, c = (surface.vertices_mm[surface.faces[:, corner]] for corner in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.005)
    assert surface.vertex_area_mm2.sum() == pytest.approx(4 * np.pi * radius**2, rel=0.02)
    assert np.abs(surface.centroid_mm).max() < 0.05
    outward = surface.vertices_mm / np.linalg.norm(surface.vertices_mm, axis=1, keepdims=True)
    cosine = np.einsum("ij,ij->i", surface.normals, outward)
    assert np.degrees(np.arccos(np.percentile(cosine, 5))) < 8


def test_a_bone_that_touches_the_border_is_closed() -> None:
    mask = np.zeros((20, 30, 30), dtype=bool)
    mask[5:15, 0:20, 5:25] = True
    surface = bone_surface(mask, np.diag([*DESS_SPACING_MM, 1.0]))
    edges = np.sort(surface.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all()


def test_shaft_is_cut_at_the_mediolateral_length() -> None:
    mask = np.zeros((40, 150, 30), dtype=bool)
    mask[5:35, :, 5:25] = True
    affine = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 75], [0, 0, 0, 1]])
    femur = crop_shaft(mask, affine, "femur")
    tibia = crop_shaft(mask, affine, "tibia")
    # 30 voxels wide, rows run from superior to inferior: the femur keeps its lowest 30 mm.
    assert np.flatnonzero(femur.any(axis=(0, 2))).tolist() == list(range(119, 150))
    assert np.flatnonzero(tibia.any(axis=(0, 2))).tolist() == list(range(31))
    assert crop_shaft(mask, affine, "patella") is mask
