"""Fine-tuning from a resident bank against a loader that reads PNGs, as the authors' code does.

Here, on a CPU and one thread, reduced: what the layout and bfloat16 are worth where computing is
all. What the loader costs shows on a GPU, whose script is `peer_scripts/training_rates.py`: see its
docstring. A GPU was not at hand when this was written; no GPU number is claimed.
"""

import numpy as np

from benchmarks.peers import run_peer

RUNS = ((18, 48, 16, 2), (50, 24, 12, 2))
"""Depth, images, batch, rounds."""
WORKERS = 0
"""On one thread a worker would only take turns with the training."""


def run() -> None:
    print("CPU, one thread; the faster of the rounds of each, in turns.\n")
    print("| network | kneelake, images per CPU s | PNG loader | times as fast |")
    print("|---|---|---|---|")
    for depth, images, batch, rounds in RUNS:
        settings = np.array([depth, images, batch, WORKERS, rounds])
        found = run_peer("gradcam", "training_rates.py", {"settings": settings})
        (_, ours), (_, peer) = found["rates"]
        print(f"| ResNet{depth} | {ours:.1f} | {peer:.1f} | {ours / peer:.2f} |")
    print("\nOn a GPU: python benchmarks/peer_scripts/training_rates.py --device cuda --depth 50 ")
    print("--images 4029, and --depth 18; add --compile. None was lent for this run.")


if __name__ == "__main__":
    run()
