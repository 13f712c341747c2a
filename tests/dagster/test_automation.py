"""SQL assets are asked for when what they read has changed, once, and not otherwise."""

import dagster as dg
import pytest
from conftest import House
from knees import deliver

import sql

STEPS = ("segmentations", "spherical_maps", "knee_biomarkers")

pytestmark = pytest.mark.usefixtures("no_figures")


def test_automation_is_silent_after_a_run_that_changed_nothing(house: House) -> None:
    """Nothing but a change upstream asks for the SQL assets, and then only once."""
    downstream = {"biomarkers_long", "thickness_methods"}

    def requested(cursor: object) -> tuple[set[str], object]:
        ticked = dg.evaluate_automation_conditions(house.defs, house.instance, cursor=cursor)
        names = {
            key.to_user_string()
            for key in house.defs.resolve_asset_graph().get_all_asset_keys()
            if ticked.get_num_requested(key)
        }
        return names, ticked.cursor

    def imaging_run() -> None:
        house.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=house.instance,
            partition_key="V00",
            asset_selection=[dg.AssetKey(name) for name in ("scan_inventory", *STEPS)],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )

    names, cursor = requested(None)
    assert names == set()
    deliver(house.inbox, 1_000_001, "V00")
    imaging_run()
    names, cursor = requested(cursor)
    assert downstream <= names
    names, cursor = requested(cursor)
    assert names == set()
    imaging_run()
    names, cursor = requested(cursor)
    assert names == set()
    # A run that brings the SQL assets up to date itself leaves nothing to ask for but the cohort
    # and what is analysed of it, which are not part of it.
    deliver(house.inbox, 1_000_002, "V00")
    house.update("V00")
    names, cursor = requested(cursor)
    assert names <= {file.name for file in sql.views(("cohort", "association"))}
