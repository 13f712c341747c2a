"""T2 from a multi-echo spin-echo series (paper: Methods, "Relaxometry").

The paper fits three parameters, `S(TE) = S0 exp(-TE / T2) + C`, by Levenberg-Marquardt on the
cartilage voxels. That estimate is unbiased but ill-conditioned at knee echo times, and it moves by
several milliseconds with choices the paper leaves open; each choice is an option here, with its
reason beside it, and every voxel carries a standard error and a flag. docs/relaxometry.md has the
measured size of each effect.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imaging import relaxometry_kernels as kernels
from imaging.errors import BadInputError, Reason
from imaging.volume import EchoSeries, FloatArray

Model = Literal["three_parameter", "two_parameter", "log_linear"]

_PARAMETERS: dict[Model, int] = {"three_parameter": 3, "two_parameter": 2, "log_linear": 2}

POOR_FIT_R2 = 0.9
"""Share of a voxel's variance over the echoes that a fit has to explain not to be flagged. Of the
cartilage-like voxels of a real series at 3 T, 0.3 % explain less."""

_EVEN_SPACING_TOLERANCE = 1e-9
"""Relative difference between echo distances that still counts as evenly spaced: rounding only."""


class FitFlag(IntEnum):
    """What became of a voxel. The value is what is stored."""

    OK = kernels.OK
    AT_BOUND = kernels.AT_BOUND
    NOT_CONVERGED = kernels.NOT_CONVERGED
    CONSTANT_SIGNAL = kernels.CONSTANT_SIGNAL
    NON_FINITE = kernels.NON_FINITE
    TOO_FEW_ECHOES = kernels.TOO_FEW_ECHOES
    POOR_FIT = kernels.POOR_FIT
    NO_DECAY = kernels.NO_DECAY
    NON_POSITIVE = kernels.NON_POSITIVE


FLAG_NAMES: dict[int, str] = {flag.value: flag.name.lower() for flag in FitFlag}
"""Name of each code: ok, at_bound (T2 is the bound, its error unknown), not_converged,
constant_signal, non_finite, too_few_echoes, poor_fit (see `POOR_FIT_R2`), no_decay (the best
exponential would rise), non_positive (a logarithm was asked of a signal <= 0)."""


@dataclass(frozen=True)
class FitOptions:
    """How T2 is fitted.

    Attributes:
        model: `three_parameter` is the paper's. `two_parameter` leaves C out: about four times
            tighter, but an offset of 3 % of S0 biases it by 2 to 4 ms. `log_linear` is the straight
            line through log S; its median is 0.8 ms off the least-squares two-parameter fit.
        first_echo: `keep` all echoes, since the paper names no exception, or `drop` the first,
            which stimulated echoes leave too low (Milford et al. 2015,
            doi:10.1371/journal.pone.0145255). On a real series this choice alone moves the median
            of cartilage-like voxels from 31.9 to 25.0 ms.
        t2_bounds_ms: smallest and largest T2. Articular cartilage lies between 15 and 80 ms; above
            300 ms a decay sampled up to 70 ms is a straight line to within the noise and T2 says
            nothing. A voxel whose optimum lies outside keeps the bound and is flagged.
        offset: sign of C. `free` is the default: 34 % of real cartilage-like voxels have their
            optimum at C < 0, and forbidding it there biases T2 low. `non_negative` sets C = 0
            for those.
        tolerance: relative change of T2 below which the iteration stops. At 1e-6 ill-conditioned
            voxels stop milliseconds early; 1e-8 leaves them within a microsecond.
    """

    model: Model = "three_parameter"
    first_echo: Literal["keep", "drop"] = "keep"
    t2_bounds_ms: tuple[float, float] = (1.0, 300.0)
    offset: Literal["free", "non_negative"] = "free"
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted.

        Raises:
            ValueError: an unknown name, or bounds or a tolerance out of order.
        """
        if self.model not in _PARAMETERS:
            raise ValueError(f"model is {self.model!r}; use one of {', '.join(_PARAMETERS)}")
        if self.first_echo not in {"keep", "drop"}:
            raise ValueError(f"first_echo is {self.first_echo!r}; use keep or drop")
        if self.offset not in {"free", "non_negative"}:
            raise ValueError(f"offset is {self.offset!r}; use free or non_negative")
        low, high = self.t2_bounds_ms
        if not 0 < low < high < np.inf:
            raise ValueError(f"t2_bounds_ms is {self.t2_bounds_ms}; give 0 < smallest < largest")
        if not 0 < self.tolerance < 1e-2:
            raise ValueError(f"tolerance is {self.tolerance}; give a value between 0 and 0.01")


@dataclass(frozen=True, eq=False)
class T2Fit:
    """One fit per voxel; every array has shape (n_voxel,) and NaN where nothing could be fitted.

    Attributes:
        t2_ms: relaxation time.
        s0: signal at echo time 0, without the offset, in signal units.
        offset: C, in signal units; 0 in the two-parameter models.
        t2_standard_error_ms: from the Jacobian at the optimum and the residual variance; NaN
            without degrees of freedom and at a bound, where it has no meaning.
        residual_rms: root mean square residual in signal units.
        flag: uint8 codes of `FitFlag`.
    """

    t2_ms: NDArray[np.float64]
    s0: NDArray[np.float64]
    offset: NDArray[np.float64]
    t2_standard_error_ms: NDArray[np.float64]
    residual_rms: NDArray[np.float64]
    flag: NDArray[np.uint8]

    @property
    def fraction_at_bound(self) -> float:
        """Share of all voxels whose T2 is a bound; 0 for no voxels."""
        return float(np.mean(self.flag == FitFlag.AT_BOUND)) if self.flag.size else 0.0


@dataclass(frozen=True, eq=False)
class T2Map:
    """A fit laid back on the grid of its series.

    Attributes:
        fit: the fitted voxels, in the C order of the mask.
        mask: which voxels were fitted, shape (n_slice, n_row, n_column).
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
    """

    fit: T2Fit
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def volume(self, values: NDArray) -> NDArray[np.float32]:
        """An array of the fit on the grid, NaN outside the mask; (n_slice, n_row, n_column)."""
        grid = np.full(self.mask.shape, np.nan, dtype=np.float32)
        grid[self.mask] = values
        return grid

    @property
    def t2_ms(self) -> NDArray[np.float32]:
        """T2 on the grid, NaN outside the mask and where nothing could be fitted."""
        return self.volume(self.fit.t2_ms)


@dataclass(frozen=True)
class T2Summary:
    """What a fit says as a whole.

    Attributes:
        voxels: number of voxels in the mask.
        median_ms: median T2 of the voxels with a value, including those at a bound.
        p05_ms: 5th percentile of the same.
        p95_ms: 95th percentile of the same.
        fraction_at_bound: share of all voxels whose T2 is a bound.
        fraction_flagged: share of all voxels with any flag but ok.
        flag_counts: number of voxels by flag name, flags that occur only.
    """

    voxels: int
    median_ms: float
    p05_ms: float
    p95_ms: float
    fraction_at_bound: float
    fraction_flagged: float
    flag_counts: dict[str, int]


def fit_t2(
    signals: FloatArray, echo_times_ms: FloatArray, options: FitOptions | None = None
) -> T2Fit:
    """Fit T2 in every voxel.

    The result is the optimum over the whole allowed T2 range, not the one nearest to a start value:
    see `imaging.relaxometry_kernels`.

    Args:
        signals: shape (n_voxel, n_echo), any real type; computed in float64.
        echo_times_ms: shape (n_echo,), strictly rising. Evenly spaced echoes fit faster.
        options: defaults to the paper's model.

    Raises:
        ValueError: the shapes do not agree or the echo times do not rise.
    """
    options = options or FitOptions()
    values: NDArray[np.float64] = np.ascontiguousarray(signals, dtype=np.float64)
    times_ms: NDArray[np.float64] = np.ascontiguousarray(echo_times_ms, dtype=np.float64)
    if values.ndim != 2 or times_ms.shape != values.shape[1:]:
        raise ValueError(
            f"signals of shape {values.shape} do not go with {times_ms.size} echo times; "
            "give (n_voxel, n_echo) and (n_echo,)"
        )
    if not (np.isfinite(times_ms).all() and (np.diff(times_ms) > 0).all()):
        raise ValueError(f"echo times {times_ms.tolist()} do not rise strictly; sort the echoes")
    if options.first_echo == "drop":
        values = np.ascontiguousarray(values[:, 1:])
        times_ms = times_ms[1:]
    if times_ms.size < _PARAMETERS[options.model]:
        return _unfitted(len(values), FitFlag.TOO_FEW_ECHOES)
    if options.model == "log_linear":
        return _fit_log_linear(values, times_ms, options)
    return _fit_exponential(values, times_ms, options)


def fit_t2_volume(
    echoes: EchoSeries, mask: NDArray[np.bool_], options: FitOptions | None = None
) -> T2Map:
    """Fit T2 in the voxels of a mask on the series' own grid.

    Args:
        echoes: the series.
        mask: shape (n_slice, n_row, n_column).
        options: defaults to the paper's model.

    Raises:
        ValueError: the mask has another shape than the series.
    """
    if mask.shape != echoes.array.shape[1:]:
        raise ValueError(
            f"the mask has shape {mask.shape} and the series {echoes.array.shape[1:]}; "
            "resample one onto the other first"
        )
    mask = mask.astype(bool)
    fit = fit_t2(echoes.array[:, mask].T, echoes.echo_times_ms, options)
    return T2Map(fit, mask, echoes.affine)


def default_mask(echoes: EchoSeries) -> NDArray[np.bool_]:
    """Tissue above noise, for a series that comes without a mask.

    Voxels whose first echo lies above Otsu's threshold of the first echo and whose echoes are all
    finite. It takes in muscle, fat and marrow as well as cartilage; with all echoes about half of
    those end at a bound. Shape (n_slice, n_row, n_column); all False where the first echo is
    constant.
    """
    from skimage.filters import threshold_otsu

    first = np.asarray(echoes.array[0], dtype=np.float32)
    finite = np.isfinite(echoes.array).all(axis=0)
    values = first[finite]
    if values.size == 0 or values.min() == values.max():
        return np.zeros(first.shape, dtype=bool)
    below = values <= threshold_otsu(values)
    # The same threshold where the histogram is filled, and off the noise where it has a gap.
    return finite & (first > (values[below].mean() + values[~below].mean()) / 2)


def usable(fit: T2Fit) -> NDArray[np.bool_]:
    """Which voxels may enter a mean: a converged optimum inside the bounds, shape (n_voxel,).

    Poorly explained voxels stay in: leaving out what noise made look bad would select on the
    outcome. A T2 that is a bound is not a measurement and stays out.
    """
    return np.isin(fit.flag, (FitFlag.OK, FitFlag.POOR_FIT))


def summarize_t2(fit: T2Fit) -> T2Summary:
    """Median, spread and share of unsure voxels of a fit; NaN where no voxel has a value."""
    fitted = fit.t2_ms[np.isfinite(fit.t2_ms)]
    percentiles = np.percentile(fitted, [50, 5, 95]) if fitted.size else np.full(3, np.nan)
    codes, counts = np.unique(fit.flag, return_counts=True)
    voxels = fit.flag.size
    return T2Summary(
        voxels=voxels,
        median_ms=float(percentiles[0]),
        p05_ms=float(percentiles[1]),
        p95_ms=float(percentiles[2]),
        fraction_at_bound=fit.fraction_at_bound,
        fraction_flagged=float(np.mean(fit.flag != FitFlag.OK)) if voxels else 0.0,
        flag_counts={
            FLAG_NAMES[int(code)]: int(count) for code, count in zip(codes, counts, strict=True)
        },
    )


def require_fitted(fit: T2Fit, file: Path | str) -> None:
    """Refuse a series in which not one voxel could be fitted.

    Args:
        fit: the fit of the whole mask.
        file: the series, as the user gave it.

    Raises:
        BadInputError: no voxel has a T2.
    """
    if np.isfinite(fit.t2_ms).any():
        return
    found = ", ".join(f"{count} {name}" for name, count in summarize_t2(fit).flag_counts.items())
    raise BadInputError(
        Reason.UNFITTABLE_T2,
        file,
        f"no voxel of the multi-echo series can be fitted ({found or 'the mask is empty'})",
        "Check that the mask lies on tissue and that the echoes hold the magnitude images",
    )


def _unfitted(n_voxel: int, flag: FitFlag) -> T2Fit:
    """A fit in which no voxel has a value."""
    nothing = np.full((5, n_voxel), np.nan)
    return _as_fit(nothing, np.full(n_voxel, flag, dtype=np.uint8))


def _as_fit(values: NDArray[np.float64], flags: NDArray[np.uint8]) -> T2Fit:
    """Name the rows of a (5, n_voxel) array."""
    t2_ms, s0, offset, t2_standard_error_ms, residual_rms = values
    return T2Fit(t2_ms, s0, offset, t2_standard_error_ms, residual_rms, flags)


def _fit_exponential(
    signals: NDArray[np.float64], times_ms: NDArray[np.float64], options: FitOptions
) -> T2Fit:
    """Two- or three-parameter least squares."""
    with_offset = options.model == "three_parameter"
    values, flags = _run_kernel(signals, times_ms, options, with_offset=with_offset)
    if with_offset and options.offset == "non_negative":
        redo = (values[2] < 0) | (flags == FitFlag.NO_DECAY)
        values[:, redo], flags[redo] = _run_kernel(
            signals[redo], times_ms, options, with_offset=False
        )
    return _as_fit(values, flags)


def _run_kernel(
    signals: NDArray[np.float64],
    times_ms: NDArray[np.float64],
    options: FitOptions,
    *,
    with_offset: bool,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The rows of a fit as an array (5, n_voxel), and its flags."""
    spacing_ms = np.diff(times_ms)
    even = np.allclose(spacing_ms, spacing_ms[0], rtol=_EVEN_SPACING_TOLERANCE, atol=0.0)
    table = kernels.decay_table(times_ms, options.t2_bounds_ms, with_offset)
    shortest_ms, longest_ms = options.t2_bounds_ms
    values = np.empty((5, len(signals)))
    flags = np.empty(len(signals), dtype=np.uint8)
    kernels.fit_exponential(
        signals,
        kernels.Echoes(times_ms, float(spacing_ms.mean()) if even else 0.0),
        table,
        kernels.FitRule(
            with_offset,
            float(shortest_ms),
            float(longest_ms),
            float(table.nodes[0]),
            float(table.nodes[-1]),
            options.tolerance,
            POOR_FIT_R2,
        ),
        (values, flags),
    )
    return values, flags


def _fit_log_linear(
    signals: NDArray[np.float64], times_ms: NDArray[np.float64], options: FitOptions
) -> T2Fit:
    """The straight line through log S, its slope held within the T2 bounds."""
    finite = np.isfinite(signals).all(axis=1)
    positive = finite & (signals > 0).all(axis=1)
    varying = positive & (np.ptp(signals, axis=1) > 0)
    logs = np.log(np.where(varying[:, None], signals, 1.0))
    centred_ms = times_ms - times_ms.mean()
    squared_ms = centred_ms @ centred_ms
    slope = logs @ centred_ms / squared_ms
    low, high = options.t2_bounds_ms
    held = np.clip(slope, -1.0 / low, -1.0 / high)
    t2_ms = -1.0 / held
    log_s0 = logs.mean(axis=1) - held * times_ms.mean()
    log_sse = np.sum((logs - log_s0[:, None] - held[:, None] * times_ms) ** 2, axis=1)
    freedom = times_ms.size - 2
    slope_error = (
        np.sqrt(log_sse / freedom / squared_ms) if freedom else np.full(len(slope), np.nan)
    )
    s0 = np.exp(log_s0)
    sse = np.sum((signals - s0[:, None] * np.exp(held[:, None] * times_ms)) ** 2, axis=1)
    spread = np.sum((signals - signals.mean(axis=1, keepdims=True)) ** 2, axis=1)

    flag = np.full(len(signals), FitFlag.OK, dtype=np.uint8)
    flag[sse > (1.0 - POOR_FIT_R2) * spread] = FitFlag.POOR_FIT
    at_bound = held != slope
    flag[at_bound] = FitFlag.AT_BOUND
    flag[~varying] = FitFlag.CONSTANT_SIGNAL
    flag[~positive] = FitFlag.NON_POSITIVE
    flag[~finite] = FitFlag.NON_FINITE
    return T2Fit(
        t2_ms=np.where(varying, t2_ms, np.nan),
        s0=np.where(varying, s0, np.nan),
        offset=np.where(varying, 0.0, np.nan),
        t2_standard_error_ms=np.where(varying & ~at_bound, t2_ms**2 * slope_error, np.nan),
        residual_rms=np.where(varying, np.sqrt(sse / times_ms.size), np.nan),
        flag=flag,
    )
