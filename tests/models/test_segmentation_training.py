"""Training goes on after a kill with the same bytes, and stops where it has to."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imaging.labels import LabelVolume, load_scheme
from imaging.volume import Volume
from models import segmentation_training
from models.segmentation_preparation import PreparedCase, write_case
from models.segmentation_training import (
    TrainingDivergedError,
    TrainingOptions,
    rotated_patch,
    train_member,
)
from models.vnet import Member

MEMBER = Member("bone", 2, "cross_entropy", "reduced")
OPTIONS = TrainingOptions(
    steps=6, patch=(16, 16, 16), patch_2d=(32, 32), batch_2d=2, learning_rate=1e-3,
    validate_every=3, patience=5, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedCase]:
    """Two knees of boxes."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    affine = np.diag([-1.5, 0.0, 0.0, 1.0])
    affine[2, 1], affine[1, 2] = -1.0, 1.0
    found = []
    for number in range(2):
        array = np.zeros((8, 40, 36), np.uint8)
        array[1:7, 2:16, 4:28] = 1
        array[1:7, 22:36, 4:28] = 3
        array[2:6, 6 : 14 + number, 29:34] = 5
        image = rng.normal(100, 10, array.shape) + 60.0 * array
        labels = LabelVolume(array, affine, load_scheme("ski10"))
        found.append(
            write_case(folder / str(number), f"100000{number}_RIGHT_V00", Volume(image, affine),
                       labels, "RIGHT", None)
        )  # fmt: skip
    return found


def _train(cases: list[PreparedCase], path: Path, options: TrainingOptions = OPTIONS) -> bytes:
    train_member(MEMBER, cases[:1], cases[1:], options, path, data_hash="d")
    return path.read_bytes()


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def _kill_at_the_fifth_step(
    cases: list[PreparedCase], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = segmentation_training._one_step, []

    def killed(*arguments: object) -> tuple[float, int]:
        if len(done) == 4:
            raise Killed
        done.append(1)
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(segmentation_training, "_one_step", killed)
        with pytest.raises(Killed):
            _train(cases, path)
    assert path.with_name(path.name + ".resume").is_file()


def test_a_killed_training_ends_with_the_same_bytes(
    cases: list[PreparedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, step = tmp_path / "killed.safetensors", segmentation_training._one_step
    _kill_at_the_fifth_step(cases, path, monkeypatch)
    steps = []
    monkeypatch.setattr(
        segmentation_training, "_one_step", lambda *a: steps.append(a[4]) or step(*a)
    )
    resumed = _train(cases, path)
    assert steps == [3, 4, 5]
    assert not path.with_name(path.name + ".resume").exists()
    assert resumed == _train(cases, tmp_path / "whole.safetensors")


def test_other_settings_do_not_go_on_from_an_old_training(
    cases: list[PreparedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.safetensors"
    _kill_at_the_fifth_step(cases, path, monkeypatch)
    other = replace(OPTIONS, seed=2)
    assert _train(cases, path, other) == _train(cases, tmp_path / "fresh.safetensors", other)


def test_a_loss_that_is_no_number_stops_the_training(
    cases: list[PreparedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_training, "_backward", lambda *_: math.nan)
    with pytest.raises(TrainingDivergedError, match="no number at step 1"):
        _train(cases, tmp_path / "network.safetensors")


def test_a_batch_too_large_for_the_memory_goes_in_shares(
    cases: list[PreparedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backward, said, shares = segmentation_training._backward, [], []

    def small_memory(*arguments: object) -> float:
        shares.append(arguments[-1])
        if arguments[-1] > 1:
            raise torch.OutOfMemoryError
        return backward(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(segmentation_training, "_backward", small_memory)
    train_member(
        MEMBER, cases[:1], cases[1:], OPTIONS, tmp_path / "n.safetensors", data_hash="d",
        say=said.append,
    )  # fmt: skip
    assert shares == [2, 1, 1, 1, 1, 1, 1]
    assert [text for text in said if "memory" in text] == [
        f"{MEMBER.name}: memory ran out; the batch goes on in shares of 1"
    ]


def test_training_needs_two_people_and_every_tissue(
    cases: list[PreparedCase], tmp_path: Path
) -> None:
    path = tmp_path / "network.safetensors"
    with pytest.raises(ValueError, match="there are 1 and 0"):
        train_member(MEMBER, cases[:1], [], OPTIONS, path, data_hash="d")
    cartilage = replace(MEMBER, task="cartilage")
    with pytest.raises(ValueError, match="no training label has femoral_cartilage"):
        train_member(cartilage, cases[:1], cases[1:], OPTIONS, path, data_hash="d")


def test_a_quarter_turn_is_a_transpose() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 32, 32)).astype(np.float32)
    classes = rng.integers(0, 4, (3, 32, 32)).astype(np.uint8)
    penalty = rng.integers(0, 255, (3, 32, 32)).astype(np.uint8)
    volumes, centre = (image, classes, penalty), np.array([1, 16, 16])
    turned = rotated_patch(volumes, centre, (1, 32, 32), math.pi / 2, (1.0, 0.5, 0.5))
    for found, whole, scale in zip(turned, volumes, (1, 1, 255), strict=True):
        np.testing.assert_allclose(found[0] * scale, np.rot90(whole[1], -1), atol=1e-3)


def test_a_patch_beyond_the_volume_repeats_its_edge() -> None:
    volume = np.arange(4 * 8 * 8).reshape(4, 8, 8).astype(np.float32)
    zeros = np.zeros(volume.shape, np.uint8)
    patch, *_ = rotated_patch((volume, zeros, zeros), np.array([0, 0, 0]), (16, 16, 16), 0.0,
                              (1.0, 1.0, 1.0))  # fmt: skip
    np.testing.assert_array_equal(patch, np.pad(volume, [(0, 12), (0, 8), (0, 8)], mode="edge"))
