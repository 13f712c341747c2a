"""Fresh weights for the randomisation of Grad-CAM."""

import numpy as np
import pytest
import torch

from models.cam_sanity import fresh_network
from models.classifier import NetworkConfig, build_network, seeded


def direction(network: torch.nn.Module) -> np.ndarray:
    """What tells the classes apart, over the channels of the last block."""
    weights = network.get_submodule("fc").weight.detach().numpy()
    return weights[1] - weights[0]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_fresh_head_is_not_the_one_training_began_with(seed: int) -> None:
    network = build_network(NetworkConfig("resnet18", 0.5))
    # Drawn as a training of that seed draws its first weights.
    with seeded(seed):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, torch.nn.Linear | torch.nn.BatchNorm2d):
                module.reset_parameters()
    drawn = fresh_network(network, seed)
    assert abs(np.corrcoef(direction(network), direction(drawn))[0, 1]) < 0.3
    again = fresh_network(network, seed)
    assert np.array_equal(direction(drawn), direction(again))
