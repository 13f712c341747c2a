"""Sanity checks of one classifier's Grad-CAM on knees of the lake, and their figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from lake.errors import LakeError
from lake.store import Lake
from models.cam_sanity import (
    PerturbationCurves,
    Randomization,
    cascading_randomization,
    contrast,
    fresh_network,
    perturbation_curves,
    similarity,
)
from models.checkpoint import load_checkpoint
from models.gradcam import class_maps
from models.initialization import Initialization
from models.normalization import ChannelNormalization
from models.training import Split, TrainingData, train
from models.training_config import TrainingConfig
from pipeline.figures import blank_figure, png_of
from pipeline.images import open_bank
from pipeline.model_data import Model, labelled_images, model_rows

if TYPE_CHECKING:
    import torch

    from models.bank import ImageBank


@dataclass(frozen=True)
class SanityOptions:
    """What is checked, and on how much.

    Attributes:
        bone: of the chronic-pain model checked.
        strategy: of it.
        n_knees: test knees looked at, at most.
        n_training: knees the two comparison networks are trained on, at most.
        epochs: of those trainings.
        seed: of fresh weights, permuted labels and shuffled orders.
    """

    bone: Bone = "femur"
    strategy: str = "all_biomarkers"
    n_knees: int = 24
    n_training: int = 400
    epochs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_knees, self.n_training, self.epochs) < 1:
            raise ValueError("n_knees, n_training and epochs have to be 1 or more")


@dataclass(frozen=True, eq=False)
class SanityReport:
    """What came of it.

    Attributes:
        knee_visits: looked at.
        randomization: of weights, head first.
        permuted_labels: Spearman with the maps of a network trained on permuted labels, (n,).
        other_seed: Spearman between two networks trained on the true labels from other weights and
            another order: what a map's own instability amounts to, (n,). The permuted network is
            compared with the first of these, trained alike.
        curves: deletion and insertion.
    """

    knee_visits: tuple[str, ...]
    randomization: Randomization
    permuted_labels: NDArray[np.float64]
    other_seed: NDArray[np.float64]
    curves: PerturbationCurves

    @property
    def numbers(self) -> dict[str, float]:
        """Means over the knees, for people."""
        by_stage = {
            f"spearman_randomized_to_{stage}": float(np.nanmean(row))
            for stage, row in zip(
                self.randomization.stages[1:], self.randomization.spearman[1:], strict=True
            )
            if not np.isnan(row).all()
        }
        others = {
            f"spearman_{name}": float(np.nanmean(values))
            for name, values in (
                ("permuted_labels", self.permuted_labels),
                ("other_seed", self.other_seed),
            )
            if not np.isnan(values).all()
        }
        areas = {f"area_{name}": value for name, value in self.curves.areas().items()}
        return {**by_stage, **others, **areas}


def check_cams(lake: Lake, options: SanityOptions | None = None) -> SanityReport:
    """Run the three checks on a chronic-pain classifier in use.

    Args:
        lake: with classifiers and images.
        options: what and how much.

    Raises:
        LakeError: no such classifier, or no test knee with its images.
        ModelError: a network that cannot be explained, or a training split of one class.
    """
    options = options or SanityOptions()
    found = lake.sql(
        "SELECT path, checkpoint_hash FROM classifiers WHERE task = 'chronic_pain' "
        "AND bone = $bone AND strategy = $strategy",
        {"bone": options.bone, "strategy": options.strategy},
    ).to_dicts()
    if not found:
        raise LakeError(
            f"there is no chronic-pain classifier of the {options.bone} with {options.strategy} "
            "yet; materialize pain_classifiers"
        )
    names = _test_knees(lake, options)
    if not names:
        raise LakeError(f"no knee of the test split has {options.bone} images yet")
    network, metadata = load_checkpoint(
        lake.root / found[0]["path"], expected_hash=found[0]["checkpoint_hash"]
    )
    normalization = ChannelNormalization(
        **{name: tuple(metadata.normalization[name]) for name in ("mean", "sd")}
    )
    model = Model("chronic_pain", options.bone, options.strategy)
    rows = model_rows(labelled_images(lake, model.task), model)
    bank = open_bank(lake, options.bone, [*rows.knee_visits, *names])
    images = bank.batch(bank.rows_of(names), options.strategy, normalization=normalization)
    infill = _mean_image(bank, rows.n_training, options.strategy, normalization)
    config = TrainingConfig(network=metadata.network, **_known(metadata.config))
    is_case = np.array(rows.is_case, dtype=bool)
    rng = np.random.default_rng(options.seed)
    chosen = _subset(rows.n_training, options.n_training, rng)
    validation = np.arange(rows.n_training, len(rows.knee_visits))

    def maps_of(labels: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        data = TrainingData(
            bank,
            options.strategy,
            Split(chosen, labels[chosen]),
            Split(validation, labels[validation]),
        )
        short = config.changed(
            initialization="random",
            trained="all",
            max_epochs=options.epochs,
            patience=options.epochs,
            seed=seed,
        )
        trained = train(data, short, initialization=Initialization())
        own = bank.batch(bank.rows_of(names), options.strategy, normalization=trained.normalization)
        return contrast(class_maps(trained.network, own))

    permuted = is_case.copy()
    # Within each split, so that both keep their cases.
    permuted[chosen] = rng.permutation(permuted[chosen])
    permuted[validation] = rng.permutation(permuted[validation])
    first = maps_of(is_case, options.seed)
    return SanityReport(
        names,
        cascading_randomization(network, images, fresh_network(network, options.seed)),
        similarity(first, maps_of(permuted, options.seed)),
        similarity(first, maps_of(is_case, options.seed + 1)),
        perturbation_curves(network, images, infill, seed=options.seed),
    )


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of a training that a shorter one shares."""
    names = ("learning_rate", "weight_decay", "batch_size", "class_weights", "precision")
    return {name: config[name] for name in names if name in config}


def _test_knees(lake: Lake, options: SanityOptions) -> tuple[str, ...]:
    """Test knees with all maps the strategy needs, evenly over cases and controls, by name."""
    rows = lake.sql(
        "SELECT knee_visit FROM (SELECT knee_visit, row_number() OVER "
        "(PARTITION BY is_case ORDER BY knee_visit) AS place FROM cam_locations "
        "WHERE task = 'chronic_pain' AND bone = $bone AND strategy = $strategy "
        "AND split = 'test') ORDER BY place, knee_visit LIMIT $n",
        {"bone": options.bone, "strategy": options.strategy, "n": options.n_knees},
    )
    return tuple(sorted(rows["knee_visit"]))


def _subset(n: int, at_most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(n)[:at_most]).astype(np.int64)


def _mean_image(
    bank: "ImageBank", n_training: int, strategy: str, normalization: ChannelNormalization
) -> "torch.Tensor":
    """Mean of the training images, in steps that fit into memory."""
    total = None
    for first in range(0, n_training, 64):
        rows = range(first, min(first + 64, n_training))
        images = bank.batch(rows, strategy, normalization=normalization).double().sum(dim=0)
        total = images if total is None else total + images
    assert total is not None  # noqa: S101 - model_rows has at least one
    return (total / n_training).float()


def sanity_figure(report: SanityReport, *, title: str, dpi: int = 80) -> bytes:
    """Similarity under randomisation, and deletion and insertion beside their shuffled orders."""
    figure = blank_figure(12.0, 3.6)
    figure.suptitle(title)
    left, middle, right = figure.subplots(1, 3)
    stages = [*report.randomization.stages, "labels", "seed"]
    values = [*report.randomization.spearman, report.permuted_labels, report.other_seed]
    positions = np.arange(len(stages))
    left.axhline(0.0, color="0.7", lw=0.8)
    for position, row in zip(positions, values, strict=True):
        left.plot(np.full(len(row), position), row, ".", color="#2c6aa0", alpha=0.3, ms=4)
        if not np.isnan(row).all():
            left.plot([position - 0.3, position + 0.3], [np.nanmean(row)] * 2, color="#b2452f")
    left.set_xticks(positions, stages, rotation=45, ha="right", fontsize=8)
    left.set_ylabel("Spearman with the trained map")
    left.set_title("weights randomised down to; labels; seed", fontsize=9)
    for axis, kind in ((middle, "deletion"), (right, "insertion")):
        for name, label, colour in (
            (kind, "by the map", "#b2452f"),
            (f"{kind}_random", "cells shuffled", "0.5"),
        ):
            curves = getattr(report.curves, name)
            axis.plot(report.curves.fractions, curves.mean(axis=0), color=colour, label=label)
        axis.set_ylim(0, 1)
        axis.set_xlabel("share of pixels")
        axis.set_title(f"{kind}: probability of the predicted class", fontsize=9)
    middle.legend(fontsize=8)
    return png_of(figure, dpi)


def write_sanity(report: SanityReport, folder: Path, *, title: str) -> dict[str, Path]:
    """The figure (PNG) and the numbers (CSV) as files.

    Returns:
        the files by what they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, csv = folder / "cam_sanity.png", folder / "cam_sanity.csv"
    png.write_bytes(sanity_figure(report, title=title))
    lines = ["measure,value", *(f"{name},{value:.6f}" for name, value in report.numbers.items())]
    csv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"figure": png, "numbers": csv}
