"""From the classes of two ensembles to one label volume.

Bones: holes and cracks closed in 3-D, then the largest component of each (Caliva 2019,
arXiv:1908.03679). Cartilages and menisci: specks removed; of a cartilage or meniscus several parts
are normal. Where both ensembles claim a voxel, cartilage and meniscus win.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.labels import LabelVolume, Scheme, Tissue, load_scheme
from imaging.surface import bounding_box, largest_component
from models.vnet import TASKS

SCHEME = "kneelake"
"""The scheme in which every network's answer is stored; it has a value for each tissue."""


@dataclass(frozen=True)
class Postprocessing:
    """What is done to the networks' classes.

    Attributes:
        closing_mm: radius of the ball that closes bones; 0 leaves them.
        smallest_part_mm3: parts of a cartilage or meniscus smaller than this are dropped.
    """

    closing_mm: float = 2.0
    smallest_part_mm3: float = 20.0


def stored_scheme() -> Scheme:
    """The scheme of stored answers."""
    return load_scheme(SCHEME)


def closed(
    mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64], radius_mm: float
) -> NDArray[np.bool_]:
    """Closing with a ball: what no ball of this radius outside the mask can reach is filled."""
    if radius_mm <= 0.0 or not mask.any():
        return mask
    pad = np.ceil(radius_mm / spacing_mm).astype(int) + 1
    box = bounding_box(mask)
    inner = np.pad(mask[box], [(int(size), int(size)) for size in pad])
    grown = ndimage.distance_transform_edt(~inner, sampling=spacing_mm) <= radius_mm
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    result = mask.copy()
    kept = tuple(slice(int(size), -int(size)) for size in pad)
    result[box] |= shrunk[kept]
    return result


def without_specks(
    mask: NDArray[np.bool_], voxel_mm3: float, smallest_mm3: float
) -> NDArray[np.bool_]:
    """The face-connected components of at least a volume."""
    labelled, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes_mm3 = np.bincount(labelled.ravel()) * voxel_mm3
    keep = sizes_mm3 >= smallest_mm3
    keep[0] = False
    return keep[labelled]


def label_volume(
    bone: NDArray[np.uint8] | None,
    cartilage: NDArray[np.uint8] | None,
    affine: NDArray[np.float64],
    options: Postprocessing = Postprocessing(),
) -> LabelVolume:
    """Labels in scheme `kneelake` from the classes of the two tasks.

    Args:
        bone: classes of task 'bone', or None.
        cartilage: classes of task 'cartilage' on the same grid, or None.
        affine: index -> mm.
        options: closing and specks.

    Raises:
        ValueError: neither is given, or their grids differ.
    """
    given = [one for one in (bone, cartilage) if one is not None]
    if not given or any(one.shape != given[0].shape for one in given):
        raise ValueError("give the classes of bone, cartilage or both, on one grid")
    scheme = stored_scheme()
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    labels = np.zeros(given[0].shape, np.uint8)
    if bone is not None:
        for number, tissue in enumerate(TASKS["bone"].tissues, 1):
            mask = bone == number
            filled = closed(mask, spacing_mm, options.closing_mm) & (mask | (bone == 0))
            if filled.any():
                labels[largest_component(filled)] = _value(scheme, tissue)
    if cartilage is not None:
        voxel_mm3 = float(np.prod(spacing_mm))
        for number, tissue in enumerate(TASKS["cartilage"].tissues, 1):
            kept = without_specks(cartilage == number, voxel_mm3, options.smallest_part_mm3)
            labels[kept] = _value(scheme, tissue)
    return LabelVolume(labels, affine, scheme)


def in_stored_scheme(labels: LabelVolume) -> LabelVolume:
    """The same tissues with the values of scheme `kneelake`."""
    scheme = stored_scheme()
    stored = np.zeros(labels.array.shape, np.uint8)
    for tissue in Tissue:
        mask = labels.mask(tissue)
        if mask.any():
            stored[mask] = _value(scheme, tissue)
    return LabelVolume(stored, labels.affine, scheme)


def _value(scheme: Scheme, tissue: Tissue) -> int:
    return scheme.values([tissue])[0]
