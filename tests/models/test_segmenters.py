"""Labels from checkpoints, MONAI bundles and nnU-Net folders, and what is told of bad ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imaging.errors import BadInputError, Reason
from imaging.label_files import write_labels
from imaging.labels import LabelVolume, Tissue, load_scheme
from imaging.volume import Volume
from models.monai_bundle import BundleSegmenter
from models.nnunet_output import NnunetOutput, scheme_of_dataset
from models.segmentation_checkpoint import (
    CheckpointMetadata,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
)
from models.segmenters import EnsembleSegmenter, KneeScan
from models.vnet import Member, build_network

KNEE_VISIT = "1000001_RIGHT_V00"
_TILT = np.deg2rad(4.0)
AFFINE = np.eye(4)
AFFINE[:3, 0] = 1.5 * np.array([-np.cos(_TILT), np.sin(_TILT), 0.0])
AFFINE[:3, 1] = 0.8 * np.array([0.0, 0.0, -1.0])
AFFINE[:3, 2] = 0.8 * np.array([np.sin(_TILT), np.cos(_TILT), 0.0])
AFFINE[:3, 3] = (40.0, 20.0, 10.0)
LEVELS = {1: 400, 2: 800, 3: 1200}
"""Brightness of femur, tibia and patella in the scans here; a threshold is a network enough."""


def _knee() -> tuple[Volume, np.ndarray]:
    """A scan of three bright boxes, and which is which."""
    truth = np.zeros((20, 30, 36), np.uint8)
    truth[2:18, 1:12, 2:26] = 1
    truth[2:18, 17:28, 2:26] = 2
    truth[5:15, 5:23, 28:35] = 3
    image = np.zeros(truth.shape, np.int16)
    for value, level in LEVELS.items():
        image[truth == value] = level
    return Volume(image, AFFINE), truth


def _metadata(member: Member) -> CheckpointMetadata:
    return CheckpointMetadata(member, (1.5, 0.8, 0.8), (16, 32, 32), "data", 7, 100, 0.9, {"a": 1})


def _checkpoint(folder: Path, member: Member) -> Path:
    torch.manual_seed(0)
    path = folder / f"{member.name}.safetensors"
    save_checkpoint(path, build_network(member), _metadata(member))
    return path


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    member = Member("bone", 2, "dice", "reduced")
    path = _checkpoint(tmp_path, member)
    network, metadata = load_checkpoint(path)
    assert metadata == _metadata(member)
    assert not network.training
    torch.manual_seed(0)
    image = torch.randn(1, 1, 32, 32)
    torch.manual_seed(0)
    fresh = build_network(member).eval()
    torch.testing.assert_close(network(image), fresh(image), rtol=0, atol=0)
    before = path.read_bytes()
    _checkpoint(tmp_path, member)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    reduced = Member("bone", 2, "dice", "reduced")
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, build_network(reduced), _metadata(replace(reduced, task="cartilage")))
    with pytest.raises(BadInputError, match=r"another architecture than cartilage-reduced-2d-dice"):
        load_checkpoint(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(BadInputError, match="is not a checkpoint of a kneelake segmentation"):
        read_metadata(path)


def test_an_ensemble_needs_both_tasks_and_one_voxel_size(tmp_path: Path) -> None:
    bone = _checkpoint(tmp_path, Member("bone", 2, "dice", "reduced"))
    cartilage = _checkpoint(tmp_path, Member("cartilage", 2, "dice", "reduced"))
    with pytest.raises(BadInputError, match="without a network for cartilage"):
        EnsembleSegmenter([bone])
    other = Member("bone", 2, "focal", "reduced")
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, build_network(other), replace(_metadata(other), spacing_mm=None))
    with pytest.raises(BadInputError, match="other voxels than the rest of the bone ensemble"):
        EnsembleSegmenter([bone, cartilage, path])
    both = EnsembleSegmenter([bone, cartilage])
    assert both.version("any") == EnsembleSegmenter([cartilage, bone]).version("other")


BUNDLE_METADATA = {
    "version": "0.1.0",
    "monai_version": "1.6.1",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1}},
        "outputs": {
            "pred": {
                "num_channels": 4,
                "channel_def": {"0": "background", "1": "Femur", "2": "tibia", "3": "patella"},
            }
        },
    },
}
BUNDLE_INFERENCE = {
    "network_def": {
        "_target_": "monai.networks.blocks.Convolution",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 4,
        "kernel_size": 1,
        "conv_only": True,
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": [0.8, 0.8, 1.5],
                "mode": "nearest",
            },
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 400,
             "b_min": 0, "b_max": 1},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 16],
        "sw_batch_size": 2,
        "overlap": 0.25,
    },
}  # fmt: skip


def _bundle(folder: Path, *, metadata: dict | None = None, channels: int = 4) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata or BUNDLE_METADATA))
    (folder / "configs" / "inference.json").write_text(json.dumps(BUNDLE_INFERENCE))
    # Logit of class k at brightness x: 2 k x - k^2, the largest where k is nearest to x.
    k = torch.arange(channels, dtype=torch.float32)
    weights = {"conv.weight": 20 * k.view(-1, 1, 1, 1, 1), "conv.bias": -10 * k**2}
    torch.save(weights, folder / "models" / "model.pt")
    return folder


def test_a_bundle_runs_through_its_own_preprocessing_and_back(tmp_path: Path) -> None:
    scan, truth = _knee()
    segmenter = BundleSegmenter([_bundle(tmp_path / "a"), _bundle(tmp_path / "b")])
    labels = segmenter.segment(KneeScan(scan, "RIGHT", KNEE_VISIT))
    np.testing.assert_allclose(labels.affine, AFFINE)
    assert labels.array.shape == truth.shape
    for value, tissue in enumerate((Tissue.FEMUR, Tissue.TIBIA, Tissue.PATELLA), 1):
        mask = labels.mask(tissue)
        overlap = 2 * (mask & (truth == value)).sum() / (mask.sum() + (truth == value).sum())
        # The grid is oblique, so the way to its spacing and back is not exact at the edges.
        assert overlap > 0.9
    assert segmenter.version(KNEE_VISIT) != BundleSegmenter([tmp_path / "a"]).version(KNEE_VISIT)


def test_what_is_wrong_with_a_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"a MONAI bundle needs it"):
        BundleSegmenter([tmp_path])
    strange = json.loads(json.dumps(BUNDLE_METADATA).replace("patella", "spleen"))
    with pytest.raises(BadInputError, match=r"no known tissue: 3 = 'spleen'") as caught:
        BundleSegmenter([_bundle(tmp_path / "strange", metadata=strange)])
    assert caught.value.reason == Reason.UNKNOWN_SCHEME
    wrong = BundleSegmenter([_bundle(tmp_path / "wrong", channels=3)])
    scan, _ = _knee()
    with pytest.raises(BadInputError, match="does not hold the weights of network_def"):
        wrong.segment(KneeScan(scan, "RIGHT", KNEE_VISIT))


def _nnunet(folder: Path, labels: dict[str, object], array: np.ndarray | None = None) -> Path:
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    volume = Volume(_knee()[1] if array is None else array, AFFINE)
    write_labels(LabelVolume(volume.array, AFFINE, load_scheme("oai-zib")),
                 folder / f"{KNEE_VISIT}.nii.gz")  # fmt: skip
    return folder


def test_nnunets_output_is_read_by_its_own_names(tmp_path: Path) -> None:
    names = {"background": 0, "Femur": 1, "tibia": 2, "patella_bone": 3}
    segmenter = NnunetOutput(_nnunet(tmp_path / "out", names))
    assert segmenter.knee_visits == (KNEE_VISIT,)
    assert segmenter.version("1000002_RIGHT_V00") is None
    scan, truth = _knee()
    labels = segmenter.segment(KneeScan(scan, "RIGHT", KNEE_VISIT))
    np.testing.assert_array_equal(labels.mask(Tissue.PATELLA), truth == 3)
    # Version 1 of nnU-Net says it the other way round.
    first = scheme_of_dataset(
        _nnunet(tmp_path / "v1", {"0": "background", "1": "femur", "2": "tibia", "3": "patella"})
    )
    assert first == scheme_of_dataset(tmp_path / "out")


def test_what_is_wrong_with_nnunets_output_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no known tissue: 2 = 'liver'") as caught:
        NnunetOutput(_nnunet(tmp_path / "liver", {"background": 0, "femur": 1, "liver": 2}))
    assert caught.value.reason == Reason.UNKNOWN_SCHEME
    assert "scheme.toml" in caught.value.remedy
    # Region-based training gives overlapping lists, which one value cannot say.
    with pytest.raises(BadInputError, match="no `labels` that give each name one value"):
        NnunetOutput(_nnunet(tmp_path / "regions", {"background": 0, "femur": [1, 2]}))
    unknown = _knee()[1]
    unknown[0, 0, 0] = 9
    names: dict[str, object] = {"background": 0, "femur": 1, "tibia": 2, "patella": 3}
    folder = NnunetOutput(_nnunet(tmp_path / "nine", names, unknown))
    with pytest.raises(BadInputError, match="does not know: 9"):
        folder.segment(KneeScan(_knee()[0], "RIGHT", KNEE_VISIT))
    (tmp_path / "nine" / f"{KNEE_VISIT}.nii.gz").rename(tmp_path / "nine" / "case_01.nii.gz")
    with pytest.raises(BadInputError, match="named by its knee-visit"):
        NnunetOutput(tmp_path / "nine")


def test_a_scheme_can_stand_in_for_dataset_json(tmp_path: Path) -> None:
    folder = _nnunet(tmp_path / "out", {"background": 0, "a": 1, "b": 2, "c": 3})
    scheme = tmp_path / "mine.toml"
    scheme.write_text("[tissues]\nfemur = 1\ntibia = 2\npatella = 3\n")
    scan, truth = _knee()
    labels = NnunetOutput(folder, str(scheme)).segment(KneeScan(scan, "RIGHT", KNEE_VISIT))
    np.testing.assert_array_equal(labels.mask(Tissue.TIBIA), truth == 2)
