"""What a classifier is trained on: knee-visits, labels, splits, images and first weights.

Here: reading them from the lake, and refusing what would let a model see whom it is tested on.
Not here: training (`pipeline.classifiers`, `pipeline.sweep`).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from imaging.labels import BONES, Bone
from lake.keys import STRATEGIES
from lake.store import Lake
from models.checkpoint import require_hash
from models.errors import CheckpointError, ModelError
from models.initialization import Initialization, require_pretrained
from models.training import Split, TrainingData
from models.training_config import TrainingConfig
from pipeline.config import Settings

if TYPE_CHECKING:
    from models.bank import ImageBank

TaskName = Literal["oa", "chronic_pain"]


@dataclass(frozen=True)
class Model:
    """Which classifier.

    Attributes:
        task: 'oa' or 'chronic_pain'.
        bone, strategy: what it sees.
    """

    task: TaskName
    bone: Bone
    strategy: str

    @property
    def name(self) -> str:
        """For people and messages."""
        return f"{self.task} {self.bone} {self.strategy}"

    @property
    def folder(self) -> str:
        """Of its checkpoints, relative to the lake's root."""
        return f"models/{self.task}/{self.bone}/{self.strategy}"


ALL_MODELS: tuple[tuple[Bone, str], ...] = tuple(product(BONES, STRATEGIES))
"""Bone and strategy of the paper's 18."""


@dataclass(frozen=True, eq=False)
class ModelRows:
    """The knee-visits of a model.

    Attributes:
        knee_visits: of the training and the validation split, sorted within each.
        is_case: by knee-visit.
        n_training: how many are of the training split; they come first.
        n_left_out: knee-visits of both splits without a map that the strategy needs.
        ranges_id: the set of `map_ranges` the images were scaled with.
        split_rule: seed and shares of the split.
        data_hash: of all this and of the images.
    """

    knee_visits: tuple[str, ...]
    is_case: tuple[bool, ...]
    n_training: int
    n_left_out: int
    ranges_id: str
    split_rule: str
    data_hash: str


def chosen_device(settings: Settings) -> str:
    """'cuda' where the settings allow it and there is one, else 'cpu'."""
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("KNEELAKE_DEVICE is cuda, but torch finds no GPU; use cpu or auto")
    return settings.device


def require_no_leak(lake: Lake, task: TaskName) -> None:
    """Refuse splits that would let a model see people it is tested on.

    Raises:
        ModelError: with how many participants, and one of them.
    """
    leaks = lake.sql(
        "SELECT training.subject_id FROM model_cases AS training "
        "JOIN model_cases AS held_out USING (subject_id) "
        "WHERE training.model = $task AND training.split IN ('training', 'validation') "
        "AND ((held_out.model = 'chronic_pain' AND held_out.split = 'test') "
        "OR (held_out.model = $task AND held_out.split <> training.split)) "
        "GROUP BY ALL ORDER BY 1",
        {"task": task},
    )["subject_id"]
    if len(leaks):
        raise ModelError(
            f"{len(leaks)} participants of the training of {task}, such as {leaks[0]}, are in "
            "another of its splits or in the test split of the pain models; a participant has one "
            "split (view `splits`)"
        )


def labelled_images(lake: Lake, task: TaskName) -> pl.DataFrame:
    """Rows of `model_images` in the training and validation splits of a task, in a fixed order."""
    return lake.sql(
        "SELECT * FROM model_images WHERE task = $task AND split IN ('training', 'validation') "
        "ORDER BY bone, split, knee_visit",
        {"task": task},
    )


def model_rows(images: pl.DataFrame, model: Model) -> ModelRows:
    """The knee-visits, labels and splits of a model, and their hash.

    Args:
        images: `labelled_images` of the model's task.
        model: which.

    Raises:
        ModelError: there are none, or they were scaled by more than one set of ranges.
    """
    rows = images.filter(pl.col("bone") == model.bone)
    if rows.is_empty():
        raise ModelError(
            f"there are no {model.bone} images of knee-visits with a label of {model.task}: "
            "materialize training_images, and the cohort, first"
        )
    usable = rows.filter(pl.col("has_t2")) if _needs_t2(model.strategy) else rows
    ranges = usable["ranges_id"].unique().sort().to_list()
    if len(ranges) != 1:
        raise ModelError(
            f"the images of {model.name} are of {len(ranges)} sets of map_ranges "
            f"({', '.join(ranges)}); materialize training_images, so that all are of one"
        )
    # A part is named for its content.
    stated = [model.name, usable.select("knee_visit", "is_case", "split", "part", "row").rows()]
    return ModelRows(
        tuple(usable["knee_visit"]),
        tuple(usable["is_case"]),
        int((usable["split"] == "training").sum()),
        len(rows) - len(usable),
        ranges[0],
        usable["split_rule"][0],
        hashlib.sha256(json.dumps(stated).encode()).hexdigest(),
    )


def _needs_t2(strategy: str) -> bool:
    from models.strategies import planes_of

    return any(plane.startswith("t2_") for plane in planes_of(strategy))


def initial_weights(
    lake: Lake,
    known: pl.DataFrame,
    settings: Settings,
    model: Model,
    config: TrainingConfig,
    rows: ModelRows,
) -> Initialization:
    """Where a model's initial weights lie; without a file where there are none.

    Args:
        lake: holds the checkpoints.
        known: its table `classifiers`.
        settings: say where ImageNet weights lie.
        model: to be trained.
        config: says what it begins with.
        rows: it is trained on.

    Raises:
        CheckpointError: the model to begin with is of another bone or strategy, has changed on
            disk, or was trained under another split, which held people that are tested now, or on
            images of another scale.
    """
    if config.initialization == "imagenet":
        return Initialization(
            "imagenet", settings.imagenet_weights.get(config.network.architecture)
        )
    if config.initialization == "random":
        return Initialization()
    found = known.filter(
        pl.col("task") == "oa",
        pl.col("bone") == model.bone,
        pl.col("strategy") == model.strategy,
        pl.col("architecture") == config.network.architecture,
        pl.col("width") == config.network.width,
    )
    if found.is_empty():
        return Initialization("oa", None)
    path = lake.root / found["path"][0]
    require_pretrained(path, task="oa", bone=model.bone, strategy=model.strategy)
    require_hash(path, found["checkpoint_hash"][0])
    for name, what in (
        ("split_rule", "under another split"),
        ("ranges_id", "with other map_ranges"),
    ):
        if found[name][0] != getattr(rows, name):
            raise CheckpointError(
                f"the network of oa {model.bone} {model.strategy} was trained {what} than "
                f"{model.name} would be ({found[name][0]}, not {getattr(rows, name)}); materialize "
                "oa_classifiers first"
            )
    return Initialization("oa", path)


def weights_fingerprint(initialization: Initialization) -> str:
    """Name and SHA-256 of the file a training begins with; '' where there is none."""
    file = initialization.file
    if file is None or not file.is_file():
        return ""
    known = file.stat()
    return f"{file.name}#{_digest(file, known.st_size, known.st_mtime_ns)}"


@lru_cache(maxsize=64)
def _digest(file: Path, _size: int, _changed_ns: int) -> str:
    """Of a file as it was: a search asks for the same one of every trial."""
    return require_hash(file, "")


def training_data(bank: "ImageBank", strategy: str, rows: ModelRows) -> TrainingData:
    """A model's splits as rows of a bank.

    Raises:
        ValueError: a knee-visit without images.
    """
    places = bank.rows_of(rows.knee_visits)
    is_case = np.array(rows.is_case, dtype=bool)
    n = rows.n_training
    return TrainingData(
        bank, strategy, Split(places[:n], is_case[:n]), Split(places[n:], is_case[n:])
    )


@lru_cache(maxsize=1)
def cached_bank(root: Path, bone: Bone, knee_visits: tuple[str, ...], device: str) -> "ImageBank":
    """A bone's images, kept for the next strategy of the same knee-visits."""
    from pipeline.images import open_bank

    return open_bank(Lake(root), bone, knee_visits, device=device)
