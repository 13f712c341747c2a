"""Drawn maps land as computed ones do, marked as drawn, with what was planted in them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import rankdata

from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from phantom.map_cohort import planted_region
from phantom.planted_pain import PainModel
from pipeline.drawn_maps import METHOD, DrawingPlan, knees_to_draw, land_drawn_maps

SEED = 1
PLAN = DrawingPlan(SEED, PainModel(separation=3.0))
LIMIT = 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("drawn") / "lake")
    land_people(lake)
    report = land_drawn_maps(lake, PLAN, timepoint="V00", limit=LIMIT)
    assert report.n_knee_visit == LIMIT
    return lake


def land_people(lake: Lake) -> None:
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(60, seed=SEED)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))


def test_the_cohort_includes_them(drawn: Lake) -> None:
    found = drawn.sql(
        "SELECT count(DISTINCT knee_visit) AS n, count(*) AS n_rows, bool_and(has_t2) AS with_t2 "
        "FROM maps_index SEMI JOIN model_cases USING (knee_visit)"
    ).row(0)
    assert found == (LIMIT, 3 * LIMIT, True)
    # Those of the chronic-pain task come first.
    left = drawn.sql(
        "SELECT count(*) FROM model_cases ANTI JOIN maps_index USING (knee_visit) "
        "WHERE model = 'chronic_pain' AND timepoint = 'V00'"
    ).item()
    assert left == 0


def test_they_are_marked_and_nothing_is_made_up_about_scans(drawn: Lake) -> None:
    marked = drawn.sql("SELECT DISTINCT knee_visit FROM drawn_knees ORDER BY 1")
    mapped = drawn.sql("SELECT DISTINCT knee_visit FROM maps_index ORDER BY 1")
    assert marked.equals(mapped)
    for table in ("scans", "label_files", "segmentations", "tissue_volumes"):
        assert drawn.sql(f"FROM {table}").is_empty()
    assert drawn.sql("SELECT DISTINCT method FROM biomarkers")["method"].to_list() == [METHOD]
    for step in ("segmentation", "maps"):
        assert drawn.pending(step, "c", "1").is_empty()


def test_the_checks_of_the_lake_find_nothing(drawn: Lake) -> None:
    for name in ("missing_maps", "missing_t2", "one_configuration", "biomarkers_in_range"):
        assert drawn.query(f"checks/{name}", {"timepoint": None}).is_empty(), name
    assert drawn.check("drawn_knees")["n_failed"].sum() == 0


def test_a_second_run_draws_nothing(drawn: Lake) -> None:
    before = len(drawn.sql("FROM batches"))
    names = set(drawn.sql("SELECT knee_visit FROM maps_index")["knee_visit"])
    rest = knees_to_draw(drawn, "V00")
    assert not names & {row["knee_visit"] for row in rest}
    assert land_drawn_maps(drawn, PLAN, timepoint="V00", limit=0).n_knee_visit == 0
    assert len(drawn.sql("FROM batches")) == before


def test_the_truth_table_tells_the_planted_amplitude(drawn: Lake) -> None:
    rows = drawn.sql(
        "SELECT * FROM drawn_knees WHERE bone = 'patella' "
        "AND pain_label IN ('chronic_pain', 'no_pain') ORDER BY knee_visit"
    )
    assert json.loads(rows["effect"][0])["thinning_mm"] == 0.5
    pain = (rows["pain_label"] == "chronic_pain").to_numpy()
    amplitude = rows["amplitude"].to_numpy()
    difference = amplitude[pain].mean() - amplitude[~pain].mean()
    se = np.sqrt(1 / pain.sum() + 1 / (~pain).sum())
    assert abs(difference - 3.0) < 4 * se
    maps = drawn.maps("patella", "t2_mean").sel(knee=rows["knee_visit"].to_list()).values
    inside = np.nanmean(maps[:, planted_region("patella").mask], axis=1)
    rank = rankdata(inside)
    above = rank[pain].sum() - pain.sum() * (pain.sum() + 1) / 2
    assert above / pain.sum() / (~pain).sum() > 0.85
    assert np.corrcoef(inside, amplitude)[0, 1] > 0.8


def test_biomarkers_are_area_weighted_means_of_the_maps(drawn: Lake) -> None:
    knee_visit = drawn.sql("SELECT min(knee_visit) FROM maps_index").item()
    for bone, part in drawn.knee_maps(knee_visit).items():
        rows = drawn.sql(
            "SELECT * FROM biomarkers WHERE knee_visit = $knee AND bone = $bone",
            {"knee": knee_visit, "bone": bone},
        )
        area = part.area_mm2[0].astype(float)
        for name, maps in part.maps.items():
            of_map = rows.filter(pl.col("biomarker") == name)
            seen = np.isfinite(maps[0])
            whole = of_map.row(by_predicate=pl.col("compartment") == "whole", named=True)
            expected = np.average(maps[0][seen].astype(float), weights=area[seen])
            # The stored map is rounded to 11 bits.
            assert whole["mean"] == pytest.approx(expected, rel=1e-3)
            assert whole["n"] == seen.sum()
            sides = of_map.filter(pl.col("compartment") != "whole")
            assert sides["n"].sum() == whole["n"]
            assert sides["area_mm2"].sum() == pytest.approx(whole["area_mm2"])
            weighted = (sides["mean"] * sides["area_mm2"]).sum() / sides["area_mm2"].sum()
            assert weighted == pytest.approx(whole["mean"])


def test_the_same_plan_gives_the_same_files(drawn: Lake, tmp_path: Path) -> None:
    again = Lake(tmp_path / "lake")
    land_people(again)
    land_drawn_maps(again, PLAN, timepoint="V00", limit=LIMIT)
    query = "SELECT knee_visit, bone, part, row, batch_id FROM maps_index ORDER BY ALL"
    assert again.sql(query).equals(drawn.sql(query))
