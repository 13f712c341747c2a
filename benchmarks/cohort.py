"""The cohort of the OAI's size: a simulated delivery ingested, then all cohort SQL."""

import resource
import tempfile
import time
from pathlib import Path

import sql
from lake.store import Lake
from phantom.clinical_writer import write_clinical_release
from phantom.cohort import simulate_cohort
from pipeline.clinical import ingest_clinical
from pipeline.config import Settings

PEOPLE = 4796


def run() -> None:
    """Print the table."""
    print("| step | wall s | CPU s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock = [time.perf_counter(), time.process_time()]

        def done(step: str) -> None:
            now = [time.perf_counter(), time.process_time()]
            print(f"| {step} | {now[0] - clock[0]:.1f} | {now[1] - clock[1]:.1f} |", flush=True)
            clock[:] = now

        cohort = simulate_cohort(PEOPLE, seed=7)
        write_clinical_release(folder / "release", cohort, "ascii")
        done(f"simulate and write {PEOPLE:,} people as ASCII")
        lake = Lake(folder / "lake")
        report = ingest_clinical(lake, Settings(lake_root=lake.root), [folder / "release"])
        done(f"ingest {len(report.landed)} files")
        with lake.connect() as connection:
            for view in sql.views(("cohort",)):
                connection.execute(f"CREATE TEMP TABLE result AS FROM {view.name}")
                connection.execute("DROP TABLE result")
        done("all cohort SQL")
        print(lake.sql("FROM cohort_flow"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"\nPeak memory {peak:.2f} GB")
