"""Tables 2 and 3 on the lake's own cohort.

Here: which models on which rows. Not here: the rows (`sql/association`), fitting (`stats.logit`),
ROC (`stats.roc`).
"""

import warnings

import duckdb

from imaging.labels import BONES
from lake.keys import BIOMARKER_UNITS
from pipeline.regressions import (
    ROWS_INDEPENDENT,
    Question,
    Results,
    Row,
    add_fit,
    add_nested,
    add_refusal,
)
from stats.errors import StatisticsError, StatisticsWarning
from stats.identifiers import quote_identifier
from stats.logit import LogitFit, fit_logit
from stats.roc import bootstrap, performance
from stats.roc_rows import Scores

OUTCOME, CLUSTER = "chronic_pain", "subject_id"
SEX_CODING = "sex_female: 1 woman, 0 man"
CLUSTERED = (
    "Clustered standard errors (CR1) take participants, not visits, to be independent; they need "
    "a few dozen participants."
)

RADIOGRAPHIC = "radiographic_regression"
RADIOGRAPHIC_TERMS = (
    "jsn_medial",
    "jsn_lateral",
    "jsw_medial_min_mm",
    "kl_grade",
    "age_years",
    "sex_female",
    "bmi",
)
RADIOGRAPHIC_NOTES = (
    "Fitted on the training split, evaluated on the test split, as the image models are.",
    ROWS_INDEPENDENT,
    CLUSTERED,
    f"Coding: {SEX_CODING}. Grades count as numbers: each step changes the log odds alike.",
    "The paper does not say at which probability a case is called: 0.5 and the share of cases in "
    "the training split are both given.",
    "Intervals of sensitivity, specificity and AUC: percentiles of 1,000 bootstraps by "
    "participant.",
)
N_BOOTSTRAP = 1000
"""Resamples of the test split's participants. The paper says 100; a percentile of 100 is rough."""
RADIOGRAPHIC_CASES = "FROM radiographic_cases"

NESTED = "nested_regressions"
DEMOGRAPHICS = ("age_years", "bmi", "sex_female")
COMPARTMENTS = ("medial", "lateral")
DL_GUIDED = "dl_guided"
DL_TABLE = "dl_guided_biomarkers"
"""DL-guided averages: knee_visit, bone, biomarker, compartment, dl_guided."""
POPULATIONS = {"all_timepoints": "true", "first_timepoints": "is_first_timepoint"}
"""The paper's Table 3 has all timepoints of the test split; one row per patient is independent."""
NESTED_NOTES = (
    ROWS_INDEPENDENT,
    CLUSTERED,
    "Population all_timepoints: every visit, as in the paper; first_timepoints: the first visit of "
    "each participant, whose rows are independent.",
    f"Coding: {SEX_CODING}.",
    "The DL-guided average is that of the whole bone. A row whose Grad-CAM is all zero has none "
    "and is left out of both models (n_dropped): often a knee the network is sure has no pain, so "
    "that the rows left are no random part.",
    "Sensitivity, specificity and AUC are those of the rows fitted (threshold 0.5): optimistic.",
)


def nested_cases(dl_relation: str) -> str:
    """The query of the rows of `nested_regressions`: cases and their DL-guided average, if any.

    Args:
        dl_relation: with the columns of `sql/association/dl_guided_biomarkers.sql`.
    """
    return (
        f"SELECT cases.*, guided.{DL_GUIDED} FROM regression_cases AS cases "  # noqa: S608 - the caller's relation
        f"LEFT JOIN (FROM {dl_relation} WHERE compartment = 'whole') AS guided "
        "USING (knee_visit, bone, biomarker)"
    )


def radiographic_regression(connection: duckdb.DuckDBPyConnection, cases: str) -> Results:
    """Table 2: chronic pain on what a radiograph shows, adjusted for age, sex and BMI.

    Args:
        connection: with the macros; temporary views are made on it.
        cases: relation with the columns of `sql/association/radiographic_cases.sql`.
    """
    results = Results(notes=list(RADIOGRAPHIC_NOTES))
    rows = quote_identifier(cases)
    for split in ("training", "test"):
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW radiographic_{split} AS "  # noqa: S608 - a name of ours
            f"SELECT * FROM {rows} WHERE split = '{split}'"
        )
    counted = connection.execute(f"SELECT count(*) FROM {rows}").fetchall()  # noqa: S608 - quoted
    results.n_rows = int(counted[0][0])
    question = Question("training", coding=SEX_CODING)
    try:
        with warnings.catch_warnings():
            # Flagged in the rows: `separated`, `converged`.
            warnings.simplefilter("ignore", StatisticsWarning)
            fit = fit_logit(
                connection, "radiographic_training", OUTCOME, RADIOGRAPHIC_TERMS, cluster=CLUSTER
            )
    except StatisticsError as error:
        add_refusal(results, question, "radiographic", OUTCOME, RADIOGRAPHIC_TERMS, str(error))
        return results
    add_fit(results, question, "radiographic", fit, RADIOGRAPHIC_TERMS)
    if not fit.separated and fit.converged:
        try:
            results.tables["regression_performance"] += _on_test_split(connection, fit, question)
        except StatisticsError as error:
            results.notes.append(f"The test split could not be evaluated: {error}.")
    return results


def predict_view(connection: duckdb.DuckDBPyConnection, fit: LogitFit, relation: str) -> str:
    """A view of a relation with the probability that a model gives each row, as `score`.

    Args:
        connection: where the relation is.
        fit: a model whose terms are columns of the relation.
        relation: the rows; a row that lacks a covariate has no score.
    """
    intercept, *terms = fit.terms
    parts = [f"'{intercept.estimate!r}'::DOUBLE"]
    parts += [f"'{term.estimate!r}'::DOUBLE * {quote_identifier(term.term)}" for term in terms]
    view = f"{relation}_scored"
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {view} AS "  # noqa: S608 - quoted names, our numbers
        f"SELECT *, 1 / (1 + exp(-({' + '.join(parts)}))) AS score FROM {relation}"
    )
    return view


def _on_test_split(
    connection: duckdb.DuckDBPyConnection, fit: LogitFit, question: Question
) -> list[Row]:
    """How a model fitted on the training split tells the classes of the test split apart."""
    view = predict_view(connection, fit, "radiographic_test")
    scores = Scores(view, OUTCOME, "score", subject=CLUSTER)
    rows = []
    for rule, threshold in (("half", 0.5), ("training_share", fit.n_events / fit.n)):
        counts = performance(connection, scores, threshold=threshold, missing="drop").table
        drawn = bootstrap(
            connection, scores, n_replicates=N_BOOTSTRAP, threshold=threshold, missing="drop"
        ).table
        by_metric = {row["metric"]: row for row in drawn.to_dicts()}
        row: Row = {
            **question.key,
            "model": "radiographic",
            "evaluated_on": "test",
            "threshold_rule": rule,
            "threshold": threshold,
            "n": counts["n"][0],
            "n_events": counts["n_positive"][0],
        }
        for metric in ("sensitivity", "specificity", "auc"):
            row[metric] = by_metric[metric]["estimate"]
            row[f"{metric}_low"] = by_metric[metric]["percentile_low"]
            row[f"{metric}_high"] = by_metric[metric]["percentile_high"]
        rows.append(row)
    return rows


def nested_regressions(connection: duckdb.DuckDBPyConnection, cases: str) -> Results:
    """Table 3 on the cohort: what compartment averages add, and DL-guided averages to those.

    For every bone and biomarker two pairs of nested models: `demographics` (age, BMI, sex) and
    `compartments` (with the two compartment averages); and, where DL-guided averages are at hand,
    the paper's `classical` (the same as compartments) and `dl_guided`, on the rows that have one.

    Args:
        connection: with the macros; temporary views are made on it.
        cases: relation with the columns of `sql/association/regression_cases.sql` and dl_guided,
            NULL where there is none.
    """
    results = Results(notes=list(NESTED_NOTES))
    counts = connection.execute(
        f"SELECT bone, biomarker, count(*) FROM {quote_identifier(cases)} GROUP BY ALL"  # noqa: S608 - quoted
    ).fetchall()
    results.n_rows = sum(n for _, _, n in counts)
    present = {(bone, biomarker) for bone, biomarker, _ in counts}
    for bone in BONES:
        for biomarker in BIOMARKER_UNITS:
            if (bone, biomarker) in present:
                for population in POPULATIONS:
                    _pairs(connection, results, cases, population, bone, biomarker)
    return results


def _pairs(
    connection: duckdb.DuckDBPyConnection,
    results: Results,
    cases: str,
    population: str,
    bone: str,
    biomarker: str,
) -> None:
    rows = f"regression_rows_{population}_{bone}_{biomarker}"
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {rows} AS SELECT * FROM {quote_identifier(cases)} "  # noqa: S608 - quoted
        f"WHERE bone = '{bone}' AND biomarker = '{biomarker}' AND {POPULATIONS[population]}"
    )
    question = Question(population, bone, biomarker, SEX_CODING)
    add_nested(
        results,
        question,
        connection,
        rows,
        OUTCOME,
        ("demographics", "compartments"),
        DEMOGRAPHICS,
        COMPARTMENTS,
        CLUSTER,
    )
    [(n_guided,)] = connection.execute(f"SELECT count({DL_GUIDED}) FROM {rows}").fetchall()  # noqa: S608 - names of ours
    if n_guided:
        add_nested(
            results,
            question,
            connection,
            rows,
            OUTCOME,
            ("classical", "dl_guided"),
            (*DEMOGRAPHICS, *COMPARTMENTS),
            (DL_GUIDED,),
            CLUSTER,
        )
