"""One knee of one subject at one visit, with everything about it known exactly."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from imaging.volume import MIRROR_X, Side
from phantom.anatomy import (
    LATERAL_PLATEAU,
    MEDIAL_PLATEAU,
    VISIT_YEARS,
    BoneAnatomy,
    Plateau,
    SubjectTraits,
    draw_anatomy,
    fibula,
    subject_traits,
)
from phantom.fields import cartilage_thicknesses, smooth_values
from phantom.implicit import nearest_at, scaled

FloatArray = NDArray[np.float64]

JOINT_GAP_MM = 0.4
"""Least distance between the cartilages of two bones."""

_EXACT_MM, _POSE_MM = 1e-9, 1e-4
"""When to stop looking for the nearest surface point: for the truth, and to pose the bones."""

KNEE_CENTRE_MM = (-74.0, -10.0, 5.0)
"""Where the middle of a right knee lies in the scanner, before the visit's own pose."""


@dataclass(frozen=True, eq=False)
class BoneTruth:
    """A bone of a knee: its anatomy in its own frame, and where that frame lies.

    Attributes:
        anatomy: shape, cartilage region, thickness and T2 in the bone's frame.
        to_patient: shape (4, 4), bone frame -> LPS mm; a rotation, or a reflection in a left knee.
    """

    anatomy: BoneAnatomy
    to_patient: FloatArray

    def to_bone(self, points_mm: FloatArray) -> FloatArray:
        """LPS points (n, 3) in the bone's frame."""
        return (np.asarray(points_mm, float) - self.to_patient[:3, 3]) @ self.to_patient[:3, :3]

    def directions_to_patient(self, directions: FloatArray) -> FloatArray:
        """Directions (n, 3) of the bone's frame in LPS."""
        return directions @ self.to_patient[:3, :3].T


@dataclass(frozen=True, eq=False)
class KneeTruth:
    """Everything that is true of one knee-visit. Points are LPS mm of the patient, shape (n, 3).

    The functions that take points near a bone find the nearest surface point by iteration; they
    are exact to 1e-6 mm for points nearer than the radius of curvature (about 5 mm outside any
    articular surface), and mean nothing deep inside a bone.

    Attributes:
        seed, subject_id, side, timepoint: what the knee is drawn from.
        traits: the subject's planted parameters.
        severity: of the medial lesion at this visit, 0 to 1.
        bones: femur, tibia and patella.
        fibula: solid in the tibia's frame.
        plateaus: medial and lateral footprints in the tibia's frame.
        knee_to_patient: shape (4, 4), the femur's frame -> LPS mm.
        msme_offset_mm: shape (3,), LPS. The patient moved between the two scans: adding this to a
            position that the MSME headers give yields the position in the DESS scan.
    """

    seed: int
    subject_id: int
    side: Side
    timepoint: str
    traits: SubjectTraits
    severity: float
    bones: Mapping[Bone, BoneTruth]
    fibula: FloatArray
    plateaus: Mapping[str, Plateau]
    knee_to_patient: FloatArray
    msme_offset_mm: FloatArray

    @property
    def knee_visit(self) -> str:
        """`<subject_id>_<side>_<timepoint>`."""
        return f"{self.subject_id}_{self.side}_{self.timepoint}"

    def _nearest(self, bone: Bone, points_mm: FloatArray) -> tuple[BoneTruth, FloatArray]:
        truth = self.bones[bone]
        return truth, nearest_at(truth.anatomy.solid, truth.to_bone(points_mm), _EXACT_MM)

    def bone_distance_mm(self, bone: Bone, points_mm: FloatArray) -> FloatArray:
        """Signed distance to the bone surface, negative inside, shape (n,)."""
        return self._nearest(bone, points_mm)[1][:, 0]

    def surface_points_mm(self, bone: Bone, points_mm: FloatArray) -> FloatArray:
        """Nearest points of the bone surface, shape (n, 3)."""
        truth, found = self._nearest(bone, points_mm)
        return found[:, 1:4] @ truth.to_patient[:3, :3].T + truth.to_patient[:3, 3]

    def normal(self, bone: Bone, points_mm: FloatArray) -> FloatArray:
        """Outward unit normals of the bone surface nearest to the points, shape (n, 3)."""
        truth, found = self._nearest(bone, points_mm)
        return truth.directions_to_patient(found[:, 4:7])

    def thickness_mm(self, bone: Bone, points_mm: FloatArray) -> FloatArray:
        """Cartilage thickness along the normal at the nearest surface points; 0 where none."""
        truth, found = self._nearest(bone, points_mm)
        return _thickness(truth, found)

    def t2_ms(
        self, bone: Bone, points_mm: FloatArray, depth: FloatArray | float | None = None
    ) -> FloatArray:
        """T2 in cartilage, shape (n,), ms; NaN where there is no cartilage.

        Args:
            bone: whose cartilage.
            points_mm: points in the cartilage, or, where `depth` is given, on the bone surface.
            depth: 0 at the bone to 1 at the joint, a number or shape (n,). T2 is linear in depth,
                so 0.25, 0.75 and 0.5 give the means of the deep and superficial halves and of
                all.
        """
        truth, found = self._nearest(bone, points_mm)
        thickness = _thickness(truth, found)
        covered = thickness > 0.0
        if depth is None:
            depth = np.divide(found[:, 0], thickness, out=np.zeros_like(thickness), where=covered)
            covered &= (depth >= -1e-6) & (depth <= 1.0 + 1e-6)
        field = truth.anatomy.t2_ms
        middle = smooth_values(field.bumps, field.waves, np.ascontiguousarray(found[:, 1:4]))
        values = middle + 2.0 * truth.anatomy.t2_step_ms * (np.asarray(depth) - 0.5)
        return np.where(covered, values, np.nan)

    def is_medial(self, points_mm: FloatArray) -> NDArray[np.bool_]:
        """Whether points lie medial to the middle of the tibia, shape (n,)."""
        return self.bones["tibia"].to_bone(points_mm)[:, 0] > 0.0


def _thickness(truth: BoneTruth, found: FloatArray) -> FloatArray:
    anatomy = truth.anatomy
    return cartilage_thicknesses(
        anatomy.domain,
        anatomy.thickness_mm.bumps,
        anatomy.thickness_mm.waves,
        np.ascontiguousarray(found[:, 1:4]),
    )


def _rotation(vector_rad: FloatArray) -> FloatArray:
    """Rotation matrix of a rotation vector."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(vector_rad).as_matrix()


def _rigid(rotation: FloatArray, translation_mm: FloatArray) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation_mm
    return matrix


def _outer_points(anatomy: BoneAnatomy, seeds_mm: FloatArray) -> FloatArray:
    """The outer surface (cartilage, or bone where bare) near seed points, in the bone's frame."""
    found = nearest_at(anatomy.solid, seeds_mm, _POSE_MM)
    thickness = _thickness(BoneTruth(anatomy, np.eye(4)), found)
    return found[:, 1:4] + thickness[:, None] * found[:, 4:7]


def _close_joint(
    femur: BoneAnatomy, outer_mm: FloatArray, start: FloatArray, approach: FloatArray
) -> FloatArray:
    """Move a bone towards the femur until both sides of it touch, but for the joint gap.

    Args:
        femur: the femur, which stays.
        outer_mm: points (n, 3) of the outer surface of the bone, in its frame.
        start: shape (4, 4), a first pose in the femur's frame.
        approach: unit vector along which the bone moves.

    Returns:
        Pose, shape (4, 4), bone frame -> femur frame.
    """
    medial_axis = np.array([1.0, 0.0, 0.0])
    roll_axis = np.cross(medial_axis, approach)
    femur_truth = BoneTruth(femur, np.eye(4))
    pose = start
    for _ in range(8):
        points = outer_mm @ pose[:3, :3].T + pose[:3, 3]
        found = nearest_at(femur.solid, points, _POSE_MM)
        gap = found[:, 0] - _thickness(femur_truth, found) - JOINT_GAP_MM
        across = points[:, 0] - pose[0, 3]
        medial, lateral = across > 0.0, across <= 0.0
        at_medial = np.flatnonzero(medial)[np.argmin(gap[medial])]
        at_lateral = np.flatnonzero(lateral)[np.argmin(gap[lateral])]
        arm = max(across[at_medial] - across[at_lateral], 15.0)
        roll = (gap[at_medial] - gap[at_lateral]) / arm
        shift = gap[at_medial] - roll * max(across[at_medial], 5.0)
        shift = min(shift, min(gap[at_medial], gap[at_lateral]) + 2.0)
        turn = _rotation(0.7 * roll * roll_axis)
        pose = _rigid(turn @ pose[:3, :3], pose[:3, 3] + 0.9 * shift * approach)
    points = outer_mm @ pose[:3, :3].T + pose[:3, 3]
    found = nearest_at(femur.solid, points, _POSE_MM)
    nearest_gap = float(np.min(found[:, 0] - _thickness(femur_truth, found)))
    return _rigid(pose[:3, :3], pose[:3, 3] + min(nearest_gap - JOINT_GAP_MM, 0.0) * approach)


def _articulate(anatomy: Mapping[Bone, BoneAnatomy], size: float) -> dict[Bone, FloatArray]:
    """Poses of the bones in the femur's frame."""
    across, along = np.meshgrid(np.arange(-34.0, 36.0, 3.0), np.arange(-22.0, 20.0, 3.0))
    plateau = size * np.stack([across, along, np.full_like(across, -7.0)], axis=-1).reshape(-1, 3)
    across, along = np.meshgrid(np.arange(-18.0, 18.1, 2.0), np.arange(-12.0, 18.1, 2.0))
    facets = size * np.stack([across, np.full_like(across, 8.0), along], axis=-1).reshape(-1, 3)
    up, back = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    tibia = _close_joint(
        anatomy["femur"],
        _outer_points(anatomy["tibia"], plateau),
        _rigid(np.eye(3), np.array([0.0, 0.0, -6.0]) * size),
        up,
    )
    patella = _close_joint(
        anatomy["femur"],
        _outer_points(anatomy["patella"], facets),
        _rigid(np.eye(3), np.array([-2.0, -62.0, 24.0]) * size),
        back,
    )
    return {"femur": np.eye(4), "tibia": tibia, "patella": patella}


def knee_truth(
    seed: int,
    subject_id: int,
    side: Side,
    timepoint: str,
    *,
    severity: float | None = None,
    offset_limit_mm: float = 1.5,
) -> KneeTruth:
    """The truth about one knee-visit, always the same for the same arguments.

    A left knee is the exact mirror image (x -> -x) of the right knee of the same seed, subject and
    timepoint. Bones and joint pose are those of enrolment; cartilage thins with the years.

    Args:
        seed: of the whole cohort.
        subject_id: drawn with the seed into shape, thickness and T2.
        side: RIGHT or LEFT.
        timepoint: a key of `anatomy.VISIT_YEARS`.
        severity: of the medial lesion at enrolment (0 to 1) instead of the drawn one.
        offset_limit_mm: largest planted MSME offset along each axis.
    """
    years = VISIT_YEARS[timepoint]

    def subject_rng() -> np.random.Generator:
        return np.random.default_rng([seed, subject_id])

    traits = subject_traits(subject_rng(), severity)
    shape_seed = [seed, subject_id, 1]
    at_enrolment = draw_anatomy(np.random.default_rng(shape_seed), traits, 0.0)
    anatomy = draw_anatomy(np.random.default_rng(shape_seed), traits, years)
    poses = _articulate(at_enrolment, traits.size)

    visit_rng = np.random.default_rng([seed, subject_id, 2, sorted(VISIT_YEARS).index(timepoint)])
    to_patient = _rigid(
        _rotation(np.deg2rad(visit_rng.uniform(-3.0, 3.0, size=3))),
        np.array(KNEE_CENTRE_MM) + visit_rng.uniform(-4.0, 4.0, size=3),
    )
    offset = visit_rng.uniform(-offset_limit_mm, offset_limit_mm, size=3)
    if side == "LEFT":
        to_patient = MIRROR_X @ to_patient
        offset = offset * np.array([-1.0, 1.0, 1.0])
    return KneeTruth(
        seed=seed,
        subject_id=subject_id,
        side=side,
        timepoint=timepoint,
        traits=traits,
        severity=min(traits.severity + traits.progression_per_year * years, 1.0),
        bones={bone: BoneTruth(anatomy[bone], to_patient @ poses[bone]) for bone in BONES},
        fibula=scaled(fibula(), traits.size),
        plateaus={
            "medial": MEDIAL_PLATEAU.scaled(traits.size),
            "lateral": LATERAL_PLATEAU.scaled(traits.size),
        },
        knee_to_patient=to_patient,
        msme_offset_mm=offset,
    )
