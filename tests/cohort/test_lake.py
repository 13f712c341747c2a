"""The cohort in a lake: views, settings, command line, catalogue and figures."""

from pathlib import Path

import duckdb
import polars as pl
import pytest

import sql
from dagster_project.cli import main
from lake.errors import LakeError
from lake.store import Lake
from lake.tables import TABLES
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.cohort_figures import write_cohort_figures


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("cohort") / "lake")
    tables = cohort_tables(simulate_cohort(200, seed=3))
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in tables.items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    return lake


def test_the_flow_ends_at_the_cohort(lake: Lake) -> None:
    flow = lake.sql("FROM cohort_flow")
    assert flow["n_remaining"][0] > flow["n_remaining"][-1] > 0
    assert lake.sql("SELECT count(*) FROM cohort").item() == flow["n_remaining"][-1]
    for file in sql.load_all().values():
        if file.group == "cohort_checks" and file.name != "split_independence":
            assert lake.sql(file.text).is_empty(), file.name


def test_settings_change_what_they_say_and_nothing_else(lake: Lake) -> None:
    query = "SELECT n_remaining FROM cohort_flow"
    default, other = lake.sql(query), lake.sql(query, settings={"widespread_level": "visit"})
    assert default["n_remaining"][-1] < other["n_remaining"][-1]
    assert default["n_remaining"][:-1].equals(other["n_remaining"][:-1])
    assert lake.sql(query).equals(default)
    variants = lake.sql("FROM widespread_pain_variants WHERE is_in_use")
    assert variants["n_included"].to_list() == [default["n_remaining"][-1]]
    with pytest.raises(LakeError, match=r"no view reads pain_level; there are .*widespread_level"):
        lake.sql(query, settings={"pain_level": "visit"})


def test_command_line(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(lake.root), "--format", "csv"]
    query = "SELECT step, n_remaining FROM cohort_flow WHERE step = 'pain_definition'"
    assert main(["sql", query, *where]) == 0
    default = capsys.readouterr().out
    assert default.splitlines()[1].startswith("pain_definition,")
    others = ["--set", "widespread_level=visit", "--set", "chronic_pain_min_months=6"]
    assert main(["sql", query, *where, *others]) == 0
    assert capsys.readouterr().out != default
    for wrong, said in (
        ("widespread_level=person", "use one of patient, visit"),
        ("level=visit", "no view reads level"),
        ("visit", "write NAME=VALUE"),
    ):
        assert main(["sql", query, *where, "--set", wrong]) != 0
        assert said in capsys.readouterr().err


def test_any_client_reads_and_changes_the_cohort(lake: Lake, tmp_path: Path) -> None:
    lake.write_catalog(tmp_path / "knees.duckdb")
    query = "SELECT n_remaining FROM cohort_flow ORDER BY step_number"
    with duckdb.connect(str(tmp_path / "knees.duckdb"), read_only=True) as client:
        default = client.execute(query).fetchall()
        client.execute("SET VARIABLE widespread_level = 'visit'")
        other = client.execute(query).fetchall()
    assert [row[0] for row in default] == lake.sql(query)["n_remaining"].to_list()
    assert other[-1] > default[-1]


def test_figures_are_written_the_same_every_time(lake: Lake, tmp_path: Path) -> None:
    written = write_cohort_figures(lake, tmp_path / "one")
    again = write_cohort_figures(lake, tmp_path / "two")
    names = ["cohort_flow.png", "cohort_flow.svg", "table_4.html", "table_4.md", "table_4.csv"]
    assert [path.name for path in written] == names
    for one, two in zip(written, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    remaining = lake.sql("SELECT min(n_remaining) FROM cohort_flow").item()
    assert f"n = {remaining:,} knee-visits" in (tmp_path / "one/cohort_flow.svg").read_text()


def test_only_the_views_a_query_needs_are_made(lake: Lake) -> None:
    assert sql.needed_by("SELECT * FROM scans", ("cohort",)) == set()
    assert sql.needed_by("FROM pain_labels", ("cohort",)) == {
        "pain_labels",
        "knee_pain",
        "cohort_parameters",
    }
    with lake.connect() as connection:
        made = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    assert {file.name for file in sql.views(("cohort",))} <= made
    assert {name for name, table in TABLES.items() if table.step == "clinical"} <= made
