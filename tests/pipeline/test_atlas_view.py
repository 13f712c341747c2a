"""Reading the atlas and its group maps from the lake."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lake.errors import LakeError
from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from pipeline.atlas_view import (
    CAM_UNIT,
    MAP_VALUES,
    AtlasMesh,
    GroupMap,
    atlas_meshes,
    group_maps,
    require_matching,
)
from tests.pipeline.atlas_samples import N_GROUP0, N_GROUP1, map_of, mesh_of


def store_atlas(lake: Lake, mesh: AtlasMesh) -> None:
    x, y, z = mesh.vertices_mm.T
    n = len(x)
    vertices = pl.DataFrame(
        {
            "bone": [mesh.bone] * n,
            "atlas_id": ["a"] * n,
            "vertex": np.arange(n),
            **{"x_mm": x, "y_mm": y, "z_mm": z},
            "area_mm2": np.ones(n),
            "compartment": mesh.compartment.tolist(),
            "is_cartilage": mesh.is_cartilage,
        }
    )
    a, b, c = mesh.triangles.T
    triangles = pl.DataFrame(
        {
            "bone": [mesh.bone] * len(a),
            "atlas_id": ["a"] * len(a),
            "triangle": np.arange(len(a)),
            **{"vertex_a": a, "vertex_b": b, "vertex_c": c},
        }
    )
    with lake.batch("atlas", ALL_TIMEPOINTS, "1", "c") as batch:
        # Rows in no order: readers must not rely on the files'.
        batch.add("atlas_vertices", vertices.reverse())
        batch.add("atlas_triangles", triangles)


def points_of(one: GroupMap) -> pl.DataFrame:
    n = len(one.p)
    values = {name: pl.Series(getattr(one, name)).fill_nan(None) for name in MAP_VALUES}
    return pl.DataFrame(
        {
            "analysis": [one.analysis] * n,
            "map": [one.name] * n,
            "vertex": np.arange(n),
            "n": np.full(n, N_GROUP0 + N_GROUP1),
            "n_group0": np.full(n, N_GROUP0),
            "n_group1": np.full(n, N_GROUP1),
            "df": np.full(n, 260),
            "cluster": [int(found) or None for found in one.cluster],
            "reason": [None if found else "no values" for found in one.is_tested],
            **values,
        }
    )


def store_points(lake: Lake, *frames: pl.DataFrame) -> None:
    listed = set()
    with lake.batch("statistics", ALL_TIMEPOINTS, "1", "c") as batch:
        for frame in frames:
            batch.add("spm_points", frame)
            # Results of an analysis count by its row there.
            analysis = {
                "analysis": frame["analysis"][0],
                "input_fingerprint": "f",
                "n_rows": 1,
                "n_results": 1,
                "n_failed": 0,
                "notes": "",
            }
            if analysis["analysis"] not in listed:
                batch.add("analyses", [analysis])
            listed.add(analysis["analysis"])


def test_an_atlas_comes_back_as_it_was_stored(lake: Lake) -> None:
    stored = mesh_of("patella")
    store_atlas(lake, stored)
    found = atlas_meshes(lake)
    assert set(found) == {"patella"}
    np.testing.assert_array_equal(found["patella"].vertices_mm, stored.vertices_mm)
    np.testing.assert_array_equal(found["patella"].triangles, stored.triangles)
    np.testing.assert_array_equal(found["patella"].compartment, stored.compartment)
    np.testing.assert_array_equal(found["patella"].is_cartilage, stored.is_cartilage)


def test_maps_come_back_as_they_were_stored_bone_by_bone(lake: Lake) -> None:
    thickness = map_of(mesh_of("patella"), "cartilage_thickness")
    shape = map_of(mesh_of("femur"), "bone_shape")
    other = replace(shape, analysis="spm_biomarkers", t=-shape.t)
    store_points(lake, points_of(thickness).reverse(), points_of(shape), points_of(other))
    found = group_maps(lake, "spm_cam_pain")
    assert [one.name for one in found] == ["femur_bone_shape", "patella_cartilage_thickness"]
    for one, stored in zip(found, (shape, thickness), strict=True):
        for name in (*MAP_VALUES, "cluster"):
            np.testing.assert_array_equal(getattr(one, name), getattr(stored, name), name)
        assert (one.n_group1, one.n_group0, one.unit) == (N_GROUP1, N_GROUP0, CAM_UNIT)
    assert np.isnan(found[1].p).any()
    (biomarker,) = group_maps(lake, "spm_biomarkers")
    assert biomarker.unit == "mm"
    np.testing.assert_array_equal(biomarker.t, -shape.t)


def test_a_lake_without_them_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"materialize atlas$"):
        atlas_meshes(lake)
    with pytest.raises(LakeError, match="materialize spm_cam_pain"):
        group_maps(lake, "spm_cam_pain")


def test_a_map_with_a_vertex_missing_is_refused(lake: Lake) -> None:
    rows = points_of(map_of(mesh_of("patella"), "bone_shape"))
    store_points(lake, rows.filter(pl.col("vertex") != 5))
    with pytest.raises(LakeError, match="spm_cam_pain, patella_bone_shape: vertices are not"):
        group_maps(lake, "spm_cam_pain")


def test_a_map_of_another_atlas_is_refused() -> None:
    small, large = mesh_of("tibia", 2), mesh_of("tibia", 3)
    require_matching({"tibia": large}, [map_of(large, "t2_mean")])
    with pytest.raises(LakeError, match="tested on another atlas"):
        require_matching({"tibia": large}, [map_of(small, "t2_mean")])
