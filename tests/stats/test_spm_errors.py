"""What the point-by-point ANCOVA refuses, and how it says so, by both engines."""

from collections.abc import Callable
from typing import get_args

import duckdb
import numpy as np
import polars as pl
import pytest
from spm_samples import cohort, connect, grid_mesh, register

from stats.engines import Engine
from stats.errors import StatisticsError
from stats.permutation import PermutationOptions
from stats.spm import spm
from stats.spm_design import SpmDesign
from stats.spm_family import spm_family

DESIGN = SpmDesign("pain")
N, V = 30, 12
ENGINES = get_args(Engine)
Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def shared_connection() -> duckdb.DuckDBPyConnection:
    return connect()


@pytest.fixture
def connection(shared_connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    values = np.random.default_rng(0).normal(size=(N, V))
    keys = cohort(N)["case"].to_list()
    shared_connection.register("knees", cohort(N).to_arrow())
    register(shared_connection, "maps", values)
    long = {
        "case": np.repeat(keys, V),
        "vertex": np.tile(np.arange(V), N),
        "value": values.ravel(),
    }
    shared_connection.register("long", pl.DataFrame(long).to_arrow())
    rows = pl.DataFrame({"case": keys, "values": values.tolist()})
    shared_connection.register("rows", rows.to_arrow())
    return shared_connection


def first(name: str, value: object) -> Change:
    return lambda cases: cases.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.with_columns(pain=0), "every case of 'knees' has pain = 0"),
        (lambda c: c.with_columns(pain=pl.lit("TP")), "give 0 and 1"),
        (lambda c: c.with_columns(pain=pl.col("pain") + 1), "has the values 1, 2; code it 0 and 1"),
        (first("pain", 0.5), "has the values 0, 0.5, 1"),
        (lambda c: c.with_columns(bmi=25.1), "covariate 'bmi' is the same in every case"),
        (lambda c: c.with_columns(bmi=2 * pl.col("age") - 3), "'bmi' follows from 'age', 'sex'"),
        (lambda c: c.with_columns(sex=pl.col("pain") * 2), "the group 'pain' follows from"),
        (lambda c: c.with_columns(sex=pl.col("case")), "text with 30 levels"),
        (lambda c: c.with_columns(sex=pl.lit("F")), "covariate 'sex' is the same"),
        (lambda c: c.drop("age", "bmi"), "no column 'age', 'bmi'; there are case, position"),
        (lambda c: c.head(5), "5 complete cases in 'knees' for 5 coefficients"),
        (lambda c: c.with_columns(age=None), "0 complete cases"),
        (lambda c: pl.concat([c, c.tail(1)]), "more than once: 1000029_RIGHT_V00"),
        (lambda c: c.with_columns(position=pl.col("position") - 1), "1-based index"),
        (lambda c: c.with_columns(position=pl.col("position") // 2 + 1), "each index once"),
        (lambda c: c.with_columns(position=pl.col("position") + 1), "has position 31, but a row"),
        (lambda c: c.head(20), "hold 30 values a vertex and the cases are 20"),
    ],
)
def test_cases_that_cannot_be_used(
    connection: duckdb.DuckDBPyConnection, change: Change, message: str
) -> None:
    connection.register("knees", change(cohort(N)).to_arrow())
    for engine in ENGINES:
        with pytest.raises(StatisticsError, match=message):
            spm(connection, "maps", "knees", DESIGN, engine=engine)


@pytest.mark.parametrize(
    ("relation", "query", "message"),
    [
        ("maps", "SELECT vertex, values[:29] AS values FROM maps", "has position 30"),
        (
            "maps",
            "SELECT vertex, CASE WHEN vertex = 3 THEN values[:29] ELSE values END AS values "
            "FROM maps",
            "vertex 3 of the maps 'broken' has 29 values, others 30",
        ),
        (
            "maps",
            "SELECT vertex, list_transform(values, lambda x: CASE WHEN vertex = 7 THEN 'none' "
            "ELSE x::VARCHAR END) AS values FROM maps",
            r"'values' of the maps 'broken' is VARCHAR\[\]; give numbers",
        ),
        (
            "maps",
            "SELECT vertex, list_transform(values, lambda x, i: CASE WHEN vertex IN (4, 7) AND "
            "i = 2 THEN '-inf'::DOUBLE ELSE x END) AS values FROM maps",
            "infinite values at 2 vertices, the first 4",
        ),
        ("maps", "SELECT * FROM maps UNION ALL SELECT * FROM maps WHERE vertex = 5", "at vertex 5"),
        (
            "maps",
            "SELECT nullif(vertex, 5) AS vertex, values FROM maps",
            "have 1 rows without a vertex",
        ),
        ("maps", "SELECT vertex, values AS v FROM maps", "have the columns vertex, v; give"),
        ("maps", "SELECT vertex, values, 1 AS value FROM maps", "have the columns"),
        ("maps", "SELECT * FROM maps WHERE vertex < 0", "hold no values"),
        ("long", "SELECT * FROM long WHERE \"case\" > '1000002'", "2 cases of 'knees' have no map"),
        (
            "long",
            "SELECT replace(\"case\", '1000003_RIGHT_V00', 'else') AS \"case\", vertex, value "
            "FROM long",
            "1 cases of 'knees' have no map in 'broken': 1000003_RIGHT_V00",
        ),
        (
            "long",
            "SELECT * FROM long UNION ALL SELECT 'else', 0, 1.0",
            "1 cases of the maps 'broken' are not in 'knees': else; add",
        ),
        (
            "long",
            'SELECT * FROM long UNION ALL SELECT "case", vertex, 0 FROM long '
            "WHERE \"case\" LIKE '1000003%' AND vertex = 8",
            "more than once, as at vertex 8",
        ),
        (
            "long",
            "SELECT * REPLACE (CASE WHEN vertex = 2 THEN 'inf'::DOUBLE ELSE value END AS value) "
            "FROM long",
            "infinite values at 1 vertices, the first 2",
        ),
        (
            "long",
            'SELECT "case", nullif(vertex, 4) AS vertex, value FROM long',
            "have 30 rows without a vertex",
        ),
        ("long", "SELECT * REPLACE ('none' AS value) FROM long", "'value' of .* is VARCHAR; give"),
        ("long", 'SELECT 1 AS "case", vertex, value FROM long', "another type"),
        ("rows", "SELECT * FROM rows UNION ALL SELECT * FROM rows LIMIT 31", "more than once"),
        (
            "rows",
            'SELECT "case", CASE WHEN "case" LIKE \'1000003%\' THEN values[:5] ELSE values END '
            "AS values FROM rows",
            "12 in most cases, 5 in 1000003_RIGHT_V00",
        ),
    ],
)
def test_maps_that_cannot_be_used(
    connection: duckdb.DuckDBPyConnection, relation: str, query: str, message: str
) -> None:
    connection.execute(f"CREATE OR REPLACE TABLE broken AS {query}")
    for engine in ENGINES:
        with pytest.raises(StatisticsError, match=message):
            spm(connection, "broken", "knees", DESIGN, engine=engine)


def test_short_rows_are_seen_where_a_subset_is_taken(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    connection.register("knees", cohort(N).head(25).to_arrow())
    connection.execute(
        "CREATE OR REPLACE TABLE broken AS SELECT vertex, CASE WHEN vertex = 3 THEN values[:28] "
        "ELSE values END AS values FROM maps"
    )
    for engine in ENGINES:
        with pytest.raises(StatisticsError, match="vertex 3 of the maps 'broken' has 28 values"):
            spm(connection, "broken", "knees", DESIGN, extra_maps="ignore", engine=engine)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: spm(c, "nowhere", "knees", DESIGN), "no table or view 'nowhere'"),
        (lambda c: spm(c, "maps", "nowhere", DESIGN), "no table or view 'nowhere'"),
        (lambda c: spm(c, "maps", "knees", SpmDesign("pain", ("age", "age"))), "age: used twice"),
        (lambda c: spm(c, "maps", "knees", DESIGN, confidence=95), "confidence of 95"),
        (lambda c: spm(c, "maps", "knees", DESIGN, engine="R"), "no engine R; use sql or polars"),
        (lambda c: spm(c, "maps", "knees", DESIGN, layout="long"), "no column 'case', 'value'"),
        (lambda c: spm(c, "maps", "Map_Rows", DESIGN), "rename the cases"),
        (
            lambda c: spm_family(
                c, {"femur": "maps"}, "knees", DESIGN, meshes={"femur": grid_mesh(2, 5)}
            ),
            "'femur' has 12 vertices from 0 to 11, and its mesh 10",
        ),
        (
            lambda c: spm_family(
                c, {"femur": "maps"}, "knees", DESIGN, meshes={"tibia": grid_mesh(3, 4)}
            ),
            "meshes of tibia, which are not maps; there are femur",
        ),
        (lambda c: spm_family(c, {}, "knees", DESIGN), "at least one map"),
        (
            lambda c: spm_family(
                c,
                {"femur": "maps"},
                "knees",
                SpmDesign("pain", block="subject_id"),
                permutations=PermutationOptions(19, exchange="within"),
            ),
            "group is the same for all cases of each block; use exchange='whole'",
        ),
        (lambda c: PermutationOptions(0), "0 permutations"),
        (lambda c: PermutationOptions(18), "at least 19"),
        (lambda c: PermutationOptions(exchange="both"), "'whole' or 'within'"),
        (lambda c: PermutationOptions(cluster_p=3), "between 0 and 1"),
        (lambda c: PermutationOptions(tfce_extent_power=0), "extent power above 0"),
    ],
)
def test_calls_that_cannot_be_answered(
    connection: duckdb.DuckDBPyConnection, call: Callable, message: str
) -> None:
    with pytest.raises(StatisticsError, match=message):
        call(connection)
