"""Leakage controls on lakes where we know whether a Grad-CAM points at what hurts, or leaks."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from planted_cohort import Guidance, planted_lake

from lake.store import Lake
from pipeline import association
from pipeline.config import Settings
from pipeline.leakage_controls import CONTROLS, NOT_TRAINED
from pipeline.leakage_tables import COLUMNS, READINGS, leakage_table, reading

ALL = {"regression_split": "all"}


def run_on(root: Path, guidance: Guidance, seed: int) -> tuple[Lake, association.Run]:
    lake = planted_lake(root / "lake", {}, n_people=160, seed=seed, guidance=guidance).lake
    return lake, association.run_leakage_controls(lake, Settings(lake.root), ALL)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, association.Run]:
    """Pain goes with thickness at a cell of each knee's own, and the Grad-CAM points there."""
    return run_on(tmp_path_factory.mktemp("guided"), Guidance(slope=-2.0), 21)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, association.Run]:
    """Pain has nothing to do with thickness, but the Grad-CAM carries what the network says."""
    return run_on(tmp_path_factory.mktemp("leaking"), Guidance(leaks=True), 22)


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, association.Run]:
    """Pain has nothing to do with thickness, nor has the Grad-CAM with either."""
    return run_on(tmp_path_factory.mktemp("null"), Guidance(), 23)


def p_values(run: association.Run, test: str = "cluster_wald") -> Mapping[str, float]:
    """p of each control over all timepoints."""
    rows = run.tables["regression_tests"].filter(
        pl.col("test") == test, pl.col("population") == "all_timepoints"
    )
    return dict(rows.select("full_model", "p").rows())


def test_a_map_that_points_at_what_hurts_passes(guided) -> None:
    for test in ("likelihood_ratio", "cluster_wald"):
        found = p_values(guided[1], test)
        assert found["dl_guided"] < 1e-6
        assert found["dl_given_logit"] < 1e-6
        assert found["dl_shuffled"] > 0.01
        assert found["dl_other_class"] > 0.01
        assert found["dl_permuted_outcome"] > 0.01
    # The weighted average is the thickness pain was drawn from.
    terms = (
        guided[1]
        .tables["regression_terms"]
        .filter(
            pl.col("model") == "dl_guided",
            pl.col("term") == "dl_guided",
            pl.col("population") == "all_timepoints",
        )
    )
    [term] = terms.to_dicts()
    assert abs(term["estimate"] - -2.0) < 3.2 * term["cluster_se"]


def test_a_map_that_carries_the_verdict_fails_given_the_logit(leaking) -> None:
    found = p_values(leaking[1])
    assert found["dl_guided"] < 1e-6
    assert found["dl_given_logit"] > 0.01
    assert found["dl_shuffled"] > 0.01
    rows = leakage_table(leaking[1].tables).filter(
        pl.col("Rows") == "All timepoints",
        pl.col("Average added") == "DL-guided, given the network's logit",
    )
    assert "Read it as a prediction, not as a biomarker" in rows["Reading"][0]


def test_where_there_is_nothing_nothing_is_found(null) -> None:
    assert min(null[1].tables["regression_tests"]["p"]) > 0.002
    shown = leakage_table(null[1].tables)
    main = shown.filter(pl.col("Average added") == "DL-guided, as published")["Reading"]
    assert main.str.contains("adds nothing detectable").to_list() == [True, True]


def test_nobody_is_given_his_own_map(guided) -> None:
    lake, _ = guided
    rows = lake.sql(
        "SELECT cases.subject_id, split, dl_shuffled, value_sum "
        "FROM leakage_control_cases AS cases "
        "JOIN cell_sums USING (knee_visit, bone, biomarker) WHERE is_first_timepoint",
        settings=ALL,
    )
    assert rows["dl_shuffled"].null_count() == 0
    chosen = dict(
        lake.sql(
            "SELECT knee_visit, list_position(cells, 2.0) - 1 AS cell FROM cam_cells "
            "WHERE target = 'pain'"
        ).rows()
    )
    visits = lake.sql(
        "SELECT subject_id, split, list(knee_visit ORDER BY timepoint) AS visits FROM cohort "
        "GROUP BY ALL"
    ).to_dicts()
    first = {row["subject_id"]: chosen[row["visits"][0]] for row in visits}
    taken = [row["value_sum"].index(row["dl_shuffled"]) for row in rows.to_dicts()]
    # In each split the cells handed out are those there are, each as often as it is there.
    for split in ("training", "validation", "test"):
        people = [row["subject_id"] for row in visits if row["split"] == split]
        given = [
            cell for cell, row in zip(taken, rows.to_dicts(), strict=True) if row["split"] == split
        ]
        assert sorted(given) == sorted(first[person] for person in people)
    same = [cell == first[who] for cell, who in zip(taken, rows["subject_id"], strict=True)]
    # By chance 1 in 32 shares a cell with the one whose map is taken.
    assert sum(same) < 0.1 * len(same)
    permuted = lake.sql(
        "SELECT avg(chronic_pain) AS own, avg(chronic_pain_permuted) AS permuted, "
        "corr(chronic_pain, chronic_pain_permuted) AS r FROM leakage_control_cases "
        "WHERE is_first_timepoint",
        settings=ALL,
    ).row(0, named=True)
    assert permuted["own"] == pytest.approx(permuted["permuted"], abs=1e-12)
    assert abs(permuted["r"]) < 0.25


def test_another_seed_shuffles_anew_and_an_unchanged_lake_writes_nothing(null) -> None:
    lake, run = null
    settings = Settings(lake.root)
    assert not association.run_leakage_controls(lake, settings, ALL).computed
    other = association.run_leakage_controls(lake, settings, {**ALL, "control_seed": 1})
    assert other.computed
    assert p_values(other)["dl_guided"] == p_values(run)["dl_guided"]
    assert p_values(other)["dl_shuffled"] != p_values(run)["dl_shuffled"]
    assert p_values(other)["dl_permuted_outcome"] != p_values(run)["dl_permuted_outcome"]


def test_every_number_has_its_statement(guided) -> None:
    models = guided[1].tables["regression_models"]
    statements = guided[1].tables["regression_statements"]
    assert set(models["statement_sha256"]) == set(statements["statement_sha256"])
    assert statements["statement"].str.contains("control_rows_all_timepoints_femur").any()


def test_files_and_notes(guided) -> None:
    files = association.leakage_files(guided[1])
    assert set(files) == {
        *(f"leakage_controls.{form}" for form in ("html", "md", "csv")),
        *(f"forest_leakage.{form}" for form in ("png", "svg")),
    }
    assert NOT_TRAINED in guided[1].notes
    assert NOT_TRAINED in files["leakage_controls.md"].decode()
    assert tuple(leakage_table(guided[1].tables).columns) == COLUMNS


def test_every_result_has_a_sentence() -> None:
    for control in CONTROLS:
        for main in (None, 0.001, 0.5):
            for own in (None, 0.001, 0.5):
                assert reading(control.name, main, own).endswith((".", "separated."))
    assert "Of 12 participants, this is no finding" in reading("dl_shuffled", 0.001, 0.5, 12)
    assert "participants" not in reading("dl_shuffled", 0.001, 0.5, 500)
    assert {len(set(sentences.values())) for sentences in READINGS.values()} == {4}
