"""What a logistic regression refuses, flags, or must not be fooled by."""

import warnings

import duckdb
import numpy as np
import polars as pl
import pytest

from stats.errors import StatisticsError, StatisticsWarning
from stats.formula import Factor, parse_terms
from stats.logit import bootstrap_logit, fit_logit, nested_logit
from stats.source import load_macros, open_source

ENGINES = pytest.mark.parametrize("engine", ["sql", "polars"])


@pytest.fixture(scope="module")
def with_macros():
    with duckdb.connect() as opened:
        load_macros(opened)
        yield opened


@pytest.fixture
def connection(with_macros):
    yield with_macros
    for (name,) in with_macros.execute("SHOW TABLES").fetchall():
        quoted = name.replace('"', '""')
        with_macros.execute(f'DROP TABLE "{quoted}"')


def put(connection, name="cases", **columns):
    connection.register("columns_given", pl.DataFrame(columns, strict=False))
    quoted = name.replace('"', '""')
    connection.execute(f'CREATE OR REPLACE TABLE "{quoted}" AS FROM columns_given')
    connection.unregister("columns_given")


@pytest.fixture
def cases(connection):
    rng = np.random.default_rng(0)
    columns = {
        "y": rng.integers(0, 2, 200),
        "age": rng.normal(60, 9, 200),
        "bmi": rng.normal(28, 4, 200),
        "sex": rng.choice(["F", "M"], 200),
    }
    put(connection, **columns)
    return columns


@ENGINES
@pytest.mark.parametrize(
    ("changed", "terms", "message"),
    [
        ({"y": np.zeros(200)}, ["age"], r"y is 0 in all 200 complete rows of 200"),
        ({"y": np.ones(200)}, ["age"], r"y is 1 in all"),
        ({"y": np.arange(200) % 3}, ["age"], r"neither 0 nor 1 in 66 rows"),
        ({"age": np.full(200, 0.1)}, ["age", "bmi"], r"age has one value on all 200"),
        ({"twice": "bmi"}, ["age", "bmi", "twice"], r"twice is a combination of bmi"),
        ({"sum": "both"}, ["age", "bmi", "sum"], r"sum is a combination of age, bmi"),
        ({"age": np.full(200, np.nan)}, ["age"], r"no row is complete \(0 complete rows of 200\)"),
        ({"w": np.full(200, 0.5)}, ["age"], r"whole numbers"),
        ({"w": np.full(200, -1)}, ["age"], r"whole numbers"),
    ],
)
def test_no_answer(connection, cases, engine, changed, terms, message):
    for name, value in changed.items():
        if isinstance(value, str):
            changed = {name: cases["bmi"] + (3 * cases["age"] if value == "both" else 0)}
    put(connection, **(cases | changed))
    weights = "w" if "w" in changed else None
    with pytest.raises(StatisticsError, match=message):
        fit_logit(connection, "cases", "y", terms, weights=weights, engine=engine)


@ENGINES
def test_fewer_rows_than_coefficients(connection, engine):
    rng = np.random.default_rng(1)
    columns = {f"x{k}": rng.normal(size=6) for k in range(5)}
    put(connection, y=[0, 1] * 3, **columns)
    with pytest.raises(StatisticsError, match="6 complete rows of 6 are too few for 6 coef"):
        fit_logit(connection, "cases", "y", list(columns), engine=engine)


@ENGINES
def test_missing_nan_and_infinite_rows_are_counted_out(connection, cases, engine):
    age, bmi = list(cases["age"]), list(cases["bmi"])
    sex, y, patient = list(cases["sex"]), list(cases["y"]), list(range(200))
    age[0], age[1], bmi[2], bmi[3] = None, np.nan, np.inf, -np.inf
    sex[4], y[5], patient[6] = None, None, None
    put(connection, y=y, age=age, bmi=bmi, sex=sex, patient=patient)
    terms = ["age", "bmi", "sex"]
    fit = fit_logit(connection, "cases", "y", terms, cluster="patient", engine=engine)
    assert (fit.n, fit.n_dropped) == (193, 7)
    put(connection, **{name: column[7:] for name, column in cases.items()})
    clean = fit_logit(connection, "cases", "y", terms, engine=engine)
    for term, wanted in zip(fit.terms, clean.terms, strict=True):
        assert term.estimate == pytest.approx(wanted.estimate, rel=1e-11)
        assert term.se == pytest.approx(wanted.se, rel=1e-11)


def test_nested_models_share_their_rows(connection, cases):
    bmi = cases["bmi"].copy()
    bmi[:50] = np.nan
    put(connection, **(cases | {"bmi": bmi}))
    nested = nested_logit(connection, "cases", "y", ["age"], ["bmi"])
    assert nested.base.n == nested.full.n == 150
    with pytest.raises(StatisticsError, match="in the base model already"):
        nested_logit(connection, "cases", "y", ["age"], ["age"])
    with pytest.raises(StatisticsError, match="at least one term to add"):
        nested_logit(connection, "cases", "y", ["age"], [])


@ENGINES
@pytest.mark.parametrize("kind", ["complete", "quasi"])
def test_separation_is_flagged_and_warned_of(connection, engine, kind):
    rng = np.random.default_rng(2)
    x = rng.normal(size=300)
    flag = rng.random(300) < 0.2
    y = x > 0.1 if kind == "complete" else (rng.random(300) < 0.4) | flag
    put(connection, y=y, x=x, flag=flag)
    with pytest.warns(StatisticsWarning, match=kind + " separation"):
        fit = fit_logit(connection, "cases", "y", ["x", "flag"], engine=engine)
    assert fit.separated
    assert fit.separation == kind
    assert not fit.converged
    with pytest.raises(StatisticsError, match="does not converge"):
        bootstrap_logit(connection, "cases", "y", ["x", "flag"], n_replicates=5, engine=engine)


@ENGINES
def test_almost_separated_is_not_called_separated(connection, engine):
    rng = np.random.default_rng(3)
    x = np.sort(rng.normal(size=400))
    y = x > 0
    y[198], y[203] = True, False
    put(connection, y=y, x=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_logit(connection, "cases", "y", ["x"], engine=engine)
    assert fit.converged
    assert not fit.separated
    assert fit.terms[1].estimate > 50


def test_unknown_names_are_listed_with_what_comes_close(connection, cases):
    with pytest.raises(StatisticsError, match=r"no column Age.*did you mean age.*It has y, age"):
        fit_logit(connection, "cases", "y", ["Age"])
    with pytest.raises(StatisticsError, match="no column pain"):
        fit_logit(connection, "cases", "pain", ["age"])
    with pytest.raises(StatisticsError, match="no table case; there are cases"):
        fit_logit(connection, "case", "y", ["age"])
    with pytest.raises(StatisticsError, match="no column knee"):
        fit_logit(connection, "cases", "y", ["age"], cluster="knee")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("age:", "not its end"),
        ("age + bmi", "cannot read the term"),
        ("C(sex", r"'\)' should stand there"),
        ("C(sex, 'X')", "no level 'X'.*'F', 'M'"),
        ("C(age)", "more than 30 levels; as a number, write age"),
        ("sex:age", "but not"),
        ("age:age", "with itself"),
        ("y", "is the outcome and a term"),
        ("age; DROP TABLE cases", "cannot read the term"),
        ("log(age)", "cannot read|should end"),
        ("", "not its end"),
    ],
)
def test_terms_that_cannot_be(connection, cases, term, message):
    with pytest.raises(StatisticsError, match=message):
        fit_logit(connection, "cases", "y", [term])


def test_formula():
    columns = ["a", "b", "c d", "x:y"]
    assert parse_terms(["a*b"], columns) == [
        (Factor("a"),), (Factor("b"),), (Factor("a"), Factor("b")),
    ]  # fmt: skip
    assert parse_terms(["c d", "x:y", "`c d`:a"], columns) == [
        (Factor("c d"),), (Factor("x:y"),), (Factor("c d"), Factor("a")),
    ]  # fmt: skip
    assert parse_terms(["C(\"c d\", 'it''s')"], columns) == [(Factor("c d", True, "it's"),)]
    assert len(parse_terms(["a*b*`x:y`", "a"], columns)) == 7


@ENGINES
@pytest.mark.parametrize(
    "name",
    ["Age at visit", 'a"b', "it's", "naïve; DROP TABLE cases; --", "x) OR (1=1", "日本", "y2`"],
)
def test_odd_names_are_only_names(connection, cases, engine, name):
    put(connection, name=f"t {name}", **{f"y {name}": cases["y"], name: cases["age"],
                                          f"f{name}": cases["sex"]})  # fmt: skip
    put(connection, **cases)
    fit = fit_logit(connection, f"t {name}", f"y {name}", [name, f"f{name}"], engine=engine)
    wanted = fit_logit(connection, "cases", "y", ["age", "sex"])
    assert [term.term for term in fit.terms] == ["Intercept", name, f"f{name}[M vs F]"]
    assert fit.terms[1].estimate == pytest.approx(wanted.terms[1].estimate, rel=1e-11)


def test_levels_are_only_texts(connection, cases):
    nasty = {"F": "'; DROP TABLE cases; --", "M": "x' OR '1'='1"}
    put(connection, **(cases | {"sex": [nasty[sex] for sex in cases["sex"]]}))
    fit = fit_logit(connection, "cases", "y", ["sex"])
    assert fit.n == 200
    assert fit.levels["sex"] == tuple(sorted(nasty.values()))
    assert connection.execute("SELECT count(*) FROM cases").fetchone() == (200,)


def test_numbers_read_as_text_are_named(tmp_path, connection):
    path = tmp_path / "cases.csv"
    rows = "\n".join(f"{k % 2},{k / 7:.3f}" for k in range(60))
    path.write_text(f"y,bmi\n{rows}\n1,unknown\n")
    with (
        open_source(path) as source,
        pytest.raises(StatisticsError, match=r"more than 30 levels.*text.*'unknown'"),
    ):
        fit_logit(source.connection, source.relation, "y", ["bmi"])


@ENGINES
def test_missing_values_of_a_csv(tmp_path, engine):
    path = tmp_path / "cases.csv"
    rng = np.random.default_rng(5)
    rows = "\n".join(f"{rng.integers(0, 2)},{value:.3f}" for value in rng.normal(size=50))
    path.write_text(f"y,bmi\n{rows}\n1,NA\n0,\n1,.\nNA,2.5\n1,nan\n")
    with open_source(path) as source:
        fit = fit_logit(source.connection, source.relation, "y", ["bmi"], engine=engine,
                        file=path if engine == "polars" else None)  # fmt: skip
    assert (fit.n, fit.n_dropped) == (50, 5)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(StatisticsError, match="neither CSV nor Parquet"):
        open_source(tmp_path / "cases.xlsx")
    with pytest.raises(StatisticsError, match="cannot read"):
        open_source(tmp_path / "none.csv")


def test_too_many_columns_are_refused(connection):
    rng = np.random.default_rng(6)
    put(connection, y=rng.integers(0, 2, 200), **{f"x{k}": rng.normal(size=200) for k in range(51)})
    with pytest.raises(StatisticsError, match=r"51 coefficients.*50.*statsmodels"):
        fit_logit(connection, "cases", "y", [f"x{k}" for k in range(51)])


def test_other_arguments(connection, cases):
    with pytest.raises(StatisticsError, match="not between 0 and 1"):
        fit_logit(connection, "cases", "y", ["age"], confidence=95)
    with pytest.raises(StatisticsError, match="no engine R; use sql"):
        fit_logit(connection, "cases", "y", ["age"], engine="R")
    with pytest.raises(StatisticsError, match="no engine R; use sql"):
        bootstrap_logit(connection, "cases", "y", ["age"], engine="R")
    with pytest.raises(StatisticsError, match="outcome sex is of type VARCHAR"):
        fit_logit(connection, "cases", "sex", ["age"])
    with pytest.raises(StatisticsError, match="at least one"):
        bootstrap_logit(connection, "cases", "y", ["age"], n_replicates=0)


@ENGINES
@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e308])
def test_a_scale_beyond_doubles_is_refused_by_name(connection, cases, scale, engine):
    put(connection, y=cases["y"], bmi=cases["bmi"], age=(cases["age"] - 60) / 30 * scale)
    with pytest.raises(StatisticsError, match="the values of age are too large or too close"):
        fit_logit(connection, "cases", "y", ["bmi", "age"], engine=engine)


@ENGINES
def test_a_row_of_weight_0_is_not_a_missing_one(connection, cases, engine):
    weights = np.arange(200) % 3
    ages = [None, *cases["age"][1:]]
    put(connection, y=cases["y"], age=ages, w=weights)
    fit = fit_logit(connection, "cases", "y", ["age"], weights="w", engine=engine)
    assert (fit.n, fit.n_dropped) == (weights.sum(), 0)
    put(connection, y=cases["y"], age=ages, w=weights + 1)
    fit = fit_logit(connection, "cases", "y", ["age"], weights="w", engine=engine)
    assert (fit.n, fit.n_dropped) == (weights.sum() + 200 - 1, 1)


@ENGINES
def test_too_few_clusters_have_no_robust_numbers(connection, cases, engine):
    put(connection, **cases, one=np.ones(200), two=np.arange(200) % 2)
    with pytest.raises(StatisticsError, match="all 200 rows are of one one"):
        fit_logit(connection, "cases", "y", ["age"], cluster="one", engine=engine)
    # Two clusters' scores are one vector and its negative; the inverse of that was rounding.
    with pytest.warns(StatisticsWarning, match="2 clusters do not give 2 added terms"):
        nested = nested_logit(
            connection, "cases", "y", ["sex"], ["age", "bmi"], cluster="two", engine=engine
        )
    assert nested.wald is None


@ENGINES
def test_a_cluster_that_is_nan_is_a_missing_one(connection, cases, engine):
    # Whole numbers with gaps are floats in pandas; all gaps together are not one patient.
    patient = (np.arange(200) // 2).astype(float)
    patient[::5] = np.nan
    put(connection, **cases, patient=patient)
    found = fit_logit(connection, "cases", "y", ["age"], cluster="patient", engine=engine)
    known = np.isfinite(patient)
    rest = {name: np.array(values)[known] for name, values in cases.items()}
    put(connection, **rest, patient=patient[known].astype(int))
    expected = fit_logit(connection, "cases", "y", ["age"], cluster="patient", engine=engine)
    assert (found.n, found.n_dropped) == (160, 40)
    assert found.n_clusters == len(np.unique(patient[known])) == expected.n_clusters
    assert [term.cluster_se for term in found.terms] == pytest.approx(
        [term.cluster_se for term in expected.terms], rel=1e-9
    )


@pytest.mark.parametrize("terms", [(["grade"], ["C(grade)"]), (["C(grade)"], ["grade:age", "age"])])
def test_a_number_is_not_a_factor_as_well(connection, cases, terms):
    put(connection, **cases, grade=np.arange(200) % 4)
    with pytest.raises(StatisticsError, match="grade is in the model as a number and as"):
        nested_logit(connection, "cases", "y", *terms)


def test_a_reference_counts_wherever_it_is_written(connection, cases):
    put(connection, **cases)
    fit = fit_logit(connection, "cases", "y", ["sex", "C(sex, 'M')"])
    assert [term.term for term in fit.terms] == ["Intercept", "sex[F vs M]"]
