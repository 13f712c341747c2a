"""The classifiers and their Grad-CAM: the report's second chapter.

Here: Tables 1, S2 and S3, ROC curves, calibration, Fig. S4, who all models get right, mean maps.
Not here: any statistic (`evaluation`), or the layout of the tables (`evaluation_tables`).
"""

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

from lake.keys import STRATEGIES
from models.gradcam import Target
from pipeline.config import FIGURES_FOLDER
from pipeline.evaluation import Evaluation, Task, Visits, curves_of
from pipeline.evaluation_results import ANALYSIS, NOTES
from pipeline.evaluation_tables import COLUMNS, MODELS, TITLES, roc_figure, tables_of
from pipeline.report_blocks import (
    Block,
    FigureBlock,
    Layout,
    Source,
    TableBlock,
    TextBlock,
    fixed,
    laid_out,
    mean_sd,
    text_of,
    text_table,
)
from pipeline.report_reading import Reading
from stats.source import load_macros

GROUP_NAMES = {
    "tp_pain": "True positives with pain",
    "tn_no_pain": "True negatives without pain",
    "none": "Neither",
    "all": "All judged",
}
_TABLES = ("model_performance", "model_calibration", "model_comparisons")
_SOURCE = Source("model_evaluation", _TABLES, ANALYSIS)
_CURVES = Source("model_evaluation", ("scored_predictions", "model_performance"), ANALYSIS)
_RULE = "val_loss"
"""The paper's rule of the sweep: the lowest validation loss."""


def _strategy(name: str) -> str:
    return MODELS[name][1] if name in MODELS else name


def trainings(reading: Reading) -> Sequence[Block]:
    """The networks in use."""
    rows = reading.rows("classifiers").sort("task", "bone", "strategy")
    if rows.is_empty():
        return ()
    columns: dict[str, Layout | str] = {
        "task": Layout("Task", lambda name: name.replace("_", " ")),
        "bone": "Bone",
        "strategy": Layout("Biomarkers", _strategy),
        "architecture": "Network",
        "width": "Width",
        "initialization": "Began with",
        "n_training": "Trained on",
        "n_validation": "Chosen on",
        "best_epoch": "Epoch",
        "n_epochs": "of",
        "val_auc": Layout("Validation AUC", fixed(3)),
        "seed": "Seed",
    }
    noted = sorted({note for row in rows["notes"].to_list() for note in _notes(row)})
    return (
        TableBlock(
            "classifiers",
            "Classifiers in use",
            laid_out(rows, columns),
            Source("pain_classifiers", ("classifiers",)),
            (
                "Numbers of training and validation are knee-visits. One seed is one draw: a "
                "difference between models smaller than between seeds is none.",
                *noted,
            ),
        ),
    )


def _notes(text: str) -> list[str]:
    found: Any = json.loads(text)
    return [str(note) for note in found] if isinstance(found, list) else [text]


def stored_evaluation(reading: Reading, task: Task, visits: Visits) -> Evaluation | None:
    """What the lake holds of an evaluation, with curves of the predictions it has now."""
    tables = [
        reading.read(
            f"SELECT * EXCLUDE (analysis, batch_id) FROM {name} WHERE task = $task "  # noqa: S608 - registry names
            "AND visits = $visits ORDER BY ALL",
            task=task,
            visits=visits,
        ).to_dicts()
        for name in _TABLES
    ]
    if not tables[0]:
        return None
    with reading.lake.connect(query="scored_predictions") as connection:
        # A connection made for a query has the macros of that query only.
        load_macros(connection)
        curves, reliability = curves_of(connection, task, visits)
    performance, calibration, comparisons = (tuple(rows) for rows in tables)
    return Evaluation(task, visits, performance, calibration, comparisons, curves, reliability)


def osteoarthritis(reading: Reading) -> Sequence[Block]:
    """Table S2: the osteoarthritis models."""
    return _judged(reading, "oa", "first")


def first_visits(reading: Reading) -> Sequence[Block]:
    """Table 1: the chronic-pain models at each participant's first visit."""
    return _judged(reading, "chronic_pain", "first")


def last_visits(reading: Reading) -> Sequence[Block]:
    """Table S3: the same at the last visit."""
    return _judged(reading, "chronic_pain", "last")


def all_visits(reading: Reading) -> Sequence[Block]:
    """The same at all visits."""
    return _judged(reading, "chronic_pain", "all")


def _judged(reading: Reading, task: Task, visits: Visits) -> Sequence[Block]:
    found = stored_evaluation(reading, task, visits)
    if found is None:
        return ()
    name, title = TITLES[task, visits]
    blocks: list[Block] = []
    stale = reading.newer_input(ANALYSIS, ("scored_predictions",))
    if stale:
        blocks.append(TextBlock((stale,), "warning"))
    blocks += [
        TableBlock(one, caption, table, _SOURCE, (*notes, *NOTES))
        for one, (table, caption, notes) in tables_of([found]).items()
    ]
    if not found.curves.is_empty():
        blocks.append(
            FigureBlock(
                f"{name}_roc",
                f"{title}: ROC curves, and below them how well probabilities are calibrated",
                "A panel per bone and for their mean probability: ROC curves of the six models, "
                "whose AUC the table has; below, the share of cases by predicted probability.",
                lambda: roc_figure(found, title=title),
                _CURVES,
            )
        )
    calibration = pl.DataFrame([row for row in found.calibration if row["reason"] is None])
    if not calibration.is_empty():
        blocks.append(_calibration(name, title, calibration))
    return blocks


def _calibration(name: str, title: str, rows: pl.DataFrame) -> TableBlock:
    columns: dict[str, Layout | str] = {
        "bone": Layout("Bone", lambda bone: COLUMNS.get(bone, bone)),
        "strategy": Layout("Biomarkers", _strategy),
        "n": "n",
        "n_positive": "Cases",
        "brier": Layout("Brier", fixed(3)),
        "scaled_brier": Layout("Scaled Brier", fixed(3)),
        "mean_predicted": Layout("Mean probability", fixed(3)),
        "intercept": Layout("Intercept", fixed(2)),
        "slope": Layout("Slope", fixed(2)),
        "in_the_large": Layout("In the large", fixed(2)),
    }
    return TableBlock(
        f"{name}_calibration",
        f"{title}: calibration",
        laid_out(rows, columns),
        _SOURCE,
        (
            "The loss weights both classes alike, so probabilities are as if half the knees were "
            "cases: in the large below 0 where fewer are. Ranking and AUC are not touched.",
        ),
    )


def sweep(reading: Reading) -> Sequence[Block]:
    """Fig. S4: the search for hyperparameters."""
    from pipeline.learning_figures import sweep_figure

    best = reading.read("FROM sweep_best WHERE rule = $rule ORDER BY ALL", rule=_RULE)
    if best.is_empty():
        return ()
    columns: dict[str, Layout | str] = {
        "task": Layout("Task", lambda name: name.replace("_", " ")),
        "bone": "Bone",
        "strategy": Layout("Biomarkers", _strategy),
        "initialization": "Began with",
        "architecture": "Network",
        "trained": "Trained",
        "learning_rate": "Rate",
        "val_sensitivity": Layout("Sensitivity", fixed(3)),
        "val_specificity": Layout("Specificity", fixed(3)),
        "val_auc": Layout("AUC", fixed(3)),
        "auc_variation_percent": Layout("CV of AUC, %", fixed(2)),
    }
    source = Source("sweep_figure", ("sweep_best",))
    return (
        FigureBlock(
            "figure_s4",
            "Figure S4. The best run of each initialisation, on the validation split",
            "Dots by bone and biomarker: sensitivity, specificity, AUC and its variation of the "
            "best run of each initialisation, as in the table below.",
            lambda: sweep_figure(best),
            source,
        ),
        TableBlock(
            "sweep_best",
            "Best run of each initialisation",
            laid_out(best.filter("is_best"), columns),
            source,
            ("By the lowest validation loss (the paper's rule); no test result was looked at.",),
        ),
    )


def understood(reading: Reading) -> Sequence[Block]:
    """The paper's groups: knees that all 18 models get right."""
    rows = reading.rows("agreement_groups")
    if rows.is_empty():
        return ()
    order = {name: place for place, name in enumerate(GROUP_NAMES)}
    cells = [
        [
            GROUP_NAMES[row["agreement"]],
            f"{row['n']:,}",
            f"{row['n_cases']:,}",
            mean_sd(row["age_mean"], row["age_sd"]),
            mean_sd(row["bmi_mean"], row["bmi_sd"]),
            f"{row['n_male']:,}/{row['n_female']:,}",
            text_of(row["race"]),
        ]
        for row in sorted(rows.to_dicts(), key=lambda one: order[one["agreement"]])
    ]
    counts = reading.read(
        "SELECT n_correct, count(*) FILTER (WHERE is_case) AS n_cases, "
        "count(*) FILTER (WHERE NOT is_case) AS n_others FROM model_agreement "
        "GROUP BY n_correct ORDER BY n_correct DESC"
    )
    [k] = reading.read("SELECT min_models_correct AS k FROM agreement_parameters")["k"].to_list()
    headings = (
        "Group",
        "Patients",
        "With chronic pain",
        "Age, years (mean ± SD)",
        "BMI, kg/m² (mean ± SD)",
        "Men/women",
        "Race",
    )
    return (
        TableBlock(
            "agreement_groups",
            f"Knees that at least {k} of the 18 chronic-pain models get right",
            text_table(headings, cells),
            Source("agreement_groups", ("agreement_groups",)),
            (
                "First visit of each patient of the test split. The paper: 87 true positives (age "
                "63.8 ± 8.3, BMI 31.0 ± 5.1, 33/54) and 184 true negatives (60.1 ± 9.6, "
                "25.9 ± 4.2, 77/107) of 875.",
                "The groups differ in age and BMI and are chosen by the models: a difference of "
                "their Grad-CAM is not by itself a finding about pain.",
            ),
        ),
        TableBlock(
            "models_correct",
            "Patients by how many of the 18 models are right",
            laid_out(
                counts,
                {
                    "n_correct": "Models right",
                    "n_cases": "With chronic pain",
                    "n_others": "Without pain",
                },
            ),
            Source("model_agreement", ("model_agreement",)),
        ),
    )


def _mean_cams(reading: Reading, target: Target, names: list[str], title: str) -> bytes:
    from pipeline.cam_figures import mean_cams, mean_cams_figure

    return mean_cams_figure(mean_cams(reading.lake, target, names), title=title)


def mean_maps(reading: Reading) -> Sequence[Block]:
    """Mean Grad-CAM of the knees that models get right, and their numbers."""
    groups = reading.rows("cam_groups").sort("target", "agreement", "bone", "strategy")
    blocks: list[Block] = []
    wanted: tuple[tuple[str, Target], ...] = (("tp_pain", "pain"), ("tn_no_pain", "no_pain"))
    for group, target in wanted if reading.count("cam_index") else ():
        names = reading.read(
            "SELECT DISTINCT knee_visit FROM model_agreement SEMI JOIN (SELECT knee_visit FROM "
            "cam_locations WHERE task = 'chronic_pain') USING (knee_visit) "
            "WHERE agreement = $group ORDER BY ALL",
            group=group,
        )["knee_visit"].to_list()
        if names:
            title = f"{GROUP_NAMES[group]}: mean evidence for {target.replace('_', ' ')}"
            blocks.append(
                FigureBlock(
                    f"mean_cams_{group}",
                    title,
                    f"Mean Grad-CAM maps, knees: {len(names):,}; a row per bone and a column per "
                    f"model, each on a scale of its own ({len(STRATEGIES)} models a bone).",
                    partial(_mean_cams, reading, target, names, title),
                    Source("cam_maps", ("cam_locations", "model_agreement")),
                    ("A map of evidence is not a map of where pain comes from.",),
                )
            )
    if not groups.is_empty():
        columns: dict[str, Layout | str] = {
            "target": Layout("Evidence for", lambda name: name.replace("_", " ")),
            "agreement": Layout("Group", lambda name: GROUP_NAMES[name]),
            "bone": "Bone",
            "strategy": Layout("Biomarkers", _strategy),
            "n": "Knees",
            "n_all_zero": "Without evidence",
            "medial_share_surface": Layout("Medial share", fixed(3)),
            "covered_share_surface": Layout("On cartilage", fixed(3)),
            "entropy": Layout("Entropy", fixed(3)),
        }
        blocks.append(
            TableBlock(
                "cam_groups",
                "Where the evidence lies, by group",
                laid_out(groups, columns),
                Source("cam_groups", ("cam_groups",)),
                ("Shares of the mass, weighted by surface. See docs/learning.md before reading.",),
            )
        )
    return blocks


def one_knee(reading: Reading) -> Sequence[Block]:
    """Fig. 5: from a network's cells to a heat map on one knee's bone."""
    found = reading.read(
        "SELECT knee_visit, cams.bone, count(*) AS n_cams, any_value(images.part) AS part, "
        "any_value(images.row) AS row FROM cam_locations AS cams "
        "JOIN image_index AS images USING (knee_visit, bone) "
        "JOIN maps_index USING (knee_visit, bone) WHERE task = 'chronic_pain' "
        "GROUP BY knee_visit, cams.bone "
        "ORDER BY cams.bone <> 'femur', n_cams DESC, bool_or(is_case) DESC, knee_visit LIMIT 1"
    ).to_dicts()
    if not found:
        return ()
    [knee] = found
    name, bone = knee["knee_visit"], knee["bone"]

    def draw() -> bytes:
        from lake.arrays import read_rows
        from pipeline.images import PLANES_VARIABLE
        from pipeline.knee_figures import figure_5
        from pipeline.knee_view import knee_cams

        part = reading.lake.knee_maps(name)[bone]
        [planes] = read_rows(reading.lake.root, PLANES_VARIABLE, [(knee["part"], knee["row"])])
        # A page is read on a screen: half the resolution of print.
        cams = knee_cams(reading.lake, name, bone)
        return figure_5(part, planes, cams, dpi=120, picture_px=280)

    return (
        FigureBlock(
            "figure_5",
            f"Figure 5. From a network's cells to the bone: {name}, {bone}",
            "A row per single biomarker: the image the network is given, its Grad-CAM for pain on "
            "the network's own grid, that enlarged over the map, and on the bone's surface.",
            draw,
            Source("cam_maps", ("cam_locations", "image_index", "maps_index")),
            ("A map of evidence is not a map of where pain comes from.",),
        ),
    )


def sanity(reading: Reading) -> Sequence[Block]:
    """The checks of Grad-CAM, which are files of their asset and not rows of the lake."""
    folder = reading.lake.root / FIGURES_FOLDER
    picture, numbers = folder / "cam_sanity.png", folder / "cam_sanity.csv"
    if not (picture.is_file() and numbers.is_file()):
        return ()
    lines = list(csv.reader(io.StringIO(numbers.read_text(encoding="utf-8"))))
    source = Source("cam_sanity", ("classifiers", "image_index"))
    note = (
        "From the files of the newest run of cam_sanity, which the lake does not hold: materialise "
        "it again after a training.",
    )
    return (
        FigureBlock(
            "cam_sanity",
            "Sanity checks of Grad-CAM",
            "Similarity with the trained network's maps under random weights, permuted labels and "
            "another seed, and how the prediction changes as pixels are deleted or inserted; the "
            "numbers are in the table below.",
            picture.read_bytes,
            source,
            note,
        ),
        TableBlock(
            "cam_sanity_numbers",
            "Sanity checks of Grad-CAM: numbers",
            text_table(
                ("Measure", "Value"),
                [[name.replace("_", " "), value] for name, value in lines[1:]],
            ),
            source,
            note,
        ),
    )
