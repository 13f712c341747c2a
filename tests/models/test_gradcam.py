"""Grad-CAM against its definition, written out with autograd, and against other libraries."""

import numpy as np
import pytest
import torch

from models.classifier import NetworkConfig, build_network, seeded
from models.errors import ModelError
from models.gradcam import (
    METHODS,
    TARGETS,
    Explanation,
    GradCamError,
    cam,
    class_maps,
    explained_maps,
    gradient_cam,
    target_of,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(architecture: str = "resnet18", width: float = 0.25) -> torch.nn.Module:
    with seeded(5):
        built = build_network(NetworkConfig(architecture, width))
        torch.nn.init.normal_(built.fc.bias)
    return built.eval()


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return network()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand((4, 3, 224, 224), generator=torch.Generator().manual_seed(1))


def by_definition(net: torch.nn.Module, image: torch.Tensor, c: int, layer: str) -> torch.Tensor:
    """Selvaraju et al. 2017, eq. 1 and 2 without its ReLU, for one image."""
    kept = []

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    handle = net.get_submodule(layer).register_forward_hook(keep)
    net(image)[0, c].backward()
    handle.remove()
    alpha = kept[0].grad.mean((2, 3), keepdim=True)
    net.zero_grad()
    return (alpha * kept[0]).sum(1)[0].detach()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_closed_form_is_the_definition(architecture: str, images: torch.Tensor) -> None:
    net = network(architecture)
    found = class_maps(net, images[:2])
    assert found.maps.shape == (2, 2, 7, 7)
    for row in range(2):
        for c in (0, 1):
            wanted = by_definition(net, images[row : row + 1], c, "layer4")
            assert relative(found.maps[row, c], wanted) < 1e-5


def test_maps_are_complete(resnet: torch.nn.Module, images: torch.Tensor) -> None:
    found = class_maps(resnet, images)
    with torch.no_grad():
        logits = resnet(images)
    torch.testing.assert_close(found.maps.sum((2, 3)) + resnet.fc.bias, logits)
    torch.testing.assert_close(found.logits, logits)


def test_maps_stay_complete_in_bfloat16(resnet: torch.nn.Module, images: torch.Tensor) -> None:
    exact, rough = class_maps(resnet, images), class_maps(resnet, images, precision="bfloat16")
    torch.testing.assert_close(rough.maps.sum((2, 3)) + resnet.fc.bias, rough.logits)
    assert 0 < relative(rough.maps, exact.maps) < 0.05


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_autograd_agrees_with_the_closed_form(method, target, resnet, images) -> None:
    found = gradient_cam(resnet, images, target, method=method)
    if method == "grad_cam_plus_plus":
        # Its weights are of positive gradients only, so it is another map.
        assert relative(found, cam(resnet, images, target)) > 0.01
    else:
        assert relative(found, cam(resnet, images, target, method=method)) < 1e-5


@pytest.mark.parametrize("layer", ["layer2", "layer3.0", "layer4"])
def test_any_layer_by_autograd(layer: str, resnet, images) -> None:
    found = gradient_cam(resnet, images, "pain", layer=layer)
    for row in range(len(images)):
        wanted = by_definition(resnet, images[row : row + 1], 1, layer)
        assert relative(found[row], wanted) < 1e-5


@pytest.mark.parametrize("text", ["hires_cam:layer2", "grad_cam:layer3", "hires_cam"])
def test_both_classes_maps_are_read_as_asked(text: str, resnet, images) -> None:
    how = Explanation.of(text)
    found = explained_maps(resnet, images, how)
    each = {"no_pain": found.maps[:, 0], "pain": found.maps[:, 1]}
    # Linear in the gradient: what is stored gives every target.
    each["contrastive"] = each["pain"] - each["no_pain"]
    for target, maps in each.items():
        wanted = gradient_cam(resnet, images, target, layer=how.layer, method=how.method)
        assert relative(maps, wanted) < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(found.logits, resnet(images))


@pytest.mark.parametrize("text", ["grad_cam_plus_plus:layer4", "hires_cam:layer1", "eigen_cam"])
def test_other_ways_to_read_evidence_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="no way to read evidence; give grad_cam or hires_cam"):
        Explanation.of(text)


def test_grad_cam_and_hires_cam_differ_before_the_last_block(resnet, images) -> None:
    plain = gradient_cam(resnet, images, layer="layer3")
    hires = gradient_cam(resnet, images, layer="layer3", method="hires_cam")
    assert plain.shape == hires.shape == (4, 14, 14)
    assert relative(hires, plain) > 0.1


@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_gives_what_single_images_give(target: str, resnet, images) -> None:
    for method in METHODS:
        batch = cam(resnet, images, target, method=method)
        for row in range(len(images)):
            single = cam(resnet, images[row : row + 1], target, method=method)
            assert relative(batch[row], single[0]) < 1e-5


def test_other_libraries_agree(resnet, images) -> None:
    from monai.visualize import GradCAM

    # Its own post-processing turns maps upside down.
    peer = GradCAM(resnet, target_layers="layer4", postprocessing=lambda maps: maps)
    for row in range(2):
        one = images[row : row + 1]
        theirs = peer.compute_map(one, class_idx=1).detach()
        ours = cam(resnet, one, "pain").clamp(min=0)
        assert np.abs(theirs[0, 0].numpy() - ours[0].numpy()).max() <= 1e-5 * float(theirs.max())


def test_targets() -> None:
    maps = torch.arange(16.0).reshape(2, 2, 2, 2)
    logits = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(target_of(maps, "pain"), maps[:, 1])
    torch.testing.assert_close(target_of(maps, "no_pain"), maps[:, 0])
    torch.testing.assert_close(target_of(maps, "contrastive"), maps[:, 1] - maps[:, 0])
    # Equal logits predict no pain.
    wanted = torch.stack([maps[0, 1], maps[1, 0]])
    torch.testing.assert_close(target_of(maps, "predicted", logits), wanted)
    np.testing.assert_array_equal(target_of(maps.numpy(), "predicted", logits.numpy()), wanted)


def test_a_constant_network_has_flat_plus_plus_maps(images) -> None:
    net = network()
    torch.nn.init.zeros_(net.fc.weight)
    assert torch.count_nonzero(gradient_cam(net, images, method="grad_cam_plus_plus")) == 0


def test_what_cannot_be_explained_is_refused(resnet, images) -> None:
    with pytest.raises(GradCamError, match=r"training mode.*eval\(\)"):
        class_maps(network().train(), images)
    with pytest.raises(GradCamError, match="no layer block9; there are conv1, bn1"):
        gradient_cam(resnet, images, layer="block9")
    with pytest.raises(GradCamError, match="is not a method; use one of grad_cam, hires_cam"):
        gradient_cam(resnet, images, method="eigen_cam")
    with pytest.raises(GradCamError, match="is not a target; use one of pain"):
        cam(resnet, images, "knee")
    with pytest.raises(GradCamError, match="fc has no maps"):
        gradient_cam(resnet, images, layer="fc")
    with pytest.raises(GradCamError, match="used 2 times"):
        gradient_cam(resnet, images, layer="layer1.0.act")
    with pytest.raises(GradCamError, match="needs the logits"):
        target_of(torch.zeros(1, 2, 7, 7), "predicted")
    with pytest.raises(GradCamError, match="two classes"):
        target_of(torch.zeros(1, 3, 7, 7), "pain")


def test_a_network_with_more_than_a_linear_head_is_refused(images) -> None:
    net = network()
    net.fc = torch.nn.Sequential(torch.nn.ReLU(), net.fc)
    with pytest.raises(GradCamError, match="ends in a linear layer"):
        class_maps(net, images)
    squared = network()
    squared.avgpool.register_forward_hook(lambda _, __, output: output**2)
    with pytest.raises(GradCamError, match="closed form does not hold"):
        class_maps(squared, images)
    broken = network()
    torch.nn.init.constant_(broken.fc.weight, float("nan"))
    with pytest.raises(GradCamError, match="NaN"):
        class_maps(broken, images)


def test_nothing_is_left_on_the_network(resnet, images) -> None:
    cam(resnet, images[:1])
    gradient_cam(resnet, images[:1], layer="layer3")
    assert torch.is_grad_enabled()
    assert not resnet.layer3._forward_hooks
    assert all(parameter.grad is None for parameter in network().parameters())
