"""Matching by pyfocusr with points as features; run by benchmarks.peers in pymskt's place.

Reads source and target vertices and faces. Writes the places of the source's vertices, points, and
the CPU seconds.
"""

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import pyfocusr
import pyvista as pv

folder = Path(sys.argv[1])


def mesh(name: str) -> pv.PolyData:
    vertices = np.load(folder / f"{name}_vertices.npy")
    faces = np.load(folder / f"{name}_faces.npy")
    return pv.PolyData(vertices, np.c_[np.full(len(faces), 3), faces].ravel())


source, target = mesh("source"), mesh("target")
began = time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    registration = pyfocusr.Focusr(
        vtk_mesh_target=target,
        vtk_mesh_source=source,
        icp_registration_mode="similarity",
        include_points_as_features=True,
        # Without extra features it fails to start unless their weights are given.
        feature_weights=np.eye(1),
    )
    registration.align_maps()
    registration.get_source_mesh_transformed_weighted_avg()
placed = registration.weighted_avg_transformed_mesh
np.save(folder / "points.npy", np.asarray(pv.wrap(placed).points))
np.save(folder / "seconds.npy", time.process_time() - began)
