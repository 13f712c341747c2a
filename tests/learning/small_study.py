"""Tables, drawn maps, images and classifiers of a small study, as the pipeline lands them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.resources import LakeSnapshot
from imaging.labels import BONES
from lake.keys import STRATEGIES
from lake.store import Lake
from models.checkpoint import CheckpointMetadata, store_checkpoint
from models.classifier import NetworkConfig, build_network, seeded
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.config import Settings
from pipeline.drawn_maps import DrawingPlan, land_drawn_maps
from pipeline.images import materialize_images
from pipeline.map_ranges import fit_map_ranges

NETWORK = NetworkConfig("resnet18", 1 / 16)
SEED = 1
VISITS = ("V00", "V01")
SPLIT_RULE = f"42|{4029 / 7437}|{1257 / 7437}"
"""Of the paper's shares, as `cohort_parameters` has them."""


@dataclass(frozen=True)
class SmallStudy:
    """A lake and its settings."""

    lake: Lake
    settings: Settings

    def read(self, query: str, **values: Any) -> pl.DataFrame:
        """A query on views that are made once per state of the lake, since making them is slow."""
        return LakeSnapshot(self.lake.root).sql(query, values or None)


def small_study(
    root: Path,
    people: int = 40,
    knees: int = 6,
    strategies: Sequence[str] = STRATEGIES,
    bones: Sequence[str] = BONES,
) -> SmallStudy:
    """People, `knees` of them drawn per visit, and a network with random weights per model."""
    lake = Lake(root)
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(people, seed=SEED)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    for timepoint in VISITS:
        land_drawn_maps(lake, DrawingPlan(SEED), timepoint=timepoint, limit=knees)
    ranges_id = fit_map_ranges(lake).ranges_id
    for timepoint in VISITS:
        materialize_images(lake, timepoint)
    for strategy in strategies:
        for bone in bones:
            add_classifier(lake, "chronic_pain", bone, strategy, ranges_id)
    return SmallStudy(lake, Settings(lake_root=root, device="cpu"))


def add_classifier(
    lake: Lake, task: str, bone: str, strategy: str, ranges_id: str, seed: int = 0
) -> str:
    """A network with random weights as the model in use; its checkpoint's hash."""
    import torch

    with seeded(seed):
        network = build_network(NETWORK)
        torch.nn.init.normal_(network.fc.bias)
    metadata = CheckpointMetadata(
        network=NETWORK,
        task=task,
        bone=bone,
        strategy=strategy,
        normalization={"mean": [0.485, 0.456, 0.406], "sd": [0.229, 0.224, 0.225]},
        ranges_id=ranges_id,
        data_hash="d",
        seed=seed,
        config={},
        best_epoch=1,
        metrics={},
        code_version="1",
    )
    path = store_checkpoint(lake.root / "models" / task / bone / strategy, network, metadata)
    place = path.relative_to(lake.root).as_posix()
    row = classifier_row(task, bone, strategy, path.stem, place, ranges_id, seed)
    with lake.batch("classifiers", "all", "1", "c") as batch:
        batch.add("classifiers", [row])
    return path.stem


def classifier_row(
    task: str,
    bone: str,
    strategy: str,
    checkpoint_hash: str,
    path: str = "",
    ranges_id: str = "r",
    seed: int = 0,
) -> dict[str, Any]:
    """A row of `classifiers`."""
    return {
        "task": task,
        "bone": bone,
        "strategy": strategy,
        "checkpoint_hash": checkpoint_hash,
        "path": path,
        "architecture": NETWORK.architecture,
        "width": NETWORK.width,
        "initialization": "random",
        "initialized_from": "",
        "config": "{}",
        "config_hash": "c",
        "data_hash": "d",
        "input_fingerprint": "f",
        "ranges_id": ranges_id,
        "split_rule": SPLIT_RULE,
        "seed": seed,
        "n_training": 1,
        "n_validation": 1,
        "n_left_out": 0,
        "n_epochs": 1,
        "best_epoch": 1,
        "stopped_early": False,
        "batch_size": 16,
        "auc_variation_percent": 0.0,
        "val_loss": 0.7,
        "val_sensitivity": 0.5,
        "val_specificity": 0.5,
        "val_auc": 0.5,
        "val_mcc": 0.0,
        "notes": "[]",
        "code_version": "1",
        "seconds": 1.0,
    }
