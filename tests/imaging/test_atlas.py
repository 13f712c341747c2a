"""Maps carried to an atlas, against surfaces and fields known in closed form."""

import numpy as np
import pytest

from imaging.atlas import (
    ATLAS_OPTIONS,
    match_to_atlas,
    prepare_atlas,
    read_on_atlas,
    surface_of_map,
)
from imaging.correspondence import DEFAULT_OPTIONS, correspond
from imaging.errors import BadInputError
from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES, read_map
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
