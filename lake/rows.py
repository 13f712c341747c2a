"""Rows of any kind to the exact Arrow table the registry asks for, or an error that says where."""

import functools
from collections.abc import Mapping, Sequence
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


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a type may become another: numbers numbers, text text, never a parse."""
    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_null(found):
        return True
    if types.is_list(wanted):
        is_list = types.is_list(found) or types.is_large_list(found)
        return is_list and _fits(found.value_type, wanted.value_type)
    if types.is_string(wanted):
        return types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)
    if types.is_boolean(wanted):
        return types.is_boolean(found)
    return types.is_integer(found) or types.is_floating(found)


def _cast(values: Any, column: Column) -> pa.Array | pa.ChunkedArray:
    natural = values if isinstance(values, pa.ChunkedArray) else pa.array(values)
    if not _fits(natural.type, column.type):
        raise pa.ArrowTypeError(f"{natural.type} is not {column.type}")
    # A safe cast, since building int64 directly would cut 1.5 down to 1.
    return natural.cast(column.type)


def _convert(table: Table, column: Column, values: Any) -> pa.Array | pa.ChunkedArray:
    refusals = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)
    try:
        return _cast(values, column)
    except refusals as error:
        plain = values.to_pylist() if isinstance(values, pa.ChunkedArray) else values
        for row, value in enumerate(plain):
            try:
                _cast([value], column)
            except refusals:
                raise SchemaError(
                    f"{table.name}, row {row}: {column.name} = {value!r} is not of type "
                    f"{column.duckdb_type}"
                ) from error
        raise SchemaError(
            f"{table.name}: the values of {column.name} are not all of type {column.duckdb_type}"
        ) from error


def _where(arrow: pa.Table, row: int) -> str:
    if "knee_visit" not in arrow.column_names:
        return ""
    knee_visit = arrow.column("knee_visit")[row].as_py()
    return f" ({knee_visit})" if knee_visit else ""


@functools.cache
def _checker() -> duckdb.DuckDBPyConnection:
    """What checks are worked out by, once a process: to make it takes longer than they do.

    On one thread, so that it holds none that a fork would lose.
    """
    return duckdb.connect(config={"threads": "1"})


def first_failure(arrow: pa.Table, checks: Sequence[Check]) -> tuple[int, Check] | None:
    """The first row that fails a check, and that check."""
    if not checks or arrow.num_rows == 0:
        return None
    numbered = arrow.append_column(ROW_NUMBER, pa.array(range(arrow.num_rows), pa.int64()))
    cases = " ".join(
        f"WHEN NOT coalesce({check.predicate}, false) THEN {index}"
        for index, check in enumerate(checks)
    )
    with _checker().cursor() as connection:
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
            if n_row and column.name not in filled and not column.nullable:
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
