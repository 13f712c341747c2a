"""Ranges and images as assets: waiting without data, then made once."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.images import map_ranges, training_images
from assets.resources import LakeResource, ProgressResource
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.drawn_maps import DrawingPlan, land_drawn_maps
from pipeline.map_ranges import current_ranges


def run(asset: dg.AssetsDefinition, root: Path, instance: dg.DagsterInstance, **more) -> dict:
    result = dg.materialize(
        [asset],
        instance=instance,
        resources={"lake": LakeResource(lake_root=str(root)), "progress": ProgressResource()},
        **more,
    )
    assert result.success
    (event,) = result.get_asset_materialization_events()
    return {**event.materialization.metadata, "version": event.materialization.tags}


@pytest.fixture
def instance():
    with dg.instance_for_test() as made:
        yield made


def version(found: dict) -> str:
    return found["version"]["dagster/data_version"]


def test_ranges_then_images(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = tmp_path / "lake"
    for asset, more in ((map_ranges, {}), (training_images, {"partition_key": "V00"})):
        assert run(asset, root, instance, **more)["state"].value.startswith("waiting")
    lake = Lake(root)
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(30, seed=1)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    land_drawn_maps(lake, DrawingPlan(1), timepoint="V00", limit=12)

    ranges = run(map_ranges, root, instance)
    assert version(ranges) == current_ranges(lake).ranges_id
    assert ranges["dagster/row_count"].value == 15
    first = run(training_images, root, instance, partition_key="V00")
    assert first["n_computed"].value == 12
    assert first["dagster/partition_row_count"].value == 36
    assert "data:image/png;base64" in first["strategies"].value

    again = run(map_ranges, root, instance)
    assert version(again) == version(ranges)
    second = run(training_images, root, instance, partition_key="V00")
    assert second["n_pending"].value == 0
    assert version(second) == version(first)
    assert second["strategies"].value == first["strategies"].value

    config = {"map_ranges": {"config": {"population": "all"}}}
    everyone = run(map_ranges, root, instance, run_config={"ops": config})
    assert version(everyone) != version(ranges)
    third = run(training_images, root, instance, partition_key="V00")
    assert third["n_computed"].value == 12
