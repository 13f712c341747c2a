"""Parts of arrays: written once, same bytes for same input, swept when no row points to them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from lake_samples import key, ledger

from lake.arrays import ArrayPart, Variable, read_array_part, read_rows, write_array_part
from lake.errors import LakeError, SchemaError
from lake.store import Lake

NAMES = ("1000001_RIGHT_V00", "1000002_RIGHT_V00", "1000003_RIGHT_V00")


def part(names: tuple[str, ...] = NAMES, chunk: int = 1, start: int = 0) -> ArrayPart:
    n = len(names)
    values = (start + np.arange(n * 2 * 3 * 4)).astype(np.uint8).reshape(n, 2, 3, 4)
    return ArrayPart(
        "femur",
        names,
        {
            "planes": Variable(values, ("knee", "plane", "phi", "theta"), {"units": "1"}),
            "cam": Variable((values / 7).astype(np.float16)[:, 0], ("knee", "phi", "theta")),
            "phi": Variable(np.linspace(-1.0, 1.0, 3), ("phi",), {"units": "rad"}),
        },
        {"code_version": "1", "planes": ["one", "two"]},
        knees_per_chunk=chunk,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_what_is_written_is_read(tmp_path: Path, chunk: int) -> None:
    written = part(chunk=chunk)
    write_array_part(tmp_path / "part.zarr", written)
    found = read_array_part(tmp_path / "part.zarr")
    assert found.knee_visits == NAMES
    assert dict(found.attributes) == dict(written.attributes)
    for name, variable in written.variables.items():
        assert found.variables[name].dimensions == variable.dimensions
        assert found.variables[name].values.dtype == variable.values.dtype
        assert np.array_equal(found.variables[name].values, variable.values)
    assert found.content_hash == written.content_hash
    with pytest.raises(LakeError, match="written once"):
        write_array_part(tmp_path / "part.zarr", written)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    write_array_part(tmp_path / "a.zarr", part(chunk=3))
    write_array_part(tmp_path / "b.zarr", part(chunk=3))
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    assert part().content_hash != part(start=1).content_hash
    assert part().content_hash != part(names=(*NAMES[:2], "1000004_RIGHT_V00")).content_hash


def test_xarray_reads_a_part_without_kneelake(tmp_path: Path) -> None:
    write_array_part(tmp_path / "part.zarr", part())
    with xr.open_zarr(tmp_path / "part.zarr", consolidated=False) as found:
        assert found["planes"].dims == ("knee", "plane", "phi", "theta")
        one = found["planes"].sel(knee=NAMES[1]).values
    assert np.array_equal(one, part().variables["planes"].values[1])


@pytest.mark.parametrize("chunk", [1, 3])
def test_rows_of_several_parts_in_any_order(tmp_path: Path, chunk: int) -> None:
    others = tuple(name.replace("V00", "V01") for name in NAMES)
    parts = {"a.zarr": part(chunk=chunk), "b.zarr": part(others, chunk, start=100)}
    for name, one in parts.items():
        write_array_part(tmp_path / name, one)
    for places in (
        [("b.zarr", 2), ("a.zarr", 0), ("b.zarr", 0), ("a.zarr", 2)],
        [("a.zarr", 0), ("a.zarr", 1), ("a.zarr", 2), ("b.zarr", 1)],
        [("a.zarr", 1)],
        [("a.zarr", 2), ("a.zarr", 1), ("a.zarr", 0)],
    ):
        found = read_rows(tmp_path, "planes", places)
        expected = [parts[name].variables["planes"].values[row] for name, row in places]
        assert np.array_equal(found, expected)
    with pytest.raises(LakeError, match="holds no pictures"):
        read_rows(tmp_path, "pictures", [("a.zarr", 0)])
    with pytest.raises(LakeError, match="no rows"):
        read_rows(tmp_path, "planes", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bone": "humerus"}, "humerus is not a bone"),
        ({"knee_visits": ()}, "at least one knee"),
        ({"knee_visits": (NAMES[0],) * 3}, "each of them once"),
        ({"variables": {}}, "needs variables"),
        ({"variables": {"knee": Variable(np.zeros(3), ("knee",))}}, "none of them is called knee"),
        ({"variables": {"x": Variable(np.zeros(2), ("knee",))}}, "2 along knee, others have 3"),
        ({"variables": {"x": Variable(np.zeros((3, 2)), ("knee",))}}, "name every axis"),
        ({"variables": {"x": Variable(np.array(["a"] * 3), ("knee",))}}, "hold numbers"),
        ({"knees_per_chunk": 0}, "use 1 or more"),
    ],
)
def test_what_makes_no_part(change: dict, message: str) -> None:
    good = {"bone": "femur", "knee_visits": NAMES, "variables": part().variables}
    with pytest.raises(LakeError, match=message):
        ArrayPart(**{**good, **change})


def image_rows(relative: str) -> list[dict]:
    return [
        key(1000001 + row)
        | {
            "bone": "femur",
            "part": relative,
            "row": row,
            "ranges_id": "r",
            "has_t2": True,
            "below_share": 0.0,
            "above_share": 0.0,
        }
        for row in range(3)
    ]


def commit(lake: Lake, one: ArrayPart) -> str:
    with lake.batch("images", "V00", "1", "c") as batch:
        relative = batch.add_array_part("image_index", one)
        batch.add("image_index", image_rows(relative))
        batch.add("ledger", [ledger(name, "images", "f") for name in NAMES])
    return relative


def test_a_part_counts_with_its_rows(lake: Lake) -> None:
    relative = commit(lake, part())
    assert relative.startswith("images/timepoint=V00/bone=femur/part-")
    (row,) = lake.sql("SELECT part, row FROM image_index WHERE subject_id = 1000002").rows()
    assert np.array_equal(
        read_rows(lake.root, "planes", [row])[0], part().variables["planes"].values[1]
    )


def test_a_part_without_rows_or_a_table_without_parts_is_refused(lake: Lake) -> None:
    with pytest.raises(SchemaError, match="is in no row of image_index"):  # noqa: SIM117
        with lake.batch("images", "V00", "1", "c") as batch:
            batch.add_array_part("image_index", part())
            batch.add("ledger", [ledger(name, "images", "f") for name in NAMES])
    assert not list((lake.root / "images").glob("**/part-*.zarr"))
    with lake.batch("images", "V00", "1", "c") as batch:
        for name in ("biomarkers", "maps_index", "no_table"):
            with pytest.raises(SchemaError, match="lists no parts of arrays"):
                batch.add_array_part(name, part())


def test_a_sweep_takes_parts_that_never_counted_and_no_other(lake: Lake) -> None:
    kept = lake.root / commit(lake, part())
    before = files_of(kept)
    lost = lake.root / "images/timepoint=V00/bone=femur" / "part-0123456789abcdef.zarr"
    write_array_part(lost, part(start=9))
    (lake.root / "staging" / "batch-00000009").mkdir(parents=True)
    assert lake.sweep().parts == 1
    assert not lost.exists()
    assert files_of(kept) == before


def test_images_of_maps_that_were_refused_since_do_not_count(lake: Lake) -> None:
    commit(lake, part())
    assert len(lake.sql("FROM image_index")) == 3
    with lake.batch("maps", "V00", "1", "c") as batch:
        batch.add("ledger", [ledger(NAMES[0], "maps", "g", "quarantined")])
    assert lake.sql("SELECT knee_visit FROM image_index ORDER BY 1")["knee_visit"].to_list() == [
        *NAMES[1:]
    ]
