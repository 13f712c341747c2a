"""Maps to 8-bit image planes, and the planes of many knees as one resident bank.

Five planes a bone are stored once; the six strategies are gathers over them. Images are appended
as visits arrive: the ledger keys on the maps' content, the set of ranges and the code, so a second
run does nothing, a new visit is one visit of work, and a killed run goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadInputError, Reason
from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES, MAP_SIZE
from lake.arrays import ArrayPart, Variable, read_rows
from lake.errors import LakeError
from lake.store import Lake
from models.normalization import to_levels
from models.strategies import PLANES
from pipeline.config import CODE_VERSION, Step
from pipeline.ingest import Progress
from pipeline.map_ranges import RangeSet, current_ranges
from pipeline.steps import BATCH_KNEES, StepReport

if TYPE_CHECKING:
    from models.bank import ImageBank

STEP: Step = "images"
PLANES_VARIABLE = "planes"
REQUIRED_PLANES = ("bone_shape", "cartilage_thickness")
T2_PLANES = ("t2_deep", "t2_superficial", "t2_mean")

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Scaled:
    """One map of several knees in 8 bits, and what of it lay beyond the range."""

    levels: NDArray[np.uint8]
    has_values: NDArray[np.bool_]
    below_share: NDArray[np.float64]
    above_share: NDArray[np.float64]


def images_config_hash(ranges: RangeSet) -> str:
    """Hash of what images depend on besides the maps."""
    return hashlib.sha256(json.dumps({"ranges_id": ranges.ranges_id}).encode()).hexdigest()


def materialize_images(
    lake: Lake,
    timepoint: str,
    *,
    ranges: RangeSet | None = None,
    progress: Progress | None = None,
) -> StepReport:
    """Turn every pending knee's maps of a visit into 8-bit planes, 32 knee-visits a batch.

    A knee without MSME gets black T2 planes and says so (`has_t2`); one whose bone shape or
    thickness is empty is quarantined.

    Args:
        lake: where the maps are.
        timepoint: the visit.
        ranges: to scale by; None for the set of `map_ranges` that counts.
        progress: told after each batch.

    Raises:
        LakeError: no ranges were ever fitted.
        LakeBusyError: another process is writing to the lake.
    """
    start = time.perf_counter()
    ranges = ranges or current_ranges(lake)
    if ranges is None:
        raise LakeError("there are no map ranges to scale images by; materialize map_ranges")
    config_hash, version = images_config_hash(ranges), CODE_VERSION[STEP]
    pending = lake.pending(STEP, config_hash, version, timepoint).to_dicts()
    places = _places(lake, timepoint) if pending else {}
    batch_id, n_refused = None, 0
    for first in range(0, len(pending), BATCH_KNEES):
        chunk = pending[first : first + BATCH_KNEES]
        chunk_start = time.perf_counter()
        maps = {bone: _read_bone(lake.root, bone, chunk, places) for bone in BONES}
        refused = _refused(maps)
        parts = [_bone_part(bone_maps, refused, ranges) for bone_maps in maps.values()]
        seconds = (time.perf_counter() - chunk_start) / len(chunk)
        with lake.batch(STEP, timepoint, version, config_hash) as batch:
            for part, rows in (made for made in parts if made is not None):
                relative = batch.add_array_part("image_index", part)
                batch.add("image_index", [{**row, "part": relative} for row in rows])
            if refused:
                batch.add("quarantine", [_refusal(row, refused[row["knee_visit"]]) for row in chunk
                                         if row["knee_visit"] in refused])  # fmt: skip
            batch.add("ledger", [_ledger_row(row, refused, seconds) for row in chunk])
        batch_id, n_refused = batch.batch_id, n_refused + len(refused)
        if progress is not None:
            progress(first + len(chunk), len(pending), f"images of {chunk[-1]['knee_visit']}")
    return StepReport(
        STEP,
        timepoint,
        len(pending),
        len(pending) - n_refused,
        n_refused,
        time.perf_counter() - start,
        batch_id,
    )


Places = Mapping[tuple[str, str], tuple[str, int]]
"""Part and row by knee-visit and bone."""


def _places(lake: Lake, timepoint: str) -> Places:
    rows = lake.sql(
        "SELECT knee_visit, bone, part, row FROM maps_index WHERE timepoint = $timepoint",
        {"timepoint": timepoint},
    ).rows()
    return {(knee_visit, bone): (part, row) for knee_visit, bone, part, row in rows}


@dataclass(frozen=True, eq=False)
class _BoneMaps:
    """The maps of one bone of those knee-visits that have any."""

    bone: Bone
    rows: Sequence[Row]
    maps: Mapping[str, NDArray[np.float32]]


def _read_bone(root: Path, bone: Bone, chunk: Sequence[Row], places: Places) -> _BoneMaps:
    rows = [row for row in chunk if (row["knee_visit"], bone) in places]
    found = [places[row["knee_visit"], bone] for row in rows]
    maps = {plane: read_rows(root, plane, found) for plane in PLANES} if rows else {}
    for plane, values in maps.items():
        if values.shape[1:] != (MAP_SIZE, MAP_SIZE):
            raise LakeError(
                f"{plane} of {found[0][0]} has {values.shape[1]} x {values.shape[2]} pixels; "
                f"images are made of maps of {MAP_SIZE} x {MAP_SIZE}"
            )
    return _BoneMaps(bone, rows, maps)


def _refused(maps: Mapping[Bone, _BoneMaps]) -> dict[str, BadInputError]:
    """Knee-visits with a map that has to be there and is empty."""
    refused: dict[str, BadInputError] = {}
    for bone, found in maps.items():
        for plane in REQUIRED_PLANES if found.rows else ():
            for row, values in zip(found.rows, found.maps[plane], strict=True):
                if not np.isfinite(values).any():
                    refused[row["knee_visit"]] = BadInputError(
                        Reason.EMPTY_MAP,
                        f"maps of {row['knee_visit']}",
                        f"have no value of {plane} anywhere on the {bone}",
                        "Look at the knee's label and correct it, or leave the knee out",
                    )
    return refused


def _scale(values: NDArray[np.float32], ranges: RangeSet, bone: Bone, plane: str) -> _Scaled:
    has_values = np.asarray(np.isfinite(values).any(axis=(1, 2)))
    scale = ranges.ranges.get((bone, plane))
    if scale is None:
        if has_values.any():
            raise LakeError(
                f"set {ranges.ranges_id} of map_ranges has none for {plane} of the {bone}, since "
                "no knee had that map when it was fitted; fit anew (refit)"
            )
        nothing = np.zeros(len(values))
        return _Scaled(np.zeros(values.shape, np.uint8), has_values, nothing, nothing)
    n = np.maximum(np.isfinite(values).sum(axis=(1, 2)), 1)
    with np.errstate(invalid="ignore"):
        below = (values < scale.minimum).sum(axis=(1, 2)) / n
        above = (values > scale.maximum).sum(axis=(1, 2)) / n
    return _Scaled(to_levels(values, scale), has_values, below, above)


def _bone_part(
    maps: _BoneMaps, refused: Mapping[str, BadInputError], ranges: RangeSet
) -> tuple[ArrayPart, list[Row]] | None:
    """The planes of one bone of some knees, and their rows of `image_index` but for the part."""
    bone = maps.bone
    kept = [place for place, row in enumerate(maps.rows) if row["knee_visit"] not in refused]
    if not kept:
        return None
    with_bone = [maps.rows[place] for place in kept]
    scaled = {plane: _scale(maps.maps[plane][kept], ranges, bone, plane) for plane in PLANES}
    planes = np.stack([scaled[plane].levels for plane in PLANES], axis=1)
    frame = FRAMES[bone]
    part = ArrayPart(
        bone,
        tuple(row["knee_visit"] for row in with_bone),
        {
            PLANES_VARIABLE: Variable(
                planes,
                ("knee", "plane", "phi", "theta"),
                {"units": "1", "long_name": "map in 8 bits; 0 also where there is no value"},
            ),
            "phi": Variable(frame.phi, ("phi",), {"units": "rad"}),
            "theta": Variable(frame.theta, ("theta",), {"units": "rad"}),
        },
        {
            "planes": list(PLANES),
            "ranges_id": ranges.ranges_id,
            "ranges": {
                plane: [scale.minimum, scale.maximum]
                for (of_bone, plane), scale in sorted(ranges.ranges.items())
                if of_bone == bone
            },
            "code_version": CODE_VERSION[STEP],
        },
        # A bank reads whole parts: one piece of 8 MB is read at disk speed.
        knees_per_chunk=len(with_bone),
    )
    index = [
        {
            **{name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")},
            "bone": bone,
            "row": place,
            "ranges_id": ranges.ranges_id,
            "has_t2": all(bool(scaled[plane].has_values[place]) for plane in T2_PLANES),
            "below_share": max(float(one.below_share[place]) for one in scaled.values()),
            "above_share": max(float(one.above_share[place]) for one in scaled.values()),
        }
        for place, row in enumerate(with_bone)
    ]
    return part, index


def _ledger_row(row: Row, refused: Mapping[str, BadInputError], seconds: float) -> Row:
    return {
        "knee_visit": row["knee_visit"],
        "step": STEP,
        "input_fingerprint": row["input_fingerprint"],
        "status": "quarantined" if row["knee_visit"] in refused else "done",
        "seconds": seconds,
    }


def _refusal(row: Row, error: BadInputError) -> Row:
    return {
        **{name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")},
        "stage": STEP,
        "file": error.file,
        "reason": str(error.reason),
        "what": error.what,
        "remedy": error.remedy,
        "input_fingerprint": row["input_fingerprint"],
    }


def open_bank(
    lake: Lake,
    bone: Bone,
    knee_visits: Sequence[str] | None = None,
    device: str = "cpu",
) -> "ImageBank":
    """The images of a bone, all of them or those of some knee-visits, on a device.

    Args:
        lake: where they are.
        bone: which bone.
        knee_visits: whose, in this order; None for every knee-visit with images, by name.
        device: where to hold them.

    Raises:
        LakeError: no images, a knee-visit without any, or images scaled by different ranges.
    """
    import torch

    from models.bank import ImageBank

    rows = lake.sql(
        "SELECT knee_visit, part, row, ranges_id FROM image_index WHERE bone = $bone "
        "AND ($wanted::VARCHAR[] IS NULL OR list_contains($wanted, knee_visit)) "
        "ORDER BY knee_visit",
        {"bone": bone, "wanted": None if knee_visits is None else list(knee_visits)},
    ).to_dicts()
    by_name = {row["knee_visit"]: row for row in rows}
    names = list(by_name) if knee_visits is None else list(knee_visits)
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        whose = f" of {', '.join(missing[:3])}" if missing else ""
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise LakeError(
            f"there are no images of the {bone}{whose}{more}; materialize training_images"
        )
    sets = sorted({row["ranges_id"] for row in rows})
    if len(sets) > 1:
        raise LakeError(
            f"the images of the {bone} are scaled by {len(sets)} sets of map_ranges "
            f"({', '.join(sets)}); materialize training_images of every visit"
        )
    places = [(by_name[name]["part"], int(by_name[name]["row"])) for name in names]
    planes = torch.from_numpy(read_rows(lake.root, PLANES_VARIABLE, places))
    return ImageBank(bone, tuple(names), planes.to(device))
