"""Group maps on the atlas as one HTML page that a browser opens from disk, without a network.

Here: the arrays a page holds. Not here: what it does with them (`surface_page.html`, which draws
with plotly.js; all of it is inside the page).
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from pipeline.atlas_scene import UNTESTED, VIEWS
from pipeline.atlas_view import (
    ANALYSIS_TITLES,
    BIOMARKER_TITLES,
    AtlasMesh,
    GroupMap,
    group_names,
    require_matching,
)

QUANTITIES: Mapping[str, tuple[str, str]] = {
    "mean_group1": ("group 1 mean", "group 1 mean"),
    "mean_group0": ("group 0 mean", "group 0 mean"),
    "estimate": ("adjusted difference, group 1 minus group 0", "difference"),
    "t": ("t", "t"),
    "p": ("p, not corrected", "p"),
    "p_fwe_max_t": ("family-wise p (largest |t|)", "family-wise p"),
}
"""What a page shows: name, title, and a shorter one for the colour bar."""

TITLE = "Group maps on the atlas"


def surface_page(
    meshes: Mapping[Bone, AtlasMesh], maps: Sequence[GroupMap], *, title: str = TITLE
) -> bytes:
    """The page; the same input gives the same bytes.

    Values are single-precision: seven digits; a p below 1e-37 is shown as such. A page of 9 maps on
    three bones of 7,089 vertices takes 8 MB, 4.8 of them plotly.js; a further analysis 2 MB.

    Args:
        meshes: the atlas; a bone it lacks can be chosen and is said to be missing.
        maps: of one or more analyses, among which a menu chooses.
        title: of the page.

    Raises:
        LakeError: maps of another atlas.
        ValueError: no map at all.
    """
    if not maps:
        raise ValueError("there is no map to show; give those of at least one analysis")
    require_matching(meshes, maps)
    from plotly.offline import get_plotlyjs

    analyses = list(dict.fromkeys(one.analysis for one in maps))
    data = {
        "bone_names": BONES,
        "bones": {bone: _bone(mesh) for bone, mesh in meshes.items()},
        "families": [
            {
                "title": ANALYSIS_TITLES.get(analysis, analysis),
                "groups": group_names(analysis),
                "maps": [_map(one) for one in maps if one.analysis == analysis],
            }
            for analysis in analyses
        ],
        "biomarkers": BIOMARKER_TITLES,
        "quantities": [
            {"name": name, "title": long, "short": short}
            for name, (long, short) in QUANTITIES.items()
        ],
        "untested": UNTESTED,
        "views": {
            bone: {"towards": views[0].towards, "up": views[0].up} for bone, views in VIEWS.items()
        },
    }
    # A "<" could end the element the data are in.
    embedded = json.dumps(data, sort_keys=True).replace("<", "\\u003c")
    page = resources.files("pipeline").joinpath("surface_page.html").read_text(encoding="utf-8")
    filled = {
        "@TITLE@": html.escape(title),
        "@UNTESTED@": UNTESTED,
        "@DATA@": embedded,
        "@PLOTLY@": get_plotlyjs(),
    }
    for mark, text in filled.items():
        page = page.replace(mark, text)
    return page.encode()


def _bone(mesh: AtlasMesh) -> dict[str, str]:
    return {
        "vertices_mm": _base64(mesh.vertices_mm, "<f4"),
        "triangles": _base64(mesh.triangles, "<u4"),
        "is_medial": _base64(mesh.compartment == "medial", "u1"),
        "is_cartilage": _base64(mesh.is_cartilage, "u1"),
    }


def _map(one: GroupMap) -> dict[str, Any]:
    return {
        "analysis": one.analysis,
        "bone": one.bone,
        "biomarker": one.biomarker,
        "title": one.title,
        "unit": one.unit,
        "n_group1": one.n_group1,
        "n_group0": one.n_group0,
        "values": {name: _base64(getattr(one, name), "<f4") for name in QUANTITIES},
    }


def _base64(values: NDArray[Any], kind: str) -> str:
    """An array's bytes, row by row, as text."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")
