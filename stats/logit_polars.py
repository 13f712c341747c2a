"""Logistic regression pass by pass with polars' streaming engine, for tables larger than memory.

The same steps as the SQL statement: moments, a design made orthogonal, Newton's method with step
halving. Polars reads, filters and transforms; Newton's sums are taken block by block with NumPy, a
quarter of the time of as many polars expressions. p-values come from the same SQL macros.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from stats.design import Design
from stats.logit_newton_sql import MAX_ITERATIONS, STALLED, TOLERANCE
from stats.logit_rows_sql import SPREADS

_Vector = NDArray[np.float64]
_KEPT = 10_000_000
"""Values of the design that are kept in memory between passes (80 MB)."""
_BLOCK = 16384
"""Rows summed at once: few enough for what is worked out of them to stay in the cache."""
_PARTS = 64
"""Blocks whose sums by cluster are put together at once."""


def _collect(frame: pl.LazyFrame) -> dict[str, Any]:
    return frame.collect(engine="streaming").row(0, named=True)


@dataclass(frozen=True)
class Frame:
    """What the moments say; `problem` as in the statement."""

    facts: dict[str, Any]
    problem: str | None
    centre: _Vector
    to_design: _Vector
    correlation: _Vector
    start: _Vector


def _usable(scan: pl.LazyFrame, p: int, given: frozenset[str]) -> pl.LazyFrame:
    """The rows a fit uses."""
    complete = pl.col("complete")
    if "w" in given:
        complete &= pl.col("w") > 0
    return scan.filter(complete).select("y", *(f"x{k}" for k in range(1, p + 1)), *sorted(given))


def _slices(stream: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Rows of a stream, some at a time, in their order."""
    for frame in stream.collect_batches(engine="streaming"):
        yield from frame.iter_slices(_BLOCK)


def _terms(frame: pl.DataFrame, p: int) -> _Vector:
    """x1 to xp of some rows, shape (n, p)."""
    x = np.empty((frame.height, p), order="F")
    for k in range(p):
        x[:, k] = frame[f"x{k + 1}"].to_numpy()
    return x


def _moments(scan: pl.LazyFrame, used: pl.LazyFrame, p: int, given: frozenset[str]) -> Frame:
    """Counts, means, and the transform that makes the terms orthogonal."""
    y, weighted = pl.col("y"), "w" in given
    w = pl.col("w")

    def weigh(value: pl.Expr) -> pl.Expr:
        return w * value if weighted else value

    facts = _collect(
        scan.select(
            ((w != 0).fill_null(value=True).sum() if weighted else pl.len()).alias("rows_given"),
            (y.is_finite() & (y != 0) & (y != 1)).sum().alias("rows_not_binary"),
            ((w < 0).sum() if weighted else pl.lit(0)).alias("rows_negative_weight"),
        )
    )
    x = [pl.col(f"x{k}") for k in range(1, p + 1)]
    facts |= _collect(
        used.select(
            pl.len().alias("rows_used"),
            (w.sum() if weighted else pl.len().cast(pl.Float64)).alias("n"),
            weigh(y).sum().alias("n_events"),
            ((w != w.round()).any() if weighted else pl.lit(value=False)).alias("fractional"),
            (weigh(pl.col("o")).sum() if "o" in given else pl.lit(0.0)).alias("offset"),
            *(weigh(column).sum().alias(f"m{k}") for k, column in enumerate(x)),
            *((column.min() == column.max()).alias(f"same{k}") for k, column in enumerate(x)),
        )
    )
    n, events = facts["n"], facts["n_events"]
    facts["is_constant"] = [bool(facts[f"same{k}"]) for k in range(p)]
    empty = np.zeros(0)
    checks = (
        ("outcome", facts["rows_not_binary"] > 0),
        ("weights", facts["rows_negative_weight"] > 0 or bool(facts["fractional"])),
        ("no_rows", facts["rows_used"] == 0),
        ("one_class", events in (0, n)),
        ("too_few_rows", n <= p + 1),
        ("constant", any(facts["is_constant"])),
    )
    for problem, found in checks:
        if found:
            return Frame(facts, problem, empty, empty, empty, empty)
    centre = np.array([facts[f"m{k}"] / n for k in range(p)])
    c, g = np.zeros((p, p)), np.zeros(p)
    for some in _slices(used) if p else ():
        d = _terms(some, p) - centre
        weighed = d * some["w"].to_numpy()[:, None] if weighted else d
        with np.errstate(all="ignore"):
            c += weighed.T @ d
            g += weighed.T @ (some["y"].to_numpy() - events / n)
    for k, spread in enumerate(np.diag(c), 1):
        if not SPREADS[0] <= spread <= SPREADS[1]:
            return Frame(facts, f"extreme {k}", empty, empty, empty, empty)
    scale = np.sqrt(np.diag(c) / n)
    correlation = c / n / np.outer(scale, scale) if p else c
    whitening = _whiten(correlation)
    facts["whitening"] = whitening.tolist()
    diagonal = np.diag(whitening)
    collinear = bool(np.any(~(diagonal**-2.0 > 1e-13 + 4e-16 * np.sqrt(n))))
    unscaled = whitening / scale if p else whitening
    to_design = np.eye(p + 1)
    to_design[1:, 1:] = unscaled
    to_design[1:, 0] = -unscaled @ centre
    share = events / n
    slope = g / n
    start = np.concatenate([[0.0], unscaled @ slope / share / (1 - share)])
    return Frame(facts, "collinear" if collinear else None, centre, to_design, correlation, start)


def _whiten(r: _Vector) -> _Vector:
    """As the macro matrix_whitening."""
    p = len(r)
    rows = np.zeros((p, p))
    for k in range(p):
        rest = np.eye(p)[k] - (rows[:k] @ r[k]) @ rows[:k]
        rows[k] = rest / np.sqrt(max(rest @ r @ rest, 1e-300))
    return rows


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of the design: y, (1, z1, ..., zp), and weights, offset, cluster where given."""

    y: _Vector
    z: _Vector
    w: _Vector | None = None
    o: _Vector | None = None
    cluster: pl.Series | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a design block by block; `kept` where they fit into memory."""

    stream: pl.LazyFrame
    frame: Frame
    kept: list[Block] | None

    @classmethod
    def of(cls, stream: pl.LazyFrame, frame: Frame, *, keep: bool) -> "Rows":
        """Of rows with `y`, `x1`.. and what else is given; in memory with `keep`."""
        rows = cls(stream, frame, None)
        return cls(stream, frame, list(rows.blocks())) if keep else rows

    def blocks(self) -> Iterator[Block]:
        """In the order of the rows."""
        if self.kept is not None:
            yield from self.kept
            return
        for some in _slices(self.stream):
            yield block_of(some, self.frame)


def block_of(some: pl.DataFrame, frame: Frame) -> Block:
    """The design of some rows of `y`, `x1`.. and what else is given."""
    p = len(frame.centre)
    z = np.empty((some.height, p + 1), order="F")
    z[:, 0] = 1.0
    z[:, 1:] = (_terms(some, p) - frame.centre) @ frame.to_design[1:, 1:].T
    w, o = (some[name].to_numpy() if name in some.columns else None for name in ("w", "o"))
    cluster = some["cluster"] if "cluster" in some.columns else None
    return Block(some["y"].to_numpy(), z, w, o, cluster)


def likelihood_parts(y: _Vector, eta: _Vector) -> tuple[_Vector, _Vector, _Vector]:
    """Log-likelihood, residual and information of each row, as in the statement.

    In place, since fresh arrays of this size take longer to get than to fill.
    """
    rest = np.abs(eta)
    np.exp(np.negative(rest, out=rest), out=rest)
    u = 1 + rest
    np.reciprocal(u, out=u)
    rest *= u
    likely = y * eta
    likely -= np.maximum(eta, 0.0)
    likely += np.log(u)
    residual = np.where(eta >= 0, u, rest)
    np.subtract(y, residual, out=residual)
    rest *= u
    return likely, residual, rest


def log_odds(block: Block, beta: _Vector) -> _Vector:
    """Of each row in the model of the first terms."""
    eta = block.z[:, : len(beta)] @ beta
    return eta if block.o is None else eta + block.o


def _sums(rows: Rows, beta: _Vector) -> tuple[float, _Vector, _Vector]:
    """Log-likelihood, its gradient and the information at beta."""
    size = len(beta)
    loglik, gradient, information = 0.0, np.zeros(size), np.zeros((size, size))
    with np.errstate(all="ignore"):
        for block in rows.blocks():
            z = block.z[:, :size]
            likely, r, h = likelihood_parts(block.y, log_odds(block, beta))
            if block.w is not None:
                r, h, likely = r * block.w, h * block.w, likely * block.w
            loglik += likely.sum()
            gradient += z.T @ r
            information += z.T @ (z * h[:, None])
    return float(loglik), gradient, information


@dataclass(frozen=True)
class Solution:
    """Where Newton's method ended; `beta` are the estimates if `converged`."""

    beta: _Vector
    step: _Vector
    inverse: _Vector
    loglik: float
    decrement: float
    iterations: int
    converged: bool


def newton(rows: Rows, n: float, position: _Vector, step: _Vector, loglik: float) -> Solution:
    """Newton's method with step halving, as in the statement.

    Args:
        rows: whose first terms are fitted, as many as the position has.
        n: rows, or the sum of their weights.
        position: to start from.
        step: to take first.
        loglik: at the position; -inf to accept any step.
    """
    size = len(position)
    decrement, inverse, iterations, converged = np.inf, np.full((size, size), np.nan), 0, False
    small, shrinking = STALLED
    while iterations < MAX_ITERATIONS and not converged:
        candidate = position + step
        reached, gradient, information = _sums(rows, candidate)
        iterations += 1
        if not np.isfinite(reached) or reached < loglik - 1e-10 * (1 + abs(loglik)):
            step = step / 2
            continue
        position, loglik = candidate, reached
        try:
            inverse = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            break
        new = inverse @ gradient
        before, decrement = decrement, float(gradient @ new)
        if not np.isfinite(decrement):
            break
        step = new
        converged = decrement <= TOLERANCE * n or shrinking * before <= decrement <= small
    beta = position + step if converged else position
    return Solution(beta, step, inverse, loglik, decrement, iterations, converged)


def _separation(rows: Rows, solution: Solution) -> str:
    if solution.converged:
        return "none"
    least, most = np.inf, -np.inf
    for block in rows.blocks():
        moved = (2 * block.y - 1) * (block.z[:, : len(solution.step)] @ solution.step)
        least, most = min(least, float(moved.min())), max(most, float(moved.max()))
    return separation_of(least, most)


def separation_of(least: float, most: float) -> str:
    """As in the statement: 'none', 'quasi' or 'complete'.

    Args:
        least: by which the last step moves any row towards its own class.
        most: likewise.
    """
    if not most > 1e-3 or not least >= -1e-6 * most:
        return "none"
    return "complete" if least > 1e-3 * most else "quasi"


def _cluster_covariance(rows: Rows, solution: Solution, n: float) -> tuple[int, _Vector]:
    size = len(solution.beta)
    scores = [f"s{k}" for k in range(size)]
    parts: list[pl.DataFrame] = []
    for block in rows.blocks():
        _, r, _ = likelihood_parts(block.y, log_odds(block, solution.beta))
        r = r if block.w is None else r * block.w
        each = pl.DataFrame(block.z[:, :size] * r[:, None], schema=scores)
        parts.append(_by_cluster(each.with_columns(pl.Series("cluster", block.cluster))))
        if len(parts) == _PARTS:
            parts = [_by_cluster(pl.concat(parts))]
    table = _by_cluster(pl.concat(parts)).select(scores).to_numpy()
    clusters = len(table)
    sandwich = solution.inverse @ (table.T @ table) @ solution.inverse
    correction = clusters / (clusters - 1) * (n - 1) / (n - size) if clusters > 1 else np.nan
    return clusters, sandwich * correction


def _by_cluster(scores: pl.DataFrame) -> pl.DataFrame:
    return scores.group_by("cluster", maintain_order=True).sum()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A stream of rows ready to be fitted.

    Attributes:
        used: the rows a fit uses, with the columns of `scan_relation`.
        rows: their design; None where there is a `problem` in `facts`.
        frame: what their moments say.
        facts: counts, in the names of the statement's columns.
    """

    used: pl.LazyFrame
    rows: Rows | None
    frame: Frame
    facts: dict[str, Any]


def prepare(scan: pl.LazyFrame, design: Design, *, keep: bool) -> Prepared:
    """Moments and design of a stream; in memory with `keep`."""
    p = len(design.columns)
    roles = design.roles
    parts = {"w": roles.weights, "o": roles.offset, "cluster": roles.cluster}
    given = frozenset(name for name, column in parts.items() if column is not None)
    used = _usable(scan, p, given)
    if keep:
        used = used.collect(engine="streaming").lazy()
    frame = _moments(scan, used, p, given)
    facts = frame.facts | {
        "problem": frame.problem,
        "n_dropped": frame.facts["rows_given"] - frame.facts["rows_used"],
        "correlation": frame.correlation,
    }
    rows = None if frame.problem is not None else Rows.of(used, frame, keep=keep)
    return Prepared(used, rows, frame, facts)


def null_start(prepared: Prepared) -> _Vector:
    """Coefficients of the model of an intercept alone, near enough to start from."""
    facts = prepared.facts
    n, events = facts["n"], facts["n_events"]
    return np.array([float(np.log(events / (n - events))) - (facts["offset"] or 0.0) / n])


def fit_prepared(prepared: Prepared, size: int, *, offset: bool, null: float) -> Solution:
    """Newton's method for the model of the design's first `size` columns.

    Args:
        prepared: with rows.
        size: of its columns.
        offset: whether the rows have one.
        null: log-likelihood of the model of an intercept alone; not looked at with an offset.
    """
    assert prepared.rows is not None  # noqa: S101 - the caller has looked at `problem`
    position = np.concatenate([null_start(prepared), np.zeros(size)])
    step = np.zeros(size + 1) if offset else prepared.frame.start[: size + 1]
    reached = -np.inf if offset else null
    return newton(prepared.rows, prepared.facts["n"], position, step, reached)


def null_loglik(prepared: Prepared) -> float:
    """Log-likelihood of the model of an intercept alone, without an offset."""
    n, events = prepared.facts["n"], prepared.facts["n_events"]
    return float(events * np.log(events / n) + (n - events) * np.log1p(-events / n))


def fit_scan(scan: pl.LazyFrame, design: Design, fits: Sequence[int]) -> list[dict[str, Any]]:
    """Fit models nested in each other to a stream.

    Args:
        scan: from `scan_relation`.
        design: of the largest model.
        fits: how many of the design's columns each model has, the first ones.

    Returns:
        For each the columns of the statement that are not of one term, with `estimates`,
        `covariance`, `vif` and, with clusters, `cluster_covariance` and `n_clusters`.
    """
    roles = design.roles
    p, has_offset = len(design.columns), roles.offset is not None
    width = p + 1 + sum(name is not None for name in (roles.weights, roles.offset, roles.cluster))
    prepared = prepare(scan, design, keep=design.rows * width <= _KEPT)
    facts, frame, rows = prepared.facts, prepared.frame, prepared.rows
    if rows is None:
        nothing = dict.fromkeys(
            (
                "df",
                "covariance",
                "converged",
                "iterations",
                "separation",
                "loglik",
                "loglik_null",
                "aic",
            )
        )
        return [facts | nothing for _ in fits]
    n, null = facts["n"], null_loglik(prepared)
    if has_offset:
        null = newton(rows, n, null_start(prepared), np.zeros(1), -np.inf).loglik
    found = []
    for size in fits:
        solution = fit_prepared(prepared, size, offset=has_offset, null=null)
        back = frame.to_design[: size + 1, : size + 1]
        whitening = np.array(facts["whitening"]).reshape(p, p)[:size, :size]
        result = facts | {
            "df": size,
            "loglik": solution.loglik,
            "loglik_null": null,
            "aic": 2 * (size + 1) - 2 * solution.loglik,
            "converged": solution.converged,
            "iterations": solution.iterations,
            "separation": _separation(rows, solution),
            "estimates": back.T @ solution.beta,
            "covariance": back.T @ solution.inverse @ back,
            "vif": (whitening**2).sum(0),
        }
        if roles.cluster is not None:
            clusters, covariance = _cluster_covariance(rows, solution, n)
            result |= {
                "n_clusters": clusters,
                "cluster_covariance": back.T @ covariance @ back,
            }
        found.append(result)
    return found


def term_rows(
    connection: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    result: Mapping[str, Any],
    confidence: float,
) -> list[dict[str, Any]]:
    """A model's terms as the statement gives them, tested by the SQL macros."""
    if result["problem"] is not None:
        return [dict(result)]
    estimates = np.asarray(result["estimates"])
    quantile, *_ = connection.execute(
        "SELECT normal_quantile($1)", [(1 + confidence) / 2]
    ).fetchall()[0]
    vifs = [None, *map(float, result["vif"])]
    rows = [
        dict(result) | {"term": name, "estimate": float(value), "vif": vif}
        for name, value, vif in zip(("Intercept", *names), estimates, vifs, strict=False)
    ]
    for prefix, covariance in (("", "covariance"), ("cluster_", "cluster_covariance")):
        if result.get(covariance) is None:
            continue
        errors = np.sqrt(np.diag(result[covariance]))
        tails = connection.execute(
            "SELECT normal_two_sided(z), ln_normal_two_sided(z) "
            "FROM unnest($1::DOUBLE[]) WITH ORDINALITY AS t(z, k) "
            "ORDER BY k",
            [(estimates / errors).tolist()],
        ).fetchall()
        for row, error, (p, log_p) in zip(rows, errors, tails, strict=True):
            low, high = (float(row["estimate"] + side * quantile * error) for side in (-1, 1))
            row |= {
                f"{prefix}se": float(error),
                f"{prefix}z": float(row["estimate"] / error),
                f"{prefix}p": p,
                f"{prefix}ci_low": low,
                f"{prefix}ci_high": high,
            }
            if not prefix:
                with np.errstate(over="ignore"):
                    ratios = np.exp([row["estimate"], low, high]).tolist()
                row |= dict(zip(("odds_ratio", "or_low", "or_high"), ratios, strict=True))
                row["log_p"] = log_p
    return rows


def roc_of_scan(scan: pl.LazyFrame, design: Design, estimates: Sequence[float]) -> dict[str, float]:
    """In-sample sensitivity, specificity and AUC of a model of the first columns."""
    roles = design.roles
    weight = pl.lit(1.0) if roles.weights is None else pl.col("w")
    score = pl.lit(float(estimates[0])) if roles.offset is None else estimates[0] + pl.col("o")
    for k, value in enumerate(estimates[1:], 1):
        score += pl.col(f"x{k}") * float(value)
    table = (
        scan.filter(pl.col("complete"))
        .select(
            score.alias("score"),
            (weight * pl.col("y")).alias("positives"),
            (weight * (1 - pl.col("y"))).alias("negatives"),
        )
        .group_by("score")
        .agg(pl.col("positives").sum(), pl.col("negatives").sum())
        .collect(engine="streaming")
        .sort("score")
    )
    values, positives, negatives = table.select("score", "positives", "negatives").to_numpy().T
    below = np.cumsum(negatives) - negatives
    return {
        "sensitivity": float(positives[values >= 0].sum() / positives.sum()),
        "specificity": float(negatives[values < 0].sum() / negatives.sum()),
        "auc": float(
            (positives * (below + negatives / 2)).sum() / positives.sum() / negatives.sum()
        ),
    }
