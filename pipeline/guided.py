"""What DL-guided averages are made of: cells of every Grad-CAM, and what they see of the maps.

Both are incremental by anti-join: a new visit costs its own knees, a model trained anew its own
cells, and a second run nothing. The averages themselves are SQL
(`sql/association/dl_guided_biomarkers.sql`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import COMPARTMENTS
from imaging.sphere import FRAMES
from lake.arrays import read_rows
from lake.association_tables import CELL_TARGETS, WEIGHTED_BIOMARKERS
from lake.errors import LakeError
from lake.keys import TIMEPOINTS
from lake.store import Lake
from models.cam_biomarkers import MapRegions
from models.cam_cells import CellSums, Grid, added, cell_sums, rectified_cells
from models.gradcam import Target, target_of
from pipeline.config import CODE_VERSION, Settings, Step, config_hash
from pipeline.predictions import knee_regions
from pipeline.steps import one_ahead

if TYPE_CHECKING:
    from pipeline.ingest import Progress

STEP: Step = "guided"
SINGLE_STRATEGY: Mapping[str, str] = {
    name: "thickness" if name == "cartilage_thickness" else "t2" for name in WEIGHTED_BIOMARKERS
}
"""The strategy of a biomarker's single model, whose Grad-CAM weights its average."""
CAM_ROWS = 2000
"""Grad-CAM maps laid out per batch, 5 kB each while they wait."""
MAP_ROWS = 64
"""Knees whose maps are in memory at once, 2 MB each."""
SUM_ROWS = 512
"""Knees summed per batch: what a kill can cost, some seconds."""

Row = Mapping[str, Any]
_KEY = ("knee_visit", "subject_id", "side", "timepoint")
_CAM_KEY = (*_KEY, "task", "bone", "strategy", "checkpoint_hash", "input_fingerprint")


@dataclass(frozen=True)
class GuidedReport:
    """What was done for a visit.

    Attributes:
        timepoint: the visit.
        n_cams: Grad-CAM maps whose cells were laid out.
        n_knees: knees and bones summed.
        seconds: the whole took.
        batch_id: the last batch written; None where nothing was.
    """

    timepoint: str
    n_cams: int
    n_knees: int
    seconds: float
    batch_id: str | None


def materialize_cell_sums(
    lake: Lake, settings: Settings, timepoint: str, *, progress: "Progress | None" = None
) -> GuidedReport:
    """Lay out the cells of pending Grad-CAM maps of a visit, and sum the maps of pending knees.

    Args:
        lake: holds Grad-CAM and spherical maps, and receives the results.
        settings: of the lake.
        timepoint: the visit.
        progress: told each batch that is done.

    Raises:
        LakeError: no such visit, or a knee whose maps are gone.
        LakeBusyError: another process is writing to the lake.
    """
    if timepoint not in TIMEPOINTS:
        raise LakeError(f"{timepoint} is not a visit; use one of {', '.join(TIMEPOINTS)}")
    start = time.perf_counter()
    values = {"timepoint": timepoint, "code_version": CODE_VERSION[STEP]}
    batch_id = None
    cams = lake.query("association/pending_cam_cells", values).to_dicts()
    done = 0
    for some, rows in one_ahead(partial(_cell_rows, lake), _batches(cams, CAM_ROWS)):
        batch_id = _commit(lake, settings, timepoint, "cam_cells", rows)
        done += len(some)
        if progress is not None:
            progress(done, len(cams), "Grad-CAM maps laid out")
    # Only now are the grids of these maps in the lake.
    knees = lake.query("association/pending_cell_sums", values).to_dicts()
    done = 0
    for some, rows in one_ahead(partial(_sum_rows, lake), _batches(knees, SUM_ROWS)):
        batch_id = _commit(lake, settings, timepoint, "cell_sums", rows)
        done += len(some)
        if progress is not None:
            progress(done, len(knees), "knees summed for DL-guided averages")
    return GuidedReport(timepoint, len(cams), len(knees), time.perf_counter() - start, batch_id)


def _batches(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _commit(
    lake: Lake, settings: Settings, timepoint: str, table: str, rows: Sequence[Row]
) -> str | None:
    version = CODE_VERSION[STEP]
    with lake.batch(STEP, timepoint, version, config_hash(settings, STEP)) as batch:
        batch.add(table, rows)
    return batch.batch_id


def _cell_rows(lake: Lake, pending: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of `cam_cells` of some Grad-CAM maps, model by model."""
    found = []
    by_model: dict[tuple[str, str], list[Row]] = {}
    for row in pending:
        by_model.setdefault((row["bone"], row["strategy"]), []).append(row)
    for (bone, strategy), rows in by_model.items():
        classes = read_rows(lake.root, strategy, [(row["part"], int(row["row"])) for row in rows])
        frame = next(FRAMES[name] for name in FRAMES if name == bone)
        for target in _TARGETS:
            # As `pipeline.cams` reads them: stored in half precision, computed in single.
            raw = target_of(classes.astype(np.float32), target)
            cells = rectified_cells(raw, (len(frame.phi), len(frame.theta)))
            found += [
                {
                    **{name: row[name] for name in _CAM_KEY},
                    "target": target,
                    "n_phi": raw.shape[1],
                    "n_theta": raw.shape[2],
                    "cells": cells.cells[place].ravel().tolist(),
                    "lowest": float(cells.lowest[place]),
                    "highest": float(cells.highest[place]),
                }
                for place, row in enumerate(rows)
            ]
    return found


_TARGETS: tuple[Target, ...] = ("pain", "no_pain", "contrastive")
assert _TARGETS == CELL_TARGETS  # noqa: S101 - the registry's words as the models type them


def _sum_rows(lake: Lake, pending: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of `cell_sums` of some knees, bone by bone."""
    out = []
    by_bone: dict[str, list[Row]] = {}
    for row in pending:
        by_bone.setdefault(row["bone"], []).append(row)
    for bone, rows in by_bone.items():
        grids = [_grids(row) for row in rows]
        for row, sums in zip(rows, knee_cell_sums(lake, bone, rows, grids), strict=True):
            for (biomarker, compartment), found in sums.items():
                n_phi, n_theta = found.value_sum.shape
                out.append(
                    {
                        **{name: row[name] for name in _KEY},
                        "bone": bone,
                        "biomarker": biomarker,
                        "compartment": compartment,
                        "n_phi": n_phi,
                        "n_theta": n_theta,
                        **{name: values.ravel().tolist() for name, values in asdict(found).items()},
                        "input_fingerprint": row["input_fingerprint"],
                    }
                )
    return out


def _grids(row: Row) -> dict[str, Grid]:
    """The grid of each biomarker's model that explains a knee."""
    of_strategy = {"thickness": row["thickness_grid"], "t2": row["t2_grid"]}
    return {
        name: (int(grid[0]), int(grid[1]))
        for name, strategy in SINGLE_STRATEGY.items()
        if (grid := of_strategy[strategy]) is not None
    }


def knee_cell_sums(
    lake: Lake,
    bone: str,
    knees: Sequence[Row],
    grids: Sequence[Mapping[str, Grid]],
    compartments: Sequence[str] = COMPARTMENTS,
) -> Iterator[dict[tuple[str, str], CellSums]]:
    """What the cells of given grids see of some knees' maps, knee by knee in their order.

    Args:
        lake: with the maps.
        bone: whose maps.
        knees: with `knee_visit`, `part` and `row` as `maps_index` has them; any number.
        grids: of each knee, the biomarkers wanted and the grid of each.
        compartments: wanted.

    Yields:
        by biomarker and compartment.

    Raises:
        LakeError: a knee whose maps are gone.
    """
    for first in range(0, len(knees), MAP_ROWS):
        some, their = knees[first : first + MAP_ROWS], grids[first : first + MAP_ROWS]
        regions = knee_regions(lake, bone, [row["knee_visit"] for row in some])
        maps: list[dict[str, NDArray[np.floating]]] = [{} for _ in some]
        for biomarker in WEIGHTED_BIOMARKERS:
            have = [place for place, wanted in enumerate(their) if biomarker in wanted]
            if have:
                places = [(some[place]["part"], int(some[place]["row"])) for place in have]
                for place, values in zip(
                    have, read_rows(lake.root, biomarker, places), strict=True
                ):
                    maps[place][biomarker] = values
        for row, of_knee, wanted in zip(some, maps, their, strict=True):
            region = regions[row["knee_visit"]]
            yield {
                (biomarker, compartment): sums
                for biomarker, values in of_knee.items()
                for compartment, sums in _by_compartment(
                    values, region, wanted[biomarker], compartments
                ).items()
            }


def _by_compartment(
    values: NDArray[np.floating], region: MapRegions, grid: Grid, compartments: Sequence[str]
) -> dict[str, CellSums]:
    """Sums of the compartments asked for; the whole bone is its two sides together."""
    if tuple(compartments) == ("whole",):
        [whole] = cell_sums(values, region.shown[None], region.area_mm2, grid)
        return {"whole": whole}
    sides = np.stack([region.shown & region.medial, region.shown & ~region.medial])
    medial, lateral = cell_sums(values, sides, region.area_mm2, grid)
    found = {"whole": added([medial, lateral]), "medial": medial, "lateral": lateral}
    return {name: found[name] for name in compartments}
