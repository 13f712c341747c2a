"""The 3-D page: what it holds, that it needs no network, and what a person does with it."""

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.atlas_view import AtlasMesh, GroupMap
from pipeline.surface_page import QUANTITIES, surface_page
from tests.pipeline.atlas_samples import N_GROUP0, N_GROUP1, atlas, map_of, mesh_of

CHROMIUM = Path(os.environ.get("KNEELAKE_CHROMIUM", "/usr/bin/chromium"))
LOADED = re.compile(
    r"""(?:<(?:script|img|iframe|link|source|object|embed)\b[^>]*\b(?:src|href|data)\s*=)"""
    r"""|@import|url\(\s*["']?\s*(?:https?:)?//""",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def small() -> tuple[dict[Any, AtlasMesh], list[GroupMap]]:
    """Two bones; the patella lacks T2, the femur's thickness has no permutations."""
    meshes, maps = atlas(level=2)
    del meshes["tibia"]
    kept = [one for one in maps if one.bone != "tibia" and one.name != "patella_t2_mean"]
    nothing = np.full(len(kept[0].p), np.nan)
    kept[1] = replace(kept[1], p_fwe_max_t=nothing)
    return meshes, [*kept, map_of(meshes["femur"], "bone_shape", "spm_biomarkers")]


@pytest.fixture(scope="module")
def page_bytes(small: tuple[dict[Any, AtlasMesh], list[GroupMap]]) -> bytes:
    return surface_page(*small)


def data_of(page: bytes) -> Any:
    found = re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def decoded(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_it_holds_the_meshes_and_maps(
    small: tuple[dict[Any, AtlasMesh], list[GroupMap]], page_bytes: bytes
) -> None:
    meshes, maps = small
    data = data_of(page_bytes)
    assert set(data["bones"]) == {"femur", "patella"}
    for bone, mesh in meshes.items():
        stored = data["bones"][bone]
        points = decoded(stored["vertices_mm"], "<f4").reshape(-1, 3)
        np.testing.assert_allclose(points, mesh.vertices_mm, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(decoded(stored["triangles"], "<u4"), mesh.triangles.ravel())
        medial = decoded(stored["is_medial"], "u1") == 1
        np.testing.assert_array_equal(np.where(medial, "medial", "lateral"), mesh.compartment)
        np.testing.assert_array_equal(decoded(stored["is_cartilage"], "u1"), mesh.is_cartilage)
    stored_maps = [one for family in data["families"] for one in family["maps"]]
    assert [family["title"] for family in data["families"]] == [
        "Grad-CAM, class pain",
        "biomarker itself",
    ]
    assert len(stored_maps) == len(maps)
    for stored, one in zip(stored_maps, maps, strict=True):
        assert (stored["bone"], stored["biomarker"]) == (one.bone, one.biomarker)
        assert (stored["n_group1"], stored["n_group0"]) == (N_GROUP1, N_GROUP0)
        assert set(stored["values"]) == set(QUANTITIES)
        for name, text in stored["values"].items():
            np.testing.assert_allclose(decoded(text, "<f4"), getattr(one, name), rtol=1e-6)


def test_the_same_input_gives_the_same_bytes(
    small: tuple[dict[Any, AtlasMesh], list[GroupMap]], page_bytes: bytes
) -> None:
    assert surface_page(*small) == page_bytes


def test_nothing_in_it_is_loaded_from_elsewhere(page_bytes: bytes) -> None:
    text = page_bytes.decode()
    assert LOADED.search('<script src="https://example.org/a.js">')
    assert LOADED.search("background: url(//example.org/a.png)")
    written_by_plotly = re.compile(r"<script>/\*\*\n\* plotly\.js.*?</script>", re.DOTALL)
    own, n = written_by_plotly.subn("", text)
    assert n == 1
    assert not LOADED.search(own)
    # What plotly.js could ask for at run time, the browser refuses.
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.group(1).split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert not re.search(r"https?:|\*", policy.group(1))


def test_names_cannot_end_the_data_or_the_title() -> None:
    mesh = mesh_of("patella", 2)
    one = replace(map_of(mesh, "bone_shape"), analysis="</script><b>")
    page = surface_page({"patella": mesh}, [one], title="a < b")
    assert data_of(page)["families"][0]["title"] == "</script><b>"
    assert b"<title>a &lt; b</title>" in page


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no map to show"):
        surface_page({}, [])


@pytest.fixture
def opened(page_bytes: bytes, tmp_path: Path) -> Iterator[Any]:
    """The page in a browser, and what it asked the network for."""
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it or set KNEELAKE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    path = tmp_path / "page.html"
    path.write_bytes(page_bytes)
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*arguments, "--enable-unsafe-swiftshader"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.set_default_timeout(60_000)
        errors: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#plot canvas")
        yield page
        assert errors == []
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {path.as_uri()}
        browser.close()


def test_a_person_chooses_what_is_shown_without_a_mouse(
    small: tuple[dict[Any, AtlasMesh], list[GroupMap]], opened: Any
) -> None:
    _, maps = small
    thickness = maps[1]
    opened.select_option("#biomarker", "cartilage_thickness")
    opened.select_option("#quantity", "mean_group1")
    opened.wait_for_function(
        "document.querySelector('#summary').innerText.includes('group 1 mean')"
    )
    values, text = opened.evaluate(
        "() => { const one = document.querySelector('#plot').data.find(d => d.name === 'values');"
        " return [Array.from(one.intensity), Array.from(one.text)]; }"
    )
    known = np.isfinite(thickness.mean_group1)
    np.testing.assert_allclose(np.array(values)[known], thickness.mean_group1[known], rtol=1e-6)
    highest = int(np.nanargmax(thickness.mean_group1))
    assert text[highest].startswith(f"vertex {highest}, medial, cartilage")
    assert f"{thickness.mean_group1[highest]:.4g} share of peak" in text[highest]
    bare = int(np.flatnonzero(~known)[0])
    assert "<b>group 1 mean: not tested" in text[bare]
    summary = opened.inner_text("#summary")
    low = int((thickness.p < 0.05).sum())
    assert f"{known.sum()} tested, {low} with p < 0.05, no permutations" in summary

    eye = "() => document.querySelector('#plot').layout.scene.camera.eye"
    opened.focus("#plot")
    before = opened.evaluate(eye)
    opened.keyboard.press("ArrowLeft")
    opened.wait_for_function(f"({eye})().x !== {before['x']}")
    turned = np.array(list(opened.evaluate(eye).values()))
    start = np.array(list(before.values()))
    cosine = turned @ start / np.linalg.norm(turned) / np.linalg.norm(start)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(10.0, abs=0.01)
    opened.keyboard.press("+")
    opened.wait_for_function(f"({eye})().x !== {turned[0]}")
    nearer = np.array(list(opened.evaluate(eye).values()))
    np.testing.assert_allclose(nearer * 1.1, turned, rtol=1e-6)

    # With the pointer on the surface, too: plotly.js must not look for what is no longer there.
    box = opened.locator("#plot").bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.wait_for_selector(".hovertext")
    opened.select_option("#bone", "patella")
    opened.wait_for_function("document.querySelector('#summary').innerText.includes('patella')")
    opened.select_option("#bone", "tibia")
    assert opened.inner_text("#empty") == "The atlas has no tibia."
    opened.select_option("#bone", "patella")
    opened.select_option("#biomarker", "t2_mean")
    assert opened.inner_text("#empty") == "This biomarker was not compared on the patella."
    opened.select_option("#bone", "femur")
    opened.select_option("#biomarker", "cartilage_thickness")
    opened.select_option("#quantity", "p_fwe_max_t")
    assert opened.inner_text("#empty") == "No vertex has this value."
