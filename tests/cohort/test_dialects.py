"""The same people, labels, flow and splits whichever of the four forms was ingested."""

from pathlib import Path

import polars as pl
import pytest

from dagster_project.cli import main
from lake.store import Lake
from phantom.clinical_writer import write_clinical_release
from phantom.cohort import simulate_cohort
from pipeline.clinical import ingest_clinical
from pipeline.config import Settings

VIEWS = ("pain_labels", "widespread_pain", "oa_labels", "cohort", "cohort_flow", "splits")


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lake]:
    cohort = simulate_cohort(150, seed=11)
    made = {}
    for dialect in ("ascii", "sas", "nda", "contents"):
        folder = tmp_path_factory.mktemp(dialect)
        write_clinical_release(folder / "release", cohort, dialect)
        lake = Lake(folder / "lake")
        report = ingest_clinical(lake, Settings(lake_root=lake.root), [folder / "release"])
        assert report.refused == 0
        made[dialect] = lake
    return made


@pytest.mark.parametrize("view", VIEWS)
def test_every_form_gives_the_same_study(lakes: dict[str, Lake], view: str) -> None:
    rows = {dialect: lake.sql(f"FROM {view}") for dialect, lake in lakes.items()}
    columns = [name for name in rows["ascii"].columns if not name.endswith("_missing")]
    expected = rows["ascii"].select(columns)
    assert len(expected) > 0
    for dialect, found in rows.items():
        same = found.select(columns)
        assert same.sort(columns).equals(expected.sort(columns)), (dialect, view)


def test_the_study_on_the_command_line(
    lakes: dict[str, Lake], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--root", str(lakes["ascii"].root), "--out", str(tmp_path)]
    assert main(["cohort", *where]) == 0
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "cohort_flow.png").read_bytes().startswith(b"\x89PNG")
    table = pl.read_csv(tmp_path / "table_4.csv")
    assert len(table) > 0
