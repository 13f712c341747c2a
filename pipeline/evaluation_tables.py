"""Tables 1, S2 and S3 and the ROC figure, laid out of an evaluation's rows.

Here: which number goes where. Not here: any number (`pipeline.evaluation`), or the form of the
files (`pipeline.manuscript`).
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from pipeline.cam_figures import STRATEGY_TITLES
from pipeline.evaluation import Evaluation, Row, Task, Visits
from pipeline.figures import blank_figure, png_of
from pipeline.manuscript import number_text, p_text

Convention = Literal["percentile", "mean"]

COLUMNS = {"patella": "Patella", "tibia": "Tibia", "femur": "Femur", "ptf": "PTF"}
MODELS = {
    "t2": ("Single", "Cartilage T2"),
    "thickness": ("Single", "Cartilage thickness"),
    "bone_shape": ("Single", "Bone shape"),
    "thickness_t2": ("Fusion", "Cartilage T2 and thickness"),
    "bone_thickness": ("Fusion", "Bone shape and cartilage thickness"),
    "all_biomarkers": ("Fusion", "Bone shape, cartilage thickness and T2"),
}
"""Rows of the paper's Table 1, in its order."""
HEADINGS = ("Biomarker type", "Biomarker model", *COLUMNS.values())
METRICS = ("sensitivity", "specificity", "auc")
TITLES: dict[tuple[Task, Visits], tuple[str, str]] = {
    ("chronic_pain", "first"): (
        "table_1",
        "Table 1. Chronic pain, first timepoint of each patient",
    ),
    ("chronic_pain", "last"): (
        "table_s3",
        "Table S3. Chronic pain, last timepoint of each patient",
    ),
    ("chronic_pain", "all"): ("performance_all_visits", "Chronic pain, all timepoints"),
    ("oa", "first"): ("table_s2", "Table S2. Osteoarthritis, first timepoint of each patient"),
    ("oa", "last"): ("performance_oa_last", "Osteoarthritis, last timepoint of each patient"),
    ("oa", "all"): ("performance_oa_all_visits", "Osteoarthritis, all timepoints"),
}
"""File name and title of each table; the paper does not say of which timepoints its S2 is."""
_CONVENTIONS = {
    "percentile": "95 % percentile interval of {n} bootstraps by patient: the sampling error.",
    "mean": "mean of {n} bootstraps by patient -+ 1.96 SD / sqrt({n}), as in the paper: the "
    "precision of the bootstrap's mean, about 10 times narrower than the sampling error.",
}


def performance_table(
    found: Evaluation, convention: Convention
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """An evaluation in the layout of Table 1, and its notes.

    Args:
        found: an evaluation.
        convention: of the intervals.

    Returns:
        One row per strategy, text cells `sensitivity / specificity / AUC (interval each)` in %;
        '-' where there is no model, and what keeps a model from being judged where there is one.
    """
    by_model: dict[tuple[str, str], dict[str, Row]] = {}
    for row in found.performance:
        by_model.setdefault((row["bone"], row["strategy"]), {})[row["metric"]] = row
    best = {bone: _best(by_model, bone) for bone in COLUMNS}
    rows = [
        (
            *MODELS[strategy],
            *(
                _cell(by_model.get((bone, strategy)), convention, is_best=best[bone] == strategy)
                for bone in COLUMNS
            ),
        )
        for strategy in MODELS
    ]
    counts = sorted({(row["n"], row["n_positive"]) for row in found.performance})
    judged = ", ".join(f"{n} knee-visits ({cases} cases)" for n, cases in counts) or "nothing"
    replicates = max((row.get("n_replicates") or 0 for row in found.performance), default=0)
    intervals = (f"Intervals: {_CONVENTIONS[convention].format(n=replicates)}",)
    notes = (
        "Cells: sensitivity / specificity / AUC in %, sensitivity and specificity at a probability "
        "of one half. PTF: mean probability of patella, tibia and femur. * highest AUC of its "
        "column.",
        *(intervals if replicates else ()),
        f"Judged: {judged} of the test split.",
    )
    return pl.DataFrame(rows, schema=dict.fromkeys(HEADINGS, pl.String), orient="row"), notes


def _best(by_model: dict[tuple[str, str], dict[str, Row]], bone: str) -> str | None:
    known = {
        strategy: metrics["auc"]["estimate"]
        for (of_bone, strategy), metrics in by_model.items()
        if of_bone == bone and metrics["auc"].get("estimate") is not None
    }
    return max(known, key=lambda name: known[name]) if known else None


def _cell(metrics: dict[str, Row] | None, convention: Convention, *, is_best: bool) -> str:
    if metrics is None:
        return "-"
    if metrics["auc"]["reason"] is not None:
        return str(metrics["auc"]["reason"])
    shown = []
    for name in METRICS:
        row = metrics[name]
        low, high = (
            number_text(_percent(row[f"{convention}_{end}"]), 1) for end in ("low", "high")
        )
        shown.append(f"{number_text(_percent(row['estimate']), 1)} ({low}, {high})")
    return " / ".join(shown) + (" *" if is_best else "")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def comparison_table(found: Evaluation) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The paired tests as text, and their notes."""
    aucs = ("AUC, first", "AUC, second", "Difference (95 % CI)")
    headings = ("Bone", "First", "Second", "n", *aucs, "z", "p", "q, p")
    rows = []
    for row in found.comparisons:
        names = (COLUMNS[row["bone"]], *(MODELS[row[key]][1] for key in _PAIR))
        if row["reason"] is not None:
            rows.append((*names, str(row["n"]), row["reason"], *["-"] * 5))
            continue
        limits = ", ".join(number_text(row[f"difference_{end}"], 3) for end in ("low", "high"))
        rows.append(
            (
                *names,
                str(row["n"]),
                number_text(row["first_auc"], 3),
                number_text(row["second_auc"], 3),
                f"{number_text(row['difference'], 3)} ({limits})",
                number_text(row["z"], 2),
                p_text(row["p"]),
                p_text(row["q_bh"]),
            )
        )
    notes = (
        "DeLong's paired test on the knee-visits that both models predict, one per patient; q: "
        "Benjamini and Hochberg over the pairs of a bone.",
    )
    return pl.DataFrame(rows, schema=dict.fromkeys(headings, pl.String), orient="row"), notes


_PAIR = ("first_strategy", "second_strategy")


def roc_figure(found: Evaluation, *, title: str, dpi: int = 80) -> bytes:
    """ROC curves by bone, and under each how well its probabilities are calibrated."""
    figure = blank_figure(13.0, 6.6)
    figure.suptitle(title)
    axes = figure.subplots(2, len(COLUMNS), squeeze=False)
    aucs = {
        (row["bone"], row["strategy"]): row["estimate"]
        for row in found.performance
        if row["metric"] == "auc" and row["reason"] is None
    }
    for column, (bone, heading) in enumerate(COLUMNS.items()):
        upper, lower = axes[0, column], axes[1, column]
        for axis in (upper, lower):
            axis.plot([0, 1], [0, 1], color="0.8", lw=0.8)
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1)
            axis.tick_params(labelsize=7)
        for place, strategy in enumerate(MODELS):
            if (bone, strategy) not in aucs:
                continue
            of_model = (pl.col("bone") == bone) & (pl.col("strategy") == strategy)
            curve = found.curves.filter(of_model)
            label = f"{STRATEGY_TITLES[strategy]} {aucs[bone, strategy]:.3f}"
            upper.plot(
                curve["false_positive_rate"],
                curve["sensitivity"],
                color=f"C{place}",
                lw=1.1,
                label=label,
            )
            bins = found.reliability.filter(of_model).sort("bin")
            lower.plot(
                bins["mean_predicted"], bins["observed"], "o-", color=f"C{place}", ms=3, lw=0.9
            )
        upper.set_title(heading, fontsize=10)
        upper.set_xlabel("1 - specificity", fontsize=8)
        lower.set_xlabel("predicted probability", fontsize=8)
        if upper.get_legend_handles_labels()[0]:
            upper.legend(fontsize=7, loc="lower right", title="AUC", title_fontsize=7)
    axes[0, 0].set_ylabel("sensitivity", fontsize=8)
    axes[1, 0].set_ylabel("share of cases", fontsize=8)
    return png_of(figure, dpi)


def tables_of(
    evaluations: Sequence[Evaluation],
) -> dict[str, tuple[pl.DataFrame, str, tuple[str, ...]]]:
    """Every manuscript table by file name: its cells, title and notes."""
    made: dict[str, tuple[pl.DataFrame, str, tuple[str, ...]]] = {}
    for found in evaluations:
        name, title = TITLES[found.task, found.visits]
        table, notes = performance_table(found, "percentile")
        made[name] = (table, title, notes)
        table, notes = performance_table(found, "mean")
        made[f"{name}_paper_intervals"] = (table, f"{title}, intervals as in the paper", notes)
        if found.comparisons:
            table, notes = comparison_table(found)
            made[f"{name}_comparisons"] = (table, f"{title}: paired comparisons", notes)
    return made
