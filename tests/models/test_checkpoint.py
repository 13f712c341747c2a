"""Checkpoints say what they are, and what they cannot be read as."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import (
    CheckpointMetadata,
    load_checkpoint,
    load_weights,
    read_metadata,
    read_pickled,
    save_checkpoint,
    store_checkpoint,
    unwrapped,
)
from models.classifier import NetworkConfig, build_network, seeded
from models.errors import CheckpointError
from models.initialization import Initialization, initialized_network, require_pretrained

SMALL = NetworkConfig("resnet18", 0.125)


def described(**changes: object) -> CheckpointMetadata:
    values = {
        "network": SMALL,
        "task": "oa",
        "bone": "femur",
        "strategy": "t2",
        "normalization": {"mean": [0.5, 0.5, 0.5], "sd": [0.2, 0.2, 0.2]},
        "ranges_id": "r1",
        "data_hash": "d1",
        "seed": 4,
        "config": {"learning_rate": 1e-3},
        "best_epoch": 2,
        "metrics": {"auc": 0.75},
        "code_version": "1",
    }
    return CheckpointMetadata(**{**values, **changes})


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with seeded(2):
        return build_network(SMALL).eval()


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_what_is_stored_is_read_back(tmp_path: Path, network) -> None:
    path = store_checkpoint(tmp_path / "oa", network, described())
    read, metadata = load_checkpoint(path, expected_hash=path.stem)
    assert metadata == described()
    assert same_weights(read, network)
    assert not read.training
    assert list(path.parent.iterdir()) == [path]


def test_the_same_network_is_the_same_file(tmp_path: Path, network) -> None:
    one = store_checkpoint(tmp_path / "a", network, described())
    with seeded(2):
        # How weights lie in memory is not part of what they are.
        again = build_network(SMALL).to(memory_format=torch.channels_last)
    other = store_checkpoint(tmp_path / "b", again, described())
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()
    assert save_checkpoint(tmp_path / "c.safetensors", network, described(seed=5)) != one.stem


def test_a_damaged_file_is_refused(tmp_path: Path, network) -> None:
    path = store_checkpoint(tmp_path, network, described())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"not {path.stem}; the file is damaged"):
        load_checkpoint(flipped, expected_hash=path.stem)
    flipped.write_bytes(content[:5000])
    with pytest.raises(CheckpointError, match=r"flipped.safetensors is no safetensors file"):
        load_checkpoint(flipped)
    with pytest.raises(CheckpointError, match=r"there is no file none.safetensors"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_of_others_do_not_say_what_they_are(tmp_path: Path, network) -> None:
    path = tmp_path / "timm.safetensors"
    save_file(dict(network.state_dict()), path)
    with pytest.raises(CheckpointError, match="does not say which network it is"):
        load_checkpoint(path)


def test_a_newer_format_is_refused() -> None:
    content = json.loads(described().to_json())
    with pytest.raises(CheckpointError, match="install a newer kneelake"):
        CheckpointMetadata.from_json(json.dumps({**content, "format_version": 99}))
    del content["task"]
    with pytest.raises(CheckpointError, match=r"not whole.*task"):
        CheckpointMetadata.from_json(json.dumps(content))
    for text in ("{", "[]", json.dumps({**content, "format_version": "new"})):
        with pytest.raises(CheckpointError, match="not whole"):
            CheckpointMetadata.from_json(text)


def test_another_architecture_is_named_weight_by_weight(network) -> None:
    with pytest.raises(CheckpointError) as told:
        load_weights(build_network(NetworkConfig("resnet34", 0.125)), network.state_dict(), "x.pth")
    assert "x.pth holds another network: 80 missing in the file (layer1.2.bn1.bias" in str(
        told.value
    )
    with pytest.raises(CheckpointError) as told:
        load_weights(build_network(NetworkConfig("resnet18", 0.25)), network.state_dict(), "x.pth")
    assert "conv1.weight is (8, 3, 7, 7) in the file, (16, 3, 7, 7) here" in str(told.value)


def imagenet_file(folder: Path, named: str = "") -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as torchvision's: its names, 1000 classes, the hash in the file's name."""
    import hashlib

    with seeded(8):
        weights = dict(build_network(SMALL).state_dict())
        weights["fc.weight"] = torch.randn(1000, SMALL.n_features)
        weights["fc.bias"] = torch.randn(1000)
    path = folder / "weights.pth"
    torch.save(weights, path)
    digest = named or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(folder / f"resnet18-{digest}.pth"), weights


def test_imagenet_weights_replace_all_but_the_head(tmp_path: Path) -> None:
    path, weights = imagenet_file(tmp_path)
    network, begun_with = initialized_network(SMALL, Initialization("imagenet", path), seed=1)
    random, nothing = initialized_network(SMALL, Initialization(), seed=1)
    assert begun_with.startswith(f"{path.name}#{path.stem.split('-')[1]}")
    assert nothing == ""
    for name, tensor in network.state_dict().items():
        expected = random.state_dict()[name] if name.startswith("fc.") else weights[name]
        assert torch.equal(tensor, expected), name
    assert not torch.equal(random.conv1.weight, network.conv1.weight)


def test_timm_files_are_read_too(tmp_path: Path) -> None:
    _, weights = imagenet_file(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    network, _ = initialized_network(SMALL, Initialization("imagenet", path), seed=1)
    assert torch.equal(network.conv1.weight, weights["conv1.weight"])


def test_files_older_than_the_count_of_batches_are_read(tmp_path: Path) -> None:
    # torchvision's resnet18-5c106cde.pth and its like: 102 names, not 122.
    _, weights = imagenet_file(tmp_path)
    old = {name: one for name, one in weights.items() if not name.endswith("batches_tracked")}
    assert len(weights) - len(old) == 20
    path = tmp_path / "old.pth"
    torch.save(old, path)
    network, _ = initialized_network(SMALL, Initialization("imagenet", path), seed=1)
    assert torch.equal(network.layer4[1].bn2.running_var, old["layer4.1.bn2.running_var"])
    # Running statistics themselves are asked for.
    del old["bn1.running_mean"]
    torch.save(old, path)
    with pytest.raises(CheckpointError, match=r"1 missing in the file \(bn1.running_mean\)"):
        initialized_network(SMALL, Initialization("imagenet", path), seed=1)


def test_a_hash_in_the_name_is_verified(tmp_path: Path) -> None:
    path, _ = imagenet_file(tmp_path, named="0676ba61")
    with pytest.raises(CheckpointError, match=r"begins [0-9a-f]{8}, not 0676ba61"):
        initialized_network(SMALL, Initialization("imagenet", path), seed=1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("imagenet", "no ImageNet weights of resnet18.*KNEELAKE_IMAGENET_WEIGHTS=resnet18=FILE"),
        ("oa", "no network trained on osteoarthritis"),
    ],
)
def test_absent_weights_never_become_random_ones(kind: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        initialized_network(SMALL, Initialization(kind), seed=1)


def test_our_own_checkpoint_begins_a_training(tmp_path: Path, network) -> None:
    path = store_checkpoint(tmp_path, network, described())
    begun, _ = initialized_network(SMALL, Initialization("oa", path), seed=1)
    assert torch.equal(begun.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    # What the head said of osteoarthritis, it does not say of pain.
    assert not torch.equal(begun.fc.weight, network.fc.weight)
    require_pretrained(path, task="oa", bone="femur", strategy="t2")
    with pytest.raises(CheckpointError, match="trained for oa femur t2, not for oa tibia t2"):
        require_pretrained(path, task="oa", bone="tibia", strategy="t2")


def authors_file(folder: Path, network: torch.nn.Module) -> Path:
    """A checkpoint as the authors save theirs: dropout before each layer, numpy beside weights."""
    wrapped = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        is_wrapped = first.startswith("layer") or first == "fc"
        wrapped[f"{first}.1.{rest}" if is_wrapped else name] = tensor
    path = folder / "oa.pth"
    torch.save(
        {
            "epoch": 12,
            "model_state_dict": wrapped,
            "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "output_dict": {"loss": np.float64(0.5), "labels": np.arange(4), "p": np.ones(4, "f4")},
        },
        path,
    )
    return path


def test_the_authors_checkpoints_are_read(tmp_path: Path, network) -> None:
    path = authors_file(tmp_path, network)
    begun, _ = initialized_network(SMALL, Initialization("oa", path), seed=1)
    assert torch.equal(begun.layer3[1].bn2.running_var, network.layer3[1].bn2.running_var)
    assert list(unwrapped(read_pickled(path))) == list(network.state_dict())


class Harmful:
    """What a pickle can do when nobody looks."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    torch.save({"model_state_dict": {}, "output_dict": Harmful()}, path)
    with pytest.raises(CheckpointError, match=r"bad.pth cannot be read as weights"):
        read_pickled(path)
    assert not Path("harmed").exists()
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no dictionary of weights"):
        read_pickled(path)


def test_the_metadata_is_read_without_the_weights(tmp_path: Path, network) -> None:
    path = store_checkpoint(tmp_path, network, described())
    assert read_metadata(path).metrics == {"auc": 0.75}
