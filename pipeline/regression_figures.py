"""Forest plots of logistic regressions.

Here: drawing rows of `regression_terms`. Not here: computing any of them.
"""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from pipeline.regression_tables import (
    BIOMARKER_NAMES,
    BONE_NAMES,
    MODEL_NAMES,
    POPULATION_NAMES,
    models_in_order,
    term_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAIVE, CLUSTERED = "#1f4e79", "#c55a11"
_WIDEST = 3.0
"""Decades of odds ratio shown at most; what lies beyond is drawn as an arrow."""


@dataclass(frozen=True)
class Estimate:
    """One line of a forest plot: natural logarithms of odds ratios.

    Attributes:
        label: the term.
        log_or, low, high: estimate and 95 % limits, rows taken as independent.
        cluster_low, cluster_high: limits clustered by participant; None without.
    """

    label: str
    log_or: float
    low: float
    high: float
    cluster_low: float | None = None
    cluster_high: float | None = None


@dataclass(frozen=True)
class Panel:
    """The lines of one model, under a heading."""

    heading: str
    lines: tuple[Estimate, ...]


def panels(
    tables: Mapping[str, pl.DataFrame],
    compartments: Mapping[str, Mapping[str, str]] = {},
    only: Collection[str] = (),
) -> list[Panel]:
    """The models that can be drawn, one panel each: those fitted, with finite estimates.

    Args:
        tables: `regression_models` and `regression_terms` of one analysis.
        compartments: names of terms by bone that come before the usual.
        only: the terms to draw; () for all but the intercept.
    """
    found = []
    terms = tables["regression_terms"].sort("position").to_dicts()
    for model in models_in_order(tables):
        key = ("population", "bone", "biomarker", "model")
        lines = tuple(
            Estimate(
                term_name(term["term"], compartments.get(model["bone"] or "", {})),
                term["estimate"],
                term["ci_low"],
                term["ci_high"],
                term["cluster_ci_low"],
                term["cluster_ci_high"],
            )
            for term in terms
            if term["position"] > 0
            and (not only or term["term"] in only)
            and all(term[name] == model[name] for name in key)
            and None not in (term["estimate"], term["ci_low"], term["ci_high"])
        )
        if lines and not model["separated"]:
            words = [
                BONE_NAMES[model["bone"]],
                BIOMARKER_NAMES.get(model["biomarker"], ""),
                MODEL_NAMES.get(model["model"], model["model"]),
                POPULATION_NAMES.get(model["population"], model["population"]).lower(),
            ]
            heading = ", ".join(word for word in words if word != "-")
            found.append(Panel(f"{heading} (n = {model['n']:,})", lines))
    return found


def forest_plot(shown: Sequence[Panel], title: str, form: Literal["png", "svg"]) -> bytes:
    """Odds ratios per unit on a logarithmic axis, with both kinds of interval.

    Args:
        shown: panels, from top to bottom; without any the picture says so.
        title: above the picture.
        form: of the picture.

    Returns:
        the picture's file content; the same estimates give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    n_lines = sum(len(panel.lines) + 1.4 for panel in shown) or 2
    # No time of day and no random names in the file.
    with mpl.rc_context({"svg.hashsalt": "kneelake", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.5, 1.3 + 0.27 * n_lines), dpi=100)
        top = 1 - 0.45 / figure.get_figheight()
        bottom = 0.75 / figure.get_figheight()
        axes = figure.add_axes((0.31, bottom, 0.45, top - bottom))
        figure.text(0.01, 1 - 0.22 / figure.get_figheight(), title, fontsize=11, va="center")
        if shown:
            _draw(axes, shown)
        else:
            axes.axis("off")
            axes.text(0, 0.5, "No model could be fitted; the table says why.", fontsize=10)
        buffer = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def _limits(shown: Sequence[Panel]) -> tuple[float, float]:
    """What the axis spans, in decades: all limits, but not more than `_WIDEST` either way."""
    values = [
        limit / math.log(10)
        for panel in shown
        for line in panel.lines
        for limit in (line.low, line.high, line.cluster_low, line.cluster_high)
        if limit is not None
    ]
    margin = 0.05 * (max(values) - min(values)) + 0.02
    low = max(min(*values, 0.0) - margin, -_WIDEST)
    return low, min(max(*values, 0.0) + margin, _WIDEST)


def _draw(axes: "Axes", shown: Sequence[Panel]) -> None:
    from matplotlib.lines import Line2D

    low, high = _limits(shown)
    y = 0.0
    for panel in shown:
        y -= 1.4
        axes.text(
            -0.67,
            y,
            panel.heading,
            fontsize=9,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            va="center",
            transform=axes.get_yaxis_transform(),
        )
        for line in panel.lines:
            y -= 1
            _draw_line(axes, y, line, (low, high))
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set(xlim=(low, high), ylim=(y - 0.8, -0.6), yticks=[])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    ticks = _ticks(low, high)
    axes.set_xticks([math.log10(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("Odds ratio per unit, 95 % CI (logarithmic)", fontsize=9)
    handles = [Line2D([], [], color=NAIVE, marker="s", markersize=4, label="rows as independent")]
    if any(line.cluster_low is not None for panel in shown for line in panel.lines):
        handles.append(Line2D([], [], color=CLUSTERED, label="clustered by participant"))
    axes.legend(
        handles=handles,
        fontsize=8,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1.55, 1.0),
        ncols=2,
        borderaxespad=0.2,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Odds ratios to mark: powers of ten, with 2 and 5 or tenths where the axis is short."""
    if high - low < 0.35:
        step = 0.05 if high - low < 0.12 else 0.1
        first = math.ceil(10**low / step)
        return [round(step * k, 3) for k in range(first, math.floor(10**high / step) + 1)]
    factors = (1, 1.5, 2, 3, 5, 7) if high - low < 0.9 else (1, 2, 5) if high - low < 2.2 else (1,)
    found = [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def _draw_line(axes: "Axes", y: float, line: Estimate, limits: tuple[float, float]) -> None:
    decade = math.log(10)
    pairs = [(line.low, line.high, NAIVE, 0.12)]
    if line.cluster_low is not None and line.cluster_high is not None:
        pairs.append((line.cluster_low, line.cluster_high, CLUSTERED, -0.18))
    for start, end, colour, offset in pairs:
        left, right = max(start / decade, limits[0]), min(end / decade, limits[1])
        axes.plot([left, right], [y + offset] * 2, color=colour, linewidth=1.5)
        for inside, outside, mark in ((left, start / decade, "<"), (right, end / decade, ">")):
            if inside != outside:
                axes.plot(inside, y + offset, mark, color=colour, markersize=5, clip_on=False)
    if limits[0] <= line.log_or / decade <= limits[1]:
        axes.plot(line.log_or / decade, y + 0.12, "s", color=NAIVE, markersize=4)
    across = axes.get_yaxis_transform()
    axes.text(-0.03, y, line.label, fontsize=8.5, va="center", ha="right", transform=across)
    numbers = " to ".join(_short(math.exp(min(limit, 700.0))) for limit in (line.low, line.high))
    text = f"{_short(math.exp(min(line.log_or, 700.0)))} ({numbers})"
    axes.text(1.03, y, text, fontsize=8.5, va="center", transform=across)


def _short(value: float) -> str:
    return f"{value:.2f}" if 0.01 <= value < 1000 else f"{value:.1e}"
