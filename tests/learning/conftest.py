"""A small lake with drawn maps, images and untrained classifiers: all a prediction needs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from pictured_lake import pictured_lake
from small_study import SmallStudy, small_study

from lake.store import Lake


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return small_study(tmp_path_factory.mktemp("study") / "lake")


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Shared by the tests of training and sweep, which use models of their own."""
    return pictured_lake(tmp_path_factory.mktemp("pictured") / "lake")
