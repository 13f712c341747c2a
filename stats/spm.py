"""Statistical parametric mapping: an ANCOVA of every vertex of a map on group and covariates.

Source: the paper's "point-by-point SPM ... using ANOVA group comparison considering age, sex and
BMI as confounding factors". The statistics are SQL (`stats.spm_sql`), or compiled loops and polars
with the same answers (`stats.spm_polars`); here one of the two is run and what could not be tested
is counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import polars as pl

from sql.reading import fetch
from stats.engines import Engine, check_engine
from stats.errors import StatisticsError
from stats.spm_design import SpmCases, SpmDesign
from stats.spm_maps import (
    CheckedMaps,
    ExtraMaps,
    check_maps,
    refuse_uneven,
    repeated_value,
)
from stats.spm_polars import points_of
from stats.spm_sql import Layout, SpmStatement, statement_text


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
        sql: the statement ('' for the polars engine).
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


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise StatisticsError(f"a confidence of {confidence} is not between 0 and 1")


def _text(checked: CheckedMaps, confidence: float) -> str:
    statement = SpmStatement(checked.maps, checked.layout, checked.width, confidence)
    return statement_text(statement, checked.cases)


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
    _check_confidence(confidence)
    return _text(check_maps(connection, maps, cases, design, layout, extra_maps), confidence)


def spm(
    connection: duckdb.DuckDBPyConnection,
    maps: str,
    cases: str,
    design: SpmDesign,
    *,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
    confidence: float = 0.95,
    engine: Engine = "sql",
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
        engine: 'sql', one statement; or 'polars', which reads the maps in batches and takes half
            the time.

    Raises:
        StatisticsError: the relations do not fit each other or the design, or hold infinite or
            repeated values.
    """
    _check_confidence(confidence)
    check_engine(engine)
    checked = check_maps(connection, maps, cases, design, layout, extra_maps)
    if engine == "polars":
        text, points = "", points_of(connection, checked, confidence)
    else:
        text = _text(checked, confidence)
        points = _run(connection, text, checked)
    _refuse_points(points, maps)
    return _result(points, checked.cases, text)


def _run(connection: duckdb.DuckDBPyConnection, text: str, checked: CheckedMaps) -> pl.DataFrame:
    by_vertex = checked.layout == "vertex_rows"
    try:
        points = fetch(connection, text)
    except duckdb.ConversionException:
        if by_vertex:
            refuse_uneven(connection, checked)
        raise
    # Where the statement picks some of the values, it cannot tell how many there are.
    if by_vertex and checked.width > checked.cases.n:
        refuse_uneven(connection, checked)
    return points


def _refuse_points(points: pl.DataFrame, maps: str) -> None:
    repeated = points.filter(pl.col("vertex").is_duplicated() | (pl.col("reason") == "repeated"))
    if repeated.height:
        raise repeated_value(maps, repeated["vertex"][0])
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
