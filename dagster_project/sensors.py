"""What runs because something arrived.

Here: the sensor that watches the inbox. Not here: reading deliveries (`pipeline.inbox`) or
landing them (asset `scan_inventory`).
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.resources import LakeResource
from dagster_project.jobs import update_timepoint
from lake.keys import TIMEPOINTS, UNKNOWN_TIMEPOINT

if TYPE_CHECKING:
    from pipeline.inbox import Delivery

QUIET_SECONDS = 5.0
"""A delivery with a file changed more recently than this is still being written."""


def last_change(path: Path) -> float:
    """When a file, or anything in a folder, was last changed on this disk (seconds since 1970).

    The change time counts beside the modification time, which copying tools set back.
    """

    def stamps() -> Iterable[float]:
        for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
            try:
                status = entry.stat()
            except FileNotFoundError:
                # A temporary file that was just renamed: the delivery is being written.
                yield time.time()
            else:
                yield max(status.st_mtime, status.st_ctime)

    return max(stamps())


def settled(deliveries: Sequence["Delivery"], now: float) -> bool:
    """Whether nothing of these deliveries changed lately."""
    return all(now - last_change(delivery.path) >= QUIET_SECONDS for delivery in deliveries)


def run_key(timepoint: str, deliveries: Sequence["Delivery"]) -> str:
    """Names the content of the deliveries, so that each state of a visit is run once."""
    stamps = sorted(delivery.stamp for delivery in deliveries)
    return f"{timepoint}:{hashlib.sha256('|'.join(stamps).encode()).hexdigest()[:16]}"


@dg.sensor(
    job=update_timepoint,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs `update_timepoint` for each visit the inbox holds something new of.",
)
def inbox_sensor(lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """One run per touched visit.

    Deliveries that tell no visit are refused by whichever run comes first; alone, they ask for a
    run of the first visit.
    """
    from pipeline.inbox import pending_deliveries

    inbox = lake.settings().inbox
    if not inbox.is_dir():
        return dg.SkipReason(f"there is no inbox {inbox}; create it or set KNEELAKE_INBOX")
    now = time.time()
    pending = pending_deliveries(inbox)
    ready = {visit: found for visit, found in sorted(pending.items()) if settled(found, now)}
    if not ready:
        writing = f"still being written: {', '.join(sorted(pending))}"
        return dg.SkipReason(writing if pending else "nothing new in the inbox")
    if set(ready) != {UNKNOWN_TIMEPOINT}:
        ready.pop(UNKNOWN_TIMEPOINT, None)
    requests = [
        dg.RunRequest(
            run_key=run_key(visit, deliveries),
            partition_key=TIMEPOINTS[0] if visit == UNKNOWN_TIMEPOINT else visit,
            tags={"kneelake/deliveries": str(len(deliveries))},
        )
        for visit, deliveries in ready.items()
    ]
    return dg.SensorResult(run_requests=requests)
