"""Signals against physics that the phantom does not use, and images against the truth."""

import numpy as np
import pytest

from phantom.images import (
    CARTILAGE,
    CARTILAGE_LEVEL,
    TISSUES,
    DessProtocol,
    MsmeProtocol,
    add_rician_noise,
    dess_image,
    dess_signal,
    msme_affine,
    msme_image,
    msme_signal,
)
from phantom.knee import knee_truth
from phantom.raster import MUSCLE, Grid

COARSE_MSME = Grid((27, 120, 120), (3.5, 1.0, 1.0))


def steady_state_by_bloch(t1_ms, t2_ms, protocol, n_spins=400, n_pulses=1200):
    """Echoes of spins that the gradient turns through a full cycle in each repetition."""
    flip = np.deg2rad(protocol.flip_angle_deg)
    e1 = np.exp(-protocol.repetition_time_ms / t1_ms)
    e2 = np.exp(-protocol.repetition_time_ms / t2_ms)
    turn = np.exp(2j * np.pi * np.arange(n_spins) / n_spins)
    across, along = np.zeros(n_spins, complex), np.ones(n_spins)
    for _ in range(n_pulses):
        before = across
        # A pulse about x turns y into z.
        y = across.imag * np.cos(flip) + along * np.sin(flip)
        along = along * np.cos(flip) - across.imag * np.sin(flip)
        across = across.real + 1j * y
        after = across
        across = across * turn * e2
        along = 1.0 + (along - 1.0) * e1
    echo_decay = np.exp(-protocol.echo_time_ms / t2_ms)
    return abs(after.mean()) * echo_decay, abs(before.mean()) / echo_decay


@pytest.mark.parametrize(("t1_ms", "t2_ms"), [(1240.0, 37.0), (1000.0, 14.0), (365.0, 130.0)])
def test_dess_equation_is_the_bloch_steady_state(t1_ms, t2_ms):
    plus, minus = dess_signal(1.0, t1_ms, t2_ms)
    bloch_plus, bloch_minus = steady_state_by_bloch(t1_ms, t2_ms, DessProtocol())
    assert float(plus) == pytest.approx(bloch_plus, rel=2e-3)
    assert float(minus) == pytest.approx(bloch_minus, rel=2e-3)


def test_msme_equation_has_its_closed_values():
    assert float(msme_signal(0.8, 2700.0 / np.log(2.0), 50.0, 0.0)) == pytest.approx(0.4)
    echoes = msme_signal(1.0, 1.0, 40.0, np.array([10.0, 50.0]))
    assert echoes[0] / echoes[1] == pytest.approx(np.e)


def test_noise_is_rician():
    """Second moment S2 + 2 sigma2 for any signal; a Rayleigh mean of sigma sqrt(pi/2) for none."""
    sigma, rng = 3.0, np.random.default_rng(0)
    for signal in (0.0, 6.0, 200.0):
        image = np.full((4, 300, 300), signal, np.float32)
        add_rician_noise(image, sigma, rng)
        assert np.mean(image.astype(float) ** 2) == pytest.approx(
            signal**2 + 2.0 * sigma**2, rel=0.01
        )
    image = np.zeros((4, 300, 300), np.float32)
    add_rician_noise(image, sigma, rng)
    assert image.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2.0), rel=0.01)


def test_dess_has_the_stated_noise_in_cartilage(knee, coarse):
    clean = dess_image(knee, coarse, snr=np.inf, shading=0.0).array.astype(float)
    noisy = dess_image(knee, coarse, snr=50.0, shading=0.0).array.astype(float)
    cartilage = coarse.t2_ms > 0.0
    assert np.median(clean[cartilage]) == pytest.approx(CARTILAGE_LEVEL, rel=0.15)
    spread = (noisy - clean)[cartilage].std()
    # Rounding to whole numbers adds 1/12 twice.
    assert spread == pytest.approx(np.hypot(CARTILAGE_LEVEL / 50.0, np.sqrt(1.0 / 6.0)), rel=0.05)


def test_dess_contrast_reads_as_water_excitation(knee, coarse):
    image = dess_image(knee, coarse, snr=np.inf, shading=0.0).array
    marrow = np.isin(coarse.code, (5, 6, 7))
    meniscus = np.isin(coarse.code, (9, 10))
    cartilage = coarse.t2_ms > 0.0
    assert np.median(image[cartilage]) > np.median(image[meniscus]) > np.median(image[marrow])


@pytest.fixture(scope="module")
def clean_msme(knee):
    affine = msme_affine(knee, COARSE_MSME)
    return msme_image(knee, affine, COARSE_MSME.shape, snr=np.inf, shading=0.0)


def test_msme_lies_where_headers_plus_planted_offset_say(knee, clean_msme):
    """Marrow is bright and cortex dark only if each position is corrected by the offset."""
    rng = np.random.default_rng(0)
    index = np.argwhere(np.ones(COARSE_MSME.shape, bool))
    index = index[rng.permutation(len(index))[:20_000]]
    tagged = index @ clean_msme.affine[:3, :3].T + clean_msme.affine[:3, 3]
    first = clean_msme.array[0][tuple(index.T)].astype(float)
    distance = knee.bone_distance_mm("femur", tagged + knee.msme_offset_mm)
    marrow = first[distance < -4.0]
    muscle = np.median(clean_msme.array[0])
    assert np.all(marrow > 1.2 * muscle)
    # Straddling the surface by the slice thickness, cortex darkens every voxel of the shell.
    shell = np.abs(distance + 0.55) < 0.2
    assert np.median(first[shell]) < 0.8 * muscle
    wrong = knee.bone_distance_mm("femur", tagged - knee.msme_offset_mm)
    assert np.median(first[np.abs(wrong + 0.55) < 0.2]) > np.median(first[shell]) + 0.1 * muscle


def test_planted_offset_is_a_shift_of_the_headers(knee, clean_msme):
    still = knee_truth(7, 1000038, "RIGHT", "V00", severity=0.5, offset_limit_mm=0.0)
    assert not still.msme_offset_mm.any()
    assert 0.5 < np.abs(knee.msme_offset_mm).max() < 1.5
    moved = clean_msme.affine.copy()
    moved[:3, 3] += knee.msme_offset_mm
    same = msme_image(still, moved, COARSE_MSME.shape, snr=np.inf, shading=0.0)
    np.testing.assert_array_equal(same.array, clean_msme.array)


def test_t2_can_be_read_back_from_the_echoes(knee, clean_msme):
    """A log-linear fit of noise-free echoes, in voxels that are cartilage through the slice."""
    points = np.argwhere(np.ones(COARSE_MSME.shape, bool))
    points = points[clean_msme.array[0].ravel() > 0]
    here = points @ clean_msme.affine[:3, :3].T + clean_msme.affine[:3, 3] + knee.msme_offset_mm
    normal = clean_msme.affine[:3, 0] / np.linalg.norm(clean_msme.affine[:3, 0])
    near = np.abs(knee.bone_distance_mm("femur", here) - 1.2) < 1.0
    points, here = points[near], here[near]
    truth = np.stack([knee.t2_ms("femur", here + step * normal) for step in (-1.0, 0.0, 1.0)])
    whole = np.isfinite(truth).all(axis=0) & (np.ptp(truth, axis=0) < 4.0)
    echoes = clean_msme.array[:, *points[whole].T].astype(float)
    slope = np.polyfit(clean_msme.echo_times_ms, np.log(echoes), 1)[0]
    error = -1.0 / slope - truth[:, whole].mean(axis=0)
    assert whole.sum() > 100
    assert abs(error.mean()) < 0.3
    assert np.abs(error).max() < 1.5


def test_echoes_decay_at_the_tissue_rate(clean_msme):
    protocol = MsmeProtocol()
    np.testing.assert_array_equal(clean_msme.echo_times_ms, protocol.echo_times_ms)
    muscle = clean_msme.array[:, 13, 60, 5].astype(float)
    ratio = np.exp(-60.0 / TISSUES[MUSCLE].t2_ms)
    assert muscle[6] / muscle[0] == pytest.approx(ratio, rel=0.02)
    assert clean_msme.array.max() < 4096


def test_snr_is_that_of_cartilage_at_the_first_echo(knee):
    shape = (3, 120, 120)
    affine = msme_affine(knee, COARSE_MSME)
    affine[:3, 3] += affine[:3, :3] @ [12, 0, 0]
    clean = msme_image(knee, affine, shape, snr=np.inf, shading=0.0).array.astype(float)
    noisy = msme_image(knee, affine, shape, snr=40.0, shading=0.0).array.astype(float)
    bright = clean > 300.0
    assert (noisy - clean)[bright].std() == pytest.approx(CARTILAGE_LEVEL / 40.0, rel=0.03)
    assert CARTILAGE.t2_ms == pytest.approx(37.0)
