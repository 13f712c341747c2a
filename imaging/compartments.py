"""The medial/lateral split of a bone's surface (docs/decisions.md, "Compartments")."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.labels import COMPARTMENTS, Bone, LabelVolume, Tissue
from imaging.surface import BoneSurface
from imaging.volume import index_to_world

_SMALL_PLATEAU = 0.1
"""A second piece of tibial cartilage smaller than this share of the first is no plateau."""


def split_x_mm(labels: LabelVolume, surface: BoneSurface, bone: Bone) -> float:
    """X of the sagittal plane that parts medial (larger x) from lateral, knee frame mm.

    Tibia: midway between the two plateaus' cartilage, as labelled or else as the two largest
    connected pieces. Femur, patella, and a tibia whose cartilage is one piece: through the
    centroid of the cropped bone.

    Args:
        labels: in the knee frame.
        surface: of the bone.
        bone: which bone.
    """
    if bone == "tibia":
        medial = labels.mask(Tissue.MEDIAL_TIBIAL_CARTILAGE)
        lateral = labels.mask(Tissue.LATERAL_TIBIAL_CARTILAGE)
        if not (medial.any() and lateral.any()):
            medial, lateral = _two_pieces(labels.cartilage("tibia"))
        if medial.any() and lateral.any():
            near_medial = np.percentile(_x_mm(medial, labels.affine), 5)
            near_lateral = np.percentile(_x_mm(lateral, labels.affine), 95)
            return float(near_medial + near_lateral) / 2.0
    return float(surface.centroid_mm[0])


def in_compartments(x_mm: NDArray[np.float64], split_mm: float) -> dict[str, NDArray[np.bool_]]:
    """Membership of points in whole, medial and lateral by their x in the knee frame."""
    medial = x_mm > split_mm
    members = (np.ones(len(x_mm), dtype=bool), medial, ~medial)
    return dict(zip(COMPARTMENTS, members, strict=True))


def medial_pixels(
    bone: Bone,
    points_mm: NDArray[np.floating],
    coverage: NDArray[np.bool_],
    centroid_x_mm: float,
) -> NDArray[np.bool_]:
    """Which pixels of a spherical map lie medial, by the rule of `split_x_mm`.

    A map keeps no labels, so the tibia's plateaus are the two largest pieces of its coverage.

    Args:
        bone: which bone.
        points_mm: surface point of each pixel in the knee frame, NaN where there is none, shape
            (n_phi, n_theta, 3); see `imaging.sphere.surface_points`.
        coverage: where cartilage covers it, shape (n_phi, n_theta).
        centroid_x_mm: x of the map's centre in the knee frame.

    Returns:
        Shape (n_phi, n_theta); False where there is no surface.
    """
    x_mm = np.asarray(points_mm)[..., 0]
    split = centroid_x_mm
    if bone == "tibia":
        medial, lateral = _two_pieces_of_map(coverage & np.isfinite(x_mm), x_mm)
        if medial.any() and lateral.any():
            near_medial = np.percentile(x_mm[medial], 5)
            near_lateral = np.percentile(x_mm[lateral], 95)
            split = float(near_medial + near_lateral) / 2.0
    return np.nan_to_num(x_mm, nan=-np.inf) > split


def _two_pieces_of_map(
    coverage: NDArray[np.bool_], x_mm: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The two largest pieces on a map that closes in theta, that with larger x first."""
    nothing = np.zeros_like(coverage)
    pieces, count = ndimage.label(coverage)
    same = np.arange(count + 1)
    for left, right in zip(pieces[:, 0], pieces[:, -1], strict=True):
        if left and right:
            # What meets across the seam is one piece.
            low, high = sorted((same[left], same[right]))
            same[same == high] = low
    pieces = same[pieces]
    size = np.bincount(pieces.ravel())
    size[0] = 0
    if np.count_nonzero(size) < 2:
        return nothing, nothing
    first, second = np.argsort(-size, kind="stable")[:2]
    if size[second] < _SMALL_PLATEAU * size[first]:
        return nothing, nothing
    one, other = pieces == first, pieces == second
    if x_mm[one].mean() > x_mm[other].mean():
        return one, other
    return other, one


def _x_mm(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return index_to_world(affine, np.argwhere(mask))[:, 0]


def _two_pieces(
    cartilage: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The two largest pieces, the one with larger x (later slices) first; empty if there is one."""
    nothing = np.zeros_like(cartilage)
    pieces, count = ndimage.label(cartilage)
    if count < 2:
        return nothing, nothing
    size = np.bincount(pieces.ravel())[1:]
    first, second = np.argsort(-size, kind="stable")[:2] + 1
    if size[second - 1] < _SMALL_PLATEAU * size[first - 1]:
        return nothing, nothing
    one, other = pieces == first, pieces == second
    if np.argwhere(one)[:, 0].mean() > np.argwhere(other)[:, 0].mean():
        return one, other
    return other, one
