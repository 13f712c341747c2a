"""Training on planted maps: it learns, repeats itself, and goes on after a kill."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_bank import CONFIG, N_TRAINING

from models import training
from models.bank import ImageBank
from models.classifier import build_network, seeded
from models.errors import ModelError, TrainingError
from models.initialization import Initialization, initialized_network
from models.metrics import Metrics, area_under_roc, classification_metrics
from models.prediction import predict
from models.training import (
    Split,
    TrainingData,
    TrainingResult,
    features_are_exact,
    loss_weights,
    train,
)
from models.training_config import PRESETS, preset
from models.training_loop import is_better

REPOSITORY = Path(__file__).resolve().parents[2]


def same(one: TrainingResult, other: TrainingResult) -> bool:
    """Whether two trainings gave the same, to the bit."""
    weights = zip(
        one.network.state_dict().values(), other.network.state_dict().values(), strict=True
    )
    rows = [
        [dataclasses.replace(row, seconds=0.0) for row in result.epochs] for result in (one, other)
    ]
    return rows[0] == rows[1] and all(torch.equal(a, b) for a, b in weights)


@pytest.fixture(scope="module")
def trained(data: TrainingData) -> TrainingResult:
    return train(data, CONFIG)


def test_it_learns_what_is_planted(trained: TrainingResult, data: TrainingData) -> None:
    losses = [row.train_loss for row in trained.epochs]
    assert losses[-1] < 0.7 * losses[0]
    assert max(row.validation.auc for row in trained.epochs) > 0.85
    # The network that is kept is that of the epoch it is said to be.
    rows = data.validation.rows
    with torch.no_grad():
        logits = trained.network(data.bank.batch(rows, data.strategy)).numpy()
    weights = np.array(loss_weights(CONFIG, data.training.is_case))
    again = classification_metrics(logits, data.validation.is_case, weights)
    assert again.loss == pytest.approx(trained.best.validation.loss, rel=1e-4)
    assert again.auc == pytest.approx(trained.best.validation.auc)
    assert trained.best.validation.loss == min(row.validation.loss for row in trained.epochs)
    assert not trained.network.training


def test_shuffled_labels_teach_nothing(data: TrainingData) -> None:
    rng = np.random.default_rng(0)
    shuffled = TrainingData(
        data.bank,
        data.strategy,
        Split(data.training.rows, rng.permutation(data.training.is_case)),
        Split(data.validation.rows, rng.permutation(data.validation.is_case)),
    )
    found = train(shuffled, CONFIG.changed(max_epochs=3))
    # Three standard errors of an AUC of one half at this size.
    cases = int(shuffled.validation.is_case.sum())
    controls = len(shuffled.validation.is_case) - cases
    error = ((cases + controls + 1) / (12 * cases * controls)) ** 0.5
    assert abs(found.epochs[-1].validation.auc - 0.5) < 3 * error


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits(data: TrainingData, precision: str) -> None:
    config = CONFIG.changed(max_epochs=2, precision=precision)
    one, other = train(data, config), train(data, config)
    assert same(one, other)
    assert not same(one, train(data, config.changed(seed=1)))


def test_a_killed_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, data: TrainingData, trained: TrainingResult
) -> None:
    state = tmp_path / "training.state"
    script = Path(__file__).with_name("killed_training.py")
    child = subprocess.Popen(
        [sys.executable, str(script), str(state)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    try:
        deadline = time.monotonic() + 120
        while not state.is_file():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    told: list[int] = []
    resumed = train(data, CONFIG, state_file=state, on_epoch=lambda row: told.append(row.epoch))
    assert told == [2, 3, 4]
    assert same(resumed, trained)
    assert resumed.notes == ()
    # Killed once more, between its end and the storing of its result: nothing is trained again.
    told.clear()
    again = train(data, CONFIG, state_file=state, on_epoch=lambda row: told.append(row.epoch))
    assert told == []
    assert same(again, trained)


def test_the_state_of_another_training_is_not_taken(
    tmp_path: Path, data: TrainingData, trained: TrainingResult
) -> None:
    state = tmp_path / "training.state"
    train(data, CONFIG.changed(max_epochs=1, seed=7), state_file=state)
    begun_anew = train(data, CONFIG, state_file=state)
    assert same(begun_anew, trained)
    assert begun_anew.notes == ("training.state is of another training; this one begins anew",)
    state.write_bytes(b"torn")
    assert same(train(data, CONFIG, state_file=state), trained)


def test_patience_ends_it_and_the_best_epoch_is_kept(data: TrainingData) -> None:
    result = train(data, CONFIG.changed(max_epochs=12, patience=1, learning_rate=5e-3))
    losses = [row.validation.loss for row in result.epochs]
    assert result.stopped_early
    assert len(losses) < 12
    assert losses[-1] >= min(losses)
    assert result.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 1


@pytest.mark.parametrize("frozen_batch_norm", ["eval", "train"])
def test_frozen_layers_stay_as_they_were(data: TrainingData, frozen_batch_norm: str) -> None:
    config = CONFIG.changed(
        max_epochs=1, trained="from_layer3", frozen_batch_norm=frozen_batch_norm
    )
    before = initialized_network(config.network, Initialization(), config.seed)[0].state_dict()
    after = train(data, config).network.state_dict()
    for name, tensor in after.items():
        frozen = name.startswith(("conv1", "bn1", "layer1", "layer2"))
        statistic = "running" in name or "num_batches" in name
        if frozen and not statistic:
            assert torch.equal(tensor, before[name]), name
        elif frozen:
            # In the authors' code they drift.
            assert torch.equal(tensor, before[name]) == (frozen_batch_norm == "eval"), name
        elif name.endswith(("conv1.weight", "fc.weight")):
            assert not torch.equal(tensor, before[name]), name


def test_a_head_on_stored_features_is_the_head_on_images(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.changed(trained="head", max_epochs=3)
    assert features_are_exact(config)
    assert not features_are_exact(config.changed(frozen_batch_norm="train"))
    assert not features_are_exact(config.changed(augmentation="authors"))
    stored = train(data, config)
    monkeypatch.setattr(training, "features_are_exact", lambda _: False)
    shown = train(data, config)
    for one, other in zip(stored.epochs, shown.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.validation.loss == pytest.approx(other.validation.loss, rel=1e-4)
    torch.testing.assert_close(
        stored.network.fc.weight, shown.network.fc.weight, rtol=1e-3, atol=1e-5
    )
    assert torch.equal(stored.network.layer4[0].conv1.weight, shown.network.layer4[0].conv1.weight)


def with_memory_for(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds so many images at once."""
    whole = ImageBank.batch

    def batch(self, rows, *args, **kwargs):
        if len(rows) > images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, rows, *args, **kwargs)

    monkeypatch.setattr(ImageBank, "batch", batch)


def test_out_of_memory_halves_the_batch_and_says_so(
    data: TrainingData, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory_for(CONFIG.batch_size, monkeypatch)
    said: list[str] = []
    result = train(data, CONFIG.changed(batch_size=64), on_note=said.append)
    assert tuple(said) == result.notes
    assert len(said) == 2
    assert said[0].startswith("epoch 1: out of memory at 64 images a batch")
    assert said[0].endswith("at 32")
    assert result.batch_size == 16
    # Not a step of the failed tries is left in the network.
    assert same(result, trained)


def test_a_prediction_goes_on_with_fewer_images_where_memory_is_full(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeded(3):
        network = build_network(CONFIG.network).eval()
    rows = data.validation.rows[:10]
    expected = predict(network, data.bank, rows, data.strategy).logits
    batch = ImageBank.batch

    def narrow(bank: ImageBank, rows: np.ndarray, *of: object, **more: object) -> torch.Tensor:
        if len(rows) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return batch(bank, rows, *of, **more)

    monkeypatch.setattr(ImageBank, "batch", narrow)
    told: list[str] = []
    found = predict(network, data.bank, rows, data.strategy, batch_size=10, say=told.append)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert [text.rpartition("with ")[2] for text in told] == [
        "5 images at once",
        "2 images at once",
    ]


def test_memory_for_no_image_is_an_error(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory_for(0, monkeypatch)
    with pytest.raises(TrainingError, match="epoch 1: memory does not hold one image at a time"):
        train(data, CONFIG)


def test_a_loss_that_is_no_number_names_its_epoch(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, epochs = ImageBank.batch, [0]

    def batch(self, rows, *args, generator=None, **kwargs):
        images = whole(self, rows, *args, **kwargs)
        return images * float("nan") if epochs[0] else images

    monkeypatch.setattr(ImageBank, "batch", batch)
    with pytest.raises(TrainingError, match="epoch 2: the training loss is nan; lower learning_"):
        train(data, CONFIG, on_epoch=lambda row: epochs.__setitem__(0, row.epoch))


def changed(data: TrainingData, **changes: object) -> TrainingData:
    return dataclasses.replace(data, **changes)


def test_data_nothing_can_be_trained_on_is_refused(data: TrainingData) -> None:
    one_class = Split(data.training.rows, np.zeros(N_TRAINING, bool))
    with pytest.raises(TrainingError, match=r"training split.*has 0 cases and 96 controls"):
        train(changed(data, training=one_class), CONFIG)
    nobody = Split(np.array([], np.int64), np.array([], bool))
    with pytest.raises(TrainingError, match=r"validation split .* has 0 cases and 0 controls"):
        train(changed(data, validation=nobody), CONFIG)
    with pytest.raises(TrainingError, match="is in the training and the validation split"):
        train(changed(data, validation=data.training), CONFIG)
    planes = data.bank.planes.clone()
    planes[3, 2:] = 0
    without_t2 = dataclasses.replace(data.bank, planes=planes)
    train_t2 = changed(data, bank=without_t2, strategy="t2")
    with pytest.raises(ValueError, match=r"strategy t2 needs t2_deep.*1000003_RIGHT_V00 lack"):
        train(train_t2, CONFIG)
    floats = dataclasses.replace(data.bank, planes=data.bank.planes.float() * float("nan"))
    with pytest.raises(TrainingError, match="a map may hold NaN, a level cannot"):
        train(changed(data, bank=floats), CONFIG)
    with pytest.raises(TrainingError, match="begins with random weights, but oa"):
        train(data, CONFIG, initialization=Initialization("oa", Path("x")))


def test_a_rule_no_epoch_meets_is_an_error(data: TrainingData) -> None:
    with pytest.raises(TrainingError, match=r"sensitivity and a specificity of 0.5.*rule tpn"):
        train(data, CONFIG.changed(max_epochs=1, learning_rate=1e-6, selection_rule="tpn"))


def test_rules_choose_as_they_say() -> None:
    calm = Metrics(loss=0.5, sensitivity=0.6, specificity=0.6, auc=0.7, mcc=0.2)
    sharp = Metrics(loss=0.6, sensitivity=0.4, specificity=0.9, auc=0.8, mcc=0.3)
    even = Metrics(loss=0.7, sensitivity=0.7, specificity=0.7, auc=0.6, mcc=0.4)
    assert is_better("val_loss", calm, None)
    assert not is_better("val_loss", sharp, calm)
    assert is_better("val_auc", sharp, calm)
    assert is_better("tpn", even, calm)
    # Its sum is higher, but it misses half of the cases.
    assert sharp.tpn > calm.tpn
    assert not is_better("tpn", sharp, calm)
    assert not is_better("tpn", sharp, None)


def test_balanced_weights_are_those_of_the_papers_split() -> None:
    labels = np.arange(4029) < 1324
    assert loss_weights(preset("paper", "oa"), labels) == pytest.approx((0.745, 1.521), abs=6e-4)
    authors = preset("paper", "oa").changed(class_weights="authors")
    assert loss_weights(authors, labels) == (0.86589497, 1.18325617)


def test_metrics_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(5)
    logits = np.round(rng.normal(size=(60, 2)), 1)
    is_case = rng.random(60) < 0.4
    weights = np.array([0.7, 1.6])
    found = classification_metrics(logits, is_case, weights)
    loss = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(is_case.astype(int)), weight=torch.tensor(weights)
    )
    assert found.loss == pytest.approx(float(loss), rel=1e-12)
    evidence = logits[:, 1] - logits[:, 0]
    pairs = evidence[is_case][:, None] - evidence[~is_case][None, :]
    assert found.auc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    told = evidence > 0
    assert found.sensitivity == told[is_case].mean()
    assert found.specificity == (~told[~is_case]).mean()
    assert found.mcc == pytest.approx(np.corrcoef(told, is_case)[0, 1])
    assert classification_metrics(np.zeros((60, 2)), is_case, weights).mcc == 0.0
    assert area_under_roc(np.zeros(60), is_case) == 0.5


def test_presets_are_the_papers_and_a_small_one() -> None:
    paper = preset("paper", "chronic_pain")
    assert (paper.network.architecture, paper.network.width) == ("resnet50", 1.0)
    assert (paper.initialization, paper.selection_rule) == ("oa", "val_loss")
    assert (paper.batch_size, paper.max_epochs, paper.patience) == (300, 100, 15)
    assert (paper.class_weights, paper.weight_decay) == ("balanced", 0.0)
    hashes = {config.config_hash for tasks in PRESETS.values() for config in tasks.values()}
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0: use more than 0"),
        ({"selection_rule": "auc"}, "selection_rule = 'auc': use val_loss, tpn, val_auc"),
        ({"patience": 0}, "patience = 0: use 1 or more"),
        ({"epochs": 3}, "epochs: no such choice"),
    ],
)
def test_choices_that_do_not_exist_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CONFIG.changed(**change)
