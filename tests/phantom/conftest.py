"""One knee, drawn once, for the tests of the phantom."""

import pytest

from phantom.knee import KneeTruth, knee_truth
from phantom.raster import Grid, Raster, place_grid, rasterise

COARSE = Grid((74, 140, 140), (1.5, 1.0, 1.0))


@pytest.fixture(scope="session")
def knee() -> KneeTruth:
    return knee_truth(7, 1000038, "RIGHT", "V00", severity=0.5)


@pytest.fixture(scope="session")
def coarse(knee: KneeTruth) -> Raster:
    affine = place_grid(knee, COARSE, (4.0, -3.0))
    return rasterise(knee, affine, COARSE.shape, with_t2=True)
