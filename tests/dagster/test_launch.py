"""What the command line asks of Dagster."""

from pathlib import Path

import dagster as dg
import pytest
from knees import deliver

from dagster_project.launch import AssetResult, environment, materialize, prepare_home, serve_ui
from pipeline.config import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "inbox").mkdir()
    return Settings(lake_root=tmp_path / "lake", inbox=tmp_path / "inbox")


def test_a_home_is_set_up_once_and_then_the_users(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    config = home / "dagster.yaml"
    assert "telemetry" in config.read_text(encoding="utf-8")
    edited = config.read_text(encoding="utf-8") + "# mine\n"
    config.write_text(edited, encoding="utf-8")
    prepare_home(home)
    assert config.read_text(encoding="utf-8") == edited


def test_materialize_runs_visits_then_what_reads_across_them(
    tmp_path: Path, settings: Settings
) -> None:
    deliver(settings.inbox, 1_000_001, "V03")
    told: list[AssetResult] = []
    steps: list[tuple[int, int]] = []
    results = materialize(
        settings,
        partitions=["V03"],
        progress=lambda done, total, _: steps.append((done, total)),
        home=tmp_path / "home",
        engine="serial",
        on_result=told.append,
    )
    assert told == results
    of_visits = [(result.asset, result.timepoint) for result in results if result.timepoint]
    assert of_visits == [
        ("scan_inventory", "V03"),
        ("network_segmentations", "V03"),
        ("segmentations", "V03"),
        ("spherical_maps", "V03"),
        ("knee_biomarkers", "V03"),
        ("correspondences", "V03"),
        ("training_images", "V03"),
        ("predictions", "V03"),
        ("cam_maps", "V03"),
        ("cam_numbers", "V03"),
        ("atlas_maps", "V03"),
        ("cell_sums", "V03"),
    ]
    by_name = {result.asset: result for result in results}
    assert by_name["spherical_maps"].metadata["n_computed"] == 1
    assert by_name["biomarkers_wide"].metadata["dagster/row_count"] == 1
    assert all(result.failed_checks == () for result in results)
    assert (1, 1) in steps
    # Recorded where the UI shows it.
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        partitions = instance.get_materialized_partitions(dg.AssetKey("spherical_maps"))
        assert partitions == {"V03"}


def test_asking_for_maps_takes_the_biomarkers_of_the_same_step(
    tmp_path: Path, settings: Settings
) -> None:
    results = materialize(
        settings, ["spherical_maps"], ["V00"], home=tmp_path / "home", engine="serial"
    )
    assert {result.asset for result in results} == {"spherical_maps", "knee_biomarkers"}


@pytest.mark.parametrize(
    ("selection", "partitions", "message"),
    [
        (["speherical_maps"], ["V00"], "selects no asset; there are .*spherical_maps"),
        (["group:((("], ["V00"], r"'group:\(\(\(' selects no asset"),
        (None, ["V12"], "V12: not a visit; use V00, "),
    ],
)
def test_what_does_not_exist_is_said(
    tmp_path: Path,
    settings: Settings,
    selection: list[str] | None,
    partitions: list[str],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        materialize(settings, selection, partitions, home=tmp_path / "home")


def test_servers_find_the_lake_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment(tmp_path / "home", Settings(lake_root=Path("a"), inbox=Path("b")))
    assert found["KNEELAKE_ROOT"] == str(tmp_path / "a")
    assert found["KNEELAKE_INBOX"] == str(tmp_path / "b")
    assert found["DAGSTER_DISABLE_TELEMETRY"] == "1"


def test_a_port_in_use_is_said(tmp_path: Path, settings: Settings) -> None:
    import socket

    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve_ui(tmp_path / "home", port, settings, say=said.append) == 1
    assert f"port {port} is in use" in said[0]
