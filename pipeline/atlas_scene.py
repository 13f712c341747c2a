"""Pictures of one bone of the atlas, off screen: cameras, marks of direction, colours.

All pictures of one bone from one side have the same camera, in parallel projection, so that they
can be laid over each other and carry one scale. The knee frame is LPS of a right knee: x grows
towards medial, y towards posterior, z towards superior.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone

FloatArray = NDArray[np.float64]

UNTESTED = "#f5efdc"
"""Ivory, for points without a value."""

_MARGIN = np.array([1.13, 1.2])
"""Room around the bone, across and up, for the marks of direction."""
_DIRECTIONS: Sequence[tuple[str, str, int]] = (
    ("M", "L", 0),
    ("P", "A", 1),
    ("S", "I", 2),
)
"""Letters of each axis's positive and negative end."""

_LIFT_MM = 2.0

_OUTLINE, _LINE = 0.0045, 0.0012
"""Half the thickness of lines, of the picture's width."""

_SHARE_OF_MARK = 0.5
"""A direction this far along an edge of the picture is named there."""


class Triangulated(Protocol):
    """A bone's surface: an atlas's, or one rebuilt from a map."""

    @property
    def bone(self) -> Bone:
        """The bone."""

    @property
    def vertices_mm(self) -> FloatArray:
        """Its points in the right-knee frame, shape (n, 3)."""

    @property
    def triangles(self) -> NDArray[np.int64]:
        """Its triangles, counter-clockwise seen from outside, shape (m, 3)."""


@dataclass(frozen=True)
class View:
    """From where a bone is looked at.

    Attributes:
        title: in words.
        towards: from the bone to the eye, knee frame.
        up: what is up in the picture.
    """

    title: str
    towards: tuple[float, float, float]
    up: tuple[float, float, float]

    @property
    def axes(self) -> FloatArray:
        """Unit vectors to the picture's right, up and towards the eye, rows, shape (3, 3)."""
        towards = np.array(self.towards) / np.linalg.norm(self.towards)
        right = np.cross(self.up, towards)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(towards, right), towards])

    @property
    def marks(self) -> tuple[str, str, str, str]:
        """Letters at the left, right, lower and upper edge, e.g. ('L', 'M', 'IP', 'SA')."""
        right, up, _ = self.axes
        return _letters(-right), _letters(right), _letters(-up), _letters(up)


VIEWS: Mapping[Bone, tuple[View, ...]] = {
    "femur": (
        View("from below and in front", (0.0, -0.75, -0.65), (0.0, 0.0, 1.0)),
        View("from below and behind", (0.0, 0.75, -0.65), (0.0, 0.0, 1.0)),
    ),
    "tibia": (View("from above", (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),),
    "patella": (View("from behind", (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),),
}
"""The sides cartilage faces."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A rendered bone.

    Attributes:
        pixels: red, green, blue, shape (height, width, 3).
        mm_per_pixel: size of a pixel in the plane of the picture.
    """

    pixels: NDArray[np.uint8]
    mm_per_pixel: float


def picture_size(mesh: Triangulated, width: int, aspect: float) -> tuple[float, int]:
    """Size of a pixel (mm) and height of pictures that hold the whole bone from each of `VIEWS`.

    Args:
        mesh: the bone.
        width: of the picture, pixels.
        aspect: width over height.
    """
    height = round(width / aspect)
    extents = [np.ptp(mesh.vertices_mm @ view.axes[:2].T, axis=0) for view in VIEWS[mesh.bone]]
    largest = np.max(extents, axis=0)
    return float((_MARGIN * largest / np.array([width, height])).max()), height


def place_in_picture(
    mesh: Triangulated, view: View, points_mm: FloatArray, width: int, aspect: float
) -> FloatArray:
    """Where points lie in a picture of `bone_picture`, pixels right and up, shape (k, 2)."""
    mm_per_pixel, height = picture_size(mesh, width, aspect)
    axes = view.axes[:2]
    seen = mesh.vertices_mm @ axes.T
    middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
    return (points_mm @ axes.T - middle) / mm_per_pixel + np.array([width / 2, height / 2])


def bone_picture(
    mesh: Triangulated,
    view: View,
    values: FloatArray,
    colours: Any,
    limits: tuple[float, float],
    *,
    outline: FloatArray | None = None,
    lines: Sequence[FloatArray] = (),
    width: int = 420,
    aspect: float = 1.15,
) -> Picture:
    """A bone coloured by values, NaN in ivory.

    Args:
        mesh: the bone.
        view: from where, of `VIEWS`.
        values: one per vertex, shape (n,).
        colours: a matplotlib colour map, or the name of one.
        limits: values of its two ends; beyond them the end's colour is taken.
        outline: values whose contour at 0 is drawn in black, shape (n,), finite; None for none.
        lines: points of lines drawn in black where the surface does not hide them, each (k, 3).
        width: of the picture, pixels.
        aspect: width over height.
    """
    from vtkmodules.vtkCommonCore import vtkLogger

    # Without a screen VTK reports the failed X connection before it renders off screen.
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    import pyvista as pv

    mm_per_pixel, height = picture_size(mesh, width, aspect)
    surface = _poly_data(pv, mesh)
    surface["value"] = values
    # One white light at the eye: the usual set of lights is tinted, which changes colours.
    plotter: Any = pv.Plotter(off_screen=True, window_size=[width, height], lighting="none")
    plotter.add_light(pv.Light(light_type="headlight", color="white"))
    plotter.set_background("white")
    plotter.enable_anti_aliasing("ssaa")
    plotter.add_mesh(
        surface,
        scalars="value",
        clim=limits,
        cmap=colours,
        nan_color=UNTESTED,
        show_scalar_bar=False,
        smooth_shading=True,
        # Mostly ambient: shading must not change which value a colour is read as.
        ambient=0.45,
        diffuse=0.6,
        specular=0.0,
    )
    if outline is not None and outline.min() < 0 < outline.max():
        surface["outline"] = outline
        line = surface.contour([0.0], scalars="outline").strip()
        line = line.tube(radius=_OUTLINE * width * mm_per_pixel, n_sides=8)
        # Towards the eye, so that the surface does not hide the line on it; in parallel projection
        # this moves nothing within the picture.
        line.points = line.points + _LIFT_MM * view.axes[2]
        plotter.add_mesh(line, color="black", lighting=False)
    for points in lines:
        line = pv.lines_from_points(points).strip()
        line = line.tube(radius=_LINE * width * mm_per_pixel, n_sides=6)
        plotter.add_mesh(line, color="black", lighting=False)
    _aim(plotter, mesh, view, mm_per_pixel * height)
    pixels = np.array(plotter.screenshot(return_img=True))
    plotter.close()
    return Picture(pixels, mm_per_pixel)


def _poly_data(pv: Any, mesh: Triangulated) -> Any:
    corners = np.column_stack([np.full(len(mesh.triangles), 3), mesh.triangles])
    return pv.PolyData(mesh.vertices_mm, corners.ravel())


def _aim(plotter: Any, mesh: Triangulated, view: View, height_mm: float) -> None:
    axes = view.axes
    seen = mesh.vertices_mm @ axes.T
    middle = ((seen.min(axis=0) + seen.max(axis=0)) / 2) @ axes
    distance = 3 * float(np.ptp(seen, axis=0).max())
    camera = plotter.camera
    camera.position = tuple(middle + distance * axes[2])
    camera.focal_point = tuple(middle)
    camera.up = tuple(axes[1])
    camera.enable_parallel_projection()
    camera.parallel_scale = height_mm / 2
    camera.clipping_range = (distance / 10, 3 * distance)


def _letters(direction: FloatArray) -> str:
    """The letters of the axes that a direction of the picture goes along, the nearest first."""
    order = np.argsort(-np.abs(direction), kind="stable")
    return "".join(
        _DIRECTIONS[axis][0 if direction[axis] > 0 else 1]
        for axis in order
        if abs(direction[axis]) >= _SHARE_OF_MARK
    )
