"""Figure S2, and how the segmentation networks learned.

Every function returns PNG bytes. The same input gives the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.segmentation_training import Validation
from pipeline.segmentation_evaluation import Overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PREDICTED, _DRAWN = "#ff9d2f", "#35c9ff"


def training_figure(histories: Mapping[str, Sequence[Validation]], *, dpi: int = 70) -> bytes:
    """Training loss and validation Dice of every network, by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    losses, dices = figure.subplots(1, 2)
    for name, history in sorted(histories.items()):
        steps = [one.step for one in history]
        losses.plot(steps, [one.loss for one in history], marker=".", label=name)
        dices.plot(steps, [one.mean_dice for one in history], marker=".", label=name)
    losses.set(xlabel="step", ylabel="training loss (each network its own)", yscale="log")
    dices.set(xlabel="step", ylabel="Dice, validation people, mean over tissues", ylim=(0, 1))
    dices.legend(fontsize=6)
    return _png(figure, dpi)


def overlay_figure(overlays: Mapping[str, Overlay], *, dpi: int = 70) -> bytes:
    """Figure S2: a sagittal slice of each case, drawn and predicted outlines over the scan."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(overlays), 4.0), layout="constrained")
    figure.suptitle("predicted (orange) and drawn (blue) outlines; means over the whole volume")
    axes = figure.subplots(1, len(overlays), squeeze=False)[0]
    for axis, (name, overlay) in zip(axes, sorted(overlays.items()), strict=True):
        aspect = overlay.pixel_mm[0] / overlay.pixel_mm[1]
        high = float(np.quantile(overlay.image, 0.995))
        axis.imshow(overlay.image, cmap="gray", vmin=0.0, vmax=max(high, 1.0), aspect=aspect)
        for labels, colour in ((overlay.drawn, _DRAWN), (overlay.predicted, _PREDICTED)):
            for value in np.unique(labels[labels > 0]):
                axis.contour(labels == value, [0.5], colors=[colour], linewidths=0.7)
        axis.set_title(
            f"{name}\nMPTS {overlay.mpts_mm:.2f} mm, Dice {overlay.dice:.2f}", fontsize=8
        )
        axis.set_axis_off()
    return _png(figure, dpi)


def _png(figure: "Figure", dpi: int) -> bytes:
    buffer = io.BytesIO()
    # No software version or date: the same figure must be the same bytes.
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
