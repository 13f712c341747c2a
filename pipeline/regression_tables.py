"""Tables 2 and 3 in the paper's layout, with what the paper leaves out beside it.

Here: laying out rows of `regression_*` as text. Not here: computing any of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pipeline.manuscript import number_text, p_text
from pipeline.regression_cautions import cautions

Row = dict[str, Any]
BONE_NAMES: Mapping[str | None, str] = {
    "femur": "Femur",
    "tibia": "Tibia",
    "patella": "Patella",
    None: "-",
}
MODEL_NAMES: Mapping[str, str] = {
    "demographics": "Age, BMI and sex",
    "compartments": "and compartment averages",
    "classical": "Classical: compartment averages",
    "dl_guided": "Proposed: and DL-guided average",
    "radiographic": "Radiographic features",
}
TERM_NAMES: Mapping[str, str] = {
    "Intercept": "Intercept",
    "age_years": "Age, years",
    "bmi": "BMI, kg/m²",
    "sex_female": "Female sex",
    "sex_code": "Sex (1 male, 2 female)",
    "medial": "Medial average",
    "lateral": "Lateral average",
    "dl_guided": "DL-guided average",
    "dl_guided_mm": "DL-guided average, mm",
    "kl_grade": "KL grade",
    "jsn_medial": "OARSI JSN grade, medial",
    "jsn_lateral": "OARSI JSN grade, lateral",
    "jsw_medial_min_mm": "Minimum medial JSW, mm",
}
BIOMARKER_NAMES: Mapping[str | None, str] = {
    "cartilage_thickness": "Cartilage thickness",
    "t2_superficial": "T2, superficial",
    "t2_deep": "T2, deep",
    "t2_mean": "T2, mean",
    None: "-",
}
POPULATION_NAMES: Mapping[str, str] = {
    "published_test_timepoints": "Published file, timepoints",
    "all_timepoints": "All timepoints",
    "first_timepoints": "First timepoints",
    "training": "Training split",
}
TABLE_3 = (
    "Biomarker",
    "Bone",
    "Rows",
    "n (participants)",
    "Method",
    "Variable",
    "Estimate",
    "Standard error",
    "p",
    "Odds ratio (95 % CI)",
    "Clustered standard error",
    "Clustered, p",
    "ROC in sample, % (sensitivity / specificity / AUC)",
    "Likelihood ratio, p",
    "Clustered Wald test, p",
    "Caution",
)
TABLE_2 = (
    "Variable",
    "Estimate (95 % CI)",
    "p",
    "Odds ratio (95 % CI)",
    "Clustered by participant: estimate (95 % CI)",
    "Clustered, p",
)
DIFFERENCES = ("Bone", "Method", "Variable", "Number", "Printed", "Refitted", "What differs")


def term_name(term: str, names: Mapping[str, str] = {}) -> str:
    """A term for people; `names` come first."""
    return names.get(term) or TERM_NAMES.get(term, term)


def models_in_order(tables: Mapping[str, pl.DataFrame]) -> list[Row]:
    """The models as the paper lists them: by biomarker, bone, rows, and the smaller model first."""

    def place(row: Row) -> tuple[int, ...]:
        orders = (
            (BIOMARKER_NAMES, row["biomarker"]),
            (BONE_NAMES, row["bone"]),
            (POPULATION_NAMES, row["population"]),
            (MODEL_NAMES, row["model"]),
        )
        return tuple(
            list(names).index(name) if name in names else len(names) for names, name in orders
        )

    return sorted(tables["regression_models"].to_dicts(), key=place)


def _interval(row: Row, value: str, low: str, high: str, digits: int) -> str:
    if row.get(value) is None:
        return "-"
    numbers = [_limited(row[name], digits) for name in (value, low, high)]
    return f"{numbers[0]} ({numbers[1]}, {numbers[2]})"


def _limited(value: float | None, digits: int) -> str:
    """A number to some decimals, in powers of ten where it is too large or small for that."""
    if value is None:
        return "-"
    if value and not 10.0**-digits <= abs(value) < 1e5:
        return f"{value:.3g}"
    return number_text(value, digits)


_MODEL_KEY = ("population", "bone", "biomarker", "model")


def caution_notes(
    tables: Mapping[str, pl.DataFrame], compartments: Mapping[str, Mapping[str, str]] = {}
) -> list[str]:
    """A sentence for each coefficient of the larger models that should not be read by itself."""
    return [
        f"{_where(caution.bone, caution.biomarker, caution.population)}: the coefficient of the "
        f"{_in_sentence(term_name(caution.term, compartments.get(caution.bone or '', {})))} "
        f"{caution.text}"
        for caution in cautions(tables["regression_terms"].to_dicts())
    ]


def _where(bone: str | None, biomarker: str | None, population: str) -> str:
    words = (
        BONE_NAMES[bone],
        BIOMARKER_NAMES.get(biomarker, biomarker or "-"),
        POPULATION_NAMES.get(population, population),
    )
    first, *others = [word for word in words if word != "-"]
    return ", ".join([first, *map(_in_sentence, others)])


def _in_sentence(name: str) -> str:
    """A name within a sentence: abbreviations keep their capitals."""
    return name if name[1:2].isupper() or name[1:2].isdigit() else name[:1].lower() + name[1:]


def _same(row: Row, other: Row, *names: str) -> bool:
    return all(row[name] == other[name] for name in names)


def _roc_text(rows: Sequence[Row], model: Row) -> str:
    for row in rows:
        if row["evaluated_on"] == "in_sample" and _same(
            row, model, "population", "bone", "biomarker", "model"
        ):
            parts = (row["sensitivity"], row["specificity"], row["auc"])
            return " / ".join("-" if part is None else f"{100 * part:.1f}" for part in parts)
    return "-"


def _test_text(rows: Sequence[Row], model: Row, test: str) -> str:
    for row in rows:
        if (
            row["test"] == test
            and row["full_model"] == model["model"]
            and _same(row, model, "population", "bone", "biomarker")
        ):
            # Below what a double holds only the logarithm is left.
            return p_text(row["p"]) if row["p"] else f"10^{row['ln_p'] / 2.302585092994046:.1f}"
    return "-"


def _participants(model: Row) -> str:
    if model["n"] is None:
        return "-"
    clusters = "not told" if model["n_clusters"] is None else f"{model['n_clusters']:,}"
    return f"{model['n']:,} ({clusters})"


def table_3(
    tables: Mapping[str, pl.DataFrame],
    compartments: Mapping[str, Mapping[str, str]] = {},
) -> pl.DataFrame:
    """Nested regressions in the layout of Table 3.

    Args:
        tables: `regression_models`, `_terms`, `_tests` and `_performance` of one analysis.
        compartments: names of terms by bone that come before `TERM_NAMES`.

    Returns:
        columns `TABLE_3`, all text; '-' where there is nothing to say. A model that could not be
        fitted is one row with its reason.
    """
    terms, tests, rocs = (
        tables[name].to_dicts()
        for name in ("regression_terms", "regression_tests", "regression_performance")
    )
    warned = list(cautions(terms))
    rows = []
    for model in models_in_order(tables):
        bone = model["bone"]
        # What is of the whole model is said once, in its first row.
        whole = [
            BIOMARKER_NAMES.get(model["biomarker"], model["biomarker"]),
            BONE_NAMES[bone],
            POPULATION_NAMES.get(model["population"], model["population"]),
            _participants(model),
            MODEL_NAMES.get(model["model"], model["model"]),
        ]
        closing = [
            _roc_text(rocs, model),
            _test_text(tests, model, "likelihood_ratio"),
            _test_text(tests, model, "cluster_wald"),
        ]
        if model["reason"] is not None:
            rows.append([*whole, f"not fitted: {model['reason']}", *["-"] * 6, *["-"] * 4])
            continue
        of_model = [
            term for term in terms if _same(term, model, "population", "bone", "biomarker", "model")
        ]
        for term in sorted(of_model, key=lambda one: one["position"]):
            is_first = term["position"] == 0
            rows.append(
                [
                    *(whole if is_first else [""] * len(whole)),
                    term_name(term["term"], compartments.get(bone or "", {})) + _flag(model, term),
                    _limited(term["estimate"], 4),
                    _limited(term["se"], 4),
                    p_text(term["p"]),
                    "-" if is_first else _interval(term, "odds_ratio", "or_low", "or_high", 2),
                    _limited(term["cluster_se"], 4),
                    p_text(term["cluster_p"]),
                    *(closing if is_first else [""] * len(closing)),
                    ", ".join(
                        caution.short
                        for caution in warned
                        if caution.term == term["term"]
                        and (caution.population, caution.bone, caution.biomarker, caution.model)
                        == tuple(model[name] for name in _MODEL_KEY)
                    ),
                ]
            )
    return _frame(TABLE_3, rows)


def _flag(model: Row, term: Row) -> str:
    if term["position"]:
        return ""
    if model["separated"]:
        return " (classes separated: no estimate of this model is finite)"
    return "" if model["converged"] else " (did not converge)"


def table_2(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The radiographic regression in the layout of Table 2; columns `TABLE_2`, all text."""
    rows: list[list[str]] = []
    blank = ["", "", "", ""]
    for model in models_in_order(tables):
        if model["reason"] is not None:
            rows.append([f"not fitted: {model['reason']}", "-", "-", "-", "-", "-"])
            continue
        share = 100 * model["n_events"] / model["n"]
        rows += [
            ["Chronic pain, %", f"{share:.1f}", *blank],
            [f"n (participants){_flag(model, {'position': 0})}", _participants(model), *blank],
        ]
    for term in tables["regression_terms"].sort("position").to_dicts():
        if term["position"] == 0:
            continue
        rows.append(
            [
                term_name(term["term"]),
                _interval(term, "estimate", "ci_low", "ci_high", 3),
                p_text(term["p"]),
                _interval(term, "odds_ratio", "or_low", "or_high", 2),
                _interval(term, "estimate", "cluster_ci_low", "cluster_ci_high", 3)
                if term["cluster_se"] is not None
                else "-",
                p_text(term["cluster_p"]),
            ]
        )
    for row in tables["regression_performance"].to_dicts():
        rule = "0.5" if row["threshold_rule"] == "half" else "the share of cases in training"
        where = row["evaluated_on"].replace("_", " ")
        for measure in ("sensitivity", "specificity", "auc"):
            if measure == "auc" and row["threshold_rule"] != "half":
                continue
            at = "" if measure == "auc" else f", called at {rule}"
            name = "AUC" if measure == "auc" else measure.capitalize()
            text = _interval(row, measure, f"{measure}_low", f"{measure}_high", 2)
            rows.append([f"{name}, {where}{at}", text, *blank])
    return _frame(TABLE_2, rows)


def differences(comparisons: pl.DataFrame) -> pl.DataFrame:
    """Numbers of the printed table that differ, or that it lacks; columns `DIFFERENCES`."""
    rows = []
    for row in comparisons.filter(pl.col("verdict") != "agrees").to_dicts():
        value = row["refitted"]
        said = {
            "explained": row["explanation"],
            "not_printed": "not printed",
            "differs": _remaining(row),
        }[row["verdict"]]
        rows.append(
            [
                BONE_NAMES[row["bone"]],
                MODEL_NAMES[row["model"]],
                row["variable"] or "-",
                row["quantity"].replace("_", " "),
                row["printed"] or "-",
                f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}",
                said,
            ]
        )
    return _frame(DIFFERENCES, rows)


def _remaining(row: Row) -> str:
    if row["explained"] is None:
        return "the file gives another number"
    return f"{row['explanation']}, which gives {row['explained']:.4g}: a misprint"


def _frame(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [dict(zip(headings, row, strict=True)) for row in rows],
        schema=dict.fromkeys(headings, pl.String),
    )
