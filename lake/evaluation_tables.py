"""The registry's tables of how well the classifiers do (step 'statistics').

Here: performance, calibration and comparisons of every model and ensemble. Not here: any figure of
them (`stats.roc`, `pipeline.evaluation`).
"""

from imaging.labels import BONES
from lake.registry import BATCH_ID, Check, Column, Table, count, number, text, whole, yes_no

_TASKS = ("oa", "chronic_pain")
_SCORED = (*BONES, "ptf")
_KEY = (
    text("analysis", "The analysis."),
    text("task", "What is predicted.", _TASKS),
    text("visits", "Rows judged: a participant's first visit, last visit, or all.", (
        "first", "last", "all",
    )),
    text("bone", "The bone, or ptf: the mean probability of patella, tibia and femur.", _SCORED),
)  # fmt: skip
_STRATEGY = text("strategy", "How the maps are merged into three channels.")
_REASON = text("reason", "Why there is no result; NULL where there is.", nullable=True)
_RESULT_OR_REASON = "expected either numbers or the reason why there are none"


def _optional(name: str, description: str, unit: str = "") -> Column:
    return number(name, description, unit, None, None, nullable=True)


def _share(name: str, description: str) -> Column:
    return number(name, description, "1", 0.0, 1.0, nullable=True)


def _table(
    name: str, description: str, columns: tuple[Column, ...], more: tuple[str, ...], result: str
) -> Table:
    return Table(
        name,
        description,
        (*_KEY, *columns, _REASON, BATCH_ID),
        partitioned=False,
        step="statistics",
        key=("analysis",),
        grain=("task", "visits", "bone", *more),
        rules=(
            Check(
                "result_or_reason",
                "reason",
                f"(reason IS NULL) = ({result} IS NOT NULL)",
                _RESULT_OR_REASON,
            ),
        ),
    )


EVALUATION_TABLES = (
    _table(
        "model_performance",
        "How well classifiers and ensembles do on the test split: one row per task, visits, bone, "
        "strategy and metric. Bootstraps draw participants; DeLong's interval takes rows to be "
        "independent, so there is none for all visits.",
        (
            _STRATEGY,
            text(
                "metric",
                "At a probability of one half, but for the AUC.",
                (
                    "sensitivity",
                    "specificity",
                    "auc",
                    "accuracy",
                    "balanced_accuracy",
                    "ppv",
                    "npv",
                ),
            ),
            count("n", "Knee-visits judged."),
            count("n_positive", "Of these cases."),
            _share("estimate", "The metric; NULL where it is not defined (nobody called a case)."),
            _share("percentile_low", "2.5 % percentile of the bootstrap."),
            _share("percentile_high", "97.5 % percentile."),
            _optional(
                "mean_low", "Mean of the bootstrap - 1.96 SD / sqrt(replicates): the paper's."
            ),
            _optional("mean_high", "Its upper limit."),
            _share(
                "delong_low", "Lower limit of DeLong's 95 % interval, on the logit scale (AUC)."
            ),
            _share("delong_high", "Its upper limit."),
            whole("n_replicates", "Bootstraps in which the metric is defined."),
        ),
        ("strategy", "metric"),
        "n_replicates",
    ),
    _table(
        "model_calibration",
        "Whether the probabilities on the test split mean what they say: one row per task, visits, "
        "bone and strategy. Standard errors take rows to be independent.",
        (
            _STRATEGY,
            count("n", "Knee-visits judged."),
            count("n_positive", "Of these cases."),
            _optional("brier", "Mean squared difference of probability and outcome."),
            _optional("scaled_brier", "1 - Brier over that of the share of cases."),
            _optional("mean_predicted", "Mean probability."),
            _optional("intercept", "Of the logistic recalibration; NULL where it has no maximum."),
            _optional("intercept_se", "Its standard error."),
            _optional("slope", "Of it: below 1, probabilities are too extreme."),
            _optional("slope_se", "Its standard error."),
            _optional("in_the_large", "Intercept with the slope at 1: below 0, they are too high."),
            yes_no("converged", "Whether the recalibration has a maximum."),
        ),
        ("strategy",),
        "brier",
    ),
    _table(
        "model_comparisons",
        "DeLong's paired test of two strategies of a bone on the same knee-visits of the test "
        "split: one row per task, visits, bone and pair. Rows are taken to be independent.",
        (
            text("first_strategy", "The first strategy."),
            text("second_strategy", "The second."),
            count("n", "Knee-visits both predict."),
            count("n_positive", "Of these cases."),
            _share("first_auc", "AUC of the first."),
            _share("second_auc", "AUC of the second."),
            _optional("difference", "First less second."),
            _optional("difference_low", "Its 95 % confidence limit."),
            _optional("difference_high", "Its upper limit."),
            _optional("z", "difference / standard error; NULL where the scores order rows alike."),
            number("p", "Two-sided p-value.", "p-value", 0.0, 1.0, nullable=True),
            number(
                "q_bh",
                "p adjusted by Benjamini and Hochberg over the pairs of the bone.",
                "p-value",
                0.0,
                1.0,
                nullable=True,
            ),
        ),
        ("first_strategy", "second_strategy"),
        "difference",
    ),
)
