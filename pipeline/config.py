"""Where things lie, with how many processes, and what the numbers depend on."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imaging.knee import MapParameters
from models.errors import ModelError
from models.gradcam import Explanation

Step = Literal[
    "ingest",
    "clinical",
    "published",
    "statistics",
    "segmentation_networks",
    "network_labels",
    "segmentation",
    "maps",
    "ranges",
    "images",
    "classifiers",
    "sweep",
    "predictions",
    "atlas",
    "correspondence",
    "atlas_maps",
    "guided",
    "controls",
]

CODE_VERSION: Mapping[Step, str] = {
    "ingest": "1",
    "clinical": "1",
    "published": "1",
    "statistics": "2",
    "segmentation_networks": "1",
    "network_labels": "1",
    "segmentation": "1",
    "maps": "1",
    "ranges": "1",
    "images": "1",
    "classifiers": "1",
    "sweep": "1",
    "predictions": "1",
    "atlas": "1",
    "correspondence": "3",
    "atlas_maps": "1",
    "guided": "1",
    "controls": "1",
}
"""Version of each step's code. Raised by hand when its numbers change: all knees of that step are
then pending again."""

FIGURES_FOLDER = "figures"
"""Below a lake: what assets draw, and tables for people; of its own rows, to be written again."""

WORKER_MEMORY_BYTES = 2 * 1024**3
"""What one worker may need: a knee of full resolution takes about 1.5 GB."""


@dataclass(frozen=True)
class Settings:
    """One lake, its inbox and how to work on them.

    Attributes:
        lake_root: the lake's folder.
        inbox: where deliveries lie. Holds identifiable data; the private locator lies there too.
        scheme: tissue map of labels that do not name theirs: a shipped name or a .toml file.
        workers: processes at most.
        maps: what the numbers depend on.
        segmenter: what labels scans that came without a label: '' nothing, `ensemble` the networks
            trained here, `monai_bundle:FOLDER` (several folders separated by the path separator
            are averaged) or `nnunet:FOLDER`.
        segmentation_preset: of training segmentation networks: '' none are trained, 'demo' or
            'paper'.
        classifier_preset: of training classifiers: '' none are trained, 'demo' or 'paper'.
        sweep_preset: of the search for hyperparameters, likewise.
        imagenet_weights: file of a network's ImageNet weights, by network (`resnet50`).
        device: networks run on: 'cpu', 'cuda', or 'auto': a GPU where there is one.
        n_permutations: rearrangements behind family-wise p-values of maps compared on the atlas.
        explanation: how the evidence of chronic pain and OA is read off the networks: the paper's
            Grad-CAM at the last block, or another of `models.gradcam.Explanation`.
        min_models_correct: the k of "correct by k of 18" that makes the groups of Fig. 1; 18 is the
            paper's intersection.
    """

    lake_root: Path = Path("lake_data")
    inbox: Path = Path("inbox")
    scheme: str = "mskt"
    workers: int = 1
    maps: MapParameters = field(default_factory=MapParameters)
    segmenter: str = ""
    segmentation_preset: str = ""
    classifier_preset: str = ""
    sweep_preset: str = ""
    imagenet_weights: Mapping[str, Path] = field(default_factory=dict)
    device: str = "auto"
    n_permutations: int = 5000
    min_models_correct: int = 18
    explanation: Explanation = field(default_factory=Explanation)

    @classmethod
    def from_environment(cls, **overrides: Any) -> "Settings":
        """Settings of the environment.

        KNEELAKE_ROOT, KNEELAKE_INBOX, KNEELAKE_SCHEME, KNEELAKE_WORKERS, KNEELAKE_SEGMENTER,
        KNEELAKE_SEGMENTATION_PRESET, KNEELAKE_CLASSIFIER_PRESET, KNEELAKE_SWEEP_PRESET,
        KNEELAKE_DEVICE, KNEELAKE_PERMUTATIONS, KNEELAKE_MIN_MODELS_CORRECT,
        KNEELAKE_EXPLANATION (`grad_cam:layer4`) and KNEELAKE_IMAGENET_WEIGHTS
        (`resnet50=FILE,resnet18=FILE`).

        Args:
            **overrides: any attribute; None leaves it to the environment.

        Raises:
            ValueError: KNEELAKE_WORKERS, KNEELAKE_PERMUTATIONS or KNEELAKE_MIN_MODELS_CORRECT is no
                whole number in range, KNEELAKE_DEVICE is no device, KNEELAKE_EXPLANATION no way to
                read evidence, or KNEELAKE_IMAGENET_WEIGHTS names no file by network.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        return cls(
            lake_root=Path(given.pop("lake_root", os.environ.get("KNEELAKE_ROOT", "lake_data"))),
            inbox=Path(given.pop("inbox", os.environ.get("KNEELAKE_INBOX", "inbox"))),
            scheme=given.pop("scheme", os.environ.get("KNEELAKE_SCHEME", "mskt")),
            workers=_workers(given.pop("workers", os.environ.get("KNEELAKE_WORKERS"))),
            segmenter=given.pop("segmenter", os.environ.get("KNEELAKE_SEGMENTER", "")),
            segmentation_preset=given.pop(
                "segmentation_preset", os.environ.get("KNEELAKE_SEGMENTATION_PRESET", "")
            ),
            classifier_preset=given.pop(
                "classifier_preset", os.environ.get("KNEELAKE_CLASSIFIER_PRESET", "")
            ),
            sweep_preset=given.pop("sweep_preset", os.environ.get("KNEELAKE_SWEEP_PRESET", "")),
            imagenet_weights=given.pop(
                "imagenet_weights",
                _imagenet_weights(os.environ.get("KNEELAKE_IMAGENET_WEIGHTS", "")),
            ),
            device=_device(given.pop("device", os.environ.get("KNEELAKE_DEVICE", "auto"))),
            n_permutations=_whole(given, "n_permutations", "KNEELAKE_PERMUTATIONS", (20, 10**6)),
            min_models_correct=_whole(
                given, "min_models_correct", "KNEELAKE_MIN_MODELS_CORRECT", (1, 18)
            ),
            explanation=_explanation(
                given.pop("explanation", os.environ.get("KNEELAKE_EXPLANATION"))
            ),
            **given,
        )


def _workers(asked: str | int | None) -> int:
    if asked is None or asked == "":
        return default_workers()
    text = str(asked)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"KNEELAKE_WORKERS is {text!r}; give a whole number from 1 on")
    return int(text)


def _explanation(asked: str | Explanation | None) -> Explanation:
    if isinstance(asked, Explanation):
        return asked
    try:
        return Explanation.of(asked) if asked else Explanation()
    except ModelError as error:
        raise ValueError(f"KNEELAKE_EXPLANATION: {error}") from error


def _whole(given: dict[str, Any], name: str, variable: str, limits: tuple[int, int]) -> int:
    """A whole number as given, else of the environment, else the default."""
    text = str(given.pop(name, os.environ.get(variable) or getattr(Settings, name)))
    low, high = limits
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{variable} is {text!r}; give a whole number from {low} to {high}")
    return int(text)


def _imagenet_weights(text: str) -> dict[str, Path]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if any(not (name and path) for name, _, path in pairs):
        raise ValueError(
            f"KNEELAKE_IMAGENET_WEIGHTS is {text!r}; write resnet50=FILE,resnet18=FILE"
        )
    return {name: Path(path) for name, _, path in pairs}


def _device(asked: str) -> str:
    if asked not in {"auto", "cpu", "cuda"}:
        raise ValueError(f"KNEELAKE_DEVICE is {asked!r}; use auto, cpu or cuda")
    return asked


def default_workers() -> int:
    """As many processes as there are cores and memory for, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _available_memory_bytes() // WORKER_MEMORY_BYTES))


def _available_memory_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines if " kB" in line}
        available = found["MemAvailable"] * 1024
    except (OSError, KeyError):
        # Not Linux: half of what is built in.
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(available, int(text)) if text.isdecimal() else available


def config_hash(settings: Settings, step: Step = "maps") -> str:
    """SHA-256 of the parameters a step's numbers depend on; paths and workers are none of them.

    Only maps has parameters: a label is checked the same way whatever is measured on it.
    """
    parameters = dataclasses.asdict(settings.maps) if step == "maps" else {}
    canonical = json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
