"""Grad-CAM of one ResNet by kneelake and its peers: CPU seconds per map, and agreement.

Run in the peers' own environment, with kneelake's source on the path: all four in one process, one
thread, on the same network and images, taking turns so that a busy machine is busy for all alike.
Called with a folder that holds `settings.npy` (architecture as depth, width, images, rounds)
and that the results are written to.
"""

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.cam_views import rectified, scaled, upsampled
from models.classifier import NetworkConfig, build_network, seeded
from models.folding import folded
from models.gradcam import class_maps, gradient_cam, target_of

Maps = NDArray[np.floating]


def let_torchvision_import() -> None:
    """Torchvision's compiled operators want CUDA; pytorch-grad-cam needs none, only the import."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_kept"] = library


def peers(net: torch.nn.Module) -> dict[str, Callable[[torch.Tensor], Maps]]:
    """Each as its manual says, batched where its batches are right; rectified maps of pain."""
    from captum.attr import LayerGradCam
    from monai.visualize import GradCAM as MonaiGradCam
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # pytorch-grad-cam hooks the network for good, so each gets a copy of it.
    pgc = GradCAM(model=(own := copy.deepcopy(net)), target_layers=[own.layer4[-1]])
    captum = LayerGradCam(net, net.layer4)
    monai = MonaiGradCam(copy.deepcopy(net), target_layers="layer4", postprocessing=as_it_is)

    def by_pgc(images: torch.Tensor) -> Maps:
        return pgc(input_tensor=images, targets=[ClassifierOutputTarget(1)] * len(images))

    def by_captum(images: torch.Tensor) -> Maps:
        small = captum.attribute(images, target=1, relu_attributions=True)
        return upsampled(small[:, 0].detach().numpy())

    def by_monai(images: torch.Tensor) -> Maps:
        return monai(images, class_idx=1)[:, 0].detach().numpy()

    return {"pytorch-grad-cam": by_pgc, "captum": by_captum, "monai": by_monai}


def as_it_is(maps: Maps) -> Maps:
    """MONAI's own post-processing turns maps upside down."""
    return maps


def ours(net: torch.nn.Module) -> dict[str, Callable[[torch.Tensor], Maps]]:
    """The closed form: one pass gives the maps of all targets, all of which are enlarged."""
    quick = folded(net)

    def every_target(network: torch.nn.Module, images: torch.Tensor, precision: str) -> Maps:
        found = class_maps(network, images, precision=precision)
        maps = np.stack([target_of(found.maps, one, found.logits).numpy() for one in ASKED], axis=1)
        return upsampled(rectified(maps))[:, 0]

    def closed(images: torch.Tensor, precision: str = "float32") -> Maps:
        return every_target(quick, images, precision)

    def unfolded(images: torch.Tensor) -> Maps:
        return every_target(net, images, "float32")

    def autograd(images: torch.Tensor) -> Maps:
        return upsampled(rectified(gradient_cam(net, images, "pain").numpy()))

    return {
        "kneelake": closed,
        "kneelake bfloat16": lambda images: closed(images, "bfloat16"),
        "kneelake unfolded": unfolded,
        "kneelake by autograd": autograd,
    }


ASKED = ("pain", "predicted", "contrastive")
"""Targets whose maps are wanted of every image."""
MAPS_PER_CALL = dict.fromkeys(("kneelake", "kneelake bfloat16", "kneelake unfolded"), len(ASKED))
"""Maps of an image that one call gives; the others give one."""


def main() -> None:
    folder = Path(sys.argv[1])
    depth, width, n_images, rounds = np.load(folder / "settings.npy")
    torch.set_num_threads(1)
    let_torchvision_import()
    with seeded(3):
        net = build_network(NetworkConfig(f"resnet{int(depth)}", float(width))).eval()
    generator = torch.Generator().manual_seed(4)
    images = torch.randn((int(n_images), 3, 224, 224), generator=generator)
    # As a network and images come, and in the layout that kneelake keeps its own in.
    layouts = {
        "as loaded": (net, images),
        "channels last": (
            copy.deepcopy(net).to(memory_format=torch.channels_last),
            images.to(memory_format=torch.channels_last),
        ),
    }
    methods = {
        (name, layout): (method, batch)
        for layout, (network, batch) in layouts.items()
        for name, method in {**ours(network), **peers(network)}.items()
    }
    # One image at a time: what all of them get right.
    single = {key: method(batch[:1])[0] for key, (method, batch) in methods.items()}
    gaps = []
    for (name, layout), found in single.items():
        # Of the very same network and layout: others sum in another order.
        reference = single["kneelake unfolded", layout]
        # pytorch-grad-cam hands out maps scaled to 0 to 1 only.
        wanted = scaled(reference[None]).values[0] if name == "pytorch-grad-cam" else reference
        gaps.append(np.abs(found - wanted).max() / np.abs(wanted).max())
    seconds = dict.fromkeys(methods, np.inf)
    for _ in range(int(rounds)):
        for key, (method, batch) in methods.items():
            start = time.process_time()
            method(batch)
            seconds[key] = min(seconds[key], time.process_time() - start)
    np.save(folder / "tools.npy", np.array([name for name, _ in methods]))
    np.save(folder / "layouts.npy", np.array([layout for _, layout in methods]))
    np.save(folder / "seconds_per_image.npy", np.array(list(seconds.values())) / len(images))
    np.save(
        folder / "maps_per_image.npy",
        np.array([MAPS_PER_CALL.get(name, 1) for name, _ in methods]),
    )
    np.save(folder / "gap.npy", np.array(gaps))


if __name__ == "__main__":
    main()
