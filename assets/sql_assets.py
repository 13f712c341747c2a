"""A SQL file is an asset.

Here: one Dagster asset per parameterless file of `sql/biomarkers`, `sql/cohort`,
`sql/association` and `sql/learning`, its upstream and its columns' lineage read from the query by
DuckDB's parser, its description and its columns' from the file's header. Not here: any SQL.

They are views, so to materialise one is to evaluate it: that proves the query runs on the lake as
it is now and records row count, columns and a preview. They are not partitioned, since longitudinal
queries read across visits.
"""

import hashlib
import json

import dagster as dg

import sql
from assets.column_lineage import view_lineage
from assets.imaging import TABLE_ASSETS
from assets.metadata import PREVIEW_ROWS, preview, query_schema
from assets.resources import LakeResource
from assets.sql_sources import relations_read, tables_read
from lake.store import Lake
from lake.tables import TABLES
from sql.reading import fetch

GROUPS = ("biomarkers", "cohort", "association", "learning")
OWNERS = {
    "biomarkers": ["team:imaging"],
    "cohort": ["team:clinical"],
    "association": ["team:statistics"],
    "learning": ["team:learning"],
}

WHEN_DATA_CHANGE = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_in_progress()
)
"""Evaluate again once something read has changed. Not `eager()`, which waits for all twelve visits
and fires on runs that changed nothing; and not when the run that changed the input evaluated it."""


def upstream_assets(file: sql.SqlFile) -> list[str]:
    """The assets a query reads: other SQL assets by name, tables by the asset that writes them."""
    names = {other.name for other in sql_files()}
    found = set()
    for relation in relations_read(file.text):
        if relation in names:
            found.add(relation)
        elif relation in TABLE_ASSETS:
            found.add(TABLE_ASSETS[relation])
    return sorted(found)


def column_lineage(file: sql.SqlFile) -> dg.TableColumnLineage:
    """The columns of upstream assets that each column is worked out from."""
    assets = {**TABLE_ASSETS, **{other.name: other.name for other in sql_files()}}
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key=dg.AssetKey(assets[relation]), column_name=name)
                for relation, name in sorted(sources)
                if relation in assets
            ]
            for column, sources in view_lineage(file.name, GROUPS).items()
        }
    )


def column_notes(file: sql.SqlFile) -> dict[str, tuple[str, str]]:
    """Meaning and unit of a file's columns: its header's, else those of the column handed through.

    A column is handed through where all it is worked out from is one column of its name.
    """
    files = {other.name: other for other in sql_files()}
    notes = {**{name: (meaning, "") for name, meaning in file.settings.items()}, **file.columns}
    for column, sources in view_lineage(file.name, GROUPS).items():
        if column not in notes and {name for _, name in sources} == {column}:
            relation = min(sources)[0]
            if relation in files:
                notes |= {
                    name: note
                    for name, note in column_notes(files[relation]).items()
                    if name == column
                }
            else:
                found = {known.name: known for known in TABLES[relation].columns}[column]
                notes[column] = (found.description, found.unit)
    return notes


def sql_files() -> list[sql.SqlFile]:
    """The files that become assets."""
    return [
        file for file in sql.load_all().values() if file.group in GROUPS and not file.parameters
    ]


def result_version(lake: Lake, file: sql.SqlFile) -> str:
    """Changes when the query, or any row it reads, does."""
    read = [name for name in tables_read(file.text) if name in TABLE_ASSETS]
    stated = [file.text, [[name, lake.data_version(name)] for name in read]]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:16]


def sql_asset(file: sql.SqlFile) -> dg.AssetsDefinition:
    """The asset of one SQL file."""

    @dg.asset(
        name=file.name,
        deps=upstream_assets(file),
        group_name=file.group,
        description="\n\n".join(
            part
            for part in (
                file.description,
                f"One row per {file.grain.removeprefix('one row per ')}" if file.grain else "",
                f"Assumes: {file.assumptions}" if file.assumptions else "",
            )
            if part
        ),
        kinds={"sql", "duckdb"},
        owners=OWNERS[file.group],
        code_version=hashlib.sha256(file.text.encode()).hexdigest()[:12],
        automation_condition=WHEN_DATA_CHANGE,
        metadata={
            "query": dg.MetadataValue.md(f"```sql\n{file.text}\n```"),
            "dagster/column_lineage": column_lineage(file),
        },
    )
    def evaluate(lake: LakeResource) -> dg.MaterializeResult:
        store = lake.snapshot()
        # As subqueries of the shipped text: no value comes from outside.
        rows = f"(\n{file.text}\n)"
        with store.connect(query=file.text) as connection:
            counted = connection.execute(f"SELECT count(*) FROM {rows}").fetchall()  # noqa: S608
            first = fetch(connection, f"FROM {rows} ORDER BY ALL LIMIT {PREVIEW_ROWS}")
            schema = query_schema(connection, file.text, column_notes(file))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result_version(store, file)),
            metadata={
                "dagster/row_count": int(counted[0][0]),
                "dagster/column_schema": schema,
                "dagster/column_lineage": column_lineage(file),
                "preview": preview(first),
            },
        )

    return evaluate


def sql_assets() -> list[dg.AssetsDefinition]:
    """Every SQL file of the groups as an asset."""
    return [sql_asset(file) for file in sql_files()]
