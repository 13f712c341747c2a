"""The networks against torchvision's published structure, and what freezing freezes."""

import pytest
import torch

from models.classifier import (
    ARCHITECTURES,
    FROZEN_MODULES,
    NetworkConfig,
    build_network,
    freeze,
    pooled_features,
    seeded,
    set_training_mode,
    trunk_features,
)
from models.errors import ModelError

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
# He et al. 2016 and torchvision's model pages, with 1000 classes.
PUBLISHED_PARAMETERS = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
N_KEYS = {"resnet18": 122, "resnet34": 218, "resnet50": 320}


def torchvision_shapes(architecture: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's weights, in its order, from the networks' definition."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    bottleneck = architecture == "resnet50"
    expansion = 4 if bottleneck else 1
    channels = 64
    for layer, (planes, count) in enumerate(
        zip((64, 128, 256, 512), BLOCKS[architecture], strict=True), 1
    ):
        for block in range(count):
            name = f"layer{layer}.{block}"
            kernels = (
                [(planes, channels, 1), (planes, planes, 3), (4 * planes, planes, 1)]
                if bottleneck
                else [(planes, channels, 3), (planes, planes, 3)]
            )
            for number, (out, into, size) in enumerate(kernels, 1):
                shapes[f"{name}.conv{number}.weight"] = (out, into, size, size)
                norm(f"{name}.bn{number}", out)
            strided = layer > 1 and block == 0
            if strided or channels != planes * expansion:
                shapes[f"{name}.downsample.0.weight"] = (planes * expansion, channels, 1, 1)
                norm(f"{name}.downsample.1", planes * expansion)
            channels = planes * expansion
    shapes["fc.weight"] = (classes, channels)
    shapes["fc.bias"] = (classes,)
    return shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_named_ordered_and_shaped_as_torchvisions(architecture: str) -> None:
    network = build_network(NetworkConfig(architecture))
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = torchvision_shapes(architecture, 2)
    assert list(found.items()) == list(expected.items())
    assert len(found) == N_KEYS[architecture]
    features = NetworkConfig(architecture).n_features
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + 998 * (features + 1) == PUBLISHED_PARAMETERS[architecture]


def test_strides_are_those_of_version_1_5() -> None:
    # torchvision's bottleneck halves the image in its 3 x 3 convolution.
    network = build_network(NetworkConfig("resnet50", 1 / 16))
    assert network.conv1.stride == (2, 2)
    for layer in (network.layer2, network.layer3, network.layer4):
        assert layer[0].conv1.stride == (1, 1)
        assert layer[0].conv2.stride == (2, 2)


def test_two_logits_from_a_grid_of_seven() -> None:
    with seeded(0):
        network = build_network(NetworkConfig("resnet34", 0.125)).eval()
        images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        logits = network(images)
        features = trunk_features(network, images)
        pooled = pooled_features(network, images)
    assert logits.shape == (2, 2)
    assert features.shape == (2, NetworkConfig("resnet34", 0.125).n_features, 7, 7)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
    torch.testing.assert_close(network.fc(pooled), logits)


@pytest.mark.parametrize(("trained", "frozen"), FROZEN_MODULES.items())
def test_what_is_frozen_neither_learns_nor_drifts(trained: str, frozen: tuple[str, ...]) -> None:
    network = build_network(NetworkConfig("resnet18", 0.125))
    freeze(network, trained)
    set_training_mode(network, trained, "eval")
    for name, module in network.named_children():
        learns = [parameter.requires_grad for parameter in module.parameters()]
        assert not any(learns) if name in frozen else all(learns)
        assert module.training == (name not in frozen)
    set_training_mode(network, trained, "train")
    assert all(module.training for module in network.modules())


def test_a_seed_leaves_the_callers_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(9):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkConfig("resnet101"), "resnet18, resnet34, resnet50"),
        (lambda: NetworkConfig("resnet18", 0.0), "width 0: use 1/64 to 4"),
        (lambda: freeze(build_network(NetworkConfig("resnet18", 0.125)), "first"), "all, from_"),
    ],
)
def test_what_does_not_exist_is_refused(make, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()
