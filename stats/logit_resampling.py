"""Bootstrap refits and profile-likelihood intervals of a logistic regression."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl

from stats.design import Roles, resolve
from stats.engines import Engine, check_engine
from stats.errors import StatisticsError, StatisticsWarning
from stats.logit_refits import refit_scan
from stats.logit_resampling_sql import bootstrap_statement, profile_statement
from stats.logit_results import LogitFit
from stats.logit_rows_sql import Problem
from stats.logit_run import problem_of, problem_text, run_statement
from stats.scan import scan_relation


def bootstrap_logit(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    outcome: str,
    terms: Sequence[str],
    *,
    cluster: str | None = None,
    offset: str | None = None,
    n_replicates: int = 1000,
    seed: int = 0,
    engine: Engine = "sql",
    file: Path | None = None,
) -> pl.DataFrame:
    """Refit a model to rows, or to whole patients, drawn with replacement.

    All in one statement, or, several times faster, many refits at once as products of matrices
    (`engine="polars"`, which keeps the rows in memory). Both make the same draws, but for clusters
    that are an ENUM: the one numbers them in their declared, the other in alphabetical order.

    A replicate draws as many units as there are: a patient comes with all of their rows
    (multinomial resampling of clusters; Field and Welsh 2007,
    doi:10.1111/j.1467-9868.2007.00593.x). Units are numbered from 1 by their `cluster` value, or
    rows by their content. Draw d (from 0) of replicate r is unit 1 + floor(units w / 2^32), where
    w = mix(mix(d xor k1) xor k2), mix is lowbias32, and k1 and k2 are the two lowest 32-bit words
    of md5('<seed>:<r>') read as a little-endian number: the same on every machine, whatever the
    number of threads.

    Args:
        connection: with the macros.
        relation: name of a table or view.
        outcome: column of 0 and 1, or boolean.
        terms: formula terms.
        cluster: the unit that is drawn; rows where None.
        offset: column added to the log-odds with coefficient 1.
        n_replicates: how many.
        seed: of the draws.
        engine: 'sql' or 'polars'.
        file: for polars, the Parquet file the relation is a view of, read in place.

    Returns:
        A row per replicate: replicate (from 1), n (rows drawn), converged, separation, iterations,
        loglik, and one column per term, 'Intercept' first. What did not converge, or had one class
        only, has NULL there.

    Raises:
        StatisticsError: as `fit_logit`; or the model of all rows does not converge.

    Warns:
        StatisticsWarning: some replicates have no estimates.
    """
    check_engine(engine)
    if n_replicates < 1:
        raise StatisticsError(f"{n_replicates} replicates are none; ask for at least one")
    design = resolve(connection, relation, Roles(outcome, cluster, offset=offset), terms)
    names = [column.name for column in design.columns]
    if engine == "polars":
        with scan_relation(connection, design, file) as scan:
            rows = refit_scan(scan, design, int(n_replicates), int(seed))
    else:
        statement = bootstrap_statement(
            problem_of(design), int(n_replicates), int(seed), design.rows
        )
        rows = run_statement(connection, statement)
    if rows[0]["problem"] is not None:
        raise StatisticsError(problem_text(rows[0]["problem"], names, outcome, rows[0]))
    if not rows[0]["full_converged"]:
        raise StatisticsError(
            f"the model of {outcome} on all rows does not converge (separation?); "
            "look at it with fit_logit before resampling it"
        )
    failed = sum(not row["converged"] for row in rows)
    if failed:
        warnings.warn(
            f"{failed} of {n_replicates} replicates have no estimates (separation or one class)",
            StatisticsWarning,
            stacklevel=2,
        )
    empty = [None] * (len(names) + 1)
    estimates = [row["estimates"] or empty for row in rows]
    return pl.DataFrame(
        {
            "replicate": [row["replicate"] for row in rows],
            "n": [int(row["n_drawn"]) for row in rows],
            "converged": [row["converged"] for row in rows],
            "separation": [row["separation"] for row in rows],
            "iterations": [row["iterations"] for row in rows],
            "loglik": pl.Series([row["loglik"] for row in rows], dtype=pl.Float64),
            **{
                name: pl.Series([values[k] for values in estimates], dtype=pl.Float64)
                for k, name in enumerate(("Intercept", *names))
            },
        }
    )


def with_profile(
    connection: duckdb.DuckDBPyConnection, problem: Problem, fit: LogitFit
) -> LogitFit:
    """A fit with the profile-likelihood interval of each coefficient.

    An end that is not found, such as one at infinity, is None and is warned of.

    Args:
        connection: of the problem's relation.
        problem: what was fitted.
        fit: its result.
    """
    found: dict[tuple[int, float], float] = {}
    for row in run_statement(connection, profile_statement(problem, fit.confidence)):
        if row["converged"]:
            found[row["k"], row["side"]] = row["bound"]
    if len(found) < 2 * len(fit.terms):
        warnings.warn(
            f"{2 * len(fit.terms) - len(found)} ends of profile-likelihood intervals were not "
            "found; they may be infinite",
            StatisticsWarning,
            stacklevel=3,
        )
    terms = tuple(
        replace(term, profile_low=found.get((k, -1.0)), profile_high=found.get((k, 1.0)))
        for k, term in enumerate(fit.terms, 1)
    )
    return replace(fit, terms=terms)
