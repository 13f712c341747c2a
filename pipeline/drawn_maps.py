"""Maps drawn from the phantom's model into a lake, for people whose clinical tables are there.

To train a classifier takes hundreds of knees, and imaging hundreds of phantoms takes hours; drawing
their maps takes a minute. The people, their grades and their pain are those of the clinical tables;
how pronounced the planted change is follows from the pain label, so the best possible AUC is known.
Nothing is made up about scans or labels: a drawn knee-visit has none, and `drawn_knees` says so.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imaging.labels import BONES, COMPARTMENTS, Bone
from imaging.sphere import FRAMES
from lake.keys import BIOMARKER_UNITS
from lake.maps import MapKnee, MapPart
from lake.store import Lake
from phantom.map_cohort import DrawnKnee, DrawnMaps, PlantedEffect, draw_maps, own_amplitude
from phantom.planted_pain import PainModel
from phantom.reference_surface import reference_bone
from pipeline.ingest import Progress
from pipeline.steps import BATCH_KNEES

METHOD = "phantom_maps"
"""Method of a drawn knee's biomarkers, and the code version of its batches."""

_PAIN: Mapping[str, float] = {"chronic_pain": 1.0, "no_pain": 0.0}
_NEITHER = 0.5

Row = dict[str, Any]


@dataclass(frozen=True)
class DrawingPlan:
    """What is drawn.

    Attributes:
        seed: of the cohort, as given to `phantom.cohort.simulate_cohort`.
        pain: how the planted change belongs to chronic pain; separation 0 is the null.
        effect: what it does to the maps.
    """

    seed: int
    pain: PainModel = field(default_factory=PainModel)
    effect: PlantedEffect = field(default_factory=PlantedEffect)

    @property
    def config_hash(self) -> str:
        """Hash of all of it."""
        plain = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()


@dataclass(frozen=True)
class DrawnReport:
    """What was drawn.

    Attributes:
        n_knee_visit: knee-visits, all three bones each.
        seconds: it took.
    """

    n_knee_visit: int
    seconds: float


def knees_to_draw(
    lake: Lake,
    timepoint: str | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> list[Row]:
    """Knee-visits of the two tasks that have no maps, by name.

    Args:
        lake: with the clinical tables.
        timepoint: one visit; None for all.
        limit: at most so many; those of the chronic-pain task come first, then the first people.
        only: knee-visits to choose from; None for all.
    """
    rows = lake.sql(
        "SELECT knee_visit, subject_id, side, timepoint, pain_label FROM cohort_candidates "
        "ANTI JOIN maps_index USING (knee_visit) "
        "WHERE (exclusion IS NULL OR exclusion = 'pain_definition') "
        "AND ($timepoint::VARCHAR IS NULL OR timepoint = $timepoint) "
        "AND ($only::VARCHAR[] IS NULL OR list_contains($only, knee_visit)) "
        "ORDER BY exclusion IS NOT NULL, subject_id, timepoint LIMIT coalesce($n, 1000000)",
        {"timepoint": timepoint, "n": limit, "only": None if only is None else sorted(only)},
    ).to_dicts()
    return sorted(rows, key=lambda row: row["knee_visit"])


def land_drawn_maps(
    lake: Lake,
    plan: DrawingPlan,
    *,
    timepoint: str | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> DrawnReport:
    """Draw the maps of every knee-visit of the two tasks that has none, with their biomarkers.

    They count as any computed maps do; images delivered for such a knee-visit later replace them.

    Args:
        lake: with the clinical tables of the cohort of the plan's seed.
        plan: what to draw.
        timepoint: one visit; None for all.
        limit: see `knees_to_draw`.
        only: see `knees_to_draw`.
        progress: told after each batch.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    start = time.perf_counter()
    wanted = knees_to_draw(lake, timepoint, limit, only)
    done = 0
    for visit in sorted({row["timepoint"] for row in wanted}):
        of_visit = [row for row in wanted if row["timepoint"] == visit]
        for first in range(0, len(of_visit), BATCH_KNEES):
            chunk = of_visit[first : first + BATCH_KNEES]
            _land(lake, plan, visit, chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, len(wanted), f"maps of {chunk[-1]['knee_visit']} drawn")
    return DrawnReport(done, time.perf_counter() - start)


def _land(lake: Lake, plan: DrawingPlan, timepoint: str, chunk: Sequence[Row]) -> None:
    start = time.perf_counter()
    parts: dict[Bone, MapPart] = {}
    biomarkers: list[Row] = []
    truth: list[Row] = []
    for bone in BONES:
        drawn = draw_maps(plan.seed, [_knee(plan, row, bone) for row in chunk], bone, plan.effect)
        parts[bone] = _part(drawn, plan)
        biomarkers += _biomarkers(drawn, chunk)
        truth += [
            {
                **_key(row),
                "bone": bone,
                "seed": plan.seed,
                "pain_label": row["pain_label"],
                "amplitude": knee.amplitude,
                "separation": plan.pain.separation,
                "effect": json.dumps(dataclasses.asdict(plan.effect), sort_keys=True),
            }
            for row, knee in zip(chunk, drawn.knees, strict=True)
        ]
    seconds = (time.perf_counter() - start) / len(chunk)
    with lake.batch("maps", timepoint, METHOD, plan.config_hash) as batch:
        for bone, part in parts.items():
            batch.add_map_part(bone, part)
        batch.add("biomarkers", biomarkers)
        batch.add("drawn_knees", truth)
        batch.add("ledger", [_ledger_row(row, plan, seconds) for row in chunk])


def _key(row: Row) -> Row:
    return {name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")}


def _ledger_row(row: Row, plan: DrawingPlan, seconds: float) -> Row:
    inputs = "|".join([METHOD, row["knee_visit"], str(row["pain_label"]), plan.config_hash])
    return {
        "knee_visit": row["knee_visit"],
        "step": "maps",
        "input_fingerprint": hashlib.sha256(inputs.encode()).hexdigest(),
        "status": "done",
        "seconds": seconds,
    }


def _knee(plan: DrawingPlan, row: Row, bone: Bone) -> DrawnKnee:
    bare = DrawnKnee(row["subject_id"], row["side"], row["timepoint"])
    pain = np.array([_PAIN.get(row["pain_label"], _NEITHER)])
    own = np.array([own_amplitude(plan.seed, bare, bone)])
    return dataclasses.replace(bare, amplitude=float(plan.pain.amplitude(pain, own)[0]))


def _part(drawn: DrawnMaps, plan: DrawingPlan) -> MapPart:
    frame = FRAMES[drawn.bone]
    multi_hit_share = drawn.multi_hit.mean(axis=(1, 2))
    covered = (drawn.area_mm2 * drawn.coverage).sum(axis=(1, 2), dtype=np.float64)
    covered_share = covered / drawn.area_mm2.sum(axis=(1, 2), dtype=np.float64)
    knees = tuple(
        MapKnee(
            knee.knee_visit,
            knee.subject_id,
            knee.side,
            (float(centre[0]), float(centre[1]), float(centre[2])),
            knee.side == "LEFT",
            float(multi),
            # It is drawn on the map, so all of it is seen there.
            0.0,
            float(share),
        )
        for knee, centre, multi, share in zip(
            drawn.knees, drawn.centroid_mm, multi_hit_share, covered_share, strict=True
        )
    )
    return MapPart(
        drawn.bone,
        knees,
        frame.phi,
        frame.theta,
        drawn.maps,
        drawn.coverage,
        np.ascontiguousarray(drawn.multi_hit),
        drawn.area_mm2,
        {
            "axes": frame.axes.tolist(),
            "parameters": json.dumps(dataclasses.asdict(plan), sort_keys=True),
            "code_version": METHOD,
        },
    )


def _biomarkers(drawn: DrawnMaps, chunk: Sequence[Row]) -> list[Row]:
    """Area-weighted means of each map over whole, medial and lateral, as on a measured surface."""
    medial = reference_bone(drawn.bone).medial
    members = dict(zip(COMPARTMENTS, (np.ones_like(medial), medial, ~medial), strict=True))
    rows = []
    for biomarker in BIOMARKER_UNITS:
        for place, row in enumerate(chunk):
            values = drawn.maps[biomarker][place].astype(np.float64)
            area = drawn.area_mm2[place].astype(np.float64)
            for compartment, member in members.items():
                inside = member & np.isfinite(values)
                mean = float(np.average(values[inside], weights=area[inside]))
                variance = np.average((values[inside] - mean) ** 2, weights=area[inside])
                rows.append(
                    {
                        **_key(row),
                        "bone": drawn.bone,
                        "compartment": compartment,
                        "biomarker": biomarker,
                        "method": METHOD,
                        "is_default": True,
                        "mean": mean,
                        "sd": float(np.sqrt(variance)),
                        "n": int(inside.sum()),
                        "area_mm2": float(area[inside].sum()),
                    }
                )
    return rows
