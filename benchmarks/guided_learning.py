"""Does the DL-guided average of a trained network add what it should, and only then?

`python -m benchmarks guided_learning`. Networks are trained on drawn knees (one knee per person),
and the averages of held-out knees tested as in Table 3: compartment averages, then with the
DL-guided average. Pain depends on

1. thinning at a place of each knee's own, which compartment averages dilute;
2. the medial compartment's average itself, so that nothing else of the knee can add to it;
3. nothing.

The test needs its knees held out: the network never saw their labels, so in 2 and 3 its Grad-CAM
knows nothing of pain that the base model does not. In 1 two tests are printed that have to fail or
weaken: Grad-CAM of other knees, and the average added to the network's own logit as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.learning import DRAWN_AT_ONCE, SHARES, auc_of
from models.bank import ImageBank
from models.cam_cells import CellSums, cell_sums, guided_average, rectified_cells
from models.gradcam import target_of
from models.normalization import MapRange, to_levels
from models.prediction import predict
from models.strategies import PLANES
from models.training import Split, TrainingData, train
from models.training_config import preset
from phantom.map_cohort import DrawnKnee, PlantedEffect, draw_maps
from phantom.planted_pain import PainModel
from phantom.reference_surface import reference_bone
from stats.logit import nested_logit
from stats.source import load_macros

N_KNEES = 3000
BONE, STRATEGY = "femur", "thickness"
OWN_PLACE = PlantedEffect(thinning_mm=1.0, t2_ms=0.0, bump_mm=0.0, severity=0.0, knee_specific=True)
NOTHING = PlantedEffect(0.0, 0.0, 0.0, 0.0)
SLOPE = 1.5
"""Log odds of pain per SD of the medial average, thinner being worse."""


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
    thickness: NDArray[np.float32]
    splits: dict[str, NDArray[np.int64]]


Pain = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.bool_]]
"""Who has pain, given the averages of all knees."""


def draw(effect: PlantedEffect, amplitude: NDArray[np.float64], pain_of: Pain, seed: int) -> Cohort:
    """Draw knees of given amplitudes, and their pain."""
    import torch

    n = len(amplitude)
    knees = [DrawnKnee(1_000_001 + row, "RIGHT", "V00", float(amplitude[row])) for row in range(n)]
    cuts = np.cumsum([round(share * n) for share in SHARES])
    names = ("training", "validation", "test")
    splits = dict(zip(names, np.split(np.arange(n), cuts), strict=True))
    medial = reference_bone(BONE).medial
    planes = np.empty((n, len(PLANES), 224, 224), np.uint8)
    averages = np.empty((n, 2))
    thickness = np.empty((len(splits["test"]), 224, 224), np.float32)
    ranges: dict[str, MapRange] = {}
    for first in range(0, n, DRAWN_AT_ONCE):
        drawn = draw_maps(seed, knees[first : first + DRAWN_AT_ONCE], BONE, effect)
        rows = slice(first, first + DRAWN_AT_ONCE)
        for place, plane in enumerate(PLANES):
            values = drawn.maps[plane]
            if plane not in ranges:
                ranges[plane] = MapRange(float(np.nanmin(values)), float(np.nanmax(values)))
            planes[rows, place] = to_levels(values, ranges[plane])
        values = drawn.maps["cartilage_thickness"]
        averages[rows] = np.column_stack(
            [np.nanmean(values[:, part], axis=1) for part in (medial, ~medial)]
        )
        held_out = np.arange(n)[rows] - splits["test"][0]
        thickness[held_out[held_out >= 0]] = values[held_out >= 0]
    is_case = pain_of(averages, np.random.default_rng([seed, 9]))
    bank = ImageBank(BONE, tuple(knee.knee_visit for knee in knees), torch.from_numpy(planes))
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


def explained(cohort: Cohort) -> pl.DataFrame:
    """A row per held-out knee: pain, averages, the network's logit, DL-guided averages."""
    config = preset("demo", "chronic_pain").changed(
        initialization="random", learning_rate=3e-3, max_epochs=10, patience=5
    )
    splits = {name: Split(rows, cohort.is_case[rows]) for name, rows in cohort.splits.items()}
    result = train(
        TrainingData(cohort.bank, STRATEGY, splits["training"], splits["validation"]), config
    )
    test = splits["test"]
    found = predict(
        result.network, cohort.bank, test.rows, STRATEGY, normalization=result.normalization
    )
    cells = rectified_cells(target_of(found.maps.astype(np.float32), "pain"))
    everywhere = np.ones((224, 224), bool)
    grid = cells.cells.shape[1:]
    sums = [cell_sums(values, everywhere, np.ones((224, 224)), grid) for values in cohort.thickness]

    def average(of: CellSums, place: int) -> float:
        return guided_average(of, cells.cells[place], cells.lowest[place], cells.highest[place])

    n = len(test.rows)
    frame = pl.DataFrame(
        {
            "pain": test.is_case.astype(int),
            "medial": cohort.averages[test.rows, 0],
            "lateral": cohort.averages[test.rows, 1],
            "logit": found.logits[:, 1] - found.logits[:, 0],
            "dl_guided": [average(sums[place], place) for place in range(n)],
            "dl_guided_of_another": [average(sums[place], (place + 1) % n) for place in range(n)],
        }
    )
    auc = auc_of(found.probability, test.is_case)
    usable = frame.fill_nan(None).drop_nulls()
    print(f"AUC {auc:.3f} on {n} held-out knees; {usable.height} have a Grad-CAM for pain")
    return usable


def print_comparison(rows: pl.DataFrame, name: str, base: tuple[str, ...], add: str) -> None:
    """Print one comparison."""
    with duckdb.connect() as connection:
        load_macros(connection)
        connection.register("rows", rows.to_arrow())
        found = nested_logit(connection, "rows", "pain", base, (add,))
    term = found.full.terms[-1]
    print(
        f"| {name} | {' + '.join(base)} | {add} | {found.lrt.chi2:.2f} "
        f"| {found.lrt.p:.2g} | {term.estimate:.2f} ({term.se:.2f}) |"
    )


def run() -> None:
    import torch

    torch.set_num_threads(1)
    base = ("medial", "lateral")
    placed = by_place(2.0)
    unrelated = by_place(0.0)
    cohorts = (
        ("a place of each knee's own", OWN_PLACE, *placed),
        ("the medial average", NOTHING, np.zeros(N_KNEES), by_average),
        ("nothing", OWN_PLACE, *unrelated),
    )
    rows = []
    for name, effect, amplitude, pain_of in cohorts:
        print(f"pain depends on {name}: ", end="", flush=True)
        rows.append((name, explained(draw(effect, amplitude, pain_of, seed=5))))
    print("\n| pain depends on | base | added | LR chi2 | p | estimate (SE) per mm |")
    print("|---|---|---|---|---|---|")
    for name, frame in rows:
        print_comparison(frame, name, base, "dl_guided")
        print_comparison(frame, name, base, "dl_guided_of_another")
        print_comparison(frame, name, (*base, "logit"), "dl_guided")
