"""The atlas as VTK files, read back by another library's reader."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.mesh_files import VALUES, write_atlas_vtp
from tests.pipeline.atlas_samples import map_of, mesh_of


def test_a_file_holds_the_mesh_and_every_array(tmp_path: Path) -> None:
    import pyvista as pv

    mesh = mesh_of("tibia")
    maps = [
        map_of(mesh, "t2_mean"),
        map_of(mesh, "bone_shape"),
        replace(map_of(mesh, "bone_shape", "spm_biomarkers"), t=np.full(len(mesh.is_cartilage), 7)),
        map_of(mesh_of("femur"), "bone_shape"),
    ]
    (path,) = write_atlas_vtp(tmp_path / "new", {"tibia": mesh}, maps)
    assert path == tmp_path / "new" / "tibia.vtp"
    found = pv.read(path)
    np.testing.assert_array_equal(found.points, mesh.vertices_mm)
    np.testing.assert_array_equal(found.faces.reshape(-1, 4)[:, 1:], mesh.triangles)
    legend = dict(str(text).split(" ") for text in found.field_data["compartment_legend"])
    named = [legend[str(code)] for code in found.point_data["compartment"]]
    np.testing.assert_array_equal(named, mesh.compartment)
    np.testing.assert_array_equal(found.point_data["is_cartilage"], mesh.is_cartilage)
    for one in maps[:3]:
        for name in VALUES:
            stored = found.point_data[f"{one.analysis}_{one.biomarker}_{name}"]
            np.testing.assert_array_equal(stored, getattr(one, name), name)
    assert len(found.point_data) == 2 + 3 * len(VALUES)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    mesh = mesh_of("patella")
    maps = [map_of(mesh, "bone_shape")]
    first, second = (
        write_atlas_vtp(tmp_path / name, {"patella": mesh}, maps)[0].read_bytes() for name in "ab"
    )
    assert first == second
