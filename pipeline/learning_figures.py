"""Training curves of the classifiers, and the paper's Figure S4.

Here: drawing what `training_epochs`, `sweep_best` and the authors' file hold. Not here: computing
any of it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from imaging.labels import BONES
from lake.keys import STRATEGIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRATEGY_NAMES: Mapping[str, str] = {
    "thickness": "Thickness",
    "bone_shape": "Bone shape",
    "t2": "T2",
    "bone_thickness": "Bone + thickness",
    "thickness_t2": "Thickness + T2",
    "all_biomarkers": "All",
}
INITIALIZATION_NAMES: Mapping[str, str] = {
    "random": "Random",
    "imagenet": "ImageNet",
    "oa": "OA",
}
MEASURES: Mapping[str, str] = {
    "val_sensitivity": "Sensitivity",
    "val_specificity": "Specificity",
    "val_auc": "AUC",
    "auc_variation_percent": "CV of AUC, %",
}
"""What Figure S4 compares, all on the validation split."""

_COLOURS: Mapping[str, str] = {"random": "#777777", "imagenet": "#1f77b4", "oa": "#d62728"}


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # No date and no version in the file: the same rows give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def training_curves(
    epochs: pl.DataFrame, models: Sequence[tuple[str, str]] | None = None, dpi: int = 72
) -> bytes:
    """Loss and AUC of every epoch, a panel per model.

    Args:
        epochs: `training_epochs` of one task.
        models: bones and strategies to draw; None for those there are.
        dpi: dots per inch.

    Returns:
        a PNG file's content. Losses are drawn on the left axis, the validation AUC on the right
        from 0 to 1; a ring marks the epoch whose weights were kept.

    Raises:
        ValueError: no epochs of these models.
    """
    from matplotlib.figure import Figure

    there = set(epochs.select("bone", "strategy").unique().rows())
    wanted = [
        (bone, strategy)
        for bone in BONES
        for strategy in STRATEGIES
        if (bone, strategy) in there and (models is None or (bone, strategy) in models)
    ]
    if not wanted:
        raise ValueError("there are no epochs to draw; train the classifiers first")
    columns = min(len(wanted), len(STRATEGIES))
    lines = -(-len(wanted) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 1.9 * lines + 0.4), dpi=dpi, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for place, (bone, strategy) in enumerate(wanted):
        axes = panels[place // columns, place % columns]
        rows = epochs.filter(pl.col("bone") == bone, pl.col("strategy") == strategy)
        _draw_curves(axes, rows.sort("epoch"), with_legend=place == 0)
        axes.set_title(f"{bone}: {STRATEGY_NAMES[strategy]}", fontsize=8)
    for place in range(len(wanted), lines * columns):
        panels[place // columns, place % columns].axis("off")
    return _png(figure)


def _draw_curves(axes: "Axes", rows: pl.DataFrame, *, with_legend: bool) -> None:
    epoch = rows["epoch"].to_list()
    axes.plot(epoch, rows["train_loss"].to_list(), color="0.6", label="training loss")
    axes.plot(epoch, rows["val_loss"].to_list(), color="#1f77b4", label="validation loss")
    best = rows.filter("is_best")
    axes.plot(
        best["epoch"].to_list(),
        best["val_loss"].to_list(),
        *("o",),
        fillstyle="none",
        color="#1f77b4",
    )
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    right.plot(epoch, rows["val_auc"].to_list(), color="#d62728", label="validation AUC")
    right.set_ylim(0, 1)
    for one in (axes, right):
        one.tick_params(labelsize=6)
    axes.set_xlabel("epoch", fontsize=7)
    if with_legend:
        handles = [*axes.get_lines()[:2], *right.get_lines()]
        axes.legend(handles=handles, fontsize=6, loc="lower left", framealpha=0.6)


def sweep_figure(ours: pl.DataFrame, published: pl.DataFrame | None = None, dpi: int = 72) -> bytes:
    """Figure S4: the best run of each initialisation, by bone and strategy.

    Args:
        ours: `sweep_best` of one rule, or no rows.
        published: the authors' (`read_published_sweep`), drawn as crosses beside our dots.
        dpi: dots per inch.

    Returns:
        a PNG file's content: a row per measure, a column per bone.

    Raises:
        ValueError: neither has a row.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sources = [(ours, "o", "this lake")]
    if published is not None:
        sources.append((published, "x", "published"))
    drawn = [source for source in sources if not source[0].is_empty()]
    if not drawn:
        raise ValueError("there are no runs to draw; run the sweep first")
    figure = Figure(figsize=(10, 8.5), dpi=dpi, layout="constrained")
    panels = figure.subplots(len(MEASURES), len(BONES), sharex=True, sharey="row")
    for line, (measure, name) in enumerate(MEASURES.items()):
        for column, bone in enumerate(BONES):
            axes = panels[line, column]
            for rows, marker, _ in drawn:
                _draw_runs(axes, rows.filter(pl.col("bone") == bone), measure, marker)
            axes.grid(axis="y", color="0.9")
            axes.tick_params(labelsize=7)
            axes.set_xticks(range(len(STRATEGIES)))
            axes.set_xticklabels(
                [STRATEGY_NAMES[strategy] for strategy in STRATEGIES], rotation=40, ha="right"
            )
            if line == 0:
                axes.set_title(bone, fontsize=9)
            if column == 0:
                axes.set_ylabel(name, fontsize=8)
    handles = [
        Line2D([], [], color=_COLOURS[kind], marker="s", linestyle="", label=label)
        for kind, label in INITIALIZATION_NAMES.items()
    ]
    handles += [
        Line2D([], [], color="black", marker=marker, linestyle="", label=label)
        for _, marker, label in drawn
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return _png(figure)


def _draw_runs(axes: "Axes", rows: pl.DataFrame, measure: str, marker: str) -> None:
    for offset, kind in zip((-0.22, 0.0, 0.22), INITIALIZATION_NAMES, strict=True):
        own = rows.filter(pl.col("initialization") == kind)
        axes.plot(
            [STRATEGIES.index(strategy) + offset for strategy in own["strategy"]],
            own[measure].to_list(),
            linestyle="",
            marker=marker,
            markersize=5,
            color=_COLOURS[kind],
        )
