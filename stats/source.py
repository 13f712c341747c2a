"""A table to analyse: a CSV or Parquet file, or a relation of a connection that is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType

import duckdb

import sql
from stats.errors import StatisticsError
from stats.identifiers import quote_identifier, quote_literal

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "NaN", "nan", ".")
"""Texts of a CSV file that stand for a missing value."""
_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Source:
    """A file opened for analysis; closes its connection as a context manager.

    Attributes:
        connection: its own, in memory, with the macros.
        relation: name of the view: the file's, so that messages and statements show it.
        path: the file, folder or pattern.
    """

    connection: duckdb.DuckDBPyConnection
    relation: str
    path: Path

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()


def load_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Make, or make again, every macro of `sql/macros` in a connection."""
    for file in sql.macros():
        connection.execute(file.text)


def open_source(path: Path) -> Source:
    """Open a CSV (.csv, .tsv, .txt, also compressed) or a Parquet file, folder or pattern.

    A CSV's types are taken from all of its rows, so that one odd text makes a column text rather
    than an error later on. No line is a comment: DuckDB would take `#N/A` for the start of one and
    drop the row.

    Raises:
        StatisticsError: there is no such file, or it is neither kind, or cannot be read, or has no
            header, or its rows differ in their number of cells.
    """
    relation = path.name
    if path.is_dir():
        # A file's name has a suffix; this one has to differ from the statements' names as well.
        relation, path = f"{path.name}/", path / "**" / "*.parquet"
    suffixes = {suffix.lower() for suffix in path.suffixes}
    quoted = quote_literal(str(path))
    if suffixes & {".parquet", ".pq"}:
        origin = f"read_parquet({quoted})"
    elif suffixes & {".csv", ".tsv", ".txt"}:
        missing = ", ".join(quote_literal(text) for text in MISSING)
        origin = (
            f"read_csv({quoted}, header = true, sample_size = -1, comment = '', "
            f"nullstr = [{missing}])"
        )
    else:
        raise StatisticsError(f"{path} is neither CSV nor Parquet by its name")
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
    )
    load_macros(connection)
    try:
        connection.execute(f"CREATE VIEW {quote_identifier(relation)} AS FROM {origin}")
        _require_cells(connection, relation)
    except duckdb.Error as error:
        connection.close()
        # After the first paragraph DuckDB lists the reader's settings.
        told = str(error).split("\n\n", maxsplit=1)[0]
        raise StatisticsError(f"cannot read {path}: {told}") from error
    except StatisticsError:
        connection.close()
        raise
    return Source(connection, relation, path)


def _require_cells(connection: duckdb.DuckDBPyConnection, relation: str) -> None:
    """Refuse a CSV that DuckDB could read as nothing but whole lines.

    Raises:
        StatisticsError: it is empty, or a row has another number of cells than the header; the
            message names the row.
    """
    names = list(describe(connection, relation))
    if len(names) > 1:
        return
    table = quote_identifier(relation)
    if names == ["column0"] and not connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall():  # noqa: S608 - quoted
        raise StatisticsError(f"{relation} is empty: it has no header")
    for separator in _SEPARATORS:
        cells = names[0].count(separator) + 1
        if cells == 1:
            continue
        counted = f"len(string_split({quote_identifier(names[0])}::VARCHAR, $1)) AS cells"
        odd = connection.execute(
            f"SELECT number + 1, cells FROM (SELECT row_number() OVER () AS number, {counted} "  # noqa: S608 - quoted
            f"FROM {table}) WHERE cells <> $2 ORDER BY number LIMIT 1",
            [separator, cells],
        ).fetchone()
        where = (
            f"row {odd[0]} has {odd[1]} cells and the header {cells}"
            if odd
            else "its cells cannot be told apart"
        )
        raise StatisticsError(f"{relation} is no table: {where}; make its rows alike")


def describe(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """DuckDB type of each column of a relation.

    Raises:
        StatisticsError: there is no such relation; the message lists those there are.
    """
    try:
        rows = connection.execute(f"DESCRIBE FROM {quote_identifier(relation)}").fetchall()
    except duckdb.CatalogException as error:
        there = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        raise StatisticsError(
            f"there is no table {relation}; there are {', '.join(there) or 'none'}"
        ) from error
    return {name: kind for name, kind, *_ in rows}


def require_columns(columns: dict[str, str], wanted: Sequence[str], relation: str) -> None:
    """Refuse names that are no columns.

    Raises:
        StatisticsError: listing them, what comes close, and the columns there are.
    """
    missing = [name for name in dict.fromkeys(wanted) if name not in columns]
    if missing:
        close = {
            name: near
            for name in missing
            if (near := get_close_matches(name, columns, n=3, cutoff=0.5))
            or (near := [have for have in columns if have.lower() == name.lower()])
        }
        hints = "; ".join(
            f"for {name} did you mean {' or '.join(near)}?" for name, near in close.items()
        )
        raise StatisticsError(
            f"{relation} has no column {', '.join(missing)}{'; ' * bool(hints)}{hints or '.'} "
            f"It has {', '.join(columns)}."
        )
