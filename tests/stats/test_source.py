"""Files as spreadsheets and statistics programs write them: the same rows, or a refusal."""

from pathlib import Path

import numpy as np
import pytest

from stats.errors import StatisticsError, StatisticsWarning
from stats.logit import fit_logit, fit_logit_groups
from stats.source import open_source

RANDOM = np.random.default_rng(5)
AGE = RANDOM.integers(45, 80, 200)
BMI = RANDOM.normal(28, 4, 200).round(1)
PAIN = (RANDOM.random(200) < 1 / (1 + np.exp((28 - BMI) / 5))).astype(int)
LINES = ["age,bmi,pain", *(f"{a},{b},{y}" for a, b, y in zip(AGE, BMI, PAIN, strict=True))]
AS_WRITTEN = {
    "excel": "\ufeff" + "\r\n".join(LINES) + "\r\n\r\n",
    "old mac": "\r".join(LINES),
    "semicolons": "\n".join(LINES).replace(",", ";"),
    "tabs": "\n".join(LINES).replace(",", "\t"),
    "spaces": "\n".join(LINES).replace(",", ", "),
    "quoted": "\n".join('"' + line.replace(",", '","') + '"' for line in LINES),
    "comment": "# made on Monday\n" + "\n".join(LINES),
    "yes": "\n".join([LINES[0], *(x[:-1] + ("No", "Yes")[int(x[-1])] for x in LINES[1:])]),
}


def _estimates(path: Path, engine: str) -> tuple[int, int, np.ndarray]:
    with open_source(path) as source:
        fit = fit_logit(
            source.connection, source.relation, "pain", ["age", "bmi"], engine=engine, file=path
        )
    return fit.n, fit.n_dropped, np.array([term.estimate for term in fit.terms])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The estimates from a plain file."""
    plain = tmp_path_factory.mktemp("plain") / "plain.csv"
    plain.write_text("\n".join(LINES) + "\n")
    return _estimates(plain, "sql")[2]


@pytest.mark.parametrize("engine", ["sql", "polars"])
@pytest.mark.parametrize("form", AS_WRITTEN)
def test_one_table_in_many_forms(
    tmp_path: Path, form: str, engine: str, expected: np.ndarray
) -> None:
    other = tmp_path / "other.csv"
    other.write_bytes(AS_WRITTEN[form].encode())
    n, n_dropped, found = _estimates(other, engine)
    assert (n, n_dropped) == (200, 0)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("engine", ["sql", "polars"])
@pytest.mark.parametrize("missing", ["#N/A", "n/a", "NaN", "", "<NA>"])
def test_a_missing_value_is_counted(tmp_path: Path, missing: str, engine: str) -> None:
    # DuckDB's reader takes '#' for a comment by itself, and drops the row without a word.
    path = tmp_path / "cases.csv"
    path.write_text("\n".join([LINES[0], f"{missing},30.1,1", *LINES[2:]]))
    assert _estimates(path, engine)[:2] == (199, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n".join([*LINES[:50], "60,24", *LINES[50:]]), "row 51 has 2 cells and the header 3"),
        ("\n".join([*LINES, "Total: 200"]), "row 202 has 1 cells"),
        ("", "is empty"),
        (LINES[0] + "\n", "cases.csv has no rows"),
        ("\n".join(LINES).replace("bmi", "BMI"), "cases.csv has no column bmi"),
    ],
)
def test_no_table(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(StatisticsError, match=told):
        _estimates(path, "sql")


def test_numbers_that_became_a_factor_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    grades = RANDOM.integers(0, 4, 200).astype(str)
    grades[::9] = "?"
    lines = ["grade,pain", *(f"{g},{y}" for g, y in zip(grades, PAIN, strict=True))]
    path.write_text("\n".join(lines))
    with open_source(path) as source:
        with pytest.warns(StatisticsWarning, match="grade holds numbers, but for '[?]'"):
            fit_logit(source.connection, source.relation, "pain", ["grade"])
        fit_logit(source.connection, source.relation, "pain", ["C(grade)"])


@pytest.mark.parametrize("name", ["model", "key1"])
def test_columns_named_as_the_statement_names_its_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / "cases.csv"
    rows = [f"{line},{'ab'[k % 2]}" for k, line in enumerate(LINES[1:])]
    path.write_text("\n".join([f"{LINES[0]},{name}", *rows]))
    with open_source(path) as source:
        fits = fit_logit_groups(source.connection, source.relation, "pain", ["bmi"], by=[name])
    assert [(fit.group, fit.n) for fit in fits] == [({name: "a"}, 100), ({name: "b"}, 100)]
