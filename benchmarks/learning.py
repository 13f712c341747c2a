"""Does a classifier find what was planted, where it was planted, and nothing where nothing was?

1,500 and more knee-visits are drawn from the phantom's generative model, with pain tied to one
number per knee (the amplitude of a change in a known region), so that the best possible AUC is
known. Trained, predicted and explained with the code the lake uses; one knee per person, so rows
are independent. Then the same with labels permuted in all splits.

Where the evidence lies is asked of several maps, since they answer differently. A network may code
pain as something missing (thick cartilage speaks against pain; its absence is no evidence that lies
anywhere), so the raw pain map may miss the region while the no-pain map fills it. What a cell adds
beyond the average knee (`models.cam_views.relative_to`) does not depend on that coding. And some
regions draw mass with permuted labels as well: a map means something beside its permuted control.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from benchmarks.drawn_images import draw_images, split_rows
from imaging.labels import Bone
from models.bank import ImageBank
from models.cam_biomarkers import MapRegions, cam_numbers
from models.cam_views import relative_to
from models.gradcam import TARGETS, target_of
from models.prediction import Predicted, predict
from models.training import Split, TrainingData, train
from models.training_config import TrainingConfig, preset
from phantom.map_cohort import PlantedEffect, planted_region
from phantom.planted_pain import PainModel

if TYPE_CHECKING:
    from torch import nn

N_KNEES = 1500
MODELS: tuple[tuple[Bone, str], ...] = (("femur", "thickness"),)
LEAST_SHARE, LEAST_RATIO = 0.9, 3.0
PERMUTATIONS = range(11, 21)
"""Seeds of the permuted labels, a network each."""
EFFECT = PlantedEffect(severity=0.0)
"""Amplitude is all that ties the maps to pain, so the Bayes AUC is exact."""


@dataclass(frozen=True, eq=False)
class PlantedCohort:
    """A drawn cohort of one bone.

    Attributes:
        bank: its images.
        is_case: who has pain, shape (n,).
        amplitude: what pain goes by, shape (n,).
        splits: rows by name.
        area_mm2: surface of the average knee's pixels.
        bayes_auc: of the amplitude.
    """

    bank: ImageBank
    is_case: NDArray[np.bool_]
    amplitude: NDArray[np.float64]
    splits: dict[str, NDArray[np.int64]]
    area_mm2: NDArray[np.float32]
    bayes_auc: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one training.

    Attributes:
        auc: on the test split.
        auc_null_interval: where 95 % of AUCs lie without any relation, by Mann and Whitney.
        mass_ratio: by kind of map, mean share of the mass in the planted region over the share of
            the surface that the region takes up.
        epochs: trained.
        cpu_seconds: of training.
        network: trained, in eval mode.
    """

    auc: float
    auc_null_interval: tuple[float, float]
    mass_ratio: dict[str, float]
    epochs: int
    cpu_seconds: float
    network: "nn.Module"


def draw_cohort(n: int, bone: Bone, pain: PainModel, seed: int = 0) -> PlantedCohort:
    """Draw a cohort."""
    rng = np.random.default_rng([seed, 7])
    is_case = rng.random(n) < pain.prevalence
    amplitude = pain.amplitude(is_case.astype(float), rng.standard_normal(n))
    areas = []
    bank = draw_images(
        bone, amplitude, EFFECT, seed, lambda _rows, drawn: areas.append(drawn.area_mm2[0])
    )
    return PlantedCohort(bank, is_case, amplitude, split_rows(n), areas[0], pain.bayes_auc)


def auc_of(score: NDArray[np.floating], is_case: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half."""
    case, control = score[is_case], score[~is_case]
    above = (case[:, None] > control).mean() + 0.5 * (case[:, None] == control).mean()
    return float(above)


def null_interval(is_case: NDArray[np.bool_]) -> tuple[float, float]:
    """Central 95 % of the AUC of a score that knows nothing (Mann-Whitney, normal)."""
    n_case, n_control = int(is_case.sum()), int((~is_case).sum())
    sd = np.sqrt((n_case + n_control + 1) / (12 * n_case * n_control))
    return float(0.5 - 1.96 * sd), float(0.5 + 1.96 * sd)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of a mean (Student)."""
    margin = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - margin), float(values.mean() + margin)


def mass_ratio(cohort: PlantedCohort, maps: NDArray[np.floating]) -> float:
    """Mean share of rectified maps in the planted region, by surface, over the region's share."""
    region = planted_region(cohort.bank.bone)
    regions = MapRegions(np.ones_like(region.mask), region.mask, region.mask, cohort.area_mm2)
    grid = np.arange(224.0)
    found = cam_numbers(maps, regions, grid, grid)
    shares = np.array([one.medial_share_surface for one in found], dtype=float)
    return float(np.nanmean(shares) / region.area_share)


def train_and_explain(
    cohort: PlantedCohort, strategy: str, config: TrainingConfig, permutation: int | None = None
) -> Outcome:
    """Train on the cohort, or on a permutation of its labels, and explain its test split."""
    labels = cohort.is_case
    if permutation is not None:
        labels = np.random.default_rng(permutation).permutation(labels)
    splits = {name: Split(rows, labels[rows]) for name, rows in cohort.splits.items()}
    start = time.process_time()
    result = train(
        TrainingData(cohort.bank, strategy, splits["training"], splits["validation"]), config
    )
    seconds = time.process_time() - start
    test = splits["test"]

    def predicted(rows: NDArray[np.int64]) -> Predicted:
        return predict(
            result.network, cohort.bank, rows, strategy, normalization=result.normalization
        )

    found = predicted(test.rows)
    maps = found.maps.astype(np.float32)
    # The average knee of the training split; its labels are not used.
    usual = target_of(predicted(splits["training"].rows).maps.astype(np.float32), "contrastive")
    beyond = relative_to(target_of(maps, "contrastive"), usual)
    ratios = {
        f"{target}, all knees": mass_ratio(cohort, target_of(maps, target, found.logits))
        for target in TARGETS
    }
    ratios["contrastive beyond the average knee, knees with pain"] = mass_ratio(
        cohort, beyond[test.is_case]
    )
    ratios["contrastive below the average knee, knees without"] = mass_ratio(
        cohort, -beyond[~test.is_case]
    )
    return Outcome(
        auc=auc_of(found.probability, test.is_case),
        auc_null_interval=null_interval(test.is_case),
        mass_ratio=ratios,
        epochs=len(result.epochs),
        cpu_seconds=seconds,
        network=result.network,
    )


def above_chance(outcome: Outcome, cohort: PlantedCohort) -> float:
    """AUC above one half, as a share of the best possible."""
    return (outcome.auc - 0.5) / (cohort.bayes_auc - 0.5)


def run() -> None:
    import torch

    torch.set_num_threads(1)
    config = preset("demo", "chronic_pain").changed(
        initialization="random", max_epochs=8, patience=4
    )
    for bone, strategy in MODELS:
        cohort = draw_cohort(N_KNEES, bone, PainModel())
        region = planted_region(bone)
        print(
            f"{bone} {strategy}: {N_KNEES} knees, {len(cohort.splits['test'])} in the test split; "
            f"region {100 * region.area_share:.1f} % of the surface; "
            f"Bayes AUC {cohort.bayes_auc:.3f}"
        )
        real = train_and_explain(cohort, strategy, config)
        nulls = [train_and_explain(cohort, strategy, config, seed) for seed in PERMUTATIONS]
        share = above_chance(real, cohort)
        low, high = real.auc_null_interval
        outside = sum(not low <= null.auc <= high for null in nulls)
        print(
            f"AUC {real.auc:.3f}, {share:.2f} of the best above chance "
            f"({_verdict(share >= LEAST_SHARE)}); {len(nulls)} permutations of the labels "
            f"{min(null.auc for null in nulls):.3f} to {max(null.auc for null in nulls):.3f}, "
            f"{outside} outside the null interval {low:.3f} to {high:.3f}"
        )
        print(f"CPU s of training {real.cpu_seconds:.0f} ({real.epochs} epochs)")
        print(
            "| CAM mass in the region over its share of the surface | trained "
            "| permuted labels: mean (its 95 % interval; lowest, highest) |"
        )
        print("|---|---|---|")
        for name, ratio in real.mass_ratio.items():
            of_nulls = np.array([null.mass_ratio[name] for null in nulls])
            low, high = mean_interval(of_nulls)
            print(
                f"| {name} | {ratio:.2f} | {of_nulls.mean():.2f} ({low:.2f} to {high:.2f}; "
                f"{of_nulls.min():.2f}, {of_nulls.max():.2f}) |"
            )
        ratio = real.mass_ratio["contrastive beyond the average knee, knees with pain"]
        print(f"beyond the average knee: {ratio:.2f} ({_verdict(ratio >= LEAST_RATIO)})\n")


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"
