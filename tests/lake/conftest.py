"""Fixtures of the lake's tests."""

import sys
from pathlib import Path

import pytest

# The samples are shared with a script that runs in a process of its own.
sys.path.insert(0, str(Path(__file__).parent))

from lake.store import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")
