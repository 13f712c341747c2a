"""Fixtures every test folder may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that is never copied into the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KNEELAKE_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data of ../shared/data is not on this machine")
    return folder
