"""Exports: every form holds the lake's numbers, and nothing that must stay behind."""

import hashlib
import json
import re
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets.resources import LakeSnapshot
from dagster_project.cli import main
from lake.errors import LakeError
from lake.store import Lake
from pipeline.config import Settings
from pipeline.export import write_export
from pipeline.export_latex import escaped, table_latex
from pipeline.export_r import factor_levels


@pytest.fixture(scope="module")
def lake(reported: Lake) -> Lake:
    return reported


@pytest.fixture(scope="module")
def folder(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    catalog = out.with_name("lake.duckdb")
    asked = ["export", str(out), "--root", str(lake.root), "--catalog", str(catalog)]
    assert main(asked) == 0
    with duckdb.connect(str(catalog), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM enrollees").fetchone() is not None
    return out


@pytest.mark.parametrize("name", ["cohort", "biomarkers_wide", "spm_compartments"])
def test_parquet_and_csv_are_the_lakes_rows(lake: Lake, folder: Path, name: str) -> None:
    rows = lake.sql(f"FROM {name} ORDER BY ALL")
    rows = rows.drop([column for column in ("batch_id",) if column in rows.columns])
    back = pl.read_parquet(folder / "tables" / f"{name}.parquet")
    assert back.equals(rows)
    plain = pl.read_csv(folder / "tables" / f"{name}.csv", schema=back.schema)
    assert plain.equals(rows)


def test_the_manifest_is_of_the_files(folder: Path) -> None:
    listed = pl.read_csv(folder / "manifest.tsv", separator="\t")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed["file"]) == there - {"manifest.tsv"}
    for name, digest in listed.rows():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_no_path_leaves_the_machine(lake: Lake, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(lake.root).encode() not in content, path
            assert str(Path.home()).encode() + b"/" not in content, path
    columns = pl.read_csv(folder / "columns.csv")
    assert not {"path", "part", "file", "batch_id"} & set(columns["column"])
    assert columns.filter(table="cohort", column="womac_pain")["unit"].to_list() == ["points"]


def test_duckdb_reads_the_folder(lake: Lake, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    with duckdb.connect() as connection:
        connection.execute(Path("kneelake.sql").read_text(encoding="utf-8"))
        [(n,)] = connection.execute("SELECT count(*) FROM cohort").fetchall()
    assert n == lake.sql("SELECT count(*) FROM cohort").item()


def test_latex_escapes_what_it_must() -> None:
    assert escaped("5 % of a_b & {c} #1 $x ~^\\") == (
        r"5 \% of a\_b \& \{c\} \#1 \$x \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    table = pl.DataFrame({"A & B": ["<1 %", "0.2"], "x, p": ["0.01", "0.2"]})
    text = table_latex("t", table, "50 % of R&D", ["a_b"])
    assert r"A \& B & x, p \\" in text
    assert r"\textless{}1 \% & \textbf{0.01} \\" in text
    assert r"0.2 & 0.2 \\" in text
    assert r"\caption{50 \% of R\&D}" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1


def test_latex_files_are_balanced(folder: Path) -> None:
    files = sorted((folder / "manuscript").glob("*.tex"))
    assert {"table_1", "table_3", "table_4"} <= {path.stem for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        # The first line is a comment for who reads the file.
        body = text.split("\n", 1)[1]
        assert len(re.findall(r"\\begin\{", body)) == len(re.findall(r"\\end\{", body)), path
        plain = re.sub(r"\\[\\{}%&$#_]", "", body)
        assert plain.count("{") == plain.count("}"), path
        assert plain.count("$") % 2 == 0, path
        # An unescaped per cent would hide the rest of its line; one ends the resizebox' line.
        assert all(line.endswith("{!}{%") for line in plain.splitlines() if "%" in line), path


def _tsv(path: Path) -> list[dict[str, str]]:
    heading, *lines = path.read_text(encoding="utf-8").splitlines()
    return [dict(zip(heading.split("\t"), line.split("\t"), strict=True)) for line in lines]


def test_bids_is_valid_and_the_lakes(lake: Lake, folder: Path) -> None:
    root = folder / "bids"
    described = json.loads((root / "dataset_description.json").read_text(encoding="utf-8"))
    assert described["DatasetType"] == "derivative"
    assert described["BIDSVersion"] == "1.10.0"
    assert described["GeneratedBy"][0]["Name"] == "kneelake"
    assert "simulated" in described["Name"]
    people = _tsv(root / "participants.tsv")
    folders = {path.name for path in root.glob("sub-*")}
    assert [row["participant_id"] for row in people] == sorted(folders)
    columns = json.loads((root / "participants.json").read_text(encoding="utf-8"))
    assert set(people[0]) == {"participant_id", *columns}
    meanings = json.loads((root / "biomarkers.json").read_text(encoding="utf-8"))
    files = sorted(root.glob("sub-*/ses-*/anat/*_biomarkers.tsv"))
    assert len(files) == lake.sql("SELECT count(DISTINCT knee_visit) FROM biomarkers").item()
    found = 0.0
    for path in files:
        name = re.fullmatch(r"(sub-\d+)_(ses-V\d\d)_side-[RL]_biomarkers\.tsv", path.name)
        assert name is not None
        assert path.parts[-4:-1] == (name[1], name[2], "anat")
        rows = _tsv(path)
        assert set(rows[0]) == set(meanings)
        found += sum(float(row["mean"]) for row in rows)
    total = lake.sql("SELECT sum(mean) FROM biomarkers WHERE is_default").item()
    assert found == pytest.approx(total, rel=1e-12)
    sessions = _tsv(
        root / people[0]["participant_id"] / f"{people[0]['participant_id']}_sessions.tsv"
    )
    assert len(sessions) == int(people[0]["n_sessions"])


def test_r_is_told_types_and_levels(folder: Path) -> None:
    script = (folder / "read_kneelake.R").read_text(encoding="utf-8")
    assert script.count("(") == script.count(")")
    for name, kind in (("chronic_pain", "logical"), ("bmi", "numeric"), ("sex", "character")):
        assert re.search(rf'  cohort = c\(.*`{name}` = "{kind}"', script)
    assert '`split` = c("training", "validation", "test")' not in script
    levels = factor_levels(pl.Series("side", ["LEFT", "RIGHT"]))
    assert levels == ("RIGHT", "LEFT")
    assert factor_levels(pl.Series("side", ["neither"])) == ()
    assert factor_levels(pl.Series("n", [1])) == ()


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    lake, out = LakeSnapshot(tmp_path / "lake"), tmp_path / "out"
    settings = Settings(lake.root)
    write_export(lake, settings, {}, out)
    first = (out / "manifest.tsv").read_bytes()
    stale = out / "tables" / "gone.csv"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("x")
    with (out / "manifest.tsv").open("a", encoding="utf-8") as manifest:
        manifest.write("tables/gone.csv\tx\n../outside\tx\n")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    write_export(lake, settings, {}, out)
    assert not stale.exists()
    assert outside.read_text() == "mine"
    assert (out / "manifest.tsv").read_bytes() == first


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    lake = Lake(tmp_path / "lake")
    with pytest.raises(LakeError, match="no earlier export"):
        write_export(lake, Settings(lake.root), {}, tmp_path)
    assert (tmp_path / "thesis.docx").read_text() == "years of work"
