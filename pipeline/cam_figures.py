"""Figures of Grad-CAM: mean maps by model and class. Not here: what is drawn (`pipeline.cams`)."""

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES
from imaging.sphere import FRAMES
from lake.keys import STRATEGIES
from lake.store import Lake
from models.cam_views import upsampled
from models.gradcam import Target
from pipeline.cams import mean_cam_cells
from pipeline.figures import blank_figure, png_of

STRATEGY_TITLES = {
    "thickness": "thickness",
    "bone_shape": "bone shape",
    "t2": "T2",
    "bone_thickness": "shape + thickness",
    "thickness_t2": "T2 + thickness",
    "all_biomarkers": "all",
}


def mean_cams(
    lake: Lake, target: Target, knee_visits: list[str], task: str = "chronic_pain"
) -> dict[tuple[str, str], NDArray[np.floating]]:
    """Mean rectified map of every model that explains some of the knees, by bone and strategy.

    Args:
        lake: where they are.
        target: whose evidence.
        knee_visits: of whom; those a model has no map of (no T2) are left out of its mean.
        task: of the models.
    """
    # Enlarging is linear: the mean is enlarged instead of every map.
    return {
        (bone, strategy): upsampled(cells, (len(FRAMES[bone].phi), len(FRAMES[bone].theta)))
        for (bone, strategy), cells in mean_cam_cells(lake, target, knee_visits, task).items()
    }


def mean_cams_figure(
    means: dict[tuple[str, str], NDArray[np.floating]], *, title: str, dpi: int = 56
) -> bytes:
    """Mean maps, a row per bone and a column per strategy, each on a scale of its own.

    The numbers say each panel's largest value: the scales differ, as the networks' logits do.
    """
    bones = [bone for bone in BONES if any(of == bone for of, _ in means)]
    names = [name for name in STRATEGIES if any(of == name for _, of in means)]
    figure = blank_figure(2.6 * max(len(names), 1), 2.2 * max(len(bones), 1) + 0.5)
    figure.suptitle(title)
    # Labels on the outer axes only: laying out those of every panel is half of the drawing.
    axes = figure.subplots(
        max(len(bones), 1), max(len(names), 1), squeeze=False, sharex=True, sharey="row"
    )
    for row, bone in enumerate(bones):
        low, high = np.degrees(FRAMES[bone].phi_range)
        for column, name in enumerate(names):
            axis = axes[row, column]
            axis.tick_params(labelsize=6)
            if (bone, name) not in means:
                axis.set_axis_off()
                continue
            values = means[bone, name]
            axis.imshow(
                values,
                origin="lower",
                aspect="auto",
                extent=(-180.0, 180.0, low, high),
                cmap="magma",
                vmin=0.0,
                vmax=max(float(values.max()), 1e-12),
            )
            axis.set_title(f"{bone}: {STRATEGY_TITLES[name]} ({values.max():.2g})", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("theta (deg)", fontsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("phi (deg)", fontsize=7)
    return png_of(figure, dpi)
