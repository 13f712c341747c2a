"""What works out a statistic: a statement of SQL, or polars and arrays, with the same answers."""

from typing import Literal, get_args

from stats.errors import StatisticsError

Engine = Literal["sql", "polars"]


def check_engine(engine: str) -> None:
    """Refuse what is no engine.

    Raises:
        StatisticsError: naming those there are.
    """
    if engine not in get_args(Engine):
        raise StatisticsError(f"there is no engine {engine}; use {' or '.join(get_args(Engine))}")
