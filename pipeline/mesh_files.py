"""The atlas and its group maps as VTK files, for ParaView, 3D Slicer and other programs.

One `.vtp` (XML PolyData) per bone in the right-knee frame, mm, LPS; values are point arrays.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imaging.labels import Bone
from pipeline.atlas_view import AtlasMesh, GroupMap, require_matching

COMPARTMENT_CODES: Mapping[str, int] = {"medial": 0, "lateral": 1}
"""Point array `compartment`; the field array `compartment_legend` says so too."""

VALUES = (
    "mean_group1",
    "mean_group0",
    "estimate",
    "t",
    "p",
    "q_bh",
    "p_fwe_max_t",
    "cluster",
)
"""Values of a map in a file, each as `<analysis>_<biomarker>_<value>`; NaN where there is none.
`cluster` is 0 where a vertex is in none."""


def write_atlas_vtp(
    folder: Path, meshes: Mapping[Bone, AtlasMesh], maps: Sequence[GroupMap]
) -> list[Path]:
    """Write each bone of the atlas with its maps; the files written, `<bone>.vtp`.

    The same input gives the same bytes. Files already there are replaced.

    Args:
        folder: where to; made if it is not there.
        meshes: the atlas.
        maps: of one or more analyses; those of bones the atlas lacks have no file.

    Raises:
        LakeError: maps of another atlas.
    """
    import pyvista as pv

    require_matching(meshes, maps)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for bone, mesh in meshes.items():
        corners = np.column_stack([np.full(len(mesh.triangles), 3), mesh.triangles])
        surface = pv.PolyData(mesh.vertices_mm, corners.ravel())
        codes = [COMPARTMENT_CODES[str(name)] for name in mesh.compartment]
        surface.point_data["compartment"] = np.array(codes, dtype=np.uint8)
        surface.point_data["is_cartilage"] = mesh.is_cartilage.astype(np.uint8)
        for one in maps:
            if one.bone == bone:
                for name in VALUES:
                    surface.point_data[f"{one.analysis}_{one.biomarker}_{name}"] = np.asarray(
                        getattr(one, name)
                    )
        legend = [f"{code} {name}" for name, code in COMPARTMENT_CODES.items()]
        surface.field_data["compartment_legend"] = legend
        surface.field_data["coordinates"] = ["right-knee frame, LPS, mm"]
        path = folder / f"{bone}.vtp"
        surface.save(path)
        written.append(path)
    return written
