"""Pain tied to one number of a knee, so that the best any classifier can do is known.

Amplitude is how pronounced the planted change is. Given the label it is normal with SD 1, its mean
higher by `separation` with pain than without. Pain given the amplitude is then exactly logistic,

    log odds = logit(prevalence) + separation amplitude,

and nothing else drawn helps: no classifier's AUC can be expected to pass Phi(separation / sqrt 2).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PainModel:
    """How pain and amplitude belong together.

    Attributes:
        separation: difference of the amplitude's mean between knees with and without pain, SD;
            0 is the null: pain has nothing to do with the maps.
        prevalence: share of knees with pain.
    """

    separation: float = 2.0
    prevalence: float = 0.3

    def __post_init__(self) -> None:
        if self.separation < 0 or not np.isfinite(self.separation):
            raise ValueError(f"separation is {self.separation}; use 0 (no relation) or more")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence is {self.prevalence}; use a share between 0 and 1")

    @property
    def bayes_auc(self) -> float:
        """AUC of the best possible classifier: that of the amplitude itself."""
        return float(ndtr(self.separation / np.sqrt(2.0)))

    def amplitude(self, pain: FloatArray, own: FloatArray) -> FloatArray:
        """The amplitude of knees.

        Args:
            pain: 1 with, 0 without; 0.5 for one that is neither. Shape (n,).
            own: what each knee has of its own, standard normal, shape (n,).
        """
        return np.asarray(own) + self.separation * (np.asarray(pain) - 0.5)

    def log_odds(self, amplitude: FloatArray) -> FloatArray:
        """Log odds of pain given the amplitude; knees that are neither left aside."""
        return logit(self.prevalence) + self.separation * np.asarray(amplitude)

    def draw_pain(self, amplitude: FloatArray, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Pain of knees whose amplitude is given: Bernoulli of the log odds."""
        chance = expit(self.log_odds(amplitude))
        return rng.random(chance.shape) < chance
