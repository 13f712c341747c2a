"""kneelake's exact TFCE of several maps on a mesh; run by benchmarks.spm."""

import numpy as np
from spm_measure import FOLDER, measure

from stats.tfce import tfce

maps = np.load(FOLDER / "t.npy")
neighbours = (np.load(FOLDER / "start.npy"), np.load(FOLDER / "indices.npy"))
area = np.ones(maps.shape[1])
tfce(maps[0], area, neighbours)
enhanced = measure(lambda: np.array([tfce(row, area, neighbours) for row in maps]), 3)
np.save(FOLDER / "enhanced.npy", enhanced)
