"""A triangulated surface with areas, neighbours and compartments, as statistics need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stats.errors import StatisticsError


@dataclass(frozen=True, eq=False)
class SurfaceMesh:
    """A surface whose vertices are those of a map: vertex i of the map is vertex i here.

    Attributes:
        vertices_mm: shape (n, 3); NaN for vertices in no triangle.
        faces: vertices of each triangle, shape (m, 3).
        area_mm2: area that each vertex stands for, shape (n,).
        compartment: label of each vertex, '' for none; None where there are no compartments.
    """

    vertices_mm: NDArray[np.float64]
    faces: NDArray[np.int64]
    area_mm2: NDArray[np.float64]
    compartment: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.vertices_mm)
        if self.vertices_mm.shape != (n, 3) or self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise StatisticsError(
                f"a mesh of vertices {self.vertices_mm.shape} and faces {self.faces.shape}: give "
                "(n, 3) and (m, 3)"
            )
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= n):
            raise StatisticsError(
                f"a triangle names vertex {self.faces.max()}, and there are {n}, counted from 0"
            )
        if self.area_mm2.shape != (n,) or not (self.area_mm2 >= 0).all():
            raise StatisticsError(f"the areas have to be {n} numbers, none negative or NaN")
        if self.compartment is not None and len(self.compartment) != n:
            raise StatisticsError(f"{len(self.compartment)} compartment labels for {n} vertices")

    @classmethod
    def from_faces(
        cls,
        vertices_mm: NDArray[np.floating],
        faces: NDArray[np.integer],
        *,
        area_mm2: NDArray[np.floating] | None = None,
        compartment: Sequence[str] | None = None,
    ) -> "SurfaceMesh":
        """A mesh from arrays; without areas each vertex gets a third of the triangles around it.

        On a spherical grid the vertices crowd at the pole: give the bone surface per pixel as
        areas, not the grid's own.

        Raises:
            StatisticsError: shapes that do not fit, or a triangle of a vertex that is not there.
        """
        vertices = np.ascontiguousarray(vertices_mm, dtype=np.float64)
        triangles = np.ascontiguousarray(faces, dtype=np.int64)
        if area_mm2 is None:
            # Checked here too, since the areas are worked out before the mesh exists.
            cls(vertices, triangles, np.zeros(len(vertices)))
            areas = vertex_areas(vertices, triangles)
        else:
            areas = np.ascontiguousarray(area_mm2, dtype=np.float64)
        labels = None if compartment is None else tuple(str(label) for label in compartment)
        return cls(vertices, triangles, areas, labels)

    @property
    def n(self) -> int:
        """Number of vertices."""
        return len(self.vertices_mm)

    @cached_property
    def neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Vertices that share an edge: those of i are `indices[start[i]:start[i + 1]]`."""
        return adjacency(self.faces, self.n)


def vertex_areas(vertices_mm: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """A third of the area of the triangles around each vertex (barycentric cells), mm2."""
    a, b, c = (vertices_mm[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    shares = np.repeat(area / 3, 3)
    return np.bincount(faces.ravel(), shares, minlength=len(vertices_mm)).astype(np.float64)


def adjacency(
    faces: NDArray[np.int64], n_vertices: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbours over the edges of triangles, as (start, indices); indices rise per vertex."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    both = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
    both = both[both[:, 0] != both[:, 1]]
    start = np.zeros(n_vertices + 1, dtype=np.int64)
    np.cumsum(np.bincount(both[:, 0], minlength=n_vertices), out=start[1:])
    return start, np.ascontiguousarray(both[:, 1])


def read_mesh(path: Path, faces: Path | None = None) -> SurfaceMesh:
    """Read a mesh.

    Args:
        path: a surface that pyvista reads (.vtp, .ply, .vtk, .stl), its point arrays `area_mm2`
            and `compartment` used where it has them; or a Parquet table of vertices with columns
            `x_mm`, `y_mm`, `z_mm`, and optionally `vertex`, `area_mm2` and `compartment`.
        faces: for Parquet, the table of triangles, columns `a`, `b`, `c`.

    Raises:
        StatisticsError: a file or column is missing, or the surface is not of triangles.
    """
    for file in (path, faces):
        if file is not None and not file.is_file():
            raise StatisticsError(f"there is no mesh file {file}")
    if path.suffix == ".parquet":
        if faces is None:
            raise StatisticsError(f"{path} has the vertices; give the Parquet of the faces as well")
        return _read_parquet(path, faces)
    import pyvista as pv

    surface = pv.read(path)
    if not isinstance(surface, pv.PolyData) or not surface.is_all_triangles:
        raise StatisticsError(f"{path} is not a surface of triangles")
    given = surface.point_data
    return SurfaceMesh.from_faces(
        np.asarray(surface.points, dtype=np.float64),
        np.asarray(surface.regular_faces, dtype=np.int64),
        area_mm2=np.asarray(given["area_mm2"]) if "area_mm2" in given else None,
        compartment=[str(v) for v in given["compartment"]] if "compartment" in given else None,
    )


def _read_parquet(vertices: Path, faces: Path) -> SurfaceMesh:
    points, triangles = pl.read_parquet(vertices), pl.read_parquet(faces)
    for frame, wanted, file in (
        (points, ("x_mm", "y_mm", "z_mm"), vertices),
        (triangles, ("a", "b", "c"), faces),
    ):
        missing = [name for name in wanted if name not in frame.columns]
        if missing:
            raise StatisticsError(
                f"{file} has no column {', '.join(missing)}; there are {', '.join(frame.columns)}"
            )
    if "vertex" in points.columns:
        points = points.sort("vertex")
        if points["vertex"].to_list() != list(range(points.height)):
            raise StatisticsError(f"{vertices}: `vertex` has to number the rows from 0")
    return SurfaceMesh.from_faces(
        points.select("x_mm", "y_mm", "z_mm").to_numpy(),
        triangles.select("a", "b", "c").to_numpy(),
        area_mm2=points["area_mm2"].to_numpy() if "area_mm2" in points.columns else None,
        compartment=points["compartment"].fill_null("").to_list()
        if "compartment" in points.columns
        else None,
    )
