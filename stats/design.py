"""From the terms of a model to the columns of its design, in SQL and in polars alike."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import polars as pl

from stats.errors import StatisticsError, StatisticsWarning
from stats.formula import Term, distinct_terms, parse_terms
from stats.identifiers import quote_identifier, quote_literal
from stats.source import describe, require_columns

MOST_LEVELS = 30
"""A factor of more is taken for a mistake: a number read as text, or a name."""
MOST_COLUMNS = 50
"""A model of more is refused: the statement has p^2 / 2 sums, and matrix libraries are faster."""

_NUMERIC = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip
_TEXT = ("VARCHAR", "ENUM")
Level = str | float | bool


def given_column(name: str) -> str:
    """A column of the relation, which statements call `given`.

    Bare, `model` would be ambiguous: the statements number their models by that name.
    """
    return f"given.{quote_identifier(name)}"


@dataclass(frozen=True)
class Atom:
    """A number of a row: a column's value, or whether it has a level (1 or 0).

    Attributes:
        column: its name.
        level: of a factor; None for the value itself.
    """

    column: str
    level: Level | None = None

    def sql(self) -> str:
        """As a DOUBLE expression over `given`; NULL where the column is."""
        name = given_column(self.column)
        if self.level is None:
            return f"CAST({name} AS DOUBLE)"
        if isinstance(self.level, str):
            return f"CAST(CAST({name} AS VARCHAR) = {quote_literal(self.level)} AS DOUBLE)"
        number = repr(float(self.level))
        return f"CAST(CAST({name} AS DOUBLE) = CAST('{number}' AS DOUBLE) AS DOUBLE)"

    def polars(self) -> pl.Expr:
        """The same for polars."""
        column = pl.col(self.column)
        if self.level is None:
            return column.cast(pl.Float64)
        if isinstance(self.level, str):
            return (column.cast(pl.String) == self.level).cast(pl.Float64)
        return (column.cast(pl.Float64) == float(self.level)).cast(pl.Float64)


@dataclass(frozen=True)
class Column:
    """One column of the design: a product.

    Attributes:
        name: 'Age', 'Sex[F vs M]', 'Age:Sex[F vs M]'.
        atoms: what is multiplied.
        term: index of the term it belongs to.
    """

    name: str
    atoms: tuple[Atom, ...]
    term: int

    def sql(self) -> str:
        """As a DOUBLE expression."""
        return " * ".join(atom.sql() for atom in self.atoms)

    def polars(self) -> pl.Expr:
        """The same for polars."""
        product = self.atoms[0].polars()
        for atom in self.atoms[1:]:
            product *= atom.polars()
        return product


@dataclass(frozen=True)
class Roles:
    """Columns of a table that are no terms.

    Attributes:
        outcome: 0 or 1.
        cluster: what rows of one cluster share.
        weights: frequency weights.
        offset: a known part of the log-odds.
        by: columns whose values tell models apart.
    """

    outcome: str
    cluster: str | None = None
    weights: str | None = None
    offset: str | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Design:
    """A model on one relation.

    Attributes:
        relation: its name.
        roles: the other columns.
        columns: of the design, without the intercept.
        base: how many of them belong to the first terms.
        levels: of each factor, the reference first.
        factors: columns that are factors, and whether they are text.
        rows: of the relation.
        cluster_is_float: whether the clusters are floats, where NaN is a missing one.
    """

    relation: str
    roles: Roles
    columns: tuple[Column, ...]
    base: int
    levels: Mapping[str, tuple[str, ...]]
    factors: Mapping[str, bool]
    rows: int
    cluster_is_float: bool


def level_name(level: Level) -> str:
    """A level as it is printed: 1.0 as '1'."""
    if isinstance(level, float) and level.is_integer():
        return str(int(level))
    return str(level)


def _kind(kind: str) -> str:
    if kind.startswith(_TEXT):
        return "text"
    return "number" if kind.startswith(_NUMERIC) and not kind.endswith("]") else "other"


def _is_float(columns: Mapping[str, str], name: str | None) -> bool:
    """Whether NaN may stand for a missing value, as in integers that pandas read with gaps."""
    return name is not None and columns[name] in ("FLOAT", "DOUBLE")


def _require_number(columns: Mapping[str, str], name: str, part: str) -> None:
    if _kind(columns[name]) != "number":
        raise StatisticsError(
            f"the {part} {name} is of type {columns[name]}; it has to be a number"
        )


def _require_marginality(terms: Sequence[Term], factors: Mapping[str, bool]) -> None:
    present = {frozenset(factor.column for factor in term) for term in terms}
    for term in terms:
        names = [factor.column for factor in term]
        if len(names) == 1 or not set(names) & set(factors):
            continue
        for name in names:
            rest = frozenset(names) - {name}
            if rest not in present:
                raise StatisticsError(
                    f"the model has {':'.join(names)}, with a factor, but not "
                    f"{':'.join(sorted(rest))}: tools differ in what its coefficients then mean. "
                    f"Add that term, or write {'*'.join(names)}"
                )


def complete_sql(terms: Sequence[Term], columns: Mapping[str, str], roles: Roles) -> list[str]:
    """Conditions of a row that has every value a model needs."""
    used = [factor.column for term in terms for factor in term]
    used += [name for name in (roles.outcome, roles.weights, roles.offset) if name is not None]
    conditions = []
    for name in dict.fromkeys(used):
        quoted = quote_identifier(name)
        if _kind(columns[name]) == "number":
            conditions.append(f"isfinite(CAST({quoted} AS DOUBLE))")
        else:
            conditions.append(f"{quoted} IS NOT NULL")
    if roles.cluster is not None:
        cluster = quote_identifier(roles.cluster)
        conditions.append(
            f"isfinite({cluster})"
            if _is_float(columns, roles.cluster)
            else f"{cluster} IS NOT NULL"
        )
    return conditions


def _levels(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    name: str,
    kind: str,
    conditions: Sequence[str],
) -> list[Level]:
    """Values of a factor on complete rows, sorted."""
    cast = "VARCHAR" if _kind(kind) == "text" else "BOOLEAN" if kind == "BOOLEAN" else "DOUBLE"
    rows = connection.execute(
        f"SELECT DISTINCT CAST({quote_identifier(name)} AS {cast}) AS level "  # noqa: S608 - quoted
        f"FROM {quote_identifier(relation)} WHERE {' AND '.join(conditions)} "
        f"LIMIT {MOST_LEVELS + 1}"
    ).fetchall()
    levels = sorted(level for (level,) in rows)
    if not levels:
        raise StatisticsError(
            f"no row of {relation} is complete: each has a missing value in a column of the model"
        )
    if len(levels) > MOST_LEVELS:
        raise StatisticsError(_too_many(connection, relation, name, kind))
    return levels


def _too_many(connection: duckdb.DuckDBPyConnection, relation: str, name: str, kind: str) -> str:
    quoted, table = quote_identifier(name), quote_identifier(relation)
    message = f"{name} is a factor of more than {MOST_LEVELS} levels"
    if _kind(kind) != "text":
        return message + f"; as a number, write {name} without C()"
    odd = connection.execute(
        f"SELECT DISTINCT {quoted} FROM {table} "  # noqa: S608 - quoted
        f"WHERE {quoted} IS NOT NULL AND TRY_CAST({quoted} AS DOUBLE) IS NULL LIMIT 3"
    ).fetchall()
    listed = ", ".join(repr(value) for (value,) in odd)
    if not listed:
        return (
            f"{message}, since it is text: numbers that are infinite, have spaces around them, or "
            "are kept as text"
        )
    return message + f", since it is text; if it should be numbers, these are none: {listed}"


def _reference_first(name: str, levels: list[Level], wanted: str | None) -> list[Level]:
    if wanted is None:
        return levels
    named = {level_name(level).casefold() if isinstance(level, bool) else level_name(level): level
             for level in levels}  # fmt: skip
    key = wanted.casefold() if isinstance(levels[0], bool) else wanted
    if key not in named:
        raise StatisticsError(
            f"{name} has no level {wanted!r} to refer to; it has {', '.join(map(repr, named))}"
        )
    return [named[key], *(level for level in levels if level != named[key])]


def _expand(term: Term, index: int, levels: Mapping[str, list[Level]]) -> list[Column]:
    products: list[tuple[str, tuple[Atom, ...]]] = [("", ())]
    for factor in term:
        if factor.column in levels:
            reference, *others = levels[factor.column]
            parts = [
                (f"{factor.column}[{level_name(v)} vs {level_name(reference)}]", v) for v in others
            ]
            choices = [(name, Atom(factor.column, level)) for name, level in parts]
        else:
            choices = [(factor.column, Atom(factor.column))]
        products = [
            (f"{have}:{name}" if have else name, (*atoms, atom))
            for have, atoms in products
            for name, atom in choices
        ]
    return [Column(name, atoms, index) for name, atoms in products]


def _warn_of_numbers(name: str, levels: Sequence[Level]) -> None:
    """Say that a column became a factor although it looks like numbers."""
    odd = [level for level in levels if not _is_number(str(level))]
    if len(odd) < len(levels):
        but = f", but for {', '.join(map(repr, odd))}" if odd else ""
        warnings.warn(
            f"{name} holds numbers{but}; it is text, and therefore taken as a factor of "
            f"{len(levels)} levels. Make it numbers, or write C({name}) if a factor is meant",
            StatisticsWarning,
            stacklevel=4,
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _factors(terms: Sequence[Term], columns: Mapping[str, str]) -> dict[str, str | None]:
    """Columns that are factors and the reference asked for."""
    found: dict[str, str | None] = {}
    for factor in (factor for term in terms for factor in term):
        kind = _kind(columns[factor.column])
        if kind == "other":
            raise StatisticsError(
                f"{factor.column} is of type {columns[factor.column]}; "
                "a term has to be a number, a boolean or a text"
            )
        if factor.categorical or kind == "text":
            asked = found.get(factor.column)
            if asked is not None and factor.reference not in (None, asked):
                raise StatisticsError(f"{factor.column} is given two reference levels")
            found[factor.column] = asked if factor.reference is None else factor.reference
    return found


def _require_one_kind(terms: Sequence[Term], columns: Mapping[str, str]) -> None:
    """A number has one effect per unit, or one per level: the same name cannot be both."""
    for name in {factor.column for term in terms for factor in term}:
        kinds = {f.categorical for term in terms for f in term if f.column == name}
        if len(kinds) == 2 and _kind(columns[name]) == "number":
            raise StatisticsError(
                f"{name} is in the model as a number and as the factor C({name}); write it one way "
                f"throughout. To test {name} against C({name}), fit the two models one by one"
            )


def _require_distinct_roles(roles: Roles, terms: Sequence[Term]) -> None:
    used = {factor.column for term in terms for factor in term}
    for part, name in (("outcome", roles.outcome), ("weights", roles.weights)):
        if name is not None and name in used:
            raise StatisticsError(f"{name} is the {part} and a term of the same model")


def resolve(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    roles: Roles,
    base: Sequence[str],
    add: Sequence[str] = (),
) -> Design:
    """The design of a model, and how much of it belongs to the smaller model nested in it.

    Levels are those of the rows that are complete for the larger model. The first level in order is
    the reference unless another is written.

    Raises:
        StatisticsError: an unknown or unusable column, a term that cannot be read, a factor of one
            level or too many, a reference that is no level, too many columns.
    """
    columns = describe(connection, relation)
    spelt = parse_terms([*base, *add], columns)
    first = distinct_terms(parse_terms(base, columns))
    later = distinct_terms(parse_terms(add, columns), first)
    terms = [*first, *later]
    others = [roles.outcome, roles.cluster, roles.weights, roles.offset, *roles.by]
    wanted = [name for name in others if name is not None]
    wanted += [factor.column for term in terms for factor in term]
    require_columns(columns, wanted, relation)
    _require_distinct_roles(roles, terms)
    _require_one_kind(spelt, columns)
    if add and not later:
        raise StatisticsError("every term to add is in the base model already")
    (rows,) = connection.execute(
        f"SELECT count(*) FROM {quote_identifier(relation)}"  # noqa: S608 - quoted
    ).fetchall()
    if not rows[0]:
        raise StatisticsError(f"{relation} has no rows")
    numbers = (("outcome", roles.outcome), ("weights", roles.weights), ("offset", roles.offset))
    for part, name in numbers:
        if name is not None:
            _require_number(columns, name, part)
    references = _factors(spelt, columns)
    conditions = complete_sql(terms, columns, roles)
    levels = {
        name: _reference_first(
            name, _levels(connection, relation, name, columns[name], conditions), reference
        )
        for name, reference in references.items()
    }
    factors = {name: _kind(columns[name]) == "text" for name in references}
    _require_marginality(terms, factors)
    written = {factor.column for term in spelt for factor in term if factor.categorical}
    for name in [name for name, text in factors.items() if text and name not in written]:
        _warn_of_numbers(name, levels[name])
    for name, found in levels.items():
        if len(found) == 1:
            raise StatisticsError(
                f"{name} is {level_name(found[0])} on every complete row: a constant has no effect "
                "to estimate; leave it out"
            )
    expanded = [_expand(term, index, levels) for index, term in enumerate(terms)]
    design = tuple(column for part in expanded for column in part)
    if len(design) > MOST_COLUMNS:
        raise StatisticsError(
            f"the model has {len(design)} coefficients; the limit of a regression in SQL is "
            f"{MOST_COLUMNS}. Leave terms out, or use statsmodels"
        )
    return Design(
        relation,
        roles,
        design,
        sum(len(part) for part in expanded[: len(first)]),
        {name: tuple(level_name(level) for level in found) for name, found in levels.items()},
        factors,
        int(rows[0]),
        _is_float(columns, roles.cluster),
    )
