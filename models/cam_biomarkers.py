"""Numbers of a Grad-CAM: where its mass lies, where its peak is, how concentrated it is.

All are of the rectified map, as published maps are. Mass is what the map, enlarged to the image,
sums to over a region; it is worked out on the map's own grid, by taking the region to the grid
instead of the map to the image, which is the same number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.cam_views import interpolation_matrix, rectified

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class MapRegions:
    """What the pixels of one knee's map of one bone are, each of shape (n_phi, n_theta).

    Attributes:
        shown: there is bone surface on the pixel's ray.
        medial: and it lies medial; the rest of what is shown is lateral.
        covered: and cartilage covers it.
        area_mm2: surface the pixel stands for.
    """

    shown: NDArray[np.bool_]
    medial: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    area_mm2: FloatArray


@dataclass(frozen=True)
class CamNumbers:
    """The numbers of one map. Shares are None where the map has no mass.

    Attributes:
        all_zero: no evidence for the target anywhere.
        signed_sum: sum of the raw map: the logit (or logit difference) less its bias.
        positive_sum: sum of the rectified map.
        medial_share: share of the mass that lies medial, all pixels alike (the map's average).
        medial_share_surface: the same, each pixel weighted by the surface it stands for.
        covered_share: share of the mass on cartilage, all pixels alike.
        covered_share_surface: the same, weighted by surface.
        peak_phi, peak_theta: centre of the cell with most evidence, rad.
        entropy: of the mass over the cells, from 0 (one cell) to 1 (all alike).
    """

    all_zero: bool
    signed_sum: float
    positive_sum: float
    medial_share: float | None
    medial_share_surface: float | None
    covered_share: float | None
    covered_share_surface: float | None
    peak_phi: float | None
    peak_theta: float | None
    entropy: float | None


def cell_weights(pixels: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """Weights of pixels, shape (..., H, W), as those of the cells of a coarser `grid`."""
    rows = interpolation_matrix(grid[0], pixels.shape[-2])
    columns = interpolation_matrix(grid[1], pixels.shape[-1])
    return rows.T @ pixels @ columns


def cell_centres(first: float, last: float, n_pixels: int, n_cells: int) -> FloatArray:
    """Where the centres of a grid's cells lie, given the first and last pixel's centre."""
    step = (last - first) / (n_pixels - 1)
    return first - step / 2 + (np.arange(n_cells) + 0.5) * (n_pixels * step / n_cells)


def cam_numbers(
    maps: FloatArray, regions: MapRegions, phi: FloatArray, theta: FloatArray
) -> list[CamNumbers]:
    """The numbers of raw maps of one knee and bone.

    Args:
        maps: signed, of any models and targets, shape (n, h, w).
        regions: of the knee.
        phi: elevation of the pixel centres, rad.
        theta: angle of the pixel centres, rad.

    Raises:
        ValueError: a map that is not finite, or regions that are not of phi and theta.
    """
    if not np.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinity; look for NaN in its image or network")
    if regions.shown.shape != (len(phi), len(theta)):
        raise ValueError(
            f"regions of shape {regions.shown.shape} on {len(phi)} x {len(theta)} pixels"
        )
    raw = maps.astype(np.float64)
    positive = rectified(raw)
    height, width = raw.shape[1:]
    area = np.where(regions.shown, np.nan_to_num(regions.area_mm2), 0.0)
    shares = {}
    for suffix, weight in (("", regions.shown.astype(float)), ("_surface", area)):
        whole = _mass(positive, weight)
        for name, region in (("medial", regions.medial), ("covered", regions.covered)):
            inside = _mass(positive, weight * (region & regions.shown))
            with np.errstate(invalid="ignore"):
                shares[f"{name}_share{suffix}"] = inside / whole
    total = positive.sum((1, 2))
    peak = positive.reshape(len(raw), -1).argmax(axis=1)
    phi_cells = cell_centres(phi[0], phi[-1], len(phi), height)
    theta_cells = cell_centres(theta[0], theta[-1], len(theta), width)
    entropy = _entropy(positive)
    numbers = []
    for row in range(len(raw)):
        has_mass = bool(total[row] > 0)
        numbers.append(
            CamNumbers(
                all_zero=not has_mass,
                signed_sum=float(raw[row].sum()),
                positive_sum=float(total[row]),
                **{name: _share(values[row]) for name, values in shares.items()},
                peak_phi=float(phi_cells[peak[row] // width]) if has_mass else None,
                peak_theta=float(theta_cells[peak[row] % width]) if has_mass else None,
                entropy=float(entropy[row]) if has_mass else None,
            )
        )
    return numbers


def _mass(positive: FloatArray, weight: FloatArray) -> FloatArray:
    return (positive * cell_weights(weight, positive.shape[1:])).sum((1, 2))


def _share(value: float) -> float | None:
    """None where all mass lies where no bone is, or there is none; rounding stays in 0 to 1."""
    return min(1.0, max(0.0, float(value))) if np.isfinite(value) else None


def _entropy(positive: FloatArray) -> FloatArray:
    n_cells = positive.shape[1] * positive.shape[2]
    total = positive.sum((1, 2), keepdims=True)
    with np.errstate(invalid="ignore"):
        share = positive / total
    terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), 0.0)
    # Of one cell there is nothing to spread over; -0 is 0.
    return np.abs(terms.sum((1, 2))) / np.log(max(n_cells, 2))
