"""What is looked at on the atlas: its bones' surfaces, and two groups' maps on them.

Here: the two as arrays, and reading them from the lake. Not here: drawing (`atlas_figures`,
`surface_page`) and files (`mesh_files`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from lake.association_tables import SINGLE_BIOMARKERS
from lake.errors import LakeError
from lake.keys import BIOMARKER_UNITS
from lake.store import Lake

FloatArray = NDArray[np.float64]

BIOMARKER_TITLES: Mapping[str, str] = {
    "bone_shape": "bone shape",
    "cartilage_thickness": "cartilage thickness",
    "t2_mean": "cartilage T2",
}
"""The single biomarkers in words, in the order they are shown."""

CAM_UNIT = "share of peak"
"""Unit of a Grad-CAM that is scaled from 0 to 1 knee by knee."""

BIOMARKER_ANALYSIS = "spm_biomarkers"
"""The analysis of the biomarkers themselves; every other one is of Grad-CAM maps."""

ANALYSIS_TITLES: Mapping[str, str] = {
    "spm_cam_pain": "Grad-CAM, class pain",
    "spm_cam_predicted": "Grad-CAM, class predicted",
    BIOMARKER_ANALYSIS: "biomarker itself",
}
"""What is compared, in words."""

GROUPS = ("TP-pain", "TN-no-pain")
"""Group 1 and group 0 of the Grad-CAM comparisons."""


def group_names(analysis: str) -> tuple[str, str]:
    """What group 1 and group 0 of an analysis are called."""
    return ("pain", "no pain") if analysis == BIOMARKER_ANALYSIS else GROUPS


@dataclass(frozen=True, eq=False)
class AtlasMesh:
    """One bone of the atlas.

    Attributes:
        bone: the bone.
        vertices_mm: in the right-knee frame, shape (n, 3).
        triangles: counter-clockwise seen from outside, shape (m, 3).
        compartment: 'medial' or 'lateral', shape (n,).
        is_cartilage: whether the reference knee has cartilage there, shape (n,).

    Raises:
        LakeError: shapes that do not agree, or a triangle of a vertex there is not.
    """

    bone: Bone
    vertices_mm: FloatArray
    triangles: NDArray[np.int64]
    compartment: NDArray[np.str_]
    is_cartilage: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.vertices_mm)
        if (
            self.vertices_mm.shape != (n, 3)
            or self.triangles.ndim != 2
            or self.triangles.shape[1] != 3
            or self.compartment.shape != (n,)
            or self.is_cartilage.shape != (n,)
        ):
            raise LakeError(
                f"atlas of the {self.bone}: {self.vertices_mm.shape} vertices, "
                f"{self.triangles.shape} triangles, {self.compartment.shape} compartments and "
                f"{self.is_cartilage.shape} cartilage do not agree; materialize the atlas anew"
            )
        if len(self.triangles) and not 0 <= self.triangles.min() <= self.triangles.max() < n:
            raise LakeError(
                f"atlas of the {self.bone}: a triangle names vertex {self.triangles.max()} or "
                f"{self.triangles.min()}, and there are {n}; materialize the atlas anew"
            )


@dataclass(frozen=True, eq=False)
class GroupMap:
    """Two groups compared at every vertex of one bone's atlas.

    All arrays have shape (n,), in the order of the atlas's vertices, and are NaN where there is no
    such value: the vertex was not tested, or the analysis has no permutations.

    Attributes:
        analysis: whose results.
        bone: the bone.
        biomarker: one of `SINGLE_BIOMARKERS`.
        unit: of means and estimate.
        n_group1: cases of group 1 at the vertex with most of them.
        n_group0: likewise of group 0.
        mean_group1: mean of group 1.
        mean_group0: mean of group 0.
        estimate: difference adjusted for the covariates, group 1 minus group 0.
        t: estimate over its standard error.
        p: two-sided, not corrected for the number of vertices.
        q_bh: Benjamini-Hochberg over the map.
        p_fwe_max_t: family-wise over the map, largest |t|.
        p_fwe_tfce: family-wise over the map, threshold-free cluster enhancement.
        cluster: number of the cluster, 0 in none.

    Raises:
        LakeError: arrays of different lengths.
    """

    analysis: str
    bone: Bone
    biomarker: str
    unit: str
    n_group1: int
    n_group0: int
    mean_group1: FloatArray
    mean_group0: FloatArray
    estimate: FloatArray
    t: FloatArray
    p: FloatArray
    q_bh: FloatArray
    p_fwe_max_t: FloatArray
    p_fwe_tfce: FloatArray
    cluster: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*MAP_VALUES, "cluster")}
        if len(set(lengths.values())) > 1:
            raise LakeError(f"{self.analysis}, {self.name}: arrays of lengths {lengths}")

    @property
    def name(self) -> str:
        """Its `map` in the lake, `<bone>_<biomarker>`."""
        return f"{self.bone}_{self.biomarker}"

    @property
    def title(self) -> str:
        """Its biomarker in words."""
        return BIOMARKER_TITLES[self.biomarker]

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Where there is a p-value, shape (n,)."""
        return np.isfinite(self.p)


MAP_VALUES = (
    "mean_group1",
    "mean_group0",
    "estimate",
    "t",
    "p",
    "q_bh",
    "p_fwe_max_t",
    "p_fwe_tfce",
)
"""The values of a map at a vertex, by their names in `spm_points`."""


def atlas_meshes(lake: Lake) -> dict[Bone, AtlasMesh]:
    """The atlas's bones, of those it has.

    Raises:
        LakeError: there is no atlas, or one that is not whole.
    """
    vertices = lake.sql("SELECT * FROM atlas_vertices ORDER BY bone, vertex")
    triangles = lake.sql("SELECT * FROM atlas_triangles ORDER BY bone, triangle")
    meshes: dict[Bone, AtlasMesh] = {}
    for bone in BONES:
        points = vertices.filter(pl.col("bone") == bone)
        if points.is_empty():
            continue
        _require_numbered(points["vertex"], f"atlas_vertices of the {bone}")
        corners = triangles.filter(pl.col("bone") == bone)
        meshes[bone] = AtlasMesh(
            bone,
            points.select("x_mm", "y_mm", "z_mm").to_numpy().astype(np.float64),
            corners.select("vertex_a", "vertex_b", "vertex_c").to_numpy().astype(np.int64),
            np.array(points["compartment"].to_list(), dtype=np.str_),
            points["is_cartilage"].fill_null(False).to_numpy().astype(bool),
        )
    if not meshes:
        raise LakeError("the lake has no atlas; materialize atlas")
    return meshes


def group_maps(lake: Lake, analysis: str) -> list[GroupMap]:
    """The maps of an analysis, bone by bone in the order of `BONES` and `SINGLE_BIOMARKERS`.

    Args:
        lake: where they are.
        analysis: 'spm_cam_pain', 'spm_cam_predicted' or 'spm_biomarkers'.

    Raises:
        LakeError: the lake has no map of that analysis, or one with vertices missing.
    """
    points = lake.sql(
        "SELECT * FROM spm_points WHERE analysis = $analysis ORDER BY map, vertex",
        {"analysis": analysis},
    )
    found = [
        _group_map(rows, analysis, bone, biomarker)
        for bone in BONES
        for biomarker in SINGLE_BIOMARKERS
        if not (rows := points.filter(pl.col("map") == f"{bone}_{biomarker}")).is_empty()
    ]
    if not found:
        raise LakeError(f"the lake has no maps of the analysis {analysis}; materialize {analysis}")
    return found


def require_matching(meshes: Mapping[Bone, AtlasMesh], maps: Sequence[GroupMap]) -> None:
    """Refuse a map that is of another atlas than the meshes; bones without a mesh are let pass.

    Raises:
        LakeError: a map with another number of vertices than its bone has.
    """
    for one in maps:
        mesh = meshes.get(one.bone)
        if mesh is not None and len(one.p) != len(mesh.vertices_mm):
            raise LakeError(
                f"{one.analysis}, {one.name} has {len(one.p)} vertices and the atlas of the "
                f"{one.bone} {len(mesh.vertices_mm)}: it was tested on another atlas; materialize "
                f"{one.analysis} anew"
            )


def _group_map(rows: pl.DataFrame, analysis: str, bone: Bone, biomarker: str) -> GroupMap:
    _require_numbered(rows["vertex"], f"spm_points of {analysis}, {bone}_{biomarker}")
    values = {
        name: rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in MAP_VALUES
    }
    is_biomarker = analysis == BIOMARKER_ANALYSIS
    return GroupMap(
        analysis=analysis,
        bone=bone,
        biomarker=biomarker,
        unit=BIOMARKER_UNITS[biomarker] if is_biomarker else CAM_UNIT,
        n_group1=int(rows["n_group1"].fill_null(0).to_numpy().max()),
        n_group0=int(rows["n_group0"].fill_null(0).to_numpy().max()),
        cluster=rows["cluster"].fill_null(0).to_numpy().astype(np.int64),
        **values,
    )


def _require_numbered(vertex: pl.Series, what: str) -> None:
    """Refuse vertices that are not numbered 0, 1, 2, ...: values would land on other points."""
    if not np.array_equal(vertex.to_numpy(), np.arange(len(vertex))):
        raise LakeError(
            f"{what}: vertices are not numbered 0 to {len(vertex) - 1}, each once; "
            "materialize it anew"
        )
