"""The authors' published tables: landing, Table 3 refitted, and what differs from print."""

import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dagster_project.cli import main
from imaging.errors import BadInputError, Reason
from lake.store import Lake
from pipeline import association
from pipeline.config import Settings
from pipeline.printed_table import agrees, printed_table_3
from pipeline.published import ingest_published, is_published_table, read_published_table

HEADER = "Age,BMI,Sex,LF,MF,DLROI,Outcome\n"
ROWS = "60,24.1,1,1.7,1.9,1.8,1\n69,29.8,2,1.85,,2.0,0\n"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("published") / "lake")
    settings = Settings(lake.root)
    report = ingest_published(lake, settings, [shared_data / "published"])
    # The authors' other file in that folder is of another kind.
    assert [row["bone"] for row in report.landed] == ["femur"]
    assert report.quarantined == []
    return lake


@pytest.fixture(scope="module")
def run(lake: Lake) -> association.Run:
    return association.run_published(lake, Settings(lake.root))


def test_table_3_is_reproduced(run: association.Run) -> None:
    [test] = run.tables["regression_tests"].to_dicts()
    # statsmodels, Newton to 1e-14: ../shared/facts/sql_stats.md, section 1.
    assert test["chi2"] == pytest.approx(142.648898266, rel=1e-11)
    assert test["p"] == pytest.approx(7.0145249802e-33, rel=1e-9)
    terms = {(row["model"], row["term"]): row for row in run.tables["regression_terms"].to_dicts()}
    for key, estimate, se in (
        (("classical", "Intercept"), -3.97283376, 0.728232248),
        (("classical", "age_years"), -0.0110231528, 0.00509904502),
        (("classical", "bmi"), 0.0770092403, 0.0100520008),
        (("classical", "sex_code"), 0.193140005, 0.114098468),
        (("classical", "compartment_1_mm"), -0.582259369, 0.264498661),
        (("classical", "compartment_2_mm"), 1.28685636, 0.246450361),
        (("dl_guided", "compartment_1_mm"), 2.24528879, 0.363509601),
        (("dl_guided", "compartment_2_mm"), 2.28723644, 0.268390281),
        (("dl_guided", "dl_guided_mm"), -3.66454662, 0.319676993),
    ):
        assert terms[key]["estimate"] == pytest.approx(estimate, rel=5e-9)
        assert terms[key]["se"] == pytest.approx(se, rel=5e-9)
        # No participant number in the file: nothing is clustered.
        assert terms[key]["cluster_se"] is None
    roc = {row["model"]: row for row in run.tables["regression_performance"].to_dicts()}
    for model, numbers in {
        "classical": (13.5, 95.2, 63.3),
        "dl_guided": (33.5, 89.8, 69.2),
    }.items():
        found = [100 * roc[model][name] for name in ("sensitivity", "specificity", "auc")]
        assert [round(number, 1) for number in found] == list(numbers)
    assert any("no participant number" in note for note in run.notes)


def test_differences_from_print_are_found_and_explained(run: association.Run) -> None:
    rows = {
        (row["model"], row["variable"], row["quantity"]): row
        for row in run.tables["printed_comparisons"].to_dicts()
    }
    agree = [row for row in rows.values() if row["verdict"] == "agrees"]
    assert {row["variable"] for row in agree} >= {"Age", "BMI", ""}
    recoded = rows["classical", "Intercept", "se"]
    assert recoded["verdict"] == "explained"
    assert "2 - Sex" in recoded["explanation"]
    assert recoded["explained"] == pytest.approx(0.620732, abs=1e-6)
    swapped = rows["dl_guided", "LF thickness", "p"]
    assert swapped["verdict"] == "explained"
    assert "labels" in swapped["explanation"]
    # The one number that neither change explains, and the count.
    differs = [key for key, row in rows.items() if row["verdict"] == "differs"]
    assert sorted(differs) == [("classical", "", "n"), ("classical", "MF thickness", "estimate")]
    missing = {key[1:] for key, row in rows.items() if row["verdict"] == "not_printed"}
    assert missing == {("DL-thickness", q) for q in ("estimate", "se", "p")}
    assert rows["dl_guided", "", "likelihood_ratio_p"]["verdict"] == "agrees"


def test_every_printed_number_is_there() -> None:
    table = printed_table_3()
    assert [bone["name"] for bone in table["bone"]] == ["femur", "tibia", "patella"]
    for bone in table["bone"]:
        assert ("likelihood_ratio_p" in bone) == (bone["name"] != "patella")
        for model, n in (("classical", 6), ("dl_guided", 7 if bone["name"] == "patella" else 6)):
            assert len(bone[model]["rows"]) == n
            assert len(bone[model]["roc"]) == 3


@pytest.mark.parametrize(
    ("value", "printed", "same"),
    [
        (1.28685636, "1.289", False),
        (1.28685636, "1.287", True),
        (7.0145e-33, "7.01e-33", True),
        (7.0155e-33, "7.01e-33", False),
        (0.0096, "0.01", True),
        (0.0149, "0.01", True),
        (0.0151, "0.01", False),
        (-0.387, "-0.387", True),
        (8.04e-4, "8.0e-4", True),
    ],
)
def test_numbers_are_compared_at_the_digits_printed(value, printed, same) -> None:
    assert agrees(value, printed) is same


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag != "meta":
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_manuscript_tables_say_the_same_in_every_form(lake: Lake, run: association.Run) -> None:
    files = association.published_files(lake, run)
    for name in ("table_3_published", "table_3_differences"):
        rows = list(csv.reader(io.StringIO(files[f"{name}.csv"].decode())))
        assert len({len(row) for row in rows}) == 1
        parser = Cells()
        parser.feed(files[f"{name}.html"].decode())
        assert parser.open == []
        assert parser.cells == [cell for row in rows for cell in row]
        lines = [line for line in files[f"{name}.md"].decode().splitlines() if line.startswith("|")]
        assert {line.count("|") for line in lines} == {len(rows[0]) + 1}
        assert len(lines) == len(rows) + 1
    assert b"7.01e-33" in files["table_3_published.md"]
    assert b"MF thickness" in files["table_3_published.md"]
    assert files["forest_published.png"].startswith(b"\x89PNG")
    assert b"DL-guided average" in files["forest_published.svg"]
    assert association.published_files(lake, run) == files


@pytest.mark.parametrize(
    ("name", "content", "reason", "said"),
    [
        ("tables.csv", HEADER + ROWS, Reason.MISSING_BONE, "no bone"),
        ("tibia_femur.csv", HEADER + ROWS, Reason.MISSING_BONE, "femur and tibia"),
        (
            "tibia.csv",
            HEADER.replace("MF,", "") + ROWS,
            Reason.MISSING_COLUMN,
            "Age, BMI, Sex".upper(),
        ),
        ("tibia.csv", HEADER + ROWS.replace("1.85", "thick"), Reason.BAD_VALUE, "row 3, column LF"),
        ("tibia.csv", HEADER + ROWS.replace("1.85", "-1"), Reason.BAD_VALUE, "'-1'"),
        ("tibia.csv", HEADER + ROWS.replace(",2,", ",3,"), Reason.BAD_VALUE, "column SEX"),
        ("tibia.csv", HEADER + ROWS[:-5], Reason.TRUNCATED_FILE, "row 3"),
        ("tibia.csv", HEADER, Reason.EMPTY_FILE, "no data"),
    ],
)
def test_a_bad_table_is_refused_with_what_is_wrong(
    tmp_path: Path, name: str, content: str, reason: Reason, said: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert is_published_table(path)
    with pytest.raises(BadInputError, match=said) as caught:
        read_published_table(path)
    assert caught.value.reason == reason
    lake = Lake(tmp_path / "lake")
    report = ingest_published(lake, Settings(lake.root), [path])
    assert [row["reason"] for row in report.quarantined] == [str(reason)]
    # Said once, and no longer once a good file of that name lands.
    assert ingest_published(lake, Settings(lake.root), [path]).quarantined == []
    assert lake.sql("SELECT count(*) FROM quarantine WHERE stage = 'published'").item() == 1


def test_tables_of_other_bones_and_names_land(tmp_path: Path) -> None:
    (tmp_path / "patella_logistic.csv").write_text(
        HEADER.replace("LF,MF", "L,M") + ROWS + "61,22,1,0,2.1,,1\n"
    )
    rows = (HEADER.replace("Age", ",Age") + ROWS).splitlines()
    numbered = [rows[0], *(f"{number},{row}" for number, row in enumerate(rows[1:]))]
    (tmp_path / "Tibia.csv").write_text("\n".join(numbered) + "\n")
    lake = Lake(tmp_path / "lake")
    settings = Settings(lake.root)
    report = ingest_published(lake, settings, [tmp_path])
    assert {row["bone"]: row["n_rows"] for row in report.landed} == {"patella": 3, "tibia": 2}
    cases = lake.sql("FROM published_cases ORDER BY bone, row_number")
    assert cases["compartment_1"].to_list() == ["L", "L", "L", "LF", "LF"]
    assert cases["compartment_2_mm"].to_list() == [1.9, None, 2.1, 1.9, None]
    run = association.run_published(lake, settings)
    # Two or three rows fit no model: a row with its reason, and files all the same.
    assert (run.n_fitted, run.n_failed) == (0, 4)
    assert b"not fitted" in association.published_files(lake, run)["table_3_published.md"]
    assert ingest_published(lake, settings, [tmp_path]).unchanged == 2


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    plain, other = tmp_path / "tibia.csv", tmp_path / "patella.csv"
    plain.write_text(HEADER + ROWS)
    rows = [line.split(",")[::-1] for line in (HEADER + ROWS).splitlines()]
    other.write_text("\n".join(",".join(row) for row in rows) + "\n")
    stated, turned = read_published_table(plain), read_published_table(other)
    same = ["age_years", "bmi", "sex_code", "dl_guided_mm", "chronic_pain"]
    assert turned.select(same).equals(stated.select(same))
    # Compartments are named in the order of the file.
    assert turned["compartment_1_mm"].equals(stated["compartment_2_mm"], check_names=False)
    assert (turned["compartment_1"][0], stated["compartment_2"][0]) == ("MF", "MF")


def test_a_later_table_of_a_bone_replaces_the_one_before(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    settings = Settings(lake.root)
    first, second = tmp_path / "femur.csv", tmp_path / "femur2.csv"
    first.write_text(HEADER + ROWS)
    assert ingest_published(lake, settings, [first]).landed
    second.write_text(HEADER + ROWS.replace("24.1", "25"))
    assert ingest_published(lake, settings, [second]).landed
    assert lake.sql("SELECT bmi FROM published_cases ORDER BY row_number")["bmi"][0] == 25
    # Both at once, new to a lake: nothing tells which counts.
    other = Lake(tmp_path / "other")
    report = ingest_published(other, Settings(other.root), [first, second])
    assert [row["reason"] for row in report.quarantined] == [str(Reason.MIXED_RELEASES)]


def test_ingest_lands_a_table_named_or_in_the_inbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "published").mkdir(parents=True)
    (inbox / "published" / "patella.csv").write_text(HEADER + ROWS)
    named = tmp_path / "tibia.csv"
    named.write_text(HEADER + ROWS)
    where = ["--root", str(tmp_path / "lake"), "--inbox", str(inbox)]
    assert main(["ingest", str(named), *where]) == 0
    said = capsys.readouterr().out
    assert "published table of the tibia: 2 rows of" in said
    assert "quarantined 0" in said
    assert main(["ingest", *where]) == 0
    assert "published table of the patella" in capsys.readouterr().out
    bones = Lake(tmp_path / "lake").sql("SELECT DISTINCT bone FROM published_cases ORDER BY bone")
    assert bones["bone"].to_list() == ["patella", "tibia"]
