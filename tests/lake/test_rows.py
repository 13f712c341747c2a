"""The schema is enforced on write, and says where it is broken."""

import polars as pl
import pyarrow as pa
import pytest
from lake_samples import biomarker, label, scan

from lake.errors import SchemaError
from lake.rows import to_arrow
from lake.tables import TABLES, data_dictionary

FILLED = {"batch_id": "", "timepoint": "V00"}
BIOMARKERS = TABLES["biomarkers"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": 17.2}, r"biomarkers, row 1 \(1000002_RIGHT_V00\): mean = 17.2: .*0 to 15 mm"),
        ({"mean": -0.1}, "mean = -0.1: expected at least 0"),
        ({"mean": float("nan")}, "mean = nan"),
        ({"mean": None}, "mean = None: may be NULL only with n = 0"),
        ({"sd": None}, "sd = None: may be NULL only with n = 0 or n = 1"),
        ({"biomarker": "t2_mean", "mean": 301.0}, "expected 0 to 300 ms for t2_mean"),
        ({"bone": "fibula"}, "bone = 'fibula': use 'femur', 'tibia', 'patella'"),
        ({"bone": None}, "bone = None: a value is required"),
        ({"side": "LEFT"}, "knee_visit = '1000002_RIGHT_V00': expected <subject_id>_<side>"),
        ({"n": "many"}, "row 1: n = 'many' is not of type BIGINT"),
        ({"n": 1.5}, "row 1: n = 1.5 is not of type BIGINT"),
        ({"n": -1}, "n = -1: expected at least 0"),
        ({"thickness": 1.0}, "biomarkers has no column thickness; its columns are knee_visit"),
    ],
)
def test_a_wrong_row_is_named(change: dict, message: str) -> None:
    rows = [biomarker(1000001), biomarker(1000002) | change]
    with pytest.raises(SchemaError, match=message):
        to_arrow(BIOMARKERS, rows, FILLED)


def test_a_missing_column_is_named() -> None:
    rows = [{name: value for name, value in biomarker(1000001).items() if name != "area_mm2"}]
    with pytest.raises(SchemaError, match="column area_mm2 is missing from every row"):
        to_arrow(BIOMARKERS, rows, FILLED)


@pytest.mark.parametrize("echo_times_ms", [[10.0, -1.0], [10.0, float("nan")], [10.0, 2000.0]])
def test_every_number_of_a_list_is_checked(echo_times_ms: list[float]) -> None:
    row = scan(1000001, "MSME", "m") | {"echo_times_ms": echo_times_ms}
    with pytest.raises(SchemaError, match="echo_times_ms"):
        to_arrow(TABLES["scans"], [row], FILLED)


def test_dicts_arrow_and_polars_give_the_same_table() -> None:
    rows = [scan(1000001, "MSME", "m"), scan(1000002, "DESS", "d")]
    table = TABLES["scans"]
    from_dicts = to_arrow(table, rows, FILLED)
    assert from_dicts.schema.equals(table.schema, check_metadata=True)
    assert to_arrow(table, pa.Table.from_pylist(rows), FILLED).equals(from_dicts)
    assert to_arrow(table, pl.DataFrame(rows), FILLED).equals(from_dicts)


def test_no_rows_is_an_empty_table() -> None:
    empty = to_arrow(TABLES["label_files"], pl.DataFrame([label(1000001, "a")]).clear(), FILLED)
    assert empty.num_rows == 0
    assert empty.schema == TABLES["label_files"].schema


def test_one_value_of_one_voxel_needs_no_sd() -> None:
    assert to_arrow(BIOMARKERS, [biomarker(1000001) | {"n": 1, "sd": None}], FILLED).num_rows == 1
    assert to_arrow(BIOMARKERS, [biomarker(1000001, mean=None)], FILLED).num_rows == 1


def test_the_dictionary_tells_every_column() -> None:
    text = data_dictionary()
    for table in TABLES.values():
        assert f"## {table.name}" in text
        for column in table.columns:
            assert column.description
            assert f"| {column.name} |" in text
        assert len(set(table.column_names)) == len(table.columns)
        assert len({check.name for check in table.checks}) == len(table.checks)
