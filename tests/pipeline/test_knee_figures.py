"""Figs. 3 to 5 of one knee, on a ball whose surface and heat are known."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imaging.sphere import FRAMES, MAP_SIZE
from lake.errors import LakeError
from lake.keys import BIOMARKER_UNITS
from lake.maps import MapKnee, MapPart
from models.cam_views import upsampled
from models.strategies import PLANES
from pipeline import knee_figures
from pipeline.knee_figures import figure_3, figure_4, figure_5
from pipeline.knee_view import KneeCam, map_surface

RADIUS_MM = 25.0
KNEE = "1000001_RIGHT_V00"


def ball(names: tuple[str, ...] = tuple(BIOMARKER_UNITS), radius: float = RADIUS_MM) -> MapPart:
    frame = FRAMES["tibia"]
    full = np.full((1, MAP_SIZE, MAP_SIZE), radius, dtype=np.float32)
    return MapPart(
        "tibia",
        (MapKnee(KNEE, 1_000_001, "RIGHT", (0.0, 0.0, 0.0), False, 0.0, 0.0, 0.5),),
        frame.phi,
        frame.theta,
        dict.fromkeys(names, full),
        np.ones(full.shape, dtype=bool),
        np.zeros(full.shape, dtype=bool),
        np.ones_like(full),
        {},
    )


def planes() -> np.ndarray:
    return np.stack([np.full((MAP_SIZE, MAP_SIZE), 40 * n, np.uint8) for n in range(len(PLANES))])


def cam_at(row: int, column: int) -> KneeCam:
    cells = np.zeros((7, 7), dtype=np.float32)
    cells[row, column] = 2.0
    return KneeCam(cells, upsampled(cells).astype(np.float32), True)


def texts_of(monkeypatch: pytest.MonkeyPatch, draw: Any, *arguments: Any) -> list[str]:
    import matplotlib.text

    figures: list[Any] = []

    def keep(figure: Any, dpi: int) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(knee_figures, "png_of", keep)
    draw(*arguments)
    return [found.get_text() for found in figures[0].findobj(matplotlib.text.Text)]


def test_a_map_goes_back_to_where_it_came_from() -> None:
    surface = map_surface(ball())
    np.testing.assert_allclose(np.linalg.norm(surface.vertices_mm, axis=1), RADIUS_MM, rtol=1e-5)
    # The middle cell is at theta 0 and the middle of phi: towards the plateaus.
    heat = surface.values(cam_at(3, 3).heat)
    hottest = surface.vertices_mm[np.argmax(heat)] / RADIUS_MM
    frame = FRAMES["tibia"]
    phi = frame.phi[MAP_SIZE // 2]
    expected = np.array([np.cos(phi), 0.0, np.sin(phi)]) @ frame.axes
    assert hottest @ expected > np.cos(np.radians(3))
    # Triangles are seen from outside: their normals point away from the centroid.
    a, b, c = (surface.vertices_mm[surface.triangles[:, corner]] for corner in range(3))
    outward = (np.cross(b - a, c - a) * (a + b + c)).sum(axis=1)
    assert (outward > -1e-6).all()


def test_a_bone_without_a_surface_is_refused() -> None:
    with pytest.raises(LakeError, match=f"{KNEE}: the tibia's bone_shape map is empty"):
        figure_3(ball(("t2_mean",)))


def test_figure_3_says_rho_and_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ball(("bone_shape", "cartilage_thickness"))
    texts = texts_of(monkeypatch, lambda: figure_3(part, picture_px=60))
    assert any(f"\u03c1 = {RADIUS_MM:.1f} mm" in text for text in texts)
    assert texts.count("not measured") == 1


def test_figure_4_shows_each_channel_of_the_six_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(monkeypatch, figure_4, planes(), "tibia", KNEE)
    assert texts.count("merged") == 6
    # Fig. 4: thickness alone three times, and in (d), (e) and (f); one channel of (d) is empty.
    assert (texts.count("thickness"), texts.count("empty")) == (6, 1)


def test_figure_5_shows_models_there_are_and_names_those_there_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = np.zeros((7, 7), dtype=np.float32)
    cams = {"thickness": cam_at(2, 3), "t2": KneeCam(nothing, upsampled(nothing), False)}
    texts = texts_of(monkeypatch, lambda: figure_5(ball(), planes(), cams, picture_px=60))
    assert texts.count("no Grad-CAM") == 3
    assert texts.count("no evidence for it") == 1
    assert texts.count("the network says yes") == texts.count("the network says no") == 1


def test_figures_are_the_same_bytes_each_time() -> None:
    arguments = ball(), planes(), {"t2": cam_at(3, 3)}
    first, second = (figure_5(*arguments, dpi=60, picture_px=60) for _ in range(2))
    assert first == second
    assert Image.open(io.BytesIO(first)).width == pytest.approx(7.2 * 60, abs=1)
