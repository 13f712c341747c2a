"""Logistic regressions by statsmodels, their conditioning taken care of by a QR decomposition."""

from dataclasses import dataclass

import numpy as np
import statsmodels.api as sm


@dataclass(frozen=True)
class Reference:
    estimates: np.ndarray
    se: np.ndarray
    p: np.ndarray
    loglik: float
    loglik_null: float


def reference(y, x, weights=None, offset=None) -> Reference:
    """statsmodels on columns made orthonormal, turned back in the same decomposition.

    A raw design would cost it digits at a large offset or collinearity; its answer is then no
    reference. x is (n, p) without the intercept.
    """
    n, p = x.shape
    centre, scale = x.mean(0), x.std(0)
    q, r = np.linalg.qr((x - centre) / scale)
    q, r = q * np.sqrt(n), r / np.sqrt(n)
    fit = sm.GLM(
        y,
        sm.add_constant(q, has_constant="add"),
        family=sm.families.Binomial(),
        freq_weights=weights,
        offset=offset,
    ).fit(tol=1e-15, tol_criterion="params", maxiter=60)
    back = np.zeros((p + 1, p + 1))
    back[0, 0] = 1
    back[1:, 1:] = np.linalg.inv(r) / scale[:, None]
    back[0, 1:] = -centre @ back[1:, 1:]
    estimates = back @ fit.params
    covariance = back @ fit.cov_params() @ back.T
    se = np.sqrt(np.diag(covariance))
    p_values = 2 * sm.stats.stattools.stats.norm.sf(np.abs(estimates / se))
    return Reference(estimates, se, p_values, fit.llf, fit.llnull)
