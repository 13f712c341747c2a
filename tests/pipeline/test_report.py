"""The report: its numbers are the lake's, its links resolve, and it needs nothing from outside."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from report_reader import PageReader
from reported_lake import ODD_NOTE, SPM

from assets.imaging import TABLE_ASSETS
from assets.report import READS
from assets.resources import LakeSnapshot
from dagster_project.cli import main
from dagster_project.definitions import build_defs
from lake.store import Lake
from pipeline import report_association, report_cohort, report_learning
from pipeline.config import Settings
from pipeline.report import SECTIONS, report_html
from pipeline.report_blocks import FigureBlock, TableBlock, TextBlock, small_p
from pipeline.report_reading import Reading
from pipeline.report_summary import summary

AWAITED = {"leakage_controls"}
"""Assets that sections name before they are there."""


@pytest.fixture(scope="module")
def lake(reported: Lake) -> Lake:
    return reported


@pytest.fixture(scope="module")
def snapshot(lake: Lake) -> LakeSnapshot:
    return LakeSnapshot(lake.root)


@pytest.fixture(scope="module")
def html(lake: Lake, snapshot: LakeSnapshot, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "page.html"
    assert main(["report", "--root", str(lake.root), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> PageReader:
    return PageReader(html)


def _reading(lake: Lake) -> Reading:
    return Reading(lake, Settings(lake.root), TABLE_ASSETS)


def test_nothing_is_fetched_from_outside(html: str, page: PageReader) -> None:
    assert page.resources
    assert all(one.startswith("data:image/png;base64,") for one in page.resources)
    assert all(link.startswith("#") for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_link_resolves(page: PageReader) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    # What a table cites is in the appendix with its SQL, and so is what that reads in turn.
    for name in ("cohort", "split_balance", "pain_labels", "model_cases", "enrollees"):
        assert f"relation-{name}" in page.ids
    assert "FROM model_cases AS cases" in page.text


def test_every_block_says_where_it_comes_from(html: str) -> None:
    blocks = re.findall(r'<(div|figure) class="block".*?</\1>(?=\n\n|\n<)', html, re.DOTALL)
    starts = [match.start() for match in re.finditer(r'class="block"', html)]
    assert len(starts) > 20
    assert blocks
    for begin, end in zip(starts, [*starts[1:], len(html)], strict=True):
        assert "Source: asset <b>" in html[begin:end]


def test_the_page_can_be_read_without_seeing_it(page: PageReader) -> None:
    assert all(len(alt) > 20 for alt in page.alts)
    assert page.headings[0] == 1
    assert all(
        later - one <= 1 for one, later in zip(page.headings, page.headings[1:], strict=False)
    )
    assert all(caption for caption in page.tables)


def test_the_flowchart_is_that_of_the_lake(lake: Lake, page: PageReader) -> None:
    shown = page.records("The flowchart's numbers, and the paper's")
    stored = lake.sql("FROM cohort_flow ORDER BY step_number").to_dicts()
    assert [
        (row["Step"], int(row["Excluded"].replace(",", "")), int(row["Remaining"].replace(",", "")))
        for row in shown
    ] == [(row["description"], row["n_excluded"], row["n_remaining"]) for row in stored]


def test_table_1_is_that_of_the_lake(lake: Lake, page: PageReader) -> None:
    shown = page.records("Table 1. Chronic pain, first timepoint of each patient")
    stored = {
        (row["bone"], row["metric"]): row["estimate"]
        for row in lake.sql(
            "FROM model_performance WHERE visits = 'first' AND strategy = 'thickness'"
        ).to_dicts()
    }
    [row] = [one for one in shown if one["Biomarker model"] == "Cartilage thickness"]
    for bone, heading in (("femur", "Femur"), ("ptf", "PTF")):
        numbers = [float(cell.split(" ")[0]) for cell in row[heading].split(" / ")]
        wanted = [stored[bone, name] for name in ("sensitivity", "specificity", "auc")]
        assert numbers == [round(100 * value, 1) for value in wanted]


def test_table_3_is_that_of_the_lake(lake: Lake, page: PageReader) -> None:
    shown = page.records("Table 3. What compartment and DL-guided averages add")
    stored = lake.sql(
        "SELECT estimate, cluster_p FROM regression_terms WHERE term = 'medial' "
        "AND population = 'all_timepoints' AND analysis = 'nested_regressions'"
    ).to_dicts()
    [row] = stored
    rows = [one for one in shown if one["Variable"] == "Medial average"]
    assert float(rows[0]["Estimate"]) == pytest.approx(row["estimate"], abs=5e-5)
    assert float(rows[0]["Clustered, p"]) == pytest.approx(row["cluster_p"], rel=5e-3)


def test_the_groups_of_all_models_are_counted_by_hand(lake: Lake, page: PageReader) -> None:
    knees = lake.sql(
        "SELECT is_case, age_years, (sex = 'M') AS is_male FROM model_agreement "
        "JOIN (SELECT knee_visit, age_years, sex FROM model_cases WHERE model = 'chronic_pain') "
        "USING (knee_visit) WHERE n_correct = 18"
    )
    rows = page.records("Knees that at least 18 of the 18 chronic-pain models get right")
    shown = {row["Group"]: row for row in rows}
    for group, is_case in (
        ("True positives with pain", True),
        ("True negatives without pain", False),
    ):
        own = knees.filter(knees["is_case"] == is_case)
        assert own.height > 1
        assert int(shown[group]["Patients"]) == own.height
        ages = own["age_years"].cast(float)
        said = shown[group]["Age, years (mean ± SD)"]
        # As printed to one decimal.
        assert said == f"{ages.mean():.1f} ± {ages.std():.1f}"
        assert shown[group]["Men/women"].split("/")[0] == str(own["is_male"].sum())


def test_maps_and_summary_say_what_the_lake_says(lake: Lake, page: PageReader) -> None:
    rows = lake.sql("FROM spm_compartments WHERE compartment = 'all'").to_dicts()
    shown = page.records("SPM of Grad-CAM, evidence for pain: by compartment")
    assert len(shown) == 2 * len(rows)
    low, high = (100 * pick(row["share_p05"] for row in rows) for pick in (min, max))
    assert f"on {low:.1f} to {high:.1f} % of the tested surface; family-wise on " in page.text
    for row in rows:
        found = f"{row['map'].replace('_', ' ')} ({100 * (row['share_fwe'] or 0):.1f} %)"
        assert (found in page.text) == bool(row["share_fwe"])
    best = lake.sql(
        "SELECT max(estimate) AS auc FROM model_performance WHERE metric = 'auc'"
    ).item()
    assert f"highest AUC for chronic pain on unseen people is {best:.3f} (" in page.text
    n = lake.sql("SELECT count(*) FROM cohort").item()
    assert f"The cohort has {n:,} knee-visits" in page.text


def test_simulated_knees_are_said_to_be(lake: Lake, page: PageReader) -> None:
    n = lake.sql("SELECT count(DISTINCT knee_visit) FROM drawn_knees").item()
    assert f"The maps of {n:,} knee-visits were drawn" in page.text


def test_text_of_the_lake_is_escaped(html: str, page: PageReader) -> None:
    assert ODD_NOTE in page.text
    assert ODD_NOTE not in html


def test_other_data_give_other_numbers(lake: Lake, tmp_path: Path) -> None:
    def shares(share: float, folder: str) -> TableBlock:
        other = Lake(tmp_path / folder)
        with other.batch("statistics", "all", "1", "c") as batch:
            batch.add("analyses", lake.sql("FROM analyses").filter(analysis=SPM).drop("batch_id"))
            rows = lake.sql(
                "SELECT * REPLACE ($s AS share_p05) FROM spm_compartments", {"s": share}
            )
            batch.add("spm_compartments", rows.drop("batch_id"))
        table, _ = report_association.spm_cam_pain(_reading(other))
        assert isinstance(table, TableBlock)
        return table

    heading = "p < 0.05 uncorrected, % of surface"
    assert set(shares(0.123, "one").table[heading]) == {"12.3"}
    assert set(shares(0.456, "two").table[heading]) == {"45.6"}


def test_the_same_lake_gives_the_same_bytes(snapshot: LakeSnapshot) -> None:
    for make in (report_cohort.flow, report_cohort.agreement, report_learning.first_visits):
        one, two = make(_reading(snapshot)), make(_reading(snapshot))
        assert len(one) == len(two) > 0
        for first, second in zip(one, two, strict=True):
            if isinstance(first, FigureBlock):
                assert isinstance(second, FigureBlock)
                assert first.draw() == second.draw()
            elif isinstance(first, TableBlock):
                assert isinstance(second, TableBlock)
                assert first.table.equals(second.table)


def test_an_empty_lake_says_what_to_do(tmp_path: Path) -> None:
    empty = LakeSnapshot(tmp_path / "lake")
    page = PageReader(report_html(empty, Settings(empty.root), TABLE_ASSETS))
    asked = re.findall(r"kneelake materialize (\w+)", page.text)
    graph = build_defs().resolve_asset_graph()
    known = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"cohort_figures", "model_evaluation", "nested_regressions"} <= set(asked)
    assert set(asked) <= known | AWAITED
    assert {section.asset for section in SECTIONS} <= known | AWAITED
    assert set(READS) <= known
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "simulated" not in page.text.replace("kneelake gives to simulated", "")


def test_signs_that_turn_are_listed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _reading(lake).run("nested_regressions")
    assert run is not None
    terms = run.tables["regression_terms"]
    rows = terms.filter(model="compartments", population="all_timepoints")
    classical = rows.with_columns(model=rows["model"].replace("compartments", "classical"))
    turned = classical.with_columns(
        model=rows["model"].replace("compartments", "dl_guided"), estimate=-classical["estimate"]
    )

    def said(added: pl.DataFrame) -> list[str]:
        changed = replace(run, tables={**run.tables, "regression_terms": terms.vstack(added)})
        monkeypatch.setattr(Reading, "run", lambda _self, _analysis: changed)
        blocks = report_association.averages(_reading(lake))
        return [line for one in blocks if isinstance(one, TextBlock) for line in one.lines]

    n_turning = rows.filter(pl.col("term").is_in(["medial", "lateral"])).height
    listed = said(classical.vstack(turned))
    assert sum("turns its sign" in line for line in listed) == n_turning > 0
    assert not any("turns its sign" in line for line in said(classical))


def test_a_p_value_below_a_double_has_its_logarithm() -> None:
    assert small_p(0.0, -2302.585092994046) == "10^-1000.0"
    assert small_p(0.034567) == "0.0346"
    assert small_p(None) == "-"


def test_an_analysis_older_than_its_input_is_said_to_be(lake: Lake, tmp_path: Path) -> None:
    reading = _reading(lake)
    assert "newer than this analysis" not in reading.newer_input("nested_regressions", ("cohort",))
    other = Lake(tmp_path / "lake")
    with other.batch("statistics", "all", "1", "c") as batch:
        batch.add("analyses", lake.sql("FROM analyses").filter(analysis=SPM).drop("batch_id"))
    with other.batch("clinical", "all", "1", "c") as batch:
        people = lake.sql("FROM enrollees_history LIMIT 1")
        batch.add("enrollees", people.drop("batch_id", "batch_number"))
    said = _reading(other).newer_input(SPM, ("enrollees",))
    assert "Batch 2" in said
    assert "(batch 1)" in said
    assert summary(_reading(other)) == ()
