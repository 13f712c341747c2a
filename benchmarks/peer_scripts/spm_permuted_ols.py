"""nilearn's permuted_ols (Freedman-Lane, max-T) on an array; run by benchmarks.spm."""

import numpy as np
from nilearn.mass_univariate import permuted_ols
from spm_measure import FOLDER, measure

design, values = np.load(FOLDER / "design.npy"), np.load(FOLDER / "values.npy")
count = int(np.load(FOLDER / "n_permutations.npy"))


def job():
    return permuted_ols(
        design[:, -1:],
        values,
        confounding_vars=design[:, 1:-1],
        model_intercept=True,
        n_perm=count,
        two_sided_test=True,
        random_state=0,
        n_jobs=1,
        output_type="dict",
    )


found = measure(job, 1)
np.save(FOLDER / "t.npy", np.ravel(found["t"]))
np.save(FOLDER / "maxima.npy", np.ravel(found["h0_max_t"]))
