"""Evaluation of predictions that are made up: the numbers, the tables and what is stored."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from small_study import classifier_row

from assets.evaluation import model_evaluation
from assets.resources import LakeResource
from imaging.labels import BONES
from lake.keys import STRATEGIES
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.evaluation import Evaluation, EvaluationOptions, evaluate
from pipeline.evaluation_tables import performance_table, tables_of

ONE_CLASS = ("patella", "t2")
"""Of the patella, and so of the ensemble, only cases are predicted by T2."""
OPTIONS = EvaluationOptions(n_replicates=20)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Models of rising skill by strategy; one predicts cases only."""
    lake = Lake(tmp_path_factory.mktemp("evaluation") / "lake")
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(240, seed=3)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    with lake.batch("classifiers", "all", "1", "c") as batch:
        batch.add(
            "classifiers",
            [
                classifier_row("chronic_pain", bone, strategy, "h")
                for bone in BONES
                for strategy in STRATEGIES
            ],
        )
    cases = lake.sql("FROM model_cases WHERE model = 'chronic_pain' ORDER BY knee_visit").to_dicts()
    rng = np.random.default_rng(0)
    rows = [
        _prediction(case, bone, strategy, 0.25 * place * (case["is_case"] - 0.5) + rng.normal())
        for case in cases
        for bone in BONES
        for place, strategy in enumerate(STRATEGIES)
        if (bone, strategy) != ONE_CLASS or case["is_case"]
    ]
    for timepoint in sorted({row["timepoint"] for row in rows}):
        with lake.batch("predictions", timepoint, "1", "c") as batch:
            batch.add("predictions", [row for row in rows if row["timepoint"] == timepoint])
    return lake


def _prediction(case: dict[str, Any], bone: str, strategy: str, margin: float) -> dict[str, Any]:
    names = ("knee_visit", "subject_id", "side", "timepoint")
    return {
        **{name: case[name] for name in names},
        "task": "chronic_pain",
        "bone": bone,
        "strategy": strategy,
        "checkpoint_hash": "h",
        "input_fingerprint": "f",
        "logit_no": 0.0,
        "logit_yes": margin,
        "probability": float(1 / (1 + np.exp(-margin))),
        "predicted": bool(margin > 0),
    }


@pytest.fixture(scope="module")
def found(lake: Lake) -> dict[str, Evaluation]:
    with lake.connect() as connection:
        return {
            visits: evaluate(connection, "chronic_pain", visits, OPTIONS)
            for visits in ("first", "last", "all")
        }


def by_hand(rows: pl.DataFrame) -> dict[str, float]:
    score, truth = rows["probability"].to_numpy(), rows["is_case"].to_numpy()
    pairs = score[truth][:, None] > score[~truth]
    return {
        "sensitivity": float((score[truth] > 0.5).mean()),
        "specificity": float((score[~truth] <= 0.5).mean()),
        "auc": float(pairs.mean()),
    }


@pytest.mark.parametrize("visits", ["first", "last", "all"])
def test_performance_is_that_of_the_rows(lake: Lake, found, visits: str) -> None:
    chosen = {"first": "is_first", "last": "is_last", "all": "true"}[visits]
    rows = lake.sql(f"FROM scored_predictions WHERE split = 'test' AND {chosen}")
    for (bone, strategy), of_model in rows.group_by("bone", "strategy"):
        own = {
            row["metric"]: row
            for row in found[visits].performance
            if (row["bone"], row["strategy"]) == (bone, strategy)
        }
        if (bone, strategy) in {ONE_CLASS, ("ptf", "t2")}:
            assert "0 others; both classes are needed" in own["auc"]["reason"]
            continue
        assert {row["n"] for row in own.values()} == {len(of_model)}
        for metric, value in by_hand(of_model).items():
            assert own[metric]["estimate"] == pytest.approx(value), (bone, strategy, metric)
        auc = own["auc"]
        assert auc["percentile_low"] <= auc["estimate"] <= auc["percentile_high"]
        # The paper's interval is of the mean, sqrt(replicates) narrower.
        width, narrow = (auc[f"{k}_high"] - auc[f"{k}_low"] for k in ("percentile", "mean"))
        assert narrow <= width / 2
        assert (auc["delong_low"] is None) == (visits == "all")


def test_first_visits_are_one_row_a_patient(lake: Lake, found) -> None:
    patients = lake.sql(
        "SELECT count(DISTINCT subject_id) AS n FROM model_cases "
        "WHERE model = 'chronic_pain' AND split = 'test'"
    )["n"][0]
    judged = {row["n"] for row in found["first"].performance if row["reason"] is None}
    assert judged == {patients}


def test_the_ensemble_is_judged_where_all_bones_are(found) -> None:
    ensembles = [row for row in found["first"].performance if row["bone"] == "ptf"]
    assert {row["strategy"] for row in ensembles} == set(STRATEGIES)
    of_t2 = next(row for row in ensembles if row["strategy"] == "t2")
    # Without the patella's there is none.
    assert "both classes" in of_t2["reason"]


def test_pairs_of_strategies_are_tested_with_fdr(found) -> None:
    tested = [row for row in found["first"].comparisons if row["reason"] is None]
    refused = [row for row in found["first"].comparisons if row["reason"] is not None]
    assert len(tested) + len(refused) == 4 * 15
    assert {"t2"} <= {row["first_strategy"] for row in refused} | {
        row["second_strategy"] for row in refused
    }
    aucs = {
        (row["bone"], row["strategy"]): row.get("estimate")
        for row in found["first"].performance
        if row["metric"] == "auc"
    }
    for row in tested:
        assert row["first_auc"] == pytest.approx(aucs[row["bone"], row["first_strategy"]])
        assert row["q_bh"] >= row["p"] * (1 - 1e-12)
    of_femur = sorted(row["p"] for row in tested if row["bone"] == "femur")
    smallest = min(row["q_bh"] for row in tested if row["bone"] == "femur")
    by_rank = [p * len(of_femur) / rank for rank, p in enumerate(of_femur, 1)]
    assert smallest == pytest.approx(min(*by_rank, 1))
    # Rows of a patient depend on each other: no test is made over all visits.
    assert found["all"].comparisons == ()


def test_tables_are_those_of_the_paper(found) -> None:
    made = tables_of(list(found.values()))
    table, title, notes = made["table_1"]
    assert title.startswith("Table 1.")
    assert table.columns == [
        "Biomarker type",
        "Biomarker model",
        "Patella",
        "Tibia",
        "Femur",
        "PTF",
    ]
    assert len(table) == 6
    best = [cell for cell in table["Femur"] if cell.endswith("*")]
    assert len(best) == 1
    assert "both classes" in table["Patella"][0]
    assert any("20 bootstraps" in note for note in notes)
    _, narrow = performance_table(found["first"], "mean")
    assert any("as in the paper" in note for note in narrow)
    assert {"table_s3", "table_1_paper_intervals", "table_1_comparisons"} <= set(made)


def test_the_asset_stores_and_writes(lake: Lake, tmp_path: Path) -> None:
    resource = LakeResource(lake_root=str(lake.root), inbox=str(tmp_path))
    config = {"ops": {"model_evaluation": {"config": {"n_replicates": 20}}}}

    def run() -> dict[str, Any]:
        result = dg.materialize(
            [model_evaluation],
            resources={"lake": resource},
            run_config=config,
            instance=dg.DagsterInstance.ephemeral(),
        )
        return result.asset_materializations_for_node("model_evaluation")[0].metadata

    shown = run()
    assert shown["newly_stored"].value
    assert "| Single | Cartilage T2 |" in shown["table_1"].value
    assert shown["table_1_roc"].value.startswith("![Table 1.")
    files = {path.name for path in (lake.root / "figures").iterdir()}
    assert {"table_1.html", "table_1.md", "table_1.csv", "table_s3.csv", "table_1_roc.png"} <= files
    stored = lake.sql("SELECT count(*) AS n, count(reason) AS refused FROM model_performance")
    assert stored["n"][0] == 3 * 24 * 7
    assert stored["refused"][0] == 3 * 2 * 7
    assert lake.sql("SELECT count(*) AS n FROM model_comparisons")["n"][0] == 2 * 60
    # The same predictions are the same analysis.
    assert not run()["newly_stored"].value
