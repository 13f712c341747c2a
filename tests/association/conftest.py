"""Make the builders importable, as the other test folders do."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "learning"))

from planted_cohort import RADIOGRAPHIC, THICKNESS, Planted, planted_lake


@pytest.fixture(scope="session")
def radiographic(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A lake whose chronic pain depends on radiographs, age, BMI and sex, and nothing else."""
    root = tmp_path_factory.mktemp("radiographic") / "lake"
    return planted_lake(root, RADIOGRAPHIC, n_people=400, seed=11)


@pytest.fixture(scope="session")
def thickness(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A lake whose chronic pain depends on medial thickness, age, BMI and sex, and nothing else."""
    root = tmp_path_factory.mktemp("thickness") / "lake"
    return planted_lake(root, THICKNESS, n_people=400, seed=12)
