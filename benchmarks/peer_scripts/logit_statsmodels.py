"""statsmodels' Logit on a Parquet file, once or in a bootstrap loop; run by benchmarks.logit."""

import numpy as np
import statsmodels.api as sm
from logit_measure import FOLDER, measure, read_rows

refits = int(np.load(FOLDER / "refits.npy"))
if refits:
    y, x = read_rows()
    x = sm.add_constant(x)
    rng = np.random.default_rng(0)

    def job() -> np.ndarray:
        found = []
        for _ in range(refits):
            drawn = rng.integers(len(y), size=len(y))
            found.append(sm.Logit(y[drawn], x[drawn]).fit(disp=0).params)
        return np.array(found)
else:

    def job() -> np.ndarray:
        y, x = read_rows()
        fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-10)
        return np.column_stack([fit.params, fit.bse])


measure(job, int(np.load(FOLDER / "repeats.npy")))
