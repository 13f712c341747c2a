"""A lazy xarray variable over maps that lie in many Zarr parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing


class StackedMaps(BackendArray):
    """Maps of many knees as one array (knee, phi, theta); a knee is read when it is looked at."""

    def __init__(
        self,
        variable: str,
        places: Sequence[tuple[Path, int]],
        grid: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        self.variable = variable
        self.places = list(places)
        self.shape = (len(places), *grid)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray:
        """What xarray asks for, as an array."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray:
        knees = np.arange(len(self.places))[key[0]]
        wanted = np.atleast_1d(knees)
        stacked = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        by_part: dict[Path, list[int]] = {}
        for position, knee in enumerate(wanted):
            by_part.setdefault(self.places[knee][0], []).append(position)
        for part, positions in by_part.items():
            array = zarr.open_array(str(part / self.variable), mode="r", zarr_format=3)
            rows = [self.places[wanted[position]][1] for position in positions]
            stacked[positions] = array.oindex[np.array(rows)]
        # Outer indexing, one axis at a time: a chunk is a whole map, so nothing is read in vain.
        within = stacked[:, :, key[2]][:, key[1]]
        return within[0] if np.ndim(knees) == 0 else within


def lazy_variable(
    variable: str,
    places: Sequence[tuple[Path, int]],
    grid: tuple[int, int],
    dtype: np.dtype,
    attributes: Mapping[str, Any],
) -> xr.Variable:
    """The variable of these (part, row) places, read on demand."""
    stacked = StackedMaps(variable, places, grid, dtype)
    return xr.Variable(
        ("knee", "phi", "theta"), indexing.LazilyIndexedArray(stacked), dict(attributes)
    )
