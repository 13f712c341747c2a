"""Areas and neighbours of a mesh, TFCE and clusters, against other ways to find them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from spm_samples import grid_mesh, smooth_maps

from stats.clusters import cluster_labels, cluster_table, compartment_table
from stats.errors import StatisticsError
from stats.mesh import SurfaceMesh, adjacency, read_mesh
from stats.tfce import largest_of_maps, tfce


@pytest.fixture(scope="module")
def mesh() -> SurfaceMesh:
    return grid_mesh(12, 15, ["medial" if i % 15 < 8 else "lateral" for i in range(180)])


def icosphere() -> SurfaceMesh:
    import pyvista as pv

    sphere = pv.Icosphere(radius=20, nsub=4)
    return SurfaceMesh.from_faces(np.asarray(sphere.points), np.asarray(sphere.regular_faces))


def test_areas_are_those_of_the_surface(mesh: SurfaceMesh) -> None:
    sphere = icosphere()
    assert sphere.area_mm2.sum() == pytest.approx(4 * np.pi * 400, rel=5e-3)
    assert mesh.area_mm2.sum() == pytest.approx(14 * 1.7 * 11, rel=1e-12)
    # Vertex 16 is in six triangles, three beside it on either side, each of half a cell.
    left, right = 1.05 - 0, 2 * 1.1 - 1.05
    assert mesh.area_mm2[16] == pytest.approx((3 * left + 3 * right) / 2 / 3)


def test_neighbours_are_the_ends_of_edges() -> None:
    sphere = icosphere()
    start, indices = sphere.neighbours
    counts = np.diff(start)
    # Euler: a closed surface of genus 0 has 3 n - 6 edges; an icosphere 12 corners of five.
    assert len(indices) == 2 * (3 * sphere.n - 6)
    assert (counts == 5).sum() == 12
    assert set(counts.tolist()) == {5, 6}
    start, indices = adjacency(np.array([[0, 1, 3]]), 5)
    assert [indices[start[i] : start[i + 1]].tolist() for i in range(5)] == [
        [1, 3],
        [0, 3],
        [],
        [0, 1],
        [],
    ]


def parts_above(t: np.ndarray, height: float, mesh: SurfaceMesh) -> tuple[np.ndarray, np.ndarray]:
    start, indices = mesh.neighbours
    graph = csr_matrix((np.ones(len(indices)), indices, start), shape=(mesh.n, mesh.n))
    above = np.flatnonzero(t >= height)
    _, label = connected_components(graph[above][:, above])
    return above, np.bincount(label, mesh.area_mm2[above])[label]


@pytest.mark.parametrize(("extent_power", "height_power"), [(0.5, 2.0), (1.0, 1.0), (0.7, 0.0)])
def test_tfce_is_the_integral(mesh: SurfaceMesh, extent_power: float, height_power: float) -> None:
    """Against the integral taken between all heights of the map, by Gauss-Legendre in between."""
    t = 3 * smooth_maps(np.random.default_rng(0), 1, 12, 15)[0]
    t[7] = np.nan
    t[20:23] = t[24]
    enhanced = tfce(t, mesh.area_mm2, mesh.neighbours, extent_power, height_power)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    for sign in (1, -1):
        side = np.nan_to_num(sign * t)
        heights = np.unique(np.r_[0, side[side > 0]])
        expected = np.zeros(mesh.n)
        for low, high in pairwise(heights):
            above, extent = parts_above(side, high, mesh)
            at = low + (high - low) * (nodes + 1) / 2
            share = (weights * at**height_power).sum() * (high - low) / 2
            expected[above] += extent**extent_power * share
        np.testing.assert_allclose(np.maximum(sign * enhanced, 0), expected, rtol=1e-9, atol=1e-12)


def test_largest_tfce_and_cluster_of_several_maps(mesh: SurfaceMesh) -> None:
    t = 2.5 * smooth_maps(np.random.default_rng(1), 6, 12, 15)
    limit = np.full(mesh.n, 2.0)
    tfce_max, area_max = largest_of_maps(t, limit, mesh.area_mm2, *mesh.neighbours, 0.5, 2.0)
    for row in range(6):
        enhanced = tfce(t[row], mesh.area_mm2, mesh.neighbours)
        assert tfce_max[row] == pytest.approx(np.abs(enhanced).max(), rel=1e-12)
        areas = [parts_above(side, 2.0, mesh)[1].max(initial=0) for side in (t[row], -t[row])]
        assert area_max[row] == pytest.approx(max(areas), rel=1e-12)


def test_clusters_with_area_peak_and_compartments(mesh: SurfaceMesh) -> None:
    t = np.zeros(mesh.n)
    first, second, third = [17, 18, 19, 33], [100, 101], [102]
    t[first], t[second], t[third] = 4.0, -5.0, 6.0
    t[18], t[150] = 4.5, np.nan
    points = pl.DataFrame({"t": t, "estimate": t / 10})
    labels = cluster_labels(t, np.full(mesh.n, 3.0), mesh)
    table = cluster_table(points, labels, mesh)
    by_area = sorted((first, second, third), key=lambda c: -mesh.area_mm2[c].sum())
    assert [np.flatnonzero(labels == i + 1).tolist() for i in range(3)] == by_area
    row = table.row(by_area.index(first), named=True)
    assert (row["sign"], row["n_vertices"], row["peak_vertex"], row["peak_t"]) == (1, 4, 18, 4.5)
    assert row["area_mm2"] == pytest.approx(mesh.area_mm2[first].sum())
    assert (row["peak_x_mm"], row["peak_y_mm"]) == tuple(mesh.vertices_mm[18, :2])
    mean = np.average(t[first] / 10, weights=mesh.area_mm2[first])
    assert row["mean_estimate"] == pytest.approx(mean)
    assert table["sign"].to_list()[by_area.index(second)] == -1
    compartments = {c["compartment"]: c["share"] for c in row["compartments"]}
    assert compartments == {"medial": pytest.approx(1.0)}
    assert cluster_table(points, np.zeros(mesh.n, dtype=int), mesh).schema == table.schema


def test_a_cluster_across_two_compartments(mesh: SurfaceMesh) -> None:
    labels = np.zeros(mesh.n, dtype=int)
    labels[[21, 22, 23]] = 1
    points = pl.DataFrame({"t": np.ones(mesh.n), "estimate": np.ones(mesh.n)})
    compartments = cluster_table(points, labels, mesh)["compartments"][0].to_list()
    area = mesh.area_mm2
    assert [c["compartment"] for c in compartments] == ["lateral", "medial"]
    assert compartments[0]["area_mm2"] == pytest.approx(area[23])
    assert compartments[1]["share"] == pytest.approx(area[21:23].sum() / area[21:24].sum())


def test_summaries_are_weighted_by_area(mesh: SurfaceMesh) -> None:
    rng = np.random.default_rng(2)
    names = ("mean_group0", "mean_group1", "estimate", "hedges_g", "p")
    points = pl.DataFrame({name: rng.random(mesh.n) for name in names})
    points = points.with_columns(
        pl.when(pl.int_range(pl.len()) < 4).then(None).otherwise(pl.col(*names)).name.keep()
    )
    table = compartment_table(points, mesh)
    assert table["compartment"].to_list() == ["all", "lateral", "medial"]
    known = points["p"].is_not_null().to_numpy()
    lateral = known & np.array([c == "lateral" for c in mesh.compartment])
    row = table.row(1, named=True)
    expected = np.average(points["estimate"].to_numpy()[lateral], weights=mesh.area_mm2[lateral])
    assert row["estimate"] == pytest.approx(expected)
    small = lateral & (points["p"].to_numpy() < 0.05)
    assert row["area_p05_mm2"] == pytest.approx(mesh.area_mm2[small].sum())
    assert row["area_fwe_mm2"] is None
    total = table.row(0, named=True)
    assert total["area_mm2"] == pytest.approx(mesh.area_mm2.sum())
    assert total["tested_area_mm2"] == pytest.approx(mesh.area_mm2[known].sum())


def test_a_mesh_from_files(mesh: SurfaceMesh, tmp_path: Path) -> None:
    import pyvista as pv

    surface = pv.PolyData.from_regular_faces(mesh.vertices_mm, mesh.faces)
    surface["compartment"] = list(mesh.compartment)
    surface["area_mm2"] = mesh.area_mm2 * 2
    surface.save(tmp_path / "femur.vtp")
    surface.save(tmp_path / "femur.ply")
    pl.DataFrame(mesh.vertices_mm, schema=["x_mm", "y_mm", "z_mm"]).with_columns(
        pl.Series("compartment", mesh.compartment), vertex=pl.int_range(pl.len())
    ).sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "vertices.parquet")
    pl.DataFrame(mesh.faces, schema=["a", "b", "c"]).write_parquet(tmp_path / "faces.parquet")
    vtp = read_mesh(tmp_path / "femur.vtp")
    ply = read_mesh(tmp_path / "femur.ply")
    parquet = read_mesh(tmp_path / "vertices.parquet", tmp_path / "faces.parquet")
    for found in (vtp, ply, parquet):
        np.testing.assert_allclose(found.vertices_mm, mesh.vertices_mm, atol=1e-5)
        np.testing.assert_array_equal(found.faces, mesh.faces)
    assert vtp.compartment == parquet.compartment == mesh.compartment
    np.testing.assert_allclose(vtp.area_mm2, mesh.area_mm2 * 2)
    np.testing.assert_allclose(ply.area_mm2, mesh.area_mm2, rtol=1e-5)


def test_meshes_that_cannot_be_used(mesh: SurfaceMesh, tmp_path: Path) -> None:
    vertices, faces = mesh.vertices_mm, mesh.faces
    with pytest.raises(StatisticsError, match="names vertex 180, and there are 180"):
        SurfaceMesh.from_faces(vertices, faces + 1)
    with pytest.raises(StatisticsError, match="give \\(n, 3\\) and \\(m, 3\\)"):
        SurfaceMesh.from_faces(vertices[:, :2], faces)
    with pytest.raises(StatisticsError, match="the areas have to be 180 numbers"):
        SurfaceMesh.from_faces(vertices, faces, area_mm2=np.full(180, -1.0))
    with pytest.raises(StatisticsError, match="2 compartment labels for 180"):
        SurfaceMesh.from_faces(vertices, faces, compartment=["a", "b"])
    with pytest.raises(StatisticsError, match="there is no mesh file"):
        read_mesh(tmp_path / "absent.vtp")
    pl.DataFrame({"x_mm": [0.0], "y_mm": [0.0]}).write_parquet(tmp_path / "v.parquet")
    pl.DataFrame({"a": [0], "b": [0], "c": [0]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(StatisticsError, match="no column z_mm"):
        read_mesh(tmp_path / "v.parquet", tmp_path / "f.parquet")
    with pytest.raises(StatisticsError, match="the Parquet of the faces as well"):
        read_mesh(tmp_path / "v.parquet")
