"""Fixtures of the pipeline's tests."""

from pathlib import Path

import pytest

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
