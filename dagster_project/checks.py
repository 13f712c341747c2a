"""What has to hold for the data of a visit.

Here: Dagster checks over `sql/checks/*.sql` (each returns the rows that offend) and over the rules
of the table registry. Not here: any SQL, and refusing input (`pipeline` does that before it
commits; a check runs after the data have landed).

Checks are partitioned like their assets, so each visit keeps its own history.
"""

import warnings

import dagster as dg
import polars as pl

import sql
from assets.imaging import TABLE_ASSETS
from assets.metadata import preview
from assets.partitions import TIMEPOINT_PARTITIONS
from assets.resources import LakeResource
from assets.sql_sources import tables_read
from lake.store import Lake

GROUP = "checks"
WARNINGS_ONLY = frozenset({"quarantine_share", "one_configuration"})
"""Checks that tell of something to look at rather than of wrong data."""

ASSET_ORDER = (
    "scan_inventory",
    "network_segmentations",
    "segmentations",
    "spherical_maps",
    "knee_biomarkers",
)


def checked_asset(file: sql.SqlFile) -> str:
    """The asset a check belongs to: the last one written of those it reads.

    Raises:
        ValueError: it reads nothing an asset writes.
    """
    read = {TABLE_ASSETS[name] for name in tables_read(file.text) if name in TABLE_ASSETS}
    if not read:
        raise ValueError(f"sql/{file.group}/{file.name}.sql reads no table an asset writes")
    return max(read, key=ASSET_ORDER.index)


def offending_rows(lake: Lake, file: sql.SqlFile, timepoint: str) -> pl.DataFrame:
    """The rows of a visit that offend."""
    parameters = {"timepoint": timepoint} if "timepoint" in file.parameters else None
    found = lake.query(f"{file.group}/{file.name}", parameters)
    return found.filter(pl.col("timepoint") == timepoint) if "timepoint" in found.columns else found


def rows_result(found: pl.DataFrame, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    """The outcome of a query that returns what offends."""
    return dg.AssetCheckResult(
        passed=found.is_empty(),
        severity=severity,
        metadata={
            "n_offending": len(found),
            **({} if found.is_empty() else {"offending_rows": preview(found, 20)}),
        },
    )


def rules_result(results: pl.DataFrame) -> dg.AssetCheckResult:
    """The outcome of the registry's rules, from `Lake.check`."""
    failed = results.filter(pl.col("n_failed") > 0)
    return dg.AssetCheckResult(
        passed=failed.is_empty(),
        metadata={
            "n_rules": len(results),
            "n_rules_broken": len(failed),
            **({} if failed.is_empty() else {"broken_rules": preview(failed, 20)}),
        },
    )


def sql_check(file: sql.SqlFile) -> dg.AssetChecksDefinition:
    """The check of one SQL file: passes when it returns no row for the visit."""
    severity = (
        dg.AssetCheckSeverity.WARN if file.name in WARNINGS_ONLY else dg.AssetCheckSeverity.ERROR
    )

    @dg.asset_check(
        asset=checked_asset(file),
        name=file.name,
        description=file.description,
        partitions_def=TIMEPOINT_PARTITIONS,
        metadata={"query": dg.MetadataValue.md(f"```sql\n{file.text}\n```")},
    )
    def evaluate(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        found = offending_rows(lake.snapshot(), file, context.partition_key)
        return rows_result(found, severity)

    return evaluate


def rules_check(asset: str) -> dg.AssetChecksDefinition:
    """The rules of the registry on the tables of one asset.

    A row is held to them when it is written; this finds what was changed behind the lake's back,
    or rows from before a rule was tightened.
    """
    tables = [table for table, owner in TABLE_ASSETS.items() if owner == asset]

    @dg.asset_check(
        asset=asset,
        name="registry_rules",
        description=f"Nulls, allowed values and ranges of the registry: {', '.join(tables)}.",
        partitions_def=TIMEPOINT_PARTITIONS,
    )
    def evaluate(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        store = lake.snapshot()
        results = pl.concat(
            [
                store.check(table, context.partition_key).insert_column(
                    0, pl.lit(table).alias("table")
                )
                for table in tables
            ]
        )
        return rules_result(results)

    return evaluate


def all_checks() -> list[dg.AssetChecksDefinition]:
    """Every check."""
    with warnings.catch_warnings():
        # Partitioned checks are new in Dagster 1.13 and say so once per check.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            *(rules_check(asset) for asset in ASSET_ORDER),
            *(sql_check(file) for file in sql.load_all().values() if file.group == GROUP),
        ]
