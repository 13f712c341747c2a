"""Images per second of fine-tuning: kneelake's resident bank against a loader that reads PNGs.

The peer is what the authors' public code does: torchvision's ImageFolder, RandomResizedCrop and
flips, a DataLoader with workers that start anew every epoch, float32, and per batch the loss, the
predictions and the probabilities taken to the CPU. Both train the same network on as many images,
in one process, in turns, so that a busy machine is busy for both.

Runs in an environment that has torch, torchvision, monai and scipy, with kneelake's source on the
path. On a machine with a GPU, from the repository's root:

    python benchmarks/peer_scripts/training_rates.py --device cuda --depth 50 --images 4029

`FOLDER` instead of options: what `benchmarks.training` hands over, in files.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import training
from models.bank import ImageBank
from models.classifier import IMAGE_SIZE, NetworkConfig, build_network
from models.strategies import merge
from models.training import Split, TrainingData, train
from models.training_config import AUTHORS_WEIGHTS, TrainingConfig

STRATEGY = "all_biomarkers"
VALIDATION = 16
"""Images of the validation split: too few to count, as the peer has none."""
BYTES_PER_OUTPUT = 42.0
"""Memory traffic per convolution output of eager training in bfloat16: an estimate, not measured
(convolution, batch normalisation and activation, forward and backward)."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--depth", type=int, default=18, choices=(18, 34, 50))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=300)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parsed = parser.parse_args()
    if parsed.folder is not None:
        names = ("depth", "images", "batch", "workers", "rounds")
        for name, value in zip(names, np.load(parsed.folder / "settings.npy"), strict=True):
            setattr(parsed, name, int(value))
    return parsed


def let_torchvision_import() -> None:
    """Torchvision's compiled operators want CUDA; reading and cropping PNGs needs none of them."""
    if torch.cuda.is_available():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_kept"] = library


def drawn_bank(n: int, device: str) -> tuple[ImageBank, np.ndarray]:
    """Smooth random planes, which compress as maps do, and labels."""
    rng = np.random.default_rng(0)
    planes = torch.empty(n, 5, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    for first in range(0, n, 64):
        some = planes[first : first + 64]
        coarse = torch.tensor(rng.normal(size=(len(some), 5, 14, 14)), dtype=torch.float32)
        maps = functional.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic")
        some.copy_((128 + 35 * maps).clamp(0, 255).to(torch.uint8))
    names = tuple(f"{1_000_000 + row}_RIGHT_V00" for row in range(n))
    return ImageBank("femur", names, planes.to(device)), np.arange(n) % 3 == 0


def write_pngs(bank: ImageBank, is_case: np.ndarray, folder: Path) -> None:
    """One PNG per image, in a folder per class, as ImageFolder wants them."""
    for label in ("0", "1"):
        (folder / label).mkdir(parents=True)
    for row, case in enumerate(is_case):
        image = merge(bank.planes[row : row + 1].cpu(), STRATEGY)[0].permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / str(int(case)) / f"{row}.png")


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class Ours:
    """kneelake's training; an epoch's seconds by its own account."""

    def __init__(self, asked: argparse.Namespace, bank: ImageBank, is_case: np.ndarray) -> None:
        rows = np.arange(len(bank))
        held = rows[:VALIDATION]
        # A first epoch finds algorithms and fills caches; the second counts.
        self._config = TrainingConfig(
            network=NetworkConfig(f"resnet{asked.depth}"),
            initialization="random",
            batch_size=asked.batch,
            max_epochs=2,
            patience=2,
        )
        self._data = TrainingData(
            bank,
            STRATEGY,
            Split(rows[VALIDATION:], is_case[VALIDATION:]),
            Split(held, is_case[:VALIDATION]),
        )
        self._device = asked.device

    def epoch(self) -> tuple[float, float]:
        """Wall and CPU seconds of an epoch."""
        marks: list[float] = [cpu_seconds()]
        result = train(
            self._data,
            self._config,
            device=self._device,
            threads=torch.get_num_threads(),
            on_epoch=lambda _: marks.append(cpu_seconds()),
        )
        return result.epochs[1].seconds, marks[2] - marks[1]


class Peer:
    """The authors' loop."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        from torch.utils.data import DataLoader
        from torchvision import datasets, models, transforms

        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(IMAGE_SIZE),
                transforms.RandomHorizontalFlip(0.25),
                transforms.RandomVerticalFlip(0.25),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        self._loader = DataLoader(
            datasets.ImageFolder(str(folder), transform),
            batch_size=asked.batch,
            shuffle=True,
            num_workers=asked.workers,
        )
        self._device = asked.device
        self._network = getattr(models, f"resnet{asked.depth}")(num_classes=2).to(self._device)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=1e-4, weight_decay=0.1)
        weights = torch.tensor(AUTHORS_WEIGHTS, device=self._device)
        self._criterion = nn.CrossEntropyLoss(weight=weights)
        if self._device == "cuda":
            self.epoch()

    def epoch(self) -> tuple[float, float]:
        """Wall and CPU seconds of an epoch."""
        began, cpu = time.perf_counter(), cpu_seconds()
        self._network.train()
        kept: list[object] = []
        running = 0.0
        for images, labels in self._loader:
            images, labels = images.to(self._device), labels.to(self._device)  # noqa: PLW2901 - as the authors have it
            self._optimizer.zero_grad()
            outputs = self._network(images)
            loss = self._criterion(outputs, labels)
            loss.backward()
            self._optimizer.step()
            running += loss.item() * len(images)
            kept += [outputs.argmax(1).cpu(), labels.cpu(), outputs.softmax(1).detach().cpu()]
        return time.perf_counter() - began, cpu_seconds() - cpu


def copy_bandwidth(device: str) -> float:
    """Bytes read and written per second by copying a large tensor on the device; best of five."""
    n = 2**30 if device == "cuda" else 2**27
    source = torch.ones(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n / (time.perf_counter() - began))
    return best


def convolution_outputs(depth: int) -> int:
    """Numbers the convolutions put out for one image."""
    network = build_network(NetworkConfig(f"resnet{depth}")).eval()
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: counted.append(out.numel()))
    with torch.no_grad():
        network(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return sum(counted)


def main() -> None:
    asked = arguments()
    let_torchvision_import()
    if asked.device == "cpu":
        torch.set_num_threads(1)
    if asked.compile:
        plain = training.initialized_network

        def compiled(*given: object) -> object:
            network, begun_with = plain(*given)  # type: ignore[arg-type]
            network.compile()
            return network, begun_with

        training.initialized_network = compiled  # type: ignore[assignment]
    bank, is_case = drawn_bank(asked.images + VALIDATION, asked.device)
    with tempfile.TemporaryDirectory() as name:
        write_pngs(bank, is_case, Path(name))
        ours, peer = Ours(asked, bank, is_case), Peer(asked, Path(name))
        rounds = [(ours.epoch(), peer.epoch()) for _ in range(asked.rounds)]
    seconds = np.array(rounds).min(axis=0)
    counts = np.array([asked.images, asked.images + VALIDATION])
    rates = counts[:, None] / seconds
    bandwidth = copy_bandwidth(asked.device)
    traffic = convolution_outputs(asked.depth) * BYTES_PER_OUTPUT
    share = rates[0, 0] * traffic / bandwidth
    if asked.folder is not None:
        np.save(asked.folder / "rates.npy", rates)
        np.save(asked.folder / "bandwidth.npy", np.array([bandwidth, traffic, share]))
        return
    place = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU, one thread"
    print(f"ResNet{asked.depth}, {asked.images} images, batches of {asked.batch}, {place}")
    for tool, (per_wall, per_cpu) in zip(("kneelake", "PNG loader"), rates, strict=True):
        print(f"{tool}: {per_wall:,.1f} images/s ({per_cpu:,.1f} per CPU second)")
    print(f"kneelake is {rates[0, 0] / rates[1, 0]:.2f} times as fast")
    print(
        f"copy bandwidth {bandwidth / 1e9:,.0f} GB/s; estimated traffic {traffic / 1e9:.2f} GB an "
        f"image, {100 * share:.0f} % of it"
    )


if __name__ == "__main__":
    main()
