"""Figures a person would rather look at than read: maps, surfaces and Bland-Altman plots.

Every function returns PNG bytes. The same input gives the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from imaging.morphometry import PAPER_PIXEL_MM
from imaging.sphere import FRAMES, map_faces, surface_points
from lake.maps import MapPart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES: Mapping[str, str] = {
    "bone_shape": "bone shape (mm)",
    "cartilage_thickness": "cartilage thickness (mm)",
    "t2_superficial": "T2 superficial (ms)",
    "t2_deep": "T2 deep (ms)",
    "t2_mean": "T2 mean (ms)",
}

_COLOURS: Mapping[str, str] = {
    "bone_shape": "cividis",
    "cartilage_thickness": "viridis",
    "t2_superficial": "magma",
    "t2_deep": "magma",
    "t2_mean": "magma",
}

_THETA_LABEL = "medial  \N{LEFTWARDS ARROW}  theta (deg)  \N{RIGHTWARDS ARROW}  lateral"

_VERTICAL: Mapping[Bone, tuple[str, str]] = {
    "femur": ("distal", "proximal"),
    "tibia": ("posterior", "anterior"),
    "patella": ("inferior", "superior"),
}
"""What lies at the lowest and the highest phi of each bone's map."""


def maps_figure(
    parts: Mapping[Bone, MapPart],
    *,
    title: str,
    names: Sequence[str] = tuple(TITLES),
    dpi: int = 70,
) -> bytes:
    """The spherical maps of one knee, a row per bone.

    Args:
        parts: one-knee parts by bone.
        title: above the figure.
        names: which maps, a column each.
        dpi: 70 keeps five columns under 100 kB.
    """
    figure = blank_figure(3.4 * len(names), 2.5 * len(parts) + 0.5)
    figure.suptitle(title)
    axes = figure.subplots(len(parts), len(names), squeeze=False)
    for row, (bone, part) in enumerate(_in_order(parts)):
        for axis, name in zip(axes[row], names, strict=True):
            _draw_map(figure, axis, part, bone, name)
    return png_of(figure, dpi)


def knee_figure(parts: Mapping[Bone, MapPart], *, title: str, dpi: int = 90) -> bytes:
    """Maps and 3-D surfaces of one knee: what `kneelake view` shows."""
    names = [name for name in TITLES if any(_has(part, name) for part in parts.values())]
    shown = [name for name in names if name in {"cartilage_thickness", "t2_mean"}] or names[:1]
    width = len(names) + len(shown)
    figure = blank_figure(3.3 * width, 2.7 * len(parts) + 0.5)
    figure.suptitle(title)
    axes = figure.subplots(len(parts), width, squeeze=False)
    for row, (bone, part) in enumerate(_in_order(parts)):
        for axis, name in zip(axes[row], names, strict=False):
            _draw_map(figure, axis, part, bone, name)
        for axis, name in zip(axes[row, len(names) :], shown, strict=True):
            axis.imshow(surface_picture(part, name))
            axis.set_axis_off()
            axis.set_title(f"{bone}: {TITLES[name].split(' (')[0]}", fontsize=9)
    return png_of(figure, dpi)


def surface_picture(part: MapPart, name: str, *, size: int = 420) -> NDArray[np.uint8]:
    """A bone's surface rebuilt from its map and coloured by one biomarker, (size, size, 3).

    Seen from where its cartilage faces; bare bone is ivory.
    """
    from vtkmodules.vtkCommonCore import vtkLogger

    # Without a screen VTK reports the failed X connection before it renders off screen.
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    import pyvista as pv

    bone = part.bone
    frame = FRAMES[bone]
    rho = part.maps["bone_shape"][0].astype(np.float64)
    points = surface_points(rho, frame, np.zeros(3)).reshape(-1, 3)
    faces = map_faces(rho)
    mesh = pv.PolyData(points, np.column_stack([np.full(len(faces), 3), faces]).ravel())
    mesh["value"] = part.maps[name][0].ravel()
    plotter: Any = pv.Plotter(off_screen=True, window_size=[size, size])
    plotter.set_background("white")
    low, high = _limits(part.maps[name][0])
    plotter.add_mesh(
        mesh,
        scalars="value",
        clim=(low, high),
        cmap=_COLOURS[name],
        nan_color="ivory",
        show_scalar_bar=False,
        smooth_shading=True,
    )
    middle = np.mean(frame.phi_range)
    towards = np.array([np.cos(middle), 0.0, np.sin(middle)]) @ frame.axes
    if bone == "femur":
        towards = np.array([0.0, -0.75, -0.65])
    plotter.camera_position = [
        tuple(180.0 * towards),
        (0.0, 0.0, 0.0),
        tuple(frame.axes[2] if bone != "femur" else (0.0, 0.0, 1.0)),
    ]
    plotter.reset_camera()
    picture = np.asarray(plotter.screenshot(return_img=True))
    plotter.close()
    return picture


def bland_altman_figure(agreement: pl.DataFrame, *, dpi: int = 70) -> bytes:
    """Mean on the map against mean on the surface, a panel per bone and biomarker.

    Args:
        agreement: rows of `map_agreement`, a knee-visit each per bone and biomarker.
        dpi: of the picture.
    """
    names = [name for name in TITLES if name in set(agreement["biomarker"])]
    bones = [bone for bone in BONES if bone in set(agreement["bone"])]
    figure = blank_figure(3.4 * max(len(names), 1), 2.6 * max(len(bones), 1) + 0.6)
    figure.suptitle("Map minus surface: pixels counted alike (o) and weighted by area (+)")
    axes = figure.subplots(max(len(bones), 1), max(len(names), 1), squeeze=False)
    for row, bone in enumerate(bones):
        for column, name in enumerate(names):
            rows = agreement.filter((pl.col("bone") == bone) & (pl.col("biomarker") == name))
            _draw_bland_altman(axes[row, column], rows, f"{bone} {TITLES[name]}", name)
    return png_of(figure, dpi)


def trajectory_figure(biomarkers: pl.DataFrame, *, dpi: int = 80) -> bytes:
    """Thickness and T2 by timepoint, a thin line per knee and the mean on top.

    Args:
        biomarkers: default rows of `biomarkers`.
        dpi: of the picture.
    """
    names = [name for name in ("cartilage_thickness", "t2_mean") if name in _names(biomarkers)]
    figure = blank_figure(4.2 * len(BONES), 2.9 * max(len(names), 1))
    axes = figure.subplots(max(len(names), 1), len(BONES), squeeze=False)
    timepoints = sorted(set(biomarkers["timepoint"]))
    colours = {"medial": "#b2452f", "lateral": "#2c6aa0"}
    for row, name in enumerate(names):
        for column, bone in enumerate(BONES):
            axis = axes[row, column]
            for compartment, colour in colours.items():
                rows = biomarkers.filter(
                    (pl.col("bone") == bone)
                    & (pl.col("biomarker") == name)
                    & (pl.col("compartment") == compartment)
                    & pl.col("mean").is_not_null()
                )
                for _, knee in rows.sort("timepoint").group_by(
                    ["subject_id", "side"], maintain_order=True
                ):
                    axis.plot(knee["timepoint"], knee["mean"], color=colour, alpha=0.25, lw=0.8)
                mean = rows.group_by("timepoint").agg(pl.col("mean").mean()).sort("timepoint")
                axis.plot(mean["timepoint"], mean["mean"], "o-", color=colour, label=compartment)
            axis.set_xticks(range(len(timepoints)), timepoints)
            axis.set_title(f"{bone}: {TITLES[name]}", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    return png_of(figure, dpi)


def _names(rows: pl.DataFrame) -> set[str]:
    return set(rows["biomarker"])


def _in_order(parts: Mapping[Bone, MapPart]) -> list[tuple[Bone, MapPart]]:
    return [(bone, parts[bone]) for bone in BONES if bone in parts]


def _has(part: MapPart, name: str) -> bool:
    return bool(np.isfinite(part.maps[name]).any())


def _limits(values: NDArray[np.floating]) -> tuple[float, float]:
    """Second to 98th percentile: one long ray must not wash a map out."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [2, 98])
    return float(low), float(max(high, low + 1e-6))


def _draw_map(figure: "Figure", axis: "Axes", part: MapPart, bone: Bone, name: str) -> None:
    values = part.maps[name][0]
    low, high = _limits(values)
    phi_low, phi_high = np.degrees(FRAMES[bone].phi_range)
    image = axis.imshow(
        values,
        origin="lower",
        aspect="auto",
        extent=(-180.0, 180.0, phi_low, phi_high),
        cmap=_COLOURS[name],
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    axis.set_facecolor("#e8e8e8")
    axis.set_xticks([-180, -90, 0, 90, 180])
    axis.tick_params(labelsize=7)
    axis.set_title(f"{bone}: {TITLES[name]}", fontsize=9)
    down, up = _VERTICAL[bone]
    axis.set_xlabel(_THETA_LABEL, fontsize=7)
    axis.set_ylabel(f"phi (deg), {down} to {up}", fontsize=7)
    if not _has(part, name):
        axis.text(0, np.mean([phi_low, phi_high]), "not measured", ha="center", fontsize=9)
        return
    bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)


def _draw_bland_altman(axis: "Axes", rows: pl.DataFrame, title: str, name: str) -> None:
    surface = rows["surface_mean"].to_numpy()
    for column, marker, colour in (
        ("map_mean", "o", "#2c6aa0"),
        ("map_mean_area_weighted", "+", "#b2452f"),
    ):
        on_map = rows[column].to_numpy()
        difference = on_map - surface
        axis.plot((on_map + surface) / 2, difference, marker, color=colour, ms=5, mfc="none")
        if len(difference) > 1:
            spread = 1.96 * difference.std(ddof=1)
            for level, style in ((0.0, "-"), (spread, ":"), (-spread, ":")):
                axis.axhline(difference.mean() + level, color=colour, lw=0.8, ls=style)
    if name == "cartilage_thickness":
        axis.axhspan(-PAPER_PIXEL_MM, PAPER_PIXEL_MM, color="0.92", zorder=0)
    axis.axhline(0.0, color="0.6", lw=0.6)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("mean of the two", fontsize=7)
    axis.set_ylabel("map - surface", fontsize=7)
    axis.tick_params(labelsize=7)


def blank_figure(width: float, height: float) -> "Figure":
    """A figure of this size, inches, to draw on."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png_of(figure: "Figure", dpi: int, made_of: str = "") -> bytes:
    """A figure as PNG; the same figure gives the same bytes.

    Args:
        figure: what was drawn.
        dpi: pixels per inch.
        made_of: what it was drawn from, kept in the file for `drawn_before`.
    """
    buffer = io.BytesIO()
    # No software version or date: the same figure must be the same bytes.
    metadata: dict[str, Any] = {"Software": None}
    if made_of:
        metadata["Source"] = made_of
    figure.savefig(buffer, format="png", dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def drawn_before(path: Path, made_of: str, width: int) -> bytes | None:
    """A figure kept in a file, made narrower, as PNG; None where it is of something else.

    Args:
        path: the file.
        made_of: what it has to have been drawn from.
        width: wanted, pixels.
    """
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as picture:
        if picture.info.get("Source") != made_of:
            return None
        height = round(picture.height * width / picture.width)
        smaller = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
