"""What a materialisation shows in the UI: schemas with units, previews, figures, numbers.

Here: turning tables and reports into Dagster metadata. Not here: drawing (`pipeline.figures`) or
querying beyond what a preview needs.
"""

import base64
import io
import resource
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl

from assets.sql_sources import tables_read
from lake.tables import TABLES, Column, Table
from sql.reading import fetch

if TYPE_CHECKING:
    from pipeline.steps import StepReport

MAX_FIGURE_BYTES = 100_000
"""A figure is stored in the event log twice: larger ones are left out."""
PREVIEW_ROWS = 10


def _table_column(column: Column) -> dg.TableColumn:
    description = column.description + (f" Unit: {column.unit}." if column.unit else "")
    other = [column.limits] if column.limits else []
    return dg.TableColumn(
        column.name,
        column.duckdb_type,
        description=description,
        constraints=dg.TableColumnConstraints(nullable=column.nullable, other=other),
        tags={"unit": column.unit} if column.unit in {"mm", "ms", "mm2", "mm3", "rad"} else None,
    )


def registry_schema(table: Table) -> dg.TableSchema:
    """The registry's columns, units and limits as the UI shows them."""
    return dg.TableSchema(columns=[_table_column(column) for column in table.columns])


def query_schema(
    connection: duckdb.DuckDBPyConnection, query: str, notes: Mapping[str, tuple[str, str]]
) -> dg.TableSchema:
    """Columns of a query's result.

    Args:
        connection: where to ask for their types.
        query: the query.
        notes: meaning and unit by column; a column without is looked for in the tables read.
    """
    read = [TABLES[name] for name in tables_read(query) if name in TABLES]
    known = {
        column.name: (column.description, column.unit) for table in read for column in table.columns
    }
    columns = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {query}").fetchall():
        meaning, unit = notes.get(name) or known.get(name) or ("", "")
        description = f"{meaning} Unit: {unit}." if unit else meaning
        columns.append(dg.TableColumn(name, kind, description=description or None))
    return dg.TableSchema(columns=columns)


def _plain(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return round(value, 4)
    return str(value)


def preview(frame: pl.DataFrame, rows: int = PREVIEW_ROWS) -> dg.TableMetadataValue:
    """The first rows as a table in the UI."""
    records = [
        dg.TableRecord({name: _plain(value) for name, value in row.items()})
        for row in frame.head(rows).to_dicts()
    ]
    columns = [dg.TableColumn(name, str(kind)) for name, kind in frame.schema.items()]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def figure(png: bytes, title: str) -> dg.MarkdownMetadataValue | dg.TextMetadataValue:
    """A picture in the UI; in fewer colours, or a sentence, where it is too large."""
    for colours in (128, 64, 32):
        if len(png) > MAX_FIGURE_BYTES:
            png = _in_palette(png, colours)
    if len(png) > MAX_FIGURE_BYTES:
        return dg.MetadataValue.text(f"{title}: {len(png)} bytes, too large to show here")
    return dg.MetadataValue.md(
        f"![{title}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"
    )


def _in_palette(png: bytes, colours: int) -> bytes:
    """The picture in a palette of its own: about a third of the bytes at 128 colours."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        palette = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def previous_figure(
    context: dg.AssetExecutionContext, asset: str, name: str
) -> dg.MarkdownMetadataValue | None:
    """The figure the last materialisation of this partition showed, if it showed one."""
    found = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=[context.partition_key]
        ),
        limit=1,
    )
    for record in found.records:
        if record.asset_materialization is not None:
            shown = record.asset_materialization.metadata.get(name)
            return shown if isinstance(shown, dg.MarkdownMetadataValue) else None
    return None


def peak_memory_mib() -> float:
    """Largest resident memory this process or one of its workers ever had, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = (
        resource.getrusage(who).ru_maxrss * unit
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round(max(peaks) / 2**20, 1)


def quarantine_preview(
    connection: duckdb.DuckDBPyConnection, stage: str, timepoint: str
) -> dict[str, Any]:
    """What a step refused at a visit: how many, and by reason with what to do."""
    reasons = fetch(
        connection,
        "SELECT reason, count(*) AS n, any_value(file ORDER BY file) AS example, "
        "any_value(what ORDER BY file) AS what, any_value(remedy ORDER BY file) AS remedy "
        "FROM quarantine WHERE stage = $stage AND timepoint IN ($timepoint, 'unknown') "
        "GROUP BY reason ORDER BY n DESC, reason",
        {"stage": stage, "timepoint": timepoint},
    )
    if reasons.is_empty():
        return {"quarantined_now": 0}
    return {
        "quarantined_now": int(reasons["n"].sum()),
        "quarantine_reasons": preview(reasons, rows=30),
    }


def row_count(connection: duckdb.DuckDBPyConnection, table: str, timepoint: str) -> int:
    """Current rows of a table at a visit."""
    found = connection.execute(
        f"SELECT count(*) FROM {TABLES[table].name} WHERE timepoint = $1",  # noqa: S608 - registry name
        [timepoint],
    ).fetchall()
    return int(found[0][0])


def step_metadata(report: "StepReport") -> dict[str, Any]:
    """The numbers of one step's run."""
    tried = report.n_done + report.n_quarantined
    numbers: dict[str, Any] = {
        "n_pending": report.n_pending,
        "n_computed": report.n_done,
        "n_quarantined": report.n_quarantined,
        "n_missing": report.n_missing,
        "seconds": round(report.seconds, 3),
        "peak_memory_mib": peak_memory_mib(),
    }
    if tried:
        numbers["seconds_per_knee"] = round(report.seconds / tried, 3)
    if report.batch_id is not None:
        numbers["batch_id"] = report.batch_id
    return numbers
