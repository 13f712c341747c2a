"""Turning, moving and scaling one bone's surface onto another's, wherever each was cut off."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from imaging.surface_features import FlatEnd
from imaging.triangles import FloatArray, Samples

MIN_COSINE = 0.5
"""Points whose normals differ by more than 60 degrees are no match."""

_TOLERANCE, _NEAR = 1e-4, 1e-3
"""Turns, rad, that end the last turn along the normals, and the closest points before it."""

_N_CLOSEST = 800
"""Samples for the closest points; the last turn along the normals takes all there are."""

_END_WIDTHS = 0.85
"""How much of a bone that was cut off counts for its middle and size, in its widths: shafts are cut
at 0.9 or more of them."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """scale * rotation @ point + translation."""

    scale: float
    rotation: FloatArray
    translation: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        """Points (n, 3) moved."""
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self) -> "Similarity":
        """The way back."""
        back = self.rotation.T / self.scale
        return Similarity(1 / self.scale, self.rotation.T, -back @ self.translation)

    @property
    def rotation_deg(self) -> float:
        """Angle of the turn."""
        cosine = (np.trace(self.rotation) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def middle_and_radius(samples: Samples, end: FlatEnd | None) -> tuple[FloatArray, float]:
    """Mean and root mean square radius, mm; of the uncut end only, where the bone was cut off."""
    points = samples.points
    if end is not None:
        height = end.height - points @ end.direction
        from_far = height.max() - height
        across = points - np.outer(points @ end.direction, end.direction)
        across = across - across.mean(axis=0)
        longest = np.linalg.svd(across.T @ across)[0][:, 0]
        width = float(np.ptp(across @ longest))
        points = points[from_far < _END_WIDTHS * width]
    middle = points.mean(axis=0)
    return middle, float(np.sqrt(((points - middle) ** 2).sum(axis=1).mean()))


def find_similarity(
    source: Samples,
    target: Samples,
    source_end: FlatEnd | None,
    target_end: FlatEnd | None,
) -> Similarity:
    """Closest points matched both ways, then the least distance along the normals.

    Args:
        source: samples whose `border` marks where they have no match, cuts included.
        target: likewise.
        source_end: where the source was cut off.
        target_end: where the target was.
    """
    (from_middle, from_radius), (to_middle, to_radius) = (
        middle_and_radius(samples, end)
        for samples, end in ((source, source_end), (target, target_end))
    )
    scale = to_radius / from_radius
    found = Similarity(scale, np.eye(3), to_middle - scale * from_middle)
    tree = cKDTree(target.points)
    few = source.every(len(source.points) // _N_CLOSEST)
    asking = target.every(len(target.points) // _N_CLOSEST)
    few, asking = _inside(few), _inside(asking)
    whole = cKDTree(source.points)
    for _ in range(60):
        _, onto = tree.query(found(few.points))
        back_to = found.inverse()
        _, back = whole.query(back_to(asking.points))
        forward, backward = ~target.border[onto], ~source.border[back]
        previous = found
        found = _procrustes(
            np.concatenate([few.points[forward], source.points[back[backward]]]),
            np.concatenate([target.points[onto[forward]], asking.points[backward]]),
        )
        if np.abs(found.rotation - previous.rotation).max() < _NEAR:
            break
    return _slide(found, _inside(source), target, tree)


def gap_mm(found: Similarity, source: Samples, target: Samples) -> float:
    """Root mean square distance along the normals of a source so moved, in the source's mm."""
    few = _inside(source.every(len(source.points) // _N_CLOSEST))
    points, normals = found(few.points), few.normals @ found.rotation.T
    _, onto = cKDTree(target.points).query(points)
    met = ~target.border[onto] & ((target.normals[onto] * normals).sum(axis=1) > MIN_COSINE)
    if not met.any():
        return np.inf
    away = ((target.points[onto] - points) * target.normals[onto]).sum(axis=1)[met]
    return float(np.sqrt((away**2).mean()) / found.scale)


def mirrored(samples: Samples, end: FlatEnd | None) -> tuple[Samples, FlatEnd | None]:
    """The other knee's: x, which runs from side to side in the knee frame, reversed."""
    flip = np.array([-1.0, 1.0, 1.0])
    other = replace(samples, points=samples.points * flip, normals=samples.normals * flip)
    return other, None if end is None else FlatEnd(end.direction * flip, end.height)


def _inside(samples: Samples) -> Samples:
    kept = ~samples.border
    if not kept.any():
        return samples
    return Samples(
        samples.points[kept], samples.normals[kept], samples.face[kept], samples.border[kept]
    )


def _slide(start: Similarity, source: Samples, target: Samples, tree: cKDTree) -> Similarity:
    """The similarity of least distance along the normals, from a near one on (Chen 1991).

    Closest points hold each other back, so matching points stops short of the best turn on a round
    bone; the distance along the normal does not resist sliding.
    """
    found = start
    for _ in range(20):
        points = found(source.points)
        _, onto = tree.query(points)
        facing = (target.normals[onto] * (source.normals @ found.rotation.T)).sum(axis=1)
        used = (facing > MIN_COSINE) & ~target.border[onto]
        if used.sum() < 7:
            break
        normals, middle = target.normals[onto[used]], points.mean(axis=0)
        arms = points[used] - middle
        slopes = np.column_stack(
            [np.cross(arms, normals), normals, (arms * normals).sum(axis=1)[:, None]]
        )
        gaps = ((target.points[onto[used]] - points[used]) * normals).sum(axis=1)
        step = np.linalg.lstsq(slopes, gaps, rcond=None)[0]
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        growth = 1 + step[6]
        if not 0.5 < growth < 2.0:
            # Of another bone altogether: what follows finds no match.
            break
        found = Similarity(
            found.scale * growth,
            turn @ found.rotation,
            growth * turn @ (found.translation - middle) + middle + step[3:6],
        )
        if np.abs(step[:3]).max() < _TOLERANCE:
            break
    return found


def _procrustes(source: FloatArray, target: FloatArray) -> Similarity:
    """The similarity that takes points nearest to others (Umeyama 1991)."""
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    left, values, right = np.linalg.svd((target - to_mean).T @ (source - from_mean))
    handed = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * handed) @ right
    scale = float((values * handed).sum() / ((source - from_mean) ** 2).sum())
    return Similarity(scale, rotation, to_mean - scale * rotation @ from_mean)
