"""What a table's registry entry is made of: columns, checks, and how they are spelled briefly.

Here: the classes, and the makers of common columns. Not here: any table (`tables`,
`statistics_tables`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

DUCKDB_TYPES: Mapping[pa.DataType, str] = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.list_(pa.float64()): "DOUBLE[]",
    pa.list_(pa.float32()): "FLOAT[]",
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: the field's term, with its unit where it has one.
        type: the Arrow type stored.
        description: what the value is, for the data dictionary.
        unit: '' where there is none.
        nullable: whether a value may be missing.
        allowed: the only values a text column may hold; () for any.
        minimum, maximum: inclusive limits of a number (of each number in a list).
        varies: differs from run to run on the same input, so it is left out of batch_id.
    """

    name: str
    type: pa.DataType
    description: str
    unit: str = ""
    nullable: bool = False
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    varies: bool = False

    @property
    def duckdb_type(self) -> str:
        """The type's name in DuckDB."""
        return DUCKDB_TYPES[self.type]

    @property
    def limits(self) -> str:
        """What the values are limited to, for people."""
        if self.allowed:
            return ", ".join(self.allowed)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        return ""


@dataclass(frozen=True)
class Check:
    """A condition every row has to meet.

    Attributes:
        name: unique within the table.
        column: the column to name in a message.
        predicate: SQL that is true for a good row.
        expected: what is expected, to follow "<column> = <value>: ".
    """

    name: str
    column: str
    predicate: str
    expected: str


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: also its folder under `tables/` and its view.
        description: its grain and meaning.
        columns: in the order they are stored.
        partitioned: by timepoint.
        step: the step whose batches write it; '' when any step may.
        key: what its newest batch replaces: rows of the same key in older batches leave the view.
        grain: the columns that tell two rows of a batch apart; () where rows may repeat.
        rules: conditions that involve more than one column.
        parts: folder of the Zarr parts its column `part` points to; '' where it has none.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    partitioned: bool = True
    step: str = ""
    key: tuple[str, ...] = ()
    grain: tuple[str, ...] = ()
    rules: tuple[Check, ...] = ()
    parts: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema enforced on write; descriptions and units travel as field metadata."""
        return pa.schema(
            [
                pa.field(
                    column.name,
                    column.type,
                    column.nullable,
                    {"description": column.description, "unit": column.unit},
                )
                for column in self.columns
            ]
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in stored order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """A column by name.

        Raises:
            KeyError: no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name}")

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every condition a row has to meet: nulls, allowed values, ranges, then the rules."""
        return (*(check for column in self.columns for check in _checks(column)), *self.rules)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _checks(column: Column) -> Iterator[Check]:
    name = column.name
    if not column.nullable:
        yield Check(f"{name}_present", name, f"{name} IS NOT NULL", "a value is required")
    if column.allowed:
        values = ", ".join(map(_literal, column.allowed))
        yield Check(
            f"{name}_allowed", name, f"{name} IS NULL OR {name} IN ({values})", f"use {values}"
        )
    is_list = pa.types.is_list(column.type)
    conditions = ["isfinite({})"] if is_list or column.type == pa.float64() else []
    if column.minimum is not None:
        conditions.append(f"{{}} >= {column.minimum!r}")
    if column.maximum is not None:
        conditions.append(f"{{}} <= {column.maximum!r}")
    if conditions:
        item = "value" if is_list else name
        condition = " AND ".join(condition.format(item) for condition in conditions)
        if is_list:
            condition = f"len(list_filter({name}, lambda value: NOT ({condition}))) = 0"
        limits = f"{column.limits} {column.unit}".strip()
        yield Check(
            f"{name}_in_range",
            name,
            f"{name} IS NULL OR ({condition})",
            f"expected {limits}"
            if column.limits
            else "expected a finite number (or NULL, not NaN)",
        )


BATCH_ID = Column("batch_id", pa.string(), "The batch that wrote the row; see `batches`.")


def number(
    name: str,
    description: str,
    unit: str = "",
    minimum: float | None = 0.0,
    maximum: float | None = None,
    nullable: bool = False,
) -> Column:
    """A number; at least 0 unless said otherwise."""
    return Column(name, pa.float64(), description, unit, nullable, (), minimum, maximum)


def count(name: str, description: str, minimum: int = 0) -> Column:
    """A whole number that is never missing."""
    return Column(name, pa.int64(), description, minimum=minimum)


def text(
    name: str, description: str, allowed: tuple[str, ...] = (), nullable: bool = False
) -> Column:
    """A text."""
    return Column(name, pa.string(), description, nullable=nullable, allowed=allowed)


def whole(
    name: str,
    description: str,
    unit: str = "",
    minimum: float | None = 0,
    maximum: float | None = None,
    nullable: bool = True,
) -> Column:
    """A whole number that may be missing."""
    return Column(name, pa.int64(), description, unit, nullable, (), minimum, maximum)


def yes_no(name: str, description: str) -> Column:
    """True, false or missing."""
    return Column(name, pa.bool_(), description, nullable=True)
