"""Spherical maps as immutable Zarr v3 parts, and the lazy array over all of them.

A part holds up to 128 knees of one bone at one visit: one variable per map with dimensions
(knee, phi, theta), one knee per chunk, all knees in one shard, so a knee reads in milliseconds and
a column of knees at disk speed from one file. Values are rounded to the precision they carry
before they are written (bit rounding in numpy: as a codec in the metadata it would lock other
Zarr readers out). Same input, same bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from lake.errors import LakeError
from lake.files import fsync_tree
from lake.keys import BIOMARKER_UNITS

if TYPE_CHECKING:
    import xarray as xr
    import zarr

MAX_KNEES = 128
"""Knees of a part: the measured optimum of files against shard size."""

AREA = "surface_area"
"""The variable of a part that says how much bone surface a pixel stands for."""

KEEP_BITS: Mapping[str, int] = {
    "bone_shape": 14,
    "cartilage_thickness": 10,
    "t2_superficial": 10,
    "t2_deep": 10,
    "t2_mean": 10,
    AREA: 10,
}
"""Mantissa bits kept: relative error 2**-(bits+1), under 0.005 mm for a bone and 0.05 % else."""

LONG_NAMES: Mapping[str, str] = {
    "bone_shape": "distance from the bone's centroid to its surface",
    "cartilage_thickness": "cartilage thickness over the bone surface",
    "t2_superficial": "mean T2 of the superficial half of the cartilage",
    "t2_deep": "mean T2 of the deep half of the cartilage",
    "t2_mean": "mean T2 over the depth of the cartilage",
    AREA: "area of bone surface the pixel stands for",
}

MASKS: Mapping[str, str] = {
    "coverage": "1 where the bone is covered by cartilage",
    "multi_hit": "1 where the ray meets the surface more than once",
}

CONVENTIONS = "CF-1.11"
UNKNOWN_SUBJECT = -1

Attribute = Any
"""A plain JSON value: text, number, or (nested) list of them."""

_OWN_ATTRIBUTES = ("Conventions", "bone")


@dataclass(frozen=True)
class MapKnee:
    """What is known of one knee of a part.

    Attributes:
        knee_visit: `<subject_id>_<side>_<timepoint>`, or any name outside a lake.
        subject_id: the participant's number; -1 where there is none.
        side: 'RIGHT' or 'LEFT'.
        centroid_mm: the map's centre (x, y, z) in the right-knee frame.
        mirrored: a left knee mirrored into that frame.
        multi_hit_share: share of rays that meet the surface more than once.
        hidden_cartilage_share: share of cartilage the map cannot show; NaN without cartilage.
        covered_share: covered share, by area, of the surface the map shows.
    """

    knee_visit: str
    subject_id: int
    side: str
    centroid_mm: tuple[float, float, float]
    mirrored: bool
    multi_hit_share: float
    hidden_cartilage_share: float
    covered_share: float


@dataclass(frozen=True, eq=False)
class MapPart:
    """The maps of one bone of one or more knees, on one grid.

    Attributes:
        bone: the bone.
        knees: one entry per knee, in the order of the arrays.
        phi: elevation of the pixel centres, rad, rising, shape (n_phi,).
        theta: angle of the pixel centres, rad, rising, shape (n_theta,).
        maps: all five maps by name, float32, shape (n_knee, n_phi, n_theta), NaN where there is
            no value; mm and ms. A map left out is all NaN.
        coverage: where cartilage covers the bone, shape (n_knee, n_phi, n_theta).
        multi_hit: where the ray meets the surface more than once, same shape.
        area_mm2: bone surface each pixel stands for, float32, same shape: the weight that makes a
            mean over pixels a mean over the surface.
        attributes: parameters, code version and axes of the map; plain JSON values.

    Raises:
        LakeError: shapes that do not agree, an unknown map, no knee or more than 128.
    """

    bone: Bone
    knees: tuple[MapKnee, ...]
    phi: NDArray[np.float64]
    theta: NDArray[np.float64]
    maps: Mapping[str, NDArray[np.float32]]
    coverage: NDArray[np.bool_]
    multi_hit: NDArray[np.bool_]
    area_mm2: NDArray[np.float32]
    attributes: Mapping[str, Attribute]

    def __post_init__(self) -> None:
        if self.bone not in BONES:
            raise LakeError(f"{self.bone} is not a bone; use one of {', '.join(BONES)}")
        if not 1 <= len(self.knees) <= MAX_KNEES:
            raise LakeError(f"a part holds 1 to {MAX_KNEES} knees, not {len(self.knees)}")
        unknown = sorted(set(self.maps) - set(BIOMARKER_UNITS))
        if unknown:
            raise LakeError(f"{', '.join(unknown)}: not a map; use {', '.join(BIOMARKER_UNITS)}")
        taken = sorted(set(self.attributes) & set(_OWN_ATTRIBUTES))
        if taken:
            raise LakeError(f"attributes {', '.join(taken)} are set by the part itself")
        shape = self.shape
        given = {
            **self.maps,
            "coverage": self.coverage,
            "multi_hit": self.multi_hit,
            AREA: self.area_mm2,
        }
        for name, array in given.items():
            if array.shape != shape:
                raise LakeError(
                    f"{self.bone} {name} has shape {array.shape}, expected (n_knee, n_phi, "
                    f"n_theta) = {shape}"
                )
        empty = np.full(shape, np.nan, dtype=np.float32)
        complete = {
            name: bit_round(self.maps[name], KEEP_BITS[name]) if name in self.maps else empty
            for name in BIOMARKER_UNITS
        }
        object.__setattr__(self, "maps", complete)
        object.__setattr__(self, "area_mm2", bit_round(self.area_mm2, KEEP_BITS[AREA]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_knee, n_phi, n_theta)."""
        return len(self.knees), len(self.phi), len(self.theta)

    @property
    def content_hash(self) -> str:
        """SHA-256 over everything the part holds, shortened to 20 digits."""
        digest = hashlib.sha256()
        knees = [[getattr(knee, field.name) for field in fields(knee)] for knee in self.knees]
        plain = [self.bone, self.shape, knees, dict(self.attributes)]
        digest.update(json.dumps(plain, sort_keys=True).encode())
        for array in (
            np.asarray(self.phi, np.float64),
            np.asarray(self.theta, np.float64),
            *self.maps.values(),
            self.coverage.astype(np.uint8),
            self.multi_hit.astype(np.uint8),
            self.area_mm2,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:20]

    def knee(self, row: int) -> "MapPart":
        """The part of one of its knees."""
        one = slice(row, row + 1)
        return MapPart(
            self.bone,
            (self.knees[row],),
            self.phi,
            self.theta,
            {name: values[one] for name, values in self.maps.items()},
            self.coverage[one],
            self.multi_hit[one],
            self.area_mm2[one],
            self.attributes,
        )


def bit_round(values: NDArray[np.floating], keep_bits: int) -> NDArray[np.float32]:
    """Round float32 values to a number of mantissa bits (half to even); NaN stays NaN.

    The rest of the mantissa becomes zeros, which compress away. Source: Kloewer et al. 2021,
    doi:10.1038/s43588-021-00156-2.
    """
    single = np.ascontiguousarray(values, dtype=np.float32)
    dropped = 23 - keep_bits
    bits = single.view(np.uint32)
    half = np.uint32((1 << (dropped - 1)) - 1)
    last_kept = (bits >> np.uint32(dropped)) & np.uint32(1)
    rounded = (bits + half + last_kept) & ~np.uint32((1 << dropped) - 1)
    # Infinities and NaN have no mantissa to round; NaN becomes the one canonical NaN.
    rounded = np.where(np.isinf(single), bits, rounded).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(single), np.float32(np.nan), rounded)


def concatenate_parts(parts: Sequence[MapPart]) -> MapPart:
    """Parts of one bone on one grid as one, knees by name; for the results of several workers.

    Raises:
        LakeError: nothing to join, or parts of another bone, grid or parameters.
    """
    if not parts:
        raise LakeError("there are no parts to join")
    first = parts[0]
    for part in parts[1:]:
        same = (
            part.bone == first.bone
            and np.array_equal(part.phi, first.phi)
            and np.array_equal(part.theta, first.theta)
            and part.attributes == first.attributes
        )
        if not same:
            raise LakeError(
                "parts of another bone, grid or parameters cannot be joined; write them apart"
            )
    knees = [knee for part in parts for knee in part.knees]
    order = sorted(range(len(knees)), key=lambda index: knees[index].knee_visit)
    return MapPart(
        first.bone,
        tuple(knees[index] for index in order),
        first.phi,
        first.theta,
        {
            name: np.concatenate([part.maps[name] for part in parts])[order]
            for name in BIOMARKER_UNITS
        },
        np.concatenate([part.coverage for part in parts])[order],
        np.concatenate([part.multi_hit for part in parts])[order],
        np.concatenate([part.area_mm2 for part in parts])[order],
        first.attributes,
    )


def _add_array(
    group: "zarr.Group",
    name: str,
    data: NDArray,
    dimensions: Sequence[str],
    attributes: Mapping[str, Attribute],
) -> None:
    """One variable in a group; a stack of maps is sharded and compressed, the rest is small."""
    from zarr.codecs import BloscCodec

    layout: dict[str, Any] = {"chunks": data.shape, "compressors": None}
    if data.ndim == 3:
        layout = {
            "chunks": (1, *data.shape[1:]),
            "shards": data.shape,
            "compressors": BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
        }
    is_text = data.dtype.kind in "OT"
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=str if is_text else data.dtype,
        fill_value=np.nan if data.dtype.kind == "f" else ("" if is_text else 0),
        dimension_names=tuple(dimensions),
        attributes=dict(attributes),
        **layout,
    )
    array[...] = data


def _write_group(group: "zarr.Group", part: MapPart) -> None:
    group.update_attributes(
        {"Conventions": CONVENTIONS, "bone": part.bone, **dict(sorted(part.attributes.items()))}
    )

    def per_knee(name: str) -> list[Any]:
        return [getattr(knee, name) for knee in part.knees]

    per_knee_values: dict[str, tuple[NDArray, dict[str, Attribute]]] = {
        "subject_id": (
            np.array(per_knee("subject_id"), np.int64),
            {"long_name": "study number; -1 where there is none"},
        ),
        "side": (np.array(per_knee("side"), object), {"long_name": "side of the knee"}),
        "mirrored": (
            np.array(per_knee("mirrored"), np.uint8),
            {"long_name": "1 where a left knee was mirrored into the right-knee frame"},
        ),
    }
    for name in ("multi_hit_share", "hidden_cartilage_share", "covered_share"):
        per_knee_values[name] = (np.array(per_knee(name), np.float64), {"units": "1"})
    names = np.array(per_knee("knee_visit"), object)
    _add_array(group, "knee", names, ["knee"], {"long_name": "knee visit"})
    for name, (values, attributes) in per_knee_values.items():
        _add_array(group, name, values, ["knee"], attributes)
    _add_array(group, "axis", np.array(["x", "y", "z"], object), ["axis"], {})
    _add_array(
        group,
        "centroid",
        np.array(per_knee("centroid_mm"), np.float64),
        ["knee", "axis"],
        {"units": "mm", "long_name": "centre of the map in the right-knee frame"},
    )
    for name, values, long_name in (
        ("phi", part.phi, "elevation from the map's x-y plane"),
        ("theta", part.theta, "angle in the map's x-y plane from its +x axis"),
    ):
        _add_array(
            group,
            name,
            np.asarray(values, np.float64),
            [name],
            {"units": "rad", "long_name": long_name},
        )
    dimensions = ("knee", "phi", "theta")
    coordinates = " ".join([*per_knee_values, "centroid"])
    measured = [(name, units, part.maps[name]) for name, units in BIOMARKER_UNITS.items()]
    for name, units, grid in [*measured, (AREA, "mm2", part.area_mm2)]:
        _add_array(
            group,
            name,
            grid,
            dimensions,
            {
                "units": units,
                "long_name": LONG_NAMES[name],
                "coordinates": coordinates,
                "_QuantizeBitRoundNumberOfSignificantBits": KEEP_BITS[name],
            },
        )
    for name, mask in (("coverage", part.coverage), ("multi_hit", part.multi_hit)):
        _add_array(
            group,
            name,
            mask.astype(np.uint8),
            dimensions,
            {"units": "1", "long_name": MASKS[name], "coordinates": coordinates},
        )


def _values(group: "zarr.Group", name: str, rows: slice = slice(None)) -> NDArray:
    return np.asarray(cast("zarr.Array", group[name])[rows])


def _read_group(group: "zarr.Group", row: int | None = None) -> MapPart:
    rows = slice(None) if row is None else slice(row, row + 1)

    def values(name: str) -> NDArray:
        return _values(group, name, rows)

    columns = zip(
        values("knee"),
        values("subject_id"),
        values("side"),
        values("centroid"),
        values("mirrored"),
        values("multi_hit_share"),
        values("hidden_cartilage_share"),
        values("covered_share"),
        strict=True,
    )
    knees = tuple(
        MapKnee(
            str(name),
            int(subject_id),
            str(side),
            (float(centroid[0]), float(centroid[1]), float(centroid[2])),
            bool(mirrored),
            float(multi_hit),
            float(hidden),
            float(covered),
        )
        for name, subject_id, side, centroid, mirrored, multi_hit, hidden, covered in columns
    )
    attributes = group.attrs.asdict()
    return MapPart(
        cast("Bone", attributes["bone"]),
        knees,
        _values(group, "phi"),
        _values(group, "theta"),
        {name: values(name) for name in BIOMARKER_UNITS},
        values("coverage").astype(bool),
        values("multi_hit").astype(bool),
        values(AREA),
        {key: value for key, value in attributes.items() if key not in _OWN_ATTRIBUTES},
    )


def _open_group(path: Path) -> "zarr.Group":
    import zarr

    try:
        return zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, ValueError) as error:
        raise LakeError(f"{path} is not a Zarr group of knee maps") from error


def write_part(path: Path, part: MapPart) -> None:
    """Write a part as a Zarr v3 group and have it on the disk.

    Raises:
        LakeError: something is already there.
        OSError: the disk refused.
    """
    import zarr

    if path.exists():
        raise LakeError(f"{path} exists already; a part is written once")
    _write_group(zarr.create_group(str(path), zarr_format=3), part)
    fsync_tree(path)


def read_part(path: Path, row: int | None = None) -> MapPart:
    """A part, or one of its knees, as arrays.

    Raises:
        LakeError: there is no part.
    """
    return _read_group(_open_group(path), row)


def read_map(root: Path, index_row: Mapping[str, Any]) -> MapPart:
    """One knee's maps of one bone, given its row of `maps_index`.

    Raises:
        LakeError: the part is gone.
    """
    return read_part(root / index_row["part"], int(index_row["row"]))


def write_knee_zarr(path: Path, parts: Mapping[Bone, MapPart]) -> None:
    """Write one knee's maps as a file of its own: a Zarr v3 group with a group per bone.

    Raises:
        LakeError: something is already there.
    """
    import zarr

    if path.exists():
        raise LakeError(f"{path} exists already; name another file or remove it")
    root = zarr.create_group(str(path), zarr_format=3, attributes={"Conventions": CONVENTIONS})
    for bone in BONES:
        if bone in parts:
            _write_group(root.create_group(bone), parts[bone])
    fsync_tree(path)


def read_knee_zarr(path: Path) -> dict[Bone, MapPart]:
    """What `write_knee_zarr` wrote, by bone.

    Raises:
        LakeError: the path holds no such file.
    """
    root = _open_group(path)
    parts: dict[Bone, MapPart] = {
        bone: _read_group(_open_group(path / bone)) for bone in BONES if bone in root
    }
    if not parts:
        raise LakeError(f"{path} holds no maps of {', '.join(BONES)}")
    return parts


def open_maps(root: Path, variable: str, index_rows: Sequence[Mapping[str, Any]]) -> "xr.DataArray":
    """One variable of many knees as a lazy array; only what is looked at is read.

    Args:
        root: the lake's root.
        variable: a map or a mask.
        index_rows: rows of `maps_index` of one bone, in the order wanted.

    Returns:
        dimensions (knee, phi, theta), with coordinates subject_id, side and timepoint.

    Raises:
        LakeError: no such variable, no rows, or knees on different grids.
    """
    import xarray as xr

    from lake.lazy import lazy_variable

    variables = (*BIOMARKER_UNITS, *MASKS, AREA)
    if variable not in variables:
        raise LakeError(f"{variable} is not a map; use one of {', '.join(variables)}")
    if not index_rows:
        raise LakeError("there are no such maps in this lake yet; see `kneelake status`")
    parts = list(dict.fromkeys(row["part"] for row in index_rows))
    first = _open_group(root / parts[0])
    phi, theta = _values(first, "phi"), _values(first, "theta")
    for part in parts[1:]:
        other = _open_group(root / part)
        same = np.array_equal(phi, _values(other, "phi"))
        if not (same and np.array_equal(theta, _values(other, "theta"))):
            raise LakeError(
                f"{part} lies on another grid than {parts[0]}; materialize the older one again"
            )
    sample = cast("zarr.Array", first[variable])
    attributes = {name: sample.attrs[name] for name in ("units", "long_name")}
    data = lazy_variable(
        variable,
        [(root / row["part"], int(row["row"])) for row in index_rows],
        (len(phi), len(theta)),
        sample.dtype,
        attributes,
    )
    coordinates = {
        name: ("knee", np.array([row[name] for row in index_rows]))
        for name in ("subject_id", "side", "timepoint")
    }
    return xr.DataArray(
        data,
        coords={
            "knee": np.array([row["knee_visit"] for row in index_rows]),
            "phi": ("phi", phi, {"units": "rad"}),
            "theta": ("theta", theta, {"units": "rad"}),
            **coordinates,
        },
        name=variable,
    )
