"""A lake, an inbox and definitions wired to them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from assets.resources import ClusterResource, LakeResource
from dagster_project.definitions import build_defs
from lake.store import Lake
from pipeline import figures


@dataclass(frozen=True)
class House:
    """One lake with its inbox, instance and definitions."""

    root: Path
    inbox: Path
    instance: dg.DagsterInstance
    defs: dg.Definitions

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    def update(self, timepoint: str) -> dg.ExecuteInProcessResult:
        """One run of the job the sensor launches."""
        return self.defs.resolve_job_def("update_timepoint").execute_in_process(
            instance=self.instance,
            partition_key=timepoint,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


def make_house(folder: Path, instance: dg.DagsterInstance) -> House:
    root, inbox = folder / "lake", folder / "inbox"
    inbox.mkdir()
    defs = build_defs(
        lake=LakeResource(lake_root=str(root), inbox=str(inbox)),
        cluster=ClusterResource(engine="serial"),
    )
    return House(root, inbox, instance, defs)


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Drawing takes as long as computing a knee; only tests that look at figures need them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("maps_figure", "bland_altman_figure"):
            patch.setattr(figures, name, lambda *_, **__: b"not drawn")
        yield


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield make_house(tmp_path, instance)


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for the tests of a module, which build on each other's data."""
    folder = tmp_path_factory.mktemp("house")
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        yield make_house(folder, instance)
