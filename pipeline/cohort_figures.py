"""The flowchart (Fig. 2) and Table 4 as files a manuscript can take.

Here: laying out numbers that `sql/cohort` computed. Not here: computing any of them.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from lake.store import Lake
from pipeline.manuscript import number_text, p_text, table_files, write_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODEL_NAMES: Mapping[str, str] = {"oa": "OA", "chronic_pain": "Chronic pain"}
SPLIT_NAMES: Mapping[str, str] = {
    "training": "Training (cases)",
    "validation": "Validation (cases)",
    "test": "Test (cases)",
}
HEADINGS = (
    "Model",
    *SPLIT_NAMES.values(),
    "Cases ratio",
    "Average time points per patient",
    "Timepoint distribution (timepoints:patients)",
    "Average age (mean ± SD), years",
    "Average KL (mean ± SD)",
    "Sex distribution (male/female)",
    "Total WOMAC pain score (mean ± SD)",
    "χ² test (sex), p",
    "MANOVA (age, BMI), Wilks, p",
)
"""The columns of the paper's Table 4."""

_BOX = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "0.2"}
_SIDE_BOX = {"boxstyle": "round,pad=0.5", "facecolor": "0.95", "edgecolor": "0.5"}


def _counted(n: int, noun: str) -> str:
    return f"n = {n:,} {noun}{'' if n == 1 else 's'}"


def flowchart(flow: pl.DataFrame, reasons: pl.DataFrame, form: Literal["png", "svg"]) -> bytes:
    """The inclusion flowchart, its numbers those of the tables.

    Args:
        flow: `cohort_flow`.
        reasons: `pain_exclusions`, listed beside the last step.
        form: of the picture.

    Returns:
        the picture's file content; the same tables give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    steps = flow.sort("step_number").to_dicts()
    # No time of day and no random names in the file.
    with mpl.rc_context({"svg.hashsalt": "kneelake", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.5, 1.35 * len(steps)), dpi=120)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1), ylim=(-len(steps) + 0.4, 0.6))
        axes.axis("off")
        for number, step in enumerate(steps):
            _draw_step(axes, -number, step, is_last=number == len(steps) - 1)
            if step["step"] == "pain_definition":
                _draw_reasons(axes, -number, reasons)
        buffer = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def _draw_step(axes: "Axes", y: float, step: Mapping[str, Any], is_last: bool) -> None:
    remaining = _counted(step["n_remaining"], "knee-visit")
    patients = _counted(step["n_patients_remaining"], "patient")
    title = step["description"] if step["step_number"] == 0 else "Remaining"
    title = "Cohort" if is_last else title
    if step["step_number"]:
        arrow = {"arrowstyle": "->", "color": "0.2"}
        axes.annotate("", (0.27, y + 0.3), (0.27, y + 0.72), arrowprops=arrow)
        axes.annotate("", (0.55, y + 0.5), (0.27, y + 0.5), arrowprops=arrow)
        excluded = f"{step['description']}\n{_counted(step['n_excluded'], 'knee-visit')}"
        axes.text(0.56, y + 0.5, excluded, bbox=_SIDE_BOX, va="center", fontsize=9)
    axes.text(
        0.27,
        y,
        f"{title}\n{remaining}\n{patients}",
        bbox=_BOX,
        ha="center",
        va="center",
        fontsize=9,
    )


def _draw_reasons(axes: "Axes", y: float, reasons: pl.DataFrame) -> None:
    lines = [
        f"{row['description']}: {row['n_excluded']:,}"
        for row in reasons.sort("reason_number").to_dicts()
        if row["n_excluded"]
    ]
    axes.text(0.56, y + 0.14, "\n".join(lines), va="top", fontsize=8, color="0.3")


def table_4(balance: pl.DataFrame) -> pl.DataFrame:
    """`split_balance` in the paper's layout: one row per model, as text.

    Args:
        balance: `split_balance`.

    Returns:
        columns `HEADINGS`; '-' where there is nothing to say.
    """
    rows = []
    for model, name in MODEL_NAMES.items():
        found = {row["split"]: row for row in balance.filter(pl.col("model") == model).to_dicts()}
        if "all" not in found:
            continue
        every = found["all"]
        values = [
            name,
            *(_split_text(found.get(split)) for split in SPLIT_NAMES),
            number_text(every["case_share"], 3),
            number_text(every["timepoints_per_patient"], 2),
            every["timepoint_distribution"] or "-",
            _mean_sd(every["age_mean"], every["age_sd"]),
            _mean_sd(every["kl_mean"], every["kl_sd"]),
            f"{every['n_male']:,}/{every['n_female']:,}",
            _mean_sd(every["womac_pain_mean"], every["womac_pain_sd"]),
            p_text(every["sex_p"]),
            p_text(every["age_bmi_wilks_p"]),
        ]
        rows.append(dict(zip(HEADINGS, values, strict=True)))
    return pl.DataFrame(rows, schema=dict.fromkeys(HEADINGS, pl.String))


def _split_text(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['n_knee_visits']:,} ({row['n_cases']:,})"


def _mean_sd(mean: float | None, sd: float | None) -> str:
    return f"{number_text(mean, 1)} ± {number_text(sd, 2)}"


def write_cohort_figures(
    lake: Lake, folder: Path, settings: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write the flowchart (PNG, SVG) and Table 4 (HTML, Markdown, CSV).

    Args:
        lake: whose cohort.
        folder: where to; made if it is not there.
        settings: choices of `cohort_parameters` other than the default.

    Returns:
        the files written.
    """
    with lake.connect(settings) as connection:
        flow, reasons, balance = (
            pl.DataFrame(connection.sql(f"FROM {name}").to_arrow_table())
            for name in ("cohort_flow", "pain_exclusions", "split_balance")
        )
    contents = {
        "cohort_flow.png": flowchart(flow, reasons, "png"),
        "cohort_flow.svg": flowchart(flow, reasons, "svg"),
        **table_files("table_4", table_4(balance), "Table 4"),
    }
    return write_files(folder, contents)
