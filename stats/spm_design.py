"""The design of a point-by-point ANCOVA: which knees, in which group, with which covariates."""

from dataclasses import dataclass, field

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from sql.reading import fetch
from stats.errors import StatisticsError
from stats.identifiers import quote_identifier, quote_literal

COLLINEAR = 1e-7
"""A covariate is refused when less than this share of its spread is its own."""

_MOST_LEVELS = 20


@dataclass(frozen=True)
class SpmDesign:
    """Which column of the cases relation plays which part.

    Attributes:
        group: 0 or 1, or false or true; every difference is group 1 minus group 0.
        covariates: numbers, booleans, or text; a text column of k levels becomes k - 1 indicators.
        case: key of a case, in the cases and in the maps.
        block: the unit that permutations keep together, such as `subject_id`; None where every
            case is a person of its own.
        position: index of a case in `values`, from 1, for maps of one row per vertex.
        min_per_group: a vertex with values of fewer cases of either group is not tested.
    """

    group: str
    covariates: tuple[str, ...] = ("age", "sex", "bmi")
    case: str = "case"
    block: str | None = None
    position: str = "position"
    min_per_group: int = 2


@dataclass(frozen=True, eq=False)
class SpmCases:
    """The cases that are used, in the order of the rows of every matrix over them.

    Attributes:
        keys: `case` of each, shape (n,).
        position: 1-based index of each into `values` (or its rank where there is none), shape (n,).
        columns: design matrix without the intercept, group last, shape (n, 1 + n_covariate).
        names: of those columns.
        expressions: the SQL that makes those columns.
        block: number of the block of each case from 0, shape (n,); None without blocks.
        n_dropped: cases left out because their group, covariate or block is missing.
        relation: the quoted relation they were read from.
    """

    keys: pl.Series
    position: NDArray[np.int64]
    columns: NDArray[np.float64]
    names: tuple[str, ...]
    expressions: tuple[str, ...]
    block: NDArray[np.int64] | None
    n_dropped: int
    relation: str
    design: SpmDesign = field(repr=False)
    filter_sql: str = field(repr=False, default="")
    has_position: bool = False

    @property
    def n(self) -> int:
        """Number of cases used."""
        return len(self.keys)

    @property
    def group(self) -> NDArray[np.bool_]:
        """Which cases are of group 1."""
        return self.columns[:, -1] == 1.0

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The whole design: intercept, covariates, group; shape (n, 2 + n_covariate)."""
        return np.column_stack([np.ones(self.n), self.columns])


def column_types(connection: duckdb.DuckDBPyConnection, relation: str, what: str) -> dict[str, str]:
    """Type of each column of a relation, by name.

    Raises:
        StatisticsError: the connection has no such table or view.
    """
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {quote_identifier(relation)}").fetchall()
    except duckdb.CatalogException as error:
        raise StatisticsError(
            f"there is no table or view {relation!r} to read the {what} from; name one of the "
            "connection"
        ) from error
    return {str(row[0]): str(row[1]) for row in rows}


def require_columns(
    there: dict[str, str], wanted: tuple[str, ...], relation: str, what: str
) -> None:
    """Refuse a relation that lacks a column.

    Raises:
        StatisticsError: naming what is missing and what there is.
    """
    missing = [name for name in wanted if name not in there]
    if missing:
        raise StatisticsError(
            f"the {what} {relation!r} have no column {', '.join(map(repr, missing))}; there are "
            f"{', '.join(there)}"
        )


def is_number(kind: str) -> bool:
    """Whether a type of DuckDB is one of numbers; booleans are."""
    return (
        kind.startswith(("DECIMAL", "BOOLEAN", "FLOAT", "DOUBLE"))
        or kind.endswith("INT")
        or (kind in ("INTEGER", "UINTEGER"))
    )


def _indicators(
    connection: duckdb.DuckDBPyConnection, relation: str, name: str, condition: str
) -> list[tuple[str, str]]:
    """Name and SQL of the indicators of a text covariate, its first level left out."""
    column = quote_identifier(name)
    rows = connection.execute(
        f"SELECT DISTINCT {column}::VARCHAR AS level FROM {relation} "
        f"WHERE {condition} ORDER BY level"
    ).fetchall()
    levels = [str(row[0]) for row in rows]
    if len(levels) > _MOST_LEVELS:
        raise StatisticsError(
            f"covariate {name!r} is text with {len(levels)} levels, such as "
            f"{', '.join(map(repr, levels[:3]))}; give numbers, or a factor of at most "
            f"{_MOST_LEVELS} levels"
        )
    return [
        (f"{name}={level}", f"({column}::VARCHAR = {quote_literal(level)})::INTEGER::DOUBLE")
        for level in levels[1:]
    ] or [(name, "1::DOUBLE")]


def read_cases(
    connection: duckdb.DuckDBPyConnection, cases: str, design: SpmDesign, *, positions: bool
) -> SpmCases:
    """Read and check the cases of a design.

    Args:
        connection: where the relation is.
        cases: table or view, one row per case.
        design: what its columns are.
        positions: whether the maps are one row per vertex, so that each case needs a position.

    Raises:
        StatisticsError: a column is missing, a case comes twice, the group is not 0/1 or has one
            level, a covariate is constant or follows from the others, or too few cases are left.
    """
    there = column_types(connection, cases, "cases")
    wanted = [design.case, design.group, *design.covariates]
    wanted += [design.block] if design.block is not None else []
    wanted += [design.position] if positions else []
    require_columns(there, tuple(wanted), cases, "cases")
    repeated = {name for name in wanted[1:] if wanted[1:].count(name) > 1}
    if repeated:
        raise StatisticsError(f"{', '.join(sorted(repeated))}: used twice in the design")
    if not is_number(there[design.group]):
        raise StatisticsError(
            f"the group {design.group!r} is {there[design.group]}; give 0 and 1 (or false and "
            "true), so that it is plain which group is subtracted from which"
        )
    relation = quote_identifier(cases)
    numeric = [name for name in (design.group, *design.covariates) if is_number(there[name])]
    if design.block is not None and is_number(there[design.block]):
        numeric.append(design.block)
    # An identifier's type is free; a number has to be finite too.
    conditions = [f"{quote_identifier(name)} IS NOT NULL" for name in wanted]
    conditions += [f"isfinite({quote_identifier(name)}::DOUBLE)" for name in numeric]
    condition = " AND ".join(conditions)
    named: list[tuple[str, str]] = []
    for name in design.covariates:
        if name in numeric:
            named.append((name, f"{quote_identifier(name)}::DOUBLE"))
        else:
            named += _indicators(connection, relation, name, condition)
    named.append((design.group, f"{quote_identifier(design.group)}::DOUBLE"))
    order = quote_identifier(design.position if positions else design.case)
    selected = ", ".join(f"{sql} AS x{index}" for index, (_, sql) in enumerate(named, 1))
    block = "NULL" if design.block is None else quote_identifier(design.block)
    used = fetch(
        connection,
        f"SELECT {quote_identifier(design.case)} AS case_key, {block} AS block, "
        f"{order if positions else 'NULL'} AS position, {selected} "
        f"FROM {relation} WHERE {condition} ORDER BY {order}",
    )
    total = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0]
    _refuse_repeated(connection, relation, design.case, cases)
    columns = used.select(f"x{index}" for index in range(1, len(named) + 1)).to_numpy()
    names = tuple(name for name, _ in named)
    _check_design(np.ascontiguousarray(columns, dtype=np.float64), names, cases)
    if positions:
        position = used["position"].cast(pl.Int64).to_numpy()
        if len(set(position.tolist())) < len(position) or position.min() < 1:
            raise StatisticsError(
                f"{design.position!r} of the cases {cases!r} has to be the 1-based index of each "
                "case into `values`, each index once"
            )
    else:
        position = np.arange(1, used.height + 1)
    return SpmCases(
        keys=used["case_key"],
        position=position,
        columns=np.ascontiguousarray(columns, dtype=np.float64),
        names=names,
        expressions=tuple(sql for _, sql in named),
        block=(
            None
            if design.block is None
            else used["block"].rank("dense").cast(pl.Int64).to_numpy() - 1
        ),
        n_dropped=int(total) - used.height,
        relation=relation,
        design=design,
        filter_sql=condition,
        has_position=positions,
    )


def _refuse_repeated(
    connection: duckdb.DuckDBPyConnection, relation: str, case: str, cases: str
) -> None:
    repeated = connection.execute(
        f"SELECT {quote_identifier(case)}::VARCHAR FROM {relation} "
        f"GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 6"
    ).fetchall()
    if repeated:
        raise StatisticsError(
            f"the cases {cases!r} hold these more than once: {listed([row[0] for row in repeated])}"
            "; give one row per case"
        )


def listed(names: list[str], most: int = 5) -> str:
    """The first few of some names."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def _check_design(columns: NDArray[np.float64], names: tuple[str, ...], cases: str) -> None:
    """Refuse a design that cannot be estimated even where no value is missing."""
    n, width = columns.shape
    if n <= width + 1:
        raise StatisticsError(
            f"{n} complete cases in {cases!r} for {width + 1} coefficients; give more cases or "
            "fewer covariates"
        )
    group = columns[:, -1]
    levels = np.unique(group)
    if not np.isin(levels, (0.0, 1.0)).all():
        raise StatisticsError(
            f"the group {names[-1]!r} has the values {listed([f'{v:g}' for v in levels])}; code it "
            "0 and 1"
        )
    if len(levels) < 2:
        raise StatisticsError(
            f"every case of {cases!r} has {names[-1]} = {levels[0]:g}; a comparison needs cases of "
            "both groups"
        )
    spread = columns - columns.mean(axis=0)
    size = np.linalg.norm(spread, axis=0)
    scale = np.linalg.norm(columns, axis=0)
    for index, name in enumerate(names):
        if size[index] <= 1e-12 * scale[index]:
            raise StatisticsError(
                f"covariate {name!r} is the same in every case; leave it out of the design"
            )
    basis: list[NDArray[np.float64]] = []
    for index, name in enumerate(names):
        rest = spread[:, index] / size[index]
        for _ in range(2):
            for axis in basis:
                rest = rest - axis * (axis @ rest)
        own = float(np.linalg.norm(rest))
        if own < COLLINEAR:
            what = "the group" if index == len(names) - 1 else "covariate"
            raise StatisticsError(
                f"{what} {name!r} follows from {', '.join(map(repr, names[:index]))}; leave out "
                "a covariate"
            )
        basis.append(rest / own)
