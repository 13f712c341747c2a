"""The bones that drawn maps vary about: one average knee, seen through the maps' own sampling.

The average knee is the phantom's, without lesion, rasterised once, triangulated and sampled as any
measured knee is (`imaging.surface`, `imaging.sphere`). So a drawn map has the geometry of a
measured one: the same axes, the same pixels on the cartilage, the same area behind each pixel.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.compartments import split_x_mm
from imaging.labels import BONES, Bone, LabelVolume, Tissue
from imaging.morphometry import tissue_volumes_mm3
from imaging.sphere import FRAMES, SphereFrame, sample_sphere
from imaging.surface import bone_surface, crop_shaft, largest_component
from imaging.volume import to_knee_frame
from phantom.fields import smooth_values
from phantom.implicit import field_at
from phantom.knee import KneeTruth, knee_truth
from phantom.raster import DEMO, label_volume, place_grid

FloatArray = NDArray[np.float64]

_SEED, _SUBJECT = 0, 1_000_001


@dataclass(frozen=True, eq=False)
class ReferenceBone:
    """One bone of the average knee on the map grid, arrays of shape (224 phi, 224 theta).

    Attributes:
        bone: the bone.
        frame: axes of its map.
        size: length factor of the knee it was sampled from (`phantom.anatomy.SubjectTraits`).
        centroid_mm: where the rays start, knee frame, shape (3,).
        rho_mm: distance from the centroid to the surface.
        area_mm2: surface area each pixel stands for.
        multi_hit: where the ray meets the surface more than once.
        medial: where the surface lies medial to the compartments' border.
        points_mm: surface points in the bone's own frame, shape (224, 224, 3).
        margin_mm: how far inside the cartilage's margin a pixel lies; negative where bare.
        thickness_mm: cartilage thickness of a knee without lesion, away from the margin.
    """

    bone: Bone
    frame: SphereFrame
    size: float
    centroid_mm: FloatArray
    rho_mm: FloatArray
    area_mm2: FloatArray
    multi_hit: NDArray[np.bool_]
    medial: NDArray[np.bool_]
    points_mm: FloatArray
    margin_mm: FloatArray
    thickness_mm: FloatArray


@functools.cache
def _average_knee() -> tuple[KneeTruth, LabelVolume]:
    truth = knee_truth(_SEED, _SUBJECT, "RIGHT", "V00", severity=0.0)
    labels = label_volume(truth, place_grid(truth, DEMO), DEMO.shape)
    in_frame = to_knee_frame(labels, "RIGHT")
    return truth, LabelVolume(in_frame.array, in_frame.affine, labels.scheme)


@functools.cache
def reference_bone(bone: Bone) -> ReferenceBone:
    """A bone of the average knee; sampled once in a process, in about a second."""
    truth, labels = _average_knee()
    mask = crop_shaft(largest_component(labels.bone(bone)), labels.affine, bone)
    surface = bone_surface(mask, labels.affine)
    frame = FRAMES[bone]
    sampling = sample_sphere(surface, frame)
    points = surface.centroid_mm + sampling.rho_mm[..., None] * frame.directions
    shape = sampling.rho_mm.shape
    placed = truth.bones[bone]
    in_bone = np.ascontiguousarray(placed.to_bone(points.reshape(-1, 3)))
    anatomy = placed.anatomy
    without_waves = np.zeros((0, 5))
    thickness = smooth_values(anatomy.thickness_mm.bumps, without_waves, in_bone)
    # The traits' own offset is part of the constant; a reference has none.
    thickness -= truth.traits.thickness_offset_mm
    return ReferenceBone(
        bone=bone,
        frame=frame,
        size=truth.traits.size,
        centroid_mm=surface.centroid_mm,
        rho_mm=sampling.rho_mm,
        area_mm2=sampling.area_mm2,
        multi_hit=sampling.multi_hit,
        medial=points[..., 0] > split_x_mm(labels, surface, bone),
        points_mm=in_bone.reshape(*shape, 3),
        margin_mm=-field_at(anatomy.domain, in_bone)[:, 0].reshape(shape),
        thickness_mm=thickness.reshape(shape),
    )


@functools.cache
def reference_volumes_mm3() -> dict[Tissue, float]:
    """Volume of every tissue of the average knee."""
    return dict(tissue_volumes_mm3(_average_knee()[1]))


def reference_knee() -> dict[Bone, ReferenceBone]:
    """All three bones."""
    return {bone: reference_bone(bone) for bone in BONES}
