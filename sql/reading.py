"""What a query answers, as polars."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

_COPIES = "Arrow output on a DB-API result makes an extra copy"
warnings.filterwarnings("ignore", _COPIES, UserWarning)


def fetch(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
) -> pl.DataFrame:
    """Run a query and read all of its rows.

    `connection.sql` would plan the query twice, once to know its columns and once to run it, and
    over a stack of views the plan is most of the time. The copy of the rows that this takes instead
    is a few percent of reading them.

    Args:
        connection: where its relations are.
        query: one query.
        params: values it asks for as `$name`, or in their order.
    """
    return pl.DataFrame(pl.from_arrow(connection.execute(query, params).to_arrow_table()))
