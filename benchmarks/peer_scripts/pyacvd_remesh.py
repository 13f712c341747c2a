"""Re-tessellation by pyacvd; run by benchmarks.peers in pymskt's place.

Reads vertices, faces and n_points. Writes uniform_vertices and uniform_faces, n_points of them.
"""

import sys
from pathlib import Path

import numpy as np
import pyacvd
import pyvista as pv

folder = Path(sys.argv[1])
vertices, faces = np.load(folder / "vertices.npy"), np.load(folder / "faces.npy")
clustering = pyacvd.Clustering(
    pv.PolyData(vertices, np.c_[np.full(len(faces), 3), faces].ravel()).subdivide(2, "linear")
)
clustering.cluster(int(np.load(folder / "n_points.npy")))
uniform = clustering.create_mesh()
np.save(folder / "uniform_vertices.npy", np.asarray(uniform.points, dtype=float))
np.save(folder / "uniform_faces.npy", uniform.faces.reshape(-1, 4)[:, 1:].astype(np.int64))
