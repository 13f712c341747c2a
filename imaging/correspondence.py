"""Which point of one bone's surface is the same anatomical point on another's.

The source surface is turned, moved and scaled onto the target, then bent by a smooth displacement
until both surfaces lie on each other. The displacement is a Gaussian process (Lüthi 2018, doi
10.1109/TPAMI.2017.2739743; the motion coherence of Coherent Point Drift is the same prior): a sum
of Gaussian kernels of several widths, so that near points move alike. Only the distance along the
normal is asked to vanish, since a surface says nothing about motion within itself; there the
prior decides, and this is what keeps landmarks in place. Samples are drawn by area, so the answer
does not depend on how either surface is triangulated.

The paper matches curvatures and spectral coordinates by Coherent Point Drift instead (Methods,
"Grad-CAM model interpretation"); docs/decisions.md has both methods' errors on known
correspondences.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from imaging.errors import BadInputError, Reason

FloatArray = NDArray[np.float64]

_FEMUR_RADIUS_MM = 35.0
"""Root mean square radius of an adult femur's end: lengths in the options are for such a bone and
shrink with smaller ones."""

_MIN_COSINE = 0.5
"""Points whose normals differ by more than 60 degrees are no match."""

_ICP_TOLERANCE = 1e-5

_ON_BORDER_MM = 0.2
"""A place this near to the border is where the target was left."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangulated surface, closed or with a border.

    Attributes:
        vertices_mm: shape (n_vertex, 3).
        faces: shape (n_face, 3), counter-clockwise seen from outside.
    """

    vertices_mm: FloatArray
    faces: NDArray[np.int64]


@dataclass(frozen=True)
class CorrespondenceOptions:
    """How surfaces are matched.

    Attributes:
        kernel_mm: widths (standard deviations) of the displacement's kernels.
        amplitude_mm: expected displacement of each kernel.
        affine_mm: expected displacement by stretching and shearing, at one radius from the middle.
        noise_mm: expected distance between the surfaces, one value per iteration, falling.
        tangential: weight of the distance within the surface against that along the normal.
        n_source, n_target, n_backward: samples of the source, of the target, and of the target's
            that look for their match on the source.
        n_control: points the kernels are centred at.
        max_distance_mm, max_flipped_share, max_energy, max_scale, max_unmatched_share: a match
            beyond any of them has failed. Bones of the same kind and side reach 0.04 mm, 0, 0.16,
            1.02 and 0; another bone 0.10 mm, 0.005, 0.8, 2.1, 0.004; a mirrored femur has 0.4.
    """

    kernel_mm: tuple[float, ...] = (80.0, 40.0, 20.0, 10.0)
    amplitude_mm: tuple[float, ...] = (8.0, 6.0, 4.0, 2.0)
    affine_mm: float = 5.0
    noise_mm: tuple[float, ...] = (4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.4, 0.3, 0.3)
    tangential: float = 0.02
    n_source: int = 2500
    n_target: int = 20000
    n_backward: int = 2500
    n_control: int = 150
    max_distance_mm: float = 0.5
    max_flipped_share: float = 0.005
    max_energy: float = 0.5
    max_scale: float = 1.6
    max_unmatched_share: float = 0.4


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
        scale: size of the target over that of the source.
        rotation_deg: by how much the source was turned.
    """

    distance_mm: float
    distance_p95_mm: float
    unmatched_share: float
    flipped_share: float
    log_area_sd: float
    energy: float
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
    on_border: NDArray[np.bool_]
    quality: CorrespondenceQuality


@dataclass(frozen=True, eq=False)
class _Samples:
    """Points spread over a surface by area, with their normals and whether at its border."""

    points: FloatArray
    normals: FloatArray
    border: NDArray[np.bool_]
    tree: cKDTree = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.points))


@dataclass(frozen=True, eq=False)
class _Similarity:
    scale: float
    rotation: FloatArray
    translation: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        return self.scale * points @ self.rotation.T + self.translation


@dataclass(frozen=True, eq=False)
class _Displacement:
    """A low-rank Gaussian process: displacement = basis(point) @ weights, weights ~ N(0, 1)."""

    centres: FloatArray
    middle: FloatArray
    whitening: FloatArray
    radius: float
    options: CorrespondenceOptions

    def covariance(self, points: FloatArray) -> FloatArray:
        return _covariance(points, self.centres, self.middle, self.radius, self.options)

    def basis(self, points: FloatArray) -> FloatArray:
        return self.covariance(points) @ self.whitening


def correspond(
    source: Surface,
    target: Surface,
    options: CorrespondenceOptions = DEFAULT_OPTIONS,
    *,
    name: str = "the surface",
) -> Correspondence:
    """Find every vertex of the source on the target.

    Both surfaces are of the same bone and side, turned against each other by up to some 40
    degrees. Deterministic: the same surfaces give the same bytes.

    Args:
        source: for instance the reference knee's bone.
        target: another knee's.
        options: how they are matched.
        name: of the target, for messages.

    Raises:
        BadInputError: BAD_SURFACE, a surface without area, or a match that failed.
    """
    for surface, whose in ((source, "the reference"), (target, name)):
        _require_usable(surface, whose)
    found = _sample(target, options.n_target)
    start = _sample(source, options.n_source)
    similarity = _similarity(start, found)
    moved = _Samples(similarity(start.points), start.normals @ similarity.rotation.T, start.border)
    vertices = similarity(source.vertices_mm)
    displacement = _displacement(moved.points, options)
    weights, unmatched = _bend(moved, vertices, source.faces, found, displacement, options)
    bent = Surface(vertices + displacement.basis(vertices) @ weights, source.faces)
    points, on_border = _set_onto(bent, target, found)
    quality = _quality(
        bent, points, on_border, vertices, found, similarity, unmatched, float((weights**2).mean())
    )
    _require_fit(quality, displacement.radius, options, name)
    return Correspondence(points, on_border, quality)


def place(source: Surface, target: Surface) -> FloatArray:
    """The source turned, moved and scaled onto the target, not bent, shape (n_vertex, 3)."""
    samples = _sample(target, DEFAULT_OPTIONS.n_target)
    return _similarity(_sample(source, DEFAULT_OPTIONS.n_source), samples)(source.vertices_mm)


def vertex_normals(surface: Surface) -> FloatArray:
    """Outward unit normals, area-weighted means of the triangles', shape (n_vertex, 3)."""
    weighted = _area_vectors(surface.vertices_mm, surface.faces)
    total = np.zeros_like(surface.vertices_mm)
    for corner in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(
                surface.faces[:, corner], weighted[:, axis], minlength=len(total)
            )
    return _unit(total)


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _area_vectors(vertices: FloatArray, faces: NDArray[np.int64]) -> FloatArray:
    """Normals of the triangles, as long as their areas."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a) / 2


def _area(vertices: FloatArray, faces: NDArray[np.int64]) -> FloatArray:
    return np.maximum(np.linalg.norm(_area_vectors(vertices, faces), axis=1), 1e-12)


def _border_edges(surface: Surface) -> NDArray[np.int64]:
    """Edges that only one triangle has, as pairs of vertices, shape (n_edge, 2)."""
    edges = np.concatenate([surface.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    n = len(surface.vertices_mm)
    keys, count = np.unique(edges.min(axis=1) * n + edges.max(axis=1), return_counts=True)
    once = keys[count == 1]
    return np.column_stack([once // n, once % n])


def _border_vertices(surface: Surface) -> NDArray[np.bool_]:
    border = np.zeros(len(surface.vertices_mm), dtype=bool)
    border[_border_edges(surface).ravel()] = True
    return border


def _sample(surface: Surface, n: int) -> _Samples:
    """Points spread evenly by area: stratified over the triangles, golden-ratio inside them."""
    area = np.linalg.norm(_area_vectors(surface.vertices_mm, surface.faces), axis=1)
    reached = np.cumsum(area) / area.sum()
    face = np.minimum(np.searchsorted(reached, (np.arange(n) + 0.5) / n), len(area) - 1)
    first = np.sqrt((np.arange(n) * 0.7548776662466927) % 1.0)
    second = (np.arange(n) * 0.5698402909980532) % 1.0
    weights = np.stack([1 - first, first * (1 - second), first * second], axis=1)
    corners = surface.faces[face]
    normals = vertex_normals(surface)
    return _Samples(
        np.einsum("nk,nkd->nd", weights, surface.vertices_mm[corners]),
        _unit(np.einsum("nk,nkd->nd", weights, normals[corners])),
        np.asarray(_border_vertices(surface)[corners].any(axis=1)),
    )


def _similarity(source: _Samples, target: _Samples) -> _Similarity:
    """Iterative closest points, matched both ways, from the centres and sizes on."""
    spread = [np.sqrt(np.var(samples.points, axis=0).sum()) for samples in (target, source)]
    scale = float(spread[0] / spread[1])
    found = _Similarity(
        scale, np.eye(3), target.points.mean(axis=0) - scale * source.points.mean(axis=0)
    )
    some = slice(None, None, max(1, len(target.points) // len(source.points)))
    for _ in range(60):
        moved = found(source.points)
        _, onto = target.tree.query(moved)
        _, back = cKDTree(moved).query(target.points[some])
        previous = found
        found = _procrustes(
            np.concatenate([source.points, source.points[back]]),
            np.concatenate([target.points[onto], target.points[some]]),
        )
        if np.abs(found.rotation - previous.rotation).max() < _ICP_TOLERANCE:
            break
    return _slide(found, source, target)


def _slide(start: _Similarity, source: _Samples, target: _Samples) -> _Similarity:
    """The similarity of least distance along the normals, from a near one on (Chen 1991).

    Closest points hold each other back, so matching points stops short of the best turn on a round
    bone; the distance along the normal does not resist sliding.
    """
    found = start
    for _ in range(20):
        points = found(source.points)
        _, onto = target.tree.query(points)
        facing = (target.normals[onto] * (source.normals @ found.rotation.T)).sum(axis=1)
        used = (facing > _MIN_COSINE) & ~target.border[onto] & ~source.border
        normals, middle = target.normals[onto[used]], points.mean(axis=0)
        arms = points[used] - middle
        slopes = np.column_stack(
            [np.cross(arms, normals), normals, (arms * normals).sum(axis=1)[:, None]]
        )
        gaps = ((target.points[onto[used]] - points[used]) * normals).sum(axis=1)
        step = np.linalg.lstsq(slopes, gaps, rcond=None)[0]
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        growth = 1 + step[6]
        found = _Similarity(
            found.scale * growth,
            turn @ found.rotation,
            growth * turn @ (found.translation - middle) + middle + step[3:6],
        )
        if np.abs(step[:3]).max() < _ICP_TOLERANCE:
            break
    return found


def _procrustes(source: FloatArray, target: FloatArray) -> _Similarity:
    """The similarity that takes points nearest to others (Umeyama 1991)."""
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    left, values, right = np.linalg.svd((target - to_mean).T @ (source - from_mean))
    handed = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * handed) @ right
    scale = float((values * handed).sum() / ((source - from_mean) ** 2).sum())
    return _Similarity(scale, rotation, to_mean - scale * rotation @ from_mean)


def _covariance(
    points: FloatArray,
    centres: FloatArray,
    middle: FloatArray,
    radius: float,
    options: CorrespondenceOptions,
) -> FloatArray:
    """Covariance of the displacements of points and centres, shape (n_point, n_centre)."""
    size = radius / _FEMUR_RADIUS_MM
    squared = np.maximum(
        (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T,
        0.0,
    )
    stretch = 1 + (points - middle) @ (centres - middle).T / radius**2
    total = (options.affine_mm * size) ** 2 * stretch
    for width, amplitude in zip(options.kernel_mm, options.amplitude_mm, strict=True):
        total += (amplitude * size) ** 2 * np.exp(squared / (-2 * (width * size) ** 2))
    return total


def _displacement(points: FloatArray, options: CorrespondenceOptions) -> _Displacement:
    middle = points.mean(axis=0)
    radius = float(np.sqrt(((points - middle) ** 2).sum(axis=1).mean()))
    centres = points[_spread_out(points, options.n_control)]
    values, vectors = np.linalg.eigh(_covariance(centres, centres, middle, radius, options))
    kept = values > values[-1] * 1e-6
    whitening = vectors[:, kept] / np.sqrt(values[kept])
    return _Displacement(centres, middle, whitening, radius, options)


def _spread_out(points: FloatArray, n: int) -> NDArray[np.int64]:
    """Indices of points far from each other: each next one is the farthest from those taken."""
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(axis=1)
    for _ in range(min(n, len(points)) - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen)


def _bend(
    source: _Samples,
    vertices: FloatArray,
    faces: NDArray[np.int64],
    target: _Samples,
    displacement: _Displacement,
    options: CorrespondenceOptions,
) -> tuple[FloatArray, float]:
    """Weights of the displacement, (n_basis, 3), and the share of samples without a match."""
    size = displacement.radius / _FEMUR_RADIUS_MM
    basis = displacement.basis(source.points)
    at_vertices = displacement.basis(vertices)
    nearest_vertex = cKDTree(vertices).query(source.points)[1]
    every = max(1, len(target.points) // options.n_backward)
    asking = _Samples(target.points[::every], target.normals[::every], target.border[::every])
    weights = np.zeros((basis.shape[1], 3))
    unmatched = 1.0
    for noise in options.noise_mm:
        points = source.points + basis @ weights
        normals = vertex_normals(Surface(vertices + at_vertices @ weights, faces))[nearest_vertex]
        distance, onto = target.tree.query(points)
        forward = ((target.normals[onto] * normals).sum(axis=1) > _MIN_COSINE) & ~target.border[
            onto
        ]
        back_distance, back = cKDTree(points).query(asking.points)
        backward = ((asking.normals * normals[back]).sum(axis=1) > _MIN_COSINE) & ~source.border[
            back
        ]
        # A sample that looks past the border of the other surface has no match there.
        unmatched = float(1 - forward[~source.border].mean())
        rows = np.concatenate([np.flatnonzero(forward), back[backward]])
        weights = _solve(
            basis[rows],
            np.concatenate([target.normals[onto[forward]], asking.normals[backward]]),
            np.concatenate([target.points[onto[forward]], asking.points[backward]])
            - source.points[rows],
            np.concatenate([distance[forward], back_distance[backward]]),
            noise * size,
            options.tangential,
        )
    return weights, unmatched


def _solve(
    basis: FloatArray,
    normals: FloatArray,
    wanted: FloatArray,
    distance: FloatArray,
    noise: float,
    tangential: float,
) -> FloatArray:
    """The most probable weights, given the displacements wanted of some samples."""
    # Student's t weights: far matches are probably wrong ones.
    trust = 1 / (1 + (distance / (3 * noise)) ** 2)
    share = np.sqrt(trust) / noise
    along = (basis[:, :, None] * normals[:, None, :]).reshape(len(basis), -1) * share[:, None]
    within = basis * (share * tangential)[:, None]
    left = along.T @ along + np.kron(within.T @ within, np.eye(3))
    left[np.diag_indices(len(left))] += 1.0
    right = along.T @ ((normals * wanted).sum(axis=1) * share)
    right += (within.T @ (wanted * (share * tangential)[:, None])).ravel()
    return cho_solve(cho_factor(left), right).reshape(-1, 3)


def _set_onto(
    bent: Surface, target: Surface, samples: _Samples
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The bent vertices' places on the target, and which of them lie past its border."""
    normals = vertex_normals(bent)
    _, candidates = samples.tree.query(bent.vertices_mm, k=8)
    alike = (samples.normals[candidates] * normals[:, None]).sum(axis=-1) > _MIN_COSINE
    # The nearest of the eight whose normal fits, else the nearest of all.
    chosen = candidates[np.arange(len(candidates)), alike.argmax(axis=1)]
    points = _closest_on_faces(bent.vertices_mm, samples.points[chosen], target)
    edges = _border_edges(target)
    if len(edges) == 0:
        return points, np.zeros(len(points), dtype=bool)
    start, end = target.vertices_mm[edges[:, 0]], target.vertices_mm[edges[:, 1]]
    _, near = cKDTree((start + end) / 2).query(points, k=min(6, len(edges)))
    near = near.reshape(len(points), -1)
    on_edge = _closest_on_segment(points[:, None], start[near], end[near])
    away = np.linalg.norm(on_edge - points[:, None], axis=-1).min(axis=1)
    return points, away < _ON_BORDER_MM


def _closest_on_faces(points: FloatArray, near: FloatArray, target: Surface) -> FloatArray:
    """Closest points on the target's triangles around a first guess, shape (n, 3)."""
    centres = target.vertices_mm[target.faces].mean(axis=1)
    _, around = cKDTree(centres).query(near, k=min(12, len(centres)))
    corners = target.vertices_mm[target.faces[around]]
    closest = _closest_on_triangles(points[:, None, :], corners)
    distance = ((closest - points[:, None, :]) ** 2).sum(axis=-1)
    return closest[np.arange(len(points)), distance.argmin(axis=1)]


def _closest_on_triangles(points: FloatArray, corners: FloatArray) -> FloatArray:
    """Closest points of triangles (..., 3 corners, 3) to points (..., 3) (Ericson 2005, 5.1.5)."""
    a, b, c = (corners[..., corner, :] for corner in range(3))
    normal = np.cross(b - a, c - a)
    square = np.maximum((normal**2).sum(axis=-1, keepdims=True), 1e-30)
    flat = points - ((points - a) * normal).sum(axis=-1, keepdims=True) / square * normal
    edges = [_closest_on_segment(points, *pair) for pair in ((a, b), (b, c), (c, a))]
    inside = np.ones(flat.shape[:-1], dtype=bool)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(end - start, flat - start) * normal).sum(axis=-1) >= 0
    choices = np.stack(edges)
    best = ((choices - points) ** 2).sum(axis=-1).argmin(axis=0)
    on_edge = np.take_along_axis(choices, best[None, ..., None], axis=0)[0]
    return np.where(inside[..., None], flat, on_edge)


def _closest_on_segment(points: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    along = end - start
    length = np.maximum((along**2).sum(axis=-1, keepdims=True), 1e-30)
    share = np.clip(((points - start) * along).sum(axis=-1, keepdims=True) / length, 0, 1)
    return start + share * along


def _quality(
    bent: Surface,
    placed: FloatArray,
    on_border: NDArray[np.bool_],
    vertices: FloatArray,
    target: _Samples,
    similarity: _Similarity,
    unmatched: float,
    energy: float,
) -> CorrespondenceQuality:
    over = _sample(bent, 5000)
    to_target, onto = target.tree.query(over.points)
    to_source, back = over.tree.query(target.points[::4])
    # Along the normal: the samples are a millimetre apart, the surfaces are not.
    away = np.abs(((over.points - target.points[onto]) * target.normals[onto]).sum(axis=1))
    away_back = np.abs(((target.points[::4] - over.points[back]) * over.normals[back]).sum(axis=1))
    inner, inner_back = ~target.border[onto] & ~over.border, ~over.border[back]
    inner_back &= ~target.border[::4]
    # Far samples face each other across a gap, not along a normal.
    away = np.where(to_target > 3.0, to_target, away)
    away_back = np.where(to_source > 3.0, to_source, away_back)
    distance = np.concatenate([away[inner], away_back[inner_back]])
    shown = bent.faces[~on_border[bent.faces].any(axis=1)]
    placed_areas = _area_vectors(placed, shown)
    outward = target.normals[target.tree.query(placed[shown].mean(axis=1))[1]]
    growth = np.log(_area(bent.vertices_mm, shown) / _area(vertices, shown))
    return CorrespondenceQuality(
        distance_mm=float(distance.mean()) if len(distance) else np.inf,
        distance_p95_mm=float(np.percentile(distance, 95)) if len(distance) else np.inf,
        unmatched_share=unmatched,
        flipped_share=float(((placed_areas * outward).sum(axis=1) < 0).mean()),
        log_area_sd=float(np.std(growth)),
        energy=energy,
        scale=similarity.scale,
        rotation_deg=float(
            np.degrees(np.arccos(np.clip((np.trace(similarity.rotation) - 1) / 2, -1, 1)))
        ),
    )


def _require_usable(surface: Surface, whose: str) -> None:
    remedy = "Look at the bone with `kneelake view`, and correct its segmentation"
    if len(surface.faces) == 0 or not np.isfinite(surface.vertices_mm).all():
        raise BadInputError(
            Reason.BAD_SURFACE,
            whose,
            "the surface is empty or has points that are no numbers",
            remedy,
        )
    if np.linalg.norm(_area_vectors(surface.vertices_mm, surface.faces), axis=1).sum() <= 0:
        raise BadInputError(Reason.BAD_SURFACE, whose, "the surface has no area", remedy)


def _require_fit(
    quality: CorrespondenceQuality, radius: float, options: CorrespondenceOptions, name: str
) -> None:
    size = radius / _FEMUR_RADIUS_MM
    limits = (
        (quality.distance_mm, options.max_distance_mm * size, "mm between it and the reference"),
        (quality.flipped_share, options.max_flipped_share, "of the triangles upside down"),
        (quality.energy, options.max_energy, "times the bending expected"),
        (max(quality.scale, 1 / quality.scale), options.max_scale, "times as large or small"),
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
