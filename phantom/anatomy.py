"""The anatomy of one subject's knee: bone shapes, cartilage regions, thickness and T2 fields.

Each bone has its own frame, in millimetres, for a RIGHT knee: x to medial, y to posterior, z to
superior, origin near the middle of the joint line. Sizes follow a segmentation of a real right
knee (femur 143 ml, tibia 102 ml, patella 13 ml; cartilage 11.9, 1.9, 1.9 and 1.2 ml).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.dicom_header import MONTH_TIMEPOINT
from imaging.labels import Bone
from phantom.fields import SmoothField, random_waves
from phantom.implicit import INTERSECT, SUBTRACT, capsule, half_space, scaled

FloatArray = NDArray[np.float64]

DEEP_T2_MS, SUPERFICIAL_T2_MS = 32.0, 42.0
"""Mean T2 of the deep and superficial halves of healthy cartilage."""

VISIT_YEARS: Mapping[str, float] = {
    timepoint: months / 12
    for months, timepoint in MONTH_TIMEPOINT.items()
    if timepoint not in {"V07", "V09", "V11"}
}
"""Years from enrolment of each visit with MR images."""


@dataclass(frozen=True)
class SubjectTraits:
    """What makes a subject's knee their own; the same at every visit.

    Attributes:
        size: length factor of the bones; 0.97 is average.
        severity: medial lesion at enrolment, 0 none to 1 severe.
        progression_per_year: growth of severity per year.
        thinning_per_year: share of cartilage thickness lost everywhere per year.
        thickness_offset_mm: cartilage thicker (or thinner) than average everywhere.
        t2_offset_ms: T2 higher (or lower) than average everywhere.
        t2_step_ms: mean T2 of the superficial half less that of the deep half.
    """

    size: float
    severity: float
    progression_per_year: float
    thinning_per_year: float
    thickness_offset_mm: float
    t2_offset_ms: float
    t2_step_ms: float


@dataclass(frozen=True, eq=False)
class BoneAnatomy:
    """One bone in its own frame.

    Attributes:
        solid: the bone.
        domain: the solid whose inside, on the bone surface, carries cartilage.
        thickness_mm: cartilage thickness away from its margin.
        t2_ms: T2 half way through the cartilage.
        t2_step_ms: T2 of the superficial half less that of the deep half.
    """

    solid: FloatArray
    domain: FloatArray
    thickness_mm: SmoothField
    t2_ms: SmoothField
    t2_step_ms: float


@dataclass(frozen=True, eq=False)
class Plateau:
    """Footprint of one side of the tibial plateau, which carries a meniscus.

    Attributes:
        centre_mm: middle of the footprint in the tibia's frame.
        radii_mm: half-axes along x and y.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float]

    def scaled(self, factor: float) -> "Plateau":
        """The same footprint with every length multiplied."""
        x, y, z = self.centre_mm
        a, b = self.radii_mm
        return Plateau((factor * x, factor * y, factor * z), (factor * a, factor * b))


def subject_traits(rng: np.random.Generator, severity: float | None = None) -> SubjectTraits:
    """Draw a subject; a given severity replaces the drawn one and moves no other draw."""
    drawn = float(rng.beta(1.2, 2.2))
    return SubjectTraits(
        size=float(np.clip(rng.normal(0.97, 0.04), 0.88, 1.06)),
        severity=drawn if severity is None else severity,
        progression_per_year=float(rng.uniform(0.01, 0.06)),
        thinning_per_year=float(rng.uniform(0.003, 0.012)),
        thickness_offset_mm=float(np.clip(rng.normal(0.0, 0.12), -0.3, 0.3)),
        t2_offset_ms=float(rng.normal(0.0, 1.5)),
        t2_step_ms=float(SUPERFICIAL_T2_MS - DEEP_T2_MS + rng.normal(0.0, 1.0)),
    )


def _tilted(angle_deg: float, axis: int) -> FloatArray:
    """Axes x, y, z turned about one of them."""
    angle = np.deg2rad(angle_deg)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = np.sin(angle), -np.sin(angle)
    return turn


ALONG_X = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""Axes of a rod that lies mediolaterally: section y and z, length x."""

ALONG_Y = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""Axes of a rod that lies anteroposteriorly: section z and x, length y."""


def _femur(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Solid and cartilage domain of a femur."""
    medial, lateral, trochlea, notch = rng.normal(0.0, 0.02, size=4) + 1.0
    groove = rng.normal(0.0, 0.5)
    notch_rod = capsule(
        (4.5, 14.0, 2.0), (19.0 * notch, 9.0 * notch), 12.0, half_length_mm=12.0, axes=ALONG_Y,
        operation=SUBTRACT, blend_mm=5.0,
    )  # fmt: skip
    groove_rod = capsule(
        (1.0, -50.0 + groove, 12.0), (14.0, 13.0), 12.0, half_length_mm=16.0,
        operation=SUBTRACT, blend_mm=8.0,
    )  # fmt: skip
    under_groove_rod = capsule(
        (3.0, -24.0, -13.0), (12.5, 12.0), 16.0, half_length_mm=10.0, axes=ALONG_Y,
        operation=SUBTRACT, blend_mm=8.0,
    )  # fmt: skip
    solid = np.array(
        [
            capsule((25.5, -2.0, 14.5), (18.5 * medial, 20.0 * medial), 9.5, half_length_mm=4.5,
                    axes=ALONG_X),
            capsule((24.5, -15.0, 16.0), (23.0 * medial, 20.5 * medial), 10.0, half_length_mm=3.5,
                    axes=ALONG_X, blend_mm=5.0),
            capsule((-16.0, -4.0, 15.0), (17.5 * lateral, 18.5 * lateral), 9.0,
                    half_length_mm=4.0, axes=ALONG_X, blend_mm=3.0),
            capsule((-16.0, -17.0, 16.5), (23.5 * lateral, 20.0 * lateral), 9.5,
                    half_length_mm=4.0, axes=ALONG_X, blend_mm=5.0),
            capsule((0.0, -22.0, 22.0), (18.5 * trochlea, 20.0), 12.0, half_length_mm=17.0,
                    axes=ALONG_X, blend_mm=7.0),
            capsule((0.0, -25.0, 68.0), (32.0, 16.5), 18.0, half_length_mm=50.0,
                    end_radii_mm=(13.0, 11.5), blend_mm=5.0),
            groove_rod,
            under_groove_rod,
            notch_rod,
        ]
    )  # fmt: skip
    off_notch = notch_rod.copy()
    off_notch[[16, 17, 18, 19]] += 3.0
    off_notch[1] = 3.0
    domain = np.array(
        [
            half_space((0.0, 0.0, 30.0), (0.0, -0.12, 1.0)),
            half_space((-27.0, 0.0, 0.0), (-1.0, 0.0, 0.1), operation=INTERSECT),
            half_space((36.5, 0.0, 0.0), (1.0, 0.25, 0.1), operation=INTERSECT),
            capsule((4.0, -14.0, 20.0), (17.0, 15.0), 10.0, half_length_mm=60.0, axes=ALONG_X,
                    operation=SUBTRACT, blend_mm=3.0),
            off_notch,
        ]
    )  # fmt: skip
    return solid, domain


MEDIAL_PLATEAU = Plateau((20.5, -4.0, 0.0), (13.0, 19.0))
LATERAL_PLATEAU = Plateau((-19.0, -1.5, 0.0), (14.5, 17.0))


def _tibia(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Solid and cartilage domain of a tibia."""
    head, shaft, dish = rng.normal(0.0, 0.02, size=3) + 1.0
    solid = np.array(
        [
            capsule((0.0, -4.0, -27.0), (23.0 * head, 18.5 * head), 10.0, half_length_mm=17.0,
                    end_radii_mm=(33.0 * head, 21.0 * head)),
            capsule((19.0, -3.0, -16.0), (15.0, 20.5), 10.0, blend_mm=8.0),
            capsule((-19.0, -1.0, -15.5), (15.0, 20.0), 10.0, blend_mm=8.0),
            capsule((-4.0, -11.0, -72.0), (13.5 * shaft, 16.0 * shaft), 14.0, half_length_mm=50.0,
                    end_radii_mm=(22.0 * shaft, 18.0 * shaft), blend_mm=10.0),
            capsule((-3.0, -25.0, -42.0), (9.0, 6.0), 14.0, blend_mm=8.0),
            half_space((0.0, 0.0, -7.5), (0.0, 0.06, 1.0), blend_mm=3.0),
            capsule((22.0, -4.0, 18.0), (21.0, 31.0), 26.2 + 0.5 * dish, operation=SUBTRACT,
                    blend_mm=4.0),
            capsule((-20.0, -1.5, 42.0), (45.0, 60.0), 49.8, operation=SUBTRACT, blend_mm=4.0),
            capsule((5.5, 2.0, -6.0), (3.0, 6.0), 5.5, blend_mm=5.0),
            capsule((-3.5, 2.0, -6.0), (3.0, 5.0), 4.5, blend_mm=5.0),
        ]
    )  # fmt: skip
    domain = np.array(
        [
            capsule(MEDIAL_PLATEAU.centre_mm, MEDIAL_PLATEAU.radii_mm, 10.0, half_length_mm=40.0),
            capsule(LATERAL_PLATEAU.centre_mm, LATERAL_PLATEAU.radii_mm, 10.0,
                    half_length_mm=40.0, blend_mm=0.5),
            half_space((0.0, 0.0, -11.5), (0.0, 0.0, -1.0), blend_mm=2.0),
        ]
    )  # fmt: skip
    return solid, domain


def _patella(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Solid and cartilage domain of a patella."""
    width, height = rng.normal(0.0, 0.03, size=2) + 1.0
    facet = rng.normal(0.0, 1.5)
    lateral_tilt, medial_tilt = np.deg2rad(20.0 + facet), np.deg2rad(24.0 - facet)
    solid = np.array(
        [
            capsule((0.0, 0.0, 2.0), (21.5 * width, 12.5), 18.5 * height),
            capsule((0.0, -2.0, -12.0), (10.0, 7.5), 10.0, blend_mm=6.0),
            half_space((1.5, 8.8, 0.0), (-np.sin(lateral_tilt), np.cos(lateral_tilt), 0.0)),
            half_space((1.5, 8.8, 0.0), (np.sin(medial_tilt), np.cos(medial_tilt), 0.0)),
        ]
    )
    domain = np.array(
        [
            capsule((0.0, 0.0, 4.0), (13.5 * height, 19.0 * width), 10.0, half_length_mm=20.0,
                    axes=ALONG_Y),
            half_space((0.0, -0.5, 0.0), (0.0, -1.0, 0.0)),
        ]
    )  # fmt: skip
    return solid, domain


def fibula() -> FloatArray:
    """A fibula in the tibia's frame; it carries no cartilage here."""
    return np.array(
        [
            capsule((-36.0, 21.0, -74.0), (6.0, 6.0), 8.0, half_length_mm=42.0,
                    end_radii_mm=(10.0, 9.5), axes=_tilted(4.0, 0))
        ]
    )  # fmt: skip


FEMORAL_LESION_MM = (24.0, -12.0, -4.5)
TIBIAL_LESION_MM = (24.0, -6.0, -9.0)

_CONSTANT = (0.0, 0.0, 0.0, np.inf)

_THICKNESS_BUMPS: Mapping[Bone, tuple[tuple[float, float, float, float, float], ...]] = {
    "femur": (
        (*_CONSTANT, 2.15),
        (2.0, -38.0, 16.0, 11.0, 0.8),
        (24.0, -10.0, -5.0, 12.0, 0.45),
        (-16.0, -10.0, -4.0, 12.0, 0.45),
    ),
    "tibia": (
        (*_CONSTANT, 1.9),
        (*MEDIAL_PLATEAU.centre_mm[:2], -9.0, 11.0, 1.0),
        (*LATERAL_PLATEAU.centre_mm[:2], -8.0, 11.0, 1.3),
    ),
    "patella": ((*_CONSTANT, 2.0), (1.5, 8.0, 3.0, 10.0, 1.0)),
}

_LESION_MM: Mapping[Bone, tuple[float, float, float]] = {
    "femur": FEMORAL_LESION_MM,
    "tibia": TIBIAL_LESION_MM,
}

_LESION_SD_MM, _LESION_DEPTH_MM, _LESION_T2_MS = 7.5, 1.6, 12.0


def draw_anatomy(
    rng: np.random.Generator, traits: SubjectTraits, years: float
) -> dict[Bone, BoneAnatomy]:
    """The three bones of a subject, `years` after enrolment.

    Draws are the same whatever the traits and years, so that a follow-up visit has the same bones
    and the same random fields, thinned.
    """
    severity = min(traits.severity + traits.progression_per_year * years, 1.0)
    remaining = 1.0 - traits.thinning_per_year * years
    size = traits.size
    result: dict[Bone, BoneAnatomy] = {}
    shapes: Mapping[Bone, Callable[[np.random.Generator], tuple[FloatArray, FloatArray]]] = {
        "femur": _femur,
        "tibia": _tibia,
        "patella": _patella,
    }
    for bone, draw_shape in shapes.items():
        solid, domain = draw_shape(rng)
        thickness_waves = random_waves(rng, 0.16, (18.0, 40.0))
        t2_waves = random_waves(rng, 1.8, (15.0, 40.0))
        thickness_bumps = np.array(_THICKNESS_BUMPS[bone])
        thickness_bumps[0, 4] += traits.thickness_offset_mm
        t2_bumps = np.array(
            [(*_CONSTANT, 0.5 * (DEEP_T2_MS + SUPERFICIAL_T2_MS) + traits.t2_offset_ms)]
        )
        if bone in _LESION_MM:
            place = (*_LESION_MM[bone], _LESION_SD_MM)
            thickness_bumps = np.vstack([thickness_bumps, (*place, -_LESION_DEPTH_MM * severity)])
            t2_bumps = np.vstack([t2_bumps, (*place, _LESION_T2_MS * severity)])
        thickness_bumps[:, 4] *= remaining
        thickness_waves[:, 4] *= remaining
        for bumps in (thickness_bumps, t2_bumps):
            bumps[:, :4] *= size
        result[bone] = BoneAnatomy(
            solid=scaled(solid, size),
            domain=scaled(domain, size),
            thickness_mm=SmoothField(thickness_bumps, thickness_waves),
            t2_ms=SmoothField(t2_bumps, t2_waves),
            t2_step_ms=traits.t2_step_ms,
        )
    return result
