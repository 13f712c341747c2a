"""Column lineage, on queries whose answer is plain, and for every shipped file."""

from collections.abc import Iterable

import pytest

import sql
from assets.column_lineage import query_lineage, view_lineage
from assets.sql_assets import GROUPS, column_lineage, column_notes, sql_files
from lake.store import Lake

TABLES = {"t": ("k", "a", "b"), "u": ("k", "c")}


def lineage(query: str) -> dict[str, list[str]]:
    def relation(name: str) -> dict:
        return {column: frozenset({(name, column)}) for column in TABLES[name]}

    def spelled(sources: Iterable[tuple[str, str]]) -> list[str]:
        return sorted(f"{table}.{column}" for table, column in sources)

    return {name: spelled(found) for name, found in query_lineage(query, relation).items()}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a, b + k AS d FROM t", {"a": ["t.a"], "d": ["t.b", "t.k"]}),
        ("FROM t", {"k": ["t.k"], "a": ["t.a"], "b": ["t.b"]}),
        ("SELECT * EXCLUDE (a, k) FROM t", {"b": ["t.b"]}),
        ("SELECT x.a, c FROM t AS x JOIN u USING (k) WHERE b > 1", {"a": ["t.a"], "c": ["u.c"]}),
        ("SELECT k FROM t JOIN u USING (k)", {"k": ["t.k", "u.k"]}),
        ("WITH w AS (SELECT a AS d FROM t) SELECT d FROM w", {"d": ["t.a"]}),
        ("WITH w(z) AS (SELECT a FROM t) FROM w", {"z": ["t.a"]}),
        ("SELECT a FROM t UNION ALL SELECT c FROM u", {"a": ["t.a", "u.c"]}),
        (
            "SELECT a, k FROM t UNION ALL BY NAME SELECT k, c AS a FROM u",
            {"a": ["t.a", "u.c"], "k": ["t.k", "u.k"]},
        ),
        ("SELECT a + 1 AS d, d * 2 AS e FROM t", {"d": ["t.a"], "e": ["t.a"]}),
        ("SELECT sum(a) OVER (PARTITION BY b) AS s FROM t", {"s": ["t.a", "t.b"]}),
        ("SELECT (SELECT max(c) FROM u) AS m, count(*) AS n FROM t", {"m": ["u.c"], "n": []}),
        ("SELECT v FROM (VALUES (1)) AS w(v)", {"v": []}),
        ("SELECT list_transform([a], lambda k: k + 1) AS l FROM t", {"l": ["t.a"]}),
        (
            "SELECT list_reduce([a], lambda k, c: k + c + b, 0) AS l FROM t",
            {"l": ["t.a", "t.b"]},
        ),
    ],
)
def test_lineage(query, expected) -> None:
    assert lineage(query) == expected


def test_what_is_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="not one SQL query"):
        lineage("DROP TABLE t")


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with Lake(tmp_path_factory.mktemp("empty")).connect() as connection:
        yield connection


@pytest.mark.parametrize("file", sql.views(("cohort",)), ids=lambda file: file.name)
def test_every_column_is_traced_and_described(connection, file) -> None:
    columns = [row[0] for row in connection.execute(f"DESCRIBE {file.name}").fetchall()]
    assert list(view_lineage(file.name, GROUPS)) == columns
    notes = column_notes(file)
    assert set(columns) == set(notes)
    assert all(meaning for meaning, _ in notes.values())
    assert set(file.columns) <= set(columns)
    assert list(column_lineage(file).deps_by_column) == columns


def test_lineage_follows_the_study() -> None:
    cohort = next(file for file in sql_files() if file.name == "cohort")
    found = {
        column: {(dep.asset_key.to_user_string(), dep.column_name) for dep in deps}
        for column, deps in column_lineage(cohort).deps_by_column.items()
    }
    assert found["chronic_pain"] == {("model_cases", "is_case")}
    assert found["jsn_medial"] == {("oa_labels", "jsn_medial")}
    pain = next(file for file in sql_files() if file.name == "pain_labels")
    assert {dep.column_name for dep in column_lineage(pain).deps_by_column["pain_label"]} == {
        "knee_any_pain_12m",
        "knee_frequent_pain_12m",
        "knee_frequent_pain_months_12m",
        "chronic_pain_min_months",
    }
