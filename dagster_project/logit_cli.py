"""`kneelake logit`: nested logistic regressions.

Here: its arguments, tables for people with what they assume, `--json` for programs. Not here:
work (`stats`), or the other commands (`cli`, `spm_cli`).

A TABLE is a CSV or Parquet file, or a table or view of the lake.
"""

import argparse
import contextlib
import errno
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_project.terminal import (
    NO_STATEMENT,
    add_command,
    add_json,
    existing_lake,
    print_json,
    print_table,
    settings_of,
)

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from stats.logit import InSampleRoc, LikelihoodRatio, LogitFit, NestedLogit, WaldTest

FILE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".gz", ".zst")
INDEPENDENT = (
    "Assumes that rows are independent and the log-odds linear in each term. Several rows of one "
    "person are not independent: name who they are with --cluster."
)
CLUSTERED = (
    "cluster_* columns and the Wald test take clusters, not rows, to be independent (CR1); they "
    "need a few dozen clusters. The likelihood-ratio test takes rows to be independent."
)


def add_logit(commands: Any) -> None:
    """Add the command to the parser."""
    logit = add_command(
        commands, "logit", _logit, "Nested logistic regression and likelihood-ratio test in SQL."
    )
    logit.add_argument("table", help="a table or view of the lake, a CSV or a Parquet file")
    logit.add_argument("--outcome", required=True, help="column of 0 and 1")
    logit.add_argument(
        "--base",
        required=True,
        metavar="A,B,C",
        help="terms of the smaller model: columns, C(factor), a:b, a*b; `odd names` in backticks",
    )
    logit.add_argument("--add", metavar="D,E", help="terms of the larger model besides")
    logit.add_argument(
        "--cluster", metavar="COLUMN", help="who the rows are of, such as subject_id"
    )
    logit.add_argument("--weights", metavar="COLUMN", help="how often each row counts")
    logit.add_argument("--offset", metavar="COLUMN", help="part of the log-odds known beforehand")
    logit.add_argument("--by", metavar="G,H", help="one model per value of these columns")
    logit.add_argument(
        "--profile", action="store_true", help="profile-likelihood intervals as well"
    )
    logit.add_argument("--engine", choices=("sql", "polars"), default="sql")
    logit.add_argument(
        "--bootstrap", type=int, metavar="N", help="refit N resamples of the clusters (or rows)"
    )
    logit.add_argument("--seed", type=int, default=0, help="of the resamples")
    logit.add_argument("--show-sql", action="store_true", help="print the statement as well")
    add_json(logit)


def is_file(table: str) -> bool:
    """Whether a TABLE is a file rather than a table of the lake."""
    return Path(table).suffix.lower() in FILE_SUFFIXES or Path(table).exists()


def split_terms(text: str) -> list[str]:
    """Terms parted by commas, but not by those inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "`'\"":
            quote = sign
        depth += 0 if quote else (sign == "(") - (sign == ")")
        if sign == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


@contextlib.contextmanager
def opened(
    parsed: argparse.Namespace, table: str
) -> Iterator[tuple["duckdb.DuckDBPyConnection", str]]:
    """A connection that has a table, and what the table is called there.

    Raises:
        FileNotFoundError: a file that is not there.
        StatisticsError: a file that cannot be read.
        LakeError: no lake to look for a table in.
    """
    from stats.source import open_source

    if is_file(table):
        if not set(table) & set("*?[") and not Path(table).exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such file", table)
        with open_source(Path(table)) as source:
            yield source.connection, source.relation
        return
    with existing_lake(settings_of(parsed)).connect() as connection:
        yield connection, table


def _logit(parsed: argparse.Namespace) -> int:
    from stats.logit import fit_logit, fit_logit_groups, nested_logit

    options: dict[str, Any] = {
        "cluster": parsed.cluster,
        "weights": parsed.weights,
        "offset": parsed.offset,
    }
    engine: dict[str, Any] = {"engine": parsed.engine}
    if parsed.engine == "polars" and is_file(parsed.table):
        # Parquet is read in place rather than copied.
        engine["file"] = Path(parsed.table)
    more = engine | {"profile": parsed.profile}
    base = split_terms(parsed.base)
    with opened(parsed, parsed.table) as (connection, relation):
        if parsed.by is not None:
            if parsed.add is not None:
                raise ValueError("--by fits one model per group: leave --add out")
            if parsed.engine != "sql" or parsed.profile or parsed.bootstrap is not None:
                raise ValueError("--by goes without --engine polars, --profile and --bootstrap")
            by = [name.strip() for name in parsed.by.split(",")]
            fits = fit_logit_groups(connection, relation, parsed.outcome, base, by=by, **options)
            return _print_groups(parsed, fits)
        replicates = _bootstrap(parsed, connection, relation, engine)
        if parsed.add is not None:
            nested = nested_logit(
                connection,
                relation,
                parsed.outcome,
                base,
                split_terms(parsed.add),
                **options,
                **more,
            )
            return _print_nested(parsed, nested, replicates)
        fit = fit_logit(connection, relation, parsed.outcome, base, **options, **more)
        return _print_fit(parsed, fit, replicates)


def _bootstrap(
    parsed: argparse.Namespace,
    connection: "duckdb.DuckDBPyConnection",
    relation: str,
    engine: dict[str, Any],
) -> "pl.DataFrame | None":
    """Percentile intervals of each term of the largest model."""
    if parsed.bootstrap is None:
        return None
    if parsed.weights is not None:
        raise ValueError("--bootstrap draws rows or clusters: it goes without --weights")
    from stats.logit import bootstrap_logit

    terms = [*split_terms(parsed.base), *split_terms(parsed.add or "")]
    return bootstrap_logit(
        connection,
        relation,
        parsed.outcome,
        terms,
        cluster=parsed.cluster,
        offset=parsed.offset,
        n_replicates=parsed.bootstrap,
        seed=parsed.seed,
        **engine,
    )


def _plain(value: Any) -> Any:
    """A number for JSON: None where it is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fields(item: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: _plain(getattr(item, name)) for name in names}


TERM = ("term", "estimate", "se", "z", "p", "ci_low", "ci_high", "odds_ratio")
MORE = ("or_low", "or_high", "vif")
PROFILE = ("profile_low", "profile_high")
CLUSTER = ("cluster_se", "cluster_z", "cluster_p", "cluster_ci_low", "cluster_ci_high")
MODEL = ("loglik", "aic", "df", "converged", "separated", "iterations", "condition_number")


def _term_fields(fit: "LogitFit") -> tuple[str, ...]:
    """What there is to say of each term: profile and clustered columns only where asked for."""
    asked = [
        names
        for names in (PROFILE, CLUSTER)
        if any(getattr(term, names[0]) is not None for term in fit.terms)
    ]
    return (*TERM, *MORE, *(name for names in asked for name in names))


def _model_json(fit: "LogitFit", roc: "InSampleRoc | None") -> dict[str, Any]:
    names = _term_fields(fit)
    said = {**_fields(fit, MODEL), "terms": [_fields(term, names) for term in fit.terms]}
    if roc is not None:
        said["roc"] = _fields(roc, ("sensitivity", "specificity", "auc"))
    return said


def _test_json(test: "WaldTest | LikelihoodRatio", sound: bool) -> dict[str, Any]:
    """A test of nested models; of models that are not sound no statistic means anything."""
    said = _fields(test, ("chi2", "df", "p", "log_p"))
    return said if sound else {**dict.fromkeys(said), "df": test.df}


def _counts(fit: "LogitFit") -> dict[str, Any]:
    return _fields(fit, ("n", "n_dropped", "n_events", "n_clusters"))


def _print_nested(
    parsed: argparse.Namespace, nested: "NestedLogit", replicates: "pl.DataFrame | None"
) -> int:
    rocs = {"base": nested.base_roc, "full": nested.full_roc}
    fits = {"base": nested.base, "full": nested.full}
    sound = all(fit.converged and not fit.separated for fit in fits.values())
    if parsed.json:
        said = {
            **_counts(nested.full),
            "models": {name: _model_json(fit, rocs[name]) for name, fit in fits.items()},
            "lrt": _test_json(nested.lrt, sound),
        }
        if nested.wald is not None:
            said["wald"] = _test_json(nested.wald, sound)
        print_json(_with_extras(parsed, said, nested.sql, replicates))
        return 0
    _print_counts(nested.full)
    for name, fit in fits.items():
        print(f"\n{name}")
        _print_model(fit, rocs[name])
    print("")
    if not sound:
        print("no test of the added terms: a model is separated or did not converge")
    else:
        _print_test("likelihood-ratio test, rows as independent", nested.lrt)
    if sound and nested.wald is not None:
        _print_test("Wald test of the added terms, clustered", nested.wald)
    return _print_closing(parsed, nested.full, nested.sql, replicates)


def _print_fit(
    parsed: argparse.Namespace, fit: "LogitFit", replicates: "pl.DataFrame | None"
) -> int:
    if parsed.json:
        said = {**_counts(fit), "models": {"base": _model_json(fit, None)}}
        print_json(_with_extras(parsed, said, fit.sql, replicates))
        return 0
    _print_counts(fit)
    print("")
    _print_model(fit, None)
    return _print_closing(parsed, fit, fit.sql, replicates)


def _print_groups(parsed: argparse.Namespace, fits: Sequence["LogitFit"]) -> int:
    if parsed.json:
        groups = [
            {
                "group": dict(fit.group or {}),
                **_counts(fit),
                "problem": fit.problem,
                "models": {"base": _model_json(fit, None)} if fit.problem is None else {},
            }
            for fit in fits
        ]
        print_json(_with_extras(parsed, {"groups": groups}, fits[0].sql if fits else "", None))
        return 0
    for fit in fits:
        print(", ".join(f"{name} = {value}" for name, value in (fit.group or {}).items()))
        _print_counts(fit)
        if fit.problem is not None:
            print(f"  not fitted: {fit.problem}\n")
            continue
        _print_model(fit, None)
        print("")
    if fits:
        return _print_closing(parsed, fits[0], fits[0].sql, None)
    return 0


def _with_extras(
    parsed: argparse.Namespace,
    said: dict[str, Any],
    statement: str,
    replicates: "pl.DataFrame | None",
) -> dict[str, Any]:
    if replicates is not None:
        said["bootstrap"] = {
            "n_replicates": parsed.bootstrap,
            "seed": parsed.seed,
            "terms": _percentiles(replicates).to_dicts(),
        }
    if parsed.show_sql:
        said["sql"] = statement
    return said


def _percentiles(replicates: "pl.DataFrame") -> "pl.DataFrame":
    """Standard deviation and percentile interval of each term over the replicates that have one."""
    import polars as pl

    sound = replicates.filter(pl.col("converged") & (pl.col("separation") == "none"))
    terms = sound.columns[sound.columns.index("Intercept") :]
    rows = [
        {
            "term": term,
            "replicates": sound[term].count(),
            "bootstrap_se": sound[term].std(),
            "bootstrap_low": sound[term].quantile(0.025, "linear"),
            "bootstrap_high": sound[term].quantile(0.975, "linear"),
        }
        for term in terms
    ]
    return pl.DataFrame(rows)


def _print_counts(fit: "LogitFit") -> None:
    clusters = "" if fit.n_clusters is None else f", {fit.n_clusters:,} clusters"
    print(
        f"{fit.outcome}: {fit.n:,} rows, {fit.n_events:,} of outcome 1{clusters}; "
        f"{fit.n_dropped:,} rows left out because a value is missing"
    )


def _print_model(fit: "LogitFit", roc: "InSampleRoc | None") -> None:
    import polars as pl

    names = _term_fields(fit)
    print_table(
        pl.DataFrame({name: [_shown(getattr(term, name)) for term in fit.terms] for name in names})
    )
    print(
        f"log-likelihood {fit.loglik:.6f}, AIC {fit.aic:.4f}, condition number "
        f"{fit.condition_number:.1f}"
    )
    if roc is not None:
        print(
            f"in sample at {roc.threshold:g}: sensitivity {100 * roc.sensitivity:.1f} %, "
            f"specificity {100 * roc.specificity:.1f} %, AUC {100 * roc.auc:.1f} %"
        )
    if fit.separated:
        print("SEPARATED: the terms tell the classes apart without error; no estimate is finite")
    elif not fit.converged:
        print(f"DID NOT CONVERGE in {fit.iterations} steps; do not use these numbers")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_test(name: str, test: "WaldTest | Any") -> None:
    # Below what a double holds only the logarithm is left.
    p = f"{test.p:.8g}" if test.p else f"10^{test.log_p / math.log(10):.2f}"
    print(f"{name}: chi2({test.df}) = {test.chi2:.6f}, p = {p}")


def _print_closing(
    parsed: argparse.Namespace,
    fit: "LogitFit",
    statement: str,
    replicates: "pl.DataFrame | None",
) -> int:
    if replicates is not None:
        of = "clusters" if parsed.cluster else "rows"
        print(f"\nbootstrap of {of}, {parsed.bootstrap} replicates")
        print_table(_percentiles(replicates))
    for factor, levels in fit.levels.items():
        print(f"{factor}: reference {levels[0]}; others {', '.join(levels[1:])}")
    print("")
    print(INDEPENDENT if fit.n_clusters is None else CLUSTERED)
    if parsed.show_sql:
        print("")
        print(statement or NO_STATEMENT)
    return 0
