"""glum's unpenalised logistic regression on a Parquet file; run by benchmarks.logit."""

import numpy as np
from glum import GeneralizedLinearRegressor
from logit_measure import FOLDER, measure, read_rows


def job() -> np.ndarray:
    y, x = read_rows()
    model = GeneralizedLinearRegressor(
        family="binomial", alpha=0, solver="irls-ls", gradient_tol=1e-9
    ).fit(x, y)
    return np.column_stack([[model.intercept_, *model.coef_], model.std_errors(x, y, robust=False)])


measure(job, int(np.load(FOLDER / "repeats.npy")))
