"""Spherical maps drawn directly, without images: thousands of knees in the time of one.

The model is the phantom's (`phantom.anatomy`), written down on the map grid of an average knee: a
person's size, thickness and T2 offsets, smooth fields of their own, a medial lesion that deepens
with severity and time, cartilage that rises from its margin. On top comes one planted change, in a
region known exactly, as pronounced as the knee's amplitude says (`phantom.planted_pain`).

What depends on what: traits on (seed, subject); fields, margin and the place of a knee's own region
on (seed, subject, side); noise on the visit as well. So a knee's maps do not depend on which other
knees are drawn, or in which order.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from imaging.sphere import MAP_SIZE
from imaging.volume import Side
from phantom.anatomy import (
    DEEP_T2_MS,
    FEMORAL_LESION_MM,
    SUPERFICIAL_T2_MS,
    TIBIAL_LESION_MM,
    VISIT_YEARS,
    SubjectTraits,
    subject_traits,
)
from phantom.fields import RIM_MM, THICKEST_MM, THINNEST_MM
from phantom.reference_surface import ReferenceBone, reference_bone

FloatArray = NDArray[np.float64]
SingleArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

GRID = (MAP_SIZE, MAP_SIZE)

REGION_CENTRE_MM: Mapping[Bone, tuple[float, float, float]] = {
    # The middle of the phantom's lesions: the weight-bearing medial condyle and the medial plateau.
    "femur": FEMORAL_LESION_MM,
    "tibia": TIBIAL_LESION_MM,
    # The lateral facet, where the paper finds what is sensitive to pain.
    "patella": (-9.0, 7.0, 3.0),
}
"""Near what the planted region lies, in the bone's own frame at size 1."""

REGION_SD_MM: Mapping[Bone, float] = {"femur": 7.5, "tibia": 7.5, "patella": 5.0}

LESION_DEPTH_MM, LESION_T2_MS = 1.6, 12.0
"""Of the phantom's medial lesion at severity 1; the patella's is as deep here, to have one."""

THICKNESS_FIELD_MM, T2_FIELD_MS, T2_STEP_FIELD_MS, SHAPE_FIELD_MM = 0.16, 1.8, 0.8, 0.8
"""SDs of the smooth fields that make a knee its own."""

MARGIN_SD_MM = 0.6
"""SD of how much farther (or less far) than average a knee's cartilage reaches."""

THICKNESS_NOISE_MM, T2_NOISE_MS, SHAPE_NOISE_MM = 0.08, 2.0, 0.05
"""SDs of what differs from pixel to pixel and visit to visit."""

_WAVES = 32
_TISSUE_WAVELENGTHS_MM, _SHAPE_WAVELENGTHS_MM = (15.0, 40.0), (50.0, 150.0)
_REACH_MM = 3.0
"""Cartilage of no knee reaches farther beyond the average margin."""


@dataclass(frozen=True)
class PlantedEffect:
    """What one SD of amplitude does to the maps in the middle of the region.

    Attributes:
        thinning_mm: taken from cartilage thickness.
        t2_ms: added to T2, deep and superficial.
        bump_mm: added to the bone's surface.
        severity: how much of the lesion that goes with a person's severity (and so with their
            grade and pain in `phantom.cohort`) is drawn: 1 as in the phantom, 0 none. With 0 the
            amplitude is all that ties the maps to pain, and the Bayes AUC is exact.
        knee_specific: the region lies elsewhere in every knee, somewhere on its cartilage.
    """

    thinning_mm: float = 0.5
    t2_ms: float = 5.0
    bump_mm: float = 2.0
    severity: float = 1.0
    knee_specific: bool = False


NO_EFFECT = PlantedEffect(0.0, 0.0, 0.0, 0.0)
"""Maps that have nothing to do with severity or pain."""


@dataclass(frozen=True)
class DrawnKnee:
    """One knee-visit to draw.

    Attributes:
        subject_id: 7 digits, starting with 1.
        side: which knee; a left one is drawn mirrored, as it is measured.
        timepoint: a key of `phantom.anatomy.VISIT_YEARS`.
        amplitude: how pronounced the planted change is, SD; negative means its opposite.
    """

    subject_id: int
    side: Side
    timepoint: str
    amplitude: float = 0.0

    @property
    def knee_visit(self) -> str:
        """`<subject_id>_<side>_<timepoint>`."""
        return f"{self.subject_id}_{self.side}_{self.timepoint}"


@dataclass(frozen=True, eq=False)
class Region:
    """Where a planted change lies.

    Attributes:
        profile: 1 in its middle, falling off as a Gaussian of the distance; shape (224, 224).
        mask: where the profile is above a half and the average knee has cartilage.
        grid_share: share of the map's pixels in the mask.
        area_share: share, by area, of the surface the map shows.
        cartilage_share: share, by area, of the cartilage.
    """

    profile: SingleArray
    mask: BoolArray
    grid_share: float
    area_share: float
    cartilage_share: float


@dataclass(frozen=True, eq=False)
class DrawnMaps:
    """The maps of one bone of several knees, in the order they were asked for.

    Attributes:
        bone: the bone.
        knees: what was drawn.
        maps: the five maps by name, float32, shape (n, 224, 224), NaN where there is no value.
        coverage: where there is cartilage, same shape.
        multi_hit: where rays meet the surface more than once; the average knee's.
        area_mm2: bone surface each pixel stands for: the average knee's, scaled with the bone.
        centroid_mm: the maps' centres, knee frame, shape (n, 3).
    """

    bone: Bone
    knees: tuple[DrawnKnee, ...]
    maps: Mapping[str, SingleArray]
    coverage: BoolArray
    multi_hit: BoolArray
    area_mm2: SingleArray
    centroid_mm: FloatArray


def knee_rng(
    seed: int, knee: DrawnKnee, bone: Bone, what: str, *, of_visit: bool = False
) -> np.random.Generator:
    """Random numbers of one knee for one purpose; of one visit of it where asked for."""
    visit = list(VISIT_YEARS).index(knee.timepoint) + 1 if of_visit else 0
    purpose = zlib.crc32(f"{bone} {what}".encode())
    return np.random.default_rng([seed, knee.subject_id, knee.side == "LEFT", visit, purpose])


def traits_of(seed: int, knee: DrawnKnee) -> SubjectTraits:
    """The person's traits: those of `phantom.knee` and `phantom.cohort` for the same seed."""
    return subject_traits(np.random.default_rng([seed, knee.subject_id]))


def severity_of(traits: SubjectTraits, timepoint: str) -> float:
    """Severity of the medial lesion at a visit, 0 to 1."""
    return min(traits.severity + traits.progression_per_year * VISIT_YEARS[timepoint], 1.0)


def _region_at(reference: ReferenceBone, centre_mm: FloatArray) -> Region:
    squared = ((reference.points_mm - centre_mm) ** 2).sum(axis=-1)
    spread = REGION_SD_MM[reference.bone] * reference.size
    profile = np.exp(-0.5 * squared / spread**2)
    covered = reference.margin_mm > 0
    mask = (profile > 0.5) & covered
    area = reference.area_mm2
    return Region(
        profile.astype(np.float32),
        mask,
        float(mask.mean()),
        float(area[mask].sum() / area.sum()),
        float(area[mask].sum() / area[covered].sum()),
    )


@functools.cache
def planted_region(bone: Bone) -> Region:
    """The region that is the same in every knee."""
    reference = reference_bone(bone)
    points = reference.points_mm.reshape(-1, 3)
    centre = np.array(REGION_CENTRE_MM[bone]) * reference.size
    return _region_at(reference, points[np.argmin(((points - centre) ** 2).sum(axis=1))])


def knee_region(seed: int, knee: DrawnKnee, bone: Bone, effect: PlantedEffect) -> Region:
    """The region of one knee: a point of its own of the cartilage, where the effect says so."""
    if not effect.knee_specific:
        return planted_region(bone)
    reference = reference_bone(bone)
    inside = np.flatnonzero(reference.margin_mm.ravel() > RIM_MM)
    weight = reference.area_mm2.ravel()[inside]
    rank = knee_rng(seed, knee, bone, "region").random()
    # By area: every spot of the cartilage is as likely.
    chosen = inside[np.searchsorted(np.cumsum(weight), rank * weight.sum(), side="right")]
    return _region_at(reference, reference.points_mm.reshape(-1, 3)[chosen])


def _basis(points_mm: FloatArray, wavelengths_mm: tuple[float, float], key: int) -> SingleArray:
    """Waves over points (n, 3), shape (2 waves, n): with normal weights a smooth field of SD 1."""
    rng = np.random.default_rng([key, _WAVES])
    directions = rng.normal(size=(_WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = directions * 2.0 * np.pi / rng.uniform(*wavelengths_mm, size=(_WAVES, 1))
    phase = vectors @ points_mm.T
    return np.concatenate([np.cos(phase), np.sin(phase)]).astype(np.float32) / np.sqrt(
        np.float32(_WAVES)
    )


@dataclass(frozen=True, eq=False)
class _Canvas:
    """What every knee of a bone is drawn on.

    Attributes:
        reference: the average bone.
        near: flat pixels that cartilage can reach, shape (n_near,).
        tissue_basis: over those, shape (2 waves, n_near).
        shape_basis: over all pixels, shape (2 waves, n_pixel).
    """

    reference: ReferenceBone
    near: NDArray[np.int64]
    tissue_basis: SingleArray
    shape_basis: SingleArray


@functools.cache
def _canvas(bone: Bone) -> _Canvas:
    reference = reference_bone(bone)
    points = reference.points_mm.reshape(-1, 3)
    near = np.flatnonzero(reference.margin_mm.ravel() > -_REACH_MM)
    return _Canvas(
        reference,
        near,
        _basis(points[near], _TISSUE_WAVELENGTHS_MM, 1),
        _basis(points, _SHAPE_WAVELENGTHS_MM, 2),
    )


def _draw_knee(seed: int, knee: DrawnKnee, bone: Bone, effect: PlantedEffect) -> dict[str, NDArray]:
    """Flat maps of one knee, coverage among them, shape (n_pixel,)."""
    canvas = _canvas(bone)
    reference, near = canvas.reference, canvas.near
    traits = traits_of(seed, knee)
    own = knee_rng(seed, knee, bone, "fields")
    noise = knee_rng(seed, knee, bone, "noise", of_visit=True)
    # One product of a fixed size per knee: the same bytes whichever knees are drawn together.
    weights = own.standard_normal((3, 2 * _WAVES), np.float32)
    thicker, t2_higher, steeper = weights @ canvas.tissue_basis
    shape = own.standard_normal((1, 2 * _WAVES), np.float32) @ canvas.shape_basis
    reach = np.clip(own.normal(0.0, MARGIN_SD_MM), -_REACH_MM, _REACH_MM)

    region = knee_region(seed, knee, bone, effect).profile.ravel()
    severity = effect.severity * severity_of(traits, knee.timepoint)
    lesion = planted_region(bone).profile.ravel()[near]
    local = region[near]

    def noisy(sd: float, n: int) -> SingleArray:
        return np.float32(sd) * noise.standard_normal(n, np.float32)

    remaining = 1.0 - traits.thinning_per_year * VISIT_YEARS[knee.timepoint]
    thickness = (
        reference.thickness_mm.ravel()[near] + traits.thickness_offset_mm
        + THICKNESS_FIELD_MM * thicker - LESION_DEPTH_MM * severity * lesion
    ) * remaining - effect.thinning_mm * knee.amplitude * local  # fmt: skip
    thickness = np.clip(thickness, THINNEST_MM, THICKEST_MM)
    margin = reference.margin_mm.ravel()[near] + reach
    rise = np.clip(margin / RIM_MM, 0.0, 1.0)
    thickness = rise * rise * (3.0 - 2.0 * rise) * thickness
    covered = margin > 0.0
    thickness = np.maximum(thickness + noisy(THICKNESS_NOISE_MM, len(near)), 0.05)

    middle = (
        0.5 * (DEEP_T2_MS + SUPERFICIAL_T2_MS) + traits.t2_offset_ms
        + T2_FIELD_MS * t2_higher + LESION_T2_MS * severity * lesion
        + effect.t2_ms * knee.amplitude * local
    )  # fmt: skip
    half_step = 0.5 * (traits.t2_step_ms + T2_STEP_FIELD_MS * steeper)
    deep = np.maximum(middle - half_step + noisy(T2_NOISE_MS, len(near)), 5.0)
    superficial = np.maximum(middle + half_step + noisy(T2_NOISE_MS, len(near)), 5.0)

    n_pixel = reference.rho_mm.size
    scale = traits.size / reference.size
    rho = scale * (
        reference.rho_mm.ravel() + SHAPE_FIELD_MM * shape[0]
        + effect.bump_mm * knee.amplitude * region
    ) + noisy(SHAPE_NOISE_MM, n_pixel)  # fmt: skip

    def on_grid(values: NDArray) -> SingleArray:
        grid = np.full(n_pixel, np.nan, np.float32)
        grid[near[covered]] = values[covered]
        return grid

    coverage = np.zeros(n_pixel, bool)
    coverage[near[covered]] = True
    return {
        "bone_shape": rho.astype(np.float32),
        "cartilage_thickness": on_grid(thickness),
        "t2_superficial": on_grid(superficial),
        "t2_deep": on_grid(deep),
        "t2_mean": on_grid(0.5 * (deep + superficial)),
        "coverage": coverage,
    }


def draw_maps(
    seed: int, knees: Sequence[DrawnKnee], bone: Bone, effect: PlantedEffect | None = None
) -> DrawnMaps:
    """Draw the maps of one bone of some knees.

    Args:
        seed: of the cohort, `phantom.cohort.simulate_cohort`.
        knees: what to draw, at least one.
        bone: which bone.
        effect: what the amplitude does; the default where None.

    Raises:
        ValueError: no knees, or a visit without images.
    """
    effect = effect or PlantedEffect()
    unknown = sorted({knee.timepoint for knee in knees} - set(VISIT_YEARS))
    if not knees or unknown:
        raise ValueError(
            f"there are no images at {', '.join(unknown)}"
            if knees
            else "there are no knees to draw"
        )
    reference = reference_bone(bone)
    drawn = [_draw_knee(seed, knee, bone, effect) for knee in knees]
    stacked = {name: np.stack([one[name].reshape(GRID) for one in drawn]) for name in drawn[0]}
    scale = np.array([traits_of(seed, knee).size / reference.size for knee in knees])
    return DrawnMaps(
        bone=bone,
        knees=tuple(knees),
        maps={name: values for name, values in stacked.items() if name != "coverage"},
        coverage=stacked["coverage"],
        multi_hit=np.broadcast_to(reference.multi_hit, (len(knees), *GRID)),
        area_mm2=(scale[:, None, None] ** 2 * reference.area_mm2).astype(np.float32),
        centroid_mm=np.broadcast_to(reference.centroid_mm, (len(knees), 3)),
    )


def own_amplitude(seed: int, knee: DrawnKnee, bone: Bone) -> float:
    """What a knee's amplitude has of its own, standard normal over knees.

    Equal parts are the knee's, shared by its bones; the bone's; and the visit's.
    """
    key = [seed, knee.subject_id, knee.side == "LEFT"]
    shared = np.random.default_rng([*key, 0, zlib.crc32(b"own amplitude")]).standard_normal()
    of_bone = knee_rng(seed, knee, bone, "own amplitude").standard_normal()
    of_visit = knee_rng(seed, knee, bone, "own amplitude", of_visit=True).standard_normal()
    return float((shared + of_bone + of_visit) / np.sqrt(3.0))
