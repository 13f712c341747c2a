"""The classifiers as partitions, bone by strategy: several in one run, and asked for or idle."""

from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import MODEL_PARTITIONS
from assets.resources import ClusterResource, LakeResource
from dagster_project.definitions import build_defs
from dagster_project.launch import materialize
from dagster_project.stages import stages
from lake.store import Lake
from pipeline.config import Settings

SMALL = {"preset": "demo", "width": 0.125, "max_epochs": 1, "device": "cpu"}
# The rectangle between its ends: two bones, one strategy.
RANGE = {
    "dagster/asset_partition_range_start": "femur|bone_thickness",
    "dagster/asset_partition_range_end": "tibia|bone_thickness",
}


def run(root: Path, instance: dg.DagsterInstance, **ops: dict) -> dg.ExecuteInProcessResult:
    defs = build_defs(
        lake=LakeResource(lake_root=str(root), inbox=str(root / "inbox")),
        cluster=ClusterResource(engine="serial"),
    )
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(name) for name in ops],
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {name: {"config": config} for name, config in ops.items()},
        },
        tags=RANGE,
        raise_on_error=False,
    )


def test_one_run_trains_several_models_and_shows_each(pictured: Lake) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        made = run(pictured.root, instance, oa_classifiers=SMALL, pain_classifiers=SMALL)
        assert made.success
        wanted = {"femur|bone_thickness", "tibia|bone_thickness"}
        assert instance.get_materialized_partitions(dg.AssetKey("pain_classifiers")) == wanted
    shown = {
        (event.asset_key.to_user_string(), event.partition): event.materialization.metadata
        for event in made.get_asset_materialization_events()
    }
    assert len(shown) == 4
    table = pictured.sql(
        "SELECT bone, val_auc, path FROM classifiers "
        "WHERE task = 'chronic_pain' AND strategy = 'bone_thickness'"
    ).to_dicts()
    for row in table:
        metadata = shown["pain_classifiers", f"{row['bone']}|bone_thickness"]
        assert metadata["val_auc"].value == pytest.approx(row["val_auc"], abs=1e-4)
        assert metadata["checkpoint"].value == row["path"]
        assert metadata["training_curves"].value.startswith("![chronic_pain ")
        assert metadata["newly_trained"].value is True
        assert metadata["n_trained"].value == 2


def test_a_model_that_cannot_be_trained_fails_the_run_and_is_named(pictured: Lake) -> None:
    asked = {**SMALL, "initialization": "imagenet"}
    with dg.DagsterInstance.ephemeral() as instance:
        made = run(pictured.root, instance, oa_classifiers=asked)
    assert not made.success
    failures = [event for event in made.all_events if event.is_step_failure]
    message = str(failures[0].step_failure_data.error)
    assert "2 of 2 models: oa femur bone_thickness: there are no ImageNet weights" in message


def test_without_a_preset_or_a_lake_nothing_is_trained(tmp_path: Path) -> None:
    told = []
    results = materialize(
        Settings(lake_root=tmp_path / "lake", inbox=tmp_path, classifier_preset="demo"),
        ["pain_classifiers", "sweep_runs", "sweep_figure"],
        home=tmp_path / "home",
        engine="serial",
        on_result=told.append,
    )
    assert results == told
    by_asset: dict[str, list] = {}
    for result in results:
        by_asset.setdefault(result.asset, []).append(result)
    models = set(MODEL_PARTITIONS.get_partition_keys())
    assert {result.model for result in by_asset["pain_classifiers"]} == models
    assert len(models) == 18
    states = {
        name: {result.metadata["state"] for result in found} for name, found in by_asset.items()
    }
    assert states["pain_classifiers"] == {
        "waiting: there are no images of knee-visits with a label of chronic_pain"
    }
    assert states["sweep_runs"] == {"off: give a preset, demo or paper, to search"}
    assert by_asset["sweep_figure"][0].model is None


def test_every_asset_runs_after_what_it_reads() -> None:
    defs = build_defs()
    graph = defs.resolve_asset_graph()
    seen: set[dg.AssetKey] = set()
    kinds = []
    for stage in stages(defs, graph.get_all_asset_keys()):
        within = set(stage.keys)
        for key in stage.keys:
            assert graph.get(key).parent_keys <= seen | within, key
        seen |= within
        kinds.append(stage.kind)
    assert seen == set(graph.get_all_asset_keys())
    # Maps by visit, the cohort once, images by visit, networks by model.
    assert kinds.index("models") > kinds.index("visits")
    some = [dg.AssetKey("sweep_figure"), dg.AssetKey("sweep_runs")]
    assert [stage.keys for stage in stages(defs, some)] == [(some[1],), (some[0],)]
