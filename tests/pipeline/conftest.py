"""Fixtures of the pipeline's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reported_lake import reported_lake

from lake.store import Lake
from pipeline.config import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return Settings(lake_root=tmp_path / "lake", inbox=inbox)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake(settings.lake_root)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with results of every kind that a report shows; not to be written to."""
    return reported_lake(tmp_path_factory.mktemp("reported") / "lake")
