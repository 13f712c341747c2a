"""What nnU-Net has written: a folder of label files, and `dataset.json` with their meaning.

nnU-Net itself is not run: `nnUNetv2_predict` writes the folder, on whatever machine. Cases have to
be named by knee-visit, such as `1000001_RIGHT_V00.nii.gz`.
"""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.label_files import (
    LABEL_SUFFIXES,
    file_fingerprint,
    read_labels,
    require_bones,
    require_same_grid,
)
from imaging.labels import LabelVolume, Scheme, load_scheme
from models.segmenters import KneeScan, Source, hashed
from models.tissue_names import scheme_of_names

_KNEE_VISIT = re.compile(r"(?<!\d)([1-9]\d{6}_(?:RIGHT|LEFT)_V\d\d)(?!\d)")


class NnunetOutput:
    """A folder nnU-Net wrote, as a segmenter of the knee-visits it holds."""

    source: Source = "nnunet"

    def __init__(self, folder: Path, scheme: str | None = None) -> None:
        """Look at the folder.

        Args:
            folder: with `dataset.json` and one label file per case.
            scheme: a tissue map in place of the names in `dataset.json`: a shipped name or the
                path of a .toml file.

        Raises:
            BadInputError: MISSING_INPUT; UNKNOWN_SCHEME for labels that are no known tissue;
                UNKNOWN_KNEE_VISIT where no file is named by knee-visit; DUPLICATE_KEY.
        """
        if not folder.is_dir():
            raise BadInputError(
                Reason.MISSING_INPUT, short_name(folder), "is not a folder", "Check the path"
            )
        self._folder = folder
        self._scheme = load_scheme(scheme) if scheme else scheme_of_dataset(folder)
        self._files = self._by_knee_visit()

    @property
    def knee_visits(self) -> tuple[str, ...]:
        """The knee-visits there are files of."""
        return tuple(sorted(self._files))

    def version(self, knee_visit: str, /) -> str | None:
        """Hash of the file and of its tissue map; None where there is no file."""
        file = self._files.get(knee_visit)
        return None if file is None else hashed(file_fingerprint(file), self._meaning)

    def segment(self, scan: KneeScan) -> LabelVolume:
        """The labels of the file, in the folder's own scheme, on the grid of the scan.

        Raises:
            BadInputError: what `read_labels`, `require_bones` and `require_same_grid` raise;
                MISSING_INPUT where there is no file.
        """
        file = self._files.get(scan.knee_visit)
        if file is None:
            raise BadInputError(
                Reason.MISSING_INPUT,
                short_name(self._folder),
                f"has no file of {scan.knee_visit}",
                "Run nnU-Net on its scan",
            )
        labels = read_labels(file, self._scheme, scan.volume)
        require_bones(labels, file)
        return require_same_grid(labels, scan.volume, file)

    @cached_property
    def _meaning(self) -> list[Any]:
        ignored = sorted(self._scheme.ignored)
        return [sorted((value, str(one)) for value, one in self._scheme.tissues.items()), ignored]

    def _by_knee_visit(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for file in sorted(self._folder.iterdir()):
            name = _KNEE_VISIT.search(file.name)
            if name is None or not file.name.lower().endswith(LABEL_SUFFIXES):
                continue
            if name[1] in found:
                raise BadInputError(
                    Reason.DUPLICATE_KEY,
                    short_name(file),
                    f"is of {name[1]}, as is {found[name[1]].name}",
                    "Keep one file per knee-visit",
                )
            found[name[1]] = file
        if not found:
            raise BadInputError(
                Reason.UNKNOWN_KNEE_VISIT,
                short_name(self._folder),
                "has no label file that is named by its knee-visit",
                "Name cases <subject>_<SIDE>_<timepoint>, such as 1000001_RIGHT_V00.nii.gz",
            )
        return found


def scheme_of_dataset(folder: Path) -> Scheme:
    """The tissue map that `dataset.json` of an nnU-Net folder says, of version 1 or 2.

    Raises:
        BadInputError: MISSING_INPUT, UNREADABLE_FILE, or UNKNOWN_SCHEME.
    """
    path = folder / "dataset.json"
    name = short_name(path)
    if not path.is_file():
        raise BadInputError(
            Reason.MISSING_INPUT,
            name,
            "is not there, so nothing says what the values mean",
            "Copy dataset.json from the trained model, or give a scheme",
        )
    try:
        labels: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        values = dict(_value_and_name(key, value) for key, value in labels.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            name,
            "has no `labels` that give each name one value",
            "Copy dataset.json from the trained model, or give a scheme",
        ) from None
    return scheme_of_names("nnunet", values, name)


def _value_and_name(key: str, value: Any) -> tuple[int, str]:
    # Version 2 says {"femur": 1}, version 1 {"1": "femur"}; regions are lists and overlap.
    if isinstance(value, str):
        return int(key), value
    return int(value), key
