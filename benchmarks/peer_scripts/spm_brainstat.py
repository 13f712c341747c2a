"""BrainStat's SLM with its FDR correction on the maps of a Parquet file; run by benchmarks.spm."""

import numpy as np
import pandas as pd
from brainstat.stats.SLM import SLM
from brainstat.stats.terms import FixedEffect
from spm_measure import FOLDER, measure, read_maps

design = np.load(FOLDER / "design.npy")
frame = pd.DataFrame(design[:, 1:], columns=["age", "sex", "bmi", "pain"])


def job():
    model = SLM(FixedEffect(frame), frame["pain"], two_tailed=True, correction="fdr")
    model.fit(read_maps())
    return np.ravel(model.t), np.ravel(model.Q)


t, q = measure(job, 5)
np.save(FOLDER / "t.npy", t)
np.save(FOLDER / "q.npy", q)
