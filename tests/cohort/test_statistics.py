"""Tail probabilities, chi-square and MANOVA in SQL against scipy and statsmodels."""

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.multivariate.manova import MANOVA

import sql

TOLERANCE = 1e-9


def with_macros(query: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for statement in sql.macro_statements([query]):
        connection.execute(statement)
    return connection


def evaluate(query: str, **columns: np.ndarray) -> np.ndarray:
    with with_macros(query) as connection:
        connection.register("given", pl.DataFrame(columns).to_arrow())
        return connection.sql(f"SELECT {query} AS p FROM given").pl()["p"].to_numpy()


def test_chi_square_tail_equals_scipy() -> None:
    df, x = (
        grid.ravel()
        for grid in np.meshgrid(
            [1, 2, 3, 4, 7, 12, 50, 300], [1e-6, 0.01, 0.5, 1, 2, 5, 9, 60, 290, 310, 900]
        )
    )
    ours = evaluate("chi_square_upper_tail(x, df)", df=df, x=x)
    np.testing.assert_allclose(ours, stats.chi2.sf(x, df), rtol=TOLERANCE)


def test_chi_square_tail_of_the_published_anchor() -> None:
    # mpmath, 60 digits: the paper's likelihood-ratio test of the femur.
    ours = evaluate("chi_square_upper_tail(x, 1)", x=np.array([142.64889826615763]))
    assert ours[0] == pytest.approx(7.0145249802217564e-33, rel=1e-12)


def test_f_tail_equals_scipy() -> None:
    df1, df2, f = (
        grid.ravel()
        for grid in np.meshgrid(
            [1, 2, 3, 4, 11], [1, 2, 5, 29, 31, 999, 14866, 42228], [1e-4, 0.3, 1, 2.4, 9, 60]
        )
    )
    ours = evaluate("f_upper_tail(f, df1, df2)", f=f, df1=df1, df2=df2)
    theirs = stats.f.sf(f, df1, df2)
    np.testing.assert_allclose(ours[theirs > 1e-290], theirs[theirs > 1e-290], rtol=TOLERANCE)


@pytest.mark.parametrize("query", ["chi_square_upper_tail(x, 2)", "f_upper_tail(x, 2, 9)"])
def test_tails_at_the_edges(query: str) -> None:
    ours = evaluate(query, x=np.array([0.0, -1.0]))
    assert ours[0] == 1.0
    assert np.isnan(ours[1])


def split_tests(rows: pl.DataFrame) -> dict:
    """`split_tests` on knee-visits given as they are."""
    query = sql.load("cohort/split_tests").text
    with with_macros(query) as connection:
        connection.register("model_cases", rows.to_arrow())
        found = connection.sql(query).pl()
    return {row["unit"]: row for row in found.to_dicts()}


def cases(random: np.random.Generator, n: int, n_split: int, shift: float) -> pl.DataFrame:
    split = random.choice(["training", "validation", "test"][:n_split], n)
    effect = np.where(split == "training", shift, 0.0)
    bmi = random.normal(28.6, 4.8, n) + effect
    return pl.DataFrame(
        {
            "model": "chronic_pain",
            "subject_id": np.arange(n),
            "side": "RIGHT",
            "timepoint": "V00",
            "split": split,
            "sex": random.choice(["M", "F"], n, p=[0.42, 0.58]),
            "age_years": np.clip(61 + 9 * random.normal(size=n) + 0.3 * bmi, 45, 90).astype(int),
            "bmi": np.round(bmi, 1),
        }
    )


@pytest.mark.parametrize(
    ("n", "n_split", "shift"),
    [(12, 3, 0.0), (60, 2, 0.0), (500, 3, 0.5), (7437, 3, 0.0), (7437, 3, 0.3), (7437, 3, 3.0)],
)
def test_manova_and_chi_square_equal_statsmodels_and_scipy(n, n_split, shift) -> None:
    rows = cases(np.random.default_rng(n + n_split), n, n_split, shift)
    found = split_tests(rows)["knee_visit"]
    table = MANOVA.from_formula("age_years + bmi ~ C(split)", rows.to_pandas()).mv_test()
    expected = table.results["C(split)"]["stat"]
    for name, prefix in (("Wilks' lambda", "wilks"), ("Pillai's trace", "pillai")):
        row = expected.loc[name]
        value = found["wilks_lambda" if prefix == "wilks" else "pillai_trace"]
        assert value == pytest.approx(row["Value"], rel=TOLERANCE)
        assert found[f"{prefix}_f"] == pytest.approx(row["F Value"], rel=TOLERANCE)
        assert found[f"{prefix}_df1"] == pytest.approx(row["Num DF"])
        assert found[f"{prefix}_df2"] == pytest.approx(row["Den DF"])
        # Where p < 1e-30 statsmodels' own 1 - lambda has lost digits.
        assert found[f"{prefix}_p"] == pytest.approx(row["Pr > F"], rel=TOLERANCE, abs=1e-30)
    counts = rows.to_pandas().groupby(["split", "sex"]).size().unstack(fill_value=0)
    chi_square = stats.chi2_contingency(counts, correction=False)
    assert found["sex_chi_square"] == pytest.approx(chi_square.statistic, rel=TOLERANCE)
    assert found["sex_df"] == chi_square.dof
    assert found["sex_p"] == pytest.approx(chi_square.pvalue, rel=TOLERANCE)


def test_chi_square_counts_a_cell_nobody_is_in() -> None:
    # 10 men all in training, 10 women all in test: chi-square is n.
    rows = cases(np.random.default_rng(1), 20, 2, 0.0).with_columns(
        pl.Series("split", ["training"] * 10 + ["test"] * 10),
        pl.Series("sex", ["M"] * 10 + ["F"] * 10),
    )
    found = split_tests(rows)["knee_visit"]
    assert found["sex_chi_square"] == pytest.approx(20.0)
    assert found["sex_df"] == 1


def test_missing_values_are_left_out_and_not_counted() -> None:
    rows = cases(np.random.default_rng(2), 100, 3, 0.0)
    holes = rows.with_columns(
        pl.when(pl.col("subject_id") < 7).then(None).otherwise(pl.col("bmi")).alias("bmi"),
        pl.when(pl.col("subject_id") < 3).then(None).otherwise(pl.col("sex")).alias("sex"),
    )
    found = split_tests(holes)["knee_visit"]
    assert found["age_bmi_n"] == 93
    assert found["sex_n"] == 97
    alone = split_tests(rows.filter(pl.col("subject_id") >= 7))["knee_visit"]
    assert found["wilks_p"] == pytest.approx(alone["wilks_p"], rel=1e-12)


def test_too_few_rows_give_no_manova() -> None:
    rows = cases(np.random.default_rng(3), 4, 2, 0.0).with_columns(
        pl.Series("split", ["training", "training", "test", "test"])
    )
    assert split_tests(rows)["knee_visit"]["wilks_p"] is None


def test_patients_first_timepoints_are_tested_beside_knee_visits() -> None:
    first = cases(np.random.default_rng(4), 200, 3, 0.0)
    later = first.with_columns(pl.lit("V03").alias("timepoint"))
    found = split_tests(pl.concat([later, first, later.with_columns(timepoint=pl.lit("V05"))]))
    alone = split_tests(first)["knee_visit"]
    assert found["knee_visit"]["sex_n"] == 600
    assert found["first_timepoint"]["sex_n"] == 200
    assert found["first_timepoint"]["wilks_p"] == pytest.approx(alone["wilks_p"], rel=1e-12)
    assert found["knee_visit"]["wilks_p"] < alone["wilks_p"]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(45, 79), st.floats(16, 50), st.sampled_from("abc")),
        min_size=12,
        max_size=40,
    )
)
def test_determinants_never_make_wilks_leave_its_range(people: list) -> None:
    ages, bmis, groups = (list(values) for values in zip(*people, strict=True))
    rows = pl.DataFrame(
        {
            "model": "oa",
            "subject_id": range(len(people)),
            "side": "RIGHT",
            "timepoint": "V00",
            "split": groups,
            "sex": "F",
            "age_years": ages,
            "bmi": bmis,
        }
    )
    for row in split_tests(rows).values():
        wilks = row["wilks_lambda"]
        if wilks is not None and np.isfinite(wilks):
            assert -1e-9 <= wilks <= 1 + 1e-9
