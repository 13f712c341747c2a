"""Grad-CAM at the last block: kneelake against pytorch-grad-cam, captum and MONAI.

Every tool runs in one process on one thread, on the same ResNet and images, in turns; the best of
the rounds counts. "As loaded" is the layout a network has when it is made, in which people call
these tools; "channels last" is how kneelake keeps networks and images, and what the others would
gain from it. A call of kneelake gives the maps of pain, of the predicted class and of pain less no
pain (and the logits), the others that of one target, so the time per map differs from the time per
image; both are shown, and what is left where only one of the three is wanted. pytorch-grad-cam
cannot be asked for less than the gradients of all weights. torchvision, which it imports but does
not need here, is let import without its compiled operators.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.peers import run_peer

NETWORKS = ((50, 1.0, 16, 3), (18, 0.25, 32, 3))
"""Depth, width, images per batch, rounds: the paper's network and the demo's."""
TARGETS = {"pytorch-grad-cam": 10.0, "captum": 3.0}
"""Times faster per map, against the tool as people call it."""
AGREEMENT = 1e-5
EXACT = ("kneelake unfolded", "kneelake by autograd", "pytorch-grad-cam", "captum", "monai")


class Measured(NamedTuple):
    """Seconds per image and per map, and the largest difference from ours of a single image."""

    per_image: float
    per_map: float
    gap: float


def measure(
    depth: int, width: float, n_images: int, rounds: int
) -> dict[tuple[str, str], Measured]:
    """By tool and layout."""
    settings = np.array([depth, width, n_images, rounds])
    found = run_peer("gradcam", "gradcam_rates.py", {"settings": settings})
    return {
        (str(tool), str(layout)): Measured(float(seconds), float(seconds / maps), float(gap))
        for tool, layout, seconds, maps, gap in zip(
            found["tools"],
            found["layouts"],
            found["seconds_per_image"],
            found["maps_per_image"],
            found["gap"],
            strict=True,
        )
    }


def run() -> None:
    for depth, width, n_images, rounds in NETWORKS:
        found = measure(depth, width, n_images, rounds)
        own = found["kneelake", "channels last"]
        fast = found["kneelake bfloat16", "channels last"]
        print(f"ResNet{depth}, width {width:g}, batches of {n_images}, CPU seconds, one thread")
        print(
            "| tool | layout | s per image | s per map | times ours per map "
            "| times ours bfloat16 | difference from ours |"
        )
        print("|---|---|---|---|---|---|---|")
        for (tool, layout), one in found.items():
            print(
                f"| {tool} | {layout} | {one.per_image:.4f} | {one.per_map:.4f} "
                f"| {one.per_map / own.per_map:.1f} | {one.per_map / fast.per_map:.1f} "
                f"| {one.gap:.1e} |"
            )
        for tool, factor in TARGETS.items():
            per_map = found[tool, "as loaded"].per_map / own.per_map
            per_image = found[tool, "as loaded"].per_image / own.per_image
            print(
                f"{tool} as loaded: {per_map:.1f}x per map (target {factor:g}x: "
                f"{_verdict(per_map >= factor)}), {per_image:.1f}x of one map an image"
            )
        agree = max(one.gap for (tool, _), one in found.items() if tool in EXACT)
        print(f"agreement of a single image {agree:.1e}: {_verdict(agree <= AGREEMENT)}\n")


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"
