"""Every classifier on every knee-visit: predictions, Grad-CAM maps and their numbers.

One forward pass gives the logits and both classes' maps (at a block before the last with a backward
pass per class down to it), so they are computed and committed together. Pending is a model on an
image without a row of the same fingerprint: a new visit costs its own knees, a model trained anew
its own predictions, and a second run nothing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.compartments import medial_pixels
from imaging.labels import Bone
from imaging.sphere import FRAMES, surface_points
from lake.arrays import ArrayPart, Variable, read_rows
from lake.errors import LakeError
from lake.keys import TIMEPOINTS
from lake.store import Lake
from models.cam_biomarkers import MapRegions, cam_numbers, cell_centres
from models.checkpoint import load_checkpoint
from models.gradcam import LAST_BLOCK, TARGETS, Explanation, target_of
from models.normalization import ChannelNormalization
from models.prediction import Predicted, predict
from models.training_config import Precision
from pipeline.cluster import Cluster
from pipeline.config import CODE_VERSION, Settings, Step
from pipeline.model_data import cached_bank, chosen_device

if TYPE_CHECKING:
    from pipeline.ingest import Progress

STEP: Step = "predictions"
SPLITS = ("training", "validation", "test")
COMMIT_CASES = 4000
"""Model-knee-visits after which whole bones are committed: what a kill can cost."""
PARALLEL_CASES = 4000
"""From here on processes pay: each takes about five seconds to import its libraries."""

Row = Mapping[str, Any]
Key = tuple[str, str, str]
"""Task, bone, strategy."""


@dataclass(frozen=True)
class PredictionOptions:
    """What is computed.

    Attributes:
        cam_splits: splits whose maps are kept; the paper explains its test split.
        precision: of the convolutions.
    """

    cam_splits: tuple[str, ...] = ("test",)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.cam_splits) - set(SPLITS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no split; use {', '.join(SPLITS)}")


@dataclass(frozen=True)
class PredictionReport:
    """What was done for a visit. Counts are of models on knee-visits.

    Attributes:
        timepoint: the visit.
        n_pending: pending.
        n_predicted: predictions written.
        n_cams: maps written.
        failed: models that could not be applied, and why; they stay pending.
        seconds: the whole took.
        batch_id: the last batch written; None where nothing was.
    """

    timepoint: str
    n_pending: int
    n_predicted: int
    n_cams: int
    failed: tuple[tuple[Key, str], ...]
    seconds: float
    batch_id: str | None


@dataclass(frozen=True)
class _Job:
    """A model on its pending knee-visits, as a worker gets it."""

    root: Path
    key: Key
    path: str
    checkpoint_hash: str
    knee_visits: tuple[str, ...]
    bank_knee_visits: tuple[str, ...]
    precision: Precision
    explanation: Explanation
    device: str


@dataclass(frozen=True, eq=False)
class _Answered:
    """Pending rows of a model and what it says of them, in the same order."""

    key: Key
    rows: Sequence[Row]
    predicted: Predicted


def materialize_predictions(
    lake: Lake,
    settings: Settings,
    timepoint: str,
    *,
    options: PredictionOptions | None = None,
    cluster: Cluster,
    progress: "Progress | None" = None,
) -> PredictionReport:
    """Predict and explain every pending knee-visit of a visit with every classifier in use.

    Args:
        lake: holds classifiers and images, and receives the results.
        settings: the device, and how evidence is read.
        timepoint: the visit.
        options: what is computed; the paper's where None.
        cluster: of the processes, where there is enough to do on a CPU.
        progress: told each model that is done.

    Raises:
        LakeError: no such visit.
        LakeBusyError: another process is writing to the lake.
    """
    if timepoint not in TIMEPOINTS:
        raise LakeError(f"{timepoint} is not a visit; use one of {', '.join(TIMEPOINTS)}")
    start = time.perf_counter()
    options = options or PredictionOptions()
    pending = lake.query(
        "learning/pending_predictions",
        {
            "timepoint": timepoint,
            "cam_splits": list(options.cam_splits),
            "computed_as": computed_as(options.precision, settings.explanation),
            "code_version": CODE_VERSION[STEP],
        },
    ).to_dicts()
    by_model: dict[Key, list[Row]] = {}
    for row in pending:
        by_model.setdefault((row["task"], row["bone"], row["strategy"]), []).append(row)
    device = chosen_device(settings) if pending else "cpu"
    jobs = _jobs(lake.root, by_model, options, settings.explanation, device)
    counts = {"predictions": 0, "cam_index": 0}
    failed: list[tuple[Key, str]] = []
    ready: list[_Answered] = []
    batch_id = None
    for number, (job, answer) in enumerate(_answers(jobs, cluster, device), 1):
        if isinstance(answer, Predicted):
            ready.append(_Answered(job.key, by_model[job.key], answer))
        else:
            failed.append((job.key, answer))
        if progress is not None:
            progress(number, len(jobs), f"predictions of {' '.join(job.key)}")
        is_last_of_bone = number == len(jobs) or jobs[number].key[1] != job.key[1]
        n_ready = sum(len(one.rows) for one in ready)
        if ready and (number == len(jobs) or (is_last_of_bone and n_ready >= COMMIT_CASES)):
            batch_id = _commit(lake, settings, timepoint, ready, options, counts)
            ready = []
    return PredictionReport(
        timepoint,
        len(pending),
        counts["predictions"],
        counts["cam_index"],
        tuple(failed),
        time.perf_counter() - start,
        batch_id,
    )


def _jobs(
    root: Path,
    by_model: Mapping[Key, Sequence[Row]],
    options: PredictionOptions,
    explanation: Explanation,
    device: str,
) -> list[_Job]:
    """The models' jobs, bone by bone, so that a bone's images are read once."""
    of_bone: dict[str, set[str]] = {}
    for (_, bone, _), rows in by_model.items():
        of_bone.setdefault(bone, set()).update(row["knee_visit"] for row in rows)
    banks = {bone: tuple(sorted(names)) for bone, names in of_bone.items()}
    return [
        _Job(
            root,
            key,
            rows[0]["path"],
            rows[0]["checkpoint_hash"],
            tuple(row["knee_visit"] for row in rows),
            banks[key[1]],
            options.precision,
            explanation,
            device,
        )
        for key, rows in sorted(by_model.items(), key=lambda item: (item[0][1], item[0]))
    ]


def _answers(
    jobs: Sequence[_Job], cluster: Cluster, device: str
) -> Iterator[tuple[_Job, Predicted | str]]:
    """Each model's predictions, or what went wrong, in the order of the jobs."""
    n_cases = sum(len(job.knee_visits) for job in jobs)
    used = cluster if device == "cpu" and n_cases >= PARALLEL_CASES else Cluster()
    ready: dict[Key, Predicted | str] = {}
    waiting = list(jobs)
    for job, answer in used.map(_predict_job, jobs):
        ready[job.key] = str(answer) if isinstance(answer, Exception) else answer
        while waiting and waiting[0].key in ready:
            first = waiting.pop(0)
            yield first, ready.pop(first.key)


def _predict_job(job: _Job) -> Predicted | str:
    """In a worker: one network on its knee-visits. A message where it cannot be."""
    import torch

    _, bone, strategy = job.key
    try:
        network, metadata = load_checkpoint(job.root / job.path, expected_hash=job.checkpoint_hash)
        found = (metadata.task, metadata.bone, metadata.strategy)
        if found != job.key:
            return f"{job.path} is the model of {' '.join(found)}, not of {' '.join(job.key)}"
        bank = cached_bank(job.root, _bone(bone), job.bank_knee_visits, job.device)
        with _one_thread():
            return predict(
                network.to(job.device),
                bank,
                bank.rows_of(job.knee_visits),
                strategy,
                normalization=ChannelNormalization(
                    **{name: tuple(metadata.normalization[name]) for name in ("mean", "sd")}
                ),
                precision=job.precision,
                explanation=job.explanation,
            )
    except (ValueError, LakeError, torch.OutOfMemoryError) as error:
        return str(error)


def _bone(name: str) -> Bone:
    return next(bone for bone in FRAMES if bone == name)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Another number of threads changes the last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def computed_as(precision: Precision, explanation: Explanation) -> str:
    """What predictions depend on besides networks and images.

    Raising `CODE_VERSION` is for what changes the numbers of one and the same choice.
    """
    return " ".join([precision, *explanation.in_fingerprints])


def _commit(
    lake: Lake,
    settings: Settings,
    timepoint: str,
    answered: Sequence[_Answered],
    options: PredictionOptions,
    counts: dict[str, int],
) -> str | None:
    """One batch of predictions, maps and numbers; its id."""
    tables: dict[str, list[dict[str, Any]]] = {
        "predictions": [row for one in answered for row in _prediction_rows(one)]
    }
    explained = [one for one in (_of_cams(one) for one in answered) if one.rows]
    regions = {
        bone: knee_regions(lake, bone, _names(explained, bone))
        for bone in sorted({one.key[1] for one in explained})
    }
    tables["cam_biomarkers"] = [
        row for one in explained for row in _number_rows(one, regions[one.key[1]])
    ]
    version = CODE_VERSION[STEP]
    made = computed_as(options.precision, settings.explanation)
    with lake.batch(STEP, timepoint, version, made) as batch:
        for part, models in _parts(explained, options, settings.explanation):
            relative = batch.add_array_part("cam_index", part)
            for one in models:
                tables.setdefault("cam_index", []).extend(
                    {**_key(row), "part": relative, "row": place}
                    for place, row in enumerate(one.rows)
                )
        for name, rows in tables.items():
            if rows:
                batch.add(name, rows)
    for name in counts:
        counts[name] += len(tables.get(name, []))
    return batch.batch_id


def _names(answered: Sequence[_Answered], bone: str) -> list[str]:
    return sorted({row["knee_visit"] for one in answered if one.key[1] == bone for row in one.rows})


def _key(row: Row) -> dict[str, Any]:
    names = (
        "knee_visit",
        "subject_id",
        "side",
        "timepoint",
        "task",
        "bone",
        "strategy",
        "checkpoint_hash",
        "input_fingerprint",
    )
    return {name: row[name] for name in names}


def _prediction_rows(one: _Answered) -> Iterator[dict[str, Any]]:
    probability = one.predicted.probability
    for place, row in enumerate(one.rows):
        if row["needs_prediction"]:
            no, yes = (float(value) for value in one.predicted.logits[place])
            yield {
                **_key(row),
                "logit_no": no,
                "logit_yes": yes,
                "probability": float(probability[place]),
                "predicted": yes > no,
            }


def _of_cams(one: _Answered) -> _Answered:
    """The rows whose maps are wanted."""
    kept = [place for place, row in enumerate(one.rows) if row["needs_cam"]]
    found = Predicted(one.predicted.logits[kept], one.predicted.maps[kept])
    return _Answered(one.key, [one.rows[place] for place in kept], found)


def _parts(
    answered: Sequence[_Answered], options: PredictionOptions, explanation: Explanation
) -> Iterator[tuple[ArrayPart, list[_Answered]]]:
    """A part for the models of a task and bone that explain the same knees on the same grid."""
    groups: dict[Any, list[_Answered]] = {}
    for one in answered:
        names = tuple(row["knee_visit"] for row in one.rows)
        grid = one.predicted.maps.shape[2:]
        groups.setdefault((*one.key[:2], names, grid), []).append(one)
    for (task, bone, names, grid), models in groups.items():
        frame = FRAMES[bone]
        long_name = f"signed {explanation}"
        if explanation.layer == LAST_BLOCK:
            long_name += "; its sum and the bias of the class are the logit"
        variables = {
            one.key[2]: Variable(
                one.predicted.maps,
                ("knee", "target_class", "phi", "theta"),
                {
                    "units": "1",
                    "long_name": long_name,
                    "checkpoint_hash": one.rows[0]["checkpoint_hash"],
                },
            )
            for one in models
        }
        for name, centres, n_cells in (
            ("phi", frame.phi, grid[0]),
            ("theta", frame.theta, grid[1]),
        ):
            cells = cell_centres(centres[0], centres[-1], len(centres), n_cells)
            variables[name] = Variable(cells, (name,), {"units": "rad"})
        attributes = {
            "task": task,
            "target_class": ["no", "yes"],
            "precision": options.precision,
            "explanation": str(explanation),
            "code_version": CODE_VERSION[STEP],
        }
        # A knee is 200 bytes a model: they are read together.
        yield ArrayPart(bone, names, variables, attributes, knees_per_chunk=len(names)), models


def _number_rows(one: _Answered, regions: Mapping[str, MapRegions]) -> Iterator[dict[str, Any]]:
    frame = FRAMES[_bone(one.key[1])]
    maps = one.predicted.maps.astype(np.float32)
    by_target = [target_of(maps, target, one.predicted.logits) for target in TARGETS]
    for place, row in enumerate(one.rows):
        stacked = np.stack([of_target[place] for of_target in by_target])
        numbers = cam_numbers(stacked, regions[row["knee_visit"]], frame.phi, frame.theta)
        for target, found in zip(TARGETS, numbers, strict=True):
            yield {**_key(row), "target": target, **asdict(found)}


def knee_regions(lake: Lake, bone: str, knee_visits: Sequence[str]) -> dict[str, MapRegions]:
    """What the pixels of some knees' maps of a bone are, from the maps themselves.

    Raises:
        LakeError: a knee-visit whose maps are gone.
    """
    found = lake.sql(
        "SELECT knee_visit, part, row, centroid_x_mm, centroid_y_mm, centroid_z_mm FROM maps_index "
        "WHERE bone = $bone AND list_contains($wanted, knee_visit) ORDER BY knee_visit",
        {"bone": bone, "wanted": list(knee_visits)},
    ).rows()
    missing = sorted(set(knee_visits) - {row[0] for row in found})
    if missing:
        raise LakeError(
            f"there are no maps of the {bone} of {missing[0]} any more, of which there are images; "
            "materialize spherical_maps and training_images"
        )
    places = [(row[1], int(row[2])) for row in found]
    rho, coverage, area = (
        read_rows(lake.root, name, places) for name in ("bone_shape", "coverage", "surface_area")
    )
    return {
        row[0]: _regions(_bone(bone), rho[place], coverage[place] > 0, area[place], row[3:])
        for place, row in enumerate(found)
    }


def _regions(
    bone: Bone,
    rho_mm: NDArray[np.floating],
    coverage: NDArray[np.bool_],
    area_mm2: NDArray[np.floating],
    centroid_mm: Sequence[float],
) -> MapRegions:
    centre = np.asarray(centroid_mm, dtype=np.float64)
    points = surface_points(rho_mm, FRAMES[bone], centre)
    medial = medial_pixels(bone, points, coverage, float(centre[0]))
    return MapRegions(np.isfinite(rho_mm), medial, coverage, area_mm2)
