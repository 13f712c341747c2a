"""The flowchart and Table 4 say what the tables say."""

import csv
import io
import re
from html.parser import HTMLParser

import polars as pl
import pytest
from cohort_samples import connect, frame, random_study

from pipeline.cohort_figures import (
    HEADINGS,
    flowchart,
    table_4,
)
from pipeline.manuscript import table_csv, table_html, table_markdown


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    connection = connect(random_study(120, 3))
    names = ("cohort_flow", "pain_exclusions", "split_balance")
    return {name: frame(connection, f"FROM {name}") for name in names}


def test_flowchart_counts_come_from_the_table(tables) -> None:
    drawn = (tables["cohort_flow"], tables["pain_exclusions"])
    svg = flowchart(*drawn, "svg")
    assert svg == flowchart(*drawn, "svg")
    said = re.findall(r">([^<>]+)</text>", svg.decode())
    for row in tables["cohort_flow"].to_dicts():
        assert f"n = {row['n_remaining']:,} knee-visits" in said
        assert f"n = {row['n_patients_remaining']:,} patients" in said
        if row["step_number"]:
            assert f"n = {row['n_excluded']:,} knee-visits" in said
    png = flowchart(*drawn, "png")
    assert png.startswith(b"\x89PNG")
    assert png == flowchart(*drawn, "png")


def test_flowchart_of_an_empty_lake() -> None:
    connection = connect({})
    flow, reasons = (
        frame(connection, f"FROM {name}") for name in ("cohort_flow", "pain_exclusions")
    )
    assert b"n = 0 knee-visits" in flowchart(flow, reasons, "svg")
    assert table_4(frame(connection, "FROM split_balance")).is_empty()


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._inside = False

    def handle_starttag(self, tag, attrs) -> None:
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data) -> None:
        if self._inside:
            self.cells[-1] += data


def test_table_4_says_the_same_in_every_form(tables) -> None:
    table = table_4(tables["split_balance"])
    assert tuple(table.columns) == HEADINGS
    plain = [*table.columns, *(cell for row in table.rows() for cell in row)]
    parser = Cells()
    parser.feed(table_html(table, "Table 4"))
    assert parser.cells == plain
    assert [cell for row in csv.reader(io.StringIO(table_csv(table))) for cell in row] == plain
    lines = [line for line in table_markdown(table).splitlines() if not line.startswith("| ---")]
    assert [
        cell.strip().strip("*") for line in lines for cell in line.strip("|").split(" | ")
    ] == plain


def test_table_4_holds_the_numbers_of_the_splits(tables) -> None:
    table = table_4(tables["split_balance"])
    for row in tables["split_balance"].filter(pl.col("split") == "training").to_dicts():
        expected = f"{row['n_knee_visits']:,} ({row['n_cases']:,})"
        assert expected in table["Training (cases)"].to_list()


def test_significant_p_values_are_bold() -> None:
    values = dict.fromkeys(HEADINGS, "1")
    values |= {"χ² test (sex), p": "0.049", "MANOVA (age, BMI), Wilks, p": "0.05"}
    table = pl.DataFrame([values])
    assert table_markdown(table).count("**") == 2
    assert "<strong>0.049</strong>" in table_html(table, "Table 4")
    assert "**" not in table_markdown(pl.DataFrame([values | {"χ² test (sex), p": "-"}]))
