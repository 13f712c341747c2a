"""What has to hold for the clinical tables and the cohort.

Here: Dagster checks over `sql/cohort_checks/*.sql` (each returns the rows that offend) and over the
rules of the registry on clinical tables. Not here: any SQL, and what images bring (`checks`).

Not partitioned, like their assets.
"""

import dagster as dg

import sql
from assets.clinical import CLINICAL_TABLES
from assets.imaging import TABLE_ASSETS
from assets.resources import LakeResource
from assets.sql_sources import relations_read
from dagster_project.checks import rows_result, rules_result
from sql.reading import fetch

GROUP = "cohort_checks"
WARNINGS_ONLY = frozenset({"split_independence"})
"""Checks that tell of something to look at rather than of wrong data."""


def checked_view(file: sql.SqlFile) -> str:
    """The cohort's file a check belongs to: of those it reads, the one that reads the most others.

    Raises:
        ValueError: it reads none.
    """
    order = [view.name for view in sql.views(("cohort",))]
    read = [name for name in relations_read(file.text) if name in order]
    if not read:
        raise ValueError(f"sql/{file.group}/{file.name}.sql reads no table of the cohort")
    return max(read, key=order.index)


def cohort_check(file: sql.SqlFile) -> dg.AssetChecksDefinition:
    """The check of one SQL file: passes when it returns no row."""
    severity = (
        dg.AssetCheckSeverity.WARN if file.name in WARNINGS_ONLY else dg.AssetCheckSeverity.ERROR
    )

    @dg.asset_check(
        asset=checked_view(file),
        name=file.name,
        description=file.description,
        metadata={"query": dg.MetadataValue.md(f"```sql\n{file.text}\n```")},
    )
    def evaluate(lake: LakeResource) -> dg.AssetCheckResult:
        with lake.snapshot().connect() as connection:
            found = fetch(connection, file.text)
        return rows_result(found, severity)

    return evaluate


def rules_check(table: str) -> dg.AssetChecksDefinition:
    """The rules of the registry on one clinical table."""

    @dg.asset_check(
        asset=TABLE_ASSETS[table],
        name="registry_rules",
        description=f"Nulls, allowed values and ranges of the registry: {table}.",
    )
    def evaluate(lake: LakeResource) -> dg.AssetCheckResult:
        return rules_result(lake.snapshot().check(table))

    return evaluate


def cohort_checks() -> list[dg.AssetChecksDefinition]:
    """Every check."""
    return [
        *(rules_check(table) for table in CLINICAL_TABLES),
        *(cohort_check(file) for file in sql.load_all().values() if file.group == GROUP),
    ]
