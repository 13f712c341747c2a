"""The report's first page: what was analysed, what came out, and what to keep in mind.

Here: sentences whose numbers are read from the lake. Not here: any estimate.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lake.keys import BIOMARKER_UNITS
from pipeline.cohort_regressions import NESTED, RADIOGRAPHIC
from pipeline.evaluation_results import ANALYSIS as EVALUATION
from pipeline.evaluation_tables import COLUMNS, MODELS
from pipeline.leakage_tables import leakage_table
from pipeline.regression_tables import BIOMARKER_NAMES, POPULATION_NAMES
from pipeline.report_association import LEAKAGE, SPM_ANALYSES
from pipeline.report_blocks import (
    NOTHING,
    Block,
    Source,
    TextBlock,
    counted,
    interval,
    percent,
    small_p,
)
from pipeline.report_reading import Reading, has_relation

INDEPENDENCE = (
    "Several visits of one person are not independent. Where a table gives a clustered p-value or "
    "a bootstrap by participant, that is the one to quote."
)
GUIDED = (
    "The DL-guided average is made with a network trained on the same outcome: part of what it "
    "adds may be the network's prediction. The leakage controls say how much is left without it."
)


def summary(reading: Reading) -> Sequence[Block]:
    """What was analysed and the main findings."""
    blocks: list[Block] = []
    for make in (_people, _models, _radiographs, _guided, _surfaces, _controls):
        found, source = make(reading)
        if found:
            blocks.append(TextBlock(tuple(found), "list", source))
    if not blocks:
        return ()
    cautions = [INDEPENDENCE]
    if reading.run(NESTED) is not None:
        cautions.append(GUIDED)
    if reading.run(NESTED) is not None and reading.run(LEAKAGE) is None:
        cautions.append("The leakage controls have not been run on this lake.")
    return (*blocks, TextBlock(tuple(cautions), "warning"))


def _people(reading: Reading) -> tuple[list[str], Source]:
    source = Source("cohort", ("cohort", "maps_index"))
    [row] = reading.read(
        "SELECT count(*) AS n, count(DISTINCT subject_id) AS n_people, "
        "count(*) FILTER (WHERE chronic_pain) AS n_cases, "
        "count(*) FILTER (WHERE split = 'test') AS n_test, "
        "string_agg(DISTINCT timepoint, ', ' ORDER BY timepoint) AS visits, "
        "(SELECT count(DISTINCT knee_visit) FROM maps_index) AS n_mapped FROM cohort"
    ).to_dicts()
    if not row["n"] and not row["n_mapped"]:
        return [], source
    found = []
    if row["n"]:
        found.append(
            f"The cohort has {counted(row['n'], 'knee-visit')} of "
            f"{counted(row['n_people'], 'person', 'people')} at visits {row['visits']}; "
            f"{row['n_cases']:,} ({percent(row['n_cases'] / row['n'])} %) with chronic pain; "
            f"{row['n_test']:,} in the test split."
        )
    found.append(f"{counted(row['n_mapped'], 'knee-visit')} of the lake have spherical maps.")
    return found, source


def _models(reading: Reading) -> tuple[list[str], Source]:
    source = Source("model_evaluation", ("model_performance",), EVALUATION)
    rows = reading.read(
        "SELECT * FROM model_performance WHERE task = 'chronic_pain' AND visits = 'first' "
        "AND metric = 'auc' AND estimate IS NOT NULL ORDER BY estimate DESC, bone, strategy"
    ).to_dicts()
    if not rows:
        return [], source
    best, worst = rows[0], rows[-1]
    return [
        f"The highest AUC for chronic pain on unseen people is {_auc(best)} (95 % bootstrap by "
        f"participant): {MODELS[best['strategy']][1].lower()}, {COLUMNS[best['bone']].lower()}, "
        f"{counted(best['n'], 'first visit')} ({best['n_positive']:,} with pain). It is the best "
        f"of {len(rows)} compared on the same people, and so flattered; the lowest is "
        f"{_auc(worst)}."
    ], source


def _auc(row: dict[str, float]) -> str:
    return interval(row["estimate"], row["percentile_low"], row["percentile_high"])


def _radiographs(reading: Reading) -> tuple[list[str], Source]:
    source = Source(RADIOGRAPHIC, ("regression_terms", "regression_models"), RADIOGRAPHIC)
    rows = reading.read(
        "SELECT odds_ratio, or_low, or_high, cluster_p, p, exp(cluster_ci_low) AS low, "
        "exp(cluster_ci_high) AS high FROM regression_terms "
        "WHERE analysis = $analysis AND term = 'kl_grade' AND odds_ratio IS NOT NULL",
        analysis=RADIOGRAPHIC,
    ).to_dicts()
    return [
        f"Each Kellgren-Lawrence grade multiplies the odds of chronic pain by "
        f"{interval(row['odds_ratio'], row['low'], row['high'], 2)} (95 % interval clustered by "
        f"participant, p = {small_p(row['cluster_p'])}), adjusted for joint space, age, sex and "
        "body-mass index."
        for row in rows
    ], source


def _guided(reading: Reading) -> tuple[list[str], Source]:
    source = Source(NESTED, ("regression_tests", "regression_performance"), NESTED)
    return list(_guided_sentences(reading)), source


def _guided_sentences(reading: Reading) -> Iterator[str]:
    rows = reading.read(
        "SELECT bone, biomarker, population, test, p, ln_p FROM regression_tests "
        "WHERE analysis = $analysis AND added = 'dl_guided' AND population = 'all_timepoints' "
        "ORDER BY bone, biomarker, test",
        analysis=NESTED,
    ).to_dicts()
    tests = {(row["biomarker"], row["bone"], row["test"]): row for row in rows}
    aucs = {
        (row["biomarker"], row["bone"], row["model"]): row["auc"]
        for row in reading.read(
            "SELECT bone, biomarker, model, auc FROM regression_performance WHERE "
            "analysis = $analysis AND population = 'all_timepoints' AND evaluated_on = 'in_sample'",
            analysis=NESTED,
        ).to_dicts()
    }
    for biomarker in BIOMARKER_UNITS:
        for bone in COLUMNS:
            lrt = tests.get((biomarker, bone, "likelihood_ratio"))
            if lrt is None:
                continue
            wald = tests.get((biomarker, bone, "cluster_wald"))
            clustered = "" if wald is None else f"; {small_p(wald['p'], wald['ln_p'])} clustered"
            before, after = (
                aucs.get((biomarker, bone, model)) for model in ("classical", "dl_guided")
            )
            gain = (
                ""
                if before is None or after is None
                else f" The AUC of the rows fitted goes from {before:.3f} to {after:.3f}."
            )
            yield (
                f"{BIOMARKER_NAMES.get(biomarker, biomarker)}, {bone}: adding the DL-guided "
                f"average to age, BMI, sex and compartment averages, likelihood ratio "
                f"p = {small_p(lrt['p'], lrt['ln_p'])}, rows as independent{clustered}.{gain}"
            )


def _surfaces(reading: Reading) -> tuple[list[str], Source]:
    source = Source("spm_cam_pain", ("spm_compartments",))
    rows = reading.read(
        "SELECT * FROM spm_compartments WHERE compartment = 'all' AND share_p05 IS NOT NULL "
        "ORDER BY analysis, map"
    ).to_dicts()
    by_analysis: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_analysis.setdefault(row["analysis"], []).append(row)
    return [_surface_sentence(name, of) for name, of in by_analysis.items()], source


def _surface_sentence(analysis: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Of a family of maps, how much of the surface differs, and which maps do family-wise."""
    shares = [row["share_p05"] for row in rows]
    found = [
        f"{row['map'].replace('_', ' ')} ({percent(row['share_fwe'])} %)"
        for row in rows
        if row["share_fwe"]
    ]
    return (
        f"{SPM_ANALYSES.get(analysis, analysis)}, {counted(len(rows), 'map')}: the groups differ "
        f"at p < 0.05 uncorrected on {percent(min(shares))} to {percent(max(shares))} % of the "
        "tested surface; family-wise on "
        + (f"{', '.join(found)}." if found else "none of it, in any map.")
    )


def _controls(reading: Reading) -> tuple[list[str], Source]:
    more = ("control_biomarkers",) if has_relation("control_biomarkers") else ()
    source = Source(LEAKAGE, ("regression_tests", *more), LEAKAGE)
    run = reading.run(LEAKAGE)
    if run is None:
        return [], source
    first = POPULATION_NAMES["first_timepoints"]
    tests: dict[str, list[str]] = {}
    for row in leakage_table(run.tables).to_dicts():
        # The rows of first visits are in the table; here the paper's.
        if row["Rows"] != first:
            p = row["Clustered Wald test, p"]
            said = "no test" if p == NOTHING else p
            name = f"{row['Biomarker']}, {row['Bone'].lower()}"
            tests.setdefault(name, []).append(f"{row['Average added'].lower()} {said}")
    found = [
        f"Leakage controls. {name}, clustered Wald p: {'; '.join(of)}. The table of the controls "
        "says how to read each."
        for name, of in tests.items()
    ]
    return found, source
