"""The OAI's clinical tables, from the release files in the inbox.

Here: the assets of group `clinical`, one per table, all landed by one step: a file counts whole or
not at all, and may hold columns of several tables. Not here: reading a release (`clinical`),
merging releases (`pipeline.clinical`).

They are not partitioned, since a release spans visits.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from assets.imaging import LAKE_WRITER, TABLE_ASSETS
from assets.metadata import preview, quarantine_preview, registry_schema
from assets.resources import LakeResource
from lake.keys import UNKNOWN_TIMEPOINT
from lake.tables import TABLES
from pipeline.clinical import ingest_clinical
from pipeline.config import CODE_VERSION

GROUP = "clinical"
OWNERS = ["team:clinical"]

CLINICAL_TABLES = tuple(name for name, table in TABLES.items() if table.step == "clinical")


@dg.multi_asset(
    name="clinical_tables",
    specs=[
        dg.AssetSpec(
            TABLE_ASSETS[name],
            description=TABLES[name].description,
            kinds={"python", "deltalake"},
            metadata={"dagster/column_schema": registry_schema(TABLES[name])},
            group_name=GROUP,
            owners=OWNERS,
            code_version=CODE_VERSION["clinical"],
        )
        for name in CLINICAL_TABLES
    ],
    pool=LAKE_WRITER,
)
def clinical_tables(lake: LakeResource) -> Iterator[dg.MaterializeResult]:
    """Land every clinical table of the inbox in its canonical form, or refuse it with a reason."""
    settings = lake.settings()
    report = ingest_clinical(lake.open(), settings, [settings.inbox])
    store = lake.snapshot()
    files: dict[str, Any] = {
        "n_files_landed": len(report.landed),
        "n_files_unchanged": report.unchanged,
        "n_files_refused": report.refused,
        "n_other_files": report.skipped,
    }
    if report.superseded:
        files["superseded"] = preview(pl.DataFrame(report.superseded), rows=30)
    with store.connect() as now:
        refused = quarantine_preview(now, "clinical", UNKNOWN_TIMEPOINT)
        for name in CLINICAL_TABLES:
            counted = now.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608 - registry name
            yield dg.MaterializeResult(
                asset_key=TABLE_ASSETS[name],
                data_version=dg.DataVersion(store.data_version(name)),
                metadata={
                    "dagster/row_count": int(counted[0][0]),
                    **{f"n_{change}": n for change, n in report.changes.get(name, {}).items()},
                    **files,
                    **refused,
                },
            )
