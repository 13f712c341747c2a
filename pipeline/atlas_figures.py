"""Figure 1: two groups' mean maps on the atlas, and where they differ.

Here: laying pictures out. Not here: rendering them (`atlas_scene`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from pipeline.atlas_scene import UNTESTED, VIEWS, Picture, View, bone_picture
from pipeline.atlas_view import (
    ANALYSIS_TITLES,
    BIOMARKER_TITLES,
    GROUPS,
    AtlasMesh,
    GroupMap,
    group_names,
    require_matching,
)
from pipeline.figures import png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

PAGE_MM = 183.0
"""Width of a two-column figure of the journal."""

SIGNIFICANT = 0.05
LOWEST_P = 1e-4
"""Where the scale of p ends; smaller ones have its last colour."""

_P_TICKS = (1e-4, 1e-3, 1e-2, 0.05)
_N_COLOURS = 512
_GREY = (0.80, 0.80, 0.80, 1.0)
_ASPECT = 1.12
_BAR_MM = 20.0
_FONT = 6.0

_WIDTH = PAGE_MM / 25.4
_LABEL = 0.20
_BAR_SPACE = 0.46
_TITLE = 0.36
_GAP = 0.05
_FOOT = 1.0
_HEAD = 0.22


def signed_evidence(one: GroupMap) -> FloatArray:
    """What the surface of p shows: log10(1/p), negative where group 0 is higher, shape (n,)."""
    p = np.clip(one.p, LOWEST_P, 1.0)
    return np.where(one.t < 0, -1.0, 1.0) * -np.log10(p)


def evidence_colours() -> "ListedColormap":
    """Colours of `signed_evidence`: grey where p is at least 0.05; red group 1, blue group 0."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    full = -np.log10(LOWEST_P)
    at = (np.arange(_N_COLOURS) + 0.5) / _N_COLOURS * 2 * full - full
    limit = -np.log10(SIGNIFICANT)
    share = np.clip((np.abs(at) - limit) / (full - limit), 0.0, 1.0)
    # From pale to strong on either side; the palest must still stand out from the grey.
    reds, blues = mpl.colormaps["YlOrRd"], mpl.colormaps["GnBu"]
    colours = np.where((at > 0)[:, None], reds(0.30 + 0.50 * share), blues(0.42 + 0.46 * share))
    colours[np.abs(at) <= limit] = _GREY
    return ListedColormap(colours, name="evidence")


_ROUNDING = 1e-6
"""Of the other end of a scale: less than this is 0."""


def mean_limits(one: GroupMap) -> tuple[float, float]:
    """The scale both groups' means share: the second to 98th percentile of the two together.

    About 0 alike on both sides where means of both signs occur, which only signed Grad-CAM has.
    """
    both = np.concatenate([one.mean_group1, one.mean_group0])
    both = both[np.isfinite(both)]
    if len(both) == 0:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(both, [2, 98]))
    if -_ROUNDING * high <= low < 0:
        # A mean of zeros, rounded.
        low = 0.0
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return low, max(high, low + 1e-9)


def figure_1(
    meshes: Mapping[Bone, AtlasMesh],
    maps: Sequence[GroupMap],
    *,
    dpi: int = 300,
    picture_px: int = 420,
    made_of: str = "",
) -> bytes:
    """Two groups' mean maps and the p-values of their difference, bone by bone; PNG bytes.

    A bone is seen from where its cartilage faces, the femur from two sides. Both means of a row
    have one scale. Where p is below 0.05 the colour says which group is higher; the black line
    holds the area whose family-wise p (largest |t|) is.

    Args:
        meshes: the atlas; a bone it lacks has panels that say so.
        maps: of one analysis; a biomarker that lacks has panels that say so.
        dpi: pixels per inch at 183 mm width.
        picture_px: width of a rendered bone; 420 is more than 300 dpi print.
        made_of: kept in the file, see `figures.png_of`.

    Raises:
        LakeError: maps of another atlas.
        ValueError: maps of more than one analysis.
    """
    analyses = {one.analysis for one in maps}
    if len(analyses) > 1:
        raise ValueError(f"maps of {', '.join(sorted(analyses))}: draw one analysis a figure")
    require_matching(meshes, maps)
    by_name = {(one.bone, one.biomarker): one for one in maps}

    wide, narrow = _cell_width(2), _cell_width(1)
    heights = [_TITLE + 3 * (width / _ASPECT + _GAP) for width in (wide, narrow)]
    height = _HEAD + sum(heights) + _FOOT
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    title = ANALYSIS_TITLES.get(*analyses, *analyses) if analyses else "no maps"
    groups = group_names(*analyses) if analyses else GROUPS
    _text(figure, 0.02, height - 0.12, f"{title}: mean maps of two groups and their difference")
    top = height - _HEAD
    below = top - heights[0]
    for letter, bone, corner, width in (
        ("a", BONES[0], (0.0, top), wide),
        ("b", BONES[1], (0.0, below), narrow),
        ("c", BONES[2], (_WIDTH / 2, below), narrow),
    ):
        _draw_block(figure, letter, bone, meshes, by_name, groups, corner, width, picture_px)
    _draw_foot(figure, groups)
    return png_of(figure, dpi, made_of)


def _cell_width(n_views: int) -> float:
    """Width of a picture in inches: of the femur's two views, or of bones side by side."""
    if n_views == 2:
        return (_WIDTH - _LABEL - _BAR_SPACE - 0.06) / 6
    return (_WIDTH / 2 - _LABEL - _BAR_SPACE - 0.06) / 3


def _draw_block(
    figure: "Figure",
    letter: str,
    bone: Bone,
    meshes: Mapping[Bone, AtlasMesh],
    maps: Mapping[tuple[Bone, str], GroupMap],
    groups: tuple[str, str],
    corner: tuple[float, float],
    width: float,
    picture_px: int,
) -> None:
    """A bone's three rows; `corner` is its upper left, inches."""
    left, top = corner
    views = VIEWS[bone]
    height = width / _ASPECT
    found = [maps[bone, name] for name in BIOMARKER_TITLES if (bone, name) in maps]
    sizes = sorted({(one.n_group1, one.n_group0) for one in found})
    # A map without any evidence leaves its knee out, so that sizes may differ from row to row.
    counts = (
        ", ".join(
            f"{name} n = {min(of)}" + (f" to {max(of)}" if max(of) > min(of) else "")
            for name, of in zip(groups, zip(*sizes, strict=True), strict=True)
        )
        if sizes
        else ""
    )
    _text(figure, left + 0.02, top - 0.05, letter, size=9, weight="bold")
    seen = ", ".join(view.title for view in views) if len(views) == 1 else "from two sides"
    _text(figure, left + 0.16, top - 0.05, f"{bone}, seen {seen}", size=7, weight="bold")
    _text(figure, left + 0.16, top - 0.16, counts, size=5.5)
    lefts = [
        left + _LABEL + column * len(views) * width + (_BAR_SPACE if column == 2 else 0.0)
        for column in range(3)
    ]
    for column, heading in enumerate((*(f"{name} mean" for name in groups), "p-value")):
        middle = lefts[column] + len(views) * width / 2
        _text(figure, middle, top - 0.28, heading, ha="center")
    for row, name in enumerate(BIOMARKER_TITLES):
        below = top - _TITLE - (row + 1) * height - row * _GAP
        _text(
            figure,
            left + 0.10,
            below + height / 2,
            BIOMARKER_TITLES[name].replace(" ", "\n"),
            rotation=90,
            ha="center",
        )
        reason = _why_empty(meshes.get(bone), maps.get((bone, name)), bone, name)
        if reason:
            axis = _axes(figure, lefts[0], below, 3 * len(views) * width + _BAR_SPACE, height)
            axis.set_facecolor("0.95")
            axis.text(0.5, 0.5, reason, ha="center", va="center", fontsize=_FONT)
            continue
        place = (below, width, height)
        _draw_row(figure, meshes[bone], maps[bone, name], lefts, place, picture_px, row == 2)


def _why_empty(mesh: AtlasMesh | None, one: GroupMap | None, bone: Bone, name: str) -> str:
    """Why a row has no picture; '' where it has."""
    if mesh is None:
        return f"the atlas has no {bone}"
    if one is None:
        return f"{BIOMARKER_TITLES[name]} was not compared on the {bone}"
    if not np.isfinite(np.concatenate([one.mean_group1, one.mean_group0, one.p])).any():
        return f"{BIOMARKER_TITLES[name]} of the {bone}: no vertex has a value"
    return ""


def _draw_row(
    figure: "Figure",
    mesh: AtlasMesh,
    one: GroupMap,
    lefts: Sequence[float],
    place: tuple[float, float, float],
    picture_px: int,
    is_last: bool,
) -> None:
    below, width, height = place
    limits = mean_limits(one)
    colours = "PuOr_r" if limits[0] < 0 else "viridis"
    evidence = signed_evidence(one)
    full = -float(np.log10(LOWEST_P))
    columns: list[tuple[FloatArray, Any, tuple[float, float], FloatArray | None]] = [
        (one.mean_group1, colours, limits, None),
        (one.mean_group0, colours, limits, None),
        (evidence, evidence_colours(), (-full, full), _family_wise(one)),
    ]
    for column, (values, palette, ends, outline) in enumerate(columns):
        for number, view in enumerate(VIEWS[mesh.bone]):
            picture = bone_picture(
                mesh,
                view,
                values,
                palette,
                ends,
                outline=outline,
                width=picture_px,
                aspect=_ASPECT,
            )
            axis = _axes(figure, lefts[column] + number * width, below, width, height)
            with_scale = is_last and column == number == 0
            _draw_picture(axis, picture, view, with_scale=with_scale)
            remark = "" if number else _remark(one, values, outline)
            axis.text(4, 4, remark, fontsize=5, va="bottom", color="0.25")
    middle = lefts[1] + len(VIEWS[mesh.bone]) * width
    _draw_bar(figure, middle + 0.05, below + 0.1 * height, 0.8 * height, colours, limits, one.unit)


def _remark(one: GroupMap, values: FloatArray, outline: FloatArray | None) -> str:
    """What a picture cannot show."""
    if not np.isfinite(values).any():
        return "no vertex tested" if outline is not None else "no values"
    if outline is not None and not np.isfinite(one.p_fwe_max_t).any():
        return "no permutations"
    return ""


def _family_wise(one: GroupMap) -> FloatArray:
    """Above 0 where the family-wise p is below 0.05, shape (n,); all below where there is none."""
    p = np.where(np.isfinite(one.p_fwe_max_t), one.p_fwe_max_t, 1.0)
    return np.log10(SIGNIFICANT) - np.log10(np.clip(p, LOWEST_P, 1.0))


def _draw_picture(axis: "Axes", picture: Picture, view: View, *, with_scale: bool) -> None:
    height, width, _ = picture.pixels.shape
    unit = width / 420
    axis.imshow(picture.pixels, interpolation="antialiased", extent=(0, width, 0, height))
    left, right, lower, upper = view.marks
    places = (
        (0.01, 0.5, left, "left", "center"),
        (0.99, 0.5, right, "right", "center"),
        (0.5, 0.0, lower, "center", "bottom"),
        (0.5, 1.0, upper, "center", "top"),
    )
    for x, y, text, horizontal, vertical in places:
        axis.text(x * width, y * height, text, ha=horizontal, va=vertical, fontsize=5, color="0.25")
    if with_scale:
        length = _BAR_MM / picture.mm_per_pixel
        axis.plot(
            [3, 3 + length], [6 * unit, 6 * unit], color="black", lw=1.0, solid_capstyle="butt"
        )
        axis.text(
            3 + length / 2, 12 * unit, f"{_BAR_MM:g} mm", fontsize=5, ha="center", va="bottom"
        )


def _draw_bar(
    figure: "Figure",
    left: float,
    below: float,
    height: float,
    colours: str,
    limits: tuple[float, float],
    unit: str,
) -> None:
    """The scale of a row's means, inches."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    axis = _axes(figure, left, below, 0.06, height)
    scale = ScalarMappable(Normalize(*limits), mpl.colormaps[colours])
    bar = figure.colorbar(scale, cax=axis, extend="both", extendfrac=0.06)
    bar.locator = MaxNLocator(3)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=5, length=2, pad=1, width=0.5)
    bar.outline.set_linewidth(0.5)
    bar.ax.set_title(unit.replace(" per ", "\nper "), fontsize=5, pad=2, loc="left")


def _draw_foot(figure: "Figure", groups: tuple[str, str]) -> None:
    """The scale of p and how to read the figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    full = -np.log10(LOWEST_P)
    axis = _axes(figure, 1.2, 0.66, _WIDTH - 2.4, 0.09)
    scale = ScalarMappable(Normalize(-full, full), evidence_colours())
    bar = figure.colorbar(scale, cax=axis, orientation="horizontal", extend="both", extendfrac=0.02)
    at = [-np.log10(p) for p in _P_TICKS]
    bar.set_ticks(
        [*(-one for one in at), 0.0, *reversed(at)],
        labels=[*(f"{p:g}" for p in _P_TICKS), "1", *(f"{p:g}" for p in reversed(_P_TICKS))],
    )
    bar.ax.tick_params(labelsize=5.5, length=2, pad=1, width=0.5)
    bar.outline.set_linewidth(0.5)
    for sign in (-1, 1):
        bar.ax.axvline(-sign * np.log10(SIGNIFICANT), color="black", lw=0.8)
    _text(figure, 1.12, 0.705, f"{groups[1]} higher", ha="right")
    _text(figure, _WIDTH - 1.12, 0.705, f"{groups[0]} higher")
    _text(
        figure,
        _WIDTH / 2,
        0.84,
        "p-value of the difference (two-sided, not corrected), log scale; grey: p \u2265 0.05",
        ha="center",
    )
    axis = _axes(figure, 0.06, 0.33, 0.16, 0.08)
    axis.set_facecolor(UNTESTED)
    _text(figure, 0.28, 0.37, "no value, not tested")
    axis = _axes(figure, 1.36, 0.33, 0.16, 0.08)
    axis.set_facecolor("white")
    for spine in axis.spines.values():
        spine.set(visible=True, linewidth=1.2, color="black")
    _text(
        figure, 1.58, 0.37, "inside: family-wise p < 0.05 over the map (permutation, largest |t|)"
    )
    _text(
        figure,
        0.06,
        0.20,
        "L lateral, M medial, A anterior, P posterior, S superior, I inferior; a right knee, left "
        "ones mirrored.",
    )
    _text(
        figure,
        0.06,
        0.08,
        "Means of a row have one scale, its ends the 2nd and 98th percentile of both; pictures of "
        "a bone have one scale.",
    )


def _axes(figure: "Figure", left: float, below: float, width: float, height: float) -> "Axes":
    """Axes without ticks at a place in inches from the figure's lower left."""
    size = figure.get_size_inches()
    axis = figure.add_axes((left / size[0], below / size[1], width / size[0], height / size[1]))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis


def _text(
    figure: "Figure", left: float, below: float, words: str, *, size: float = _FONT, **more: Any
) -> None:
    """Words at a place in inches from the figure's lower left."""
    width, height = figure.get_size_inches()
    figure.text(left / width, below / height, words, fontsize=size, va="center", **more)
