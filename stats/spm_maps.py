"""Maps and their cases: two relations that are checked to fit each other, and read as arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from stats.errors import StatisticsError
from stats.identifiers import quote_identifier
from stats.spm_design import (
    SpmCases,
    SpmDesign,
    column_types,
    is_number,
    listed,
    read_cases,
    require_columns,
)
from stats.spm_sql import MAP_ROWS, Layout

ExtraMaps = Literal["refuse", "ignore"]

_BATCH_VERTICES = 8192


@dataclass(frozen=True, eq=False)
class MapMatrix:
    """A map as an array.

    Attributes:
        values: shape (n_case, n_vertex), NaN where missing.
        vertex: number of each vertex, rising, shape (n_vertex,).
        cases: what the rows are.
    """

    values: NDArray[np.float64]
    vertex: NDArray[np.int64]
    cases: SpmCases


def recognise_layout(there: Mapping[str, str], case: str, maps: str) -> Layout:
    """How a maps relation holds its values, from its columns.

    Raises:
        StatisticsError: it is none of the three, or more than one.
    """
    has = {name: name in there for name in ("vertex", "values", "value", case)}
    if has["vertex"] and has["values"] and not has["value"]:
        return "vertex_rows"
    if has["vertex"] and has["value"] and has[case] and not has["values"]:
        return "long"
    if has[case] and has["values"] and not has["vertex"] and not has["value"]:
        return "case_rows"
    raise StatisticsError(
        f"the maps {maps!r} have the columns {', '.join(there)}; give (vertex, values) with one "
        f"row per vertex, ({case}, vertex, value), or ({case}, values) with one row per case"
    )


@dataclass(frozen=True, eq=False)
class CheckedMaps:
    """Maps and cases that fit each other.

    Attributes:
        maps: the maps' relation, unquoted.
        layout: how its rows hold the values.
        kind: DuckDB's type of `values`, or of `value`.
        width: values per row of `vertex_rows`, whether their cases are used or not.
        cases: those that are used.
    """

    maps: str
    layout: Layout
    kind: str
    width: int
    cases: SpmCases


def check_maps(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
) -> CheckedMaps:
    """Check two relations against each other and a design; arguments as `stats.spm.spm`.

    Raises:
        StatisticsError: what does not fit.
    """
    if cases.lower() == MAP_ROWS:
        raise StatisticsError(f"the statement itself uses the name {MAP_ROWS}; rename the cases")
    there = column_types(connection, maps, "maps")
    found: Layout = layout or recognise_layout(there, design.case, maps)
    columns = {
        "vertex_rows": ("vertex", "values"),
        "long": (design.case, "vertex", "value"),
        "case_rows": (design.case, "values"),
    }[found]
    require_columns(there, columns, maps, "maps")
    kind = there[columns[-1]]
    if not is_number(kind.partition("[")[0]):
        raise StatisticsError(
            f"{columns[-1]!r} of the maps {maps!r} is {kind}; give numbers, and NULL (in CSV an "
            "empty field) where one is missing"
        )
    read = read_cases(connection, cases, design, positions=found == "vertex_rows")
    if found == "vertex_rows":
        width = _width(connection, maps)
        _check_positions(read, width, maps, extra_maps)
    else:
        width = read.n
        if there[design.case] != column_types(connection, cases, "cases")[design.case]:
            raise StatisticsError(
                f"{design.case!r} is {there[design.case]} in the maps {maps!r} and another type in "
                f"the cases {cases!r}; cast one"
            )
        _check_keys(connection, maps, read, cases, extra_maps)
        if found == "case_rows":
            _check_case_rows(connection, maps, design.case)
    if found != "case_rows":
        _check_vertices(connection, maps)
    return CheckedMaps(maps, found, kind, width, read)


def _width(connection: duckdb.DuckDBPyConnection, maps: str) -> int:
    rows = connection.execute(
        f"SELECT len(values) FROM {quote_identifier(maps)} WHERE values IS NOT NULL LIMIT 1"
    ).fetchall()
    if not rows:
        raise StatisticsError(f"the maps {maps!r} hold no values")
    return int(rows[0][0])


def _check_positions(cases: SpmCases, width: int, maps: str, extra_maps: ExtraMaps) -> None:
    highest = int(cases.position.max())
    if highest > width:
        raise StatisticsError(
            f"a case has position {highest}, but a row of {maps!r} holds {width} values; the "
            "values and the cases are of different sets"
        )
    extra = width - cases.n - cases.n_dropped
    if extra > 0 and extra_maps == "refuse":
        raise StatisticsError(
            f"the maps {maps!r} hold {width} values a vertex and the cases are "
            f"{cases.n + cases.n_dropped}; give every case, or extra_maps='ignore' to leave "
            f"{extra} out"
        )


def _check_keys(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    read: SpmCases,
    cases: str,
    extra_maps: ExtraMaps,
) -> None:
    """Refuse cases without a map, and maps without a case unless asked to ignore them."""
    key = quote_identifier(read.design.case)
    in_maps = f"SELECT DISTINCT {key} AS k FROM {quote_identifier(maps)}"
    in_cases = f"SELECT {key} AS k FROM {read.relation}"
    used = f"{in_cases} WHERE {read.filter_sql}"

    def only(first: str, second: str) -> list[str]:
        rows = connection.execute(
            f"SELECT k::VARCHAR FROM ({first}) ANTI JOIN ({second}) USING (k) ORDER BY 1"
        ).fetchall()
        return [str(row[0]) for row in rows]

    missing = only(used, in_maps)
    if missing:
        raise StatisticsError(
            f"{len(missing)} cases of {cases!r} have no map in {maps!r}: {listed(missing)}"
        )
    extra = only(in_maps, in_cases)
    if extra and extra_maps == "refuse":
        raise StatisticsError(
            f"{len(extra)} cases of the maps {maps!r} are not in {cases!r}: {listed(extra)}; add "
            "them, or give extra_maps='ignore' to leave them out"
        )


def _check_vertices(connection: duckdb.DuckDBPyConnection, maps: str) -> None:
    unnumbered = connection.execute(
        f"SELECT count(*) FROM {quote_identifier(maps)} WHERE vertex IS NULL"
    ).fetchall()[0][0]
    if unnumbered:
        raise StatisticsError(f"the maps {maps!r} have {unnumbered} rows without a vertex")


def _check_case_rows(connection: duckdb.DuckDBPyConnection, maps: str, case: str) -> None:
    relation, key = quote_identifier(maps), quote_identifier(case)
    repeated = connection.execute(
        f"SELECT {key}::VARCHAR FROM {relation} GROUP BY ALL HAVING count(*) > 1 ORDER BY 1"
    ).fetchall()
    if repeated:
        raise StatisticsError(
            f"the maps {maps!r} hold these cases more than once: {listed([r[0] for r in repeated])}"
        )
    lengths = connection.execute(
        f"SELECT len(values), min({key}::VARCHAR), count(*) FROM {relation} "
        "GROUP BY ALL ORDER BY count(*) DESC, 1"
    ).fetchall()
    if len(lengths) > 1:
        raise StatisticsError(
            f"the maps {maps!r} have different numbers of values: {lengths[0][0]} in most cases, "
            f"{lengths[1][0]} in {lengths[1][1]}"
        )


def refuse_uneven(connection: duckdb.DuckDBPyConnection, checked: CheckedMaps) -> None:
    """Refuse maps of one row per vertex with lists of several lengths; NULL for a list is none.

    Raises:
        StatisticsError: naming the first vertex.
    """
    uneven = connection.execute(
        f"SELECT vertex, len(values) FROM {quote_identifier(checked.maps)} "
        "WHERE len(values) <> ? ORDER BY vertex LIMIT 1",
        [checked.width],
    ).fetchall()
    if uneven:
        raise StatisticsError(
            f"vertex {uneven[0][0]} of the maps {checked.maps!r} has {uneven[0][1]} values, others "
            f"{checked.width}"
        )


def vertex_batches(
    connection: duckdb.DuckDBPyConnection, checked: CheckedMaps
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating[Any]]]]:
    """Maps of one row per vertex, some vertices at a time, in no promised order.

    Yields:
        Number of each vertex, shape (v,), and its values, shape (v, width), of float32 where they
        are stored so; NaN where missing.

    Raises:
        StatisticsError: values that are not `width` numbers.
    """
    kind = "FLOAT[]" if checked.kind.startswith("FLOAT") else "DOUBLE[]"
    query = (
        f"SELECT vertex::BIGINT AS vertex, values::{kind} AS v "
        f"FROM {quote_identifier(checked.maps)}"
    )
    for batch in connection.sql(query).to_arrow_reader(_BATCH_VERTICES):
        vertex, lists = batch.column(0), batch.column(1)
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        there = ~np.isnan(lengths)
        if (lengths[there] != checked.width).any():
            refuse_uneven(connection.cursor(), checked)
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(-1, checked.width)
        if not there.all():
            known = values
            values = np.full((len(lists), checked.width), np.nan, flat.dtype)
            values[there] = known
        yield vertex.to_numpy(), values


def map_matrix(connection: duckdb.DuckDBPyConnection, checked: CheckedMaps) -> MapMatrix:
    """A map as an array of its cases by its vertices, for what is not SQL.

    Raises:
        StatisticsError: not as many values at every vertex, or a case's value at one more than
            once.
    """
    if checked.layout == "vertex_rows":
        batches = list(vertex_batches(connection, checked))
        vertex = np.concatenate([each for each, _ in batches])
        order = np.argsort(vertex, kind="stable")
        chosen = checked.cases.position - 1
        values = np.empty((checked.cases.n, len(vertex)))
        start = 0
        for numbers, by_vertex in batches:
            values[:, start : start + len(numbers)] = by_vertex[:, chosen].T
            start += len(numbers)
        in_order = bool((order[:-1] < order[1:]).all())
        return MapMatrix(values if in_order else values[:, order], vertex[order], checked.cases)
    return _matrix_of_cases(connection, checked)


def _matrix_of_cases(connection: duckdb.DuckDBPyConnection, checked: CheckedMaps) -> MapMatrix:
    """The same from one row per case and vertex, or per case."""
    read, relation = checked.cases, quote_identifier(checked.maps)
    key = quote_identifier(read.design.case)
    rows = (
        f"SELECT {key} AS k, vertex::BIGINT AS vertex, value::DOUBLE AS value FROM {relation}"
        if checked.layout == "long"
        else f"SELECT {key} AS k, generate_subscripts(values, 1) - 1 AS vertex, "
        f"unnest(values)::DOUBLE AS value FROM {relation}"
    )
    found = connection.sql(
        f"SELECT place, vertex, value FROM ({rows}) LEFT JOIN (SELECT {key} AS k, "
        f"row_number() OVER (ORDER BY {key}) - 1 AS place FROM {read.relation} "
        f"WHERE {read.filter_sql}) USING (k)"
    ).to_arrow_table()
    frame = pl.DataFrame(pl.from_arrow(found))
    vertex = frame["vertex"].unique().sort().to_numpy()
    frame = frame.drop_nulls("place")
    column = np.searchsorted(vertex, frame["vertex"].to_numpy())
    place = frame["place"].to_numpy()
    filled = np.zeros((read.n, len(vertex)), np.bool_)
    filled[place, column] = True
    if np.count_nonzero(filled) < frame.height:
        twice = frame.filter(frame.select("place", "vertex").is_duplicated())["vertex"]
        raise repeated_value(checked.maps, twice.to_numpy().min())
    values = np.full((read.n, len(vertex)), np.nan)
    values[place, column] = frame["value"].to_numpy()
    return MapMatrix(values, vertex, read)


def repeated_value(maps: str, vertex: int) -> StatisticsError:
    """What to say of a value that is there twice."""
    return StatisticsError(
        f"the maps {maps!r} hold a case's value at a vertex more than once, as at vertex {vertex}"
    )
