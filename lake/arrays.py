"""Arrays of many knees as immutable Zarr v3 parts, whatever they hold.

A part is a Zarr group named for its content: named variables, each with named dimensions, of which
the first of what belongs to knees is `knee`, and the knees' names as its coordinate. Parts of a
collection lie at `<collection>/timepoint=<visit>/bone=<bone>/part-<hash>.zarr`; a table whose
`parts` names the collection says in columns `part` and `row` where a knee lies. Spherical maps have
a part format of their own (`lake.maps`). Same input, same bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from lake.errors import LakeError
from lake.files import fsync_tree

if TYPE_CHECKING:
    import zarr

KNEE = "knee"
"""Name of the dimension of knees, and of the coordinate that names them."""

_NUMBERS = "biuf"


@dataclass(frozen=True, eq=False)
class Variable:
    """One array of a part.

    Attributes:
        values: numbers; the first axis is the knees where the first dimension is `knee`.
        dimensions: one name per axis.
        attributes: plain JSON values; `units` and `long_name` are expected of data.
    """

    values: NDArray
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ArrayPart:
    """Arrays of one bone of one or more knees.

    Attributes:
        bone: the bone.
        knee_visits: names, in the order of the arrays.
        variables: by name.
        attributes: of the whole part: parameters, code version; plain JSON values.
        knees_per_chunk: knees stored as one piece. 1 makes a knee cheap to read by itself, many
            make the whole part fast to read.

    Raises:
        LakeError: no knees or one twice, shapes that do not agree, or values that are no numbers.
    """

    bone: Bone
    knee_visits: tuple[str, ...]
    variables: Mapping[str, Variable]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    knees_per_chunk: int = 1

    def __post_init__(self) -> None:
        if self.bone not in BONES:
            raise LakeError(f"{self.bone} is not a bone; use one of {', '.join(BONES)}")
        if not self.knee_visits or len(set(self.knee_visits)) != len(self.knee_visits):
            raise LakeError("a part holds at least one knee, and each of them once")
        if KNEE in self.variables or not self.variables:
            raise LakeError(f"a part needs variables, and none of them is called {KNEE}")
        if self.knees_per_chunk < 1:
            raise LakeError(f"knees_per_chunk is {self.knees_per_chunk}; use 1 or more")
        sizes = {KNEE: len(self.knee_visits)}
        for name, variable in self.variables.items():
            if variable.values.dtype.kind not in _NUMBERS:
                raise LakeError(f"{name} holds {variable.values.dtype}; parts hold numbers")
            if len(variable.dimensions) != variable.values.ndim:
                raise LakeError(
                    f"{name} has shape {variable.values.shape} and dimensions "
                    f"{', '.join(variable.dimensions)}; name every axis"
                )
            for dimension, size in zip(variable.dimensions, variable.values.shape, strict=True):
                if sizes.setdefault(dimension, size) != size:
                    raise LakeError(
                        f"{name} has {size} along {dimension}, others have {sizes[dimension]}"
                    )

    @property
    def content_hash(self) -> str:
        """SHA-256 over everything the part holds, shortened to 20 digits."""
        digest = hashlib.sha256()
        described = {
            name: [variable.dimensions, dict(variable.attributes)]
            for name, variable in self.variables.items()
        }
        plain = [self.bone, self.knee_visits, described, dict(self.attributes)]
        digest.update(json.dumps(plain, sort_keys=True).encode())
        for name in sorted(self.variables):
            values = np.ascontiguousarray(self.variables[name].values)
            digest.update(f"{values.dtype.str}{values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()[:20]


def _layout(part: ArrayPart, variable: Variable) -> dict[str, Any]:
    """Chunks, shards and compression of a variable; what is small is stored as it is."""
    from zarr.codecs import BloscCodec

    values = variable.values
    if values.ndim < 2 or variable.dimensions[0] != KNEE:
        return {"chunks": values.shape, "compressors": None}
    # Shuffling gathers the bytes of equal weight, of which there is one in 8 bits.
    shuffle: Literal["noshuffle", "bitshuffle"] = (
        "noshuffle" if values.dtype.itemsize == 1 else "bitshuffle"
    )
    layout: dict[str, Any] = {
        "chunks": (min(part.knees_per_chunk, len(values)), *values.shape[1:]),
        "compressors": BloscCodec(cname="zstd", clevel=3, shuffle=shuffle),
    }
    if part.knees_per_chunk < len(values):
        chunks = -(-len(values) // part.knees_per_chunk)
        layout["shards"] = (chunks * part.knees_per_chunk, *values.shape[1:])
    return layout


def write_array_part(path: Path, part: ArrayPart) -> None:
    """Write a part as a Zarr v3 group and have it on the disk.

    Raises:
        LakeError: something is already there.
        OSError: the disk refused.
    """
    import zarr

    if path.exists():
        raise LakeError(f"{path} exists already; a part is written once")
    group = zarr.create_group(str(path), zarr_format=3)
    group.update_attributes({"bone": part.bone, **dict(sorted(part.attributes.items()))})
    names = np.array(part.knee_visits, object)
    group.create_array(
        KNEE,
        shape=names.shape,
        dtype=str,
        chunks=names.shape,
        compressors=None,
        fill_value="",
        dimension_names=(KNEE,),
        attributes={"long_name": "knee visit"},
    )[...] = names
    for name, variable in sorted(part.variables.items()):
        array = group.create_array(
            name,
            shape=variable.values.shape,
            dtype=variable.values.dtype,
            fill_value=np.nan if variable.values.dtype.kind == "f" else 0,
            dimension_names=variable.dimensions,
            attributes=dict(variable.attributes),
            **_layout(part, variable),
        )
        array[...] = variable.values
    fsync_tree(path)


def _open_group(path: Path) -> "zarr.Group":
    import zarr

    try:
        return zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, ValueError) as error:
        raise LakeError(f"{path} is not a Zarr group of knees") from error


def read_array_part(path: Path) -> ArrayPart:
    """A part as arrays.

    Raises:
        LakeError: there is no part.
    """
    group = _open_group(path)
    names = tuple(str(name) for name in np.asarray(cast("zarr.Array", group[KNEE])[...]))
    variables = {}
    chunk = 1
    for name in sorted(key for key in group.array_keys() if key != KNEE):
        array = cast("zarr.Array", group[name])
        dimensions = tuple(cast(Any, array.metadata).dimension_names)
        if array.ndim >= 2 and dimensions[0] == KNEE:
            chunk = array.chunks[0]
        variables[name] = Variable(np.asarray(array[...]), dimensions, array.attrs.asdict())
    attributes = group.attrs.asdict()
    bone = cast("Bone", attributes.pop("bone"))
    return ArrayPart(bone, names, variables, attributes, chunk)


def read_rows(root: Path, variable: str, places: Sequence[tuple[str, int]]) -> NDArray:
    """One variable of many knees, in the order asked for; each part is opened once.

    Args:
        root: the lake's root.
        variable: its name.
        places: `part` and `row` of each knee, as the index table says.

    Raises:
        LakeError: no places, a part that is gone or lacks the variable, or shapes that differ.
    """
    import zarr

    if not places:
        raise LakeError(f"there are no rows of {variable} to read")
    by_part: dict[str, list[int]] = {}
    for position, (part, _) in enumerate(places):
        by_part.setdefault(part, []).append(position)
    stacked: NDArray | None = None
    for part, positions in by_part.items():
        try:
            array = zarr.open_array(str(root / part / variable), mode="r", zarr_format=3)
        except (FileNotFoundError, ValueError) as error:
            raise LakeError(f"{root / part} holds no {variable}") from error
        if stacked is None:
            stacked = np.empty((len(places), *array.shape[1:]), array.dtype)
        if array.shape[1:] != stacked.shape[1:] or array.dtype != stacked.dtype:
            raise LakeError(
                f"{variable} of {part} is {array.dtype}{array.shape[1:]}, of others "
                f"{stacked.dtype}{stacked.shape[1:]}; materialize the older ones again"
            )
        rows = [places[position][1] for position in positions]
        if rows == list(range(array.shape[0])) and positions == list(
            range(positions[0], positions[0] + len(positions))
        ):
            stacked[positions[0] : positions[0] + len(positions)] = array[...]
        elif len(rows) * array.chunks[0] >= array.shape[0]:
            # More of the part is wanted than its chunks let be skipped.
            stacked[positions] = np.asarray(array[...])[rows]
        else:
            stacked[positions] = cast(Any, array.oindex[np.array(rows)])
    assert stacked is not None  # noqa: S101 - there is at least one place
    return stacked
