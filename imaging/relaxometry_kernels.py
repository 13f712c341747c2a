"""The inner loops of the T2 fit: one voxel at a time, compiled by numba.

For a given T2 the model `S0 exp(-TE / T2) + C` is linear in S0 and C, so those two are eliminated
(variable projection, Golub & Pereyra 2003, doi:10.1088/0266-5611/19/2/201) and only log T2 is
searched. What is left is one smooth function of log T2 per voxel, `agreement(log T2) = u . y`: the
length of the signal vector y along the unit decay curve u. Its maximum over the whole allowed
range is the least-squares optimum. `u` depends on the echo times alone, so it is tabulated once
as short polynomials on overlapping cells of log T2.

The table finds the cell of the global optimum and the place in it; the Levenberg-Marquardt
iteration of the paper then runs on the exact exponentials from there until its own step is below
the tolerance. Started this close it needs one or two evaluations, and cannot end in a wrong
valley.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

OK = 0
AT_BOUND = 1
NOT_CONVERGED = 2
CONSTANT_SIGNAL = 3
NON_FINITE = 4
TOO_FEW_ECHOES = 5
POOR_FIT = 6
NO_DECAY = 7
NON_POSITIVE = 8

N_COEFFICIENTS = 8
"""Coefficients of a cell's polynomial; eight doubles are one vector register."""

CELL_WIDTH = 0.2
"""Widest distance between nodes in log T2. At this width and degree seven the table's own error
in T2 is below the fit's tolerance for most voxels, so that one evaluation confirms the optimum."""

START_STEPS = 4
"""Newton steps on a cell's polynomial from its node."""

BLOCK = 32
"""Voxels the start is found for at once."""

MAX_STEPS = 60
"""Steps after which a voxel is given up as not converged; most voxels take none or one."""


class Echoes(NamedTuple):
    """Echo times for the kernels.

    Attributes:
        times_ms: shape (n_echo,), rising.
        spacing_ms: distance between neighbours where it is even, else 0.
    """

    times_ms: NDArray[np.float64]
    spacing_ms: float


class DecayTable(NamedTuple):
    """The unit decay curve tabulated over log T2; n_padded is n_echo rounded up to fours.

    Attributes:
        nodes: evenly spaced log T2 from one bound to the other, shape (n_node,).
        at_nodes: the curve at the nodes, shape (n_node, n_padded), zero where padded.
        cells: polynomial coefficients of the curve around each node in units of the node distance,
            good for one such distance to either side, shape (n_node, n_padded, N_COEFFICIENTS).
    """

    nodes: NDArray[np.float64]
    at_nodes: NDArray[np.float64]
    cells: NDArray[np.float64]


class FitRule(NamedTuple):
    """What is fitted and when a fit counts.

    Attributes:
        with_offset: whether the constant C is part of the model.
        shortest_ms: the smallest T2 allowed.
        longest_ms: the largest T2 allowed.
        log_shortest: logarithm of the smallest, the table's first node.
        log_longest: logarithm of the largest, its last.
        tolerance: relative step in T2 below which the iteration stops.
        poor_fit_r2: share of explained variance below which a fit is called poor.
    """

    with_offset: bool
    shortest_ms: float
    longest_ms: float
    log_shortest: float
    log_longest: float
    tolerance: float
    poor_fit_r2: float


class _Block(NamedTuple):
    """Working space of `BLOCK` voxels, voxels along the last axis."""

    signal: NDArray[np.float64]
    most: NDArray[np.float64]
    best: NDArray[np.float64]
    total: NDArray[np.float64]
    sums: NDArray[np.float64]
    poly: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    place: NDArray[np.float64]
    log_t2: NDArray[np.float64]


# "contract" lets a product and a sum become one instruction; NaN and infinity keep their meaning.
_compile: Callable[[Callable], Callable] = njit(
    cache=True, error_model="numpy", fastmath={"contract"}
)


def decay_table(
    times_ms: NDArray[np.float64], bounds_ms: tuple[float, float], with_offset: bool
) -> DecayTable:
    """Tabulate the unit decay curve over log T2.

    Args:
        times_ms: shape (n_echo,).
        bounds_ms: smallest and largest T2.
        with_offset: whether a free constant is part of the model.
    """
    low, high = math.log(bounds_ms[0]), math.log(bounds_ms[1])
    n_node = max(3, math.ceil((high - low) / CELL_WIDTH) + 1)
    nodes = np.linspace(low, high, n_node)
    width = nodes[1] - nodes[0]

    n_sample = 2 * N_COEFFICIENTS
    place = np.cos(np.pi * (np.arange(n_sample) + 0.5) / n_sample)
    curves = _unit_curve(times_ms, nodes[:, None] + width * place, with_offset)
    to_coefficients = np.linalg.pinv(np.vander(place, N_COEFFICIENTS, increasing=True))
    n_echo = times_ms.size
    n_padded = -(-n_echo // 4) * 4
    at_nodes = np.zeros((n_node, n_padded))
    at_nodes[:, :n_echo] = _unit_curve(times_ms, nodes, with_offset)
    cells = np.zeros((n_node, n_padded, N_COEFFICIENTS))
    cells[:, :n_echo] = np.einsum("ks,nse->nek", to_coefficients, curves)
    return DecayTable(nodes, at_nodes, cells)


def _unit_curve(
    times_ms: NDArray[np.float64], log_t2: NDArray[np.float64], with_offset: bool
) -> NDArray[np.float64]:
    """The decay curve at unit length, its mean removed if the model has an offset; (..., n_echo).

    Counted from the first echo, which changes nothing but keeps a very short T2 from underflowing.
    """
    curve = np.exp(-(times_ms - times_ms[0]) * np.exp(-log_t2)[..., None])
    if with_offset:
        curve = curve - curve.mean(axis=-1, keepdims=True)
    return curve / np.linalg.norm(curve, axis=-1, keepdims=True)


@_compile
def _best_nodes(block: _Block, at_nodes: NDArray) -> None:
    """Fill the node each voxel of a block agrees with most, and how much; -1 where with none.

    The sums over echoes are written four at a time and the voxels of a block are the inner loop, so
    that the compiler works on many voxels at once; signal and table are padded with zero echoes.
    """
    signal, most, best, total = block.signal, block.most, block.best, block.total
    n_node, n_echo = at_nodes.shape
    for voxel in range(BLOCK):
        most[voxel] = 0.0
        best[voxel] = -1.0
    for node in range(n_node):
        for voxel in range(BLOCK):
            total[voxel] = 0.0
        for echo in range(0, n_echo, 4):
            u0, u1 = at_nodes[node, echo], at_nodes[node, echo + 1]
            u2, u3 = at_nodes[node, echo + 2], at_nodes[node, echo + 3]
            for voxel in range(BLOCK):
                total[voxel] += (
                    u0 * signal[echo, voxel]
                    + u1 * signal[echo + 1, voxel]
                    + u2 * signal[echo + 2, voxel]
                    + u3 * signal[echo + 3, voxel]
                )
        number = float(node)
        for voxel in range(BLOCK):
            here = total[voxel]
            so_far = most[voxel]
            best[voxel] = number if here > so_far else best[voxel]
            most[voxel] = here if here > so_far else so_far


@_compile
def _combine_cells(block: _Block, cells: NDArray) -> None:
    """Fill the polynomial of each voxel's agreement around its best node, and where it is valid."""
    signal, sums = block.signal, block.sums
    n_node, n_echo, _ = cells.shape
    for voxel in range(BLOCK):
        node = max(int(block.best[voxel]), 0)
        for order in range(N_COEFFICIENTS):
            sums[order] = 0.0
        for echo in range(0, n_echo, 4):
            y0, y1 = signal[echo, voxel], signal[echo + 1, voxel]
            y2, y3 = signal[echo + 2, voxel], signal[echo + 3, voxel]
            for order in range(N_COEFFICIENTS):
                sums[order] += (
                    y0 * cells[node, echo, order]
                    + y1 * cells[node, echo + 1, order]
                    + y2 * cells[node, echo + 2, order]
                    + y3 * cells[node, echo + 3, order]
                )
        for order in range(N_COEFFICIENTS):
            block.poly[order, voxel] = sums[order]
        block.lowest[voxel] = 0.0 if node == 0 else -1.0
        block.highest[voxel] = 0.0 if node == n_node - 1 else 1.0


@_compile
def _climb(block: _Block) -> None:
    """Newton steps to the top of each voxel's polynomial."""
    poly, place = block.poly, block.place
    for voxel in range(BLOCK):
        place[voxel] = 0.0
    for _ in range(START_STEPS):
        for voxel in range(BLOCK):
            x = place[voxel]
            c2, c3, c4 = poly[2, voxel], poly[3, voxel], poly[4, voxel]
            c5, c6, c7 = poly[5, voxel], poly[6, voxel], poly[7, voxel]
            slope = poly[1, voxel] + x * (
                2 * c2 + x * (3 * c3 + x * (4 * c4 + x * (5 * c5 + x * (6 * c6 + x * 7 * c7))))
            )
            bend = 2 * c2 + x * (
                6 * c3 + x * (12 * c4 + x * (20 * c5 + x * (30 * c6 + x * 42 * c7)))
            )
            uphill = 1.0 if slope > 0.0 else -1.0
            step = -slope / bend if bend < 0.0 else uphill
            place[voxel] = min(max(x + step, block.lowest[voxel]), block.highest[voxel])


@_compile
def _start_block(block: _Block, table: DecayTable) -> None:
    """Fill where in log T2 the table agrees best with each voxel; NaN where it agrees nowhere."""
    _best_nodes(block, table.at_nodes)
    _combine_cells(block, table.cells)
    _climb(block)
    nodes = table.nodes
    width = nodes[1] - nodes[0]
    for voxel in range(BLOCK):
        if block.best[voxel] < 0.0:
            block.log_t2[voxel] = np.nan
        else:
            log_t2 = nodes[int(block.best[voxel])] + block.place[voxel] * width
            block.log_t2[voxel] = min(max(log_t2, nodes[0]), nodes[nodes.size - 1])


@_compile
def _fill_curve(echoes: Echoes, rate: float, curve: NDArray) -> None:
    """exp(-rate * (TE - first TE)); a single exponential where echoes are evenly spaced."""
    times_ms = echoes.times_ms
    if echoes.spacing_ms > 0.0:
        factor = math.exp(-rate * echoes.spacing_ms)
        value = 1.0
        for echo in range(times_ms.size):
            curve[echo] = value
            value *= factor
    else:
        for echo in range(times_ms.size):
            curve[echo] = math.exp(-rate * (times_ms[echo] - times_ms[0]))


@_compile
def _project(
    echoes: Echoes, signal: NDArray, curve: NDArray, log_t2: float, with_offset: bool
) -> tuple[float, float, float, float, float]:
    """Best S0 and C for one T2, and what a Levenberg-Marquardt step in log T2 needs.

    Returns:
        S0 at the first echo, C, sum of squared residuals, gradient (residual . dmodel/dlog T2),
        and curvature (squared length of dmodel/dlog T2 across what S0 and C can take up).
    """
    times_ms = echoes.times_ms
    rate = math.exp(-log_t2)
    _fill_curve(echoes, rate, curve)
    n = float(times_ms.size)
    sum_x = sum_y = sum_xx = sum_xy = sum_w = sum_wx = sum_ww = 0.0
    for echo in range(times_ms.size):
        x = curve[echo]
        y = signal[echo]
        w = rate * (times_ms[echo] - times_ms[0]) * x
        sum_x += x
        sum_y += y
        sum_w += w
        sum_xx += x * x
        sum_xy += x * y
        sum_wx += w * x
        sum_ww += w * w
    if with_offset:
        sum_xy -= sum_x * sum_y / n
        sum_wx -= sum_w * sum_x / n
        sum_ww -= sum_w * sum_w / n
        sum_xx -= sum_x * sum_x / n
    s0 = sum_xy / sum_xx
    offset = (sum_y - s0 * sum_x) / n if with_offset else 0.0
    sse = 0.0
    gradient = 0.0
    for echo in range(times_ms.size):
        x = curve[echo]
        residual = signal[echo] - s0 * x - offset
        sse += residual * residual
        gradient += residual * rate * (times_ms[echo] - times_ms[0]) * x
    return s0, offset, sse, gradient * s0, s0 * s0 * (sum_ww - sum_wx * sum_wx / sum_xx)


@_compile
def _refine(
    echoes: Echoes, signal: NDArray, curve: NDArray, log_t2: float, rule: FitRule
) -> tuple[int, float, float, float, float, float]:
    """Levenberg-Marquardt from a start: flag, log T2, S0 at the first echo, C, SSE, curvature."""
    if math.isnan(log_t2):
        return NO_DECAY, np.nan, np.nan, np.nan, np.nan, np.nan
    lowest, highest = rule.log_shortest, rule.log_longest
    s0, offset, sse, gradient, curvature = _project(echoes, signal, curve, log_t2, rule.with_offset)
    damping = 0.0
    for _ in range(MAX_STEPS):
        step = gradient / (curvature * (1.0 + damping))
        if (log_t2 <= lowest and step <= 0.0) or (log_t2 >= highest and step >= 0.0):
            return AT_BOUND, log_t2, s0, offset, sse, curvature
        if abs(step) < rule.tolerance:
            return OK, log_t2, s0, offset, sse, curvature
        trial = min(max(log_t2 + step, lowest), highest)
        t_s0, t_offset, t_sse, t_gradient, t_curvature = _project(
            echoes, signal, curve, trial, rule.with_offset
        )
        # Close to the optimum the gain of a step drowns in the rounding of the sum of squares,
        # where only the gradient still tells a good step from a bad one.
        better = t_sse < sse * (1.0 - 1e-12) or (
            t_sse < sse * (1.0 + 1e-12) and abs(t_gradient) < abs(gradient)
        )
        if better and t_s0 > 0.0:
            log_t2 = trial
            s0, offset, sse, gradient, curvature = t_s0, t_offset, t_sse, t_gradient, t_curvature
            damping *= 0.1
        else:
            damping = max(0.1, damping * 10.0)
    return NOT_CONVERGED, log_t2, s0, offset, sse, curvature


@_compile
def _classify_signal(echo_values: NDArray) -> tuple[int, float]:
    """Whether one voxel's echoes can be fitted, and their variance times n_echo."""
    n_echo = echo_values.size
    total = 0.0
    power = 0.0
    for echo in range(n_echo):
        value = echo_values[echo]
        total += value
        power += value * value
    mean = total / n_echo
    spread = 0.0
    for echo in range(n_echo):
        deviation = echo_values[echo] - mean
        spread += deviation * deviation
    if not math.isfinite(power):
        return NON_FINITE, spread
    # Below this a float32 signal differs only in its last bits.
    if spread <= 1e-14 * power:
        return CONSTANT_SIGNAL, spread
    return OK, spread


@_compile
def _fit_voxel(
    echoes: Echoes, signal: NDArray, curve: NDArray, log_t2: float, rule: FitRule
) -> tuple[int, float, float, float, float, float]:
    """Fit one voxel from its start: flag, T2, S0, C, standard error of T2 and residual RMS."""
    flag, spread = _classify_signal(signal)
    if flag != OK:
        return flag, np.nan, np.nan, np.nan, np.nan, np.nan
    flag, log_t2, s0, offset, sse, curvature = _refine(echoes, signal, curve, log_t2, rule)
    if flag == NO_DECAY:
        return flag, np.nan, np.nan, np.nan, np.nan, np.nan
    if flag == AT_BOUND:
        # The logarithm and back would miss it by a rounding error.
        t2_ms = rule.shortest_ms if log_t2 <= rule.log_shortest else rule.longest_ms
    else:
        t2_ms = min(max(math.exp(log_t2), rule.shortest_ms), rule.longest_ms)
    s0 *= math.exp(echoes.times_ms[0] / t2_ms)
    freedom = signal.size - (3 if rule.with_offset else 2)
    error = np.nan
    if flag == OK and freedom > 0:
        error = t2_ms * math.sqrt(sse / (freedom * curvature))
    if flag == OK and sse > (1.0 - rule.poor_fit_r2) * spread:
        flag = POOR_FIT
    return flag, t2_ms, s0, offset, error, math.sqrt(sse / signal.size)


@_compile
def fit_exponential(
    signals: NDArray[np.float64],
    echoes: Echoes,
    table: DecayTable,
    rule: FitRule,
    results: tuple[NDArray[np.float64], NDArray[np.uint8]],
) -> None:
    """Fit every voxel; see `imaging.relaxometry.fit_t2` for the meaning.

    Args:
        signals: shape (n_voxel, n_echo), C order.
        echoes: echo times.
        table: of the rule's model and bounds.
        rule: what to fit.
        results: filled; values of shape (5, n_voxel): T2, S0, C, standard error of T2 and residual
            RMS; and flags of shape (n_voxel,).
    """
    values, flags = results
    n_voxel, n_echo = signals.shape
    block = _Block(
        np.zeros((table.at_nodes.shape[1], BLOCK)),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(N_COEFFICIENTS),
        np.empty((N_COEFFICIENTS, BLOCK)),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK),
    )
    curve = np.empty(n_echo)
    for first in range(0, n_voxel, BLOCK):
        n_here = min(BLOCK, n_voxel - first)
        # A last, short block fits leftovers of the one before beside its own; nobody reads them.
        for voxel in range(n_here):
            for echo in range(n_echo):
                block.signal[echo, voxel] = signals[first + voxel, echo]
        _start_block(block, table)
        for voxel in range(n_here):
            here = first + voxel
            flag, t2_ms, s0, offset, error, rms = _fit_voxel(
                echoes, signals[here], curve, block.log_t2[voxel], rule
            )
            flags[here] = flag
            values[0, here] = t2_ms
            values[1, here] = s0
            values[2, here] = offset
            values[3, here] = error
            values[4, here] = rms
