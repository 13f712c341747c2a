"""Results of logistic regressions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TermEstimate:
    """One coefficient, on the scale of the user's covariate.

    Attributes:
        term: 'Intercept', a column's name, 'Sex[F vs M]' of a factor, 'Age:BMI' of an interaction.
        estimate: change of the log-odds per unit.
        se: standard error from the inverse information; it takes rows to be independent.
        z: estimate / se.
        p: two-sided, of the normal distribution (Wald).
        ci_low: Wald interval's lower end, at the fit's level.
        ci_high: its upper end.
        odds_ratio: exp(estimate).
        or_low: exp(ci_low).
        or_high: exp(ci_high).
        vif: variance inflation factor; None for the intercept.
        profile_low: profile-likelihood interval's lower end; None unless asked for.
        profile_high: its upper end.
        cluster_se: cluster-robust (CR1) standard error; None without clusters, as all that follow.
        cluster_z: estimate / cluster_se.
        cluster_p: two-sided, of the normal distribution.
        cluster_ci_low: lower end of the interval from cluster_se.
        cluster_ci_high: its upper end.
        log_p: natural logarithm of p, finite where p underflows.
    """

    term: str
    estimate: float
    se: float
    z: float
    p: float
    ci_low: float
    ci_high: float
    odds_ratio: float
    or_low: float
    or_high: float
    vif: float | None = None
    profile_low: float | None = None
    profile_high: float | None = None
    cluster_se: float | None = None
    cluster_z: float | None = None
    cluster_p: float | None = None
    cluster_ci_low: float | None = None
    cluster_ci_high: float | None = None
    log_p: float | None = None


@dataclass(frozen=True)
class LogitFit:
    """One fitted model.

    Attributes:
        outcome: the 0/1 column.
        n: rows used; with frequency weights, their sum.
        n_dropped: rows left out since a value was NULL, NaN or infinite.
        n_events: rows used whose outcome is 1 (weighted).
        n_clusters: distinct clusters; None without.
        loglik: log-likelihood at the estimates.
        loglik_null: of the model with an intercept (and the offset) only.
        aic: 2 (coefficients) - 2 loglik.
        df: coefficients besides the intercept.
        converged: whether the Newton decrement fell below its tolerance.
        iterations: Newton steps taken.
        separated: whether some combination of the terms predicts the outcome without error on all
            rows ('complete') or on some ('quasi'); the estimates are then not finite, whatever
            numbers stand here.
        separation: 'none', 'quasi' or 'complete'.
        condition_number: of the standardised design: the square root of the ratio of the largest
            to the smallest eigenvalue of the terms' correlation matrix.
        terms: the intercept first.
        covariance: of the estimates (terms, terms), from the inverse information.
        cluster_covariance: the same, cluster-robust; None without clusters.
        levels: of each factor, its levels, the reference first.
        confidence: level of the intervals.
        sql: the statement that gave it ('' for the polars engine).
        engine: 'sql' or 'polars'.
        group: values of the `by` columns; None without.
        problem: why there are no estimates, for one model of many; None where there are. A single
            fit raises instead.
    """

    outcome: str
    n: int
    n_dropped: int
    n_events: int
    n_clusters: int | None
    loglik: float
    loglik_null: float
    aic: float
    df: int
    converged: bool
    iterations: int
    separated: bool
    separation: str
    condition_number: float
    terms: tuple[TermEstimate, ...]
    covariance: NDArray[np.float64]
    cluster_covariance: NDArray[np.float64] | None
    levels: Mapping[str, tuple[str, ...]]
    confidence: float
    sql: str
    engine: str
    group: Mapping[str, Any] | None = None
    problem: str | None = None

    def term(self, name: str) -> TermEstimate:
        """One coefficient by its name.

        Raises:
            KeyError: the model has no such term; the message lists those it has.
        """
        for estimate in self.terms:
            if estimate.term == name:
                return estimate
        raise KeyError(f"no term {name}; there are {', '.join(t.term for t in self.terms)}")


@dataclass(frozen=True)
class LikelihoodRatio:
    """Test of nested models; it takes rows to be independent.

    Attributes:
        chi2: twice the gain in log-likelihood.
        df: added coefficients.
        p: upper tail of the chi-square distribution (Wilks 1938).
        log_p: its natural logarithm, finite where p underflows.
    """

    chi2: float
    df: int
    p: float
    log_p: float


@dataclass(frozen=True)
class WaldTest:
    """Test that several coefficients are all zero.

    Attributes:
        chi2: b' V^-1 b of the added coefficients, V cluster-robust.
        df: how many.
        p: upper tail of the chi-square distribution.
        log_p: its natural logarithm.
    """

    chi2: float
    df: int
    p: float
    log_p: float


@dataclass(frozen=True)
class InSampleRoc:
    """How well a model tells apart the very rows it was fitted to: optimistic by construction.

    Attributes:
        threshold: a row is called positive at this probability or above.
        sensitivity: share of the rows with outcome 1 called positive.
        specificity: share of those with outcome 0 called negative.
        auc: area under the ROC curve, ties counting one half.
    """

    threshold: float
    sensitivity: float
    specificity: float
    auc: float


@dataclass(frozen=True)
class NestedLogit:
    """A model, a larger one on the same rows, and what the added terms bring.

    Attributes:
        base: the smaller model.
        full: the larger.
        added: names of the added coefficients.
        lrt: likelihood-ratio test, rows taken as independent.
        wald: cluster-robust Wald test of the added coefficients; None without clusters.
        base_roc: in-sample discrimination of the smaller model.
        full_roc: of the larger.
        sql: the statement that gave both fits and the test ('' for the polars engine).
    """

    base: LogitFit
    full: LogitFit
    added: tuple[str, ...]
    lrt: LikelihoodRatio
    wald: WaldTest | None
    base_roc: InSampleRoc
    full_roc: InSampleRoc
    sql: str
