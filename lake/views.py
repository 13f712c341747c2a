"""DuckDB as the lens: views over the committed Parquet files, in memory or in a throw-away file.

`<table>_history` holds every committed row with its batch_number; `<table>` only what counts now:
of a result the rows of the newest batch for its knee-visit, and none where that batch refused the
input; of an analysis the rows of its newest run. What counts is itself SQL:
`sql/lake/current_results.sql`, `sql/lake/quarantine.sql`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

import sql
from lake.delta import live_files
from lake.errors import LakeError
from lake.files import fsync_directory, fsync_file
from lake.statistics_tables import ANALYSES
from lake.tables import LEDGER_STEPS, TABLES, Table

LAZY_GROUPS = ("cohort", "association", "learning", "atlas")
"""Views made only for queries that need them."""
VIEW_GROUPS = ("lake", "biomarkers", *LAZY_GROUPS)

_STORED = frozenset(name for table in TABLES for name in (table, f"{table}_history"))
"""The views of stored rows."""

_WORD = re.compile(r"\w+")
_VIEW = re.compile(r"CREATE VIEW (\w+) AS ")
_CATALOGUE = frozenset(
    ("show", "information_schema", "duckdb_views", "duckdb_tables", "duckdb_columns", "pg_catalog")
)
"""Words of a query that asks which views there are."""


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def committed_batches(root: Path) -> set[str]:
    """The batches that count."""
    files = live_files(root, TABLES["batches"])
    # A file of `batches` holds one batch unless it was compacted.
    known = {file.batch_id for file in files}
    if None not in known:
        return {batch_id for batch_id in known if batch_id is not None}
    return _stored_values([file.path for file in files], "batch_id")


def _stored_values(files: Sequence[Path], column: str) -> set[str]:
    return {
        value
        for path in files
        for value in pq.ParquetFile(path).read(columns=[column]).column(column).to_pylist()
    }


def parts_in_use(root: Path, committed: set[str]) -> set[str]:
    """The Zarr parts that committed rows, current or past, refer to."""
    return {
        part
        for table in TABLES.values()
        if table.parts
        for part in _stored_values(committed_files(root, table, committed), "part")
    }


def committed_files(root: Path, table: Table, committed: set[str]) -> list[Path]:
    """The files of a table whose rows count; compacted ones hold committed rows only."""
    return [
        file.path
        for file in live_files(root, table)
        if file.batch_id is None or file.batch_id in committed
    ]


def _source(table: Table, files: Sequence[Path]) -> str:
    """A query of a table's stored columns, with their types even when there are no files."""
    typed = ", ".join(
        f"CAST({column.name} AS {column.duckdb_type}) AS {column.name}" for column in table.columns
    )
    if files:
        listed = ", ".join(_quote(str(path)) for path in files)
        origin = f"read_parquet([{listed}], hive_partitioning = true, hive_types_autocast = false)"
        return f"SELECT {typed} FROM {origin}"  # noqa: S608 - registry names and our own paths
    empty = ", ".join(
        f"CAST(NULL AS {column.duckdb_type}) AS {column.name}" for column in table.columns
    )
    return f"SELECT {empty} WHERE false"


def _newest(table: Table, columns: str) -> str:
    keys = ", ".join(table.key)
    kept = " AND NOT retracted" if "retracted" in table.column_names else ""
    return (
        f"SELECT {columns} FROM {table.name}_history "  # noqa: S608 - registry names
        f"QUALIFY rank() OVER (PARTITION BY {keys} ORDER BY batch_number DESC) = 1{kept}"
    )


def _result(table: Table, columns: str) -> str:
    return (
        f"SELECT {columns} FROM {table.name}_history SEMI JOIN "  # noqa: S608 - registry names
        f"(SELECT knee_visit, batch_id FROM current_results WHERE step = '{table.step}') "
        "USING (knee_visit, batch_id)"
    )


def _of_analysis(table: Table, columns: str) -> str:
    newest = _newest(TABLES[ANALYSES], "analysis, batch_id")
    return (
        f"SELECT {columns} FROM {table.name}_history SEMI JOIN ({newest}) "  # noqa: S608 - registry names
        "USING (analysis, batch_id)"
    )


def _names_views(query: str) -> bool:
    """Whether a query says which views it reads; one on the catalogue may mean any."""
    words = set(_WORD.findall(query.lower()))
    known = _STORED.union(file.name for file in sql.views(VIEW_GROUPS))
    return bool(words & known) and not words & _CATALOGUE


def _wanted(query: str | None) -> frozenset[str]:
    """The views to make for a query, by name; see `view_statements`."""
    files = {file.name: file for file in sql.views(VIEW_GROUPS)}
    if query is None:
        return _STORED.union(files)
    if not _names_views(query):
        return _STORED | {name for name, file in files.items() if file.group not in LAZY_GROUPS}
    chosen = sql.needed_by(query, VIEW_GROUPS)
    needed = _STORED & set(_WORD.findall(query.lower()))
    for name in chosen:
        needed |= {relation for relation in _STORED if files[name].mentions(relation)}
    if any(TABLES[name].step in LEDGER_STEPS for name in needed if name in TABLES):
        needed |= {"current_results", "ledger"}
    if any(TABLES[name].step == "statistics" for name in needed if name in TABLES):
        needed |= {ANALYSES}
    return needed.union(chosen, (f"{name}_history" for name in needed if name in TABLES))


def view_statements(root: Path, query: str | None = None) -> Iterator[str]:
    """The statements that make every view, in order.

    With a query, macros and views it does not need are left out: DuckDB checks a view when it is
    made, and a table's log is read to make one, so all of them take longer than most queries on
    them. A query that names none of them, or asks for the catalogue, gets all but those of
    `LAZY_GROUPS`.

    `batches` is looked at first: what it lists is complete in every table looked at later.
    """
    wanted = _wanted(query)
    files = {file.name: file for file in sql.views(VIEW_GROUPS) if file.name in wanted}
    committed = committed_batches(root)
    batches = TABLES["batches"]
    yield (f"CREATE VIEW batches AS {_source(batches, committed_files(root, batches, committed))}")
    for table in TABLES.values():
        if table is not batches and f"{table.name}_history" in wanted:
            source = _source(table, committed_files(root, table, committed))
            yield (
                f"CREATE VIEW {table.name}_history AS SELECT rows.*, batches.batch_number "  # noqa: S608 - registry names
                f"FROM ({source}) AS rows JOIN batches USING (batch_id)"
            )
    if "ledger" in wanted:
        ledger = TABLES["ledger"]
        yield f"CREATE VIEW ledger AS {_newest(ledger, ', '.join(ledger.column_names))}"
    if query is None:
        yield from (file.text for file in sql.macros())
    else:
        yield from sql.macro_statements([query, *(file.text for file in files.values())])
    if "current_results" in files:
        yield f"CREATE VIEW current_results AS {files.pop('current_results').text}"
    for table in TABLES.values():
        if table.name not in wanted or not table.step:
            continue
        columns = ", ".join(table.column_names)
        if table.step == "statistics":
            yield f"CREATE VIEW {table.name} AS {_of_analysis(table, columns)}"
        elif table.step in LEDGER_STEPS:
            yield f"CREATE VIEW {table.name} AS {_result(table, columns)}"
        else:
            yield f"CREATE VIEW {table.name} AS {_newest(table, columns)}"
    for file in files.values():
        yield f"CREATE VIEW {file.name} AS {file.text}"


_PLACEHOLDERS: dict[str, str] = {}
"""By the name of a view: a query without rows of the same columns and types.

They follow from the registry and the shipped files alone, so they hold for every lake."""


def _execute(connection: duckdb.DuckDBPyConnection, statements: Sequence[str]) -> None:
    """Run the statements that make macros and views, views that read others after those.

    DuckDB binds a view when it is made, and with it every view below it down to the files: one by
    one, a deep stack is bound over and over. Where the columns of all of them are known, each is
    made on placeholders of those below, from the top down, and bound once by itself; a query then
    finds the real ones.
    """
    views = [(found[1], text) for text in statements if (found := _VIEW.match(text))]
    if not all(name in _PLACEHOLDERS for name, _ in views):
        for text in statements:
            connection.execute(text)
        _remember_columns(connection)
        return
    for name, _ in views:
        connection.execute(f"CREATE VIEW {name} AS {_PLACEHOLDERS[name]}")
    for text in statements:
        if not _VIEW.match(text):
            connection.execute(text)
    for _, text in reversed(views):
        connection.execute(text.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


def shared_views(query: str | None = None) -> tuple[str, ...]:
    """Views that more than one other reads, each after those it reads.

    DuckDB writes a view out at every place that names it, and plans each anew: a query over a few
    dozen files becomes one over hundreds. Only views of at most a row per knee-visit and network
    count, which are small; and `batches`, which every table's history reads.

    Args:
        query: only those that it and the views it needs read more than once; None for those that
            any two shipped files read.
    """
    readers, words = list(sql.load_all().values()), set()
    if query is not None:
        if not _names_views(query):
            return ()
        chosen = sql.needed_by(query, VIEW_GROUPS)
        readers = [file for file in sql.views(VIEW_GROUPS) if file.name in chosen]
        words = set(_WORD.findall(query.lower()))
    # A file names itself in no more than its comments.
    found = [
        file.name
        for file in sql.views(LAZY_GROUPS)
        if sum(reader.mentions(file.name) for reader in readers) + (file.name in words) > 1
    ]
    return ("batches", *found)


def settle(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    """Work out some views once, for all that read them; each after those it reads.

    On one thread: a sum over threads differs from run to run in its last digits.
    """
    connection.execute("SET threads = 1")
    for name in names:
        connection.execute(f"CREATE TABLE settled_{name} AS FROM {name}")
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM settled_{name}")
    connection.execute("RESET threads")


def _remember_columns(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE table_name IN (SELECT view_name FROM duckdb_views() WHERE NOT internal) "
        "ORDER BY table_name, column_index"
    ).fetchall()
    columns: dict[str, list[str]] = {}
    for name, column, kind in rows:
        columns.setdefault(name, []).append(f'CAST(NULL AS {kind}) AS "{column}"')
    for name, typed in columns.items():
        _PLACEHOLDERS[name] = f"SELECT {', '.join(typed)} WHERE false"


def connect(
    root: Path, settings: Mapping[str, Any] | None = None, query: str | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with every view, on what is committed at this moment.

    Args:
        root: the lake's folder.
        settings: values for `sql.settings()` in place of their defaults.
        query: what will be asked, where nothing else will; see `view_statements`. What it needs
            more than once is worked out here, with these settings.

    Raises:
        LakeError: a setting that no view reads.
    """
    known = sql.settings()
    unknown = sorted(set(settings or {}) - set(known))
    if unknown:
        raise LakeError(f"no view reads {', '.join(unknown)}; there are {', '.join(known)}")
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # A name in a query is a view, never a variable of the program that asks.
            "python_enable_replacements": "false",
        }
    )
    try:
        for name, value in (settings or {}).items():
            # The name is one of those the shipped files declare.
            connection.execute(f"SET VARIABLE {name} = $1", [value])
        _execute(connection, list(view_statements(root, query)))
        if query is not None:
            settle(connection, shared_views(query))
    except BaseException:
        connection.close()
        raise
    return connection


def require_read_only(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse anything but one query.

    Raises:
        LakeError: the text is no query, several, or one that changes something.
    """
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise LakeError(f"this is not SQL that DuckDB understands: {error}") from error
    if len(statements) != 1:
        raise LakeError(f"give one query; this text holds {len(statements)}")
    kind = statements[0].type
    # PIVOT without a list of values is two statements to DuckDB: find the values, then pivot.
    is_pivot = kind == duckdb.StatementType.MULTI and "pivot" in query.lower()
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN) and not is_pivot:
        raise LakeError(
            f"the lake is read-only in SQL; {kind.name} is not a query "
            "(to store a result, use `--format` and a file)"
        )


def write_catalog(root: Path, path: Path) -> None:
    """Write the views as a DuckDB file for other clients, swapped in whole.

    It holds no data and is out of date after the next batch: write it again.
    """
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    with duckdb.connect(str(staged)) as connection:
        for statement in view_statements(root):
            connection.execute(statement)
    fsync_file(staged)
    staged.replace(path)
    fsync_directory(path.parent)
