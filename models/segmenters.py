"""Where a label can come from besides the user: anything that turns a scan into labels.

`EnsembleSegmenter` runs kneelake's own networks, `monai_bundle.BundleSegmenter` networks of others
in MONAI's bundle format, and `nnunet_output.NnunetOutput` reads what nnU-Net has already written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from imaging.errors import BadInputError, Reason
from imaging.label_files import file_fingerprint, require_same_grid
from imaging.labels import BONES, LabelVolume
from imaging.volume import MIRROR_X, Side, Volume
from models.segmentation_checkpoint import CheckpointMetadata, load_checkpoint, read_metadata
from models.segmentation_inference import (
    InferenceOptions,
    Network,
    ensemble_probabilities,
    most_probable,
)
from models.segmentation_postprocessing import Postprocessing, label_volume
from models.segmentation_preparation import Prepared, Spacing, prepare
from models.vnet import TASKS, TaskName

Source = Literal["ensemble", "monai_bundle", "nnunet"]


@dataclass(frozen=True, eq=False)
class KneeScan:
    """The structural scan of a knee-visit.

    Attributes:
        volume: its image.
        side: of the knee.
        knee_visit: `<subject_id>_<side>_<timepoint>`.
    """

    volume: Volume
    side: Side
    knee_visit: str


class Segmenter(Protocol):
    """Turns the structural scan of a knee-visit into labels."""

    @property
    def source(self) -> Source:
        """What kind it is, for the lake."""
        ...

    def version(self, knee_visit: str, /) -> str | None:
        """Hash of all the answer depends on besides the scan; None where there is no answer.

        Raises:
            BadInputError: the segmenter itself cannot be used.
        """
        ...

    def segment(self, scan: KneeScan) -> LabelVolume:
        """Labels on the grid of the scan, in any scheme.

        Raises:
            BadInputError: this scan cannot be segmented.
        """
        ...


def hashed(*words: object) -> str:
    """SHA-256 of values that JSON can say."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


class EnsembleSegmenter:
    """kneelake's own ensembles: bones and cartilages, each averaged over its networks.

    A left knee is mirrored for the networks and back. Networks stay loaded; one scan at a time.
    """

    source: Source = "ensemble"

    def __init__(
        self,
        checkpoints: Sequence[Path],
        inference: InferenceOptions | None = None,
        postprocessing: Postprocessing | None = None,
    ) -> None:
        """Open the ensembles; their weights are read when first used.

        Args:
            checkpoints: of both tasks, in any order; see `segmentation_training`.
            inference: windows and device; None for the defaults.
            postprocessing: closing and specks; None for the defaults.

        Raises:
            BadInputError: a file is not a checkpoint, or a task has no network.
        """
        self._paths = sorted(checkpoints)
        self._inference = inference or InferenceOptions()
        self._postprocessing = postprocessing or Postprocessing()
        self._metadata = {path: read_metadata(path) for path in self._paths}
        self._spacing = {task: _common_spacing(task, self._metadata) for task in TASKS}

    @cached_property
    def ensemble_hash(self) -> str:
        """Hash of the networks and of how they are run; the device is no part of it."""
        inference = asdict(self._inference)
        for name in ("device", "windows_at_once"):
            del inference[name]
        files = sorted(file_fingerprint(path) for path in self._paths)
        return hashed(files, inference, asdict(self._postprocessing))

    def version(self, _knee_visit: str, /) -> str | None:
        """The ensemble's hash, the same for every knee-visit."""
        return self.ensemble_hash

    def segment(self, scan: KneeScan) -> LabelVolume:
        """Labels in scheme `kneelake` on the grid of the scan.

        Raises:
            BadInputError: NOT_AN_IMAGE for a scan without contrast, MISSING_BONE where a bone is
                not found.
        """
        labels = self.found(scan)
        _require_found(labels, scan.knee_visit)
        return labels

    def found(self, scan: KneeScan) -> LabelVolume:
        """What the networks find, bones that they miss and all.

        Raises:
            BadInputError: NOT_AN_IMAGE for a scan without contrast.
        """
        prepared: dict[Spacing | None, Prepared] = {}
        classes = {}
        for task in TASKS:
            spacing = self._spacing[task]
            if spacing not in prepared:
                prepared[spacing] = _prepared(scan, spacing)
            seen = prepared[spacing]
            share = ensemble_probabilities(seen.image, self._networks[task], self._inference)
            classes[task] = most_probable(share, seen.native_shape)
        affine = next(iter(prepared.values())).native_affine
        framed = label_volume(classes["bone"], classes["cartilage"], affine, self._postprocessing)
        # Out of the knee frame: a left knee was mirrored into it.
        back = MIRROR_X @ affine if scan.side == "LEFT" else affine
        return require_same_grid(
            LabelVolume(framed.array, back, framed.scheme),
            scan.volume,
            f"labels of {scan.knee_visit}",
        )

    @cached_property
    def _networks(self) -> Mapping[TaskName, Sequence[Network]]:
        found: dict[TaskName, list[Network]] = {task: [] for task in TASKS}
        for path in self._paths:
            module, metadata = load_checkpoint(path)
            found[metadata.member.task].append(Network(metadata.member, module))
        return found


def _require_found(labels: LabelVolume, knee_visit: str) -> None:
    """The networks know every bone, so a bone they do not find is a failure of theirs."""
    missing = [bone for bone in BONES if not labels.bone(bone).any()]
    if missing:
        raise BadInputError(
            Reason.MISSING_BONE,
            f"DESS of {knee_visit}",
            f"is a scan in which the networks found no {' and no '.join(missing)}",
            "Look at the scan and deliver a label of it, or train the networks on more scans",
        )


def _common_spacing(task: TaskName, metadata: Mapping[Path, CheckpointMetadata]) -> Spacing | None:
    """The voxel size all networks of a task were trained at."""
    spacings = {
        about.spacing_mm: path for path, about in metadata.items() if about.member.task == task
    }
    if not spacings:
        raise BadInputError(
            Reason.MISSING_INPUT,
            next(iter(metadata), Path("no checkpoint")).name,
            f"comes without a network for {task}",
            "Give the checkpoints of both ensembles, bone and cartilage",
        )
    if len(spacings) > 1:
        raise BadInputError(
            Reason.BAD_VALUE,
            sorted(spacings.values())[-1].name,
            f"was trained at other voxels than the rest of the {task} ensemble: "
            f"{sorted(map(str, spacings))}",
            "Use networks of one training run",
        )
    return next(iter(spacings))


def _prepared(scan: KneeScan, spacing: Spacing | None) -> Prepared:
    try:
        return prepare(scan.volume, scan.side, spacing)
    except ValueError as error:
        raise BadInputError(
            Reason.NOT_AN_IMAGE,
            f"DESS of {scan.knee_visit}",
            f"cannot be segmented: {error}",
            "Look at the scan; leave this knee out if it is empty",
        ) from None
