"""Who was studied and what was measured on them: the report's first chapter.

Here: Fig. 2, Table 4 and its tests, readings of widespread pain, Table S1, Fig. S3, 3 and 4. Not
here: any count (`sql/cohort`), or drawing (`cohort_figures`, `figures`, `image_figures`).
"""

from collections.abc import Sequence

import polars as pl

from pipeline.cohort_figures import MODEL_NAMES, flowchart, table_4
from pipeline.report_blocks import (
    Block,
    FigureBlock,
    Layout,
    Source,
    TableBlock,
    TextBlock,
    fixed,
    interval,
    laid_out,
    percent,
    small_p,
    text_table,
)
from pipeline.report_reading import Reading

UNIT_NAMES = {"knee_visit": "knee-visits (the paper)", "first_timepoint": "first visits"}
VARIANT_NAMES = {
    "back_pain_rule": "Back pain",
    "knee_below_waist": "Knees below the waist",
    "hip_pain_rule": "Hip pain",
    "widespread_level": "Excluded at",
    "unanswered_items": "Unanswered",
    "chronic_pain_min_months": "Months",
    "n_included": "Knee-visits",
    "n_chronic_pain": "Chronic pain",
    "n_no_pain": "No pain",
}


def flow(reading: Reading) -> Sequence[Block]:
    """Fig. 2: the inclusion flowchart, and the paper's numbers beside ours."""
    steps, reasons = reading.rows("cohort_flow"), reading.rows("pain_exclusions")
    if not steps["n_remaining"].sum():
        return ()
    source = Source("cohort_figures", ("cohort_flow", "pain_exclusions"))
    last = steps.sort("step_number").to_dicts()[-1]
    table = laid_out(
        steps.sort("step_number"),
        {
            "description": "Step",
            "n_excluded": "Excluded",
            "n_remaining": "Remaining",
            "n_patients_remaining": "Patients",
            "share_remaining": Layout("Remaining, %", percent),
            "paper_n_excluded": "Excluded in the paper",
            "paper_n_remaining": "Remaining in the paper",
            "paper_share_remaining": Layout("In the paper, %", percent),
        },
    )
    return (
        FigureBlock(
            "figure_2",
            "Figure 2. Inclusion flowchart",
            "Flowchart of the criteria, in the order of the table below; it ends with "
            f"{last['n_remaining']:,} knee-visits of {last['n_patients_remaining']:,} patients.",
            lambda: flowchart(steps, reasons, "png"),
            source,
        ),
        TableBlock("cohort_flow", "The flowchart's numbers, and the paper's", table, source),
        TableBlock(
            "pain_exclusions",
            "What part of the pain definition excluded knee-visits",
            laid_out(
                reasons.sort("reason_number"),
                {
                    "description": "Reason",
                    "n_excluded": "Knee-visits",
                    "n_patients": "Patients",
                },
            ),
            source,
        ),
    )


def splits(reading: Reading) -> Sequence[Block]:
    """Table 4, and the tests that sex, age and BMI do not depend on the split."""
    balance = reading.rows("split_balance")
    if balance.is_empty():
        return ()
    tests = reading.rows("split_tests").sort("model", "unit", descending=True)
    columns: dict[str, Layout | str] = {
        "model": Layout("Model", lambda name: MODEL_NAMES.get(name, name)),
        "unit": Layout("Rows", lambda name: UNIT_NAMES.get(name, name)),
        "sex_n": "n (sex)",
        "sex_chi_square": Layout("χ²", fixed(3)),
        "sex_df": "df",
        "sex_p": Layout("Sex, p", small_p),
        "age_bmi_n": "n (age, BMI)",
        "wilks_lambda": Layout("Wilks λ", fixed(4)),
        "wilks_f": Layout("F", fixed(3)),
        "wilks_p": Layout("Wilks, p", small_p),
        "pillai_trace": Layout("Pillai", fixed(4)),
        "pillai_p": Layout("Pillai, p", small_p),
    }
    return (
        TableBlock(
            "table_4",
            "Table 4. Splits of the classification models",
            table_4(balance),
            Source("cohort_figures", ("split_balance",)),
            ("Means are over knee-visits. The tests' rows are knee-visits, as in the paper.",),
        ),
        TableBlock(
            "split_tests",
            "Independence of sex, age and body-mass index from the split",
            laid_out(tests, columns),
            Source("split_tests", ("split_tests",)),
            ("Knee-visits of one patient are not independent; first visits are.",),
        ),
    )


def widespread_pain(reading: Reading) -> Sequence[Block]:
    """The cohort under other readings of widespread pain: the one in use, and the extremes."""
    every = reading.rows("widespread_pain_variants")
    used = every.filter("is_in_use")
    if used.is_empty() or not every["n_included"].sum():
        return ()
    ordered = every.sort("n_included", *VARIANT_NAMES)
    # One choice changed at a time, which is what a reader can judge; the lake holds all.
    choices = list(VARIANT_NAMES)[:6]
    [now] = used.to_dicts()
    near = every.filter(
        pl.sum_horizontal((pl.col(name) != now[name]).cast(pl.Int64) for name in choices) <= 1
    ).sort(pl.col("is_in_use").not_(), *choices)
    table = laid_out(
        near,
        {
            "is_in_use": "In use",
            **VARIANT_NAMES,
            "chronic_pain_share": Layout("Chronic pain, %", percent),
        },
    )
    low, high = ordered["n_included"][0], ordered["n_included"][-1]
    return (
        TableBlock(
            "widespread_pain",
            "The cohort in use, and with one choice of the pain definition changed",
            table,
            Source("widespread_pain_variants", ("widespread_pain_variants",)),
            (
                f"All {len(every):,} combinations of the choices include {low:,} to {high:,} "
                "knee-visits. The paper has 7,437, of which 2,448 (32.9 %) with chronic pain.",
            ),
        ),
    )


def segmentation(reading: Reading) -> Sequence[Block]:
    """Table S1, where segmentation networks were trained and judged here."""
    rows = reading.rows("segmentation_performance").sort("tissue")
    if rows.is_empty():
        return ()

    def cell(row: dict[str, float | None], name: str) -> str:
        return interval(row[f"{name}_mean"], row[f"{name}_low"], row[f"{name}_high"])

    headings = ("Tissue", "Scans", "Empty", "Dice (95 % CI)", "MPTS, mm (95 % CI)")
    cells = [
        [
            row["tissue"].replace("_", " "),
            f"{row['n']:,}",
            f"{row['n_empty']:,}",
            cell(row, "dice"),
            cell(row, "mpts_mm"),
        ]
        for row in rows.to_dicts()
    ]
    return (
        TableBlock(
            "table_s1",
            "Table S1. Segmentation of test people",
            text_table(headings, cells),
            Source("segmentation_metrics", ("segmentation_performance",)),
            ("MPTS: mean point-to-surface distance. Percentile bootstrap over knee-visits.",),
        ),
    )


def agreement(reading: Reading) -> Sequence[Block]:
    """Fig. S3: means on the map against means on the surface."""
    from pipeline.figures import bland_altman_figure

    rows = reading.rows("map_agreement")
    if rows.is_empty():
        return ()
    summary = reading.rows("map_agreement_summary").sort("bone", "biomarker", "weighting")
    columns: dict[str, Layout | str] = {
        "bone": "Bone",
        "biomarker": Layout("Biomarker", lambda name: name.replace("_", " ")),
        "weighting": "Weighting",
        "n": "n",
        "bias": Layout("Bias", fixed(4)),
        "bias_low": Layout("Bias, low", fixed(4)),
        "bias_high": Layout("Bias, high", fixed(4)),
        "lower_limit": Layout("Lower limit", fixed(4)),
        "upper_limit": Layout("Upper limit", fixed(4)),
        "slope": Layout("Slope", fixed(4)),
    }
    n = rows["knee_visit"].n_unique()
    return (
        FigureBlock(
            "figure_s3",
            "Figure S3. Means on the spherical map against means on the surface (Bland-Altman)",
            f"Bland-Altman plots of {n:,} knee-visits, a panel per bone and biomarker; the table "
            "below has biases and limits of agreement.",
            lambda: bland_altman_figure(rows),
            Source("knee_biomarkers", ("map_agreement",)),
        ),
        TableBlock(
            "agreement",
            "Agreement of map and surface",
            laid_out(summary, columns),
            Source("map_agreement_summary", ("map_agreement_summary",)),
            (
                "Map minus surface, in mm or ms. Bias with its 95 % interval, limits of agreement "
                "(± 1.96 SD). Pixels: each counts alike, as in the paper; area: by the surface "
                "it stands for.",
            ),
        ),
    )


def maps(reading: Reading) -> Sequence[Block]:
    """Fig. 3: the maps of one knee, the first by name of those with the most values."""
    from pipeline.figures import maps_figure

    found = reading.read(
        "SELECT knee_visit FROM maps_index LEFT JOIN biomarkers USING (knee_visit, bone) "
        "GROUP BY knee_visit ORDER BY count(biomarkers.mean) DESC, knee_visit LIMIT 1"
    )["knee_visit"].to_list()
    if not found:
        return ()
    [name] = found
    return (
        FigureBlock(
            "figure_3",
            f"Figure 3. Spherical maps of {name}",
            "Maps of bone shape, cartilage thickness and T2 over the sphere, a row per bone; grey "
            "where there is no value.",
            lambda: maps_figure(reading.lake.knee_maps(name), title=name),
            Source("spherical_maps", ("maps_index",)),
        ),
    )


def merges(reading: Reading) -> Sequence[Block]:
    """Fig. 4: what the networks are shown of one knee."""
    from pipeline.image_figures import TITLES, example_knee, strategies_figure

    found = reading.read(
        "SELECT bone, timepoint FROM image_index ORDER BY bone <> 'femur', bone, timepoint LIMIT 1"
    ).to_dicts()
    if not found:
        return ()
    [where] = found
    name = example_knee(reading.lake, where["timepoint"], where["bone"])
    if name is None:
        return ()
    return (
        FigureBlock(
            "figure_4",
            f"Figure 4. Images of {name} ({where['bone']}) as the networks see them",
            f"Six images of one knee's {where['bone']}: {'; '.join(TITLES.values())}.",
            lambda: strategies_figure(reading.lake, name, where["bone"]),
            Source("training_images", ("image_index",)),
        ),
    )


def drawn(reading: Reading) -> TextBlock | None:
    """The warning that knees are simulated; None where there is no sign of it."""
    [found] = reading.read(
        "SELECT count(DISTINCT knee_visit) AS n, "
        "(SELECT count(*) FROM enrollees WHERE starts_with(subject_id::VARCHAR, '1')) AS n_people, "
        "(SELECT count(*) FROM enrollees) AS n_enrolled, "
        "(SELECT count(DISTINCT knee_visit) FROM maps_index) AS n_mapped FROM drawn_knees"
    ).to_dicts()
    lines = []
    if found["n"]:
        lines.append(
            f"These are simulated knees. The maps of {found['n']:,} knee-visits were drawn from "
            "kneelake's own model of a knee (table drawn_knees), and no scan was made of them; "
            f"{found['n_mapped']:,} knee-visits have maps. No number below says anything about "
            "people."
        )
    if found["n_people"]:
        lines.append(
            f"{found['n_people']:,} of {found['n_enrolled']:,} participants have numbers that "
            "begin with 1, which kneelake gives to simulated people."
        )
    source = Source("spherical_maps", ("drawn_knees", "enrollees"))
    return TextBlock(tuple(lines), "warning", source) if lines else None
