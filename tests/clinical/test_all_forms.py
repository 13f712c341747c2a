"""One simulated cohort in every form: the same values, judged by what the phantom drew."""

from pathlib import Path

import polars as pl
import pytest

from lake.store import Lake
from phantom.clinical_writer import Dialect, write_clinical_release
from phantom.cohort import Cohort, simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.clinical import KEYS, ingest_clinical
from pipeline.config import Settings


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return simulate_cohort(24, seed=11)


def landed(lake: Lake, folder: Path) -> dict[str, pl.DataFrame]:
    report = ingest_clinical(lake, Settings(lake_root=lake.root), [folder])
    assert report.quarantined == []
    with lake.connect(query=" ".join(f"FROM {table}" for table in KEYS)) as now:
        return {
            table: pl.DataFrame(
                now.sql(f"SELECT * EXCLUDE (batch_id, retracted) FROM {table}").to_arrow_table()
            )
            for table in KEYS
        }


def values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(name for name in rows.columns if not name.endswith("_missing"))


@pytest.mark.parametrize("dialect", ["ascii", "sas", "nda", "contents"])
def test_every_form_tells_the_same(dialect: Dialect, cohort: Cohort, tmp_path: Path) -> None:
    write_clinical_release(tmp_path / "in", cohort, dialect)
    found = landed(Lake(tmp_path / "lake"), tmp_path / "in")
    for table, truth in cohort_tables(cohort).items():
        keys, rows, expected = list(KEYS[table]), found[table], truth
        if table == "scans_listed" and dialect in ("nda", "contents"):
            # Lists of images know no series that was not made, and no quality.
            expected = expected.filter("acquired").drop("quality", "quality_missing")
        rows = rows.select(expected.columns)
        if dialect != "sas":
            rows, expected = values(rows), values(expected)
        assert rows.sort(keys).equals(expected.sort(keys), null_equal=True), table


def test_the_richer_form_counts_whatever_comes_first(cohort: Cohort, tmp_path: Path) -> None:
    forms: tuple[Dialect, ...] = ("ascii", "nda", "sas")
    for form in forms:
        write_clinical_release(tmp_path / form, cohort, form)
    found = []
    for number, order in enumerate((forms, forms[::-1])):
        lake = Lake(tmp_path / f"lake{number}")
        for form in order:
            rows = landed(lake, tmp_path / form)
        found.append({table: rows[table].sort(keys) for table, keys in KEYS.items()})
    for table in KEYS:
        assert found[0][table].equals(found[1][table], null_equal=True), table
    kept = cohort_tables(cohort)["clinical_visits"].sort(KEYS["clinical_visits"])
    assert found[0]["clinical_visits"].select(kept.columns).equals(kept, null_equal=True)
