"""Tables 2 and 3 as assets: graph, what the UI shows, files, and no run of unchanged input."""

from html.parser import HTMLParser
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.resources import LakeResource
from dagster_project.definitions import build_defs
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables

ASSOCIATION = {
    "association_parameters": set(),
    "radiographic_cases": {"cohort", "association_parameters"},
    "regression_cases": {"cohort", "biomarkers_long", "first_timepoints", "association_parameters"},
    "published_cases": set(),
    "published_regressions": {"published_cases"},
    "radiographic_regression": {"radiographic_cases"},
    "nested_regressions": {"regression_cases", "dl_guided_biomarkers"},
    "cell_sums": {"cam_maps", "spherical_maps"},
    "dl_guided_biomarkers": {
        "association_parameters",
        "cell_sums",
        "model_predictions",
        "predictions",
    },
    "control_networks": {"training_images", "spherical_maps", "model_cases"},
    "leakage_control_cases": {
        "association_parameters",
        "cell_sums",
        "cohort",
        "control_networks",
        "dl_guided_biomarkers",
        "model_predictions",
        "predictions",
        "regression_cases",
    },
    "leakage_controls": {"leakage_control_cases"},
    "reference_candidates": {"first_timepoints", "spherical_maps"},
    "atlas": {"reference_candidates", "spherical_maps"},
    "correspondences": {"atlas", "cohort", "first_timepoints", "spherical_maps"},
    "atlas_maps": {"cam_maps", "correspondences", "spherical_maps"},
    "spm_cases": {"first_timepoints", "model_agreement"},
    "spm_cam_pain": {"atlas_maps", "cell_sums", "spm_cases"},
    "spm_cam_predicted": {"atlas_maps", "cell_sums", "spm_cases"},
    "spm_biomarkers": {"atlas_maps", "spm_cases"},
    "comparison_figures": {"spm_biomarkers", "spm_cam_pain", "spm_cam_predicted"},
}
APART = {"cell_sums", "control_networks", "correspondences", "atlas_maps"}
"""Of a visit, or asked for by themselves: the job leaves them out."""
TABLE = "Age,BMI,Sex,LF,MF,DLROI,Outcome\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("association")
    root, inbox = folder / "lake", folder / "inbox"
    (inbox / "published").mkdir(parents=True)
    rows = [
        f"{50 + n % 29},{20 + n % 13},{1 + n % 2},{1 + n % 7 / 5},2.{n % 9},1.{n % 8},{n % 3 // 2}"
        for n in range(120)
    ]
    (inbox / "published" / "tibia.csv").write_text(TABLE + "\n".join(rows) + "\n")
    with Lake(root).batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(60, seed=1)).items():
            batch.add(name, frame.with_columns(pl.lit(value=False).alias("retracted")))
    return root, inbox


@pytest.fixture(scope="module")
def runs(house: tuple[Path, Path]) -> list[dg.ExecuteInProcessResult]:
    resource = LakeResource(lake_root=str(house[0]), inbox=str(house[1]))
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(lake=resource).resolve_job_def("update_association")
        yield [job.execute_in_process(instance=instance) for _ in range(2)]


def _shown(result: dg.ExecuteInProcessResult) -> dict[str, dict]:
    return {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }


def test_graph() -> None:
    graph = build_defs().resolve_asset_graph()
    group = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
        if graph.get(key).group_name == "association"
    }
    assert group == ASSOCIATION


def test_everything_is_materialised_and_shown(runs) -> None:
    assert all(run.success for run in runs)
    shown = _shown(runs[0])
    assert set(shown) == set(ASSOCIATION) - APART
    for name in ("published_regressions", "radiographic_regression", "nested_regressions"):
        tables = [key for key in shown[name] if key.startswith("table_")]
        assert "| " in shown[name][tables[0]].value
        assert shown[name]["forest_plot"].value.startswith("![forest_plot](data:image/png")
        assert "independent" in shown[name]["assumes"].value
    assert shown["published_cases"]["dagster/row_count"].value == 120
    assert shown["published_regressions"]["n_models_fitted"].value == 2
    assert "Printed" in shown["published_regressions"]["differences_from_print"].value


def test_a_second_run_computes_nothing(runs, house) -> None:
    first, again = _shown(runs[0]), _shown(runs[1])
    for name in ("published_regressions", "radiographic_regression", "nested_regressions"):
        assert first[name]["computed"].value
        assert not again[name]["computed"].value
    versions = [
        {
            event.asset_key: event.materialization.tags["dagster/data_version"]
            for event in run.get_asset_materialization_events()
        }
        for run in runs
    ]
    assert versions[0] == versions[1]
    batches = Lake(house[0]).sql("SELECT step, count(*) FROM batches GROUP BY step").rows()
    assert dict(batches) == {"clinical": 1, "published": 1, "statistics": 4}


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_files_are_written(runs, house) -> None:
    written = {path.name for path in (house[0] / "figures").iterdir()}
    tables = ("table_2", "table_3", "table_3_published", "table_3_differences", "leakage_controls")
    plots = ("forest_published", "forest_radiographic", "forest_nested", "forest_leakage")
    assert written == {
        *(f"{name}.{form}" for name in tables for form in ("html", "md", "csv")),
        *(f"{name}.{form}" for name in plots for form in ("png", "svg")),
    }
    for path in (house[0] / "figures").glob("*.html"):
        parser = Balanced()
        parser.feed(path.read_text(encoding="utf-8"))
        assert parser.open == []
