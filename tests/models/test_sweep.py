"""The grid as data, and its execution."""

from collections import Counter

import pytest
from planted_bank import CONFIG

from models import training
from models.initialization import Initialization
from models.metrics import Metrics
from models.sweep import SweepGrid, Trial, TrialResult, run_sweep, select
from models.training import TrainingData

BASE = CONFIG.changed(max_epochs=1)


def test_the_papers_grid_has_38_legal_trials_of_72() -> None:
    grid = SweepGrid()
    trials = grid.trials()
    assert grid.n_full == 72
    assert len(trials) == len({trial.trial_id for trial in trials}) == 38
    assert Counter(trial.initialization for trial in trials) == {
        "random": 6,
        "imagenet": 24,
        "oa": 8,
    }
    assert {trial.architecture for trial in trials if trial.initialization == "oa"} == {"resnet50"}
    assert {trial.trained for trial in trials if trial.initialization == "random"} == {"all"}
    assert "oa-resnet50-from_layer2-lr1e-05" in {trial.trial_id for trial in trials}


def weights(trial: Trial) -> Initialization:
    return Initialization(trial.initialization)


def test_a_sweep_runs_what_is_not_done(data: TrainingData) -> None:
    grid = SweepGrid(architectures=("resnet18",), learning_rates=(2e-3, 1e-3))
    trials = grid.trials()
    results = list(run_sweep(data, BASE, trials, weights, done={trials[0].trial_id}))
    assert [result.trial for result in results] == list(trials[1:])
    assert results[0].status == "done"
    assert results[0].n_epochs == results[0].best_epoch == 1
    assert results[0].config.learning_rate == 1e-3
    # Nobody gave ImageNet weights: said, and no other trial suffers.
    skipped = [result for result in results if result.trial.initialization == "imagenet"]
    assert {result.status for result in skipped} == {"skipped"}
    assert skipped[0].reason == "there are no imagenet weights of resnet18"
    assert skipped[0].metrics is None


def test_a_frozen_trunk_sees_each_image_once_for_all_rates(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = training.pooled_features

    def counted(network, images):
        seen.append(len(images))
        return whole(network, images)

    monkeypatch.setattr(training, "pooled_features", counted)
    trials = [Trial("random", "resnet18", "head", rate) for rate in (1e-2, 1e-3, 1e-4)]
    results = list(run_sweep(data, BASE.changed(max_epochs=3), trials, weights))
    assert sum(seen) == len(data.bank)
    losses = {result.metrics.loss for result in results if result.metrics}
    assert len(losses) == 3


def test_a_trial_that_fails_stops_no_other(data: TrainingData) -> None:
    trials = [Trial("random", "resnet18", "all", rate) for rate in (1e-6, 2e-3)]
    base = BASE.changed(selection_rule="tpn", max_epochs=3)
    results = list(run_sweep(data, base, trials, weights))
    assert [result.status for result in results] == ["failed", "done"]
    assert "rule tpn" in results[0].reason


def test_the_best_trial_is_chosen_by_its_rule() -> None:
    def result(name: float, loss: float, auc: float) -> TrialResult:
        trial = Trial("random", "resnet18", "all", name)
        return TrialResult(trial, BASE, "done", metrics=Metrics(loss, 0.6, 0.6, auc, 0.1))

    runs = [result(0.1, 0.6, 0.7), result(0.2, 0.5, 0.6), result(0.3, 0.5, 0.7)]
    assert select(runs, "val_loss") is runs[1]
    assert select(runs, "val_auc") is runs[0]
    skipped = TrialResult(runs[0].trial, BASE, "skipped", "no weights")
    assert select([skipped], "val_loss") is None
