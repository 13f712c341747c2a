"""A small classifier finds what was planted, where it was planted; the full size is a benchmark."""

import numpy as np
import pytest
import torch

from benchmarks.learning import (
    Outcome,
    PlantedCohort,
    above_chance,
    draw_cohort,
    train_and_explain,
)
from models.cam_sanity import (
    STAGES,
    cascading_randomization,
    contrast,
    fresh_network,
    perturbation_curves,
    similarity,
)
from models.gradcam import class_maps
from models.training_config import preset
from phantom.planted_pain import PainModel

CONFIG = preset("demo", "chronic_pain").changed(
    initialization="random", max_epochs=3, patience=3, learning_rate=2e-3
)


@pytest.fixture(scope="module")
def cohort() -> PlantedCohort:
    return draw_cohort(420, "femur", PainModel(separation=3.0, prevalence=0.4))


@pytest.fixture(scope="module")
def found(cohort: PlantedCohort) -> Outcome:
    return train_and_explain(cohort, "thickness", CONFIG)


@pytest.fixture(scope="module")
def trained(found: Outcome) -> torch.nn.Module:
    return found.network


def test_pain_is_found_where_it_was_planted(cohort: PlantedCohort, found: Outcome) -> None:
    assert above_chance(found, cohort) > 0.8
    assert found.mass_ratio["contrastive beyond the average knee, knees with pain"] > 2


def test_a_fresh_network_has_other_maps(cohort: PlantedCohort, trained) -> None:
    images = cohort.bank.batch(cohort.splits["test"][:12], "thickness")
    found = cascading_randomization(trained, images, fresh_network(trained, 1))
    assert found.stages == ("none", *(stage[-1] for stage in STAGES))
    np.testing.assert_allclose(found.spearman[0], 1.0)
    assert np.nanmean(np.abs(found.spearman[-1])) < 0.7
    # The trained network is as it was.
    np.testing.assert_allclose(
        similarity(contrast(class_maps(trained, images)), contrast(class_maps(trained, images))), 1
    )


def test_deletion_in_the_maps_order_takes_the_prediction_away_first(
    cohort: PlantedCohort, trained
) -> None:
    images = cohort.bank.batch(cohort.splits["test"][:12], "thickness")
    infill = cohort.bank.batch(cohort.splits["training"], "thickness").mean(0)
    curves = perturbation_curves(trained, images, infill)
    areas = curves.areas()
    assert areas["deletion"] < areas["deletion_random"]
    assert areas["insertion"] > areas["insertion_random"]
    # Nothing taken away, or all put in, is the image itself; all taken away is the infill.
    np.testing.assert_allclose(curves.deletion[:, 0], curves.insertion[:, -1], atol=1e-5)
    np.testing.assert_allclose(curves.deletion[:, -1], curves.insertion[:, 0], atol=1e-5)


def test_similarity_is_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 7, 7)).round(1)
    wanted = [
        spearmanr(one.ravel(), other.ravel()).statistic
        for one, other in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(similarity(first, second), wanted)
    assert np.isnan(similarity(np.zeros((1, 2, 2)), first[:1, :2, :2]))[0]
