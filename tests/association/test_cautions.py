"""Suppression, inflation and collinearity are told where they are, and only there."""

from typing import Any

import duckdb
import numpy as np
import polars as pl

from pipeline.cohort_regressions import nested_regressions
from pipeline.regression_cautions import cautions
from pipeline.regression_tables import TABLE_3, caution_notes, table_3
from stats.source import load_macros


def term(model: str, name: str, estimate: float, se: float, vif: float = 1.0) -> dict[str, Any]:
    return {
        "population": "all_timepoints",
        "bone": "femur",
        "biomarker": "cartilage_thickness",
        "model": model,
        "term": name,
        "estimate": estimate,
        "se": se,
        "vif": vif,
        "ci_low": estimate - 1.96 * se,
        "ci_high": estimate + 1.96 * se,
        "cluster_ci_low": None,
        "cluster_ci_high": None,
    }


def test_the_printed_femur_is_a_suppressor() -> None:
    # Table 3 of the paper, femur: MF -0.582 becomes 2.25; LF 1.287 becomes 2.29. VIF of DLROI 4.1.
    rows = [
        term("classical", "medial", -0.582, 0.19),
        term("classical", "lateral", 1.287, 0.19),
        term("dl_guided", "medial", 2.245, 0.25),
        term("dl_guided", "lateral", 2.287, 0.22),
        term("dl_guided", "dl_guided", -3.665, 0.320, 4.1),
    ]
    [found] = cautions(rows)
    assert (found.term, found.kind, found.short) == ("medial", "sign", "sign turned")
    assert "may be chance" not in found.text
    [higher] = [one for one in cautions([*rows[:4], {**rows[4], "vif": 8.0}]) if one.kind == "vif"]
    # 1 - 1/8 of the variance.
    assert "88 %" in higher.text


def test_signs_of_what_is_not_there_may_be_chance() -> None:
    rows = [term("classical", "medial", -0.1, 0.2), term("dl_guided", "medial", 0.1, 0.34)]
    sign, inflation = cautions(rows)
    assert "may be chance" in sign.text
    assert (inflation.kind, inflation.short) == ("inflation", "SE x 1.7")
    assert list(cautions([{**row, "estimate": None} for row in rows])) == []
    same = [term("classical", "medial", 0.4, 0.2), term("dl_guided", "medial", 0.2, 0.21)]
    assert list(cautions(same)) == []


def test_table_3_names_them_where_they_were_planted() -> None:
    random = np.random.default_rng(5)
    n = 1500
    guided = random.normal(size=n)
    # Two compartments that are the guided average and little else; pain goes with the average, and
    # against what the medial compartment has besides.
    medial = guided + 0.25 * random.normal(size=n)
    lateral = random.normal(size=n)
    log_odds = -2.0 * guided + 1.5 * medial
    rows = pl.DataFrame(
        {
            "bone": "tibia",
            "biomarker": "t2_mean",
            "is_first_timepoint": True,
            "subject_id": range(n),
            "chronic_pain": (random.random(n) < 1 / (1 + np.exp(-log_odds))).astype(int),
            "age_years": random.normal(60, 8, n),
            "bmi": random.normal(28, 4, n),
            "sex_female": random.integers(0, 2, n),
            "medial": medial,
            "lateral": lateral,
            "dl_guided": guided,
        }
    )
    with duckdb.connect() as connection:
        load_macros(connection)
        connection.register("drawn", rows)
        connection.execute("CREATE TABLE cases AS FROM drawn")
        results = nested_regressions(connection, "cases")
    names = ("models", "terms", "tests", "performance", "statements")
    tables = {
        f"regression_{name}": pl.DataFrame(
            results.tables[f"regression_{name}"], infer_schema_length=None
        )
        for name in names
    }
    shown = table_3(tables)
    assert tuple(shown.columns) == TABLE_3
    flagged = shown.filter(pl.col("Caution") != "").select("Variable", "Caution").rows()
    by_term = dict(flagged)
    assert set(by_term) == {"Medial average", "DL-guided average"}
    assert "sign turned" in by_term["Medial average"]
    assert "SE x" in by_term["Medial average"]
    assert by_term["DL-guided average"].startswith("VIF 1")
    notes = caution_notes(tables)
    # Both populations are the same rows here.
    assert len(notes) == 6
    assert notes[0].startswith("Tibia, T2, mean, all timepoints: the coefficient of the medial")
    assert set(tables["regression_models"]["statement_sha256"]) == set(
        tables["regression_statements"]["statement_sha256"]
    )
