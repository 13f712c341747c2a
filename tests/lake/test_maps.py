"""Map parts: what is written is what is read, by us and by xarray."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from lake_samples import part

from lake.errors import LakeError
from lake.keys import BIOMARKER_UNITS
from lake.maps import (
    KEEP_BITS,
    MapPart,
    bit_round,
    concatenate_parts,
    read_knee_zarr,
    read_part,
    write_knee_zarr,
    write_part,
)


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _same(one: MapPart, other: MapPart) -> None:
    assert one.content_hash == other.content_hash
    assert one.knees == other.knees
    assert dict(one.attributes) == dict(other.attributes)
    for name in BIOMARKER_UNITS:
        np.testing.assert_array_equal(one.maps[name], other.maps[name])


@pytest.mark.parametrize("bits", sorted(set(KEEP_BITS.values())))
def test_rounding_stays_within_its_bound_and_agrees_with_numcodecs(bits: int) -> None:
    values = np.random.default_rng(1).uniform(1e-3, 300.0, 10_000).astype(np.float32)
    rounded = bit_round(values, bits)
    assert np.max(np.abs(rounded - values) / values) <= 2.0 ** -(bits + 1)
    numcodecs = pytest.importorskip("numcodecs", reason="the independent implementation")
    expected = numcodecs.BitRound(keepbits=bits).encode(values.copy()).view(np.float32)
    np.testing.assert_array_equal(rounded, expected)


def test_rounding_moves_no_bone_surface_by_a_hundredth_of_a_millimetre() -> None:
    rho_mm = np.linspace(1.0, 150.0, 50_000).astype(np.float32)
    assert np.max(np.abs(bit_round(rho_mm, KEEP_BITS["bone_shape"]) - rho_mm)) < 0.005


def test_rounding_keeps_what_has_no_value() -> None:
    odd_nan = np.array([0x7FC12345], np.uint32).view(np.float32)
    values = np.array([np.nan, np.inf, -np.inf, 0.0, odd_nan[0]], np.float32)
    rounded = bit_round(values, 10)
    assert np.isnan(rounded[[0, 4]]).all()
    assert rounded[4:].tobytes() == np.float32(np.nan).tobytes()
    np.testing.assert_array_equal(rounded[1:4], values[1:4])


def test_a_part_reads_back_and_opens_in_xarray_without_a_warning(tmp_path: Path) -> None:
    written = part([1000001, 1000002, 1000003])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_part(tmp_path / "p.zarr", written)
        opened = xr.open_zarr(tmp_path / "p.zarr", consolidated=False)
        _same(read_part(tmp_path / "p.zarr"), written)
    one = opened["cartilage_thickness"].sel(knee="1000002_RIGHT_V00")
    np.testing.assert_array_equal(one.values, written.maps["cartilage_thickness"][1])
    assert opened["cartilage_thickness"].attrs["units"] == "mm"
    assert opened["t2_mean"].attrs["units"] == "ms"
    assert opened["phi"].attrs["units"] == opened["theta"].attrs["units"] == "rad"
    assert opened.attrs["Conventions"].startswith("CF-")
    assert opened["bone_shape"].dims == ("knee", "phi", "theta")
    assert opened["subject_id"].values.tolist() == [1000001, 1000002, 1000003]
    assert set(opened.data_vars) == {*BIOMARKER_UNITS, "coverage", "multi_hit", "surface_area"}
    np.testing.assert_array_equal(opened["surface_area"].values, written.area_mm2)
    assert opened["surface_area"].attrs["units"] == "mm2"
    assert opened["bone_shape"].encoding["chunks"] == (1, 16, 16)
    assert opened["bone_shape"].encoding["shards"] == (3, 16, 16)


def test_a_map_left_out_has_no_values() -> None:
    without = part([1000001], t2=False)
    assert np.isnan(without.maps["t2_mean"]).all()


def test_the_same_part_gives_the_same_bytes(tmp_path: Path) -> None:
    write_part(tmp_path / "a.zarr", part([1000001, 1000002], size=64))
    write_part(tmp_path / "b.zarr", part([1000001, 1000002], size=64))
    assert _files(tmp_path / "a.zarr") == _files(tmp_path / "b.zarr")


def test_the_hash_tells_any_difference() -> None:
    base = part([1000001])
    others = [part([1000002]), part([1000001], bone="tibia"), part([1000001], thickness_mm=2.1)]
    attributes = MapPart(
        base.bone,
        base.knees,
        base.phi,
        base.theta,
        base.maps,
        base.coverage,
        base.multi_hit,
        base.area_mm2,
        dict(base.attributes) | {"code_version": "2"},
    )
    hashes = {one.content_hash for one in [base, *others, attributes]}
    assert len(hashes) == 5
    assert part([1000001]).content_hash == base.content_hash


def test_a_part_is_written_once(tmp_path: Path) -> None:
    write_part(tmp_path / "p.zarr", part([1000001]))
    with pytest.raises(LakeError, match="exists already"):
        write_part(tmp_path / "p.zarr", part([1000001]))


def test_one_knee_of_a_part(tmp_path: Path) -> None:
    written = part([1000001, 1000002])
    write_part(tmp_path / "p.zarr", written)
    _same(read_part(tmp_path / "p.zarr", 1), written.knee(1))


def test_joining_does_not_depend_on_the_order() -> None:
    one, two = part([1000001]), part([1000002])
    _same(concatenate_parts([two, one]), part([1000001, 1000002]))
    with pytest.raises(LakeError, match="cannot be joined"):
        concatenate_parts([one, part([1000002], bone="tibia")])


def test_a_knee_of_its_own_file(tmp_path: Path) -> None:
    parts = {"femur": part([1000001]), "patella": part([1000001], bone="patella")}
    write_knee_zarr(tmp_path / "knee.zarr", parts)
    read = read_knee_zarr(tmp_path / "knee.zarr")
    assert list(read) == ["femur", "patella"]
    for bone, one in parts.items():
        _same(read[bone], one)
    tree = xr.open_zarr(tmp_path / "knee.zarr", group="femur", consolidated=False)
    assert float(tree["bone_shape"][0, 0, 0]) == 31.0
    with pytest.raises(LakeError, match="not a Zarr group"):
        read_knee_zarr(tmp_path / "nothing.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {"thickness": np.zeros((1, 16, 16))}}, "thickness: not a map"),
        ({"coverage": np.zeros((1, 16, 15), bool)}, "coverage has shape"),
        ({"knees": ()}, "1 to 128 knees, not 0"),
        ({"bone": "fibula"}, "fibula is not a bone"),
        ({"attributes": {"bone": "x"}}, "attributes bone are set by the part"),
    ],
)
def test_a_wrong_part_is_refused(change: dict, message: str) -> None:
    good = part([1000001])
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    with pytest.raises(LakeError, match=message):
        MapPart(**(fields | change))
