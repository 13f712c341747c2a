"""Checks pass on a good visit and fail on planted bad rows, naming them."""

import dagster as dg
import polars as pl
import pytest
from conftest import House
from knees import deliver, deliver_truncated

pytestmark = pytest.mark.usefixtures("no_figures")

KNEE = "1000001_RIGHT_V00"


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    found = result.get_asset_check_evaluations()
    rules = [check for check in found if check.check_name == "registry_rules"]
    assert len(rules) == 5
    assert all(check.passed for check in rules)
    return {check.check_name: check for check in found}


def results(house: House) -> dict[str, pl.DataFrame]:
    """What step maps holds of the knee."""
    return {
        table: house.lake.sql(
            f"SELECT * EXCLUDE batch_id FROM {table} WHERE knee_visit = $1", [KNEE]
        )
        for table in ("maps_index", "biomarkers", "map_agreement", "t2_quality", "ledger")
    }


def replace(house: House, rows: dict[str, pl.DataFrame], config_hash: str | None = None) -> None:
    """Put other results of the knee in the place of those there are, as a later batch would."""
    last = house.lake.sql("FROM batches WHERE step = 'maps' ORDER BY batch_number DESC LIMIT 1")
    code_version, used_hash = last["code_version"][0], last["config_hash"][0]
    with house.lake.batch("maps", "V00", code_version, config_hash or used_hash) as batch:
        for table, frame in rows.items():
            batch.add(table, frame)


def maps_ledger(rows: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return rows | {"ledger": rows["ledger"].filter(pl.col("step") == "maps")}


@pytest.fixture(scope="module")
def good(shared_house: House) -> dict[str, pl.DataFrame]:
    """Results of one good knee, and the proof that all checks pass on it."""
    deliver(shared_house.inbox, 1_000_001, "V00")
    found = evaluations(shared_house.update("V00"))
    assert {name: check.passed for name, check in found.items()} == dict.fromkeys(found, True)
    assert {"biomarkers_in_range", "missing_maps", "missing_t2", "orientation"} <= set(found)
    assert {"map_agreement", "quarantine_share", "one_configuration"} <= set(found)
    assert "registry_rules" in found
    assert {check.partition for check in found.values()} == {"V00"}
    return maps_ledger(results(shared_house))


def plant(house: House, rows: dict[str, pl.DataFrame], **other: str) -> dict:
    """Failed checks with their evaluations once these rows are in place; nothing is recomputed."""
    replace(house, rows, **other)
    result = house.update("V00")
    assert result.success
    return {name: found for name, found in evaluations(result).items() if not found.passed}


def offending(check: dg.AssetCheckEvaluation) -> list[dict]:
    return [record.data for record in check.metadata["offending_rows"].records]


def test_a_thickness_no_knee_has(shared_house: House, good: dict[str, pl.DataFrame]) -> None:
    is_it = (
        (pl.col("bone") == "femur")
        & (pl.col("compartment") == "whole")
        & (pl.col("biomarker") == "cartilage_thickness")
        & pl.col("is_default")
    )
    thick = pl.when(is_it).then(9.0).otherwise(pl.col("mean")).alias("mean")
    failed = plant(shared_house, good | {"biomarkers": good["biomarkers"].with_columns(thick)})
    assert set(failed) == {"biomarkers_in_range"}
    assert failed["biomarkers_in_range"].severity is dg.AssetCheckSeverity.ERROR
    (row,) = offending(failed["biomarkers_in_range"])
    assert (row["knee_visit"], row["bone"], row["mean"]) == (KNEE, "femur", 9.0)


def test_a_missing_map(shared_house: House, good: dict[str, pl.DataFrame]) -> None:
    without = good["maps_index"].filter(pl.col("bone") != "patella")
    failed = plant(shared_house, good | {"maps_index": without})
    assert set(failed) == {"missing_maps"}
    (row,) = offending(failed["missing_maps"])
    assert (row["knee_visit"], row["bone"]) == (KNEE, "patella")


def test_a_t2_series_that_gave_nothing(house: House) -> None:
    deliver(house.inbox, 1_000_001, "V00")
    assert house.update("V00").success
    affine = [3.5, 0, 0, 0, 0, 0, 0.3, 0, 0, -0.3, 0, 0, 0, 0, 0, 1]
    with house.lake.batch("ingest", "V00", "1", "-") as batch:
        batch.add(
            "scans",
            [
                {
                    **{"knee_visit": KNEE, "subject_id": 1_000_001, "side": "RIGHT"},
                    **{"sequence": "MSME", "series_fingerprint": "f", "n_files": 189},
                    **{f"n_{axis}": 27 for axis in ("slice", "row", "column")},
                    **{f"{axis}_spacing_mm": 1.0 for axis in ("slice", "row", "column")},
                    **{"affine": affine, "echo_times_ms": [10.0, 20.0, 30.0]},
                }
            ],
        )
    found = evaluations(house.update("V00"))
    failed = {name: check for name, check in found.items() if not check.passed}
    assert set(failed) == {"missing_t2"}
    assert {row["bone"] for row in offending(failed["missing_t2"])} == {"femur", "tibia", "patella"}


def test_a_knee_upside_down(shared_house: House, good: dict[str, pl.DataFrame]) -> None:
    flipped = good["maps_index"].with_columns(-pl.col("centroid_z_mm"))
    failed = plant(shared_house, good | {"maps_index": flipped})
    assert set(failed) == {"orientation"}


def test_a_map_that_disagrees_with_its_surface(
    shared_house: House, good: dict[str, pl.DataFrame]
) -> None:
    """The paper's criterion: the in-plane pixel, 140 / 384 mm."""

    def shifted(by_mm: float) -> dict[str, pl.DataFrame]:
        femur = (pl.col("bone") == "femur") & (pl.col("biomarker") == "cartilage_thickness")
        moved = pl.when(femur).then(pl.col("surface_mean") + by_mm).otherwise(pl.col("map_mean"))
        return good | {"map_agreement": good["map_agreement"].with_columns(moved.alias("map_mean"))}

    assert set(plant(shared_house, shifted(0.370))) == {"map_agreement"}
    assert not plant(shared_house, shifted(0.360))
    assert set(plant(shared_house, shifted(-0.370))) == {"map_agreement"}


def test_a_mixture_of_parameters_is_a_warning(house: House, good: dict[str, pl.DataFrame]) -> None:
    deliver(house.inbox, 1_000_001, "V00")
    deliver(house.inbox, 1_000_002, "V00")
    assert house.update("V00").success
    failed = plant(house, maps_ledger(results(house)), config_hash="another")
    assert set(failed) == {"one_configuration"}
    assert failed["one_configuration"].severity is dg.AssetCheckSeverity.WARN


def test_too_many_refusals_are_a_warning(house: House) -> None:
    deliver(house.inbox, 1_000_001, "V00")
    deliver_truncated(house.inbox, 1_000_002, "V00")
    result = house.update("V00")
    assert result.success
    found = evaluations(result)["quarantine_share"]
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
