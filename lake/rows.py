"""Rows of any kind to the exact Arrow table the registry asks for, or an error that says where."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import duckdb
import polars as pl
import pyarrow as pa

from lake.errors import SchemaError
from lake.tables import Check, Column, Table

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table | pl.DataFrame

ROW_NUMBER = "row_number_in_batch"


def _columns(rows: Rows) -> tuple[int, dict[str, Any]]:
    """How many rows, and their values by column; a value a dict lacks is None."""
    if isinstance(rows, pl.DataFrame):
        rows = rows.to_arrow()
    if isinstance(rows, pa.Table):
        return rows.num_rows, {name: rows.column(name) for name in rows.column_names}
    names = dict.fromkeys(name for row in rows for name in row)
    return len(rows), {name: [row.get(name) for row in rows] for name in names}


def _first_misfit(values: Iterable[Any], column: Column) -> tuple[int, Any]:
    """The first value that is not of the column's type."""
    for row, value in enumerate(values):
        try:
            pa.array([value], column.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return row, value
    raise SchemaError(f"column {column.name} cannot be read as {column.duckdb_type}")


def _convert(table: Table, column: Column, values: Any) -> pa.Array | pa.ChunkedArray:
    try:
        if isinstance(values, pa.ChunkedArray):
            return values.cast(column.type)
        return pa.array(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        plain = values.to_pylist() if isinstance(values, pa.ChunkedArray) else values
        row, value = _first_misfit(plain, column)
        raise SchemaError(
            f"{table.name}, row {row}: {column.name} = {value!r} is not of type "
            f"{column.duckdb_type}"
        ) from error


def _where(arrow: pa.Table, row: int) -> str:
    if "knee_visit" not in arrow.column_names:
        return ""
    knee_visit = arrow.column("knee_visit")[row].as_py()
    return f" ({knee_visit})" if knee_visit else ""


def first_failure(arrow: pa.Table, checks: Sequence[Check]) -> tuple[int, Check] | None:
    """The first row that fails a check, and that check."""
    if not checks or arrow.num_rows == 0:
        return None
    numbered = arrow.append_column(ROW_NUMBER, pa.array(range(arrow.num_rows), pa.int64()))
    cases = " ".join(
        f"WHEN NOT coalesce({check.predicate}, false) THEN {index}"
        for index, check in enumerate(checks)
    )
    with duckdb.connect() as connection:
        connection.register("numbered", numbered)
        found = connection.execute(
            f"SELECT {ROW_NUMBER}, CASE {cases} END AS failed FROM numbered "  # noqa: S608 - registry text, not input
            f"WHERE failed IS NOT NULL ORDER BY {ROW_NUMBER} LIMIT 1"
        ).fetchone()
    return None if found is None else (found[0], checks[found[1]])


def to_arrow(table: Table, rows: Rows, filled: Mapping[str, Any]) -> pa.Table:
    """Rows as an Arrow table of exactly the registry's schema.

    Args:
        table: the table they are for.
        rows: dicts, an Arrow table or a polars frame; a nullable column may be left out.
        filled: values of columns the rows may leave out altogether.

    Raises:
        SchemaError: unknown or missing column, wrong type, missing value, value out of range;
            names the table, the row (from 0) and the column.
    """
    n_row, values = _columns(rows)
    unknown = sorted(set(values) - set(table.column_names))
    if unknown:
        raise SchemaError(
            f"{table.name} has no column {', '.join(unknown)}; its columns are "
            + ", ".join(table.column_names)
        )
    arrays = []
    for column in table.columns:
        if column.name not in values:
            if column.name not in filled and not column.nullable:
                raise SchemaError(f"{table.name}: column {column.name} is missing from every row")
            values[column.name] = [filled.get(column.name)] * n_row
        arrays.append(_convert(table, column, values[column.name]))
    # Nullability is a check like the others, so that its message can name the row.
    loose = pa.schema([field.with_nullable(True) for field in table.schema])
    arrow = pa.Table.from_arrays(arrays, schema=loose)
    failure = first_failure(arrow, table.checks)
    if failure is not None:
        row, check = failure
        value = arrow.column(check.column)[row].as_py()
        raise SchemaError(
            f"{table.name}, row {row}{_where(arrow, row)}: {check.column} = {value!r}: "
            f"{check.expected}"
        )
    return arrow.cast(table.schema)
