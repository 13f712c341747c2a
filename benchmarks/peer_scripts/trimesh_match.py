"""Matching by trimesh's non-rigid ICP (Amberg 2007); run by benchmarks.peers.

Reads source and target (uniform, decimated) vertices and faces, the source already moved onto the
target by a similarity. Writes the places of the source's vertices and the CPU seconds.
"""

import sys
import time
from pathlib import Path

import numpy as np
import trimesh
from trimesh.registration import nricp_amberg

folder = Path(sys.argv[1])


def mesh(name: str) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        np.load(folder / f"{name}_vertices.npy"),
        np.load(folder / f"{name}_faces.npy"),
        process=False,
    )


for name in ("uniform", "decimated"):
    began = time.process_time()
    placed = nricp_amberg(mesh("source"), mesh(name))
    np.save(folder / f"{name}_points.npy", np.asarray(placed))
    np.save(folder / f"{name}_seconds.npy", time.process_time() - began)
