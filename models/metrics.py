"""What a validation split says of a classifier after an epoch.

Only what training decides by; intervals, comparisons and tables are the statistics package's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metrics:
    """Of one split.

    Attributes:
        loss: class-weighted cross-entropy, nats.
        sensitivity: share of cases told to be cases, at a probability of more than one half.
        specificity: share of controls told to be controls.
        auc: area under the ROC curve; ties count one half.
        mcc: Matthews correlation; 0 where all are told the same.
    """

    loss: float
    sensitivity: float
    specificity: float
    auc: float
    mcc: float

    @property
    def tpn(self) -> float:
        """Sensitivity + specificity + AUC, by which the authors' code chooses an epoch."""
        return self.sensitivity + self.specificity + self.auc


def classification_metrics(
    logits: NDArray[np.floating], is_case: NDArray[np.bool_], class_weights: NDArray[np.floating]
) -> Metrics:
    """Metrics of a split that holds cases and controls.

    Args:
        logits: shape (n, 2), no then yes.
        is_case: shape (n,).
        class_weights: of no and yes in the loss.
    """
    logits = np.asarray(logits, np.float64)
    # log(1 + exp(x)), without overflow.
    evidence = logits[:, 1] - logits[:, 0]
    losses = np.logaddexp(0.0, np.where(is_case, -evidence, evidence))
    weights = np.asarray(class_weights, np.float64)[is_case.astype(int)]
    told = evidence > 0
    cases, controls = int(is_case.sum()), int((~is_case).sum())
    true_positives, true_negatives = int((told & is_case).sum()), int((~told & ~is_case).sum())
    return Metrics(
        loss=float((weights * losses).sum() / weights.sum()),
        sensitivity=true_positives / cases,
        specificity=true_negatives / controls,
        auc=area_under_roc(evidence, is_case),
        mcc=_matthews(true_positives, true_negatives, cases, controls),
    )


def area_under_roc(scores: NDArray[np.floating], is_case: NDArray[np.bool_]) -> float:
    """The chance that a case scores above a control, ties counted one half (Mann-Whitney)."""
    from scipy.stats import rankdata

    cases, controls = int(is_case.sum()), int((~is_case).sum())
    above = rankdata(scores)[is_case].sum() - cases * (cases + 1) / 2
    return float(above / (cases * controls))


def _matthews(true_positives: int, true_negatives: int, cases: int, controls: int) -> float:
    false_positives, false_negatives = controls - true_negatives, cases - true_positives
    told_yes = true_positives + false_positives
    told_no = true_negatives + false_negatives
    spread = float(told_yes) * told_no * cases * controls
    if spread == 0:
        return 0.0
    return (true_positives * true_negatives - false_positives * false_negatives) / spread**0.5
