"""A design's columns as a polars stream, from Parquet in place or from a relation's copy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl

from stats.design import Design
from stats.identifiers import quote_identifier, quote_literal
from stats.source import describe


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or bool({suffix.lower() for suffix in path.suffixes} & {".parquet", ".pq"})


@contextmanager
def scan_relation(
    connection: duckdb.DuckDBPyConnection, design: Design, file: Path | None
) -> Iterator[pl.LazyFrame]:
    """The columns of a design as a lazy frame with the names y, x1.., w, o and cluster.

    Args:
        connection: of the relation.
        design: on it.
        file: what the relation is a view of. Parquet is read in place; else, or where None, the
            columns are copied to a temporary Parquet file, as DuckDB and polars differ in what they
            make of a CSV (separators, booleans, blanks, ends of lines).
    """
    types = describe(connection, design.relation)
    if file is not None and _is_parquet(file):
        yield _named(pl.scan_parquet(file), design)
        return
    roles = design.roles
    used = [roles.outcome, roles.weights, roles.offset, roles.cluster]
    used += [atom.column for column in design.columns for atom in column.atoms]
    listed = ", ".join(
        f"CAST({quote_identifier(name)} AS VARCHAR) AS {quote_identifier(name)}"
        if types[name].startswith("ENUM")
        else quote_identifier(name)
        for name in dict.fromkeys(used)
        if name is not None
    )
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "rows.parquet"
        connection.execute(
            f"COPY (SELECT {listed} FROM {quote_identifier(design.relation)}) "  # noqa: S608 - quoted
            f"TO {quote_literal(str(copy))} (FORMAT parquet)"
        )
        yield _named(pl.scan_parquet(copy), design)


def _named(scan: pl.LazyFrame, design: Design) -> pl.LazyFrame:
    roles = design.roles
    columns = [pl.col(roles.outcome).cast(pl.Float64).alias("y")]
    columns += [column.polars().alias(f"x{k}") for k, column in enumerate(design.columns, 1)]
    finite = ["y", *(f"x{k}" for k in range(1, len(design.columns) + 1))]
    for name, role in (("w", roles.weights), ("o", roles.offset)):
        if role is not None:
            columns.append(pl.col(role).cast(pl.Float64).alias(name))
            finite.append(name)
    complete = pl.all_horizontal(pl.col(name).is_finite() for name in finite)
    if roles.cluster is not None:
        columns.append(pl.col(roles.cluster).alias("cluster"))
        known = (
            pl.col("cluster").is_finite
            if design.cluster_is_float
            else pl.col("cluster").is_not_null
        )
        complete &= known()
    for name, is_text in design.factors.items():
        if not is_text:
            columns.append(pl.col(name).cast(pl.Float64).is_finite().alias(f"finite {name}"))
            complete &= pl.col(f"finite {name}")
    return scan.select(columns).with_columns(complete.fill_null(value=False).alias("complete"))
