"""Does the DL-guided average of a trained network add what it should, and only then?

`python -m benchmarks guided_learning`. Networks are trained on drawn knees (one knee per person),
and the averages of held-out knees tested as in Table 3: compartment averages, then with the
DL-guided average, once for each class whose Grad-CAM may weight it. Pain depends on

1. thinning at a place of each knee's own, which compartment averages dilute;
2. the medial compartment's average itself, so that nothing else of the knee can add to it;
3. nothing.

The test needs its knees held out: the network never saw their labels, so in 2 and 3 its Grad-CAM
knows nothing of pain that the base model does not. Beside each test stand the two controls that a
network's verdict cannot pass: Grad-CAM of another knee, and the average added to the network's own
logit as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.drawn_images import draw_images, split_rows
from benchmarks.learning import auc_of
from models.bank import ImageBank
from models.cam_cells import CellSums, cell_sums, guided_average, rectified_cells
from models.folding import folded
from models.gradcam import TARGETS, gradient_cam, target_of
from models.prediction import predict
from models.training import Split, TrainingData, TrainingResult, train
from models.training_config import preset
from phantom.map_cohort import DrawnMaps, PlantedEffect
from phantom.planted_pain import PainModel
from phantom.reference_surface import reference_bone
from stats.logit import NestedLogit, nested_logit
from stats.source import load_macros

N_KNEES = 3000
BONE, STRATEGY = "femur", "thickness"
OWN_PLACE = PlantedEffect(thinning_mm=1.0, t2_ms=0.0, bump_mm=0.0, severity=0.0, knee_specific=True)
NOTHING = PlantedEffect(0.0, 0.0, 0.0, 0.0)
SLOPE = 1.5
"""Log odds of pain per SD of the medial average, thinner being worse."""
FINER = "layer2"
"""A block with cells a quarter as wide, whose maps need HiResCAM to be faithful."""
COMPARTMENTS = ("medial", "lateral")

Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Drawn knees: images, thickness maps of the test split, and who has pain.

    Attributes:
        bank: images of all.
        is_case: shape (n,).
        averages: medial and lateral thickness, mm, shape (n, 2).
        thickness: of the test split, shape (n_test, 224, 224).
        splits: rows by name.
    """

    bank: ImageBank
    is_case: NDArray[np.bool_]
    averages: NDArray[np.float64]
    thickness: Maps
    splits: dict[str, NDArray[np.int64]]


Pain = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.bool_]]
"""Who has pain, given the averages of all knees."""


def draw(effect: PlantedEffect, amplitude: NDArray[np.float64], pain_of: Pain, seed: int) -> Cohort:
    """Draw knees of given amplitudes, and their pain."""
    splits = split_rows(len(amplitude))
    medial = reference_bone(BONE).medial
    averages = np.empty((len(amplitude), 2))
    thickness = np.empty((len(splits["test"]), 224, 224), np.float32)

    def look(rows: slice, drawn: DrawnMaps) -> None:
        values = drawn.maps["cartilage_thickness"]
        averages[rows] = np.column_stack(
            [np.nanmean(values[:, part], axis=1) for part in (medial, ~medial)]
        )
        held_out = np.arange(rows.start, rows.stop) - splits["test"][0]
        thickness[held_out[held_out >= 0]] = values[held_out >= 0]

    bank = draw_images(BONE, amplitude, effect, seed, look)
    is_case = pain_of(averages, np.random.default_rng([seed, 9]))
    return Cohort(bank, is_case, averages, thickness, splits)


def by_place(separation: float) -> tuple[NDArray[np.float64], Pain]:
    """Amplitudes, and the pain they were drawn for."""
    model = PainModel(separation)
    rng = np.random.default_rng(3)
    is_case = rng.random(N_KNEES) < model.prevalence
    amplitude = model.amplitude(is_case.astype(float), rng.standard_normal(N_KNEES))
    return amplitude, lambda _averages, _rng: is_case


def by_average(averages: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Pain that depends on the medial average alone."""
    medial = averages[:, 0]
    chance = 1 / (1 + np.exp(0.8 + SLOPE * (medial - medial.mean()) / medial.std()))
    return rng.random(len(medial)) < chance


def trained(cohort: Cohort) -> TrainingResult:
    """A network of the demo's size that saw the training split."""
    config = preset("demo", "chronic_pain").changed(
        initialization="random", learning_rate=3e-3, max_epochs=10, patience=5
    )
    splits = {name: Split(rows, cohort.is_case[rows]) for name, rows in cohort.splits.items()}
    data = TrainingData(cohort.bank, STRATEGY, splits["training"], splits["validation"])
    return train(data, config)


def averages_of(cohort: Cohort, maps: Maps) -> tuple[list[float], list[float]]:
    """DL-guided averages of the test split's knees by their own map and by the next knee's."""
    cells = rectified_cells(maps)
    everywhere, alike = np.ones((1, 224, 224), bool), np.ones((224, 224))
    grid = cells.cells.shape[1:]
    sums = [cell_sums(values, everywhere, alike, grid)[0] for values in cohort.thickness]

    def average(of: CellSums, place: int) -> float:
        return guided_average(of, cells.cells[place], cells.lowest[place], cells.highest[place])

    n = len(sums)
    own = [average(sums[place], place) for place in range(n)]
    return own, [average(sums[place], (place + 1) % n) for place in range(n)]


def finer_maps(result: TrainingResult, cohort: Cohort) -> Maps:
    """HiResCAM of pain at the block FINER, of the test split."""
    network, rows = folded(result.network), cohort.splits["test"]
    found = []
    for first in range(0, len(rows), 32):
        some = rows[first : first + 32]
        images = cohort.bank.batch(some, STRATEGY, normalization=result.normalization)
        maps = gradient_cam(network, images, "pain", layer=FINER, method="hires_cam")
        found.append(maps.numpy())
    return np.concatenate(found)


def explained(cohort: Cohort) -> tuple[str, dict[str, pl.DataFrame]]:
    """What the network reached, and a row per held-out knee by the map that weights its average."""
    result, test = trained(cohort), cohort.splits["test"]
    found = predict(result.network, cohort.bank, test, STRATEGY, normalization=result.normalization)
    common = {
        "pain": cohort.is_case[test].astype(int),
        "medial": cohort.averages[test, 0],
        "lateral": cohort.averages[test, 1],
        "logit": found.logits[:, 1] - found.logits[:, 0],
    }
    maps = found.maps.astype(np.float32)
    weights = {target: target_of(maps, target, found.logits) for target in TARGETS}
    weights[f"pain, HiResCAM of {FINER}"] = finer_maps(result, cohort)
    frames = {}
    for name, of_target in weights.items():
        own, of_another = averages_of(cohort, of_target)
        frame = pl.DataFrame(common | {"dl_guided": own, "dl_guided_of_another": of_another})
        frames[name] = frame.fill_nan(None).drop_nulls()
    auc = auc_of(found.probability, cohort.is_case[test])
    return f"AUC {auc:.3f} on {len(test)} held-out knees", frames


def compared(rows: pl.DataFrame, base: tuple[str, ...], add: str) -> NestedLogit:
    """Does a column add to others?"""
    with duckdb.connect() as connection:
        load_macros(connection)
        connection.register("rows", rows.to_arrow())
        return nested_logit(connection, "rows", "pain", base, (add,))


def print_tests(pain: str, frames: dict[str, pl.DataFrame]) -> None:
    """A line for each kind of weights."""
    for weights, rows in frames.items():
        main = compared(rows, COMPARTMENTS, "dl_guided")
        another = compared(rows, COMPARTMENTS, "dl_guided_of_another")
        given_logit = compared(rows, (*COMPARTMENTS, "logit"), "dl_guided")
        term = main.full.terms[-1]
        print(
            f"| {pain} | {weights} | {rows.height} | {term.estimate:.2f} ({term.se:.2f}) "
            f"| {main.lrt.chi2:.1f} | {main.lrt.p:.2g} | {another.lrt.p:.2g} "
            f"| {given_logit.lrt.p:.2g} |"
        )


def run() -> None:
    import torch

    torch.set_num_threads(1)
    placed, unrelated = by_place(2.0), by_place(0.0)
    cohorts = (
        ("a place of each knee's own", OWN_PLACE, *placed),
        ("the medial average", NOTHING, np.zeros(N_KNEES), by_average),
        ("nothing", OWN_PLACE, *unrelated),
    )
    found = {}
    for name, effect, amplitude, pain_of in cohorts:
        reached, found[name] = explained(draw(effect, amplitude, pain_of, seed=5))
        print(f"pain depends on {name}: {reached}", flush=True)
    print(
        "\n| pain depends on | Grad-CAM of | n | estimate (SE) per mm | LR chi2 | p "
        "| p, another knee's map | p, given the logit |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, frames in found.items():
        print_tests(name, frames)
