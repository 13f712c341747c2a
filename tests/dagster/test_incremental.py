"""Materialising is incremental: nothing new computes nothing, one new visit computes one."""

import dagster as dg
import pytest
from conftest import House
from knees import deliver, deliver_truncated

STEPS = ("segmentations", "spherical_maps", "knee_biomarkers")


def materialization(result: dg.ExecuteInProcessResult, asset: str) -> dg.AssetMaterialization:
    found = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    ]
    assert len(found) == 1, asset
    return found[0]


def number(result: dg.ExecuteInProcessResult, asset: str, name: str) -> float:
    return materialization(result, asset).metadata[name].value


def version(result: dg.ExecuteInProcessResult, asset: str) -> str:
    return materialization(result, asset).tags["dagster/data_version"]


@pytest.fixture(scope="module")
def runs(shared_house: House) -> dict[str, dg.ExecuteInProcessResult]:
    """Two knees, then nothing new, then one more knee, then another visit of one."""
    house, done = shared_house, {}
    deliver(house.inbox, 1_000_001, "V00")
    deliver(house.inbox, 1_000_002, "V00")
    deliver_truncated(house.inbox, 1_000_009, "V00")
    done["first"] = house.update("V00")
    done["again"] = house.update("V00")
    deliver(house.inbox, 1_000_003, "V00")
    done["one_more"] = house.update("V00")
    deliver(house.inbox, 1_000_001, "V03")
    done["next_visit"] = house.update("V03")
    return done


def test_a_quarantined_knee_does_not_stop_the_run(
    runs: dict[str, dg.ExecuteInProcessResult],
) -> None:
    first = runs["first"]
    assert first.success
    assert number(first, "scan_inventory", "n_quarantined") == 1
    reasons = materialization(first, "scan_inventory").metadata["quarantine_reasons"]
    assert [record.data["n"] for record in reasons.records] == [1]
    assert reasons.records[0].data["reason"] in {"truncated_file", "unreadable_file"}
    assert reasons.records[0].data["remedy"]


def test_the_first_run_computes_every_knee(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    for asset in STEPS:
        assert number(runs["first"], asset, "n_pending") == 2, asset
        assert number(runs["first"], asset, "n_computed") == 2, asset
    assert number(runs["first"], "spherical_maps", "dagster/partition_row_count") == 6


def test_the_second_run_computes_nothing(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    assert number(runs["again"], "scan_inventory", "n_landed") == 0
    for asset in STEPS:
        assert number(runs["again"], asset, "n_computed") == 0, asset
    for asset in ("scan_inventory", *STEPS, "biomarkers_wide"):
        assert version(runs["again"], asset) == version(runs["first"], asset), asset


def test_one_new_visit_computes_exactly_one(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    for asset in STEPS:
        assert number(runs["one_more"], asset, "n_computed") == 1, asset
        assert number(runs["next_visit"], asset, "n_computed") == 1, asset
        assert version(runs["one_more"], asset) != version(runs["again"], asset), asset
    assert version(runs["one_more"], "biomarkers_wide") != version(runs["again"], "biomarkers_wide")


def test_sql_assets_see_all_visits(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    assert number(runs["one_more"], "biomarkers_wide", "dagster/row_count") == 3
    assert number(runs["next_visit"], "biomarkers_wide", "dagster/row_count") == 4
    # Of the four knee-visits one is a later visit of a knee seen before.
    assert number(runs["next_visit"], "longitudinal_change", "dagster/row_count") > 0
    shown = materialization(runs["next_visit"], "biomarkers_wide").metadata["preview"]
    assert [record.data["knee_visit"] for record in shown.records] == [
        "1000001_RIGHT_V00",
        "1000001_RIGHT_V03",
        "1000002_RIGHT_V00",
        "1000003_RIGHT_V00",
    ]


def test_there_is_something_to_look_at(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    for asset, name in (("spherical_maps", "example_knee"), ("knee_biomarkers", "map_agreement")):
        shown = materialization(runs["first"], asset).metadata[name]
        assert isinstance(shown, dg.MarkdownMetadataValue), name
        assert "data:image/png;base64,iVBOR" in shown.md_str
        assert len(shown.md_str) < 140_000
        # A run that computed nothing shows what the one before it drew.
        assert materialization(runs["again"], asset).metadata[name] == shown


def test_checks_are_recorded_for_their_visit(runs: dict[str, dg.ExecuteInProcessResult]) -> None:
    evaluations = runs["first"].get_asset_check_evaluations()
    assert {evaluation.partition for evaluation in evaluations} == {"V00"}
    failed = {evaluation.check_name for evaluation in evaluations if not evaluation.passed}
    # One of three deliveries was truncated.
    assert failed <= {"quarantine_share"}
