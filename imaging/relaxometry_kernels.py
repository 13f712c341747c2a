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

START_STEPS = 3
"""Newton steps on a cell's polynomial, after a parabola through three nodes."""

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
        at_nodes: the curve at the nodes, shape (n_padded, n_node), zero where padded.
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
        non_negative_offset: whether a fit with C < 0 is replaced by the best one with C = 0.
        shortest_ms: the smallest T2 allowed.
        longest_ms: the largest T2 allowed.
        tolerance: relative step in T2 below which the iteration stops.
        poor_fit_r2: share of explained variance below which a fit is called poor.
    """

    with_offset: bool
    non_negative_offset: bool
    shortest_ms: float
    longest_ms: float
    tolerance: float
    poor_fit_r2: float


class _Scratch(NamedTuple):
    """Working space of one voxel, allocated once."""

    signal: NDArray[np.float64]
    agreement: NDArray[np.float64]
    poly: NDArray[np.float64]
    curve: NDArray[np.float64]


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
    at_nodes = np.zeros((n_padded, n_node))
    at_nodes[:n_echo] = _unit_curve(times_ms, nodes, with_offset).T
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
def _best_node(signal: NDArray, at_nodes: NDArray, agreement: NDArray) -> int:
    """Fill the agreement of a signal with the curve at every node; the node with the most.

    The sums over echoes are written four at a time so that the loop over nodes is the vectorised
    one; signal and table are padded with zero echoes for that.
    """
    n_echo, n_node = at_nodes.shape
    agreement[:] = 0.0
    for echo in range(0, n_echo, 4):
        y0, y1, y2, y3 = signal[echo], signal[echo + 1], signal[echo + 2], signal[echo + 3]
        for node in range(n_node):
            agreement[node] += (
                y0 * at_nodes[echo, node]
                + y1 * at_nodes[echo + 1, node]
                + y2 * at_nodes[echo + 2, node]
                + y3 * at_nodes[echo + 3, node]
            )
    best = 0
    most = agreement[0]
    for node in range(1, n_node):
        if agreement[node] > most:
            most = agreement[node]
            best = node
    return best


@_compile
def _combine_cell(signal: NDArray, cell: NDArray, poly: NDArray) -> None:
    """Fill the polynomial of one voxel's agreement in one cell."""
    poly[:] = 0.0
    for echo in range(0, cell.shape[0], 4):
        y0, y1, y2, y3 = signal[echo], signal[echo + 1], signal[echo + 2], signal[echo + 3]
        for order in range(N_COEFFICIENTS):
            poly[order] += (
                y0 * cell[echo, order]
                + y1 * cell[echo + 1, order]
                + y2 * cell[echo + 2, order]
                + y3 * cell[echo + 3, order]
            )


@_compile
def _start(table: DecayTable, scratch: _Scratch) -> float:
    """Where in log T2 the table agrees best with a signal; NaN where it agrees nowhere."""
    agreement = scratch.agreement
    poly = scratch.poly
    best = _best_node(scratch.signal, table.at_nodes, agreement)
    if agreement[best] <= 0.0:
        return np.nan
    _combine_cell(scratch.signal, table.cells[best], poly)
    last = table.nodes.size - 1
    lowest = 0.0 if best == 0 else -1.0
    highest = 0.0 if best == last else 1.0
    place = 0.0
    if 0 < best < last:
        below = agreement[best - 1] - agreement[best]
        above = agreement[best + 1] - agreement[best]
        place = 0.5 * (below - above) / min(below + above, -1e-300)
    for _ in range(START_STEPS):
        slope = 0.0
        bend = 0.0
        for order in range(N_COEFFICIENTS - 1, 0, -1):
            bend = bend * place + slope
            slope = slope * place + order * poly[order]
        uphill = 1.0 if slope > 0.0 else -1.0
        step = -slope / bend if bend < 0.0 else uphill
        place = min(max(place + step, lowest), highest)
    width = table.nodes[1] - table.nodes[0]
    return min(max(table.nodes[best] + place * width, table.nodes[0]), table.nodes[last])


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
    echoes: Echoes, log_t2: float, with_offset: bool, scratch: _Scratch
) -> tuple[float, float, float, float, float]:
    """Best S0 and C for one T2, and what a Levenberg-Marquardt step in log T2 needs.

    Returns:
        S0 at the first echo, C, sum of squared residuals, gradient (residual . dmodel/dlog T2),
        and curvature (squared length of dmodel/dlog T2 across what S0 and C can take up).
    """
    times_ms = echoes.times_ms
    signal = scratch.signal
    curve = scratch.curve
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
def _fit_voxel(
    echoes: Echoes, table: DecayTable, with_offset: bool, tolerance: float, scratch: _Scratch
) -> tuple[int, float, float, float, float, float]:
    """Levenberg-Marquardt from the table's start: flag, log T2, S0, C, SSE, curvature."""
    lowest = table.nodes[0]
    highest = table.nodes[table.nodes.size - 1]
    log_t2 = _start(table, scratch)
    if math.isnan(log_t2):
        return NO_DECAY, np.nan, np.nan, np.nan, np.nan, np.nan
    s0, offset, sse, gradient, curvature = _project(echoes, log_t2, with_offset, scratch)
    damping = 0.0
    for _ in range(MAX_STEPS):
        step = gradient / (curvature * (1.0 + damping))
        if (log_t2 <= lowest and step <= 0.0) or (log_t2 >= highest and step >= 0.0):
            return AT_BOUND, log_t2, s0, offset, sse, curvature
        if abs(step) < tolerance:
            return OK, log_t2, s0, offset, sse, curvature
        trial = min(max(log_t2 + step, lowest), highest)
        t_s0, t_offset, t_sse, t_gradient, t_curvature = _project(
            echoes, trial, with_offset, scratch
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
def _classify_signal(echo_values: NDArray, signal: NDArray) -> tuple[int, float]:
    """Copy one voxel's echoes; whether they can be fitted, and their variance times n_echo."""
    n_echo = echo_values.size
    total = 0.0
    power = 0.0
    for echo in range(n_echo):
        value = np.float64(echo_values[echo])
        signal[echo] = value
        total += value
        power += value * value
    mean = total / n_echo
    spread = 0.0
    for echo in range(n_echo):
        deviation = signal[echo] - mean
        spread += deviation * deviation
    if not math.isfinite(power):
        return NON_FINITE, spread
    # Below this a float32 signal differs only in its last bits.
    if spread <= 1e-14 * power:
        return CONSTANT_SIGNAL, spread
    return OK, spread


@_compile
def fit_exponential(
    signals: NDArray,
    echoes: Echoes,
    tables: tuple[DecayTable, DecayTable],
    rule: FitRule,
    results: tuple[NDArray[np.float64], NDArray[np.uint8]],
) -> None:
    """Fit every voxel; see `imaging.relaxometry.fit_t2` for the meaning.

    Args:
        signals: shape (n_voxel, n_echo), C order.
        echoes: echo times.
        tables: of the model with an offset and of the one without.
        rule: what to fit.
        results: filled; values of shape (5, n_voxel): T2, S0, C, standard error of T2 and residual
            RMS; and flags of shape (n_voxel,).
    """
    values, flags = results
    offset_table, plain_table = tables
    n_voxel, n_echo = signals.shape
    signal = np.zeros(offset_table.at_nodes.shape[0])
    curve = np.empty(n_echo)
    poly = np.empty(N_COEFFICIENTS)
    offset_scratch = _Scratch(signal, np.empty(offset_table.nodes.size), poly, curve)
    plain_scratch = _Scratch(signal, np.empty(plain_table.nodes.size), poly, curve)
    for voxel in range(n_voxel):
        flag, spread = _classify_signal(signals[voxel], signal)
        if flag != OK:
            flags[voxel] = flag
            values[:, voxel] = np.nan
            continue
        free = 3
        offset = 0.0
        if rule.with_offset:
            flag, log_t2, s0, offset, sse, curvature = _fit_voxel(
                echoes, offset_table, True, rule.tolerance, offset_scratch
            )
        if not rule.with_offset or (
            rule.non_negative_offset and (flag == NO_DECAY or offset < 0.0)
        ):
            free = 2
            flag, log_t2, s0, offset, sse, curvature = _fit_voxel(
                echoes, plain_table, False, rule.tolerance, plain_scratch
            )
        if flag == NO_DECAY:
            flags[voxel] = NO_DECAY
            values[:, voxel] = np.nan
            continue
        # The logarithm and back may miss a bound by a rounding error.
        t2_ms = min(max(math.exp(log_t2), rule.shortest_ms), rule.longest_ms)
        if flag == AT_BOUND:
            t2_ms = rule.shortest_ms if log_t2 <= plain_table.nodes[0] else rule.longest_ms
        values[0, voxel] = t2_ms
        values[1, voxel] = s0 * math.exp(echoes.times_ms[0] / t2_ms)
        values[2, voxel] = offset
        values[3, voxel] = np.nan
        if flag == OK and n_echo > free:
            values[3, voxel] = t2_ms * math.sqrt(sse / (n_echo - free) / curvature)
        values[4, voxel] = math.sqrt(sse / n_echo)
        if flag == OK and sse > (1.0 - rule.poor_fit_r2) * spread:
            flag = POOR_FIT
        flags[voxel] = flag
