"""Tables 2 and 3 on lakes whose pain was drawn from coefficients we know."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import polars as pl
import pytest
from planted_cohort import Planted

from lake.store import Lake
from lake.tables import TABLES
from pipeline import association
from pipeline.cohort_regressions import nested_cases, nested_regressions
from pipeline.config import Settings
from stats.source import load_macros

# Of a seeded draw; wrong code would be many standard errors off.
LIMIT = 3.2


@pytest.fixture(scope="module")
def table_2(radiographic: Planted) -> association.Run:
    return association.run_radiographic(radiographic.lake, Settings(radiographic.lake.root))


@pytest.fixture(scope="module")
def table_3(thickness: Planted) -> association.Run:
    return association.run_nested(thickness.lake, Settings(thickness.lake.root))


def _deviations(
    run: association.Run, truth: Mapping[str, float], model: str, population: str
) -> dict[str, float]:
    """How many clustered standard errors each estimate is from the truth."""
    rows = run.tables["regression_terms"].filter(
        (pl.col("model") == model) & (pl.col("population") == population)
    )
    return {
        row["term"]: (row["estimate"] - truth[row["term"]]) / row["cluster_se"]
        for row in rows.to_dicts()
        if row["position"] > 0
    }


def test_table_2_finds_what_was_planted(radiographic: Planted, table_2) -> None:
    found = _deviations(table_2, radiographic.truth, "radiographic", "training")
    assert set(found) == set(radiographic.truth)
    assert max(map(abs, found.values())) < LIMIT
    terms = {row["term"]: row for row in table_2.tables["regression_terms"].to_dicts()}
    assert terms["kl_grade"]["p"] < 1e-3
    assert terms["jsn_lateral"]["p"] > 0.01


def test_table_2_is_fitted_on_training_and_evaluated_on_test(radiographic, table_2) -> None:
    [model] = table_2.tables["regression_models"].to_dicts()
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
    tested = table_2.tables["regression_performance"].to_dicts()
    assert {row["evaluated_on"] for row in tested} == {"test"}
    assert {row["threshold_rule"] for row in tested} == {"half", "training_share"}
    for row in tested:
        assert (row["n"], row["n_events"]) == (counts["test"]["n"], counts["test"]["n_events"])
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["auc"] > 0.6


def test_table_3_finds_what_was_planted(thickness: Planted, table_3) -> None:
    for population in ("all_timepoints", "first_timepoints"):
        found = _deviations(table_3, thickness.truth, "compartments", population)
        assert set(found) == set(thickness.truth)
        assert max(map(abs, found.values())) < LIMIT
    tests = {
        (row["population"], row["test"]): row
        for row in table_3.tables["regression_tests"].to_dicts()
    }
    assert tests["all_timepoints", "likelihood_ratio"]["p"] < 1e-4
    assert tests["all_timepoints", "cluster_wald"]["p"] < 1e-4
    assert {row["df"] for row in tests.values()} == {2}
    [n] = thickness.lake.sql(
        "SELECT count(*) AS n, count(DISTINCT subject_id) AS n_people FROM regression_cases"
    ).to_dicts()
    models = table_3.tables["regression_models"].filter(pl.col("model") == "compartments")
    rows = {row["population"]: row["n"] + row["n_dropped"] for row in models.to_dicts()}
    assert rows == {"all_timepoints": n["n"], "first_timepoints": n["n_people"]}


def test_table_3_finds_nothing_where_nothing_was_planted(radiographic: Planted) -> None:
    run = association.run_nested(radiographic.lake, Settings(radiographic.lake.root))
    assert run.tables["regression_tests"]["p"].min() > 0.005


def test_dl_guided_averages_join_once_there_are_some(thickness: Planted) -> None:
    query = nested_cases("guided")
    with thickness.lake.connect(query=query) as connection:
        load_macros(connection)
        # The Grad-CAM found the medial compartment: its average is what pain was drawn from.
        connection.execute(
            "CREATE TEMP TABLE guided AS SELECT knee_visit, bone, biomarker, "
            "unnest(['whole', 'medial']) AS compartment, "
            "medial + 0.05 * sin(hash(knee_visit)) AS dl_guided FROM regression_cases "
            "WHERE is_first_timepoint"
        )
        connection.execute(f"CREATE TEMP TABLE cases AS {query}")
        results = nested_regressions(connection, "cases")
    models = {(row["population"], row["model"]): row for row in results.tables["regression_models"]}
    assert {model for _, model in models} == {
        "demographics",
        "compartments",
        "classical",
        "dl_guided",
    }
    # Both models of a pair are fitted to the rows that the larger can use.
    guided, every = models["all_timepoints", "dl_guided"], models["all_timepoints", "compartments"]
    assert guided["n"] == models["all_timepoints", "classical"]["n"] < every["n"]
    added = [row for row in results.tables["regression_tests"] if row["added"] == "dl_guided"]
    assert {row["df"] for row in added} == {1}


def test_an_unchanged_lake_writes_nothing(radiographic: Planted, table_2) -> None:
    lake, settings = radiographic.lake, Settings(radiographic.lake.root)
    batches = lake.sql("SELECT count(*) FROM batches").item()
    again = association.run_radiographic(lake, settings)
    assert table_2.computed
    assert not again.computed
    assert lake.sql("SELECT count(*) FROM batches").item() == batches
    assert all(again.tables[name].equals(table_2.tables[name]) for name in table_2.tables)
    for name in ("analyses", "regression_terms"):
        assert lake.check(name)["n_failed"].sum() == 0


def test_only_the_newest_run_counts(thickness: Planted, table_3) -> None:
    lake, settings = thickness.lake, Settings(thickness.lake.root)
    every = association.run_nested(lake, settings, {"regression_split": "all"})
    assert every.computed
    assert every.n_rows > table_3.n_rows
    shown = lake.sql("SELECT DISTINCT n FROM regression_models")["n"].to_list()
    assert not set(shown) & set(table_3.tables["regression_models"]["n"])
    history = lake.sql("SELECT count(*) FROM regression_models_history").item()
    assert history == 2 * every.tables["regression_models"].height


def test_what_cannot_be_fitted_is_a_row_with_its_reason(tmp_path: Path) -> None:
    empty = Lake(tmp_path / "lake")
    run = association.run_radiographic(empty, Settings(empty.root))
    [model] = run.tables["regression_models"].to_dicts()
    assert model["n"] is None
    assert model["reason"]
    assert (run.n_fitted, run.n_failed) == (0, 1)
    assert all(association.radiographic_files(run).values())


def test_one_class_is_told_and_separation_flagged() -> None:
    with duckdb.connect() as connection:
        load_macros(connection)
        keys = "bone VARCHAR, biomarker VARCHAR, is_first_timepoint BOOLEAN, subject_id BIGINT"
        numbers = ("chronic_pain", "age_years", "bmi", "sex_female", "medial", "lateral")
        columns = ", ".join(f'"{name}" DOUBLE' for name in (*numbers, "dl_guided"))
        connection.execute(f"CREATE TABLE cases ({keys}, {columns})")
        assert nested_regressions(connection, "cases").tables["regression_models"] == []
        connection.execute(
            "INSERT INTO cases SELECT 'tibia', 't2_mean', true, i, 1, 50 + i, 20 + sin(i), i % 2, "
            "cos(i), sin(3 * i), NULL FROM range(40) AS numbers (i)"
        )
        one_class = nested_regressions(connection, "cases").tables["regression_models"]
        connection.execute("UPDATE cases SET chronic_pain = (medial > 0)::INT")
        separated = nested_regressions(connection, "cases").tables
    assert len(one_class) == 4
    assert all("nothing to tell apart" in row["reason"] for row in one_class)
    assert [row["separated"] for row in separated["regression_models"]] == [False, True] * 2
    # Of separated classes no statistic means anything.
    assert separated["regression_tests"] == []
    of_separated = [row for row in separated["regression_terms"] if row["model"] == "compartments"]
    assert of_separated
    for name in ("estimate", "se", "p", "odds_ratio", "cluster_se", "cluster_p"):
        assert {row[name] for row in of_separated} == {None}


@pytest.mark.parametrize("name", ["analyses", "regression_models", "spm_points"])
def test_result_tables_are_of_the_newest_run(name: str) -> None:
    assert TABLES[name].step == "statistics"
    assert TABLES[name].key == ("analysis",)
