"""One knee end to end: a label volume (and a T2 series) to spherical maps and biomarkers."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imaging.compartments import in_compartments, split_x_mm
from imaging.errors import BadInputError, Reason
from imaging.labels import BONE_TISSUE, BONES, CARTILAGE_TISSUES, Bone, LabelVolume, Tissue
from imaging.morphometry import SkeletonThickness, skeleton_thickness, tissue_volumes_mm3
from imaging.projection import (
    CYLINDER_RADIUS_MM,
    LayerMeans,
    NormalCrossing,
    cross_cartilage,
    cylinder_means,
)
from imaging.registration import ShiftEstimate, estimate_shift_mm, resample_to_grid
from imaging.relaxometry import FitOptions, T2Fit, fit_t2, usable
from imaging.sphere import (
    FRAMES,
    HitRule,
    SphereFrame,
    SphereSampling,
    hidden_vertices,
    map_values,
    sample_sphere,
)
from imaging.surface import (
    BoneSurface,
    bone_surface,
    bounding_box,
    crop_shaft,
    largest_component,
)
from imaging.volume import EchoSeries, Side, Volume, index_to_world, to_knee_frame

ThicknessMethod = Literal["skeleton", "skeleton_subvoxel", "normal"]
THICKNESS_METHODS: tuple[ThicknessMethod, ...] = ("skeleton", "skeleton_subvoxel", "normal")

MAPS = ("bone_shape", "cartilage_thickness", "t2_superficial", "t2_deep", "t2_mean")
"""The five maps of a bone; a map whose input is missing is NaN throughout."""


@dataclass(frozen=True)
class MapParameters:
    """What a knee's numbers depend on besides its images.

    Attributes:
        thickness_method: the published one; the other two are reported beside it. 'skeleton' is
            the paper's.
        hit_rule: which hit of a ray counts where there are several.
        cylinder_radius_mm: of the projection along the normal.
        t2: how T2 is fitted.
        between_slices: how the T2 series is read between its slices.
        align_t2: whether the image-based shift is estimated where a structural scan is at hand.
    """

    thickness_method: ThicknessMethod = "skeleton"
    hit_rule: HitRule = "outermost"
    cylinder_radius_mm: float = CYLINDER_RADIUS_MM
    t2: FitOptions = field(default_factory=FitOptions)
    between_slices: Literal["linear", "nearest"] = "linear"
    align_t2: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: an unknown name or a radius that is none.
        """
        for what, value, names in (
            ("thickness_method", self.thickness_method, THICKNESS_METHODS),
            ("hit_rule", self.hit_rule, get_args(HitRule)),
            ("between_slices", self.between_slices, ("linear", "nearest")),
        ):
            if value not in names:
                raise ValueError(f"{what} is {value!r}; use one of {', '.join(names)}")
        if not 0 < self.cylinder_radius_mm < 10:
            raise ValueError(
                f"cylinder_radius_mm is {self.cylinder_radius_mm}; give millimetres, as 0.729"
            )


@dataclass(frozen=True)
class Biomarker:
    """A mean over a compartment of one bone.

    Thickness by the paper's method ('skeleton') is the mean over the skeleton pixels it is
    measured at, n of them. Everything else is an area-weighted mean over n surface vertices:
    'skeleton_projected' is that same thickness on the bone surface, which the maps show;
    `bone_shape` is taken over the whole surface within the map's range, the others over its
    cartilage-covered part. Units: mm, or ms for T2. `mean` and `sd` are None where n is 0.
    `area_mm2` is the surface area the values lie over.
    """

    bone: Bone
    compartment: str
    biomarker: str
    method: str
    is_default: bool
    mean: float | None
    sd: float | None
    n: int
    area_mm2: float


@dataclass(frozen=True)
class Agreement:
    """Mean on the surface against mean on the map, for the Bland-Altman check."""

    bone: Bone
    biomarker: str
    surface_mean: float
    map_mean: float
    map_mean_area_weighted: float
    n_surface: int
    n_map: int


@dataclass(frozen=True)
class T2Quality:
    """How the T2 fit of one bone's cartilage went."""

    bone: Bone
    n_voxel: int
    fraction_at_bound: float
    fraction_unfitted: float
    median_residual: float


@dataclass(frozen=True, eq=False)
class BoneMaps:
    """The spherical maps of one bone, arrays of shape (224 phi, 224 theta).

    Attributes:
        frame: axes of the maps.
        centroid_mm: where the rays start, knee frame.
        maps: the five maps of MAPS, NaN where nothing is measured.
        coverage: where the bone is covered by cartilage.
        multi_hit: where the hit rule mattered.
        area_mm2: surface area each pixel stands for.
        covered_share: covered share, by area, of the surface the map shows.
        multi_hit_share: share of pixels whose ray meets the surface more than once.
        hidden_cartilage_share: share of the covered surface the map cannot show; NaN without any.
    """

    frame: SphereFrame
    centroid_mm: NDArray[np.float64]
    maps: Mapping[str, NDArray[np.float64]]
    coverage: NDArray[np.bool_]
    multi_hit: NDArray[np.bool_]
    area_mm2: NDArray[np.float64]
    covered_share: float
    multi_hit_share: float
    hidden_cartilage_share: float


@dataclass(frozen=True, eq=False)
class KneeMaps:
    """Everything one knee-visit yields."""

    side: Side
    mirrored: bool
    scheme: str
    bones: Mapping[Bone, BoneMaps]
    biomarkers: list[Biomarker]
    agreement: list[Agreement]
    t2_quality: list[T2Quality]
    shift: ShiftEstimate | None
    volumes_mm3: Mapping[Tissue, float]
    seconds: dict[str, float]


class _Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def knee_maps(
    labels: LabelVolume,
    side: Side,
    *,
    t2_series: EchoSeries | None = None,
    structural: Volume | None = None,
    parameters: MapParameters | None = None,
) -> KneeMaps:
    """Maps and biomarkers of one knee.

    Args:
        labels: as delivered, in the patient's LPS.
        side: already checked against the anatomy (imaging.side).
        t2_series: multi-echo series in the same patient coordinate system; None leaves T2 out.
        structural: the scan the labels were drawn on, for the image-based shift of the T2 series.
        parameters: defaults are the paper's reading.

    Returns:
        Bones whose label is absent are left out. A left knee is mirrored into the right-knee
        frame.

    Raises:
        BadInputError: BAD_SURFACE where a bone is a few stray voxels.
    """
    parameters = parameters or MapParameters()
    watch = _Stopwatch()
    with watch("orient"):
        in_frame = to_knee_frame(labels, side)
        labels = replace(labels, array=in_frame.array, affine=in_frame.affine)
        if t2_series is not None:
            t2_series = to_knee_frame(t2_series, side)
    bones: tuple[Bone, ...] = tuple(bone for bone in BONES if labels.bone(bone).any())
    shift = None
    if t2_series is not None and structural is not None and parameters.align_t2:
        with watch("align"):
            shift = estimate_shift_mm(t2_series.echo(0), to_knee_frame(structural, side))
    maps: dict[Bone, BoneMaps] = {}
    biomarkers: list[Biomarker] = []
    agreement: list[Agreement] = []
    quality: list[T2Quality] = []
    for bone in bones:
        with watch("orient"):
            around = _around_bone(labels, bone)
        surface, measured, crossing, skeleton = _measure_surface(around, bone, parameters, watch)
        if t2_series is not None:
            t2, bone_quality = _measure_t2(
                around, bone, surface, crossing, t2_series, shift, parameters, watch
            )
            measured |= t2
            if bone_quality is not None:
                quality.append(bone_quality)
        with watch("sphere"):
            sampling = sample_sphere(surface, FRAMES[bone], hit_rule=parameters.hit_rule)
            maps[bone] = _bone_maps(surface, sampling, measured, crossing, parameters)
        with watch("biomarkers"):
            split_mm = split_x_mm(around, surface, bone)
            biomarkers += _biomarkers(bone, surface, measured, split_mm, parameters)
            biomarkers += _skeleton_biomarkers(
                bone, skeleton, surface, crossing, split_mm, parameters
            )
            agreement += _agreement(bone, surface, measured, maps[bone], parameters)
    with watch("volumes"):
        volumes = tissue_volumes_mm3(labels)
    return KneeMaps(
        side,
        side == "LEFT",
        labels.scheme.name,
        maps,
        biomarkers,
        agreement,
        quality,
        shift,
        volumes,
        watch.seconds,
    )


def _around_bone(labels: LabelVolume, bone: Bone) -> LabelVolume:
    """The part of a label volume that holds a bone and its cartilage."""
    mask = labels.mask(BONE_TISSUE[bone], *CARTILAGE_TISSUES[bone])
    box = bounding_box(mask)
    affine = labels.affine.copy()
    affine[:3, 3] = index_to_world(affine, np.array([edge.start for edge in box]))
    return replace(labels, array=labels.array[box], affine=affine)


def _measure_surface(
    labels: LabelVolume, bone: Bone, parameters: MapParameters, watch: _Stopwatch
) -> tuple[BoneSurface, dict[str, NDArray[np.float64]], NormalCrossing, SkeletonThickness]:
    """A bone's surface, bone shape and thickness at its vertices, coverage, the skeleton."""
    with watch("surface"):
        bone_mask = crop_shaft(largest_component(labels.bone(bone)), labels.affine, bone)
        surface = bone_surface(bone_mask, labels.affine)
    if len(surface.faces) == 0:
        raise BadInputError(
            Reason.BAD_SURFACE,
            f"the label's {bone}",
            f"is {int(bone_mask.sum())} voxel(s), too few for a surface",
            "Remove the stray voxels, or complete the segmentation of this bone",
        )
    with watch("thickness"):
        cartilage = labels.cartilage(bone)
        radius_mm = parameters.cylinder_radius_mm
        crossing = cross_cartilage(surface, cartilage, labels.affine, radius_mm=radius_mm)
        skeleton = skeleton_thickness(cartilage, labels.affine)
        over_skeleton = (
            cylinder_means(surface, crossing, skeleton.points_mm, values, radius_mm=radius_mm).mean
            for values in (skeleton.skeleton_mm, skeleton.chord_mm)
        )
        paper, chord = over_skeleton
        # A slice cuts a tilted sheet obliquely and sees it thicker than it is.
        tilt = np.clip(surface.normals @ skeleton.slice_normal, -1.0, 1.0)
    measured = {
        "bone_shape": np.where(
            FRAMES[bone].shows(surface.vertices_mm - surface.centroid_mm),
            np.linalg.norm(surface.vertices_mm - surface.centroid_mm, axis=1),
            np.nan,
        ),
        "skeleton": paper,
        "skeleton_subvoxel": chord * np.sqrt(1.0 - tilt**2),
        "normal": crossing.thickness_mm,
    }
    return surface, measured, crossing, skeleton


def _measure_t2(
    labels: LabelVolume,
    bone: Bone,
    surface: BoneSurface,
    crossing: NormalCrossing,
    t2_series: EchoSeries,
    shift: ShiftEstimate | None,
    parameters: MapParameters,
    watch: _Stopwatch,
) -> tuple[dict[str, NDArray[np.float64]], T2Quality | None]:
    """Per-vertex T2 of the whole cartilage and its halves, ms, and how the fit went."""
    cartilage = labels.cartilage(bone)
    if not cartilage.any():
        return {}, None
    with watch("t2_resample"):
        signals = resample_to_grid(
            t2_series,
            labels.affine,
            labels.array.shape,
            shift_mm=shift.shift_mm if shift is not None else (0.0, 0.0, 0.0),
            mask=cartilage,
            between_slices=parameters.between_slices,
        )
    with watch("t2_fit"):
        fit = fit_t2(signals, t2_series.echo_times_ms, parameters.t2)
    with watch("t2_project"):
        good = usable(fit)
        points_mm = index_to_world(labels.affine, np.argwhere(cartilage)[good])
        layers = cylinder_means(
            surface,
            crossing,
            points_mm,
            fit.t2_ms[good],
            radius_mm=parameters.cylinder_radius_mm,
        )
    return _t2_layers(layers), _t2_quality(bone, fit)


def _t2_layers(layers: LayerMeans) -> dict[str, NDArray[np.float64]]:
    return {
        "t2_superficial": layers.superficial,
        "t2_deep": layers.deep,
        "t2_mean": layers.mean,
    }


def _t2_quality(bone: Bone, fit: T2Fit) -> T2Quality:
    residual = fit.residual_rms[np.isfinite(fit.residual_rms)]
    return T2Quality(
        bone,
        len(fit.t2_ms),
        fit.fraction_at_bound,
        float(np.mean(~np.isfinite(fit.t2_ms))),
        float(np.median(residual)) if len(residual) else float("nan"),
    )


def _bone_maps(
    surface: BoneSurface,
    sampling: SphereSampling,
    measured: Mapping[str, NDArray[np.float64]],
    crossing: NormalCrossing,
    parameters: MapParameters,
) -> BoneMaps:
    """The five maps of a bone and what they cannot show."""
    nothing = np.full(len(surface.vertices_mm), np.nan)
    values = {
        "cartilage_thickness": measured[parameters.thickness_method],
        **{name: measured.get(name, nothing) for name in MAPS[2:]},
    }
    covered = np.where(crossing.covered, 1.0, 0.0)
    coverage = map_values(sampling, surface, covered) > 0.5
    hidden = hidden_vertices(
        surface, sampling.frame, crossing.covered, hit_rule=parameters.hit_rule
    )
    area = surface.vertex_area_mm2
    covered_area = area[crossing.covered].sum()
    return BoneMaps(
        sampling.frame,
        surface.centroid_mm,
        {"bone_shape": sampling.rho_mm}
        | {name: map_values(sampling, surface, value) for name, value in values.items()},
        coverage,
        sampling.multi_hit,
        sampling.area_mm2,
        float(sampling.area_mm2[coverage].sum() / sampling.area_mm2.sum()),
        float(sampling.multi_hit.mean()),
        float(area[hidden].sum() / covered_area) if covered_area > 0 else float("nan"),
    )


def _biomarkers(
    bone: Bone,
    surface: BoneSurface,
    measured: Mapping[str, NDArray[np.float64]],
    split_mm: float,
    parameters: MapParameters,
) -> list[Biomarker]:
    """One row per compartment, biomarker and method."""
    members = in_compartments(surface.vertices_mm[:, 0], split_mm)
    rows = []
    for name, values in measured.items():
        biomarker, method = _biomarker_and_method(name, parameters)
        default = biomarker != "cartilage_thickness" or method == parameters.thickness_method
        for compartment, member in members.items():
            inside = member & np.isfinite(values)
            area = surface.vertex_area_mm2[inside]
            mean, sd = _weighted(values[inside], area)
            rows.append(
                Biomarker(
                    bone,
                    compartment,
                    biomarker,
                    method,
                    default,
                    mean,
                    sd,
                    int(inside.sum()),
                    float(area.sum()),
                )
            )
    return rows


def _biomarker_and_method(name: str, parameters: MapParameters) -> tuple[str, str]:
    """What a measured quantity is called in the biomarkers table."""
    if name == "skeleton":
        return "cartilage_thickness", "skeleton_projected"
    if name in THICKNESS_METHODS:
        return "cartilage_thickness", name
    return name, "centroid_distance" if name == "bone_shape" else parameters.t2.model


def _skeleton_biomarkers(
    bone: Bone,
    skeleton: SkeletonThickness,
    surface: BoneSurface,
    crossing: NormalCrossing,
    split_mm: float,
    parameters: MapParameters,
) -> list[Biomarker]:
    """The paper's thickness where it is measured: at the skeleton pixels of the slices."""
    over_surface = in_compartments(surface.vertices_mm[:, 0], split_mm)
    rows = []
    for compartment, member in in_compartments(skeleton.points_mm[:, 0], split_mm).items():
        values = skeleton.skeleton_mm[member]
        mean, sd = _weighted(values, np.ones(len(values)))
        covered = crossing.covered & over_surface[compartment]
        rows.append(
            Biomarker(
                bone,
                compartment,
                "cartilage_thickness",
                "skeleton",
                parameters.thickness_method == "skeleton",
                mean,
                sd,
                len(values),
                float(surface.vertex_area_mm2[covered].sum()),
            )
        )
    return rows


def _weighted(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """Weighted mean and standard deviation; None for nothing."""
    if len(values) == 0:
        return None, None
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def _agreement(
    bone: Bone,
    surface: BoneSurface,
    measured: Mapping[str, NDArray[np.float64]],
    maps: BoneMaps,
    parameters: MapParameters,
) -> list[Agreement]:
    """Surface against map for each biomarker that was measured."""
    rows = []
    for name, on_map in maps.maps.items():
        key = parameters.thickness_method if name == "cartilage_thickness" else name
        values = measured.get(key)
        if values is None:
            continue
        on_surface, seen = np.isfinite(values), np.isfinite(on_map)
        if not (on_surface.any() and seen.any()):
            continue
        rows.append(
            Agreement(
                bone,
                name,
                float(np.average(values[on_surface], weights=surface.vertex_area_mm2[on_surface])),
                float(on_map[seen].mean()),
                float(np.average(on_map[seen], weights=maps.area_mm2[seen])),
                int(on_surface.sum()),
                int(seen.sum()),
            )
        )
    return rows
