"""Figure 4 of one knee: what each of the six strategies shows a network."""

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from lake.arrays import read_rows
from lake.errors import LakeError
from lake.store import Lake
from models.strategies import STRATEGIES, channels_of, merge
from pipeline.figures import blank_figure, png_of
from pipeline.images import PLANES_VARIABLE

TITLES = {
    "thickness": "(a) cartilage thickness",
    "bone_shape": "(b) bone shape",
    "t2": "(c) cartilage T2",
    "bone_thickness": "(d) cartilage and bone",
    "thickness_t2": "(e) morphology and composition of cartilage",
    "all_biomarkers": "(f) all biomarkers",
}

CHANNEL_TITLES = {
    "bone_shape": "bone",
    "cartilage_thickness": "thickness",
    "t2_deep": "deep T2",
    "t2_superficial": "superficial T2",
    "t2_mean": "mean T2",
    None: "empty",
}


def example_knee(lake: Lake, timepoint: str, bone: Bone = "femur") -> str | None:
    """The knee-visit to show: the first by name of those with T2, else of all; None without any."""
    found = lake.sql(
        "SELECT knee_visit FROM image_index WHERE timepoint = $timepoint AND bone = $bone "
        "ORDER BY has_t2 DESC, knee_visit LIMIT 1",
        {"timepoint": timepoint, "bone": bone},
    )
    return found["knee_visit"][0] if len(found) else None


def knee_planes(lake: Lake, knee_visit: str, bone: Bone) -> NDArray[np.uint8]:
    """The 8-bit planes of one knee's bone, in the order of `PLANES`, shape (5, n_phi, n_theta).

    Raises:
        LakeError: the knee-visit has no images of the bone.
    """
    rows = lake.sql(
        "SELECT part, row FROM image_index WHERE knee_visit = $knee_visit AND bone = $bone",
        {"knee_visit": knee_visit, "bone": bone},
    ).to_dicts()
    if not rows:
        raise LakeError(f"there are no images of the {bone} of {knee_visit}; materialize images")
    places = [(row["part"], int(row["row"])) for row in rows]
    return np.asarray(read_rows(lake.root, PLANES_VARIABLE, places)[0], dtype=np.uint8)


def strategies_figure(lake: Lake, knee_visit: str, bone: Bone = "femur", *, dpi: int = 60) -> bytes:
    """The six merged images of one knee's bone as a network is given them; PNG bytes.

    Raises:
        LakeError: the knee-visit has no images.
    """
    planes = knee_planes(lake, knee_visit, bone)[None]
    figure = blank_figure(9.6, 6.8)
    figure.suptitle(f"{knee_visit}, {bone}: red, green, blue channel (Fig. 4)")
    axes = figure.subplots(2, 3)
    for axis, strategy in zip(axes.flat, STRATEGIES, strict=True):
        merged = np.moveaxis(merge(planes, strategy)[0], 0, -1)
        axis.imshow(merged, origin="lower", interpolation="nearest")
        axis.set_title(TITLES[strategy], fontsize=9)
        channels = ", ".join(CHANNEL_TITLES[channel] for channel in channels_of(strategy))
        axis.set_xlabel(channels, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    return png_of(figure, dpi)
