"""Leakage controls of the DL-guided average: what else would add as much to compartment averages.

A Grad-CAM comes from a network trained on the outcome. So an average weighted with it can add to a
regression because the map points at what hurts, or because the map carries the network's verdict
into the average. Each control takes one explanation away and tests again, beside the main test.

Here: which models on which rows. Not here: the rows (`sql/association/leakage_control_cases.sql`),
the networks (`control_networks`), or how to read the results (`leakage_tables`).
"""

from dataclasses import dataclass

import duckdb

from imaging.labels import BONES
from pipeline.cohort_regressions import (
    CLUSTER,
    CLUSTERED,
    COMPARTMENTS,
    DEMOGRAPHICS,
    DL_GUIDED,
    OUTCOME,
    POPULATIONS,
    SEX_CODING,
)
from pipeline.regressions import ROWS_INDEPENDENT, Question, Results, add_nested
from stats.identifiers import quote_identifier

ANALYSIS = "leakage_controls"
CASES = "FROM leakage_control_cases"
BIOMARKERS = ("cartilage_thickness", "t2_mean")
"""One for each of the networks whose Grad-CAM weights an average."""


@dataclass(frozen=True)
class Control:
    """A pair of nested models.

    Attributes:
        name: the larger model, by which the control is known.
        base: the smaller model.
        added: the column added.
        given: terms of both besides demographics and compartments.
        outcome: the column explained.
        all_splits: whether it is fitted on every split; else on the analysis' own.
        needs_networks: whether its average comes from `control_networks`.
    """

    name: str
    base: str
    added: str
    given: tuple[str, ...] = ()
    outcome: str = OUTCOME
    all_splits: bool = False
    needs_networks: bool = False


MAIN = Control(DL_GUIDED, "classical", DL_GUIDED)
CONTROLS = (
    MAIN,
    Control("dl_shuffled", "classical_of_shuffled", "dl_shuffled"),
    Control(
        "dl_permuted_labels",
        "classical_of_permuted_labels",
        "dl_permuted_labels",
        needs_networks=True,
    ),
    Control(
        "dl_permuted_outcome",
        "classical_of_permuted_outcome",
        DL_GUIDED,
        outcome="chronic_pain_permuted",
    ),
    Control("dl_other_class", "classical_of_other_class", "dl_other_class"),
    Control("dl_given_logit", "classical_logit", DL_GUIDED, given=("model_logit",)),
    Control(
        "dl_cross_fitted",
        "classical_of_cross_fitted",
        "dl_cross_fitted",
        all_splits=True,
        needs_networks=True,
    ),
)
"""The main pair first."""
NOTES = (
    ROWS_INDEPENDENT,
    CLUSTERED,
    f"Coding: {SEX_CODING}.",
    "Every pair is fitted to the rows that have its own average: a Grad-CAM that is all zero gives "
    "none. Odds ratios are per mm or ms.",
    "Shuffled, permuted labels and permuted outcome are one permutation each (control_seed): run "
    "again with other seeds before much is made of one p-value.",
    "Control networks explain pain with scaled maps over the pixels of the map, and begin with "
    "random weights. Cross-fitted: all splits; networks of other participants only, whose epoch "
    "was selected on others too. Averages of several networks stand in one column.",
    "A control without a detectable effect is no proof that there is none: read its interval, and "
    "its n beside the main one.",
)
NOT_TRAINED = (
    "Controls by networks (permuted labels, cross-fitted) are not there: materialize "
    "control_networks under a preset (demo or paper) first."
)
OTHER_CHOICES = (
    "Controls by networks (permuted labels, cross-fitted) are left out: they explain pain, scaled, "
    "over the map, and this analysis was asked for other averages."
)


def leakage_controls(
    connection: duckdb.DuckDBPyConnection,
    cases: str,
    *,
    split: str = "test",
    with_networks: bool = True,
) -> Results:
    """Fit the main pair and every control, by bone, biomarker and population.

    Args:
        connection: with the macros; temporary views are made on it.
        cases: relation with the columns of `leakage_control_cases`, rows of all splits.
        split: the split that all but the cross-fitted pair are fitted on, or 'all'.
        with_networks: whether averages of control networks are of the same kind as the main ones.
    """
    rows = quote_identifier(cases)
    results = Results(notes=list(NOTES))
    [(results.n_rows, n_of_networks)] = connection.execute(
        f"SELECT count(*), count(dl_permuted_labels) + count(dl_cross_fitted) FROM {rows}"  # noqa: S608 - quoted
    ).fetchall()
    if not with_networks:
        results.notes.append(OTHER_CHOICES)
    elif not n_of_networks:
        results.notes.append(NOT_TRAINED)
    present = set(
        connection.execute(f"SELECT DISTINCT bone, biomarker FROM {rows}").fetchall()  # noqa: S608 - quoted
    )
    for bone in BONES:
        for biomarker in BIOMARKERS:
            if (bone, biomarker) in present:
                for population in POPULATIONS:
                    for control in CONTROLS:
                        if with_networks or not control.needs_networks:
                            _pair(
                                connection,
                                results,
                                rows,
                                population,
                                bone,
                                biomarker,
                                control,
                                split,
                            )
    return results


def _pair(
    connection: duckdb.DuckDBPyConnection,
    results: Results,
    rows: str,
    population: str,
    bone: str,
    biomarker: str,
    control: Control,
    split: str,
) -> None:
    """Add a pair of models, where any row has the control's average."""
    everyone = control.all_splits or split == "all"
    view = f"control_rows_{population}_{bone}_{biomarker}{'_all_splits' if everyone else ''}"
    of_split = "true" if everyone else f"split = '{split}'"
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {rows} "  # noqa: S608 - names of ours
        f"WHERE bone = '{bone}' AND biomarker = '{biomarker}' AND {POPULATIONS[population]} "
        f"AND {of_split}"
    )
    [(n_averages,)] = connection.execute(f"SELECT count({control.added}) FROM {view}").fetchall()  # noqa: S608 - names of ours
    if n_averages:
        add_nested(
            results,
            Question(population, bone, biomarker, SEX_CODING),
            connection,
            view,
            control.outcome,
            (control.base, control.name),
            (*DEMOGRAPHICS, *COMPARTMENTS, *control.given),
            (control.added,),
            CLUSTER,
        )
