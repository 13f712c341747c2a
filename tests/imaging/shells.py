"""Analytic knees for the geometry tests: a spherical bone under cartilage of known thickness."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imaging.labels import LabelVolume, Scheme, Tissue

DESS_SPACING_MM = (0.7, 140 / 384, 140 / 384)
SCHEME = Scheme("shell", {1: Tissue.FEMORAL_CARTILAGE, 5: Tissue.FEMUR})


def true_thickness_mm(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth field between 1.2 and 3.4 mm."""
    return (
        2.3
        + 0.7 * np.sin(3 * direction[..., 0] + 1) * np.cos(2 * direction[..., 1])
        + 0.4 * direction[..., 2]
    )


def shell_affine(
    radius_mm: float, spacing_mm: tuple[float, float, float], tilt_rad: float = 0.05
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """A slightly oblique sagittal grid in the knee frame, centred off a voxel."""
    shape = tuple(int(2 * (radius_mm + 6) / step) for step in spacing_mm)
    axes = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", [tilt_rad, tilt_rad, -tilt_rad]).as_matrix() @ axes
    affine[:3, :3] = turned * np.array(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + 0.13
    return affine, (shape[0], shape[1], shape[2])


def shell_labels(
    radius_mm: float = 20.0,
    spacing_mm: tuple[float, float, float] = DESS_SPACING_MM,
    lowest_y: float = -2.0,
) -> LabelVolume:
    """Bone ball, cartilage shell where the direction's y exceeds `lowest_y`."""
    affine, shape = shell_affine(radius_mm, spacing_mm)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(points, axis=-1)
    direction = points / np.maximum(distance, 1e-9)[..., None]
    shell = (distance > radius_mm) & (distance <= radius_mm + true_thickness_mm(direction))
    labels = np.where(distance <= radius_mm, 5, 0) + (shell & (direction[..., 1] > lowest_y))
    return LabelVolume(labels.astype(np.uint8), affine, SCHEME)
