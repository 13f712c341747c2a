"""Which columns each column of a query is worked out from, told by DuckDB's own parser.

Here: walking the parsed query. Only the expression of a column counts, not the conditions that
choose rows, nor the columns tables are joined on. Not here: running anything.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import duckdb

import sql
from lake.tables import TABLES

Source: TypeAlias = tuple[str, str]
"""A relation and its column."""
Relation: TypeAlias = dict[str, frozenset[Source]]
"""What each column comes from, in the query's order of columns."""


@dataclass(frozen=True)
class _Scope:
    """What names mean at one place of a query."""

    relation: Callable[[str], Relation]
    ctes: Mapping[str, Relation]

    def named(self, name: str) -> Relation:
        return self.ctes[name] if name in self.ctes else self.relation(name)


def _parsed(query: str) -> dict[str, Any]:
    with duckdb.connect() as connection:
        row = connection.execute("SELECT json_serialize_sql($1)", [query]).fetchone()
    tree: dict[str, Any] = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        raise ValueError(f"not one SQL query: {tree.get('error_message')}: {query[:200]}")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


def _query(node: dict[str, Any], scope: _Scope) -> Relation:
    ctes = dict(scope.ctes)
    for entry in (node.get("cte_map") or {}).get("map", []):
        stated = entry["value"]
        inner = stated.get("query_node") or stated["query"]["node"]
        ctes[entry["key"]] = _renamed(
            _query(inner, _Scope(scope.relation, ctes)), stated.get("aliases")
        )
    inside = _Scope(scope.relation, ctes)
    if node["type"] == "SET_OPERATION_NODE":
        return _union(node, inside)
    return _select(node, inside)


def _union(node: dict[str, Any], scope: _Scope) -> Relation:
    children = [_query(child, scope) for child in node["children"]]
    together: Relation = dict(children[0])
    for child in children[1:]:
        names = list(child) if node["setop_type"] == "UNION_BY_NAME" else list(together)
        for name, sources in zip(names, child.values(), strict=False):
            together[name] = together.get(name, frozenset()) | sources
    return together


def _renamed(relation: Relation, names: Sequence[str] | None) -> Relation:
    if not names:
        return relation
    # A relation whose columns nothing here can know (a list of values) has those it is given.
    sources = [*relation.values(), *[frozenset()] * (len(names) - len(relation))]
    return dict(zip(names, sources, strict=False))


def _tables(node: dict[str, Any], scope: _Scope) -> Iterator[tuple[str, Relation]]:
    """Each relation of a FROM clause by the name it goes by there."""
    kind = node.get("type")
    alias = node.get("alias") or node.get("table_name", "")
    names = node.get("column_name_alias")
    if kind == "BASE_TABLE":
        yield alias, _renamed(scope.named(node["table_name"]), names)
    elif kind == "SUBQUERY":
        yield alias, _renamed(_query(node["subquery"]["node"], scope), names)
    elif kind == "JOIN":
        yield from _tables(node["left"], scope)
        yield from _tables(node["right"], scope)
    elif kind in ("TABLE_FUNCTION", "EXPRESSION_LIST"):
        yield alias, _renamed({}, names)


def _select(node: dict[str, Any], scope: _Scope) -> Relation:
    tables = list(_tables(node.get("from_table") or {}, scope))
    columns: Relation = {}
    for expression in node["select_list"]:
        if expression["class"] == "STAR":
            columns |= _star(expression, tables, columns)
        else:
            columns[_name(expression)] = frozenset(_sources(expression, tables, columns, scope))
    return columns


def _star(
    expression: dict[str, Any], tables: Sequence[tuple[str, Relation]], known: Relation
) -> Relation:
    wanted = expression.get("relation_name")
    excluded = {
        item if isinstance(item, str) else item["column"]
        for item in expression.get("exclude_list", [])
    }
    found: Relation = {}
    for alias, relation in tables:
        if not wanted or wanted == alias:
            for name, sources in relation.items():
                if name not in excluded and name not in known:
                    found[name] = found.get(name, frozenset()) | sources
    return found


def _name(expression: dict[str, Any]) -> str:
    if expression.get("alias"):
        return str(expression["alias"])
    if expression["class"] == "COLUMN_REF":
        return str(expression["column_names"][-1])
    return str(expression.get("function_name", expression["type"]))


def _sources(
    node: Any, tables: Sequence[tuple[str, Relation]], columns: Relation, scope: _Scope
) -> Iterator[Source]:
    if isinstance(node, list):
        for item in node:
            yield from _sources(item, tables, columns, scope)
    elif isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield from _resolved(node["column_names"], tables, columns)
        elif node.get("class") == "LAMBDA":
            yield from _sources(node["expr"], _without(tables, node["lhs"]), columns, scope)
        elif node.get("class") == "SUBQUERY":
            for sources in _query(node["subquery"]["node"], scope).values():
                yield from sources
        else:
            for value in node.values():
                yield from _sources(value, tables, columns, scope)


def _without(tables: Sequence[tuple[str, Relation]], lhs: Any) -> list[tuple[str, Relation]]:
    """The tables less the columns that a lambda's parameters hide."""
    hidden = set(_column_names(lhs))
    return [
        (alias, {name: found for name, found in relation.items() if name not in hidden})
        for alias, relation in tables
    ]


def _column_names(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _column_names(item)
    elif isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield node["column_names"][-1]
        for value in node.values():
            yield from _column_names(value)


def _resolved(
    names: Sequence[str], tables: Sequence[tuple[str, Relation]], columns: Relation
) -> frozenset[Source]:
    aliases = {alias for alias, _ in tables}
    qualifier, name = (names[0], names[1]) if len(names) > 1 and names[0] in aliases else ("", "")
    name = name or names[0]
    found = [
        relation[name]
        for alias, relation in tables
        if name in relation and qualifier in ("", alias)
    ]
    if found:
        return frozenset().union(*found)
    # An alias given earlier in the same SELECT; a lambda's parameter is neither.
    return columns.get(name, frozenset())


def query_lineage(query: str, relation: Callable[[str], Relation]) -> Relation:
    """What each column of a query comes from.

    Args:
        query: one SELECT.
        relation: the columns of a relation that the query names, each with what it stands for.

    Raises:
        ValueError: the text is not one query.
    """
    return _query(_parsed(query), _Scope(relation, {}))


@cache
def view_lineage(name: str, opaque_groups: tuple[str, ...]) -> Relation:
    """What each column of a shipped view comes from.

    Args:
        name: the view.
        opaque_groups: groups of views to stop at; views of other groups are seen through.

    Returns:
        (relation, column) pairs by column: tables, and views of those groups.
    """
    views = {file.name: file for file in sql.load_all().values() if not file.parameters}

    def relation(read: str) -> Relation:
        if read not in views:
            columns = TABLES[read].column_names if read in TABLES else ()
            return {column: frozenset({(read, column)}) for column in columns}
        inner = view_lineage(read, opaque_groups)
        if views[read].group in opaque_groups:
            return {column: frozenset({(read, column)}) for column in inner}
        return inner

    return query_lineage(views[name].text, relation)
