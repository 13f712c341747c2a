"""Every SQL file, on an empty lake and on a small one whose answers are worked out by hand."""

import duckdb
import numpy as np
import pytest
from lake_samples import biomarker, key, label, ledger

import sql
from imaging.dicom_header import MONTH_TIMEPOINT
from imaging.labels import COMPARTMENTS
from lake.keys import BIOMARKER_UNITS, TIMEPOINTS
from lake.store import Lake

BONES = ("femur", "tibia", "patella")


def _write(lake: Lake, timepoint: str, **tables: list[dict]) -> None:
    visits = {row["knee_visit"] for rows in tables.values() for row in rows}
    with lake.batch("maps", timepoint, "1", "c") as batch:
        for name, rows in tables.items():
            batch.add(name, rows)
        batch.add("ledger", [ledger(visit, "maps", "f") for visit in sorted(visits)])


ROWS_WITHOUT_DATA = {
    "lake/timepoints": len(TIMEPOINTS),
    "association/association_parameters": 1,
    "learning/agreement_parameters": 1,
    "cohort/cohort_parameters": 1,
    "cohort/cohort_flow": 6,
    "cohort/pain_exclusions": 4,
}
"""What is there before anything has landed; nothing of the other files."""


@pytest.mark.parametrize(
    "name", [name for name, file in sql.load_all().items() if file.group != sql.MACROS]
)
def test_every_file_runs_on_an_empty_lake_and_says_what_it_is(lake: Lake, name: str) -> None:
    file = sql.load(name)
    assert file.description
    assert file.grain
    assert file.assumptions
    found = lake.query(name, dict.fromkeys(file.parameters) or None)
    assert found.height == ROWS_WITHOUT_DATA.get(name, 0)


def test_visits_have_the_months_that_dicom_headers_are_read_by(lake: Lake) -> None:
    visits = lake.query("lake/timepoints")
    assert dict(zip(visits["months"], visits["timepoint"], strict=True)) == MONTH_TIMEPOINT


def test_views_come_after_what_they_read() -> None:
    names = [file.name for file in sql.views(("lake", "biomarkers"))]
    assert names.index("timepoints") < names.index("longitudinal_change")
    assert names.index("biomarkers_long") < names.index("biomarkers_wide")
    assert "pending_maps" not in names
    with pytest.raises(KeyError, match=r"there are association/.*, biomarkers/biomarkers_long"):
        sql.load("lake/nothing")


def test_wide_holds_the_default_methods(lake: Lake) -> None:
    _write(
        lake,
        "V00",
        biomarkers=[
            biomarker(1000001, 2.0),
            biomarker(1000001, 9.0, method="normal", is_default=False),
            biomarker(1000001, 41.0, biomarker="t2_mean", bone="tibia", compartment="whole"),
            biomarker(1000002, None),
        ],
    )
    wide = lake.sql("FROM biomarkers_wide ORDER BY knee_visit")
    expected = {
        f"{bone}_{compartment}_{name}_{unit}"
        for bone in BONES
        for compartment in COMPARTMENTS
        for name, unit in BIOMARKER_UNITS.items()
    }
    assert set(wide.columns) == expected | {"knee_visit", "subject_id", "side", "timepoint"}
    assert wide["femur_medial_cartilage_thickness_mm"].to_list() == [2.0, None]
    assert wide["tibia_whole_t2_mean_ms"].to_list() == [41.0, None]
    assert wide["patella_whole_bone_shape_mm"].to_list() == [None, None]


def test_what_several_views_read_is_worked_out_once(lake: Lake) -> None:
    with lake.connect(query="FROM leakage_control_cases") as connection:
        kinds = dict(
            connection.execute(
                "SELECT table_name, table_type FROM information_schema.tables"
            ).fetchall()
        )
        for name in ("batches", "cohort", "model_cases"):
            assert (kinds[name], kinds[f"settled_{name}"]) == ("VIEW", "BASE TABLE")
            plan = connection.execute(f"EXPLAIN FROM {name}").fetchall()[0][1]
            assert f"settled_{name}" in plan
        assert "settled_leakage_control_cases" not in kinds
        threads = "SELECT current_setting('threads')"
        # One was for the working out alone.
        assert connection.execute(threads).fetchone() == duckdb.execute(threads).fetchone()
    # Who asks for the catalogue sees the views alone.
    assert not [name for (name, *_) in lake.sql("SHOW TABLES").rows() if "settled" in name]


def test_long_has_units(lake: Lake) -> None:
    rows = [biomarker(1000001, 2.0, biomarker=name, method="m") for name in BIOMARKER_UNITS]
    _write(lake, "V00", biomarkers=rows)
    long = lake.sql("SELECT biomarker, unit FROM biomarkers_long")
    assert dict(long.rows()) == dict(BIOMARKER_UNITS)


def test_the_three_methods_side_by_side(lake: Lake) -> None:
    methods = {"skeleton": 1.5, "skeleton_subvoxel": 2.25, "normal": 2.0}
    rows = [
        biomarker(1000001, mean, method=method, is_default=method == "skeleton")
        for method, mean in methods.items()
    ]
    _write(lake, "V00", biomarkers=rows)
    row = lake.sql("FROM thickness_methods").row(0, named=True)
    assert row["skeleton_mm"] == 1.5
    assert row["skeleton_subvoxel_mm"] == 2.25
    assert row["normal_mm"] == 2.0
    assert row["skeleton_minus_normal_mm"] == -0.5
    assert row["skeleton_subvoxel_minus_normal_mm"] == 0.25


def test_bland_altman_agrees_with_numpy(lake: Lake) -> None:
    random = np.random.default_rng(5)
    surface = random.uniform(1.5, 3.0, 20)
    pixels = surface * 1.1 + random.normal(0.0, 0.05, 20)
    area = surface + random.normal(0.0, 0.02, 20)
    rows = [
        key(1000001 + number)
        | {
            "bone": "tibia",
            "biomarker": "cartilage_thickness",
            "surface_mean": surface[number],
            "map_mean": pixels[number],
            "map_mean_area_weighted": area[number],
            "n_surface": 10,
            "n_map": 10,
        }
        for number in range(20)
    ]
    _write(lake, "V00", map_agreement=rows)
    summary = lake.sql("FROM map_agreement_summary ORDER BY weighting DESC").to_dicts()
    assert [row["weighting"] for row in summary] == ["pixels", "area"]
    for row, on_map in zip(summary, (pixels, area), strict=True):
        difference, average = on_map - surface, (on_map + surface) / 2
        sd = np.std(difference, ddof=1)
        assert (row["bone"], row["biomarker"], row["n"]) == ("tibia", "cartilage_thickness", 20)
        assert row["bias"] == pytest.approx(difference.mean())
        assert row["sd"] == pytest.approx(sd)
        assert row["lower_limit"] == pytest.approx(difference.mean() - 1.96 * sd)
        assert row["upper_limit"] == pytest.approx(difference.mean() + 1.96 * sd)
        assert row["mean_of_both"] == pytest.approx(average.mean())
        assert row["slope"] == pytest.approx(np.polyfit(average, difference, 1)[0])


def test_change_since_the_first_visit(lake: Lake) -> None:
    # V00 has no value for the second knee, so its first visit is V01 (12 months).
    for timepoint, means in (("V00", (2.0, None)), ("V01", (1.9, 3.0)), ("V03", (1.6, 2.7))):
        rows = [
            biomarker(1000001 + number, mean, timepoint=timepoint)
            for number, mean in enumerate(means)
        ]
        _write(lake, timepoint, biomarkers=rows)
    change = lake.sql(
        "SELECT subject_id, timepoint, first_timepoint, months_since_first, first_mean, "
        "round(change, 6), round(change_per_year, 6) FROM longitudinal_change ORDER BY ALL"
    )
    assert change.rows() == [
        (1000001, "V01", "V00", 12, 2.0, -0.1, -0.1),
        (1000001, "V03", "V00", 24, 2.0, -0.4, -0.2),
        (1000002, "V03", "V01", 12, 3.0, -0.3, -0.3),
    ]


def test_status_agrees_with_pending(lake: Lake) -> None:
    with lake.batch("ingest", "V00", "1", "c") as batch:
        batch.add("label_files", [label(1000001, "l"), label(1000002, "l")])
    status = lake.status("c", "1", "c", "1").row(0, named=True)
    assert status["n_labelled"] == status["n_segmentation_pending"] == 2
    assert lake.pending("segmentation", "c", "1").height == 2
    assert status["n_maps_pending"] == lake.pending("maps", "c", "1").height == 0
