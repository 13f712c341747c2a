"""Maps of every matched knee at the atlas's points: biomarkers, and Grad-CAM for both classes.

A map is read where the correspondence says each point of the atlas lies, so map, knee surface and
atlas are one step. Pending is what can be read and is not there with the same inputs and code.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.atlas import read_on_atlas
from imaging.labels import Bone
from imaging.sphere import FRAMES
from lake.arrays import read_rows
from lake.store import Lake
from models.cam_views import rectified, upsampled
from pipeline.config import CODE_VERSION, Step
from pipeline.ingest import Progress
from pipeline.steps import BATCH_KNEES, one_ahead

STEP: Step = "atlas_maps"
_CLASS = {"cam_no_pain": 0, "cam_pain": 1}
"""Index of a quantity's class in the stored Grad-CAM."""

Row = Mapping[str, Any]
_KEYS = (
    "knee_visit", "subject_id", "side", "timepoint", "bone", "biomarker", "quantity", "atlas_id",
    "input_fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class AtlasMapReport:
    """What was done for a visit.

    Attributes:
        timepoint: the visit.
        n_pending: maps that were pending, all of them read now.
        n_knee_visits: of so many knee-visits.
        seconds: it took.
        batch_id: the last batch written; None where nothing was.
    """

    timepoint: str
    n_pending: int
    n_knee_visits: int
    seconds: float
    batch_id: str | None


def materialize_atlas_maps(
    lake: Lake, timepoint: str, *, progress: Progress | None = None
) -> AtlasMapReport:
    """Read every pending map of a visit at the atlas's points, 32 knees of a bone a batch.

    Raises:
        LakeError: a part that is gone.
        LakeBusyError: another process is writing to the lake.
    """
    start = time.perf_counter()
    version = CODE_VERSION[STEP]
    pending = lake.query(
        "association/pending_atlas_maps", {"timepoint": timepoint, "code_version": version}
    ).to_dicts()
    batch_id, done = None, 0
    for chunk, values in one_ahead(partial(_read, lake), _chunks(pending)):
        with lake.batch(STEP, timepoint, version, "") as batch:
            batch.add("atlas_maps", _frame(chunk, values))
        batch_id = batch.batch_id
        done += len(chunk)
        if progress is not None:
            progress(done, len(pending), f"maps of the {chunk[0]['bone']} on the atlas")
    knees = {row["knee_visit"] for row in pending}
    return AtlasMapReport(
        timepoint, len(pending), len(knees), time.perf_counter() - start, batch_id
    )


def _chunks(pending: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of one bone of up to 32 knees, in the rows' order."""
    by_bone: dict[str, dict[str, list[Row]]] = {}
    for row in pending:
        by_bone.setdefault(row["bone"], {}).setdefault(row["knee_visit"], []).append(row)
    for knees in by_bone.values():
        names = list(knees)
        for first in range(0, len(names), BATCH_KNEES):
            yield [row for name in names[first : first + BATCH_KNEES] for row in knees[name]]


def _read(lake: Lake, chunk: Sequence[Row]) -> NDArray[np.float32]:
    """Values of each row at the atlas's points, shape (n_row, n_vertex)."""
    bone: Bone = chunk[0]["bone"]
    knees = {row["knee_visit"]: row for row in chunk}
    places = [
        (row["correspondence_part"], int(row["correspondence_row"])) for row in knees.values()
    ]
    phi, theta = (read_rows(lake.root, name, places) for name in ("phi", "theta"))
    place_of = {name: place for place, name in enumerate(knees)}
    out = np.empty((len(chunk), phi.shape[1]), np.float32)
    # Each variable of the parts is read once.
    groups: dict[tuple[bool, str], list[int]] = {}
    for index, row in enumerate(chunk):
        # A strategy may be called as a biomarker is.
        of_cam = row["strategy"] is not None
        groups.setdefault((of_cam, row["strategy"] or row["biomarker"]), []).append(index)
    for (_, variable), indices in groups.items():
        found = read_rows(
            lake.root, variable, [(chunk[i]["part"], int(chunk[i]["row"])) for i in indices]
        )
        for index, stored in zip(indices, found, strict=True):
            row = chunk[index]
            at = place_of[row["knee_visit"]]
            out[index] = _on_atlas(stored, row["quantity"], bone, phi[at], theta[at])
    return out


def _on_atlas(
    stored: NDArray[np.floating],
    quantity: str,
    bone: Bone,
    phi: NDArray[np.floating],
    theta: NDArray[np.floating],
) -> NDArray[np.float64]:
    if quantity == "value":
        return read_on_atlas(stored, bone, phi, theta)
    frame = FRAMES[bone]
    evidence = rectified(stored[_CLASS[quantity]].astype(np.float64))
    image = upsampled(evidence, (len(frame.phi), len(frame.theta)))
    # Bicubic reading overshoots by a little where the enlarged map has a kink.
    return np.clip(read_on_atlas(image, bone, phi, theta), image.min(), image.max())


def _frame(chunk: Sequence[Row], values: NDArray[np.float32]) -> pl.DataFrame:
    """The rows of the table; NaN becomes NULL inside the lists."""
    lists = pl.Series("values", values, dtype=pl.Array(pl.Float32, values.shape[1]))
    return pl.DataFrame([{name: row[name] for name in _KEYS} for row in chunk]).with_columns(
        lists.arr.to_list().list.eval(pl.element().fill_nan(None))
    )
