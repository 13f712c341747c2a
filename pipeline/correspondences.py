"""Where the atlas's points lie on every test knee: one pass per knee-visit, one bad knee at a time.

Pending is what the ledger does not list with the same maps, atlas, options and code. A knee whose
bone cannot be matched is quarantined with its reason and takes part in no comparison.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imaging.atlas import (
    AtlasPoints,
    PreparedAtlas,
    match_to_atlas,
    options_of,
    prepare_atlas,
)
from imaging.labels import BONES, Bone
from lake.arrays import ArrayPart, Variable, read_rows
from lake.errors import LakeError
from lake.store import Lake
from pipeline.atlas import atlas_ids, read_atlas
from pipeline.cluster import Cluster
from pipeline.config import CODE_VERSION, Step
from pipeline.ingest import Progress, unexpected
from pipeline.steps import BATCH_KNEES, StepReport

STEP: Step = "correspondence"
Visits = Literal["first", "all"]
QUALITY = (
    "distance_mm",
    "distance_p95_mm",
    "unmatched_share",
    "flipped_share",
    "log_area_sd",
    "energy",
    "scale",
    "rotation_deg",
)
"""Numbers of `imaging.correspondence.CorrespondenceQuality` that the table keeps."""

Row = Mapping[str, Any]
_Place = tuple[str, int, tuple[float, float, float]]


@dataclass(frozen=True)
class _Job:
    """A knee-visit to match, as a worker gets it."""

    root: Path
    atlas_ids: tuple[str, ...]
    knee_visit: str
    places: Mapping[Bone, _Place]


@dataclass(frozen=True, eq=False)
class _Matched:
    """The atlas's points on the bones of a knee, and how long it took."""

    points: Mapping[Bone, AtlasPoints]
    seconds: float


def materialize_correspondences(
    lake: Lake,
    timepoint: str,
    *,
    visits: Visits = "first",
    cluster: Cluster,
    progress: Progress | None = None,
) -> StepReport:
    """Match every pending test knee of a visit with the atlas.

    Args:
        lake: with the atlas and maps; receives `correspondences`.
        timepoint: the visit.
        visits: 'first', each patient's first visit in the cohort (the paper), or 'all'.
        cluster: where the knees are matched.
        progress: told each knee that is done.

    Raises:
        LakeError: there is no atlas.
        LakeBusyError: another process is writing to the lake.
    """
    start = time.perf_counter()
    ids = atlas_ids(lake)
    version, options = CODE_VERSION[STEP], _options_hash(ids)
    pending = lake.query(
        "association/pending_correspondences",
        {
            "timepoint": timepoint,
            "visits": visits,
            "config_hash": options,
            "code_version": version,
        },
    ).to_dicts()
    places = _places(lake, timepoint) if pending else {}
    jobs = [_Job(lake.root, ids, row["knee_visit"], places[row["knee_visit"]]) for row in pending]
    answers: dict[str, _Matched | Exception] = {}
    waiting = list(pending)
    batch_id, n_refused = None, 0
    for number, (job, answer) in enumerate(cluster.map(match_knee, jobs), 1):
        answers[job.knee_visit] = answer
        if progress is not None:
            progress(number, len(jobs), f"{job.knee_visit} matched with the atlas")
        while waiting and all(row["knee_visit"] in answers for row in waiting[:BATCH_KNEES]):
            chunk, waiting = waiting[:BATCH_KNEES], waiting[BATCH_KNEES:]
            found = [(row, answers.pop(row["knee_visit"])) for row in chunk]
            batch_id = _commit(lake, timepoint, found, ids, options)
            n_refused += sum(not isinstance(one, _Matched) for _, one in found)
    return StepReport(
        STEP,
        timepoint,
        len(pending),
        len(pending) - n_refused,
        n_refused,
        time.perf_counter() - start,
        batch_id,
    )


def _options_hash(atlas_ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(atlas_ids)).encode()).hexdigest()


def _places(lake: Lake, timepoint: str) -> dict[str, dict[Bone, _Place]]:
    """Where the maps of each knee lie, and their centres."""
    rows = lake.sql(
        "SELECT knee_visit, bone, part, row, centroid_x_mm, centroid_y_mm, centroid_z_mm "
        "FROM maps_index WHERE timepoint = $timepoint",
        {"timepoint": timepoint},
    ).rows()
    found: dict[str, dict[Bone, _Place]] = {}
    for knee_visit, bone, part, row, x, y, z in rows:
        found.setdefault(knee_visit, {})[bone] = (part, int(row), (x, y, z))
    return found


@lru_cache(maxsize=1)
def _prepared(root: Path, atlas_ids: tuple[str, ...]) -> dict[Bone, PreparedAtlas]:
    """In a worker: the atlas, made ready once."""
    atlas = read_atlas(Lake(root))
    if tuple(atlas[bone].atlas_id for bone in BONES) != atlas_ids:
        raise LakeError("the atlas changed while knees were matched with it; run again")
    return {
        bone: prepare_atlas(atlas[bone].surface, options_of(bone), atlas[bone].is_cartilage)
        for bone in BONES
    }


def match_knee(job: _Job) -> _Matched:
    """In a worker: the bones of one knee.

    Raises:
        BadInputError: BAD_SURFACE, a bone that cannot be matched.
    """
    start = time.perf_counter()
    atlas = _prepared(job.root, job.atlas_ids)
    points = {}
    for bone in BONES:
        if bone not in job.places:
            continue
        part, row, centroid = job.places[bone]
        rho = read_rows(job.root, "bone_shape", [(part, row)])[0]
        points[bone] = match_to_atlas(
            atlas[bone], rho, bone, np.array(centroid), name=f"{bone} of {job.knee_visit}"
        )
    return _Matched(points, time.perf_counter() - start)


def _commit(
    lake: Lake,
    timepoint: str,
    chunk: Sequence[tuple[Row, _Matched | Exception]],
    ids: Sequence[str],
    options: str,
) -> str | None:
    """One batch: angles, quality, refusals and the ledger."""
    with lake.batch(STEP, timepoint, CODE_VERSION[STEP], options) as batch:
        for bone, atlas_id in zip(BONES, ids, strict=True):
            matched = [
                (row, answer.points[bone])
                for row, answer in chunk
                if isinstance(answer, _Matched) and bone in answer.points
            ]
            if matched:
                relative = batch.add_array_part("correspondences", _part(bone, atlas_id, matched))
                batch.add(
                    "correspondences",
                    [
                        _row(row, bone, atlas_id, points, relative, place)
                        for place, (row, points) in enumerate(matched)
                    ],
                )
        refused = [(row, one) for row, one in chunk if isinstance(one, Exception)]
        if refused:
            batch.add("quarantine", [_refusal(row, error) for row, error in refused])
        batch.add("ledger", [_ledger_row(row, answer) for row, answer in chunk])
    return batch.batch_id


def _part(bone: Bone, atlas_id: str, matched: Sequence[tuple[Row, AtlasPoints]]) -> ArrayPart:
    def variable(name: str, long_name: str) -> Variable:
        values = np.stack([getattr(points, name) for _, points in matched]).astype(np.float32)
        return Variable(values, ("knee", "vertex"), {"units": "rad", "long_name": long_name})

    return ArrayPart(
        bone,
        tuple(row["knee_visit"] for row, _ in matched),
        {
            "phi": variable("phi", "elevation of the atlas's points on the knee's map"),
            "theta": variable("theta", "angle of the atlas's points on the knee's map"),
        },
        {"atlas_id": atlas_id, "code_version": CODE_VERSION[STEP]},
        knees_per_chunk=len(matched),
    )


def _key(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")}


def _row(
    row: Row, bone: Bone, atlas_id: str, points: AtlasPoints, part: str, place: int
) -> dict[str, Any]:
    quality = dataclasses.asdict(points.quality)
    return {
        **_key(row),
        "bone": bone,
        "atlas_id": atlas_id,
        "part": part,
        "row": place,
        **{name: float(quality[name]) for name in QUALITY},
        "lost_share": float(np.isnan(points.phi).mean()),
    }


def _refusal(row: Row, error: Exception) -> dict[str, Any]:
    told = unexpected(error, row["knee_visit"])
    return {
        **_key(row),
        "stage": STEP,
        "file": told.file,
        "reason": str(told.reason),
        "what": told.what,
        "remedy": told.remedy,
        "input_fingerprint": row["input_fingerprint"],
    }


def _ledger_row(row: Row, answer: _Matched | Exception) -> dict[str, Any]:
    done = isinstance(answer, _Matched)
    return {
        "knee_visit": row["knee_visit"],
        "step": STEP,
        "input_fingerprint": row["input_fingerprint"],
        "status": "done" if done else "quarantined",
        "seconds": answer.seconds if isinstance(answer, _Matched) else 0.0,
    }
