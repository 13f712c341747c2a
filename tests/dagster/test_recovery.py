"""A run that died with its process must not block the pool for ever."""

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from dagster_project.launch import prepare_home
from dagster_project.recovery import _is_running, close_lost_runs

# A run of its own process that takes the pool's only place and then says where it is.
RUN = """
import sys, time
import dagster as dg

@dg.asset(pool="lake_writer")
def endless():
    print("computing", flush=True)
    time.sleep(600)

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    dg.materialize([endless], instance=instance)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return prepare_home(tmp_path / "home")


def begin(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"DAGSTER_HOME": str(home)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "computing"
    return process


def claimed(instance: dg.DagsterInstance) -> list[str]:
    info = instance.event_log_storage.get_concurrency_info("lake_writer")
    return [slot.run_id for slot in info.claimed_slots]


def test_a_killed_run_is_closed_and_frees_its_place(home: Path) -> None:
    process = begin(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        try:
            # While it lives it is left alone.
            assert close_lost_runs(instance) == []
            assert claimed(instance) == [run.run_id]
        finally:
            process.kill()
            process.wait()
        assert close_lost_runs(instance) == [run.run_id]
        assert claimed(instance) == []
        closed = instance.get_run_by_id(run.run_id)
        assert closed is not None
        assert closed.status is dg.DagsterRunStatus.FAILURE
        assert close_lost_runs(instance) == []


def test_a_process_number_used_again_is_not_the_same_process() -> None:
    """After a restart of the machine another program may have the number."""
    now = time.time()
    assert _is_running(os.getpid(), since=now)
    if Path("/proc/self/stat").exists():
        assert not _is_running(os.getpid(), since=now - 10 * 365 * 86_400)
