"""Segmentation networks of others, delivered as MONAI bundles.

A bundle is a folder with `configs/metadata.json`, `configs/inference.json` and `models/model.pt`
(docs.monai.io, "MONAI Bundle"). Of it are used: `network_def`, `preprocessing`, `inferer` where
there is one, and the tissue names in `metadata.json`. Weights are loaded as weights only, but a
bundle's configuration can name any Python code: run only bundles you trust.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.image_files import write_volume
from imaging.label_files import file_fingerprint, require_bones
from imaging.labels import LabelVolume, Scheme
from imaging.volume import Volume
from models.segmenters import KneeScan, Source, hashed
from models.tissue_names import scheme_of_names

if TYPE_CHECKING:
    import torch
    from monai.transforms import Compose
    from torch import nn

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
WEIGHTS = "models/model.pt"


@dataclass(frozen=True, eq=False)
class _Bundle:
    network: "nn.Module"
    preprocessing: "Compose"
    inferer: Any


class BundleSegmenter:
    """One bundle, or several of the same classes whose probabilities are averaged."""

    source: Source = "monai_bundle"

    def __init__(self, folders: Sequence[Path], device: str = "cpu") -> None:
        """Look at the bundles; their code runs when first used.

        Args:
            folders: the bundles.
            device: 'cpu' or 'cuda'.

        Raises:
            BadInputError: MISSING_INPUT, UNREADABLE_FILE, UNKNOWN_SCHEME, or bundles whose
                classes differ.
        """
        if not folders:
            raise BadInputError(
                Reason.MISSING_INPUT, "bundle", "is not given", "Give the bundle's folder"
            )
        self._folders = [folder.absolute() for folder in folders]
        self._device = device
        for folder in self._folders:
            for part in (METADATA, INFERENCE, WEIGHTS):
                if not (folder / part).is_file():
                    raise BadInputError(
                        Reason.MISSING_INPUT,
                        short_name(folder / part),
                        "is not there, and a MONAI bundle needs it",
                        f"Give a bundle's folder: {METADATA}, {INFERENCE}, {WEIGHTS}",
                    )
        schemes = [_scheme(folder) for folder in self._folders]
        if any(scheme != schemes[0] for scheme in schemes):
            raise BadInputError(
                Reason.UNKNOWN_SCHEME,
                short_name(self._folders[-1]),
                "has other classes than the bundle before it",
                "Average bundles of the same classes only",
            )
        self._scheme = schemes[0]

    def version(self, _knee_visit: str, /) -> str | None:
        """Hash of the bundles' configuration and weights."""
        return self._version

    @cached_property
    def _version(self) -> str:
        return hashed(
            [
                [file_fingerprint(folder / part) for part in (METADATA, INFERENCE, WEIGHTS)]
                for folder in self._folders
            ]
        )

    def segment(self, scan: KneeScan) -> LabelVolume:
        """Labels in the bundle's own tissues, on the grid of the scan.

        The scan goes through the bundle's own preprocessing, from a NIfTI file as it expects, and
        its probabilities back through the inverse.

        Raises:
            BadInputError: MISSING_BONE where a bone of the bundle is not found; UNREADABLE_FILE
                where its output has other channels than its metadata.
        """
        total: torch.Tensor | None = None
        with TemporaryDirectory(prefix="kneelake-bundle-") as place:
            path = Path(place) / "scan.nii.gz"
            image = scan.volume.array.astype(np.float32)
            write_volume(Volume(image, scan.volume.affine), path)
            for folder, bundle in zip(self._folders, self._bundles, strict=True):
                share = self._probabilities(folder, bundle, path)
                total = share if total is None else total + share
        if total is None:
            raise ValueError("a bundle segmenter has at least one bundle")
        # Files count (column, row, slice).
        values = total.argmax(0).numpy().astype(np.uint8).T
        labels = LabelVolume(np.ascontiguousarray(values), scan.volume.affine, self._scheme)
        require_bones(labels, f"labels of {scan.knee_visit}")
        return labels

    def _probabilities(self, folder: Path, bundle: _Bundle, path: Path) -> "torch.Tensor":
        import torch
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        data = bundle.preprocessing({"image": str(path)})
        with torch.no_grad():
            seen = data["image"][None].to(self._device)
            share = bundle.inferer(inputs=seen, network=bundle.network)[0].float().softmax(0)
        n_class = len(self._scheme.tissues) + len(self._scheme.ignored)
        if share.shape[0] != n_class:
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                short_name(folder),
                f"gives {share.shape[0]} channels where its metadata names {n_class}",
                "Correct channel_def in metadata.json; one channel per class, background first",
            )
        data["pred"] = MetaTensor(torch.as_tensor(share).cpu(), meta=data["image"].meta)
        invert = Invertd("pred", bundle.preprocessing, "image", nearest_interp=False)
        return torch.as_tensor(invert(data)["pred"]).float()

    @cached_property
    def _bundles(self) -> list[_Bundle]:
        return [self._load(folder) for folder in self._folders]

    def _load(self, folder: Path) -> _Bundle:
        import torch
        from monai.bundle import ConfigParser
        from monai.inferers import SimpleInferer

        parser = ConfigParser()
        try:
            parser.read_meta(str(folder / METADATA))
            parser.read_config(str(folder / INFERENCE))
            parser["bundle_root"] = str(folder)
            network = parser.get_parsed_content("network_def")
            preprocessing = parser.get_parsed_content("preprocessing")
            has_inferer = "inferer" in parser
            inferer = parser.get_parsed_content("inferer") if has_inferer else SimpleInferer()
        except Exception as error:
            # Configuration can fail in any way its authors' code can.
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                short_name(folder / INFERENCE),
                f"cannot be read as a bundle: {type(error).__name__}: {str(error)[:200]}",
                "It has to define network_def and preprocessing (key `image`), with packages that "
                "are installed",
            ) from None
        try:
            state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
            network.load_state_dict(state.get("state_dict", state.get("model", state)))
        except Exception as error:
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                short_name(folder / WEIGHTS),
                f"does not hold the weights of network_def: {str(error)[:200]}",
                "Give the model.pt of this bundle, saved as a state_dict",
            ) from None
        return _Bundle(network.to(self._device).eval(), preprocessing, inferer)


def _scheme(folder: Path) -> Scheme:
    """The bundle's classes; channel 0 has to be the background."""
    path = folder / METADATA
    name = short_name(path)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        output = metadata["network_data_format"]["outputs"]["pred"]
        channels = {int(key): str(value) for key, value in output["channel_def"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            name,
            "does not name its classes under network_data_format, outputs, pred, channel_def",
            "Complete metadata.json, such as {'0': 'background', '1': 'femur'}",
        ) from None
    return scheme_of_names("monai_bundle", channels, name)
