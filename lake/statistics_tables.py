"""The registry's tables of statistics: what was analysed, and what came out.

Here: `published_cases` (step 'published') and the results of step 'statistics'. Not here: any
analysis (`stats`, `pipeline`).

`analyses` is the ledger of that step. One row is one run of one analysis, and of every result table
only rows of the batch of the newest run count: a run that fits fewer models takes the others away.
"""

from imaging.labels import BONES
from lake.evaluation_tables import EVALUATION_TABLES
from lake.registry import BATCH_ID, Check, Column, Table, count, number, text, whole, yes_no
from lake.spm_tables import SPM_TABLES

ANALYSES = "analyses"
"""The table that says which batch of an analysis counts."""

_ANALYSIS = text("analysis", "The analysis: the asset, or the name given on the command line.")
_BONE = text("bone", "The bone; NULL where the model is of no bone.", BONES, nullable=True)
_BIOMARKER = text("biomarker", "The biomarker; NULL where the model is of none.", nullable=True)
_POPULATION = text("population", "Which rows were analysed.")
_P = "p-value"


def _estimate(name: str, description: str, unit: str = "") -> Column:
    return number(name, description, unit, None, None, nullable=True)


def _share(name: str, description: str) -> Column:
    return number(name, description, "1", 0.0, 1.0, nullable=True)


def _probability(name: str, description: str) -> Column:
    return number(name, description, _P, 0.0, 1.0, nullable=True)


_MODEL_KEY = ("analysis", "population", "bone", "biomarker", "model")
_MODEL_COLUMNS = (
    _ANALYSIS,
    _POPULATION,
    _BONE,
    _BIOMARKER,
    text("model", "The model."),
)


def _result(
    name: str,
    description: str,
    columns: tuple[Column, ...],
    grain: tuple[str, ...],
    rules: tuple[Check, ...] = (),
) -> Table:
    return Table(
        name,
        description,
        columns,
        partitioned=False,
        step="statistics",
        key=("analysis",),
        grain=grain,
        rules=rules,
    )


PUBLISHED_CASES = Table(
    "published_cases",
    "The authors' published regression tables: one row per case of a bone, in the file's order. "
    "They hold no participant number, so that rows of one participant cannot be told.",
    (
        text("bone", "The bone.", BONES),
        count("row_number", "Row of the file, the header not counted.", 1),
        number("age_years", "Age as delivered.", "years", 0.0, 120.0, nullable=True),
        number("bmi", "Body-mass index as delivered.", "kg/m2", 5.0, 100.0, nullable=True),
        whole("sex_code", "Sex as delivered: 1 male, 2 female.", "", 1, 2),
        text("compartment_1", "Name of the first of the two compartment columns, as delivered."),
        number("compartment_1_mm", "Its mean cartilage thickness.", "mm", 0.0, 15.0, nullable=True),
        text("compartment_2", "Name of the second."),
        number("compartment_2_mm", "Its mean cartilage thickness.", "mm", 0.0, 15.0, nullable=True),
        number(
            "dl_guided_mm",
            "Thickness averaged with the Grad-CAM map as weights (DLROI).",
            "mm",
            0.0,
            15.0,
            nullable=True,
        ),
        whole("chronic_pain", "Outcome as delivered: 1 chronic pain, 0 none.", "", 0, 1),
        text("file", "The file, as short as still finds it."),
        text("sha256", "SHA-256 of the file."),
        BATCH_ID,
    ),
    partitioned=False,
    step="published",
    key=("bone",),
    grain=("bone", "row_number"),
)

_ANALYSES = _result(
    ANALYSES,
    "Analyses run: one row per analysis. What counts of every result table is the newest batch.",
    (
        _ANALYSIS,
        text(
            "input_fingerprint", "SHA-256 of the rows analysed, the choices and the code version."
        ),
        count("n_rows", "Rows analysed."),
        count("n_results", "Models or maps with a result."),
        count("n_failed", "Models or maps that could not be done; their rows say why."),
        text("notes", "What the analysis assumes, one sentence a line."),
        BATCH_ID,
    ),
    grain=("analysis",),
)

_MODELS = _result(
    "regression_models",
    "Logistic regressions: one row per analysis, population, bone, biomarker and model. "
    "A model that could not be fitted has its reason and no numbers.",
    (
        *_MODEL_COLUMNS,
        text("outcome", "The outcome, 0 or 1."),
        text("formula", "Its terms, joined by ' + '."),
        text("coding", "How categories were coded.", nullable=True),
        text("reason", "Why there is no result; NULL where there is.", nullable=True),
        whole("n", "Complete cases."),
        whole("n_dropped", "Rows left out because a value is missing."),
        whole("n_events", "Cases of outcome 1."),
        whole("n_clusters", "Participants; NULL where the rows do not tell them."),
        _estimate("loglik", "Log-likelihood."),
        _estimate("loglik_null", "Log-likelihood of the intercept alone."),
        _estimate("aic", "Akaike's information criterion."),
        whole("df", "Parameters estimated."),
        yes_no("converged", "Whether Newton's steps ended at a maximum."),
        whole("iterations", "Newton steps."),
        yes_no("separated", "Whether the covariates separate the classes: no estimate is finite."),
        _estimate("condition_number", "Of the standardised design."),
        text("statement_sha256", "SHA-256 of the SQL statement that was run.", nullable=True),
        BATCH_ID,
    ),
    grain=_MODEL_KEY,
    rules=(
        Check(
            "result_or_reason",
            "reason",
            "(reason IS NULL) = (n IS NOT NULL AND loglik IS NOT NULL)",
            "expected either numbers or the reason why there are none",
        ),
    ),
)

_TERMS = _result(
    "regression_terms",
    "Coefficients of the logistic regressions: one row per model and term; NULL where classes are "
    "separated and none is finite.",
    (
        *_MODEL_COLUMNS,
        text("term", "The term."),
        whole("position", "Its place in the model, the intercept 0.", "", 0, nullable=False),
        _estimate("estimate", "Log odds ratio per unit of the covariate."),
        _estimate("se", "Standard error, rows taken as independent."),
        _estimate("z", "estimate / se."),
        _probability("p", "Two-sided Wald p-value, rows taken as independent."),
        _estimate("ci_low", "95 % confidence limit of the estimate, rows taken as independent."),
        _estimate("ci_high", "Its upper limit."),
        _estimate("odds_ratio", "exp(estimate)."),
        _estimate("or_low", "95 % confidence limit of the odds ratio."),
        _estimate("or_high", "Its upper limit."),
        _estimate("vif", "Variance inflation factor; NULL for the intercept."),
        _estimate("cluster_se", "Standard error with participants as clusters (CR1)."),
        _estimate("cluster_z", "estimate / cluster_se."),
        _probability("cluster_p", "Two-sided Wald p-value with participants as clusters."),
        _estimate("cluster_ci_low", "95 % confidence limit with participants as clusters."),
        _estimate("cluster_ci_high", "Its upper limit."),
        BATCH_ID,
    ),
    grain=(*_MODEL_KEY, "term"),
)

_TESTS = _result(
    "regression_tests",
    "Tests of nested logistic regressions: one row per pair of models and test.",
    (
        _ANALYSIS,
        _POPULATION,
        _BONE,
        _BIOMARKER,
        text("base_model", "The smaller model."),
        text("full_model", "The model with terms added."),
        text("added", "The terms added, joined by ' + '."),
        text("test", "The test.", ("likelihood_ratio", "cluster_wald")),
        number("chi2", "Its statistic.", "", 0.0),
        whole("df", "Its degrees of freedom.", "", 1, nullable=False),
        _probability("p", "Its p-value; 0 where it is below what a double holds."),
        number("ln_p", "Natural logarithm of the p-value, at any size.", "", None, 0.0),
        BATCH_ID,
    ),
    grain=("analysis", "population", "bone", "biomarker", "base_model", "full_model", "test"),
)

_PERFORMANCE = _result(
    "regression_performance",
    "How well the regressions tell the classes apart: one row per model, rows evaluated and rule "
    "of the threshold.",
    (
        *_MODEL_COLUMNS,
        text("evaluated_on", "The rows: 'in_sample', those of the fit, or 'test', those held out."),
        text(
            "threshold_rule",
            "'half': probability 0.5; 'training_share': the share of cases where it was fitted.",
            ("half", "training_share"),
        ),
        number("threshold", "Probability from which a case is called.", "1", 0.0, 1.0),
        count("n", "Rows evaluated."),
        count("n_events", "Cases of outcome 1."),
        *(
            column
            for measure in ("sensitivity", "specificity", "auc")
            for column in (
                _share(measure, f"{measure.capitalize()}."),
                _share(f"{measure}_low", "2.5 % percentile of bootstraps by participant."),
                _share(f"{measure}_high", "97.5 % percentile."),
            )
        ),
        BATCH_ID,
    ),
    grain=(*_MODEL_KEY, "evaluated_on", "threshold_rule"),
)

_STATEMENTS = _result(
    "regression_statements",
    "The SQL behind the regressions: one row per analysis and statement. It reads a view of rows "
    "named for population, bone and biomarker.",
    (
        _ANALYSIS,
        text("statement_sha256", "SHA-256 of the statement, as `regression_models` lists it."),
        text("statement", "The statement that was run."),
        BATCH_ID,
    ),
    grain=("analysis", "statement_sha256"),
)

_COMPARISONS = _result(
    "printed_comparisons",
    "Numbers of a printed table beside the same refitted: one row per number.",
    (
        _ANALYSIS,
        text("printed_table", "The table."),
        _BONE,
        text("model", "The model."),
        text("variable", "The row's name as printed; '' where the number is of no one row."),
        text("quantity", "The column: estimate, se, p, sensitivity ... ."),
        text("printed", "The number as printed; NULL where nothing is printed.", nullable=True),
        _estimate("refitted", "The number from the file as delivered."),
        _estimate("explained", "The number after the change named in `explanation`."),
        text(
            "verdict",
            "agrees: to the digits printed, as delivered. explained: after the change named. "
            "differs: neither. not_printed: the table has no such number.",
            ("agrees", "explained", "differs", "not_printed"),
        ),
        text("explanation", "The change; NULL where none is needed or known.", nullable=True),
        BATCH_ID,
    ),
    grain=("analysis", "printed_table", "bone", "model", "variable", "quantity"),
)

STATISTICS_TABLES = (
    PUBLISHED_CASES,
    _ANALYSES,
    _MODELS,
    _TERMS,
    _TESTS,
    _PERFORMANCE,
    _STATEMENTS,
    _COMPARISONS,
    *SPM_TABLES,
    *EVALUATION_TABLES,
)
