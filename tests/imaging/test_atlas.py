"""Maps carried to an atlas, against surfaces and fields known in closed form."""

import numpy as np
import pytest

from imaging.atlas import (
    ATLAS_OPTIONS,
    match_to_atlas,
    options_of,
    prepare_atlas,
    read_on_atlas,
    surface_of_map,
)
from imaging.correspondence import DEFAULT_OPTIONS, correspond
from imaging.errors import BadInputError
from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES, SphereFrame, read_map
from imaging.triangles import vertex_normals
from phantom.map_cohort import DrawnKnee, draw_maps

CENTROID = np.array([3.0, -8.0, 12.0])


def lumpy_rho(directions: np.ndarray, size: float) -> np.ndarray:
    """Distance from the centre of a body with three bumps, 25 to 40 mm."""
    rho = np.full(directions.shape[:-1], 26.0)
    for middle, height in (
        ((0.8, 0.5, -0.3), 8.0),
        ((-0.7, 0.6, -0.4), 11.0),
        ((0.1, -0.9, -0.4), 7.0),
    ):
        towards = np.asarray(middle) / np.linalg.norm(middle)
        rho += height * np.exp(4.0 * (directions @ towards - 1.0))
    return size * rho


def test_surface_of_a_map_lies_on_the_body() -> None:
    frame = FRAMES["femur"]
    surface = surface_of_map(lumpy_rho(frame.directions, 1.0), frame, CENTROID)
    away = surface.vertices_mm - CENTROID
    rho = np.linalg.norm(away, axis=1)
    assert np.abs(rho - lumpy_rho(away / rho[:, None], 1.0)).max() < 0.05
    assert (vertex_normals(surface) * away).sum(axis=1).min() > 0
    # Evenly spread: no pole where triangles shrink to nothing.
    corners = surface.vertices_mm[surface.faces]
    areas = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    assert areas.max() / areas.min() < 8


def test_a_larger_knee_is_read_at_the_same_directions() -> None:
    frame = FRAMES["femur"]
    atlas = surface_of_map(lumpy_rho(frame.directions, 1.0), frame, np.zeros(3))
    found = match_to_atlas(atlas, lumpy_rho(frame.directions, 1.15), "femur", CENTROID)
    known = np.isfinite(found.phi)
    assert known.mean() > 0.97
    true = CENTROID + 1.15 * atlas.vertices_mm
    assert np.linalg.norm(found.points_mm - true, axis=1)[known].mean() < 0.5
    assert found.quality.scale == pytest.approx(1.15, abs=0.01)

    towards_bump = frame.directions @ np.array([0.8, 0.5, -0.3]) / np.linalg.norm([0.8, 0.5, -0.3])
    carried = read_on_atlas(towards_bump, "femur", found.phi, found.theta)
    unit = atlas.vertices_mm / np.linalg.norm(atlas.vertices_mm, axis=1, keepdims=True)
    expected = unit @ np.array([0.8, 0.5, -0.3]) / np.linalg.norm([0.8, 0.5, -0.3])
    assert np.abs(carried - expected)[known].mean() < 0.02
    assert np.isnan(carried[~known]).all()


def test_a_map_without_values_is_refused() -> None:
    frame = FRAMES["patella"]
    atlas = surface_of_map(lumpy_rho(frame.directions, 0.5), frame, np.zeros(3))
    with pytest.raises(BadInputError, match="1000001_RIGHT_V00"):
        match_to_atlas(
            atlas, np.full((224, 224), np.nan), "patella", CENTROID, name="1000001_RIGHT_V00"
        )


@pytest.mark.parametrize("bone", BONES)
def test_drawn_knees_are_read_at_their_own_points(bone: Bone) -> None:
    """A pixel of one drawn knee is the same point of another, bumps of up to 4 mm or not."""
    amplitudes = (0.0, 2.0, -2.0)
    knees = [
        DrawnKnee(1_000_001 + 37 * row, "RIGHT", "V00", amplitude)
        for row, amplitude in enumerate(amplitudes)
    ]
    drawn = draw_maps(5, knees, bone)
    shapes, frame, centroids = drawn.maps["bone_shape"], FRAMES[bone], drawn.centroid_mm
    atlas = prepare_atlas(surface_of_map(shapes[0], frame, centroids[0]))
    away = atlas.surface.vertices_mm - centroids[0]
    directions = away / np.linalg.norm(away, axis=1, keepdims=True)
    for shape, centroid in zip(shapes[1:], centroids[1:], strict=True):
        found = match_to_atlas(atlas, shape, bone, centroid)
        true = centroid + read_map(shape, frame, directions)[:, None] * directions
        error = np.linalg.norm(found.points_mm - true, axis=1)
        assert np.isfinite(error).mean() > 0.9
        assert np.nanmean(error) < 1.5
        assert found.quality.flipped_share < 0.005


def test_a_prepared_atlas_gives_the_same_bytes() -> None:
    frame = FRAMES["femur"]
    surface = surface_of_map(lumpy_rho(frame.directions, 1.0), frame, np.zeros(3))
    knee = lumpy_rho(frame.directions, 1.1)
    prepared = prepare_atlas(surface)
    once = match_to_atlas(surface, knee, "femur", CENTROID)
    again = match_to_atlas(prepared, knee, "femur", CENTROID)
    assert once.points_mm.tobytes() == again.points_mm.tobytes()
    assert prepared.options == ATLAS_OPTIONS
    with pytest.raises(ValueError, match="prepared"):
        match_to_atlas(prepared, knee, "femur", CENTROID, DEFAULT_OPTIONS)


@pytest.mark.parametrize("bone", BONES)
def test_the_map_of_another_bone_is_refused(bone: Bone) -> None:
    knee = [DrawnKnee(1_000_001, "RIGHT", "V00")]
    drawn = {one: draw_maps(5, knee, one) for one in BONES}
    surfaces = {
        one: surface_of_map(maps.maps["bone_shape"][0], FRAMES[one], maps.centroid_mm[0])
        for one, maps in drawn.items()
    }
    atlas = prepare_atlas(surfaces[bone])
    for other in set(BONES) - {bone}:
        with pytest.raises(BadInputError, match="could not be matched"):
            correspond(atlas.source, surfaces[other])


def without_a_third(
    shape: np.ndarray, frame: SphereFrame, centroid: np.ndarray, axis: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Map and centre of a bone whose outer third along an axis is cut off, the cut closed."""
    points = surface_of_map(shape, frame, centroid).vertices_mm[:, axis]
    extent = points.max() - points.min()
    edge = points.max() - extent / 3 if side > 0 else points.min() + extent / 3
    centre = centroid.copy()
    centre[axis] -= side * extent / 6
    directions = frame.directions.reshape(-1, 3)

    def is_inside(radius: np.ndarray) -> np.ndarray:
        away = centre + radius[:, None] * directions - centroid
        reach = np.nan_to_num(read_map(shape, frame, away), nan=np.inf)
        kept = side * (centre[axis] + radius * directions[:, axis] - edge) < 0
        return (np.linalg.norm(away, axis=1) <= reach) & kept

    inner, outer = np.zeros(len(directions)), np.full(len(directions), 120.0)
    for _ in range(14):
        middle = (inner + outer) / 2
        within = is_inside(middle)
        inner, outer = np.where(within, middle, inner), np.where(within, outer, middle)
    # A ray that leaves where the map is open has no value; on the cut it has.
    ends = centre + inner[:, None] * directions
    is_open = np.isnan(read_map(shape, frame, ends - centroid))
    on_cut = np.abs(ends[:, axis] - edge) < 0.3
    cut = np.where(is_open & ~on_cut, np.nan, inner).reshape(shape.shape)
    return cut.astype(np.float32), centre


@pytest.mark.parametrize(
    ("bone", "axis", "side"),
    [
        *(("femur", *cut) for cut in ((0, 1), (0, -1), (1, 1), (1, -1))),
        *(("tibia", *cut) for cut in ((0, 1), (0, -1), (1, 1), (1, -1))),
        *(("patella", *cut) for cut in ((0, 1), (0, -1), (1, 1), (2, -1))),
    ],
)
def test_a_bone_that_lacks_a_third_is_refused(bone: Bone, axis: int, side: int) -> None:
    knees = [DrawnKnee(1_000_001 + row, "RIGHT", "V00", 0.0) for row in range(2)]
    drawn = draw_maps(3, knees, bone)
    frame, shapes, centroids = FRAMES[bone], drawn.maps["bone_shape"], drawn.centroid_mm
    surface = surface_of_map(shapes[0], frame, centroids[0])
    thickness = read_map(
        drawn.maps["cartilage_thickness"][0], frame, surface.vertices_mm - centroids[0]
    )
    atlas = prepare_atlas(surface, options_of(bone), np.nan_to_num(thickness) > 0)
    match_to_atlas(atlas, shapes[1], bone, centroids[1])
    cut, centre = without_a_third(shapes[1], frame, centroids[1], axis, side)
    with pytest.raises(BadInputError, match=r"could not be matched|lacks .* has cartilage"):
        match_to_atlas(atlas, cut, bone, centre)
