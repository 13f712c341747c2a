"""Figures 3 to 5 of the paper, each of one knee's bone; PNG bytes.

Here: laying out. Not here: what is drawn (`knee_view`, `image_figures.knee_planes`), or the merges
as the UI shows them (`image_figures.strategies_figure`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from imaging.sphere import FRAMES
from lake.errors import LakeError
from lake.maps import MapPart
from models.strategies import PLANES, STRATEGIES, channels_of, merge
from pipeline.atlas_scene import VIEWS, bone_picture, place_in_picture
from pipeline.figures import TITLES, blank_figure, png_of
from pipeline.image_figures import CHANNEL_TITLES
from pipeline.image_figures import TITLES as STRATEGY_TITLES
from pipeline.knee_view import SINGLE_STRATEGIES, KneeCam, MapSurface, map_surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

_MAPS: Mapping[str, str] = {
    "bone_shape": "cividis",
    "cartilage_thickness": "viridis",
    "t2_mean": "magma",
}
_WIDTH_IN = 7.2
_ASPECT = 1.12
_FONT = 7.0
_HEAT = "inferno"
_THETA_DEG = tuple(range(-180, 180, 30))
_PHI_DEG = (-75, -60, -45, -30, -15, 0, 15)
_LABELLED_PHI = 0
_LABELS_DEG = (
    *((theta, _LABELLED_PHI) for theta in (-90, -60, 0, 60, 90)),
    *((30, phi) for phi in (-15, -30, -45, -60)),
)
"""Where a line is named: those of theta on one line of phi, and the other way about."""
_ABOVE = 1.006
"""Lines on a surface lie this much further out, so that it does not hide them."""


def figure_3(part: MapPart, *, dpi: int = 200, picture_px: int = 420) -> bytes:
    """The spherical transformation and the three biomarkers' maps of one knee's bone (Fig. 3).

    (a) the surface with lines of theta and phi, and one point's rho, theta and phi; (b) to (d) the
    three maps, each above the surface it is of, in the same colours.

    Args:
        part: a one-knee part.
        dpi: pixels per inch at 183 mm width.
        picture_px: width of a rendered bone.

    Raises:
        LakeError: its bone_shape map is empty.
    """
    surface = map_surface(part)
    figure = blank_figure(_WIDTH_IN, 3.7)
    knee = part.knees[0].knee_visit
    figure.suptitle(f"{knee}, {part.bone}: spherical maps", fontsize=9)
    axes = figure.subplots(2, 4, width_ratios=[1.5, 1, 1, 1])
    for axis in axes[:, 0]:
        axis.remove()
    grid = axes[0, 0].get_gridspec()
    _draw_transformation(figure.add_subplot(grid[:, 0]), part, surface, 2 * picture_px)
    for letter, (name, colours), above, below in zip(
        "bcd", _MAPS.items(), axes[0, 1:], axes[1, 1:], strict=True
    ):
        values = part.maps[name][0].astype(np.float64)
        above.set_title(f"({letter}) {TITLES[name]}", fontsize=_FONT)
        _label_map(above, part.bone)
        if not np.isfinite(values).any():
            _say(above, "not measured")
            below.set_axis_off()
            continue
        limits = _limits(values)
        image = _draw_values(above, part.bone, values, colours, limits)
        bar = figure.colorbar(image, ax=above, location="right", fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=5.5, length=2, pad=1)
        _draw_surface(below, surface, surface.values(values), colours, limits, picture_px)
    return png_of(figure, dpi)


def figure_4(planes: NDArray[np.uint8], bone: Bone, knee_visit: str, *, dpi: int = 200) -> bytes:
    """The six merges of one knee's bone, each with its three channels (Fig. 4).

    Args:
        planes: 8-bit planes in the order of `models.strategies.PLANES`, shape (5, 224, 224).
        bone: whose.
        knee_visit: of whom.
        dpi: pixels per inch at 183 mm width.
    """
    figure = blank_figure(_WIDTH_IN, 5.0)
    figure.suptitle(
        f"{knee_visit}, {bone}: red, green and blue channel and their merge", fontsize=9
    )
    cells: Any = figure.subfigures(3, 2, wspace=0.02)
    for cell, strategy in zip(cells.T.flat, STRATEGIES, strict=True):
        cell.suptitle(STRATEGY_TITLES[strategy], fontsize=_FONT)
        axes = cell.subplots(1, 4, width_ratios=[1, 1, 1, 1.6])
        for axis, channel, colour in zip(
            axes, channels_of(strategy), ("red", "green", "blue"), strict=False
        ):
            empty = np.zeros(planes.shape[1:], dtype=np.uint8)
            shown = empty if channel is None else planes[PLANES.index(channel)]
            axis.imshow(shown, origin="lower", cmap="gray", vmin=0, vmax=255)
            axis.set_title(colour, fontsize=6, color=colour, pad=2)
            axis.set_xlabel(CHANNEL_TITLES[channel], fontsize=5.5, labelpad=2)
        merged = np.moveaxis(merge(planes[None], strategy)[0], 0, -1)
        axes[-1].imshow(merged, origin="lower", interpolation="nearest")
        axes[-1].set_title("merged", fontsize=6, pad=2)
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
    return png_of(figure, dpi)


def figure_5(
    part: MapPart,
    planes: NDArray[np.uint8],
    cams: Mapping[str, KneeCam],
    *,
    target: str = "pain",
    dpi: int = 200,
    picture_px: int = 420,
) -> bytes:
    """From a network's cells to a heat map on the bone, a row per single biomarker (Fig. 5).

    Columns: the image the network is given, its Grad-CAM on its own grid, that enlarged and laid
    over the biomarker's map, and that inverted onto the knee's own surface. A row has one scale.

    Args:
        part: a one-knee part.
        planes: its bone's 8-bit planes, shape (5, 224, 224).
        cams: of `knee_cams`, by strategy; one that is left out has panels that say so.
        target: whose evidence the maps are, for the title.
        dpi: pixels per inch at 183 mm width.
        picture_px: width of a rendered bone.

    Raises:
        LakeError: its bone_shape map is empty, or a heat map of another grid than the maps.
    """
    surface = map_surface(part)
    shape = part.shape[1:]
    for strategy, cam in cams.items():
        if cam.heat.shape != shape:
            raise LakeError(
                f"Grad-CAM of {part.knees[0].knee_visit}, {strategy} has {cam.heat.shape} pixels "
                f"and the map {shape}"
            )
    figure = blank_figure(_WIDTH_IN, 5.6)
    figure.suptitle(
        f"{part.knees[0].knee_visit}, {part.bone}: Grad-CAM for {target.replace('_', ' ')}, "
        "negative evidence set to 0",
        fontsize=9,
    )
    axes = figure.subplots(3, 4)
    headings = ("input image", "Grad-CAM, network's grid", "enlarged, over the map", "on the bone")
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, fontsize=_FONT)
    for row, (strategy, name) in zip(axes, SINGLE_STRATEGIES.items(), strict=True):
        merged = np.moveaxis(merge(planes[None], strategy)[0], 0, -1)
        row[0].imshow(merged, origin="lower", aspect="auto", extent=_extent(part.bone))
        _label_map(row[0], part.bone, TITLES[name].rsplit(" (", 1)[0])
        if strategy not in cams:
            for axis in row[1:]:
                _say(axis, "no Grad-CAM")
            continue
        _draw_cam(figure, row[1:], part, surface, (name, cams[strategy]), picture_px)
    return png_of(figure, dpi)


def _draw_cam(
    figure: "Figure",
    axes: NDArray[Any],
    part: MapPart,
    surface: MapSurface,
    named: tuple[str, KneeCam],
    picture_px: int,
) -> None:
    name, cam = named
    highest = float(cam.cells.max())
    limits = (0.0, highest if highest > 0 else 1.0)
    image = _draw_values(axes[0], part.bone, cam.cells, _HEAT, limits)
    bar = figure.colorbar(image, ax=axes[0], fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=5.5, length=2, pad=1)
    bar.ax.set_title("logit\nper cell", fontsize=5)
    axes[0].set_xlabel(f"the network says {'yes' if cam.predicted else 'no'}", fontsize=6)
    values = part.maps[name][0].astype(np.float64)
    _draw_values(axes[1], part.bone, values, "gray", _limits(values))
    axes[1].imshow(
        cam.heat,
        origin="lower",
        aspect="auto",
        extent=_extent(part.bone),
        cmap=_HEAT,
        vmin=limits[0],
        vmax=limits[1],
        # The map stays to be seen where there is little evidence.
        alpha=0.15 + 0.65 * np.clip(cam.heat / limits[1], 0.0, 1.0),
    )
    _draw_surface(axes[2], surface, surface.values(cam.heat), _HEAT, limits, picture_px)
    for axis in axes[:2]:
        axis.set_xticks([])
        axis.set_yticks([])
    if highest <= 0:
        _say(axes[1], "no evidence for it")


def _draw_transformation(axis: "Axes", part: MapPart, surface: MapSurface, picture_px: int) -> None:
    """Panel (a): lines of theta and phi on the bone, and one point's coordinates."""
    rho = part.maps["bone_shape"][0].astype(np.float64)
    view = VIEWS[part.bone][0]
    lines = [
        *(_on_surface(part, rho, np.radians(theta), part.phi) for theta in _THETA_DEG),
        *(_on_surface(part, rho, part.theta, np.radians(phi)) for phi in _PHI_DEG),
    ]
    values = surface.values(rho)
    limits = _limits(rho)
    picture = bone_picture(
        surface,
        view,
        values,
        _MAPS["bone_shape"],
        limits,
        lines=[run for line in lines for run in _runs(line)],
        width=picture_px,
        aspect=_ASPECT,
    )
    height, width, _ = picture.pixels.shape
    axis.imshow(picture.pixels, extent=(0, width, 0, height))
    axis.set_axis_off()
    axis.set_title("(a) \u03b8, \u03c6 and \u03c1", fontsize=_FONT)

    def place(points: FloatArray) -> FloatArray:
        return place_in_picture(surface, view, points, picture_px, _ASPECT)

    towards = view.axes[2]
    for theta, phi in _LABELS_DEG:
        point = _on_surface(part, rho, np.radians([theta]), np.radians(phi))[0]
        # Only where the surface faces the eye, or a label would name a point behind it.
        if not np.isfinite(point).all() or point @ towards < 0.35 * np.linalg.norm(point):
            continue
        text = f"\u03b8 {theta}\u00b0" if phi == _LABELLED_PHI else f"\u03c6 {phi}\u00b0"
        x, y = place(point)
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
        axis.text(x, y, text, fontsize=5, ha="center", va="center", bbox=box)
    shown = _on_surface(part, rho, np.radians([-60.0]), np.radians(-30.0))[0]
    if np.isfinite(shown).all():
        centre, end = place(np.zeros(3)), place(shown)
        arrow = {"arrowstyle": "->", "color": "crimson", "lw": 1.2, "linestyle": "--"}
        axis.annotate("", xy=tuple(end), xytext=tuple(centre), arrowprops=arrow)
        axis.plot(*centre, "+", color="crimson", ms=6)
        length = np.linalg.norm(shown) / _ABOVE
        axis.text(
            0.5,
            -0.02,
            f"arrow: from the centroid, \u03c1 = {length:.1f} mm\nat \u03b8 = -60\u00b0, "
            "\u03c6 = -30\u00b0",
            transform=axis.transAxes,
            fontsize=6,
            color="crimson",
            ha="center",
            va="top",
        )
    for x, y, text in zip((0.0, 1.0, 0.5, 0.5), (0.5, 0.5, 0.0, 1.0), view.marks, strict=True):
        axis.text(x, y, text, transform=axis.transAxes, fontsize=6, ha="center", va="center")


def _on_surface(
    part: MapPart,
    rho: FloatArray,
    theta: FloatArray | np.floating,
    phi: FloatArray | np.floating,
) -> FloatArray:
    """Points of the surface at angles (rad), a little above it, from the nearest pixel, (k, 3)."""
    theta, phi = np.broadcast_arrays(np.atleast_1d(theta), np.atleast_1d(phi))
    local = np.stack(
        [np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1
    )
    step = 2 * np.pi / len(part.theta)
    column = np.round((theta - part.theta[0]) / step).astype(int) % len(part.theta)
    row = np.abs(phi[:, None] - part.phi[None]).argmin(axis=1)
    return _ABOVE * rho[row, column][:, None] * (local @ FRAMES[part.bone].axes)


def _runs(line: FloatArray) -> list[FloatArray]:
    """The stretches of a line without a gap."""
    known = np.isfinite(line).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    return [
        line[start:end]
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if end - start > 1
    ]


def _draw_surface(
    axis: "Axes",
    surface: MapSurface,
    values: FloatArray,
    colours: str,
    limits: tuple[float, float],
    picture_px: int,
) -> None:
    view = VIEWS[surface.bone][0]
    picture = bone_picture(surface, view, values, colours, limits, width=picture_px, aspect=_ASPECT)
    axis.imshow(picture.pixels)
    axis.set_axis_off()
    for x, y, text in zip((0.0, 1.0, 0.5, 0.5), (0.5, 0.5, 0.0, 1.0), view.marks, strict=True):
        axis.text(x, y, text, transform=axis.transAxes, fontsize=5, ha="center", va="center")


def _draw_values(
    axis: "Axes",
    bone: Bone,
    values: NDArray[np.floating],
    colours: str,
    limits: tuple[float, float],
) -> Any:
    axis.set_facecolor("#e8e8e8")
    return axis.imshow(
        values,
        origin="lower",
        aspect="auto",
        extent=_extent(bone),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )


def _label_map(axis: "Axes", bone: Bone, name: str = "") -> None:
    axis.set_xticks([-180, -90, 0, 90, 180])
    axis.tick_params(labelsize=5.5, length=2, pad=1)
    axis.set_xlabel("medial \u2190 \u03b8 (\u00b0) \u2192 lateral", fontsize=5.5, labelpad=1)
    axis.set_ylabel(f"{name}\n\u03c6 (\u00b0)" if name else "\u03c6 (\u00b0)", fontsize=6)
    left, right, low, high = _extent(bone)
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)


def _extent(bone: Bone) -> tuple[float, float, float, float]:
    low, high = np.degrees(FRAMES[bone].phi_range)
    return -180.0, 180.0, float(low), float(high)


def _limits(values: FloatArray) -> tuple[float, float]:
    """Second to 98th percentile: one long ray must not wash a map out."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [2, 98])
    return float(low), float(max(high, low + 1e-6))


def _say(axis: "Axes", words: str) -> None:
    """Words in the middle of a panel instead of a picture."""
    axis.text(0.5, 0.5, words, transform=axis.transAxes, fontsize=7, ha="center", va="center")
    axis.set_xticks([])
    axis.set_yticks([])
