"""Leakage controls for people: a row per control, and a sentence on how to read this result.

Here: laying out rows of `regression_*`, and choosing sentences by the result. Not here: computing
(`leakage_controls`).
"""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from pipeline.leakage_controls import CONTROLS, MAIN
from pipeline.manuscript import p_text
from pipeline.regression_figures import Estimate, Panel
from pipeline.regression_tables import BIOMARKER_NAMES, BONE_NAMES, POPULATION_NAMES

Row = Mapping[str, Any]
SIGNIFICANT = 0.05
FEW_PARTICIPANTS = 40
"""Below it neither the clustered test nor the likelihood ratio keeps its level."""
COLUMNS = (
    "Biomarker",
    "Bone",
    "Rows",
    "Average added",
    "n (participants)",
    "Odds ratio per unit (95 % CI)",
    "Clustered (95 % CI)",
    "Likelihood ratio, p",
    "Clustered Wald test, p",
    "Reading",
)
CONTROL_NAMES: Mapping[str, str] = {
    "dl_guided": "DL-guided, as published",
    "dl_shuffled": "Another patient's Grad-CAM",
    "dl_permuted_labels": "Network of permuted labels",
    "dl_permuted_outcome": "DL-guided, outcome permuted",
    "dl_other_class": "Grad-CAM of the other class",
    "dl_given_logit": "DL-guided, given the network's logit",
    "dl_cross_fitted": "Cross-fitted Grad-CAM, all splits",
}
READINGS: Mapping[str, Mapping[tuple[bool, bool], str]] = {
    "dl_shuffled": {
        (True, True): "Weighted with another patient's map it adds as well: part of what it adds, "
        "or all, comes from where the networks look on average, not from the patient's own map.",
        (True, False): "Weighted with another patient's map it adds nothing detectable: what the "
        "average adds is tied to the patient's own map. That is what localisation predicts, and "
        "also what a verdict carried by the map predicts: see the rows given the logit and "
        "cross-fitted.",
        (False, True): "Only another patient's map adds: chance, or the region looked at on "
        "average. It is no evidence for guidance by the patient's own map.",
        (False, False): "Neither the patient's own map nor another's adds anything detectable.",
    },
    "dl_permuted_labels": {
        (True, True): "The map of a network of permuted labels adds as well: part of what is "
        "added, or all, is what any uneven weighting of the map adds, not what was learned of "
        "pain.",
        (True, False): "The map of a network that learned permuted labels adds nothing detectable: "
        "what the average adds depends on what was learned.",
        (False, True): "Only the map of a network that learned permuted labels adds: chance, or an "
        "uneven weighting that helps. Nothing was learned that could explain it.",
        (False, False): "Neither network's map adds anything detectable.",
    },
    "dl_other_class": {
        (True, True): "Weighted with the other class it adds as well: what is added is "
        "not specific to the evidence the average was weighted with.",
        (True, False): "Weighted with the other class it adds nothing detectable: what "
        "is added is specific to the evidence the average was weighted with.",
        (False, True): "Only evidence for the other class adds. A network may code pain as "
        "evidence for no pain that is missing; its map of no pain is then where it looks. Look at "
        "both maps before naming a place.",
        (False, False): "The evidence for neither class adds anything detectable.",
    },
    "dl_given_logit": {
        (True, True): "Given what the network says of the knee, the average still adds: it carries "
        "more than the network's verdict, taken as linear in the log odds.",
        (True, False): "Given what the network says of the knee, the average adds nothing "
        "detectable: what it adds otherwise may be the network's verdict, carried into it by the "
        "map. Read it as a prediction, not as a biomarker of its own.",
        (False, True): "The average adds only once the network's logit is in the model: the two "
        "share variance (suppression). It is no effect to read by itself.",
        (False, False): "With the network's logit or without, the average adds nothing detectable.",
    },
    "dl_cross_fitted": {
        (True, True): "Weighted with maps of networks that saw other patients only, it still adds: "
        "the finding does not rest on networks trained or selected on the patients explained.",
        (True, False): "Weighted with maps of networks that saw other patients only, it adds "
        "nothing detectable: the finding may rest on the networks used, or the cross-fitted ones, "
        "begun with random weights, may have learned less.",
        (False, True): "Weighted with maps of networks that saw other patients only, it adds over "
        "all splits, which have more patients than the rows of the main test.",
        (False, False): "Cross-fitted or not, the average adds nothing detectable.",
    },
}
"""Control -> (main significant, control significant) -> what that says."""
MAIN_READINGS = {
    True: "It adds to the compartment averages. Whether that is more than the network's verdict "
    "carried by the map, the rows below say.",
    False: "It adds nothing detectable to the compartment averages: the controls have little to "
    "explain.",
}
PERMUTED_OUTCOME_READINGS = {
    True: "Outcomes permuted between patients leave nothing to find, yet p is below 0.05. One "
    "permutation in twenty does that by chance; if other seeds do it more often, the test is not "
    "calibrated on these rows.",
    False: "Outcomes permuted between patients leave nothing to find, and nothing is found, as in "
    "19 of 20 permutations of a calibrated test.",
}
ALONE = {
    True: "It adds; there is no result of the published average to set it beside.",
    False: "It adds nothing detectable; there is no result of the published average to set it "
    "beside.",
}


def decisive_p(tests: Mapping[str, float | None], population: str) -> float | None:
    """The p-value a reading goes by: of rows of several visits the clustered test's.

    Args:
        tests: p by name of the test, 'likelihood_ratio' and 'cluster_wald'.
        population: whose rows; first timepoints are independent.
    """
    if population == "first_timepoints":
        return tests.get("likelihood_ratio")
    return tests.get("cluster_wald")


def reading(
    control: str, main: float | None, own: float | None, n_participants: int | None = None
) -> str:
    """What a control's result says beside the main one.

    Args:
        control: name of the larger model.
        main: decisive p of the main test; None where there is none.
        own: that of the control.
        n_participants: of the control's rows, where they are known; few make it no finding.
    """
    if own is None:
        return "No test: the models could not be fitted, or classes are separated."
    sentence = _sentence(control, main, own)
    if n_participants is not None and n_participants < FEW_PARTICIPANTS:
        return f"{sentence} Of {n_participants} participants, this is no finding either way."
    return sentence


def _sentence(control: str, main: float | None, own: float) -> str:
    found = own < SIGNIFICANT
    if control == MAIN.name:
        return MAIN_READINGS[found]
    if control == "dl_permuted_outcome":
        return PERMUTED_OUTCOME_READINGS[found]
    if main is None:
        return ALONE[found]
    return READINGS[control][main < SIGNIFICANT, found]


def leakage_table(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """A row per biomarker, bone, population and control; columns `COLUMNS`, all text.

    Args:
        tables: `regression_models`, `_terms` and `_tests` of the analysis.
    """
    rows = []
    for found in _results(tables):
        term = found["term"]
        reason = found["model"]["reason"]
        rows.append(
            [
                BIOMARKER_NAMES[found["biomarker"]],
                BONE_NAMES[found["bone"]],
                POPULATION_NAMES[found["population"]],
                CONTROL_NAMES[found["control"]],
                "-"
                if reason is not None
                else f"{found['model']['n']:,} ({found['model']['n_clusters']:,})",
                _odds(term, "ci_low", "ci_high"),
                _odds(term, "cluster_ci_low", "cluster_ci_high"),
                p_text(found["tests"].get("likelihood_ratio")),
                p_text(found["tests"].get("cluster_wald")),
                f"Not fitted: {reason}" if reason is not None else found["reading"],
            ]
        )
    return pl.DataFrame(
        [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        schema=dict.fromkeys(COLUMNS, pl.String),
    )


def leakage_panels(tables: Mapping[str, pl.DataFrame]) -> list[Panel]:
    """The averages' coefficients, a panel per biomarker, bone and population."""
    lines: dict[str, list[Estimate]] = {}
    for found in _results(tables):
        term = found["term"]
        if term is not None and term["estimate"] is not None and term["ci_low"] is not None:
            heading = (
                f"{BONE_NAMES[found['bone']]}, {BIOMARKER_NAMES[found['biomarker']]}, "
                f"{POPULATION_NAMES[found['population']].lower()}"
            )
            lines.setdefault(heading, []).append(
                Estimate(
                    f"{CONTROL_NAMES[found['control']]} (n = {found['model']['n']:,})",
                    term["estimate"],
                    term["ci_low"],
                    term["ci_high"],
                    term["cluster_ci_low"],
                    term["cluster_ci_high"],
                )
            )
    return [Panel(heading, tuple(of_panel)) for heading, of_panel in lines.items()]


def _results(tables: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """What was found of each control, in the order of the table."""
    models = {(_place(row), row["model"]): row for row in tables["regression_models"].to_dicts()}
    terms = {
        (_place(row), row["model"], row["term"]): row
        for row in tables["regression_terms"].to_dicts()
    }
    tests: dict[Any, dict[str, float]] = {}
    for row in tables["regression_tests"].to_dicts():
        tests.setdefault((_place(row), row["full_model"]), {})[row["test"]] = row["p"]
    places = sorted(
        {place for place, _ in models},
        key=lambda place: (
            list(BIOMARKER_NAMES).index(place[0]),
            list(BONE_NAMES).index(place[1]),
            list(POPULATION_NAMES).index(place[2]),
        ),
    )
    results = []
    for place in places:
        population = place[2]
        main = decisive_p(tests.get((place, MAIN.name), {}), population)
        for control in CONTROLS:
            model = models.get((place, control.name))
            if model is None:
                continue
            own = tests.get((place, control.name), {})
            results.append(
                {
                    "biomarker": place[0],
                    "bone": place[1],
                    "population": population,
                    "control": control.name,
                    "model": model,
                    "term": terms.get((place, control.name, control.added)),
                    "tests": own,
                    "reading": reading(
                        control.name, main, decisive_p(own, population), model["n_clusters"]
                    ),
                }
            )
    return results


def _place(row: Row) -> tuple[str, str, str]:
    return row["biomarker"], row["bone"], row["population"]


def _odds(term: Row | None, low: str, high: str) -> str:
    if term is None or term["estimate"] is None or term[low] is None or term[high] is None:
        return "-"
    numbers = [_short(term[name]) for name in ("estimate", low, high)]
    return f"{numbers[0]} ({numbers[1]}, {numbers[2]})"


def _short(log_odds: float) -> str:
    """An odds ratio of any size, from its logarithm."""
    if abs(log_odds) > 11:
        return f"10^{log_odds / math.log(10):.1f}"
    return f"{math.exp(log_odds):.3g}"
