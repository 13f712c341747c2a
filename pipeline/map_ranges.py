"""The ranges by which maps become 8-bit images: fitted once, then frozen.

The paper takes minimum and maximum over all patients, test patients among them. By default ranges
here come from the training split alone, which is one per patient for both tasks, so nothing of a
test patient reaches a training image. Once fitted a set never changes: knees that arrive later are
clipped to it, and images made before stay as they are. Fitting anew is asked for by name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from lake.arrays import read_rows
from lake.errors import LakeError
from lake.keys import BIOMARKER_RANGES
from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from models.normalization import MapRange
from models.strategies import PLANES
from pipeline.config import CODE_VERSION, Step
from pipeline.ingest import Progress

Population = Literal["training", "all"]
STEP: Step = "ranges"
QUANTILE_BINS = 2**16
"""Bins over a biomarker's guard rail: a quantile is exact to 0.005 ms or 0.0023 mm."""

_READ_AT_ONCE = 128


@dataclass(frozen=True)
class RangeOptions:
    """How ranges are chosen.

    Attributes:
        population: 'training', the training split of `model_cases`; or 'all', every knee-visit
            with maps, as the paper.
        lower_quantile, upper_quantile: of the pixels; 0 and 1 are minimum and maximum, as the
            paper. 0.005 and 0.995, for example, are not moved by a few failed T2 fits.
    """

    population: Population = "training"
    lower_quantile: float = 0.0
    upper_quantile: float = 1.0

    def __post_init__(self) -> None:
        if self.population not in get_args(Population):
            raise ValueError(f"population is {self.population!r}; use 'training' or 'all'")
        if not 0 <= self.lower_quantile < self.upper_quantile <= 1:
            raise ValueError(
                f"quantiles {self.lower_quantile:g} and {self.upper_quantile:g}: expected two "
                "that rise, from 0 to 1"
            )


@dataclass(frozen=True, eq=False)
class RangeSet:
    """Ranges of every bone and map that some knee had.

    Attributes:
        ranges_id: hash of what follows; images name it.
        options: how they were chosen.
        ranges: by bone and map.
    """

    ranges_id: str
    options: RangeOptions
    ranges: Mapping[tuple[Bone, str], MapRange]


def current_ranges(lake: Lake, options: RangeOptions | None = None) -> RangeSet | None:
    """The set that counts: the one fitted last, or the newest of a kind.

    Args:
        lake: where it is kept.
        options: the kind; None for whichever was fitted last, by which images are scaled.

    Returns:
        None where there is no such set.
    """
    rows = lake.sql(
        "FROM map_ranges_history WHERE $population::VARCHAR IS NULL "
        "OR (population, lower_quantile, upper_quantile) = ($population, $low, $high) "
        "QUALIFY rank() OVER (ORDER BY batch_number DESC) = 1 ORDER BY bone, biomarker",
        {
            "population": options.population if options else None,
            "low": options.lower_quantile if options else None,
            "high": options.upper_quantile if options else None,
        },
    ).to_dicts()
    if not rows:
        return None
    first = rows[0]
    return RangeSet(
        first["ranges_id"],
        RangeOptions(first["population"], first["lower_quantile"], first["upper_quantile"]),
        {(row["bone"], row["biomarker"]): MapRange(row["minimum"], row["maximum"]) for row in rows},
    )


def count_knees(lake: Lake, options: RangeOptions) -> int:
    """Knee-visits with maps that such ranges would be fitted on."""
    found = {name for bone in BONES for name in _places(lake, bone, options)["knee_visit"]}
    return len(found)


def fit_map_ranges(
    lake: Lake,
    options: RangeOptions | None = None,
    *,
    refit: bool = False,
    progress: Progress | None = None,
) -> RangeSet:
    """The ranges of a lake: those it has, or new ones where it has none of their kind.

    They are the set that counts from then on; where another did, every image is pending again.

    Args:
        lake: where maps and labels are.
        options: how to choose them; the defaults where None.
        refit: fit a new set although there is one of this kind.
        progress: told after each bone.

    Raises:
        LakeError: no knee to fit on, or a map that is the same number everywhere.
        LakeBusyError: another process is writing to the lake.
    """
    options = options or RangeOptions()
    newest, found = current_ranges(lake), current_ranges(lake, options)
    if found is not None and not refit:
        if newest is None or newest.ranges_id != found.ranges_id:
            # Its rows once more, so that it is the set listed last.
            _commit(lake, options, found.ranges_id, _rows_of(lake, found.ranges_id))
        return found
    rows: list[dict[str, Any]] = []
    for done, bone in enumerate(BONES, start=1):
        rows += _fit_bone(lake, bone, options)
        if progress is not None:
            progress(done, len(BONES), f"ranges of the {bone}")
    if not rows:
        raise LakeError(
            "there are no maps to fit ranges on"
            if options.population == "all"
            else "there is no training knee with maps to fit ranges on; ingest the clinical "
            "tables, or fit on all knees (population 'all')"
        )
    plain = json.dumps([dataclasses.asdict(options), CODE_VERSION[STEP], rows], sort_keys=True)
    ranges_id = hashlib.sha256(plain.encode()).hexdigest()[:16]
    if newest is None or newest.ranges_id != ranges_id:
        _commit(lake, options, ranges_id, rows)
    ranges: dict[tuple[Bone, str], MapRange] = {
        (row["bone"], row["biomarker"]): MapRange(row["minimum"], row["maximum"]) for row in rows
    }
    return RangeSet(ranges_id, options, ranges)


def _commit(
    lake: Lake, options: RangeOptions, ranges_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    described = dataclasses.asdict(options)
    config_hash = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    with lake.batch(STEP, ALL_TIMEPOINTS, CODE_VERSION[STEP], config_hash) as batch:
        batch.add("map_ranges", [{**row, "ranges_id": ranges_id, **described} for row in rows])


def _rows_of(lake: Lake, ranges_id: str) -> list[dict[str, Any]]:
    """What is stored of a set, once."""
    return lake.sql(
        "SELECT DISTINCT bone, biomarker, minimum, maximum, n_knee_visit, n_value "
        "FROM map_ranges_history WHERE ranges_id = $ranges_id",
        {"ranges_id": ranges_id},
    ).to_dicts()


def _places(lake: Lake, bone: Bone, options: RangeOptions) -> pl.DataFrame:
    """Maps to fit on, those of one part together."""
    chosen = {
        "training": "SEMI JOIN (FROM model_cases WHERE split = 'training') USING (knee_visit)",
        "all": "",
    }
    return lake.sql(
        "SELECT knee_visit, part, row FROM maps_index "  # noqa: S608 - one of two texts
        f"{chosen[options.population]} WHERE bone = $bone ORDER BY part, row",
        {"bone": bone},
    )


def _fit_bone(lake: Lake, bone: Bone, options: RangeOptions) -> list[dict[str, Any]]:
    """A row per map of a bone that some knee has."""
    found = _places(lake, bone, options)
    places = list(zip(found["part"].to_list(), found["row"].to_list(), strict=True))
    rows = []
    for plane in PLANES if places else ():
        tally = _Tally(plane)
        for first in range(0, len(places), _READ_AT_ONCE):
            tally.add(read_rows(lake.root, plane, places[first : first + _READ_AT_ONCE]))
        if tally.n_value:
            low, high = (
                tally.quantile(options.lower_quantile),
                tally.quantile(options.upper_quantile),
            )
            if not low < high:
                raise LakeError(
                    f"{plane} of the {bone} goes from {low:g} to {high:g} over {tally.n_knee} "
                    "knees; a range needs two ends, so add knees or take wider quantiles"
                )
            rows.append(
                {
                    "bone": bone,
                    "biomarker": plane,
                    "minimum": low,
                    "maximum": high,
                    "n_knee_visit": tally.n_knee,
                    "n_value": tally.n_value,
                }
            )
    return rows


class _Tally:
    """Counts of the values of one map, a few knees at a time."""

    def __init__(self, plane: str) -> None:
        self.low, self.high = BIOMARKER_RANGES[plane]
        self.counts = np.zeros(QUANTILE_BINS, np.int64)
        self.minimum, self.maximum = np.inf, -np.inf
        self.n_value = self.n_knee = 0

    def add(self, maps: NDArray[np.float32]) -> None:
        """Count maps of shape (n, n_phi, n_theta)."""
        self.n_knee += int(np.isfinite(maps).any(axis=(1, 2)).sum())
        values = maps[np.isfinite(maps)]
        if not len(values):
            return
        self.n_value += len(values)
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        place = (values - self.low) * (QUANTILE_BINS / (self.high - self.low))
        place = np.clip(place, 0, QUANTILE_BINS - 1).astype(np.int64)
        self.counts += np.bincount(place, minlength=QUANTILE_BINS)

    def quantile(self, share: float) -> float:
        """The value that this share of the pixels lies below."""
        if share in (0.0, 1.0):
            return self.maximum if share else self.minimum
        cumulated = np.concatenate([[0], np.cumsum(self.counts)])
        at = np.interp(share * self.n_value, cumulated, np.arange(QUANTILE_BINS + 1))
        value = self.low + float(at) * (self.high - self.low) / QUANTILE_BINS
        return float(np.clip(value, self.minimum, self.maximum))
