"""Spherical maps of any knee on the surface of one reference knee, the atlas.

A map is the surface: its bone_shape values give every point back. The atlas's mesh has its points
spread evenly over the directions a map shows, so that no part of the bone counts twice, as the
poles of a map do. A knee's correspondence says where on its own map each point of the atlas lies;
with it every map of the knee (a biomarker, a Grad-CAM) can be read at the atlas's points.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imaging.correspondence import (
    CorrespondenceOptions,
    CorrespondenceQuality,
    PreparedSource,
    correspond,
    prepare_source,
)
from imaging.displacement import DisplacementPrior
from imaging.errors import BadInputError, Reason
from imaging.labels import Bone
from imaging.sphere import FRAMES, SphereFrame, read_map, read_map_at
from imaging.triangles import Surface

ATLAS_LEVEL = 5
"""Subdivisions of the icosahedron: 10,242 directions over the whole sphere, about 1 mm apart on a
femur's articular surface; a map of 224 x 224 pixels is of that resolution at its equator."""


_MAX_ASPECT: Mapping[Bone, float] = {"femur": 1.3, "tibia": 1.3, "patella": 1.38}
"""Patellae differ more in shape: of a shape model's three bones, by 1.08, 1.14 and 1.29."""
_MAX_LOST_SHARE = 0.1
"""Of the places the atlas must find. Measured: 0.003 of the cartilage of whole bones, 0.12 to 0.37
of bones that lack a third and whose cut is taken for that of a shaft."""

ATLAS_OPTIONS = CorrespondenceOptions(
    prior=DisplacementPrior(n_control=100),
    n_source=1250,
    n_target=10000,
    n_backward=1250,
    max_rotation_deg=35.0,
    check_side=False,
)
"""Half of the default's samples and two thirds of its kernels: maps of knees in one frame need no
more, in a third of the time, and lie within some 20 degrees of each other. Their side was checked
against the anatomy when they were made."""


@dataclass(frozen=True, eq=False)
class AtlasPoints:
    """Where the atlas's points lie on a knee's maps.

    Attributes:
        phi: elevation, rad, NaN where the knee's surface does not reach, shape (n_vertex,).
        theta: angle, rad, likewise.
        points_mm: in the knee's frame, shape (n_vertex, 3).
        quality: how well the knee was matched.
    """

    phi: NDArray[np.float64]
    theta: NDArray[np.float64]
    points_mm: NDArray[np.float64]
    quality: CorrespondenceQuality


@dataclass(frozen=True, eq=False)
class PreparedAtlas:
    """An atlas with all that does not depend on the knee matched to it.

    Attributes:
        source: its surface, made ready.
        must_reach: points that a match without most of them has failed, such as those with
            cartilage, shape (n_vertex,); None for none.
    """

    source: PreparedSource
    must_reach: NDArray[np.bool_] | None = None

    @property
    def surface(self) -> Surface:
        """Of the reference knee's bone."""
        return self.source.surface

    @property
    def options(self) -> CorrespondenceOptions:
        """How knees are matched to it."""
        return self.source.options


def options_of(bone: Bone) -> CorrespondenceOptions:
    """How knees are matched to the atlas of a bone."""
    return replace(ATLAS_OPTIONS, max_aspect=_MAX_ASPECT[bone])


def prepare_atlas(
    surface: Surface,
    options: CorrespondenceOptions = ATLAS_OPTIONS,
    must_reach: NDArray[np.bool_] | None = None,
) -> PreparedAtlas:
    """Work out once what every match to an atlas needs.

    Args:
        surface: of the reference knee's bone, `surface_of_map`.
        options: how knees are matched to it.
        must_reach: see `PreparedAtlas`.

    Raises:
        BadInputError: BAD_SURFACE, a surface without area.
    """
    return PreparedAtlas(prepare_source(surface, options), must_reach)


def surface_of_map(
    bone_shape_mm: NDArray[np.floating],
    frame: SphereFrame,
    centroid_mm: NDArray[np.float64],
    *,
    level: int = ATLAS_LEVEL,
    name: str = "the map",
) -> Surface:
    """The bone's surface from its bone_shape map, with points spread evenly over directions.

    Args:
        bone_shape_mm: distance from the centroid, NaN where no ray hit, shape (224, 224).
        frame: the map's axes.
        centroid_mm: shape (3,), in the knee's frame.
        level: subdivisions of the icosahedron.
        name: of the knee, for messages.

    Raises:
        BadInputError: BAD_SURFACE, a map with hardly any value.
    """
    directions, faces = _directions(level)
    directions = directions @ frame.axes
    if np.linalg.det(frame.axes) < 0:
        # A mirrored map would show its triangles from inside.
        faces = faces[:, ::-1]
    rho = read_map(bone_shape_mm, frame, directions)
    shown = np.isfinite(rho)
    # A map without its border has half of the sphere's directions at the least.
    if shown.sum() < len(rho) // 4:
        raise BadInputError(
            Reason.BAD_SURFACE,
            name,
            f"its bone_shape map has values in {100 * np.isfinite(bone_shape_mm).mean():.0f} % of "
            "its pixels: there is no surface to match",
            "Look at the bone with `kneelake view`, and correct its segmentation",
        )
    kept = faces[shown[faces].all(axis=1)]
    used, renumbered = np.unique(kept, return_inverse=True)
    return Surface(centroid_mm + rho[used, None] * directions[used], renumbered.reshape(kept.shape))


def match_to_atlas(
    atlas: PreparedAtlas | Surface,
    bone_shape_mm: NDArray[np.floating],
    bone: Bone,
    centroid_mm: NDArray[np.float64],
    options: CorrespondenceOptions | None = None,
    *,
    name: str = "the knee",
) -> AtlasPoints:
    """Find the atlas's points on a knee's map of a bone.

    Both knees are right ones, or left ones mirrored, as maps are.

    Args:
        atlas: prepared, or its surface, which is then prepared for this knee alone.
        bone_shape_mm: the knee's map, NaN where no ray hit, shape (224, 224).
        bone: whose map.
        centroid_mm: the map's centre in the knee's frame, shape (3,).
        options: how the knee is matched; a prepared atlas has its own.
        name: of the knee, for messages.

    Raises:
        BadInputError: BAD_SURFACE, the match failed; see `correspond`.
        ValueError: options besides those the atlas was prepared with.
    """
    if isinstance(atlas, Surface):
        atlas = prepare_atlas(atlas, options or ATLAS_OPTIONS)
    elif options not in (None, atlas.options):
        raise ValueError("a prepared atlas is matched with the options it was prepared with")
    frame = FRAMES[bone]
    knee = surface_of_map(bone_shape_mm, frame, centroid_mm, name=name)
    found = correspond(atlas.source, knee, name=name)
    away = found.points_mm - centroid_mm
    rho = read_map(bone_shape_mm, frame, away)
    lost = found.on_border | ~np.isfinite(rho)
    if atlas.must_reach is not None and lost[atlas.must_reach].mean() > _MAX_LOST_SHARE:
        raise BadInputError(
            Reason.BAD_SURFACE,
            name,
            f"it lacks {100 * lost[atlas.must_reach].mean():.0f} % of where the reference has "
            "cartilage",
            "Look at the bone with `kneelake view`: it may be cut by the field of view; correct "
            "its segmentation",
        )
    # On the map's own surface rather than on the coarser mesh of it.
    points = centroid_mm + rho[:, None] * away / np.linalg.norm(away, axis=1, keepdims=True)
    local = away @ frame.axes.T
    phi = np.arctan2(local[:, 2], np.hypot(local[:, 0], local[:, 1]))
    theta = np.arctan2(local[:, 1], local[:, 0])
    for values in (phi, theta):
        values[lost] = np.nan
    points[lost] = np.nan
    return AtlasPoints(phi, theta, points, found.quality)


def read_on_atlas(
    values: NDArray[np.floating],
    bone: Bone,
    phi: NDArray[np.floating],
    theta: NDArray[np.floating],
) -> NDArray[np.float64]:
    """A knee's map at the atlas's points, NaN where it has no value there, shape (n_vertex,).

    Args:
        values: any map of the knee, shape (224, 224).
        bone: whose map.
        phi: of `AtlasPoints`, rad, shape (n_vertex,).
        theta: likewise.
    """
    frame = FRAMES[bone]
    phi, theta = np.asarray(phi, dtype=np.float64), np.asarray(theta, dtype=np.float64)
    known = np.isfinite(phi) & np.isfinite(theta)
    out = np.full(len(phi), np.nan)
    out[known] = read_map_at(values, frame.pixel_of_angles(phi[known], theta[known]))
    return out


@functools.cache
def _directions(level: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Unit vectors of a subdivided icosahedron, and its triangles seen from outside."""
    golden = (1 + np.sqrt(5)) / 2
    corners = np.array(
        [
            (-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0),
            (0, -1, golden), (0, 1, golden), (0, -1, -golden), (0, 1, -golden),
            (golden, 0, -1), (golden, 0, 1), (-golden, 0, -1), (-golden, 0, 1),
        ]
    )  # fmt: skip
    faces = np.array(
        [
            (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11),
            (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
            (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9),
            (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
        ]
    )  # fmt: skip
    points = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    for _ in range(level):
        edges = np.concatenate([faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
        unique, index = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
        middles = points[unique].sum(axis=1)
        middles /= np.linalg.norm(middles, axis=1, keepdims=True)
        a, b, c = faces.T
        ab, bc, ca = len(points) + index.reshape(3, -1)
        faces = np.concatenate(
            [
                np.column_stack(rows)
                for rows in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))
            ]
        )
        points = np.concatenate([points, middles])
    return points, faces
