"""SAS files against two readers that know nothing of each other: pyreadstat and pandas."""

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from phantom.sas7bdat import SasNumbers, missing_bits, write_sas7bdat

ROWS = 2500


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(3)
    letters = np.array([".", *"ADMPRTZ"])
    wide = {
        f"V00VARIABLE{number}": SasNumbers(
            rng.normal(size=ROWS), np.where(rng.random(ROWS) < 0.3, rng.choice(letters, ROWS), "")
        )
        for number in range(90)
    }
    barcodes = np.array([f"0166{row:08d}" if row % 3 else "" for row in range(ROWS)])
    return {"ID": np.arange(1_000_001, 1_000_001 + ROWS).astype(str)} | wide | {
        "V00BARCDBU": barcodes,
        "NOTE": np.array(["Don’t Know", "é"] * (ROWS // 2)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("sas") / "allclinical00.sas7bdat"
    write_sas7bdat(path, columns)
    return path


def test_pyreadstat_reads_values_letters_and_text(path, columns):
    found, metadata = pyreadstat.read_sas7bdat(str(path), user_missing=True)
    assert metadata.number_rows == ROWS
    assert metadata.file_encoding == "WINDOWS-1252"
    assert metadata.column_names == list(columns)
    for name, column in columns.items():
        if isinstance(column, SasNumbers):
            for value, number, letter in zip(found[name], column.value, column.letter, strict=True):
                if letter == ".":
                    assert np.isnan(value)
                else:
                    assert value == (letter or number)
        else:
            assert found[name].tolist() == column.tolist()


def test_pandas_reads_the_same(path, columns):
    found = pd.read_sas(path, encoding="cp1252")
    assert list(found.columns) == list(columns)
    for name, column in columns.items():
        if isinstance(column, SasNumbers):
            expected = np.where(column.letter == "", column.value, np.nan)
            np.testing.assert_array_equal(found[name], expected)
        else:
            assert found[name].fillna("").tolist() == column.tolist()


def test_the_same_rows_give_the_same_bytes(path, columns, tmp_path):
    again = tmp_path / path.name
    write_sas7bdat(again, columns)
    assert again.read_bytes() == path.read_bytes()


def test_one_row_and_one_column(tmp_path):
    path = tmp_path / "small.sas7bdat"
    write_sas7bdat(path, {"X": SasNumbers(np.array([1.5]), np.array([""]))})
    found, _ = pyreadstat.read_sas7bdat(str(path))
    assert found["X"].tolist() == [1.5]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing code"):
        missing_bits("a")
    uneven = {"X": np.array(["1"]), "Y": np.array(["1", "2"])}
    with pytest.raises(ValueError, match="differ in length"):
        write_sas7bdat(tmp_path / "uneven.sas7bdat", uneven)
    with pytest.raises(ValueError, match="does not fit"):
        write_sas7bdat(tmp_path / "wide.sas7bdat", {"X": np.array(["x" * 70_000])})
