"""`kneelake logit`, `kneelake spm` and `kneelake sql --macros` as people and programs see them."""

import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import ttest_ind

from dagster_project.cli import main
from dagster_project.logit_cli import split_terms


def _json(capsys: pytest.CaptureFixture[str]) -> dict:
    # Strict: no NaN or Infinity may reach a program.
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows of 100 people; pain depends on thickness."""
    random = np.random.default_rng(3)
    person = np.repeat(np.arange(1000001, 1000101), 3)
    thickness = random.normal(2.2, 0.4, 300)
    frame = pl.DataFrame(
        {
            "subject_id": person,
            "age, years": random.integers(45, 80, 300),
            "sex": random.choice(["M", "F"], 300),
            "thickness": thickness,
            "pain": (random.random(300) < 1 / (1 + np.exp(2 * (thickness - 2.2)))).astype(int),
        }
    ).with_columns(thickness=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("thickness"))
    path = tmp_path_factory.mktemp("logit") / "cases.parquet"
    frame.write_parquet(path)
    return path


def test_the_published_table(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(shared_data / "published" / "femurlogisticvariables.csv")
    asked = ["--outcome", "Outcome", "--base", "Age,BMI,Sex,MF,LF", "--add", "DLROI"]
    assert main(["logit", file, *asked, "--json"]) == 0
    said = _json(capsys)
    assert (said["n"], said["n_dropped"]) == (2149, 0)
    assert said["lrt"]["df"] == 1
    # statsmodels: ../shared/facts/sql_stats.md, section 1.
    assert said["lrt"]["p"] == pytest.approx(7.01452498e-33, rel=1e-8)
    for name, roc in {"base": (13.5, 95.2, 63.3), "full": (33.5, 89.8, 69.2)}.items():
        model = said["models"][name]
        found = [round(100 * model["roc"][key], 1) for key in ("sensitivity", "specificity", "auc")]
        assert found == list(roc)
        assert model["converged"] is True
        contract = {"term", "estimate", "se", "z", "p", "ci_low", "ci_high", "odds_ratio"}
        assert all(contract <= set(term) for term in model["terms"])
    assert said["models"]["full"]["loglik"] == pytest.approx(-1238.9652569394, rel=1e-12)
    assert main(["logit", file, *asked, "--show-sql"]) == 0
    printed = capsys.readouterr().out
    assert "p = 7.014525e-33" in printed
    assert "Assumes that rows are independent" in printed
    assert "WITH RECURSIVE" in printed


def test_clusters_factors_and_names_with_commas(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--outcome", "pain", "--base", "`age, years`,C(sex, 'M')", "--add", "thickness"]
    assert main(["logit", str(table), *asked, "--cluster", "subject_id", "--json"]) == 0
    said = _json(capsys)
    assert (said["n"], said["n_dropped"], said["n_clusters"]) == (299, 1, 100)
    terms = {term["term"]: term for term in said["models"]["full"]["terms"]}
    assert set(terms) == {"Intercept", "age, years", "sex[F vs M]", "thickness"}
    assert abs(terms["thickness"]["estimate"] + 2) < 3 * terms["thickness"]["cluster_se"]
    assert said["wald"]["p"] < 1e-4
    assert main(["logit", str(table), *asked, "--cluster", "subject_id"]) == 0
    assert "take clusters, not rows, to be independent" in capsys.readouterr().out


def test_groups_and_resamples(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["logit", str(table), "--outcome", "pain", "--base", "thickness", "--json"]
    assert main([*one, "--by", "sex"]) == 0
    groups = _json(capsys)["groups"]
    assert [group["group"] for group in groups] == [{"sex": "F"}, {"sex": "M"}]
    assert sum(group["n"] for group in groups) == 299
    assert main([*one, "--bootstrap", "20", "--seed", "4", "--cluster", "subject_id"]) == 0
    drawn = _json(capsys)["bootstrap"]["terms"]
    assert [row["term"] for row in drawn] == ["Intercept", "thickness"]
    assert drawn[1]["bootstrap_low"] < -1 < drawn[1]["bootstrap_high"] + 2
    by_polars = ["--bootstrap", "20", "--seed", "4", "--engine", "polars"]
    assert main([*one, *by_polars, "--cluster", "subject_id"]) == 0
    again = _json(capsys)["bootstrap"]["terms"]
    assert again[1]["bootstrap_low"] == pytest.approx(drawn[1]["bootstrap_low"], rel=1e-9)
    assert main([*one, "--engine", "polars", "--profile"]) == 0
    term = _json(capsys)["models"]["base"]["terms"][1]
    assert term["profile_low"] < term["estimate"] < term["profile_high"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{table}", "--outcome", "pain", "--base", "thicknes"], "has no column thicknes"),
        (["{table}", "--outcome", "thickness", "--base", "sex"], "thickness"),
        (["{table}", "--outcome", "pain", "--base", "sex(("], "sex(("),
        (["nowhere.csv", "--outcome", "pain", "--base", "sex"], "nowhere.csv: there is no such"),
        (["cohort", "--root", "nowhere", "--outcome", "pain", "--base", "sex"], "no lake at"),
        (["{table}", "--outcome", "pain", "--base", "sex", "--by", "a", "--add", "b"], "--by"),
    ],
)
def test_bad_input_is_told_with_exit_code_2(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["logit", *(one.format(table=table) for one in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_roc_of_the_published_table(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(shared_data / "published" / "femurlogisticvariables.csv")
    asked = ["roc", file, "--outcome", "Outcome", "--score", "BMI", "--compare", "Age"]
    assert main([*asked, "--threshold", "30", "--json"]) == 0
    said = _json(capsys)
    [row], [pair] = said["performance"], said["comparison"]
    frame = pl.read_csv(file)
    cases = frame.filter(pl.col("Outcome") == 1)["BMI"].to_numpy()
    others = frame.filter(pl.col("Outcome") == 0)["BMI"].to_numpy()
    pairs = (cases[:, None] > others).mean() + (cases[:, None] == others).mean() / 2
    assert row["auc"] == pytest.approx(pairs, rel=1e-12)
    assert row["sensitivity"] == pytest.approx((cases >= 30).mean(), rel=1e-12)
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    assert pair["difference"] == pytest.approx(row["auc"] - pair["second_auc"], rel=1e-9)
    assert main(asked) == 0
    assert "take rows to be independent" in capsys.readouterr().out
    assert main(["roc", file, "--outcome", "Outcome", "--score", "Weight"]) == 2
    assert "Weight" in capsys.readouterr().err
    assert main([*asked, "--bootstrap", "50"]) == 2
    assert "with --cluster" in capsys.readouterr().err


def test_terms_are_parted_by_commas_outside_brackets_and_quotes() -> None:
    assert split_terms("a, C(b, 'x,y') ,`odd, name`,c*d") == [
        "a",
        "C(b, 'x,y')",
        "`odd, name`",
        "c*d",
    ]
    assert split_terms(" , ") == []


def test_macros_make_any_client_able(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--macros"]) == 0
    text = capsys.readouterr().out
    with duckdb.connect() as client:
        client.execute(text)
        [(p,)] = client.execute("SELECT chi_square_upper_tail(142.64889826615763, 1)").fetchall()
    assert p == pytest.approx(7.0145249802217564e-33, rel=1e-10)
    assert main(["sql"]) == 2
    assert "give a query" in capsys.readouterr().err


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 knees of 12 vertices; group 1 differs at vertex 5 only."""
    folder = tmp_path_factory.mktemp("maps")
    random = np.random.default_rng(5)
    group = np.repeat([0, 1], 20)
    values = random.normal(2, 0.3, (40, 12))
    values[:, 5] += 0.8 * group
    pl.DataFrame({"case": range(40), "values": values.tolist()}).write_parquet(
        folder / "femur.parquet"
    )
    pl.DataFrame(
        {
            "case": range(40),
            "pain": group,
            "age": random.integers(45, 80, 40),
            "sex": random.choice(["M", "F"], 40),
            "bmi": random.normal(28, 4, 40),
        }
    ).write_csv(folder / "cases.csv")
    return folder / "femur.parquet", folder / "cases.csv"


def test_spm_finds_the_vertex_and_writes_every_one(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["spm", str(maps[0]), "--cases", str(maps[1]), "--group", "pain"]
    out = tmp_path / "points.parquet"
    assert main([*asked, "--permutations", "99", "--out", str(out), "--json"]) == 0
    said = _json(capsys)
    assert (said["n_cases"], said["n_group0"], said["n_group1"]) == (40, 20, 20)
    [summary] = said["maps"]
    assert (summary["map"], summary["vertices"], summary["peak_vertex"]) == ("femur", 12, 5)
    assert summary["p_fwe_max_t<.05"] >= 1
    points = pl.read_parquet(out)
    assert points.height == 12
    assert points.row(5, named=True)["estimate"] == pytest.approx(0.8, abs=0.35)
    assert [Path(file).name for file in said["files"]] == [
        "points.parquet",
        "points_maxima.parquet",
    ]
    assert main([*asked, "--covariates", "age"]) == 0
    assert "p is not corrected for the number of vertices" in capsys.readouterr().out


def test_both_engines_of_spm_give_the_same_points(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["spm", str(maps[0]), "--cases", str(maps[1]), "--group", "pain", "--show-sql"]
    found = {}
    for engine in ("sql", "polars"):
        out = tmp_path / f"{engine}.parquet"
        assert main([*asked, "--engine", engine, "--out", str(out)]) == 0
        found[engine] = pl.read_parquet(out)
        printed = capsys.readouterr().out
        assert ("WITH" in printed) == (engine == "sql")
        assert ("runs no SQL" in printed) == (engine == "polars")
    # A relative difference says nothing of a difference of means that is near 0.
    assert_frame_equal(found["sql"], found["polars"], rel_tol=1e-9, abs_tol=1e-12)


def test_spm_results_are_kept_in_the_lake(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lake.store import Lake

    root = tmp_path / "lake"
    root.mkdir()
    asked = ["spm", str(maps[0]), "--cases", str(maps[1]), "--group", "pain", "--root", str(root)]
    for _ in range(2):
        assert main([*asked, "--store", "thickness"]) == 0
    lake = Lake(root)
    found = lake.sql("SELECT analysis, map, vertex, p FROM spm_points ORDER BY p")
    assert found.height == 12
    assert found.row(0)[:3] == ("thickness", "femur", 5)
    assert lake.sql("SELECT n_rows, n_results FROM analyses").rows() == [(40, 1)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "pein"], "pein"),
        (["--group", "pain", "--covariates", "age,height"], "height"),
        (["--group", "pain", "--tfce"], "--mesh"),
        (["--group", "pein"], "the cases 'cases.csv' have no column"),
        (["--group", "pain", "--block", "case"], "give --permutations"),
        (["--group", "pain", "--permutations", "5"], "give at least 19"),
        (["--group", "pain", "--out", "points.txt"], ".parquet or .csv"),
        (["--group", "pain", "--store", "a", "--root", "nowhere"], "no lake at nowhere"),
    ],
)
def test_spm_refuses_bad_input(
    maps: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["spm", str(maps[0]), "--cases", str(maps[1]), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_statistics_warn_of_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cases.csv"
    lines = [f"{k},{int(k > 30)},{'ab'[k % 2]}" for k in range(60)]
    file.write_text("\n".join(["age,pain,sex", *lines]))
    for _ in range(2):
        assert main(["logit", str(file), "--outcome", "pain", "--base", "age", "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["models"]["base"]["separated"] is True
        assert "kneelake logit: warning: complete separation of pain" in printed.err
    nested = ["logit", str(file), "--outcome", "pain", "--base", "sex", "--add", "age"]
    assert main([*nested, "--json"]) == 0
    assert _json(capsys)["lrt"] == {"chi2": None, "df": 1, "p": None, "log_p": None}
    assert main(nested) == 0
    said = capsys.readouterr().out
    assert "no test of the added terms" in said
    assert "chi2" not in said
    assert main(["logit", str(file), "--outcome", "Pain", "--base", "age"]) == 2
    assert "cases.csv has no column Pain" in capsys.readouterr().err


def test_maps_with_nan_in_parquet_and_the_same_bytes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # polars leaves NaN out of Parquet's statistics, from which DuckDB takes isnan() to be false.
    random = np.random.default_rng(2)
    values = random.normal(size=(60, 40))
    values[3, 5] = np.nan
    pl.DataFrame({"case": np.arange(60), "g": np.arange(60) % 2}).write_csv(tmp_path / "cases.csv")
    pl.DataFrame(
        {
            "case": np.repeat(np.arange(60), 40),
            "vertex": np.tile(np.arange(40), 60),
            "value": values.ravel(),
        }
    ).write_parquet(tmp_path / "maps.parquet")
    outs = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for out in outs:
        asked = ["--cases", str(tmp_path / "cases.csv"), "--group", "g", "--covariates", ""]
        assert main(["spm", str(tmp_path / "maps.parquet"), *asked, "--out", str(out)]) == 0
    capsys.readouterr()
    assert outs[0].read_bytes() == outs[1].read_bytes()
    points = pl.read_parquet(outs[0]).sort("vertex")
    used = points.select("n_group0", "n_group1").sum_horizontal().to_list()
    assert used == [59 if vertex == 5 else 60 for vertex in range(40)]
    kept = np.arange(60) != 3
    group = np.arange(60)[kept] % 2
    t = ttest_ind(values[kept][group == 1, 5], values[kept][group == 0, 5]).statistic
    assert points["t"][5] == pytest.approx(t, rel=1e-12)
