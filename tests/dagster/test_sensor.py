"""The inbox sensor asks for the visits something arrived of, once."""

import dagster as dg
import pytest
from conftest import House
from knees import deliver

from dagster_project import sensors

pytestmark = pytest.mark.usefixtures("no_figures")


def tick(house: House) -> dg.SensorResult | dg.SkipReason:
    lake = house.defs.resources["lake"]
    context = dg.build_sensor_context(
        instance=house.instance, resources={"lake": lake}, definitions=house.defs
    )
    return sensors.inbox_sensor(context)


def requested(result: dg.SensorResult | dg.SkipReason) -> set[str]:
    assert isinstance(result, dg.SensorResult), result
    return {request.partition_key for request in result.run_requests}


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "QUIET_SECONDS", 0.0)


def test_no_inbox_is_said(house: House) -> None:
    house.inbox.rmdir()
    result = tick(house)
    assert isinstance(result, dg.SkipReason)
    assert "KNEELAKE_INBOX" in result.skip_message


def test_an_empty_inbox_asks_for_nothing(house: House) -> None:
    assert isinstance(tick(house), dg.SkipReason)


@pytest.mark.usefixtures("no_wait")
def test_exactly_the_touched_visits_are_asked_for_once(house: House) -> None:
    deliver(house.inbox, 1_000_001, "V00")
    deliver(house.inbox, 1_000_001, "V03")
    first = tick(house)
    assert requested(first) == {"V00", "V03"}
    # Before the runs have begun the keys are the same, so the daemon launches them once.
    keys = {request.run_key for request in first.run_requests}
    assert {request.run_key for request in tick(house).run_requests} == keys
    for timepoint in ("V00", "V03"):
        assert house.update(timepoint).success
    assert isinstance(tick(house), dg.SkipReason)

    deliver(house.inbox, 1_000_002, "V03")
    again = tick(house)
    assert requested(again) == {"V03"}
    assert not keys & {request.run_key for request in again.run_requests}


def test_a_delivery_still_being_written_waits(house: House) -> None:
    deliver(house.inbox, 1_000_001, "V00")
    result = tick(house)
    assert isinstance(result, dg.SkipReason)
    assert "V00" in result.skip_message


@pytest.mark.usefixtures("no_wait")
def test_a_delivery_of_no_known_visit_is_refused_once(house: House) -> None:
    deliver(house.inbox, 1_000_001, "V00").rename(house.inbox / "somebody.nrrd")
    assert requested(tick(house)) == {"V00"}
    assert house.update("V00").success
    assert house.lake.sql("SELECT count(*) AS n FROM quarantine")["n"][0] == 1
    assert isinstance(tick(house), dg.SkipReason)
