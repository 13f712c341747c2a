"""Re-tessellation by pyacvd and matching by pyfocusr; run by benchmarks.peers in pymskt's place.

Reads source and target vertices and faces, and n_points. Writes uniform_vertices and uniform_faces
(the target re-tessellated evenly, n_points vertices), and for both tessellations of the target
(uniform, and decimated as handed over) the places of the source's vertices and the CPU seconds.
"""

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import pyacvd
import pyfocusr
import pyvista as pv

folder = Path(sys.argv[1])


def read(name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy")


def mesh(vertices: np.ndarray, faces: np.ndarray) -> pv.PolyData:
    return pv.PolyData(vertices, np.c_[np.full(len(faces), 3), faces].ravel())


def match(source: pv.PolyData, target: pv.PolyData) -> tuple[np.ndarray, float]:
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
        placed = np.asarray(registration.weighted_avg_transformed_mesh.points)
    return placed, time.process_time() - began


source = mesh(read("source_vertices"), read("source_faces"))
original = mesh(read("target_vertices"), read("target_faces"))
clustering = pyacvd.Clustering(original.subdivide(2, "linear"))
clustering.cluster(int(read("n_points")))
uniform = clustering.create_mesh()
np.save(folder / "uniform_vertices.npy", np.asarray(uniform.points, dtype=float))
np.save(folder / "uniform_faces.npy", uniform.faces.reshape(-1, 4)[:, 1:].astype(np.int64))
if int(read("run_match")):
    for name, target in (
        ("uniform", uniform),
        ("decimated", mesh(read("decimated_vertices"), read("decimated_faces"))),
    ):
        placed, seconds = match(source.copy(), target)
        np.save(folder / f"{name}_points.npy", placed)
        np.save(folder / f"{name}_seconds.npy", seconds)
