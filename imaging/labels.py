"""Label volumes and the tissue map (scheme) that gives their values a meaning."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadInputError, Reason
from imaging.volume import Volume

Bone = Literal["femur", "tibia", "patella"]
BONES: tuple[Bone, ...] = ("femur", "tibia", "patella")
COMPARTMENTS = ("whole", "medial", "lateral")
"""The parts of a bone that biomarkers are averaged over; see `imaging.compartments`."""


class Tissue(StrEnum):
    """What a label value can mean. A scheme may split a tissue or leave it out."""

    FEMUR = "femur"
    TIBIA = "tibia"
    PATELLA = "patella"
    FIBULA = "fibula"
    FEMORAL_CARTILAGE = "femoral_cartilage"
    TIBIAL_CARTILAGE = "tibial_cartilage"
    MEDIAL_TIBIAL_CARTILAGE = "medial_tibial_cartilage"
    LATERAL_TIBIAL_CARTILAGE = "lateral_tibial_cartilage"
    PATELLAR_CARTILAGE = "patellar_cartilage"
    MENISCUS = "meniscus"
    MEDIAL_MENISCUS = "medial_meniscus"
    LATERAL_MENISCUS = "lateral_meniscus"


BONE_TISSUE: Mapping[Bone, Tissue] = {
    "femur": Tissue.FEMUR,
    "tibia": Tissue.TIBIA,
    "patella": Tissue.PATELLA,
}
"""The tissue of each bone."""

CARTILAGE_TISSUES: Mapping[Bone, tuple[Tissue, ...]] = {
    "femur": (Tissue.FEMORAL_CARTILAGE,),
    "tibia": (
        Tissue.TIBIAL_CARTILAGE,
        Tissue.MEDIAL_TIBIAL_CARTILAGE,
        Tissue.LATERAL_TIBIAL_CARTILAGE,
    ),
    "patella": (Tissue.PATELLAR_CARTILAGE,),
}
"""The tissues that make up the cartilage of each bone."""


@dataclass(frozen=True)
class Scheme:
    """A tissue map: label value -> tissue.

    Attributes:
        name: as given to `--scheme`.
        tissues: what each value means; values not named are refused.
        ignored: values that are legal and stand for nothing kneelake measures.
        optional: tissues that not every file of this source has.
    """

    name: str
    tissues: Mapping[int, Tissue]
    ignored: frozenset[int] = frozenset({0})
    optional: frozenset[Tissue] = frozenset()

    @property
    def bones(self) -> tuple[Bone, ...]:
        """The bones this scheme can name."""
        named = set(self.tissues.values())
        return tuple(bone for bone in BONES if BONE_TISSUE[bone] in named)

    @property
    def required_bones(self) -> tuple[Bone, ...]:
        """The bones every file of this source has."""
        return tuple(bone for bone in self.bones if BONE_TISSUE[bone] not in self.optional)

    def values(self, wanted: Iterable[Tissue]) -> list[int]:
        """The label values that stand for any of the wanted tissues."""
        wanted = set(wanted)
        return [value for value, tissue in self.tissues.items() if tissue in wanted]


@dataclass(frozen=True, eq=False)
class LabelVolume(Volume):
    """A label volume with its tissue map.

    Attributes:
        array: integer label values, shape (n_slice, n_row, n_column).
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
        scheme: what the values mean.
    """

    scheme: Scheme

    def mask(self, *wanted: Tissue) -> NDArray[np.bool_]:
        """Where any of the wanted tissues lies; all False where the scheme has none of them."""
        values = self.scheme.values(wanted)
        if self.array.dtype == np.uint8:
            chosen = np.zeros(256, dtype=bool)
            chosen[[value for value in values if value < 256]] = True
            return chosen[self.array]
        return np.isin(self.array, values)

    def bone(self, bone: Bone) -> NDArray[np.bool_]:
        """Where a bone lies."""
        return self.mask(BONE_TISSUE[bone])

    def cartilage(self, bone: Bone) -> NDArray[np.bool_]:
        """Where the cartilage of a bone lies, however the scheme splits it."""
        return self.mask(*CARTILAGE_TISSUES[bone])


def load_scheme(name: str) -> Scheme:
    """A shipped scheme by name, or a user's own TOML file by path.

    The file has a table `[tissues]` of `<tissue> = <value>` (or a list of values) and may have
    `ignored = [values]` and `optional = [tissues]`.

    Raises:
        BadInputError: unknown name or tissue, a value given twice, or an unreadable file.
    """
    shipped = resources.files("imaging") / "schemes"
    names = sorted(entry.name[:-5] for entry in shipped.iterdir() if entry.name.endswith(".toml"))
    try:
        if name in names:
            content = (shipped / f"{name}.toml").read_text(encoding="utf-8")
        elif name.endswith(".toml") and Path(name).is_file():
            content = Path(name).read_text(encoding="utf-8")
        else:
            raise BadInputError(
                Reason.UNKNOWN_SCHEME,
                name,
                "is neither a shipped scheme nor a TOML file",
                f"Use one of {', '.join(names)}, or the path of a .toml file",
            )
        return _parse_scheme(Path(name).stem, tomllib.loads(content))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadInputError(
            Reason.UNKNOWN_SCHEME,
            Path(name).name,
            f"cannot be read as a tissue map ({error})",
            "Write a [tissues] table of `<tissue> = <value>` with tissues among "
            + ", ".join(Tissue),
        ) from error


def _parse_scheme(name: str, content: Mapping[str, Any]) -> Scheme:
    """A scheme from its TOML tables; ValueError where they contradict themselves."""
    unknown = set(content) - {"tissues", "ignored", "optional"}
    if unknown:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    tissues: dict[int, Tissue] = {}
    for tissue, values in content["tissues"].items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{tissue}: values are whole numbers from 1 on, not {value!r}")
            if value in tissues:
                raise ValueError(f"value {value} stands for both {tissues[value]} and {tissue}")
            tissues[value] = Tissue(tissue)
    if not tissues:
        raise ValueError("no tissue is named")
    ignored = frozenset(int(value) for value in content.get("ignored", [])) | {0}
    if ignored & set(tissues):
        raise ValueError("a value is both ignored and a tissue")
    optional = frozenset(Tissue(tissue) for tissue in content.get("optional", []))
    return Scheme(name, tissues, ignored, optional)
