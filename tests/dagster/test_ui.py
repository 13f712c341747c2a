"""What a person does: start the UI, open the maps, materialise a visit by clicking."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from knees import deliver

from dagster_project.sensors import QUIET_SECONDS

CHROMIUM = Path(os.environ.get("KNEELAKE_CHROMIUM", "/usr/bin/chromium"))
SERVE = """
import sys
from pathlib import Path
from dagster_project.launch import serve_ui
from pipeline.config import Settings
if __name__ == "__main__":
    home, root, inbox, port = sys.argv[1:]
    settings = Settings(lake_root=Path(root), inbox=Path(inbox), workers=1)
    sys.exit(serve_ui(Path(home), int(port), settings))
"""


@dataclass(frozen=True)
class Ui:
    url: str
    process: subprocess.Popen[str]
    home: Path

    def graphql(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it or set KNEELAKE_CHROMIUM")
    folder = tmp_path_factory.mktemp("ui")
    script = folder / "serve.py"
    script.write_text(SERVE, encoding="utf-8")
    # Delivered before the start, so that the sensor's first tick finds it settled.
    deliver(folder / "inbox", 1_000_001, "V03")
    time.sleep(QUIET_SECONDS)
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, str(script)),
            *map(str, (folder / "home", folder / "lake", folder / "inbox", port)),
        ],
        # It holds a folder `lake`, which must not be taken for our package.
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"http://127.0.0.1:{port}" in said, said
        yield Ui(f"http://127.0.0.1:{port}", process, folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def run_of(ui: Ui, timepoint: str, timeout_s: float = 150.0) -> str:
    """How the run of a visit ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        runs = ui.graphql("{runsOrError{... on Runs{results{status tags{key value}}}}}")
        for run in runs["runsOrError"]["results"]:
            is_it = {"key": "dagster/partition", "value": timepoint} in run["tags"]
            if is_it and run["status"] in {"SUCCESS", "FAILURE", "CANCELED"}:
                return run["status"]
        time.sleep(0.5)
    raise AssertionError(f"no run of {timepoint} came to its end in {timeout_s:g} s")


def asset(ui: Ui, name: str, fields: str) -> Any:
    query = f'{{assetNodeOrError(assetKey:{{path:["{name}"]}}){{... on AssetNode{{{fields}}}}}}}'
    return ui.graphql(query)["assetNodeOrError"]


@pytest.fixture
def page(ui: Ui) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert errors == []


def test_the_sensor_brings_a_delivery_to_maps_one_can_look_at(ui: Ui, page: Any) -> None:
    assert run_of(ui, "V03") == "SUCCESS"
    page.goto(f"{ui.url}/assets/spherical_maps?view=partitions&partition=V03")
    page.get_by_text("Show Markdown").first.click()
    picture = page.get_by_role("dialog").get_by_role("img", name="1000001_RIGHT_V03")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    fields = "assetChecksOrError{... on AssetChecks{checks{name}}}"
    names = {
        check["name"]
        for check in asset(ui, "spherical_maps", fields)["assetChecksOrError"]["checks"]
    }
    assert {"missing_maps", "one_configuration", "orientation", "registry_rules"} <= names


def test_a_visit_is_materialised_by_clicking(ui: Ui, page: Any) -> None:
    page.goto(f"{ui.url}/assets/spherical_maps?view=partitions")
    page.get_by_role("button", name="Materialize").first.click()
    # The step of the maps also makes the biomarkers, and the UI says so.
    page.get_by_role("dialog").get_by_text("knee_biomarkers").wait_for()
    page.get_by_role("button", name="Confirm").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Select a partition or create one").click()
    page.get_by_role("menuitem").filter(has_text=re.compile(r"^V00")).click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Launch ")).click()

    assert run_of(ui, "V00") == "SUCCESS"
    found = asset(
        ui, "spherical_maps", 'latestMaterializationByPartition(partitions:["V00"]){partition}'
    )
    assert found["latestMaterializationByPartition"] == [{"partition": "V00"}]
    stats = asset(ui, "knee_biomarkers", "partitionStats{numFailed numPartitions}")
    assert stats["partitionStats"] == {"numFailed": 0, "numPartitions": 12}


def test_ctrl_c_stops_every_server(ui: Ui) -> None:
    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(60) == 0
    port = int(ui.url.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
