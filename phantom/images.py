"""DESS-like and MSME-like images of a knee by the signal equations of the two sequences."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imaging.volume import EchoSeries, Volume
from phantom.knee import KneeTruth
from phantom.raster import (
    AIR,
    CORTEX,
    FAT,
    FEMUR,
    FIBULA,
    LATERAL_MENISCUS,
    MEDIAL_MENISCUS,
    MUSCLE,
    PATELLA,
    PATELLAR_CARTILAGE,
    TIBIA,
    Grid,
    Raster,
    place_grid,
    rasterise,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TissueConstants:
    """What a tissue looks like at 3 T.

    Attributes:
        proton_density: relative to free water.
        t1_ms: longitudinal relaxation time.
        t2_ms: transverse relaxation time; of cartilage only a nominal value, its T2 is a field.
        water_excited: share of the protons that water excitation leaves (little of fat).
    """

    proton_density: float
    t1_ms: float
    t2_ms: float
    water_excited: float = 1.0


CARTILAGE = TissueConstants(0.75, 1240.0, 37.0)
_MARROW = TissueConstants(0.85, 365.0, 130.0, 0.10)
_CORTICAL_BONE = TissueConstants(0.05, 500.0, 1.0)
_MENISCUS = TissueConstants(0.60, 1000.0, 14.0)

TISSUES: Mapping[int, TissueConstants] = {
    **dict.fromkeys(range(1, PATELLAR_CARTILAGE + 1), CARTILAGE),
    **dict.fromkeys((FEMUR, TIBIA, PATELLA, FIBULA), _MARROW),
    **dict.fromkeys(
        (FEMUR + CORTEX, TIBIA + CORTEX, PATELLA + CORTEX, FIBULA + CORTEX), _CORTICAL_BONE
    ),
    **dict.fromkeys((MEDIAL_MENISCUS, LATERAL_MENISCUS), _MENISCUS),
    AIR: TissueConstants(0.0, 1000.0, 1.0),
    FAT: TissueConstants(0.90, 370.0, 130.0, 0.10),
    MUSCLE: TissueConstants(0.70, 1420.0, 34.0),
}
"""Constants by raster code. Values typical of 3 T (Stanisz 2005, doi:10.1002/mrm.20605; Gold 2004,
doi:10.2214/ajr.183.2.1830343)."""

_BODY_RADII_MM = (62.0, 66.0)
_SKIN_FAT_SHARE = 0.9


@dataclass(frozen=True)
class DessProtocol:
    """Acquisition parameters of the double-echo steady-state series."""

    repetition_time_ms: float = 16.32
    echo_time_ms: float = 4.71
    flip_angle_deg: float = 25.0


@dataclass(frozen=True)
class MsmeProtocol:
    """Acquisition parameters of the multi-slice multi-echo series.

    Attributes:
        repetition_time_ms: TR.
        echo_times_ms: TE of each echo.
        slice_thickness_mm: less than the distance between slices: there is a gap.
        profile_samples: points across the slice that are averaged.
    """

    repetition_time_ms: float = 2700.0
    echo_times_ms: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)
    slice_thickness_mm: float = 3.0
    profile_samples: int = 3


def dess_signal(
    proton_density: NDArray | float,
    t1_ms: NDArray | float,
    t2_ms: NDArray | float,
    protocol: DessProtocol = DessProtocol(),
) -> tuple[NDArray, NDArray]:
    """The two DESS echoes in the steady state, S+ and S-, per unit of receiver gain.

    Source: Bruder 1988, doi:10.1002/mrm.1910070105; Hänicke and Vogel 2003,
    doi:10.1002/mrm.10410. A test compares it with a Bloch simulation of dephasing spins.
    """
    tr, te = protocol.repetition_time_ms, protocol.echo_time_ms
    flip = np.deg2rad(protocol.flip_angle_deg)
    e1, e2 = np.exp(-tr / np.asarray(t1_ms)), np.exp(-tr / np.asarray(t2_ms))
    p = 1.0 - e1 * np.cos(flip) - e2**2 * (e1 - np.cos(flip))
    q = e2 * (1.0 - e1) * (1.0 + np.cos(flip))
    r = (1.0 - e2**2) / np.sqrt(p**2 - q**2)
    scale = np.asarray(proton_density) * np.tan(flip / 2.0)
    plus = scale * (1.0 - (e1 - np.cos(flip)) * r) * np.exp(-te / np.asarray(t2_ms))
    minus = scale * (1.0 - (1.0 - e1 * np.cos(flip)) * r) * np.exp(te / np.asarray(t2_ms))
    return plus, minus


def msme_signal(
    proton_density: NDArray | float,
    t1_ms: NDArray | float,
    t2_ms: NDArray | float,
    echo_time_ms: FloatArray | float,
    repetition_time_ms: float = MsmeProtocol.repetition_time_ms,
) -> NDArray:
    """Spin-echo signal PD (1 - exp(-TR/T1)) exp(-TE/T2), per unit of receiver gain."""
    recovered = 1.0 - np.exp(-repetition_time_ms / np.asarray(t1_ms))
    return np.asarray(proton_density) * recovered * np.exp(-np.asarray(echo_time_ms) / t2_ms)


def _dess_contrast(
    tissue: TissueConstants, t2_ms: NDArray | float, protocol: DessProtocol
) -> NDArray:
    """The image value the scanner stores: both echoes, root of the sum of squares."""
    density = tissue.proton_density * tissue.water_excited
    plus, minus = dess_signal(density, tissue.t1_ms, t2_ms, protocol)
    return np.hypot(plus, minus)


@njit(cache=True)
def _paint_body(
    code: NDArray[np.uint8], to_knee: FloatArray, radii: FloatArray, fat_share: float
) -> None:
    """Fill what is not yet painted with muscle, fat under the skin, or air."""
    m = to_knee
    for i in range(code.shape[0]):
        for j in range(code.shape[1]):
            for k in range(code.shape[2]):
                if code[i, j, k] == 0:
                    x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
                    y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
                    a, b = x / radii[0], (y + 10.0) / radii[1]
                    r = a * a + b * b
                    code[i, j, k] = AIR if r > 1.0 else FAT if r > fat_share**2 else MUSCLE


def _with_body(truth: KneeTruth, raster: Raster) -> NDArray[np.uint8]:
    """Codes with the surroundings of the joint filled in."""
    code = raster.code.copy()
    to_knee = np.ascontiguousarray(np.linalg.inv(truth.knee_to_patient) @ raster.affine)
    _paint_body(code, to_knee, np.array(_BODY_RADII_MM), _SKIN_FAT_SHARE)
    return code


@njit(cache=True)
def _average_slices(
    code: NDArray[np.uint8],
    t2: NDArray[np.float32],
    signal: FloatArray,
    cartilage_at_no_echo: float,
    echo_times: FloatArray,
    samples: int,
) -> NDArray[np.float32]:
    """Mean signal over the samples across each slice, shape (n_echo, n_slice, n_row, n_column).

    `signal` has shape (n_code, n_echo). In cartilage the echo times are multiples of the first,
    so each echo is the one before times one factor.
    """
    n_slice = code.shape[0] // samples
    n_echo = echo_times.size
    out = np.zeros((n_echo, n_slice, code.shape[1], code.shape[2]), np.float32)
    for i in range(code.shape[0]):
        target = i // samples
        for j in range(code.shape[1]):
            for k in range(code.shape[2]):
                if t2[i, j, k] > 0.0:
                    for echo in range(n_echo):
                        value = cartilage_at_no_echo * np.exp(-echo_times[echo] / t2[i, j, k])
                        out[echo, target, j, k] += value / samples
                else:
                    for echo in range(n_echo):
                        out[echo, target, j, k] += signal[code[i, j, k], echo] / samples
    return out


def _shading(shape: tuple[int, ...], depth: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A coil's smooth sensitivity, 1 on average, along rows and columns."""
    rows, columns = (np.linspace(-1.0, 1.0, size, dtype=np.float32) for size in shape[-2:])
    tilt = rng.uniform(-1.0, 1.0, size=2).astype(np.float32)
    slope = tilt[0] * rows[:, None] + tilt[1] * columns
    bowl = 0.5 * (rows[:, None] ** 2 + columns**2) - 1.0 / 3.0
    return (1.0 + np.float32(depth) * (0.5 * slope - bowl)).astype(np.float32)


def add_rician_noise(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Replace a magnitude signal, in place, by its magnitude with noise in both channels.

    Args:
        signal: float32, any shape with at least one leading axis; worked through by that axis.
        sigma: standard deviation of the noise in each channel.
        rng: source of the noise.
    """
    for plane in signal:
        real = rng.standard_normal(plane.shape, dtype=np.float32)
        imaginary = rng.standard_normal(plane.shape, dtype=np.float32)
        real *= np.float32(sigma)
        imaginary *= np.float32(sigma)
        real += plane
        np.hypot(real, imaginary, out=plane)


CARTILAGE_LEVEL = 600.0
"""Stored value of healthy cartilage (first echo, before shading); keeps 16-bit rounding small."""


def _as_stored(signal: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round to the 12-bit range of scanners, in 16-bit integers."""
    np.rint(signal, out=signal)
    np.clip(signal, 0.0, 4095.0, out=signal)
    return signal.astype(np.int16)


def _image_rng(truth: KneeTruth, stream: int) -> np.random.Generator:
    visit = [ord(letter) for letter in truth.side + truth.timepoint]
    return np.random.default_rng([truth.seed, truth.subject_id, 3, stream, *visit])


def dess_image(
    truth: KneeTruth,
    raster: Raster,
    *,
    snr: float = 50.0,
    shading: float = 0.1,
    protocol: DessProtocol = DessProtocol(),
) -> Volume:
    """The DESS-like image on the grid of a raster made with T2, int16.

    Args:
        truth: the knee.
        raster: its tissue codes and T2.
        snr: signal of healthy cartilage over the noise of one channel; infinite for no noise.
        shading: strength of the coil's shading.
        protocol: acquisition parameters.
    """
    code = _with_body(truth, raster)
    table = np.zeros(256, np.float32)
    for value, tissue in TISSUES.items():
        table[value] = _dess_contrast(tissue, tissue.t2_ms, protocol)
    gain = CARTILAGE_LEVEL / float(_dess_contrast(CARTILAGE, CARTILAGE.t2_ms, protocol))
    signal = table[code]
    covered = raster.t2_ms > 0.0
    signal[covered] = _dess_contrast(CARTILAGE, raster.t2_ms[covered], protocol)
    rng = _image_rng(truth, 0)
    signal *= np.float32(gain) * _shading(signal.shape, shading, rng)
    if np.isfinite(snr):
        add_rician_noise(signal, CARTILAGE_LEVEL / snr, rng)
    return Volume(_as_stored(signal), raster.affine)


def msme_affine(truth: KneeTruth, grid: Grid) -> FloatArray:
    """Where the MSME headers say the series lies: a prescription of its own, a little oblique."""
    rng = _image_rng(truth, 1)
    about_z, about_y = rng.uniform(-3.0, 3.0, size=2)
    affine = place_grid(truth, grid, (about_z, about_y))
    affine[:3, 3] += rng.uniform(-3.0, 3.0, size=3)
    return affine


def msme_image(
    truth: KneeTruth,
    affine: FloatArray,
    shape: tuple[int, int, int],
    *,
    snr: float = 50.0,
    shading: float = 0.1,
    protocol: MsmeProtocol = MsmeProtocol(),
) -> EchoSeries:
    """The MSME-like series, int16, displaced by the truth's `msme_offset_mm`.

    Each voxel is the mean over `profile_samples` points across the slice thickness, each with its
    own tissue and T2: partial volume between and within tissues is real.

    Args:
        truth: the knee.
        affine: shape (4, 4), what the headers say, (slice, row, column) index -> LPS mm.
        shape: slices, rows, columns.
        snr: signal of healthy cartilage at the first echo over the noise of one channel.
        shading: strength of the coil's shading.
        protocol: acquisition parameters.
    """
    samples = protocol.profile_samples
    slice_axis = affine[:3, 0]
    normal = slice_axis / np.linalg.norm(slice_axis)
    step = protocol.slice_thickness_mm / samples
    echo_times = np.array(protocol.echo_times_ms)
    table = np.zeros((256, echo_times.size))
    for value, tissue in TISSUES.items():
        table[value] = msme_signal(
            tissue.proton_density, tissue.t1_ms, tissue.t2_ms, echo_times,
            protocol.repetition_time_ms,
        )  # fmt: skip
    at_no_echo = float(
        msme_signal(
            CARTILAGE.proton_density, CARTILAGE.t1_ms, 1.0, 0.0, protocol.repetition_time_ms
        )
    )
    signal = np.empty((echo_times.size, *shape), np.float32)
    for index in range(shape[0]):
        sub_affine = affine.copy()
        sub_affine[:3, 0] = normal * step
        first = affine[:3, 3] + index * slice_axis - normal * step * (samples - 1) / 2.0
        sub_affine[:3, 3] = first + truth.msme_offset_mm
        raster = rasterise(truth, sub_affine, (samples, *shape[1:]), with_t2=True)
        signal[:, index] = _average_slices(
            _with_body(truth, raster), raster.t2_ms, table, at_no_echo, echo_times, samples
        )[:, 0]
    rng = _image_rng(truth, 2)
    level = CARTILAGE_LEVEL / (at_no_echo * np.exp(-echo_times[0] / CARTILAGE.t2_ms))
    signal *= np.float32(level) * _shading(signal.shape, shading, rng)
    if np.isfinite(snr):
        for echo in signal:
            add_rician_noise(echo, CARTILAGE_LEVEL / snr, rng)
    return EchoSeries(_as_stored(signal), affine, echo_times)
