"""Networks trained as controls of the DL-guided averages, and the averages by their Grad-CAM.

Two questions need networks of their own. Does an average weighted by the Grad-CAM of a network that
learned nothing true add as much (`permuted_labels`)? And does what a network finds in other people
still add (`cross_fitted`)? In the latter no participant's Grad-CAM comes from a network that was
trained or selected on that participant.

All begin with random weights: a network trained on osteoarthritis has seen people of the folds.
A group of networks (a control, bone and strategy) is trained where the lake has no averages of the
same images, labels, folds, choices and code, and is committed whole.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaging.labels import BONES, Bone
from lake import files
from lake.association_tables import CONTROLS, WEIGHTED_BIOMARKERS
from lake.errors import LakeError
from lake.store import Lake
from models.cam_cells import guided_average, rectified_cells
from models.errors import ModelError
from models.gradcam import Explanation, target_of
from models.initialization import Initialization
from models.prediction import predict
from models.training import Split, TrainingData, train
from models.training_config import TrainingConfig, preset
from pipeline.cluster import Cluster
from pipeline.config import CODE_VERSION, Settings, Step
from pipeline.guided import SINGLE_STRATEGY, knee_cell_sums
from pipeline.model_data import cached_bank, chosen_device

if TYPE_CHECKING:
    from pipeline.ingest import Progress

STEP: Step = "controls"
STATE_FOLDER = "training"
STATE_EVERY_S = 20.0
VALIDATION_EVERY = 4
"""Every fourth of the participants a network may see selects its epoch, as in the paper's split."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ControlOptions:
    """How control networks are trained.

    Attributes:
        training: of each network; it begins with random weights.
        n_folds: into which participants are cut for cross-fitting.
        seed: of folds and permutations.
        strategies: whose single models have controls: thickness, and T2 of every layer.
    """

    training: TrainingConfig
    n_folds: int
    seed: int = 0
    strategies: tuple[str, ...] = ("thickness", "t2")

    def __post_init__(self) -> None:
        if self.n_folds < 2:
            raise ModelError(f"n_folds = {self.n_folds}: use 2 or more")
        if self.training.initialization != "random":
            raise ModelError("control networks begin with random weights: others have seen people")


def options_of(name: str, seed: int = 0) -> ControlOptions:
    """The choices of a preset: that of the classifiers, begun with random weights.

    Args:
        name: 'demo', two folds and two epochs of a narrow network, of thickness alone; 'paper',
            five folds.
        seed: of folds, permutations and weights.

    Raises:
        ModelError: no such preset.
    """
    config = preset(name, "chronic_pain").changed(initialization="random", seed=seed)
    if name == "demo":
        # Of weights that have learned nothing yet, at the rate of the demo's first training.
        short = config.changed(
            learning_rate=preset("demo", "oa").learning_rate, max_epochs=2, patience=2
        )
        return ControlOptions(short, 2, seed, ("thickness",))
    return ControlOptions(config, 5, seed)


@dataclass(frozen=True)
class Group:
    """Networks whose averages belong together.

    Attributes:
        control: 'permuted_labels' or 'cross_fitted'.
        bone, strategy: what they see.
    """

    control: str
    bone: Bone
    strategy: str

    @property
    def name(self) -> str:
        """For people and messages."""
        return f"{self.control} {self.bone} {self.strategy}"

    @property
    def biomarkers(self) -> tuple[str, ...]:
        """What is averaged with their Grad-CAM."""
        return tuple(name for name in WEIGHTED_BIOMARKERS if SINGLE_STRATEGY[name] == self.strategy)


@dataclass(frozen=True)
class Fold:
    """Who trains a network, who selects its epoch, and whom it explains.

    Attributes:
        number: of the fold; None where there is one network only.
        training, validation: knee-visits and labels.
        held_out: knee-visits explained.
    """

    number: int | None
    training: tuple[tuple[str, bool], ...]
    validation: tuple[tuple[str, bool], ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class ControlReport:
    """What was done.

    Attributes:
        trained: groups trained and committed.
        unchanged: groups whose averages are of the same input.
        failed: groups that could not be trained, and why.
        n_networks: networks trained.
        seconds: the whole took.
    """

    trained: tuple[Group, ...] = ()
    unchanged: tuple[Group, ...] = ()
    failed: tuple[tuple[Group, str], ...] = ()
    n_networks: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    """A network as a worker gets it; `maps` are rows of `maps_index` of the knees explained."""

    root: Path
    group: Group
    fold: Fold
    config: TrainingConfig
    bank: tuple[str, ...]
    maps: tuple[Row, ...]
    state_file: Path
    explanation: Explanation
    device: str


_Averages = dict[tuple[str, str], float]
"""By knee-visit and biomarker; NaN where a map has no mass."""


def permuted_labels(rows: Sequence[Row], seed: int) -> list[tuple[str, bool]]:
    """Labels permuted between participants: each takes those of the next by an MD5 of the seed.

    Nobody keeps his own. The k-th visit takes the other's k-th, beginning again where the other has
    fewer, so that labels of one participant still belong together.

    Args:
        rows: of one split, with subject_id, knee_visit and is_case.
        seed: of the order.

    Raises:
        ModelError: fewer than two participants.
    """
    by_subject: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["knee_visit"]):
        by_subject.setdefault(row["subject_id"], []).append(row)
    order = sorted(by_subject, key=lambda subject: _place(f"labels:{seed}", subject))
    if len(order) < 2:
        raise ModelError("labels of fewer than two participants cannot be permuted")
    donors = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [
        (row["knee_visit"], bool(given[place % len(given)]["is_case"]))
        for subject in order
        for given in [by_subject[donors[subject]]]
        for place, row in enumerate(by_subject[subject])
    ]


def folds_of(rows: Sequence[Row], n_folds: int, seed: int) -> list[Fold]:
    """Cut participants into folds, and those outside each into training and validation.

    Those who ever have pain are dealt out first, then the others, each in the order of an MD5:
    folds hold as many of both, whatever the rows' order.

    Args:
        rows: with subject_id, knee_visit and is_case.
        n_folds: how many.
        seed: of the order.
    """
    ever: dict[int, bool] = {}
    for row in rows:
        ever[row["subject_id"]] = ever.get(row["subject_id"], False) or bool(row["is_case"])

    def dealt(subjects: Sequence[int], purpose: str, n: int) -> dict[int, int]:
        order = sorted(subjects, key=lambda one: (not ever[one], _place(purpose, one)))
        return {subject: place % n for place, subject in enumerate(order)}

    fold_of = dealt(list(ever), f"folds:{seed}", n_folds)
    labelled = sorted((row["knee_visit"], bool(row["is_case"]), row["subject_id"]) for row in rows)
    folds = []
    for number in range(n_folds):
        others = [subject for subject in ever if fold_of[subject] != number]
        quarter = dealt(others, f"validation:{seed}:{number}", VALIDATION_EVERY)
        seen = [(name, case, quarter[who]) for name, case, who in labelled if who in quarter]
        folds.append(
            Fold(
                number,
                tuple((name, case) for name, case, part in seen if part > 0),
                tuple((name, case) for name, case, part in seen if part == 0),
                tuple(name for name, _, who in labelled if fold_of[who] == number),
            )
        )
    return folds


def _place(purpose: str, subject_id: int) -> str:
    """Where a participant comes in an order that is the same on every machine."""
    return hashlib.md5(f"{purpose}:{subject_id}".encode(), usedforsecurity=False).hexdigest()


def train_control_networks(
    lake: Lake,
    settings: Settings,
    options: ControlOptions,
    *,
    bones: Sequence[Bone] = BONES,
    cluster: Cluster,
    progress: "Progress | None" = None,
) -> ControlReport:
    """Train the control networks whose averages are not of what the lake holds now.

    Args:
        lake: holds images, maps and labels, and receives the averages.
        settings: the device, and how evidence is read.
        options: how.
        bones: whose networks.
        cluster: of the processes on a CPU.
        progress: told each network that is done.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    began = time.perf_counter()
    known = {
        (row["control"], row["bone"], row["biomarker"], row["input_fingerprint"])
        for row in lake.sql(
            "SELECT DISTINCT control, bone, biomarker, input_fingerprint FROM control_biomarkers"
        ).to_dicts()
    }
    device = chosen_device(settings)
    unchanged: list[Group] = []
    failed: list[tuple[Group, str]] = []
    jobs: dict[Group, list[_Job]] = {}
    prints: dict[Group, str] = {}
    # Bone by bone, so that a worker keeps its images.
    for bone, strategy, control in product(bones, options.strategies, CONTROLS):
        group = Group(control, bone, strategy)
        rows = _rows(lake, group)
        prints[group] = _fingerprint(rows, group, options, settings.explanation)
        if all((control, bone, name, prints[group]) in known for name in group.biomarkers):
            unchanged.append(group)
            continue
        try:
            folds = _folds(rows, group, options)
        except ModelError as error:
            failed.append((group, str(error)))
            continue
        jobs[group] = [
            _job(lake, settings, group, fold, options, rows, prints[group], device)
            for fold in folds
        ]
    trained: list[Group] = []
    waiting = [job for of_group in jobs.values() for job in of_group]
    answers: dict[Group, dict[int | None, _Averages | str]] = {group: {} for group in jobs}
    # Processes would each hold the images in the memory of one GPU.
    used = cluster if device == "cpu" else Cluster()
    for number, (job, answer) in enumerate(used.map(_train_job, waiting), 1):
        of_group = answers[job.group]
        of_group[job.fold.number] = str(answer) if isinstance(answer, Exception) else answer
        if progress is not None:
            progress(number, len(waiting), f"control network {job.group.name}")
    # In the order of the groups, so that the same networks give the same batches.
    for group, own_jobs in jobs.items():
        problems = [text for text in answers[group].values() if isinstance(text, str)]
        if problems:
            failed.append((group, problems[0]))
            continue
        _commit(lake, options, list(_result_rows(own_jobs, answers[group], prints[group])))
        trained.append(group)
        for job in own_jobs:
            if job.state_file.is_file():
                files.remove_file(job.state_file)
    return ControlReport(
        tuple(trained),
        tuple(unchanged),
        tuple(failed),
        sum(len(jobs[group]) for group in trained),
        time.perf_counter() - began,
    )


def _rows(lake: Lake, group: Group) -> Sequence[Row]:
    """Labelled knee-visits of all splits with the images and maps that a group's networks need."""
    return lake.sql(
        "SELECT images.knee_visit, images.subject_id, maps.side, maps.timepoint, images.is_case, "
        "images.split, images.part AS image_part, images.row AS image_row, images.ranges_id, "
        "maps.part, maps.row "
        "FROM model_images AS images JOIN maps_index AS maps USING (knee_visit, bone) "
        "WHERE images.task = 'chronic_pain' AND bone = $bone AND (images.has_t2 OR NOT $needs_t2) "
        "ORDER BY images.knee_visit",
        {"bone": group.bone, "needs_t2": group.strategy == "t2"},
    ).to_dicts()


def _fingerprint(
    rows: Sequence[Row], group: Group, options: ControlOptions, explanation: Explanation
) -> str:
    stated = [
        group.name,
        [list(row.values()) for row in rows],
        options.training.config_hash,
        options.n_folds if group.control == "cross_fitted" else None,
        options.seed,
        CODE_VERSION[STEP],
        CODE_VERSION["classifiers"],
        *explanation.in_fingerprints,
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


def _folds(rows: Sequence[Row], group: Group, options: ControlOptions) -> list[Fold]:
    """The networks of a group.

    Raises:
        ModelError: no test knee to explain, or too few participants.
    """
    if group.control == "cross_fitted":
        return folds_of(rows, options.n_folds, options.seed)
    by_split = {
        split: [row for row in rows if row["split"] == split]
        for split in ("training", "validation", "test")
    }
    if not by_split["test"]:
        raise ModelError(f"no knee of the test split has {group.bone} images yet")
    return [
        Fold(
            None,
            tuple(permuted_labels(by_split["training"], options.seed)),
            tuple(permuted_labels(by_split["validation"], options.seed)),
            tuple(row["knee_visit"] for row in by_split["test"]),
        )
    ]


def _job(
    lake: Lake,
    settings: Settings,
    group: Group,
    fold: Fold,
    options: ControlOptions,
    rows: Sequence[Row],
    fingerprint: str,
    device: str,
) -> _Job:
    wanted = set(fold.held_out)
    name = f"control-{fingerprint[:32]}-{fold.number}.state"
    return _Job(
        lake.root,
        group,
        fold,
        options.training,
        tuple(row["knee_visit"] for row in rows),
        tuple(row for row in rows if row["knee_visit"] in wanted),
        lake.root / STATE_FOLDER / name,
        settings.explanation,
        device,
    )


def _train_job(job: _Job) -> _Averages | str:
    """In a worker: train, explain the knees held out, and average. A message where it cannot be."""
    import torch

    try:
        bank = cached_bank(job.root, job.group.bone, job.bank, job.device)
        data = TrainingData(
            bank,
            job.group.strategy,
            *(
                Split(
                    bank.rows_of([name for name, _ in rows]),
                    np.array([is_case for _, is_case in rows], dtype=bool),
                )
                for rows in (job.fold.training, job.fold.validation)
            ),
        )
        result = train(
            data,
            job.config,
            initialization=Initialization(),
            device=job.device,
            state_file=job.state_file,
            state_every_s=STATE_EVERY_S,
        )
        predicted = predict(
            result.network.to(job.device),
            bank,
            bank.rows_of([row["knee_visit"] for row in job.maps]),
            job.group.strategy,
            normalization=result.normalization,
            explanation=job.explanation,
        )
        return _averages(job, target_of(predicted.maps.astype(np.float32), "pain"))
    except (ValueError, LakeError, torch.OutOfMemoryError) as error:
        return str(error)


def _averages(job: _Job, raw: "np.ndarray") -> _Averages:
    """The averages of the knees held out, weighted by their scaled maps, as the paper's are."""
    found = rectified_cells(raw)
    grid = (raw.shape[1], raw.shape[2])
    grids = [dict.fromkeys(job.group.biomarkers, grid)] * len(job.maps)
    sums = knee_cell_sums(Lake(job.root), job.group.bone, job.maps, grids, ("whole",))
    return {
        (row["knee_visit"], biomarker): guided_average(
            seen, found.cells[place], float(found.lowest[place]), float(found.highest[place])
        )
        for place, (row, of_knee) in enumerate(zip(job.maps, sums, strict=True))
        for (biomarker, _), seen in of_knee.items()
    }


def _result_rows(
    jobs: Sequence[_Job], answers: Mapping[int | None, _Averages | str], fingerprint: str
) -> Iterator[dict[str, Any]]:
    for job in jobs:
        averages = answers[job.fold.number]
        assert not isinstance(averages, str)  # noqa: S101 - the caller has looked
        for row, biomarker in product(job.maps, job.group.biomarkers):
            average = averages[row["knee_visit"], biomarker]
            yield {
                "control": job.group.control,
                **{name: row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")},
                "bone": job.group.bone,
                "biomarker": biomarker,
                "fold": job.fold.number,
                "dl_guided": average if math.isfinite(average) else None,
                "input_fingerprint": fingerprint,
            }


def _commit(lake: Lake, options: ControlOptions, rows: Sequence[Row]) -> None:
    with lake.batch(STEP, "all", CODE_VERSION[STEP], options.training.config_hash) as batch:
        batch.add("control_biomarkers", rows)
