"""Clinical tables and the cohort as assets: graph, job, lineage, schemas and checks."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import sql
from assets.clinical import CLINICAL_TABLES
from assets.resources import LakeResource
from dagster_project.definitions import build_defs
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables

COHORT = {
    "splits": {"enrollees", "scans_listed", "scan_inventory", "cohort_parameters"},
    "pain_labels": {"knee_pain", "cohort_parameters"},
    "oa_labels": {"radiographs", "cohort_parameters"},
    "segmentation_qc": {"segmentations", "cohort_parameters"},
    "cohort_flow": {"cohort_candidates"},
    "cohort": {"model_cases", "oa_labels"},
    "first_timepoints": {"cohort"},
    "split_balance": {"model_cases", "split_tests", "timepoint_distribution"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort") / "lake"
    with Lake(root).batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(60, seed=1)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    return root


@pytest.fixture(scope="module")
def result(root: Path) -> dg.ExecuteInProcessResult:
    (root.parent / "inbox").mkdir()
    resource = LakeResource(lake_root=str(root), inbox=str(root.parent / "inbox"))
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(lake=resource).resolve_job_def("update_cohort")
        yield job.execute_in_process(instance=instance)


def test_graph_is_read_from_the_queries() -> None:
    graph = build_defs().resolve_asset_graph()
    parents = {
        name: {parent.to_user_string() for parent in graph.get(dg.AssetKey(name)).parent_keys}
        for name in COHORT
    }
    assert parents == COHORT


def test_everything_is_materialised(result: dg.ExecuteInProcessResult) -> None:
    assert result.success
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    files = {file.name for file in sql.views(("cohort",))}
    assert made == files | set(CLINICAL_TABLES) | {"cohort_figures"}
    figures = next(
        event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey("cohort_figures")
    )
    assert str(figures["flowchart"].value).startswith("![Inclusion flowchart](data:image/png")
    assert "|" in figures["table_4"].value


def test_lineage_units_and_counts_are_shown(result, root: Path) -> None:
    shown = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    schema = shown["cohort"]["dagster/column_schema"].value
    described = {column.name: column.description for column in schema.columns}
    assert "Unit: kg/m2." in described["bmi"]
    assert "Unit: years." in described["age_years"]
    assert all(described.values())
    lineage = shown["cohort"]["dagster/column_lineage"].value.deps_by_column
    assert lineage["chronic_pain"][0].asset_key == dg.AssetKey("model_cases")
    assert shown["cohort_flow"]["dagster/row_count"].value == 6
    people = Lake(root).sql("SELECT count(*) FROM enrollees").item()
    assert shown["enrollees"]["dagster/row_count"].value == people == 60


def test_checks_pass(result: dg.ExecuteInProcessResult) -> None:
    found = {
        (check.asset_key.to_user_string(), check.check_name): check
        for check in result.get_asset_check_evaluations()
    }
    assert {name for _, name in found} == {
        "registry_rules",
        *(file.name for file in sql.load_all().values() if file.group == "cohort_checks"),
    }
    failed = {
        key
        for key, check in found.items()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    }
    assert failed == set()


def test_checks_find_what_is_wrong() -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE cohort_flow AS "
            "SELECT * FROM (VALUES (0, 'dess', 0, 9), (1, 'left', 3, 7)) "
            "AS v (step_number, step, n_excluded, n_remaining)"
        )
        connection.execute("CREATE TABLE cohort AS SELECT unnest(range(6)) AS knee_visit")
        connection.execute(
            "CREATE TABLE pain_exclusions AS SELECT 'pain_unknown' AS reason, 0 AS n_excluded"
        )
        text = sql.load("cohort_checks/cohort_flow_sums").text
        assert connection.execute(text).fetchall() == [("left", 7, 6), ("cohort", 6, 7)]
