"""nilearn's OLSModel on the maps of a Parquet file, t and p; run by benchmarks.spm."""

import numpy as np
from nilearn.glm import OLSModel
from scipy import stats
from spm_measure import FOLDER, measure, read_maps

design = np.load(FOLDER / "design.npy")


def job():
    maps = read_maps()
    contrast = np.eye(design.shape[1])[-1]
    found = OLSModel(design).fit(maps).Tcontrast(contrast)
    t = np.ravel(found.t)
    p = 2 * stats.t.sf(np.abs(t), design.shape[0] - design.shape[1])
    return t, p, stats.false_discovery_control(p)


t, p, _ = measure(job, 5)
np.save(FOLDER / "t.npy", t)
np.save(FOLDER / "p.npy", p)
