"""The segmentation networks' assets: off unless asked for, and clear when they cannot."""

from pathlib import Path

import pytest
from knees import deliver

from dagster_project.launch import RunFailedError, materialize
from lake.store import Lake
from pipeline.config import Settings

SEGMENTATION = ["network_segmentations", "segmentation_networks", "segmentation_metrics"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "inbox").mkdir()
    return Settings(lake_root=tmp_path / "lake", inbox=tmp_path / "inbox")


def test_who_asks_for_nothing_pays_nothing(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("KNEELAKE_SEGMENTATION_PRESET", "KNEELAKE_SEGMENTER"):
        monkeypatch.delenv(variable, raising=False)
    deliver(settings.inbox, 1_000_001, "V00")
    results = materialize(settings, SEGMENTATION, ["V00"], home=tmp_path / "home", engine="serial")
    assert {result.asset for result in results} == set(SEGMENTATION)
    assert all(result.metadata["state"].startswith("off: ") for result in results)
    assert Lake(settings.lake_root).sql("FROM batches").is_empty()


@pytest.mark.parametrize(
    ("variable", "value", "asset", "told"),
    [
        ("KNEELAKE_SEGMENTATION_PRESET", "demo", "segmentation_networks", "at least 3 people"),
        ("KNEELAKE_SEGMENTATION_PRESET", "best", "segmentation_networks", "use demo or paper"),
        ("KNEELAKE_SEGMENTER", "ensemble", "network_segmentations", "no segmentation networks"),
        ("KNEELAKE_SEGMENTER", "u-net", "network_segmentations", "nnunet:FOLDER"),
    ],
)
def test_what_is_asked_for_in_vain_is_told(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    asset: str,
    told: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RunFailedError, match=told):
        materialize(settings, asset, ["V00"], home=tmp_path / "home", engine="serial")
