"""Which point of one bone's surface is the same anatomical point on another's.

The target is turned, moved and scaled onto the source, then the source is bent by a smooth
displacement until both surfaces lie on each other. The displacement is a Gaussian process (Lüthi
2018, doi 10.1109/TPAMI.2017.2739743; the motion coherence of Coherent Point Drift is the same
prior): a sum of Gaussian kernels of several widths, so that near points move alike. Samples are
drawn by area, so the answer does not depend on how either surface is triangulated.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial import cKDTree

from imaging.displacement import DisplacementPrior, displacement, most_probable_weights
from imaging.errors import BadInputError, Reason
from imaging.similarity import (
    MIN_COSINE,
    Similarity,
    find_similarity,
    gap_mm,
    middle_and_radius,
    mirrored,
)
from imaging.surface_features import FlatEnd, curvatures, flat_end
from imaging.triangles import (
    BoolArray,
    FloatArray,
    Samples,
    Surface,
    area_vectors,
    areas,
    closest_on_faces,
    faces_around,
    near_border,
    sample,
    unit,
    vertex_normals,
)

_FEMUR_RADIUS_MM = 35.0
"""Root mean square radius of an adult femur's end: lengths in the options are for such a bone and
shrink with smaller ones."""

_ON_BORDER_MM = 0.2
"""A place this near to the border is where the target was left."""

_RIM_MM = 3.0
"""How far below a cut the surface still belongs to it: its edge is rounded by smoothing."""

_CUT_MM, _CUT_COSINE = 1.0, 0.9
"""A vertex lies on a cut that is so near below it and faces its way."""

_SHARPEST = 1.5
"""Curvatures count up to this many times 1 / `curvature_radius_mm`: ridges are noisy."""

_FACING_MM = 10.0
"""Distance that a difference of normals of one radian counts for when vertices are set down."""

_NEAR_MM, _MIRRORED_SHARE = 2.0, 0.85
"""Only a source farther off than this may be of the other side. Measured on bones of a shape model
and of an osteoarthritic knee, left against right: femora and tibiae lie 2.8 to 3.9 mm off and
patellae, half as large, 1.3 to 2.2 mm, which is 1.2 to 4 times as far as their mirror images."""

_STEP_MM = 0.01
"""For the derivative of the displacement."""


@dataclass(frozen=True)
class CorrespondenceOptions:
    """How surfaces are matched.

    Lengths are for a bone of the size of an adult femur's end; they shrink with smaller ones.

    Attributes:
        prior: which displacements are expected.
        noise_mm: expected distance between the surfaces, one value per iteration, falling.
        tangential: weight of the distance within the surface against that along the normal, where
            maximum and minimum curvature differ by 1 / `curvature_radius_mm` or more; less where
            they differ less.
        normal_mm: distance that a difference of normals of one radian counts for in matching.
        curvature_mm: distance that a difference of curvature of 1 / `curvature_radius_mm` does.
        curvature_radius_mm: radius of the neighbourhood curvatures are fitted over.
        n_source, n_target, n_backward: samples of the source, of the target, and of the target's
            that look for their match on the source.
        max_distance_mm, max_flipped_share, max_log_area_sd, max_energy, max_aspect, max_scale,
            max_rotation_deg, max_unmatched_share: a match beyond any of them has failed. Measured
            (largest; turning aside): bones of one shape model 0.05 mm, 0.0001, 0.15, 0.18, 1.29
            (femora 1.08, tibiae 1.14), 1.04, 0.03; between it and a knee with osteophytes 0.23 mm,
            0.04, 0.62, 1.04, 1.22, 1.13, 0.1.
            Another bone has an energy of 1.26 to 2.9 or a scale of 1.26 to 2.8, half a femur a log
            area of 0.65, a tibia or patella that lacks a third of its width an aspect of 1.33 to 2.
        check_side: whether a target whose mirror image fits better is refused. A nearly symmetric
            patella with a large lesion can look so; leave it out where the side is known.
    """

    prior: DisplacementPrior = field(default_factory=DisplacementPrior)
    noise_mm: tuple[float, ...] = (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.4, 0.3, 0.3, 0.3)
    tangential: float = 0.08
    normal_mm: float = 15.0
    curvature_mm: float = 8.0
    curvature_radius_mm: float = 5.0
    n_source: int = 2500
    n_target: int = 20000
    n_backward: int = 2500
    max_distance_mm: float = 0.5
    max_flipped_share: float = 0.05
    max_log_area_sd: float = 0.63
    max_energy: float = 1.2
    max_aspect: float = 1.38
    max_scale: float = 1.3
    max_rotation_deg: float = 60.0
    max_unmatched_share: float = 0.3
    check_side: bool = True


DEFAULT_OPTIONS = CorrespondenceOptions()


@dataclass(frozen=True)
class CorrespondenceQuality:
    """How well a correspondence fits.

    Attributes:
        distance_mm: symmetric mean distance between the bent source and the target, before the
            source's points are set onto the target; borders left out.
        distance_p95_mm: its 95th percentile.
        unmatched_share: of the source's samples, those that found no match.
        flipped_share: of the source's triangles, those turned over on the target.
        log_area_sd: spread of the logarithm of the triangles' change of area by bending; 0 is none.
        energy: mean square of the displacement's weights; 1 is what the prior expects.
        aspect: of the linear map nearest to the match, its largest stretching over its smallest; 1
            where only the size differs.
        scale: size of the target over that of the source.
        rotation_deg: by how much the source was turned.
    """

    distance_mm: float
    distance_p95_mm: float
    unmatched_share: float
    flipped_share: float
    log_area_sd: float
    energy: float
    aspect: float
    scale: float
    rotation_deg: float


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Where the source's vertices lie on the target.

    Attributes:
        points_mm: on the target, one per vertex of the source, shape (n_vertex, 3).
        on_border: points the target does not reach: it ends before, shape (n_vertex,).
        quality: how well it fits.
    """

    points_mm: FloatArray
    on_border: BoolArray
    quality: CorrespondenceQuality


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """A source surface with all that does not depend on the target.

    Attributes:
        surface: the source.
        options: how it is matched.
        samples: of the surface, those at a cut marked as border too.
        end: where the bone was cut off.
        radius: of the bone, mm.
        curvature: of the samples, `curvatures`, shape (n_source, 2).
        basis: displacement of the samples by each weight, shape (n_source, n_basis).
        tangents: two directions within the surface at each sample, shape (2, n_source, 3).
        tangent_basis: change of those by each weight, shape (2, n_source, n_basis).
        vertex_basis: as basis, of the vertices, shape (n_vertex, n_basis).
        vertex_cut: vertices on a cut, which no other bone has, shape (n_vertex,).
    """

    surface: Surface
    options: CorrespondenceOptions
    samples: Samples
    end: FlatEnd | None
    radius: float
    curvature: FloatArray
    basis: FloatArray
    tangents: FloatArray
    tangent_basis: FloatArray
    vertex_basis: FloatArray
    vertex_cut: BoolArray

    @property
    def size(self) -> float:
        """By which the lengths in the options are multiplied."""
        return self.radius / _FEMUR_RADIUS_MM

    def bent(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Places and normals of the samples, displaced by weights (n_basis, 3), (n_source, 3)."""
        across, along = self.tangents + self.tangent_basis @ weights
        return self.samples.points + self.basis @ weights, unit(np.cross(across, along))


def prepare_source(
    surface: Surface, options: CorrespondenceOptions = DEFAULT_OPTIONS
) -> PreparedSource:
    """Work out once what every match of a source needs.

    Raises:
        BadInputError: BAD_SURFACE, a surface without area.
    """
    _require_usable(surface, "the reference")
    dense = sample(surface, options.n_target)
    end = flat_end(surface, dense)
    step = max(1, options.n_target // options.n_source)
    samples = _bounded(dense.every(step), end)
    middle, radius = middle_and_radius(samples, end)
    size = radius / _FEMUR_RADIUS_MM
    process = displacement(samples.points, middle, radius, size, options.prior)
    basis = process.basis(samples.points)
    tangents = _tangents(samples.normals)
    return PreparedSource(
        surface=surface,
        options=options,
        samples=samples,
        end=end,
        radius=radius,
        curvature=curvatures(dense, options.curvature_radius_mm * size)[::step],
        basis=basis,
        tangents=tangents,
        tangent_basis=np.stack(
            [
                (process.basis(samples.points + _STEP_MM * way) - basis) / _STEP_MM
                for way in tangents
            ]
        ),
        vertex_basis=process.basis(surface.vertices_mm),
        vertex_cut=_on_cut(surface, end),
    )


def correspond(
    source: Surface | PreparedSource,
    target: Surface,
    options: CorrespondenceOptions | None = None,
    *,
    name: str = "the surface",
) -> Correspondence:
    """Find every vertex of the source on the target.

    Both surfaces are of the same bone and side, turned against each other by up to some 40
    degrees. Deterministic: the same surfaces give the same bytes.

    Args:
        source: for instance the reference knee's bone; prepared, where many are matched with it.
        target: another knee's.
        options: how they are matched; a prepared source has its own.
        name: of the target, for messages.

    Raises:
        BadInputError: BAD_SURFACE, a surface without area, or a match that failed.
        ValueError: options besides those the source was prepared with.
    """
    if isinstance(source, Surface):
        source = prepare_source(source, options or DEFAULT_OPTIONS)
    elif options not in (None, source.options):
        raise ValueError("a prepared source is matched with the options it was prepared with")
    _require_usable(target, name)
    dense = sample(target, source.options.n_target)
    end = flat_end(target, dense)
    found = _bounded(dense, end)
    similarity = find_similarity(source.samples, found, source.end, end)
    if source.options.check_side:
        _require_same_side(source, found, end, similarity, name)
    # From here on in the source's frame and size, where its basis is known.
    back = similarity.inverse()
    placed = Surface(back(target.vertices_mm), target.faces)
    moved = replace(found, points=back(found.points), normals=found.normals @ similarity.rotation)
    weights, unmatched = _bend(source, moved)
    bent = source.surface.vertices_mm + source.vertex_basis @ weights
    points, outward, on_border = _set_onto(source, bent, placed, moved)
    if end is not None:
        on_border |= similarity(bent) @ end.direction > end.height - _CUT_MM
    quality = _quality(
        source, weights, bent, points, outward, on_border, moved, similarity, unmatched
    )
    _require_fit(quality, source.size, source.options, name)
    return Correspondence(similarity(points), on_border, quality)


def place(source: Surface, target: Surface) -> FloatArray:
    """The source turned, moved and scaled onto the target, not bent, shape (n_vertex, 3)."""
    dense, found = (sample(surface, DEFAULT_OPTIONS.n_target) for surface in (source, target))
    few = dense.every(DEFAULT_OPTIONS.n_target // DEFAULT_OPTIONS.n_source)
    ends = flat_end(source, dense), flat_end(target, found)
    moved = find_similarity(_bounded(few, ends[0]), _bounded(found, ends[1]), *ends)
    return moved(source.vertices_mm)


def _tangents(normals: FloatArray) -> FloatArray:
    """Two unit vectors across each normal; their cross product is the normal, shape (2, n, 3)."""
    helper = np.where(np.abs(normals[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    across = unit(np.cross(normals, helper))
    return np.stack([across, np.cross(normals, across)])


def _bounded(samples: Samples, end: FlatEnd | None) -> Samples:
    """Samples with a cut, and its rim, as border: another bone may have been cut elsewhere."""
    if end is None:
        return samples
    cut = samples.points @ end.direction > end.height - _RIM_MM
    return replace(samples, border=samples.border | cut)


def _on_cut(surface: Surface, end: FlatEnd | None) -> BoolArray:
    if end is None:
        return np.zeros(len(surface.vertices_mm), dtype=bool)
    at_height = surface.vertices_mm @ end.direction > end.height - _CUT_MM
    return at_height & (vertex_normals(surface) @ end.direction > _CUT_COSINE)


def _bend(source: PreparedSource, target: Samples) -> tuple[FloatArray, float]:
    """Weights of the displacement, (n_basis, 3), and the share of samples without a match."""
    options, size, own = source.options, source.size, source.samples

    def features(points: FloatArray, normals: FloatArray, curvature: FloatArray) -> FloatArray:
        return np.concatenate(
            [
                points,
                options.normal_mm * size * normals,
                options.curvature_mm * size * np.clip(curvature, -_SHARPEST, _SHARPEST),
            ],
            axis=1,
        )

    curvature = curvatures(target, options.curvature_radius_mm * size)
    theirs = features(target.points, target.normals, curvature)
    tree = cKDTree(theirs)
    some = slice(None, None, max(1, len(target.points) // options.n_backward))
    asking, asked = target.every(some.step), theirs[some]
    # Where a surface curves alike in all directions nothing tells a place from the one beside it.
    telling = np.minimum(source.curvature[:, 0] - source.curvature[:, 1], 1.0)
    weights = np.zeros((source.basis.shape[1], 3))
    unmatched = 1.0
    for noise in options.noise_mm:
        points, normals = source.bent(weights)
        ours = features(points, normals, source.curvature)
        _, onto = tree.query(ours)
        _, back = cKDTree(ours).query(asked)
        # What looks past the end of the other surface has no match there.
        forward = ~target.border[onto] & ~own.border
        forward &= (target.normals[onto] * normals).sum(axis=1) > MIN_COSINE
        backward = ~own.border[back] & ~asking.border
        backward &= (asking.normals * normals[back]).sum(axis=1) > MIN_COSINE
        unmatched = float(1 - forward[~own.border].mean())
        rows = np.concatenate([np.flatnonzero(forward), back[backward]])
        there = np.concatenate([target.points[onto[forward]], asking.points[backward]])
        weights = most_probable_weights(
            source.basis,
            rows,
            np.concatenate([target.normals[onto[forward]], asking.normals[backward]]),
            there - own.points[rows],
            np.linalg.norm(there - points[rows], axis=1),
            noise * size,
            options.tangential * telling[rows],
        )
    return weights, unmatched


def _set_onto(
    source: PreparedSource, bent: FloatArray, target: Surface, samples: Samples
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Places of the bent vertices on the target, its normals there, and which lie past its end."""
    # Normals count, so that a vertex does not fall onto the far side of a thin place.
    facing = _FACING_MM * source.size
    normals = vertex_normals(Surface(bent, source.surface.faces))
    _, nearest = cKDTree(np.concatenate([samples.points, facing * samples.normals], axis=1)).query(
        np.concatenate([bent, facing * normals], axis=1)
    )
    points, face = closest_on_faces(
        bent,
        samples.face[nearest],
        target.vertices_mm,
        target.faces,
        *faces_around(target.faces, len(target.vertices_mm)),
    )
    outward = unit(area_vectors(target.vertices_mm, target.faces[face]))
    return points, outward, source.vertex_cut | near_border(points, target, _ON_BORDER_MM)


def _quality(
    source: PreparedSource,
    weights: FloatArray,
    bent: FloatArray,
    placed: FloatArray,
    outward: FloatArray,
    on_border: BoolArray,
    target: Samples,
    similarity: Similarity,
    unmatched: float,
) -> CorrespondenceQuality:
    own = source.samples
    points, normals = source.bent(weights)
    asking = target.every(len(target.points) // len(points))
    distance = np.concatenate(
        [
            _distance_along_normals(
                points, own.border, target.points, target.normals, target.border
            ),
            _distance_along_normals(asking.points, asking.border, points, normals, own.border),
        ]
    )
    distance *= similarity.scale
    faces = source.surface.faces[~on_border[source.surface.faces].any(axis=1)]
    flipped = (area_vectors(placed, faces) * outward[faces].sum(axis=1)).sum(axis=1) < 0
    growth = np.log(areas(bent, faces) / areas(source.surface.vertices_mm, faces))
    return CorrespondenceQuality(
        distance_mm=float(distance.mean()) if len(distance) else np.inf,
        distance_p95_mm=float(np.percentile(distance, 95)) if len(distance) else np.inf,
        unmatched_share=unmatched,
        flipped_share=float(flipped.mean()) if len(faces) else 1.0,
        log_area_sd=float(np.std(growth)) if len(faces) else np.inf,
        energy=float((weights**2).mean()),
        aspect=_aspect(source.surface.vertices_mm[~on_border], placed[~on_border]),
        scale=similarity.scale,
        rotation_deg=similarity.rotation_deg,
    )


def _aspect(points: FloatArray, placed: FloatArray) -> float:
    """Largest over smallest stretching of the linear map that takes points nearest to places."""
    if len(points) < 4:
        return np.inf
    linear = np.linalg.lstsq(points - points.mean(axis=0), placed - placed.mean(axis=0))[0]
    stretching = np.linalg.svd(linear, compute_uv=False)
    return float(stretching[0] / stretching[-1]) if stretching[-1] > 0 else np.inf


def _distance_along_normals(
    points: FloatArray,
    border: BoolArray,
    others: FloatArray,
    normals: FloatArray,
    other_border: BoolArray,
) -> FloatArray:
    """Distance of points from the surface that others are samples of, those at a border left out.

    Along the normal: the samples are millimetres apart, the surfaces are not. Where a sample is
    much farther than its fellows, it faces the other surface across a gap.
    """
    away, onto = cKDTree(others).query(points)
    along = np.abs(((points - others[onto]) * normals[onto]).sum(axis=1))
    along = np.where(away > 3 * np.median(away) + 1.0, away, along)
    return along[~border & ~other_border[onto]]


def _require_usable(surface: Surface, whose: str) -> None:
    remedy = "Look at the bone with `kneelake view`, and correct its segmentation"
    if len(surface.faces) == 0 or not np.isfinite(surface.vertices_mm).all():
        raise BadInputError(
            Reason.BAD_SURFACE,
            whose,
            "the surface is empty or has points that are no numbers",
            remedy,
        )
    if np.linalg.norm(area_vectors(surface.vertices_mm, surface.faces), axis=1).sum() <= 0:
        raise BadInputError(Reason.BAD_SURFACE, whose, "the surface has no area", remedy)


def _require_same_side(
    source: PreparedSource, target: Samples, end: FlatEnd | None, found: Similarity, name: str
) -> None:
    """Refuse a target whose mirror image is clearly nearer to the source than it is itself."""
    gap = gap_mm(found, source.samples, target)
    if gap < _NEAR_MM * source.size:
        return
    turned = target.points @ found.rotation
    other, other_end = mirrored(
        replace(target, points=turned, normals=target.normals @ found.rotation),
        None if end is None else FlatEnd(end.direction @ found.rotation, end.height),
    )
    as_other = find_similarity(source.samples, other, source.end, other_end)
    other_gap = gap_mm(as_other, source.samples, other)
    if other_gap < _MIRRORED_SHARE * gap:
        raise BadInputError(
            Reason.BAD_SURFACE,
            name,
            f"it could not be matched with the reference: its mirror image fits better "
            f"({other_gap:.1f} mm off, itself {gap:.1f} mm)",
            "Check the knee's side: the reference is a right knee, or a left one mirrored",
        )


def _require_fit(
    quality: CorrespondenceQuality, size: float, options: CorrespondenceOptions, name: str
) -> None:
    limits = (
        (
            quality.distance_mm,
            options.max_distance_mm * size * quality.scale,
            "mm between it and the reference",
        ),
        (quality.flipped_share, options.max_flipped_share, "of the triangles upside down"),
        (quality.log_area_sd, options.max_log_area_sd, "log area of stretching"),
        (quality.energy, options.max_energy, "times the bending expected"),
        (
            quality.aspect,
            options.max_aspect,
            "times as long one way as another, beside the reference",
        ),
        (max(quality.scale, 1 / quality.scale), options.max_scale, "times as large or small"),
        (quality.rotation_deg, options.max_rotation_deg, "degrees turned against it"),
        (quality.unmatched_share, options.max_unmatched_share, "of the reference without match"),
    )
    for value, limit, what in limits:
        if not value <= limit:
            raise BadInputError(
                Reason.BAD_SURFACE,
                name,
                f"it could not be matched with the reference: {value:.3g} {what}, at most "
                f"{limit:.3g}",
                "Look at the bone with `kneelake view`: it may be another bone or side, or cut by "
                "the field of view; correct its segmentation",
            )
