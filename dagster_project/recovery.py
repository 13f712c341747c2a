"""Runs whose process is gone.

Here: telling such runs and closing them. Not here: what they computed; the lake's batches see to
that, so a run that is done again goes on where the lost one stopped.

Dagster's run monitoring does not notice a run that died together with the servers (power, kill,
out of memory): it stays "started" for ever, keeps its place in the pool, and every later run waits
behind it. A Dagster home belongs to one machine, so its process table can tell.
"""

import os
import time
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType

UNDER_WAY = (
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
START_SECONDS = 180.0
"""A run that names no process after this long will not start any more."""
_CLOCK_SLACK_S = 5.0


def close_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed and free their places in the pools.

    Returns:
        their ids.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNDER_WAY)))
    lost = [record.dagster_run for record in records if _is_lost(instance, record)]
    for run in lost:
        instance.report_run_failed(
            run, "The process of this run is gone. What it had committed stays; run it again."
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in lost]


def _is_lost(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    begun = record.start_time or record.create_timestamp.timestamp()
    process_id = _process_id(instance, record.dagster_run.run_id)
    if process_id is None:
        return time.time() - begun > START_SECONDS
    return not _is_running(process_id, begun)


def _process_id(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that last said it executes the run; None before it did."""
    for record in reversed(instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)):
        event = record.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None:
            return int(str(pid.value))
    return None


def _is_running(process_id: int, since: float) -> bool:
    """Whether a process exists and is not a younger one that was given the same number."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    started = _started(process_id)
    return started is None or started <= since + _CLOCK_SLACK_S


def _started(process_id: int) -> float | None:
    """When a process started (seconds since 1970); None where /proc does not tell."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
        kernel = Path("/proc/stat").read_text(encoding="ascii")
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold spaces.
    ticks = int(status.rpartition(")")[2].split()[19])
    booted = next(int(line.split()[1]) for line in kernel.splitlines() if line.startswith("btime"))
    return booted + ticks / os.sysconf("SC_CLK_TCK")
