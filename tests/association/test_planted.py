"""Tables 2 and 3 on lakes whose pain was drawn from coefficients we know."""

import polars as pl
import pytest
from planted import Planted

from lake.store import Lake
from lake.tables import TABLES
from pipeline import association
from pipeline.config import Settings

# Of a seeded draw; wrong code would be many standard errors off.
LIMIT = 3.0


def _deviations(run: association.Run, truth, model: str, population: str) -> dict[str, float]:
    rows = run.tables["regression_terms"].filter(
        (pl.col("model") == model) & (pl.col("population") == population)
    )
    return {
        row["term"]: (row["estimate"] - truth[row["term"]]) / row["cluster_se"]
        for row in rows.to_dicts()
        if row["position"] > 0
    }


def test_table_2_finds_what_was_planted(radiographic: Planted) -> None:
    run = association.run_radiographic(radiographic.lake, Settings(radiographic.lake.root))
    found = _deviations(run, radiographic.truth, "radiographic", "training")
    assert set(found) == set(radiographic.truth)
    assert max(map(abs, found.values())) < LIMIT
    terms = {row["term"]: row for row in run.tables["regression_terms"].to_dicts()}
    assert terms["kl_grade"]["p"] < 1e-4
    assert terms["kl_grade"]["cluster_p"] < 1e-4
    assert terms["jsn_lateral"]["p"] > 0.01


def test_table_2_is_fitted_on_training_and_evaluated_on_test(radiographic: Planted) -> None:
    run = association.run_radiographic(radiographic.lake, Settings(radiographic.lake.root))
    [model] = run.tables["regression_models"].to_dicts()
    counts = {
        row["split"]: row
        for row in radiographic.lake.sql(
            "SELECT split, count(*) AS n, count(DISTINCT subject_id) AS n_people, "
            "sum(chronic_pain)::BIGINT AS n_events FROM radiographic_cases "
            "WHERE jsw_medial_min_mm IS NOT NULL AND bmi IS NOT NULL AND age_years IS NOT NULL "
            "AND sex_female IS NOT NULL AND jsn_medial IS NOT NULL AND jsn_lateral IS NOT NULL "
            "GROUP BY split"
        ).to_dicts()
    }
    training = counts["training"]
    assert (model["n"], model["n_events"], model["n_clusters"]) == (
        training["n"],
        training["n_events"],
        training["n_people"],
    )
    tested = run.tables["regression_performance"].to_dicts()
    assert {row["evaluated_on"] for row in tested} == {"test"}
    assert {row["threshold_rule"] for row in tested} == {"half", "training_share"}
    for row in tested:
        assert (row["n"], row["n_events"]) == (counts["test"]["n"], counts["test"]["n_events"])
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["auc"] > 0.6


def test_table_3_finds_what_was_planted(thickness: Planted) -> None:
    run = association.run_nested(thickness.lake, Settings(thickness.lake.root))
    for population in ("all_timepoints", "first_timepoints"):
        found = _deviations(run, thickness.truth, "compartments", population)
        assert set(found) == set(thickness.truth)
        assert max(map(abs, found.values())) < LIMIT
    tests = {
        (row["population"], row["test"]): row for row in run.tables["regression_tests"].to_dicts()
    }
    assert tests["all_timepoints", "likelihood_ratio"]["p"] < 1e-4
    assert tests["all_timepoints", "cluster_wald"]["p"] < 1e-4
    assert {row["df"] for row in tests.values()} == {2}
    n = thickness.lake.sql(
        "SELECT count(*) AS n, count(DISTINCT subject_id) AS n_people FROM regression_cases"
    ).to_dicts()[0]
    models = run.tables["regression_models"].filter(pl.col("model") == "compartments")
    dropped = {row["population"]: row["n"] + row["n_dropped"] for row in models.to_dicts()}
    assert dropped == {"all_timepoints": n["n"], "first_timepoints": n["n_people"]}


def test_table_3_finds_nothing_where_nothing_was_planted(radiographic: Planted) -> None:
    run = association.run_nested(radiographic.lake, Settings(radiographic.lake.root))
    assert run.tables["regression_tests"]["p"].min() > 0.005


def test_dl_guided_averages_join_once_there_are_some(thickness: Planted) -> None:
    from pipeline.cohort_regressions import nested_regressions

    with thickness.lake.connect() as connection:
        # The Grad-CAM found the medial compartment: its average is what pain was drawn from.
        connection.execute(
            "CREATE TEMP TABLE guided AS SELECT knee_visit, bone, biomarker, "
            "medial + 0.05 * sin(hash(knee_visit)) AS dl_guided FROM regression_cases "
            "WHERE is_first_timepoint"
        )
        results = nested_regressions(connection, "guided")
    models = {(row["population"], row["model"]): row for row in results.tables["regression_models"]}
    assert {model for _, model in models} == {
        "demographics",
        "compartments",
        "classical",
        "dl_guided",
    }
    # Both models of a pair are fitted to the rows that the larger can use.
    guided = models["all_timepoints", "dl_guided"]
    assert (
        guided["n"]
        == models["all_timepoints", "classical"]["n"]
        < models["all_timepoints", "compartments"]["n"]
    )
    added = [row for row in results.tables["regression_tests"] if row["added"] == "dl_guided"]
    assert {row["df"] for row in added} == {1}


def test_an_unchanged_lake_writes_nothing(thickness: Planted) -> None:
    lake, settings = thickness.lake, Settings(thickness.lake.root)
    first = association.run_nested(lake, settings)
    batches = lake.sql("SELECT count(*) FROM batches").item()
    again = association.run_nested(lake, settings)
    assert not again.computed
    assert lake.sql("SELECT count(*) FROM batches").item() == batches
    assert all(again.tables[name].equals(first.tables[name]) for name in first.tables)
    every = association.run_nested(lake, settings, {"regression_split": "all"})
    assert every.computed
    assert every.n_rows > first.n_rows
    # Only the newest run counts: a table shows no rows of the one before.
    shown = lake.sql("SELECT count(*) FROM regression_models").item()
    assert shown == every.tables["regression_models"].height
    assert association.run_nested(lake, settings).computed
    for name in ("analyses", *first.tables):
        assert lake.check(name)["n_failed"].sum() == 0
        assert lake.data_version(name)


def test_what_cannot_be_fitted_is_a_row_with_its_reason(tmp_path, thickness: Planted) -> None:
    empty = Lake(tmp_path / "lake")
    run = association.run_radiographic(empty, Settings(empty.root))
    [model] = run.tables["regression_models"].to_dicts()
    assert model["n"] is None
    assert model["reason"]
    assert (run.n_fitted, run.n_failed) == (0, 1)
    nothing = association.run_nested(empty, Settings(empty.root))
    assert nothing.tables["regression_models"].is_empty()
    for content in (association.radiographic_files(run), association.nested_files(nothing)):
        assert all(content.values())
    from pipeline.cohort_regressions import nested_regressions

    with thickness.lake.connect() as connection:
        connection.execute(
            "CREATE TEMP VIEW regression_cases AS SELECT * FROM memory.main.regression_cases "
            "WHERE chronic_pain = 1"
        )
        results = nested_regressions(connection)
    reasons = {row["reason"] for row in results.tables["regression_models"]}
    assert all("there is nothing to tell apart" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["analyses", "regression_models", "spm_points"])
def test_result_tables_are_of_the_newest_run(name: str) -> None:
    assert TABLES[name].step == "statistics"
    assert TABLES[name].key == ("analysis",)
