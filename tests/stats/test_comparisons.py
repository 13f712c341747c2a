"""Multiple comparisons, standardisation, ANOVA, agreement and contingency tables against peers."""

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

import sql


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as made:
        made.execute(sql.macro_text())
        yield made


def ask(connection: duckdb.DuckDBPyConnection, rows: pl.DataFrame, query: str) -> pl.DataFrame:
    connection.register("given", rows.to_arrow())
    return connection.sql(query).pl()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 0.01, 0.04, 1.0])), min_size=1
        ),
        min_size=1,
        max_size=3,
    )
)
def test_adjusted_p_values_equal_statsmodels(connection, families: list) -> None:
    rows = pl.DataFrame(
        {
            "family": [f"f{k}" for k, family in enumerate(families) for _ in family],
            "place": [i for family in families for i in range(len(family))],
            "p": [p for family in families for p in family],
        }
    )
    found = ask(connection, rows, "FROM adjusted_p_values('given') ORDER BY family, place")
    expected = {
        column: np.concatenate([multipletests(family, method=method)[1] for family in families])
        for column, method in (
            ("p_bonferroni", "bonferroni"),
            ("q_bh", "fdr_bh"),
            ("q_by", "fdr_by"),
        )
    }
    for column, values in expected.items():
        np.testing.assert_allclose(found[column].to_numpy(), values, rtol=1e-12, atol=1e-310)


def test_missing_p_values_are_no_tests_and_wrong_ones_refused(connection) -> None:
    rows = pl.DataFrame({"family": 1, "p": [0.01, None, float("nan"), 0.04]})
    found = ask(connection, rows, "FROM adjusted_p_values('given') ORDER BY p")
    assert found["n_tests"].to_list() == [2, 2, 2, 2]
    assert found["q_bh"].to_list()[:2] == [0.02, 0.04]
    assert found["q_bh"].null_count() == 2
    with pytest.raises(duckdb.Error, match=r"a p-value is 1\.5"):
        ask(
            connection, pl.DataFrame({"family": [1], "p": [1.5]}), "FROM adjusted_p_values('given')"
        )


def test_standardised(connection) -> None:
    random = np.random.default_rng(0)
    rows = pl.DataFrame(
        {"family": np.repeat(["a", "b"], 50), "x": random.normal(1e5, 3, 100), "same": 7.0}
    )
    found = ask(
        connection,
        rows,
        "SELECT standardised(x) AS z, standardised_within(x, family) AS zw,"
        " standardised(same) AS none FROM given",
    )
    np.testing.assert_allclose(found["z"], stats.zscore(rows["x"], ddof=1), rtol=1e-8)
    within = rows.select(
        ((pl.col("x") - pl.col("x").mean()) / pl.col("x").std()).over("family")
    ).to_series()
    np.testing.assert_allclose(found["zw"], within, rtol=1e-8)
    assert found["none"].null_count() == 100


@pytest.mark.parametrize(("levels", "shift", "offset"), [(2, 0.0, 0), (3, 0.5, 0), (5, 3.0, 1e6)])
def test_anova_equals_scipy(connection, levels: int, shift: float, offset: float) -> None:
    random = np.random.default_rng(levels)
    level = random.integers(0, levels, 200)
    value = random.normal(size=200) + shift * level + offset
    rows = pl.DataFrame({"family": "x", "level": level, "value": value})
    extra = pl.DataFrame({"family": "x", "level": [0, None], "value": [float("nan"), 1.0]})
    found = ask(connection, pl.concat([rows, extra]), "FROM one_way_anova('given')").row(
        0, named=True
    )
    expected = stats.f_oneway(*(value[level == k] for k in range(levels)))
    assert found["f"] == pytest.approx(expected.statistic, rel=1e-9)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-8)
    assert (found["df1"], found["df2"], found["n_dropped"]) == (levels - 1, 200 - levels, 2)


def test_anova_of_one_level_is_null(connection) -> None:
    rows = pl.DataFrame({"family": [1, 1], "level": ["a", "a"], "value": [1.0, 2.0]})
    found = ask(connection, rows, "FROM one_way_anova('given')").row(0, named=True)
    assert found["f"] is None
    assert found["p"] is None


def test_agreement_equals_bland_and_altman(connection) -> None:
    # Bland and Altman 1986: 17 people, difference of large and mini peak flow meter (l/min).
    large = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    rows = pl.DataFrame({"family": 1, "difference": np.subtract(large, mini)})
    found = ask(connection, rows, "FROM bland_altman('given')").row(0, named=True)
    assert found["n"] == 17
    assert found["bias"] == pytest.approx(-2.1, abs=0.05)
    assert found["sd"] == pytest.approx(38.8, abs=0.05)
    # The paper's -79.7 and 75.5 are bias -+ 2 SD.
    assert found["bias"] - 2 * found["sd"] == pytest.approx(-79.7, abs=0.1)
    # Its interval of the bias: -22.0 to 17.8.
    assert found["bias_low"] == pytest.approx(-22.0, abs=0.1)
    assert found["bias_high"] == pytest.approx(17.8, abs=0.1)
    half = stats.t.ppf(0.975, 16) * found["sd"] * np.sqrt(1 / 17 + 1.96**2 / (2 * 16))
    assert found["upper_limit_high"] - found["upper_limit"] == pytest.approx(half, rel=1e-10)
    assert found["lower_limit"] - found["lower_limit_low"] == pytest.approx(half, rel=1e-10)


def test_chi_square_counts_the_cells_nobody_is_in(connection) -> None:
    random = np.random.default_rng(3)
    first = random.integers(0, 4, 300)
    second = np.where(first == 2, 1, random.integers(0, 3, 300))
    rows = pl.DataFrame({"family": "x", "first_level": first, "second_level": second})
    holes = pl.DataFrame({"family": "x", "first_level": [None, 1], "second_level": [1, None]})
    found = ask(
        connection,
        pl.concat([rows, holes.cast(rows.schema)]),
        "FROM chi_square_of_table('given')",
    ).row(0, named=True)
    counts = np.zeros((4, 3))
    np.add.at(counts, (first, second), 1)
    assert (counts == 0).any()
    expected = stats.chi2_contingency(counts, correction=False)
    assert found["chi_square"] == pytest.approx(expected.statistic, rel=1e-12)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-11)
    assert (found["df"], found["n"], found["n_dropped"]) == (expected.dof, 300, 2)
    assert found["smallest_expected"] == pytest.approx(expected.expected_freq.min())
    assert found["cramers_v"] == pytest.approx(
        stats.contingency.association(counts.astype(int), method="cramer")
    )


def test_chi_square_of_one_level_is_null(connection) -> None:
    rows = pl.DataFrame({"family": [1, 1], "first_level": ["a", "a"], "second_level": ["x", "y"]})
    found = ask(connection, rows, "FROM chi_square_of_table('given')").row(0, named=True)
    assert found["df"] is None
    assert found["p"] is None
