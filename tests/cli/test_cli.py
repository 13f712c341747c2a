"""The command line as its users and other programs meet it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from scipy.optimize import curve_fit

from dagster_project.cli import BAD_INPUT, main
from imaging.dicom import read_echoes
from imaging.label_files import read_labels, write_labels
from imaging.labels import BONES, load_scheme
from lake.maps import read_knee_zarr
from phantom.delivery import WrittenVisit, plan_delivery, write_delivery

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenVisit]:
    folder = tmp_path_factory.mktemp("inbox")
    (written,) = write_delivery(folder, plan_delivery(1, ("V00",), seed=3))
    return folder, written


def test_maps_of_one_knee(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, visit = inbox
    out = tmp_path / "knee.zarr"
    command = ["maps", str(visit.labels), "--scheme", "mskt", "--side", "right", "--out", str(out)]
    series = ["--t2-series", str(visit.msme), "--dess", str(visit.dess)]
    assert main([*command, *series, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["side"], said["scheme"]) == ("right", "mskt")
    assert {"bone", "compartment", "biomarker", "mean", "sd", "n"} <= set(said["biomarkers"][0])
    keys = [(row["bone"], row["compartment"], row["biomarker"]) for row in said["biomarkers"]]
    assert len(keys) == len(set(keys)) == 3 * 3 * 5
    thickness = {
        row["bone"]: row["mean"]
        for row in said["biomarkers"]
        if row["biomarker"] == "cartilage_thickness" and row["compartment"] == "whole"
    }
    assert all(1.5 < value < 3.5 for value in thickness.values())
    assert 100_000 < said["volumes_mm3"]["femur"] < 200_000
    assert {"surface", "thickness", "t2_fit", "sphere"} <= set(said["seconds"])

    parts = read_knee_zarr(out)
    assert set(parts) == set(BONES)
    picture = tmp_path / "knee.png"
    assert main(["view", str(out), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(PNG)

    assert main(command) == BAD_INPUT
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--side", "left", "--scheme", "mskt"], "anatomy shows RIGHT"),
        (["--side", "right", "--scheme", "nope"], "mskt"),
        (["--side", "right", "--scheme", "mskt", "--thickness", "thick"], "skeleton_subvoxel"),
        (["--side", "right", "--scheme", "oai-zib"], "value"),
    ],
)
def test_maps_refuses_what_it_cannot_use(
    inbox: tuple[Path, WrittenVisit],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    out = tmp_path / "knee.zarr"
    labels = str(inbox[1].labels)
    assert main(["maps", labels, *arguments, "--out", str(out)]) == BAD_INPUT
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_maps_with_a_t2_series_of_elsewhere_says_so(
    inbox: tuple[Path, WrittenVisit],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shared_data: Path,
) -> None:
    """The real series lies at another place of another patient."""
    far = write_delivery(tmp_path, plan_delivery(1, ("V00",), seed=3, left_share=1.0))[0]
    series = ["--t2-series", str(far.msme), "--side", "right", "--scheme", "mskt"]
    out = ["--out", str(tmp_path / "knee.zarr")]
    assert main(["maps", str(inbox[1].labels), *series, *out]) == BAD_INPUT
    assert "overlap" in capsys.readouterr().err


def test_t2_of_the_real_series_equals_curve_fit(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At least 99.5 % of interior voxels within 0.01 ms of scipy's own least squares."""
    archive = shared_data / "knee" / "mese_t2_dicom.zip"
    out = tmp_path / "t2.nii.gz"
    assert main(["t2", str(archive), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) >= {"voxels", "seconds", "voxels_per_second", "t2_ms", "fraction_at_bound"}
    assert set(said["t2_ms"]) == {"median", "p05", "p95"}

    echoes = read_echoes(archive)
    t2_ms = nibabel.load(out).get_fdata().T
    assert t2_ms.shape == echoes.array.shape[1:]
    inside = np.argwhere((t2_ms > 15) & (t2_ms < 80))
    rng = np.random.default_rng(7)
    close, compared = 0, 0
    for index in rng.choice(inside, 400, replace=False):
        signal = echoes.array[(slice(None), *index)].astype(float)
        best = _converged(echoes.echo_times_ms, signal)
        if best is None:
            continue
        compared += 1
        close += abs(best - t2_ms[tuple(index)]) < 0.01
    assert compared > 300
    assert close / compared >= 0.995


def _converged(times: np.ndarray, signal: np.ndarray) -> float | None:
    """T2 of the best of several starts, run to convergence; None at the fit's own bounds."""

    def decay(te: np.ndarray, s0: float, t2: float, offset: float) -> np.ndarray:
        return s0 * np.exp(-te / t2) + offset

    found = []
    for start in (15.0, 35.0, 80.0):
        try:
            parameters, _ = curve_fit(
                decay,
                times,
                signal,
                (signal[0], start, 0.0),
                maxfev=20_000,
                ftol=1e-14,
                xtol=1e-14,
                gtol=1e-14,
            )
        except RuntimeError:
            continue
        found.append((np.sum((decay(times, *parameters) - signal) ** 2), parameters[1]))
    if not found or not 1.5 < min(found)[1] < 290:
        return None
    return min(found)[1]


def test_t2_refuses_a_structural_scan_and_a_mask_on_another_grid(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, visit = inbox
    out = str(tmp_path / "t2.nrrd")
    assert main(["t2", str(visit.dess), "--out", out]) == BAD_INPUT
    assert "echo" in capsys.readouterr().err
    assert main(["t2", str(visit.msme), "--mask", str(visit.labels), "--out", out]) == BAD_INPUT
    assert "grid" in capsys.readouterr().err


def test_a_lake_from_ingest_to_sql(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "inbox"
    shutil.copytree(inbox[0], folder)
    (folder / "1000001_RIGHT_V01.nrrd").write_bytes(b"no label at all")
    where = ["--root", str(tmp_path / "lake"), "--inbox", str(folder), "--workers", "1"]
    assert main(["ingest", *where, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["landed"]) == 3
    assert [row["reason"] for row in said["quarantined"]] == ["unreadable_file"]

    home = ["--home", str(tmp_path / "home")]
    wanted = ["group:imaging", "biomarkers_wide"]
    assert main(["materialize", *wanted, *where, *home, "--timepoint", "V00", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert "knee_biomarkers" in {result["asset"] for result in results}

    assert main(["status", *where, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    (first,) = [row for row in status["stages"] if row["timepoint"] == "V00"]
    assert (first["n_mapped"], first["n_mapped_with_t2"], first["n_maps_pending"]) == (1, 1, 0)

    query = "SELECT knee_visit, femur_medial_cartilage_thickness_mm AS mm FROM biomarkers_wide"
    assert main(["sql", query, *where, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["knee_visit"] == "1000001_RIGHT_V00"
    assert 1.5 < row["mm"] < 3.5
    stored = tmp_path / "wide.parquet"
    assert main(["sql", query, *where, "--format", "parquet", "--out", str(stored)]) == 0
    assert pl.read_parquet(stored).to_dicts() == [row]
    assert main(["sql", "DELETE FROM biomarkers", *where]) == BAD_INPUT
    assert "read-only" in capsys.readouterr().err

    picture = tmp_path / "knee.png"
    assert main(["view", "1000001_RIGHT_V00", *where, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(PNG)


def test_a_missing_lake_is_said_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none"
    assert main(["status", "--root", str(missing)]) == BAD_INPUT
    assert "there is no lake" in capsys.readouterr().err
    assert not missing.exists()


def test_an_empty_inbox_is_said_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inbox").mkdir()
    where = ["--root", str(tmp_path / "lake"), "--inbox", str(tmp_path / "inbox")]
    assert main(["materialize", *where, "--home", str(tmp_path / "home")]) == BAD_INPUT
    assert "nothing in the inbox" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_a_mistyped_scheme_is_the_callers_and_quarantines_nothing(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--root", str(tmp_path / "lake"), "--inbox", str(tmp_path / "inbox")]
    label = str(inbox[1].labels)
    assert main(["ingest", label, *places, "--scheme", "nosuch"]) == BAD_INPUT
    assert "oai-zib" in capsys.readouterr().err
    assert main(["ingest", label, *places, "--scheme", "mskt", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (len(said["landed"]), said["quarantined"]) == (1, [])


def test_paths_that_are_not_there_are_named(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none"
    assert main(["ingest", "--root", str(tmp_path / "lake"), "--inbox", str(missing)]) == BAD_INPUT
    assert "there is no inbox" in capsys.readouterr().err
    out = missing / "t2.nrrd"
    assert main(["t2", str(inbox[1].msme), "--out", str(out)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "none/t2.nrrd" in said
    assert "Check the path" in said


def test_a_label_too_coarse_for_cartilage_is_refused(
    inbox: tuple[Path, WrittenVisit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = read_labels(inbox[1].labels, load_scheme("mskt"))
    affine = labels.affine.copy()
    affine[:3, :3] *= 4
    coarse = tmp_path / "coarse.nrrd"
    write_labels(replace(labels, array=labels.array[::4, ::4, ::4], affine=affine), coarse)
    out = ["--out", str(tmp_path / "knee.zarr"), "--scheme", "mskt"]
    assert main(["maps", str(coarse), *out]) == BAD_INPUT
    assert "too coarse" in capsys.readouterr().err
