"""Which relations a query reads, told by DuckDB's own parser."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb

import sql


def _relations(node: Any) -> Iterator[tuple[str, str]]:
    """Every ('table', name) read and ('cte', name) defined in a serialised query."""
    if isinstance(node, list):
        for item in node:
            yield from _relations(item)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            yield "table", node["table_name"]
        ctes = node.get("cte_map")
        if isinstance(ctes, dict):
            for entry in ctes.get("map", []):
                yield "cte", entry["key"]
        for value in node.values():
            yield from _relations(value)


@cache
def relations_read(query: str) -> tuple[str, ...]:
    """Tables and views a query names in FROM, JOIN or a subquery, without its own CTEs; sorted.

    Raises:
        ValueError: the text is not one query.
    """
    # As a subquery, a PIVOT statement parses into a query too. The text is parsed, never run.
    wrapped = f"SELECT * FROM (\n{query}\n)"  # noqa: S608
    with duckdb.connect() as connection:
        row = connection.execute("SELECT json_serialize_sql($1)", [wrapped]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        raise ValueError(f"not one SQL query: {tree.get('error_message')}: {query[:200]}")
    found = set(_relations(tree))
    defined = {name for kind, name in found if kind == "cte"}
    return tuple(sorted(name for kind, name in found if kind == "table" and name not in defined))


def tables_read(query: str) -> tuple[str, ...]:
    """What a query reads once every shipped view it names is followed down to its tables; sorted.

    Raises:
        ValueError: the text is not one query.
    """
    views = {file.name: file for file in sql.load_all().values() if not file.parameters}
    seen: set[str] = set()
    waiting = list(relations_read(query))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            if name in views:
                waiting += relations_read(views[name].text)
    return tuple(sorted(name for name in seen if name not in views))
