"""Statistical parametric mapping: an ANCOVA of every vertex of a map on group and covariates.

Source: the paper's "point-by-point SPM ... using ANOVA group comparison considering age, sex and
BMI as confounding factors". The statistics are SQL (`stats.spm_sql`); here the relations are
checked, the statement is run and what could not be tested is counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from sql.reading import fetch
from stats.errors import StatisticsError
from stats.identifiers import quote_identifier
from stats.spm_design import (
    SpmCases,
    SpmDesign,
    column_types,
    listed,
    read_cases,
    require_columns,
)
from stats.spm_sql import MAP_ROWS, Layout, SpmStatement, statement_text

ExtraMaps = Literal["refuse", "ignore"]


@dataclass(frozen=True, eq=False)
class SpmResult:
    """The ANCOVA of one map.

    Attributes:
        points: one row per vertex, columns `stats.spm_sql.POINT_COLUMNS`; statistics are NULL, and
            `reason` says why, where a vertex could not be tested.
        n_cases: cases used.
        n_dropped: cases left out, their group, a covariate or the block being missing.
        n_group0: cases of group 0.
        n_group1: cases of group 1.
        n_vertices: vertices of the map.
        n_tested: vertices with a test.
        not_tested: number of vertices by reason.
        sql: the statement.
    """

    points: pl.DataFrame
    n_cases: int
    n_dropped: int
    n_group0: int
    n_group1: int
    n_vertices: int
    n_tested: int
    not_tested: Mapping[str, int]
    sql: str


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
class _Source:
    """A checked pair of relations."""

    statement: SpmStatement
    cases: SpmCases


def _source(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    layout: Layout | None,
    extra_maps: ExtraMaps,
    confidence: float,
) -> _Source:
    if not 0 < confidence < 1:
        raise StatisticsError(f"a confidence of {confidence} is not between 0 and 1")
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
    return _Source(SpmStatement(maps, found, width, confidence), read)


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


def spm_sql(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    *,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
    confidence: float = 0.95,
) -> str:
    """The statement that `spm` would run, checked against the relations. Arguments as there."""
    source = _source(connection, maps, cases, design, layout, extra_maps, confidence)
    return statement_text(source.statement, source.cases)


def spm(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    *,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
    confidence: float = 0.95,
) -> SpmResult:
    """Ordinary least squares of each vertex on the group and the covariates.

    A missing value (NULL or NaN) leaves its case out at that vertex only, exactly. Hedges' g is
    the adjusted difference over the residual standard deviation, with the small-sample factor
    (Hedges 1981, doi:10.3102/10769986006002107) and its large-sample interval. Adjusted means are
    at the mean covariates of the cases with a value there.

    Args:
        connection: with the macros of `sql.macros()`.
        maps: relation of the maps, in one of three layouts (`vertex, values`; `case, vertex,
            value`; `case, values`).
        cases: relation of the cases, one row each.
        design: what the columns of the cases are.
        layout: of the maps; None to recognise it from the columns.
        extra_maps: whether maps of cases that are not in `cases` are refused or left out.
        confidence: of the intervals.

    Raises:
        StatisticsError: the relations do not fit each other or the design, or hold infinite or
            repeated values.
    """
    source = _source(connection, maps, cases, design, layout, extra_maps, confidence)
    text = statement_text(source.statement, source.cases)
    try:
        points = fetch(connection, text)
    except duckdb.ConversionException as error:
        raise StatisticsError(
            f"the rows of the maps {maps!r} do not all hold {source.statement.width} numbers: "
            f"{error}"
        ) from error
    if source.statement.layout == "vertex_rows":
        _refuse_uneven(connection, maps, source)
    _refuse_points(points, maps)
    return _result(points, source.cases, text)


def _refuse_uneven(connection: duckdb.DuckDBPyConnection, maps: str, source: _Source) -> None:
    """Refuse lists of several lengths where the statement picks from them (it cannot tell)."""
    width = source.statement.width
    if width == source.cases.n:
        return
    uneven = connection.execute(
        f"SELECT vertex, len(values) FROM {quote_identifier(maps)} "
        "WHERE len(values) IS DISTINCT FROM ? ORDER BY vertex LIMIT 1",
        [width],
    ).fetchall()
    if uneven:
        raise StatisticsError(
            f"vertex {uneven[0][0]} of the maps {maps!r} has {uneven[0][1]} values, others {width}"
        )


def _refuse_points(points: pl.DataFrame, maps: str) -> None:
    if points["vertex"].null_count():
        raise StatisticsError(f"the maps {maps!r} have rows without a vertex")
    repeated = points.filter(pl.col("vertex").is_duplicated() | (pl.col("reason") == "repeated"))
    if repeated.height:
        raise StatisticsError(
            f"the maps {maps!r} hold a case's value at a vertex more than once, as at vertex "
            f"{repeated['vertex'][0]}"
        )
    infinite = points.filter(pl.col("reason") == "infinite")
    if infinite.height:
        raise StatisticsError(
            f"the maps {maps!r} hold infinite values at {infinite.height} vertices, the first "
            f"{infinite['vertex'][0]}; make them NULL if they are missing"
        )


def _result(points: pl.DataFrame, cases: SpmCases, text: str) -> SpmResult:
    reasons = points.drop_nulls("reason")["reason"].value_counts(sort=True)
    not_tested = dict(zip(reasons["reason"].to_list(), reasons["count"].to_list(), strict=True))
    return SpmResult(
        points=points,
        n_cases=cases.n,
        n_dropped=cases.n_dropped,
        n_group0=int((~cases.group).sum()),
        n_group1=int(cases.group.sum()),
        n_vertices=points.height,
        n_tested=points.height - sum(not_tested.values()),
        not_tested=dict(sorted(not_tested.items())),
        sql=text,
    )


def map_matrix(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    *,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
) -> MapMatrix:
    """A map as an array of its cases by its vertices, for what is not SQL. Arguments as `spm`."""
    source = _source(connection, maps, cases, design, layout, extra_maps, 0.95)
    relation, read = quote_identifier(maps), source.cases
    if source.statement.layout == "vertex_rows":
        table = connection.sql(
            f"SELECT vertex::BIGINT AS vertex, values::DOUBLE[{source.statement.width}] AS v "
            f"FROM {relation} ORDER BY vertex"
        ).to_arrow_table()
        vertex = table["vertex"].to_numpy()
        flat = table["v"].combine_chunks().values.to_numpy(zero_copy_only=False)
        by_vertex = flat.reshape(len(vertex), source.statement.width)
        values = np.ascontiguousarray(by_vertex[:, read.position - 1].T)
        return MapMatrix(values, vertex, read)
    key = quote_identifier(design.case)
    rows = (
        f"SELECT {key} AS k, vertex::BIGINT AS vertex, value::DOUBLE AS value FROM {relation}"
        if source.statement.layout == "long"
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
    frame = frame.drop_nulls()
    values = np.full((read.n, len(vertex)), np.nan)
    column = np.searchsorted(vertex, frame["vertex"].to_numpy())
    values[frame["place"].to_numpy(), column] = frame["value"].to_numpy()
    return MapMatrix(values, vertex, read)
