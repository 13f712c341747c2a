"""T2 fit against analytic decays, scipy's and numpy's fitters, and a real series."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning, curve_fit

from imaging.errors import BadInputError, Reason
from imaging.labels import BONES
from imaging.relaxometry import (
    FLAG_NAMES,
    FitFlag,
    FitOptions,
    default_mask,
    fit_t2,
    fit_t2_volume,
    require_fitted,
    summarize_t2,
    usable,
)
from imaging.volume import EchoSeries
from phantom.images import msme_affine, msme_image
from phantom.knee import knee_truth
from phantom.raster import DEMO, MSME_OF, labels_of, rasterise, t2_volume

OAI_TE = np.arange(10.0, 71.0, 10.0)
UNEVEN_TE = np.array([6.0, 11.0, 19.0, 30.0, 44.0, 61.0, 80.0])


def decay(t2, s0=1000.0, offset=0.0, te=OAI_TE):
    t2, s0, offset = np.broadcast_arrays(
        *(np.atleast_1d(v).astype(float) for v in (t2, s0, offset))
    )
    return s0[:, None] * np.exp(-te / t2[:, None]) + offset[:, None]


def rician(clean, snr, rng):
    """Magnitude signal whose noise is the largest signal over `snr`."""
    sigma = clean.max() / snr
    real = clean + rng.normal(0, sigma, clean.shape)
    return np.hypot(real, rng.normal(0, sigma, clean.shape))


def three(te, s0, t2, offset):
    return s0 * np.exp(-te / t2) + offset


def two(te, s0, t2):
    return s0 * np.exp(-te / t2)


def scipy_fit(model, te, signal, start):
    """Scipy's Levenberg-Marquardt run until it can go no further; None if it gives up."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (OptimizeWarning, RuntimeWarning))
            found, covariance = curve_fit(
                model, te, signal, p0=start, maxfev=20000, ftol=1e-15, xtol=1e-15, gtol=1e-15
            )
    except RuntimeError:
        return None
    return found, np.sqrt(np.diag(covariance))


def log_line_start(te, signal):
    slope, intercept = np.polyfit(te, np.log(np.maximum(signal, 1.0)), 1)
    return np.exp(intercept), -1 / slope if slope < 0 else 50.0


@pytest.fixture(scope="module")
def real_series(shared_data):
    """The real 3 T series, read here with pydicom alone so that no reader of ours is involved."""
    import pydicom

    slices = []
    with zipfile.ZipFile(shared_data / "knee" / "mese_t2_dicom.zip") as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                slices.append(pydicom.dcmread(io.BytesIO(archive.read(name))))
    x = sorted({round(float(s.ImagePositionPatient[0]), 2) for s in slices})
    te = sorted({float(s.EchoTime) for s in slices})
    array = np.zeros((len(te), len(x), slices[0].Rows, slices[0].Columns), np.float32)
    for s in slices:
        place = x.index(round(float(s.ImagePositionPatient[0]), 2))
        array[te.index(float(s.EchoTime)), place] = s.pixel_array
    return EchoSeries(array, np.diag([4.0, 0.625, 0.625, 1.0]), np.array(te))


@pytest.fixture(scope="module")
def cartilage_like(real_series):
    """Real voxels with a log-linear T2 of 15-60 ms (numpy's, not ours), and the echo times."""
    signals = real_series.array[:, default_mask(real_series)].T.astype(float)
    signals = signals[(signals > 0).all(axis=1)]
    slope = np.polyfit(real_series.echo_times_ms, np.log(signals).T, 1)[0]
    with np.errstate(divide="ignore"):
        t2 = -1 / slope
    return signals[(t2 > 15) & (t2 < 60)], real_series.echo_times_ms


@pytest.mark.parametrize("te", [OAI_TE, UNEVEN_TE], ids=["even", "uneven"])
@pytest.mark.parametrize("model", ["three_parameter", "two_parameter", "log_linear"])
def test_noiseless_decay_is_recovered(te, model):
    t2 = np.geomspace(4.0, 250.0, 400)
    offset = 80.0 if model == "three_parameter" else 0.0
    fit = fit_t2(decay(t2, 1200.0, offset, te), te, FitOptions(model=model))
    assert (fit.flag == FitFlag.OK).all()
    np.testing.assert_allclose(fit.t2_ms, t2, rtol=1e-6)
    np.testing.assert_allclose(fit.s0, 1200.0, rtol=1e-6)
    np.testing.assert_allclose(fit.offset, offset, atol=1e-3)
    assert fit.residual_rms.max() < 1e-5


def test_negative_offset_is_recovered_and_can_be_forbidden():
    signals = decay(40.0, 1000.0, -100.0)
    free = fit_t2(signals, OAI_TE)
    assert free.t2_ms[0] == pytest.approx(40.0, abs=1e-5)
    assert free.offset[0] == pytest.approx(-100.0, abs=1e-3)
    held = fit_t2(signals, OAI_TE, FitOptions(offset="non_negative"))
    plain = scipy_fit(two, OAI_TE, signals[0], log_line_start(OAI_TE, signals[0]))
    assert held.offset[0] == 0.0
    assert held.t2_ms[0] == pytest.approx(plain[0][1], abs=1e-4)


@pytest.mark.parametrize("te", [OAI_TE, UNEVEN_TE], ids=["even", "uneven"])
@pytest.mark.parametrize("model", ["three_parameter", "two_parameter"])
def test_random_voxels_agree_with_scipy(te, model):
    rng = np.random.default_rng(11)
    clean = decay(
        rng.uniform(15, 70, 300), rng.uniform(400, 2000, 300), rng.uniform(-50, 80, 300), te
    )
    signals = rician(clean, 60, rng)
    fit = fit_t2(signals, te, FitOptions(model=model))
    compared = 0
    for voxel in np.flatnonzero(usable(fit)):
        start = log_line_start(te, signals[voxel])
        curve = three if model == "three_parameter" else two
        found = scipy_fit(curve, te, signals[voxel], (*start, 0.0) if curve is three else start)
        if found is None:
            continue
        compared += 1
        parameters, errors = found
        assert fit.t2_ms[voxel] == pytest.approx(parameters[1], abs=0.01)
        assert fit.s0[voxel] == pytest.approx(parameters[0], rel=1e-3)
        assert fit.t2_standard_error_ms[voxel] == pytest.approx(errors[1], rel=1e-2)
    assert compared > 250


@pytest.mark.parametrize("first_echo", ["keep", "drop"])
def test_real_voxels_agree_with_scipy(cartilage_like, first_echo):
    signals, te = cartilage_like
    signals = signals[np.random.default_rng(5).integers(0, len(signals), 1500)]
    fit = fit_t2(signals, te, FitOptions(first_echo=first_echo))
    first = 1 if first_echo == "drop" else 0
    differences = []
    for voxel in np.flatnonzero(usable(fit)):
        signal = signals[voxel, first:]
        found = scipy_fit(three, te[first:], signal, (*log_line_start(te[first:], signal), 0.0))
        if found is not None:
            differences.append(abs(found[0][1] - fit.t2_ms[voxel]))
    assert len(differences) > 1400
    assert np.mean(np.array(differences) < 0.01) >= 0.995


def test_no_bounded_search_finds_a_better_fit(real_series):
    """Over all tissue, where many voxels have no clear optimum, against an exhaustive search."""
    te = real_series.echo_times_ms
    signals = real_series.array[:, default_mask(real_series)].T.astype(float)
    signals = signals[np.random.default_rng(6).integers(0, len(signals), 4000)]
    fit = fit_t2(signals, te)
    fitted = np.isfinite(fit.t2_ms)
    best = np.full(len(signals), np.inf)
    for t2 in np.geomspace(1.0, 300.0, 600):
        x = np.exp(-te / t2)
        x -= x.mean()
        y = signals - signals.mean(axis=1, keepdims=True)
        s0 = y @ x / (x @ x)
        sse = np.where(s0 > 0, np.sum((y - s0[:, None] * x) ** 2, axis=1), np.inf)
        best = np.minimum(best, sse)
    ours = fit.residual_rms**2 * len(te)
    assert fitted.mean() > 0.99
    assert (ours[fitted] <= best[fitted] * (1 + 1e-9)).all()


def test_first_echo_moves_real_t2(cartilage_like):
    """The size of the one choice the paper leaves open; the medians were measured with scipy."""
    signals, te = cartilage_like
    kept = np.median(fit_t2(signals, te).t2_ms)
    dropped = np.median(fit_t2(signals, te, FitOptions(first_echo="drop")).t2_ms)
    assert kept == pytest.approx(31.8, abs=0.5)
    assert dropped == pytest.approx(25.0, abs=0.5)


def test_log_linear_agrees_with_polyfit():
    rng = np.random.default_rng(3)
    signals = rician(decay(rng.uniform(15, 70, 200)), 80, rng)
    fit = fit_t2(signals, OAI_TE, FitOptions(model="log_linear"))
    for voxel in range(len(signals)):
        (slope, intercept), covariance = np.polyfit(OAI_TE, np.log(signals[voxel]), 1, cov=True)
        assert fit.t2_ms[voxel] == pytest.approx(-1 / slope, rel=1e-9)
        assert fit.s0[voxel] == pytest.approx(np.exp(intercept), rel=1e-9)
        # First-order propagation of the slope's error.
        expected = np.sqrt(covariance[0, 0]) / slope**2
        assert fit.t2_standard_error_ms[voxel] == pytest.approx(expected, rel=1e-9)


def test_bounds_are_kept_and_flagged():
    t2 = np.array([3.0, 10.0, 30.0, 90.0, 400.0])
    for model in ("three_parameter", "two_parameter", "log_linear"):
        fit = fit_t2(decay(t2), OAI_TE, FitOptions(model=model, t2_bounds_ms=(10.5, 80.0)))
        np.testing.assert_array_equal(fit.t2_ms[[0, 1, 3, 4]], [10.5, 10.5, 80.0, 80.0])
        assert [FLAG_NAMES[code] == "at_bound" for code in fit.flag] == [1, 1, 0, 1, 1]
        assert np.isnan(fit.t2_standard_error_ms[[0, 1, 3, 4]]).all()
        assert fit.fraction_at_bound == 0.8
        np.testing.assert_array_equal(usable(fit), [False, False, True, False, False])


def test_hopeless_voxels_are_flagged_not_fatal():
    good = decay(35.0)[0]
    rows = {
        "ok": good,
        "constant_signal": np.full(7, 300.0),
        "non_finite": np.where(np.arange(7) == 3, np.nan, good),
        "no_decay": good.max() - decay(8.0)[0],
    }
    zero, infinite = np.zeros(7), np.where(np.arange(7) == 0, np.inf, good)
    fit = fit_t2(np.array([*rows.values(), zero, infinite, -good]), OAI_TE)
    names = [FLAG_NAMES[code] for code in fit.flag]
    assert names == [*rows, "constant_signal", "non_finite", "no_decay"]
    assert np.isfinite(fit.t2_ms).tolist() == [True] + [False] * 6
    for values in (fit.s0, fit.offset, fit.t2_standard_error_ms, fit.residual_rms):
        assert np.isnan(values[1:]).all()

    logs = fit_t2(
        np.array([good, zero, np.where(np.arange(7) == 6, 0.0, good), -good, rows["non_finite"]]),
        OAI_TE,
        FitOptions(model="log_linear"),
    )
    assert [FLAG_NAMES[code] for code in logs.flag] == [
        "ok", "non_positive", "non_positive", "non_positive", "non_finite",
    ]  # fmt: skip
    assert np.isnan(logs.t2_ms[1:]).all()


def test_a_fit_that_explains_little_is_flagged_poor():
    rng = np.random.default_rng(0)
    signals = np.abs(rng.normal(100, 40, (500, 7))) + decay(30.0, 60.0)
    fit = fit_t2(signals, OAI_TE)
    inside = usable(fit)
    explained = 1 - fit.residual_rms**2 / signals.var(axis=1)
    assert inside.any()
    np.testing.assert_array_equal(fit.flag[inside] == FitFlag.POOR_FIT, explained[inside] < 0.9)


def test_number_of_echoes():
    three_echoes = fit_t2(decay(30.0, te=OAI_TE[:3]), OAI_TE[:3])
    assert three_echoes.t2_ms[0] == pytest.approx(30.0, rel=1e-6)
    assert np.isnan(three_echoes.t2_standard_error_ms[0])
    too_few = fit_t2(decay(30.0, te=OAI_TE[:3]), OAI_TE[:3], FitOptions(first_echo="drop"))
    assert FLAG_NAMES[too_few.flag[0]] == "too_few_echoes"
    assert np.isnan(too_few.t2_ms[0])


def test_dropping_the_first_echo_ignores_it():
    signals = decay([20.0, 45.0], 1000.0, 50.0)
    spoiled = signals.copy()
    spoiled[:, 0] *= 0.6
    fit = fit_t2(spoiled, OAI_TE, FitOptions(first_echo="drop"))
    np.testing.assert_allclose(fit.t2_ms, [20.0, 45.0], rtol=1e-6)
    np.testing.assert_allclose(fit.s0, 1000.0, rtol=1e-6)


@pytest.mark.parametrize("t2", [30.0, 35.0, 40.0, 45.0, 50.0])
def test_bias_at_snr_50(t2):
    """OAI echo times, noise sigma = S0 / 50: the median over voxels is within 0.5 ms.

    The spread of single voxels is far larger (docs/relaxometry.md), so the mean is not asked of.
    """
    rng = np.random.default_rng(int(t2))
    clean = decay(np.full(60_000, t2), 1000.0)
    noise = rng.normal(0, 20.0, (2, *clean.shape))
    fit = fit_t2(np.hypot(clean + noise[0], noise[1]), OAI_TE)
    assert abs(np.median(fit.t2_ms) - t2) < 0.5


def test_same_input_same_bytes():
    signals = rician(decay(np.full(1000, 40.0)), 30, np.random.default_rng(1))
    first, second = fit_t2(signals, OAI_TE), fit_t2(signals.astype(np.float64)[::1], OAI_TE)
    for name in vars(first):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_volume_and_summary():
    rng = np.random.default_rng(2)
    mask = rng.random((3, 5, 4)) < 0.5
    truth = rng.uniform(20, 60, mask.shape)
    array = np.moveaxis(1000 * np.exp(-OAI_TE / truth[..., None]), -1, 0).astype(np.float32)
    fitted = fit_t2_volume(EchoSeries(array, np.eye(4), OAI_TE), mask)
    np.testing.assert_array_equal(np.isnan(fitted.t2_ms), ~mask)
    np.testing.assert_allclose(fitted.t2_ms[mask], truth[mask], rtol=1e-4)
    summary = summarize_t2(fitted.fit)
    assert summary.voxels == mask.sum()
    assert summary.median_ms == pytest.approx(np.median(truth[mask]), rel=1e-4)
    assert summary.flag_counts == {"ok": mask.sum()}
    with pytest.raises(ValueError, match="resample"):
        fit_t2_volume(EchoSeries(array, np.eye(4), OAI_TE), mask[:2])


def test_default_mask_takes_the_tissue():
    array = np.full((2, 4, 40, 40), 5.0) + np.random.default_rng(0).random((2, 4, 40, 40))
    array[:, 1:3, 10:30, 10:30] += 500
    array[1, 1, 10, 10] = np.nan
    mask = default_mask(EchoSeries(array, np.eye(4), np.array([10.0, 20.0])))
    expected = np.zeros((4, 40, 40), bool)
    expected[1:3, 10:30, 10:30] = True
    expected[1, 10, 10] = False
    np.testing.assert_array_equal(mask, expected)
    flat = EchoSeries(np.ones((2, 2, 2, 2)), np.eye(4), np.array([10.0, 20.0]))
    assert not default_mask(flat).any()


def test_a_series_without_a_single_fit_is_refused():
    with pytest.raises(BadInputError, match=r"knee\.zip.*2 constant_signal") as refused:
        require_fitted(fit_t2(np.ones((2, 7)), OAI_TE), "knee.zip")
    assert refused.value.reason is Reason.UNFITTABLE_T2
    require_fitted(fit_t2(decay([30.0, 40.0]), OAI_TE), "knee.zip")


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="echo times"):
        fit_t2(np.ones((4, 7)), OAI_TE[:6])
    with pytest.raises(ValueError, match="rise"):
        fit_t2(np.ones((4, 7)), OAI_TE[::-1])
    for wrong in ({"model": "cubic"}, {"t2_bounds_ms": (50, 10)}, {"first_echo": "x"},
                  {"offset": "x"}, {"tolerance": 0.0}):  # fmt: skip
        with pytest.raises(ValueError, match=r"; (use|give) "):
            FitOptions(**wrong)


def test_t2_of_a_phantom_knee_at_snr_50():
    """Voxels whose whole slice thickness is cartilage; the rest is partial volume, not the fit."""
    truth = knee_truth(1, 1000001, "RIGHT", "V00")
    grid = MSME_OF[DEMO]
    affine = msme_affine(truth, grid)
    echoes = msme_image(truth, affine, grid.shape, snr=50.0)
    pure = np.ones(grid.shape, bool)
    for across_mm in (-1.4, 0.0, 1.4):
        placed = affine.copy()
        placed[:3, 3] += truth.msme_offset_mm + across_mm * affine[:3, 0] / grid.spacing_mm[0]
        raster = rasterise(truth, placed, grid.shape, with_t2=across_mm == 0.0)
        pure &= np.any([labels_of(raster).cartilage(bone) for bone in BONES], axis=0)
        if across_mm == 0.0:
            planted = t2_volume(raster).array
    fit = fit_t2_volume(echoes, pure).fit
    inside = usable(fit)
    error = fit.t2_ms - planted[pure]
    assert inside.mean() > 0.99
    assert abs(np.median(error[inside])) < 0.5
    rate_mean = 1 / np.mean(1 / fit.t2_ms[inside])
    assert abs(rate_mean - 1 / np.mean(1 / planted[pure][inside])) < 0.5
