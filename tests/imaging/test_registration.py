"""Resampling against analytic fields and scipy; the shift against planted ones."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from imaging.dicom import read_echoes
from imaging.registration import estimate_shift_mm, mask_box_mm, resample_to_grid
from imaging.volume import EchoSeries, Volume, index_to_world, world_to_index
from phantom.delivery import dess_affine
from phantom.images import dess_image, msme_affine, msme_image
from phantom.knee import knee_truth
from phantom.raster import DEMO, MSME_OF, rasterise

TE = np.array([10.0, 20.0])


def rotation(degrees):
    """Turned about all three axes in order."""
    a, b, c = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def sagittal_grid(spacing_mm, shape, degrees=(0, 0, 0), centre_mm=(0, 0, 0)):
    """Slices along x, rows downwards (-z), columns to posterior (y), then turned; centred."""
    axes = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ axes * np.array(spacing_mm)
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def centres(affine, shape):
    return index_to_world(affine, np.moveaxis(np.indices(shape), 0, -1).astype(float))


MSME_SHAPE, MSME_SPACING = (12, 64, 60), (3.5, 0.8, 0.8)
DESS_SHAPE, DESS_SPACING = (30, 60, 56), (0.7, 0.6, 0.6)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (8, -5, 12)], ids=["parallel", "oblique"])
def test_smooth_field_is_read_at_the_right_place(degrees):
    """Linear across the slices and smooth in them: what the interpolation represents well."""
    affine = sagittal_grid(MSME_SPACING, MSME_SHAPE, degrees, (2.0, -1.0, 3.0))
    grid = sagittal_grid(DESS_SPACING, DESS_SHAPE)

    def field(points_mm):
        place = world_to_index(affine, points_mm)
        return 100 + 7 * place[..., 0] + 20 * np.sin(place[..., 1] / 9) * np.cos(place[..., 2] / 7)

    array = np.stack([field(centres(affine, MSME_SHAPE)) * scale for scale in (1.0, 0.5)])
    series = EchoSeries(array.astype(np.float32), affine, TE)
    signals = resample_to_grid(series, grid, DESS_SHAPE)
    expected = field(centres(grid, DESS_SHAPE)).reshape(-1)
    assert signals.dtype == np.float32
    np.testing.assert_allclose(signals[:, 0], expected, atol=0.02)
    np.testing.assert_allclose(signals[:, 1], expected / 2, atol=0.01)


def test_shift_moves_the_series():
    affine = sagittal_grid(MSME_SPACING, MSME_SHAPE)
    array = np.zeros((1, *MSME_SHAPE), np.float32)
    array[0, 6, 30, 20] = 1.0
    blob_mm = index_to_world(affine, np.array([6.0, 30.0, 20.0]))
    shift = np.array([3.5, -1.6, 2.4])
    signals = resample_to_grid(
        EchoSeries(array, affine, TE[:1]), affine, MSME_SHAPE, shift_mm=tuple(shift)
    ).reshape(MSME_SHAPE)
    found = np.unravel_index(np.nanargmax(signals), MSME_SHAPE)
    np.testing.assert_allclose(index_to_world(affine, np.array(found, float)), blob_mm + shift)
    assert np.nanmax(signals) == pytest.approx(1.0, abs=1e-5)


def test_mask_selects_in_c_order_and_own_grid_is_copied():
    rng = np.random.default_rng(0)
    affine = sagittal_grid(MSME_SPACING, MSME_SHAPE, (3, 4, 5))
    array = rng.normal(size=(3, *MSME_SHAPE)).astype(np.float32)
    mask = rng.random(MSME_SHAPE) < 0.1
    signals = resample_to_grid(EchoSeries(array, affine, TE), affine, MSME_SHAPE, mask=mask)
    np.testing.assert_allclose(signals, array[:, mask].T, atol=1e-5)


def test_outside_is_nan_and_the_edge_is_not():
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    series = EchoSeries(np.ones((2, 3, 8, 8), np.float32), affine, TE)
    grid = np.diag([1.0, 1.0, 1.0, 1.0])
    grid[:3, 3] = [-6.0, 0.0, -3.0]
    signals = resample_to_grid(series, grid, (20, 8, 14)).reshape(20, 8, 14, 2)
    x_mm, y_mm = np.arange(20) - 6.0, np.arange(14) - 3.0
    inside = ((x_mm >= -2) & (x_mm <= 10))[:, None] & ((y_mm >= -0.5) & (y_mm <= 7.5))
    np.testing.assert_array_equal(np.isfinite(signals[:, 0, :, 0]), inside)
    np.testing.assert_allclose(signals[np.isfinite(signals)], 1.0, atol=1e-6)


def test_nearest_slice_is_that_slice():
    rng = np.random.default_rng(1)
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    series = EchoSeries(rng.normal(size=(1, 5, 9, 9)).astype(np.float32), affine, TE[:1])
    grid = affine.copy()
    grid[0, 3] = 1.9
    mask = np.zeros((5, 9, 9), bool)
    mask[:4] = True
    nearest = resample_to_grid(series, grid, (5, 9, 9), mask=mask, between_slices="nearest")
    np.testing.assert_allclose(nearest[:, 0], series.array[0, :4].ravel(), atol=1e-6)
    linear = resample_to_grid(series, grid, (5, 9, 9), mask=mask)
    expected = map_coordinates(
        series.array[0], np.argwhere(mask).T + np.array([[1.9 / 4], [0], [0]]), order=1
    )
    np.testing.assert_allclose(linear[:, 0], expected, atol=1e-5)


def test_bicubic_beats_bilinear_in_the_plane():
    """A cubic polynomial's samples: bicubic convolution is third-order, bilinear second."""
    affine = np.diag([3.0, 1.0, 1.0, 1.0])
    rows, columns = np.meshgrid(np.arange(24.0), np.arange(24.0), indexing="ij")
    array = np.broadcast_to(rows**2 - 2 * rows * columns + columns**2 / 2, (1, 3, 24, 24))
    grid = affine.copy()
    grid[1:3, 3] = 0.37, 0.61
    mask = np.zeros((3, 24, 24), bool)
    mask[1, 3:20, 3:20] = True
    signals = resample_to_grid(EchoSeries(array, affine, TE[:1]), grid, (3, 24, 24), mask=mask)
    r, c = rows[3:20, 3:20] + 0.37, columns[3:20, 3:20] + 0.61
    np.testing.assert_allclose(signals[:, 0], (r**2 - 2 * r * c + c**2 / 2).ravel(), atol=1e-3)


def test_wrong_arguments_are_refused():
    series = EchoSeries(np.ones((1, 3, 4, 4)), np.eye(4), TE[:1])
    with pytest.raises(ValueError, match="linear or nearest"):
        resample_to_grid(series, np.eye(4), (3, 4, 4), between_slices="cubic")
    with pytest.raises(ValueError, match="mask has shape"):
        resample_to_grid(series, np.eye(4), (3, 4, 4), mask=np.ones((3, 4, 5), bool))
    with pytest.raises(ValueError, match="empty"):
        mask_box_mm(np.eye(4), np.zeros((3, 4, 4), bool))


def knee_like(points_mm, contrast):
    """Two bone-like ellipsoids with cartilage caps in muscle and fat, edges 0.6 mm wide.

    The contrasts differ as between a DESS and a first echo: neither is a monotonic map of the
    other.
    """
    air, fat, muscle, bone, cartilage, fluid = contrast

    def within(centre, radii):
        scaled = (points_mm - centre) / radii
        size = np.linalg.norm(scaled, axis=-1)
        return 1 / (1 + np.exp((size - 1) * np.mean(radii) / 0.6))

    value = np.full(points_mm.shape[:-1], float(air))
    for level, centre, radii in (
        (fat, (0, 2, 0), (46, 52, 90)),
        (muscle, (0, 14, 4), (40, 30, 80)),
        (fluid, (2, -8, 3), (24, 10, 20)),
        (cartilage, (-3, 2, 21), (33, 26, 22.5)),
        (bone, (-3, 2, 22), (31, 24, 21)),
        (cartilage, (1, 4, -24), (32, 23, 20.5)),
        (bone, (1, 4, -25.5), (31, 22, 19.5)),
        (cartilage, (4, -32, 8), (12, 6.5, 14)),
        (bone, (4, -33.5, 8), (11, 5.5, 13)),
    ):
        inside = within(np.array(centre, float), np.array(radii, float))
        value = value + inside * (level - value)
    return value


DESS_CONTRAST = (5, 60, 90, 40, 210, 255)
ECHO_CONTRAST = (5, 230, 120, 190, 150, 250)


def scan_pair(shift_mm, degrees=(0, 0, 0), seed=0):
    """A DESS-like volume and a first echo whose content is displaced by -shift, with noise."""
    rng = np.random.default_rng(seed)
    dess_shape, echo_shape = (100, 128, 128), (22, 128, 128)
    dess_affine = sagittal_grid((1.05, 1.05, 1.05), dess_shape)
    echo_affine = sagittal_grid((3.5, 0.85, 0.85), echo_shape, degrees)
    dess = knee_like(centres(dess_affine, dess_shape), DESS_CONTRAST)
    slab = np.zeros(echo_shape)
    # A slice is the mean over its 3 mm, not a sample of its middle.
    normal = echo_affine[:3, 0] / 3.5
    for depth in np.linspace(-1.125, 1.125, 4):
        slab += knee_like(
            centres(echo_affine, echo_shape) + np.array(shift_mm) + depth * normal, ECHO_CONTRAST
        )
    echo = np.abs(slab / 4 + rng.normal(0, 6, echo_shape))
    dess = np.abs(dess + rng.normal(0, 6, dess_shape))
    return (
        Volume(echo.astype(np.float32), echo_affine),
        Volume(dess.astype(np.float32), dess_affine),
    )


@pytest.mark.parametrize(
    ("shift", "degrees"),
    [
        ((2.1, -1.3, 0.8), (0, 0, 0)),
        ((-4.4, 3.2, -5.1), (0, 0, 0)),
        ((1.7, 2.6, -0.9), (6, -4, 9)),
        ((0.0, 0.0, 0.0), (0, 0, 0)),
    ],
    ids=["small", "large", "oblique", "none"],
)
def test_planted_shift_is_found(shift, degrees):
    echo, dess = scan_pair(shift, degrees)
    found = estimate_shift_mm(echo, dess)
    axes = echo.affine[:3, :3] / echo.spacing_mm
    error = axes.T @ (np.array(found.shift_mm) - shift)
    assert abs(error[0]) < 0.7, (found, error)
    assert np.abs(error[1:]).max() < 0.3, (found, error)
    if any(shift):
        assert found.accepted
        assert found.similarity_after > found.similarity_before


def test_shift_brings_the_series_onto_the_structural_scan():
    """The sign: what `estimate_shift_mm` returns is what `resample_to_grid` takes."""
    echo, dess = scan_pair((2.0, -3.0, 1.5))
    found = estimate_shift_mm(echo, dess)
    series = EchoSeries(echo.array[None], echo.affine, TE[:1])
    ideal = knee_like(centres(dess.affine, dess.array.shape), ECHO_CONTRAST).ravel()
    error = []
    for shift in ((0.0, 0.0, 0.0), found.shift_mm):
        read = resample_to_grid(series, dess.affine, dess.array.shape, shift_mm=shift)[:, 0]
        error.append(np.nanmean(np.abs(read - ideal)))
    assert error[1] < 0.6 * error[0]


def test_region_restricts_the_comparison():
    """Tissue that moved outside the region does not matter inside it."""
    echo, dess = scan_pair((1.5, 1.0, -2.0))
    points = centres(dess.affine, dess.array.shape)
    box = mask_box_mm(dess.affine, np.linalg.norm(points - (0, 0, 0), axis=-1) < 28, 2.0)
    far = points[..., 2] > 34
    dess.array[far] = np.roll(dess.array, 9, axis=2)[far]
    found = estimate_shift_mm(echo, dess, region_mm=box)
    assert found.accepted
    np.testing.assert_allclose(found.shift_mm, (1.5, 1.0, -2.0), atol=0.7)


def test_shift_beyond_the_limit_is_not_applied():
    echo, dess = scan_pair((0.0, 6.0, 0.0))
    found = estimate_shift_mm(echo, dess, largest_shift_mm=4.0)
    assert not found.accepted
    assert found.shift_mm == (0.0, 0.0, 0.0)
    assert "limit" in found.reason


def test_scans_that_cannot_be_compared_are_refused():
    echo, dess = scan_pair((0.0, 0.0, 0.0))
    elsewhere = Volume(dess.array, dess.affine.copy())
    elsewhere.affine[0, 3] += 500.0
    assert "overlap" in estimate_shift_mm(echo, elsewhere).reason
    flat = Volume(np.full_like(dess.array, 7.0), dess.affine)
    unlike = estimate_shift_mm(echo, flat)
    assert "contrast" in unlike.reason
    assert unlike.shift_mm == (0.0, 0.0, 0.0)


def test_same_scans_same_shift():
    echo, dess = scan_pair((1.0, -2.0, 0.5))
    assert estimate_shift_mm(echo, dess) == estimate_shift_mm(echo, dess)


def test_planted_shift_is_found_on_a_real_knee(shared_data):
    """A later echo, inverted and interpolated between slices, stands in for the other contrast."""
    echoes = read_echoes(shared_data / "knee" / "mese_t2_dicom.zip")
    fine = np.linspace(0, echoes.array.shape[1] - 1, (echoes.array.shape[1] - 1) * 3 + 1)
    below = np.minimum(fine.astype(int), echoes.array.shape[1] - 2)
    upper = (fine - below)[:, None, None]
    late = echoes.array[4].astype(float)
    other = 3000 - np.minimum((1 - upper) * late[below] + upper * late[below + 1], 3000)
    shift = np.array([-3.0, 2.2, 4.0])
    affine = echoes.affine.copy()
    affine[:3, 0] /= 3
    affine[:3, 3] += shift
    found = estimate_shift_mm(echoes.echo(0), Volume(other, affine))
    axes = echoes.affine[:3, :3] / echoes.echo(0).spacing_mm
    error = axes.T @ (np.array(found.shift_mm) - shift)
    assert found.accepted
    assert np.abs(error).max() < 0.2, error


def test_planted_offset_of_a_phantom_knee_is_found():
    """Signal-equation contrasts, coil shading, 3 mm slices, oblique headers; demo resolution."""
    truth = knee_truth(1, 1000001, "RIGHT", "V00")
    raster = rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=True)
    grid = MSME_OF[DEMO]
    echoes = msme_image(truth, msme_affine(truth, grid), grid.shape, snr=50.0)
    found = estimate_shift_mm(echoes.echo(0), dess_image(truth, raster, snr=50.0))
    axes = echoes.affine[:3, :3] / echoes.echo(0).spacing_mm
    error = axes.T @ (np.array(found.shift_mm) - truth.msme_offset_mm)
    assert np.linalg.norm(truth.msme_offset_mm) > 0.5
    assert found.accepted
    assert abs(error[0]) < 0.7, error
    assert np.abs(error[1:]).max() < 0.3, error
