"""Bootstrap refits of a logistic regression, many at once, as products of matrices.

The same draws, steps and answers as the statement (`stats.logit_resampling_sql`). A draw of rows is
how often each is counted, so the sums of a block of replicates are their counts, times a residual
or an information, times a matrix that all of them share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stats.design import Design
from stats.logit_newton_sql import MAX_ITERATIONS, STALLED
from stats.logit_polars import (
    Block,
    Prepared,
    Solution,
    block_of,
    fit_prepared,
    likelihood_parts,
    log_odds,
    null_loglik,
    prepare,
    separation_of,
)
from stats.logit_resampling_sql import BOOTSTRAP_TOLERANCE

_Vector = NDArray[np.float64]
_BLOCK = 32_768
"""Values per array of a block of replicates: what is worked out of them stays in the cache."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows, in the order of the statement.

    Attributes:
        design: y, z and the offset.
        residual: of each row in the model of all rows, shape (n,).
        products: z_i z_j of each row, i <= j, shape (n, size (size + 1) / 2).
        unit: number of each row's unit from 0.
        n_units: there are.
    """

    design: Block
    residual: _Vector
    products: _Vector
    unit: NDArray[np.int64]
    n_units: int


@dataclass(eq=False)
class _State:
    """Newton's method of a block of replicates, a row each; names as in the statement."""

    position: _Vector
    step: _Vector
    loglik: _Vector
    decrement: _Vector
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    running: NDArray[np.bool_]


def refit_scan(
    scan: pl.LazyFrame, design: Design, n_replicates: int, seed: int
) -> list[dict[str, Any]]:
    """Refit a model to draws of its rows or clusters.

    Args:
        scan: from `stats.scan.scan_relation`.
        design: without weights.
        n_replicates: how many draws.
        seed: of the draws.

    Returns:
        The columns of the statement of `bootstrap_statement`: a row per replicate, or one with
        `problem`, or without `full_converged`.
    """
    offset = design.roles.offset is not None
    prepared = prepare(scan, design, keep=True)
    facts, size = prepared.facts, len(design.columns)
    if prepared.rows is None:
        return [facts | {"full_converged": False}]
    full = fit_prepared(prepared, size, offset=offset, null=null_loglik(prepared))
    if not full.converged:
        return [facts | {"full_converged": False}]
    rows = _ordered(prepared, full.beta)
    to_design = prepared.frame.to_design
    found = []
    for first, times in _blocks_of_draws(rows, n_replicates, seed):
        found += _refits(rows, times, full, to_design, first)
    return [{"problem": None, "full_converged": True} | row for row in found]


def _ordered(prepared: Prepared, beta: _Vector) -> _Rows:
    frame, size = prepared.used.collect(), len(beta) - 1
    terms = [f"x{k}" for k in range(1, size + 1)]
    keys = [*reversed(["y", *terms, *(["o"] if "o" in frame.columns else [])])]
    if "cluster" in frame.columns:
        unit = frame["cluster"].rank("dense").cast(pl.Int64).to_numpy() - 1
    else:
        # Numbered by content: rows that tie are the same, so the order of a file does not matter.
        frame = frame[np.lexsort([frame[name].to_numpy() for name in keys])]
        unit = np.arange(frame.height)
    design = block_of(frame, prepared.frame)
    first, second = np.triu_indices(size + 1)
    products = design.z[:, first] * design.z[:, second]
    _, residual, _ = likelihood_parts(design.y, log_odds(design, beta))
    return _Rows(design, residual, products, unit, int(unit.max()) + 1)


def _mixed(word: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """`lowbias32` (Wellons 2018), as in the statement."""
    word = (word ^ (word >> np.uint32(16))) * np.uint32(2146121005)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(2221713035)
    return word ^ (word >> np.uint32(16))


def draw_counts(n_units: int, replicates: range, seed: int) -> _Vector:
    """How often each unit is drawn in each replicate, shape (n_replicate, n_units)."""
    digests = [
        md5(f"{seed}:{replicate}".encode(), usedforsecurity=False).digest()
        for replicate in replicates
    ]
    keys = np.frombuffer(b"".join(digests), "<u4").reshape(-1, 4)
    draws = np.arange(n_units, dtype=np.uint32)
    word = _mixed(_mixed(draws ^ keys[:, :1]) ^ keys[:, 1:2])
    drawn = ((word.astype(np.uint64) * np.uint64(n_units)) >> np.uint64(32)).astype(np.int64)
    drawn += np.arange(len(keys))[:, None] * n_units
    counts = np.bincount(drawn.ravel(), minlength=len(keys) * n_units)
    return counts.reshape(len(keys), n_units).astype(np.float64)


def _blocks_of_draws(rows: _Rows, n_replicates: int, seed: int) -> Iterator[tuple[int, _Vector]]:
    """First replicate of each block, and how often each drew each row."""
    n = len(rows.unit)
    at_once = max(1, _BLOCK // n)
    for first in range(1, n_replicates + 1, at_once):
        last = min(first + at_once, n_replicates + 1)
        yield first, draw_counts(rows.n_units, range(first, last), seed)[:, rows.unit]


def _sums(rows: _Rows, times: _Vector, beta: _Vector) -> tuple[_Vector, _Vector, _Vector]:
    """Log-likelihood, gradient and information of each replicate."""
    design = rows.design
    eta = beta @ design.z.T
    if design.o is not None:
        eta += design.o
    likely, r, h = likelihood_parts(design.y, eta)
    size = beta.shape[1]
    information = np.empty((len(beta), size, size))
    first, second = np.triu_indices(size)
    h *= times
    r *= times
    information[:, first, second] = h @ rows.products
    information[:, second, first] = information[:, first, second]
    return np.einsum("ij,ij->i", times, likely), r @ design.z, information


def _solved(information: _Vector, gradient: _Vector) -> _Vector:
    """The step of each replicate; NaN where its information is singular."""
    try:
        solved = np.linalg.solve(information, gradient[..., None])
    except np.linalg.LinAlgError:
        if len(information) == 1:
            return np.full_like(gradient, np.nan)
        each = zip(information, gradient, strict=True)
        return np.concatenate([_solved(one[None], towards[None]) for one, towards in each])
    return solved[..., 0].astype(np.float64, copy=False)


def _refits(
    rows: _Rows, times: _Vector, full: Solution, to_design: _Vector, first: int
) -> list[dict[str, Any]]:
    design = rows.design
    count, size = len(times), len(full.beta)
    n, events = times.sum(axis=1), times @ design.y
    with np.errstate(all="ignore"):
        score = (times * rows.residual) @ design.z
        # A refit starts one step, by the information of all rows, from the model of all rows.
        state = _State(
            position=np.tile(full.beta, (count, 1)),
            step=score @ full.inverse,
            loglik=np.full(count, -np.inf),
            decrement=np.full(count, np.inf),
            iterations=np.zeros(count, np.int64),
            converged=np.zeros(count, bool),
            running=(events > 0) & (events < n),
        )
        is_fitted = state.running.copy()
        while state.running.any():
            _advance(state, rows, times, n)
    estimates = np.where(state.converged[:, None], state.position + state.step, np.nan) @ to_design
    return [
        {
            "replicate": first + k,
            "n_drawn": n[k],
            "n_events_drawn": events[k],
            "converged": bool(state.converged[k]),
            "separation": _separation(state, design, times[k], k) if is_fitted[k] else "quasi",
            "iterations": int(state.iterations[k]),
            "loglik": float(state.loglik[k]) if state.converged[k] else None,
            "estimates": estimates[k, :size].tolist() if state.converged[k] else None,
        }
        for k in range(count)
    ]


def _advance(state: _State, rows: _Rows, times: _Vector, n: _Vector) -> None:
    """One step of the replicates that are still running."""
    small, shrinking = STALLED
    active = np.flatnonzero(state.running)
    candidate = state.position[active] + state.step[active]
    drawn = times if len(active) == len(times) else times[active]
    reached, gradient, information = _sums(rows, drawn, candidate)
    state.iterations[active] += 1
    before = state.loglik[active]
    worse = ~np.isfinite(reached) | (reached < before - 1e-10 * (1 + np.abs(before)))
    state.step[active[worse]] /= 2
    better, taken = active[~worse], ~worse
    step = _solved(information[taken], gradient[taken])
    decrement = (gradient[taken] * step).sum(axis=1)
    usable = np.isfinite(decrement)
    state.position[better], state.loglik[better] = candidate[taken], reached[taken]
    state.step[better[usable]] = step[usable]
    done = decrement <= BOOTSTRAP_TOLERANCE * n[better]
    done |= (decrement <= small) & (decrement >= shrinking * state.decrement[better])
    state.decrement[better] = decrement
    state.converged[better] = usable & done
    # As in the statement, a step that is no number counts as the last one.
    state.iterations[better[~usable]] = MAX_ITERATIONS
    state.running[active] = ~state.converged[active] & (state.iterations[active] < MAX_ITERATIONS)


def _separation(state: _State, design: Block, times: _Vector, k: int) -> str:
    """What a replicate's drawn rows show: 'none', 'quasi' or 'complete'."""
    if state.converged[k]:
        return "none"
    drawn = times > 0
    moved = (2 * design.y[drawn] - 1) * (design.z[drawn] @ state.step[k])
    return separation_of(float(moved.min()), float(moved.max()))
