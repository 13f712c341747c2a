"""Least squares of every vertex of a map on one design, as a compiled loop.

In double precision, whatever the map is kept in, and each vertex by itself: nothing depends on how
many are given at once.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stats.spm_sql import SMALLEST_PIVOT

Floats = NDArray[np.float64]

SUMS = (
    "n",
    "n_group1",
    "shift",
    "yy",
    "total_ss",
    "rss",
    "group_s",
    "group_m",
    "sum_shifted",
    "sum_shifted_group1",
)
"""What the loop gives of a vertex; `group_s` and `group_m` are those of the group's column after
all others, as `stats.spm_sql` has them."""


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a: Floats, b: Floats) -> float:
    total = 0.0
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True)
def _take(
    row: NDArray[np.floating[Any]], chosen: NDArray[np.int64], y: Floats, present: Floats
) -> tuple[int, float]:
    """Fill `y` less its minimum, 0 where missing; return how many there are, and the minimum.

    Far from 0 the sums would be large and cancel. The minimum is infinite where a value is.
    """
    count, low, high = 0, np.inf, -np.inf
    for i in range(chosen.shape[0]):
        value = row[chosen[i]]
        y[i] = value
        present[i] = 0.0
        if not np.isnan(value):
            present[i] = 1.0
            count += 1
            low, high = min(low, y[i]), max(high, y[i])
    if high == np.inf:
        return count, np.inf
    for i in range(chosen.shape[0]):
        y[i] = y[i] - low if present[i] == 1.0 else 0.0
    return count, low


@njit(cache=True, nogil=True)
def _eliminate(basis: Floats, present: Floats, spare: Floats, s: Floats, m: Floats) -> None:
    """Eliminate the columns in turn over the cases there are.

    Before, `s` holds the inner products with all columns; after, those of each column after all
    before it, and `m[k, k]` what is left of that column's square. `spare` is overwritten.
    """
    size = s.shape[0]
    for i in range(size):
        for case in range(spare.shape[0]):
            spare[case] = present[case] * basis[i, case]
        for j in range(i, size):
            m[i, j] = _dot(spare, basis[j])
    for k in range(size):
        if not m[k, k] > SMALLEST_PIVOT:
            m[k, k] = np.nan
        for j in range(k + 1, size):
            s[j] -= m[k, j] * s[k] / m[k, k]
            for i in range(k + 1, j + 1):
                m[i, j] -= m[k, i] * m[k, j] / m[k, k]


@njit(cache=True, nogil=True)
def least_squares(
    values: NDArray[np.floating[Any]],
    chosen: NDArray[np.int64],
    basis: Floats,
    in_group1: Floats,
    out: Floats,
) -> None:
    """Fill `out`, shape (v, len(SUMS)).

    `values` is (v, width), `chosen` the index into it of each case, (n,), `basis` (p, n) and
    `in_group1` 0 or 1, (n,).
    """
    n_case, size = chosen.shape[0], basis.shape[0]
    y, present = np.empty(n_case), np.empty(n_case)
    s, m = np.empty(size), np.eye(size)
    for vertex in range(values.shape[0]):
        out[vertex] = np.nan
        count, low = _take(values[vertex], chosen, y, present)
        out[vertex, 0], out[vertex, 1] = count, _dot(present, in_group1)
        if count == 0:
            continue
        if np.isinf(low):
            out[vertex, 3] = np.inf
            continue
        yy = _dot(y, y)
        for k in range(size):
            s[k] = _dot(y, basis[k])
        out[vertex, 2], out[vertex, 3] = low, yy
        out[vertex, 8], out[vertex, 9] = np.sum(y), _dot(y, in_group1)
        if count == n_case:
            m[:] = np.eye(size)
        else:
            _eliminate(basis, present, y, s, m)
        rss = yy
        for k in range(size):
            rss -= s[k] * s[k] / m[k, k]
            if k == 0:
                out[vertex, 4] = rss
        out[vertex, 5], out[vertex, 6], out[vertex, 7] = rss, s[size - 1], m[size - 1, size - 1]
