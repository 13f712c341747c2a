"""Table 3 refitted from the authors' published files, and how it differs from the printed table.

Here: which models. Not here: fitting (`stats.logit`) and judging (`printed_table`).
"""

import duckdb

from imaging.labels import BONES
from pipeline.printed_table import DL_VARIABLE, Refit, compare
from pipeline.regressions import ROWS_INDEPENDENT, Question, Results, add_nested
from stats.identifiers import quote_identifier
from stats.logit import nested_logit

ANALYSIS = "published_regressions"
POPULATION = "published_test_timepoints"
OUTCOME = "chronic_pain"
BASE = ("age_years", "bmi", "sex_code", "compartment_1_mm", "compartment_2_mm")
ADDED = ("dl_guided_mm",)
NOTES = (
    ROWS_INDEPENDENT,
    "The rows are timepoints, several of one participant, and are therefore not independent: the "
    "standard errors are too small and the p-values too near 0. The files hold no participant "
    "number, so that nothing here can be clustered by participant.",
    "Sex is coded 1 male, 2 female, as in the files.",
    "Sensitivity, specificity and AUC are those of the rows fitted (threshold 0.5): optimistic.",
)
CASES = "SELECT * EXCLUDE (batch_id) FROM published_cases"


def published_regressions(connection: duckdb.DuckDBPyConnection, cases: str) -> Results:
    """Refit Table 3 for every bone whose published table is in the lake.

    Args:
        connection: with the macros; temporary views are made on it.
        cases: relation with the columns of `published_cases`.
    """
    results = Results(notes=list(NOTES))
    rows = quote_identifier(cases)
    counts = dict(
        connection.execute(f"SELECT bone, count(*) FROM {rows} GROUP BY bone").fetchall()  # noqa: S608 - quoted
    )
    results.n_rows = sum(counts.values())
    for bone in BONES:
        if bone in counts:
            _bone(connection, results, rows, bone)
    return results


def _bone(connection: duckdb.DuckDBPyConnection, results: Results, rows: str, bone: str) -> None:
    relation, recoded = f"published_{bone}", f"published_{bone}_recoded"
    for view, sex in ((relation, "sex_code"), (recoded, "2 - sex_code")):
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {view} AS "  # noqa: S608 - names of ours
            f"SELECT * REPLACE ({sex} AS sex_code) FROM {rows} WHERE bone = '{bone}'"
        )
    question = Question(POPULATION, bone, "cartilage_thickness", "sex_code: 1 male, 2 female")
    nested = add_nested(
        results, question, connection, relation, OUTCOME, ("classical", "dl_guided"), BASE, ADDED
    )
    if nested is None:
        return
    # Of one file, so the same in all rows.
    [(first, second)] = connection.execute(
        f"SELECT DISTINCT compartment_1, compartment_2 FROM {relation}"  # noqa: S608 - a name of ours
    ).fetchall()
    terms = {"Age": "age_years", "BMI": "bmi", "Sex": "sex_code", DL_VARIABLE: "dl_guided_mm"}
    refit = Refit(
        bone,
        nested,
        nested_logit(connection, recoded, OUTCOME, BASE, ADDED),
        {"Intercept": nested.base.terms[0].term, **terms},
        ((first, "compartment_1_mm"), (second, "compartment_2_mm")),
    )
    results.tables["printed_comparisons"] += compare(refit)
