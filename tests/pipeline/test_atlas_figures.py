"""Fig. 1: cameras, colours and panels, against planted values and closed forms."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imaging.labels import BONES, Bone
from pipeline import atlas_figures
from pipeline.atlas_figures import (
    PAGE_MM,
    evidence_colours,
    figure_1,
    mean_limits,
    signed_evidence,
)
from pipeline.atlas_scene import VIEWS, bone_picture, picture_size, place_in_picture
from pipeline.atlas_view import GroupMap
from tests.pipeline.atlas_samples import RADIUS_MM, map_of, mesh_of, planted_at

WIDTH, ASPECT = 160, 1.12
AXES = {
    "M": (1, 0, 0),
    "L": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


def pixel_at(pixels: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Mean colour around a place given in pixels right and up."""
    column, row = round(place[0]), pixels.shape[0] - 1 - round(place[1])
    return pixels[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1))


def evidence_picture(one: GroupMap) -> np.ndarray:
    mesh = mesh_of(one.bone)
    return bone_picture(
        mesh,
        VIEWS[one.bone][0],
        signed_evidence(one),
        evidence_colours(),
        (-4.0, 4.0),
        width=WIDTH,
        aspect=ASPECT,
    ).pixels


def place_of(bone: Bone, vertex: int) -> np.ndarray:
    mesh = mesh_of(bone)
    return place_in_picture(mesh, VIEWS[bone][0], mesh.vertices_mm[vertex], WIDTH, ASPECT)


@pytest.mark.parametrize("bone", BONES)
def test_marks_name_the_ends_of_the_picture(bone: Bone) -> None:
    mesh = mesh_of(bone)
    for view in VIEWS[bone]:
        left, right, lower, upper = view.marks
        for letters, (axis, sign) in zip(
            (left, right, lower, upper), ((0, -1), (0, 1), (1, -1), (1, 1)), strict=True
        ):
            for letter in letters:
                end = 10.0 * np.array([np.zeros(3), AXES[letter]])
                start, there = place_in_picture(mesh, view, end, WIDTH, ASPECT)
                assert sign * (there - start)[axis] > 0, (view.title, letter)
    # As one stands before a right knee, its lateral side is on the left of the picture.
    assert VIEWS["femur"][0].marks[:2] == ("L", "M")
    assert VIEWS["tibia"][0].marks == ("M", "L", "P", "A")
    assert VIEWS["patella"][0].marks == ("M", "L", "I", "S")


def test_a_ball_has_its_diameter_and_is_not_cut() -> None:
    mesh, view = mesh_of("patella", 4), VIEWS["patella"][0]
    values = np.ones(len(mesh.vertices_mm))
    picture = bone_picture(mesh, view, values, "viridis", (0, 1), width=WIDTH, aspect=ASPECT)
    # White has blue and this yellow hardly any: half way is the border.
    inked = picture.pixels[..., 2] < 140
    columns = np.flatnonzero(inked.any(axis=0))
    assert (columns[-1] - columns[0] + 1) * picture.mm_per_pixel == pytest.approx(
        2 * RADIUS_MM, abs=2 * picture.mm_per_pixel
    )
    assert not inked[[0, -1]].any()
    assert not inked[:, [0, -1]].any()
    assert picture_size(mesh, WIDTH, ASPECT)[1] == picture.pixels.shape[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_p_surface_is_coloured_where_groups_differ_and_by_which_is_higher(sign: int) -> None:
    mesh = mesh_of("tibia")
    one = map_of(mesh, "cartilage_thickness")
    pixels = evidence_picture(replace(one, t=sign * one.t))
    red, _, blue = pixel_at(pixels, place_of("tibia", planted_at(mesh)))
    assert sign * (red - blue) > 60
    # Over the whole picture: as much colour of this sign, none of the other.
    difference = pixels[..., 0].astype(int) - pixels[..., 2]
    assert (sign * difference > 60).sum() > 100


def test_p_above_the_level_is_grey_and_no_test_ivory() -> None:
    mesh = mesh_of("tibia")
    one = map_of(mesh, "cartilage_thickness")
    pixels = evidence_picture(replace(one, p=np.where(np.isfinite(one.p), 0.06, np.nan)))
    inside = int(np.argmax(mesh.vertices_mm[:, 2]))
    red, green, blue = pixel_at(pixels, place_of("tibia", inside))
    assert red == green == blue < 240
    bare = np.flatnonzero(~mesh.is_cartilage & (mesh.vertices_mm[:, 2] > 5))
    outermost = int(bare[np.argmax(np.abs(mesh.vertices_mm[bare, 0]))])
    inner = 0.93 * mesh.vertices_mm[outermost]
    place = place_in_picture(mesh, VIEWS["tibia"][0], inner, WIDTH, ASPECT)
    red, _, blue = pixel_at(pixels, place)
    assert 8 < red - blue < 60


def test_the_family_wise_area_is_outlined_where_it_ends() -> None:
    mesh, view = mesh_of("patella", 4), VIEWS["patella"][0]
    flat = np.zeros(len(mesh.vertices_mm))
    # A cap of 10 mm around the eye's axis: its outline is a circle of that radius.
    away = np.linalg.norm(mesh.vertices_mm @ view.axes[:2].T, axis=1)
    near = np.where(mesh.vertices_mm @ view.axes[2] > 0, 10.0 - away, -1.0)
    options: dict[str, Any] = {"width": 300, "aspect": 1.0}
    picture = bone_picture(mesh, view, flat, "Greys", (0, 1), outline=near, **options)
    rows, columns = np.nonzero(picture.pixels.max(axis=2) < 80)
    middle = place_in_picture(mesh, view, np.zeros(3), 300, 1.0)
    radius = picture.mm_per_pixel * np.hypot(
        columns + 0.5 - middle[0], picture.pixels.shape[0] - rows - 0.5 - middle[1]
    )
    assert len(rows) > 100
    np.testing.assert_allclose(radius, 10.0, atol=1.0)


def test_evidence_is_signed_log_p() -> None:
    one = map_of(mesh_of("tibia"), "bone_shape")
    p = np.where(np.arange(len(one.p)) % 2 == 0, 0.01, 1e-30)
    found = signed_evidence(replace(one, p=p, t=np.where(np.arange(len(p)) < 4, 1.0, -1.0)))
    np.testing.assert_allclose(found[:6], [2, 4, 2, 4, -2, -4])


def test_both_groups_share_a_scale_about_zero_where_signs_differ() -> None:
    one = map_of(mesh_of("tibia"), "bone_shape")
    n = len(one.p)
    high, low = np.linspace(0, 1, n), np.linspace(1, 2, n)
    low_end, high_end = mean_limits(replace(one, mean_group1=high, mean_group0=low))
    assert (low_end, high_end) == pytest.approx(
        tuple(np.percentile(np.concatenate([high, low]), [2, 98]))
    )
    low_end, high_end = mean_limits(replace(one, mean_group1=high - 2.5, mean_group0=low))
    assert low_end == -high_end < 0
    rounded = np.full(n, -1e-17)
    low_end, high_end = mean_limits(replace(one, mean_group1=rounded, mean_group0=high))
    assert -1e-12 < low_end <= 0.0
    assert high_end > 0.9


def texts_of(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> Sequence[str]:
    """All words of the figure."""
    import matplotlib.text

    figures: list[Any] = []

    def keep(figure: Any, _dpi: int, _made_of: str) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(atlas_figures, "png_of", keep)
    figure_1(*arguments, **options)
    return [found.get_text() for found in figures[0].findobj(matplotlib.text.Text)]


def test_what_is_missing_is_said_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = mesh_of("patella")
    one = map_of(mesh, "bone_shape")
    nothing = np.full(len(one.p), np.nan)
    empty = replace(
        map_of(mesh, "t2_mean"), mean_group1=nothing, mean_group0=nothing, p=nothing, t=nothing
    )
    texts = texts_of(
        monkeypatch, {"patella": mesh}, [replace(one, p_fwe_max_t=nothing), empty], picture_px=60
    )
    assert texts.count("the atlas has no femur") == 3
    assert texts.count("the atlas has no tibia") == 3
    assert "cartilage thickness was not compared on the patella" in texts
    assert "cartilage T2 of the patella: no vertex has a value" in texts
    assert texts.count("no permutations") == 1
    assert "TP-pain n = 87, TN-no-pain n = 184" in texts


def test_the_figure_is_the_same_bytes_each_time_and_of_the_journals_width() -> None:
    mesh = mesh_of("patella")
    arguments = {"patella": mesh}, [map_of(mesh, "bone_shape")]
    first, second = (figure_1(*arguments, dpi=100, picture_px=60) for _ in range(2))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert picture.width == pytest.approx(PAGE_MM / 25.4 * 100, abs=1)
    assert "Software" not in picture.info


def test_two_analyses_do_not_share_a_figure() -> None:
    mesh = mesh_of("patella")
    maps = [map_of(mesh, "bone_shape"), map_of(mesh, "t2_mean", "spm_biomarkers")]
    with pytest.raises(ValueError, match="one analysis a figure"):
        figure_1({"patella": mesh}, maps)
