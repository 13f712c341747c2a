"""The tfce package's exact TFCE of several maps on a mesh, one thread; run by benchmarks.spm."""

import numpy as np
from spm_measure import FOLDER, measure
from tfce import tfce

maps = np.load(FOLDER / "t.npy").T.astype(np.float32)
adjacency = (np.load(FOLDER / "start.npy"), np.load(FOLDER / "indices.npy"))
enhanced = measure(lambda: tfce(maps, adjacency=adjacency, E=0.5, H=2.0, n_jobs=1), 3)
np.save(FOLDER / "enhanced.npy", enhanced.T)
