"""The segmentation ensembles on phantoms: Dice and point-to-surface distance of people not seen.

Reduced networks at coarse voxels, since eleven V-Nets take a GPU: what is shown is that the code
learns and what it costs, not how well the paper's networks do. `python -m benchmarks.segmentation
full` instead measures one V-Net over one full-size volume.
"""

import dataclasses
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imaging.label_files import write_labels
from lake.store import Lake
from models.segmentation_inference import (
    InferenceOptions,
    Network,
    ensemble_probabilities,
    most_probable,
)
from models.segmentation_training import TrainingOptions
from models.vnet import Member, build_network, paper_members
from phantom.dicom_writer import Visit, write_series
from phantom.images import dess_image
from phantom.knee import knee_truth
from phantom.raster import Grid, labels_of, place_grid, rasterise
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.network_labels import open_segmenter
from pipeline.segmentation_evaluation import evaluate_networks
from pipeline.segmentation_networks import network_plan, train_networks

GRID = Grid((56, 128, 128), (2.0, 1.1, 1.1))
N_KNEES = 10
SPACING_MM = (2.0, 1.6, 1.6)


def _deliver(inbox: Path) -> None:
    (inbox / "segmentations").mkdir(parents=True)
    for number in range(N_KNEES):
        subject_id = 1_000_001 + 37 * number
        truth = knee_truth(3, subject_id, "RIGHT", "V00")
        raster = rasterise(truth, place_grid(truth, GRID), GRID.shape, with_t2=True)
        visit = Visit(3, subject_id, "RIGHT", "V00")
        write_series(
            inbox / str(subject_id) / visit.date, visit, "DESS", dess_image(truth, raster), "folder"
        )
        labels = inbox / "segmentations" / f"{subject_id}_RIGHT_V00.nrrd"
        write_labels(labels_of(raster), labels)


def run() -> None:
    """Train the eleven reduced networks on phantoms and print Table S1 of the test people."""
    import torch

    torch.set_num_threads(1)
    plan = dataclasses.replace(
        network_plan("demo"),
        members=paper_members("reduced"),
        shares=(0.6, 0.1),
        options=TrainingOptions(
            steps=int(os.environ.get("KNEELAKE_BENCH_STEPS", "150")),
            patch=(32, 48, 48),
            patch_2d=(64, 64),
            batch=2,
            batch_2d=6,
            learning_rate=3e-3,
            validate_every=75,
            spacing_mm=SPACING_MM,
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(lake_root=Path(folder) / "lake", inbox=Path(folder) / "inbox")
        _deliver(settings.inbox)
        lake = Lake(settings.lake_root)
        ingest(lake, settings)
        start = time.process_time()
        report = train_networks(lake, settings, plan, cluster=Cluster())
        trained = time.process_time() - start
        print(f"{N_KNEES} phantom knees {dict(report.n_by_split)}, networks at {SPACING_MM} mm, "
              f"{plan.options.steps} steps each, {trained:.0f} CPU s")  # fmt: skip
        for row in lake.sql("FROM segmentation_networks ORDER BY task, member").to_dicts():
            print(f"  {row['member']:38s} validation Dice {row['validation_dice']:.3f}")
        start = time.process_time()
        segmenter = open_segmenter("ensemble", lake)
        evaluated = evaluate_networks(lake, settings, segmenter)  # type: ignore[arg-type]
        cost = (time.process_time() - start) / evaluated.n_cases
        print(f"\nensembles on {evaluated.n_cases} test knees, {cost:.1f} CPU s each\n")
        print("| tissue | DSC (95 % CI) | MPTS mm (95 % CI) | voxel edges mm |\n|---|---|---|---|")
        for row in lake.sql("FROM segmentation_performance ORDER BY tissue").to_dicts():
            cells = [_cell(row, name) for name in ("dice", "mpts_mm", "mpts_voxel_mm")]
            print(f"| {row['tissue']} | {' | '.join(cells)} |")


def _cell(row: Mapping[str, float | None], name: str) -> str:
    mean, low, high = (row[f"{name}_{part}"] for part in ("mean", "low", "high"))
    return "not found" if mean is None else f"{mean:.3f} ({low:.3f}, {high:.3f})"


def full_size() -> None:
    """One 3-D V-Net over one OAI volume: time and memory."""
    import torch

    torch.set_num_threads(1)
    member = Member("bone", 3, "dice")
    network = Network(member, build_network(member).eval())
    image = np.random.default_rng(0).normal(size=(160, 384, 384)).astype(np.float32)
    start = time.process_time()
    share = ensemble_probabilities(image, [network], InferenceOptions(precision="bfloat16"))
    most_probable(share, image.shape)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"160 x 384 x 384, one 3-D V-Net, bfloat16, one thread: "
          f"{time.process_time() - start:.0f} CPU s, peak {peak_gib:.2f} GiB resident")  # fmt: skip


if __name__ == "__main__":
    full_size() if "full" in sys.argv else run()
