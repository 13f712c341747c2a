"""Logistic regression in SQL."""

from stats.logit_results import (
    InSampleRoc,
    LikelihoodRatio,
    LogitFit,
    NestedLogit,
    TermEstimate,
    WaldTest,
)

__all__ = [
    "InSampleRoc",
    "LikelihoodRatio",
    "LogitFit",
    "NestedLogit",
    "TermEstimate",
    "WaldTest",
]
