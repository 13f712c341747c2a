"""The paper's classifiers: a network per bone and strategy, on osteoarthritis and then on pain.

A model is trained where `classifiers` lists none of the same data, configuration and code version,
so materialising trains again when its images, labels or splits have changed, and does nothing
otherwise. Each is a process of one thread on a CPU, which makes it repeatable to the bit; on a GPU
they follow one another in this process. What a killed training had done is kept in the lake's
`training` folder until its model is committed.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaging.labels import Bone
from lake import files
from lake.store import Lake
from models.checkpoint import CheckpointMetadata, store_checkpoint
from models.errors import ModelError
from models.initialization import Initialization
from models.training import TrainingResult, train
from models.training_config import TrainingConfig
from pipeline.cluster import Cluster
from pipeline.config import CODE_VERSION, Settings
from pipeline.model_data import (
    ALL_MODELS,
    Model,
    ModelRows,
    TaskName,
    cached_bank,
    chosen_device,
    initial_weights,
    labelled_images,
    model_rows,
    require_no_leak,
    training_data,
    weights_fingerprint,
)

if TYPE_CHECKING:
    from pipeline.ingest import Progress

STATE_FOLDER = "training"
STATE_EVERY_S = 20.0
"""What a kill can cost, against writing four copies of the weights."""


@dataclass(frozen=True)
class _Job:
    """A training as a worker gets it."""

    root: Path
    model: Model
    config: TrainingConfig
    rows: ModelRows
    initialization: Initialization
    device: str


@dataclass(frozen=True)
class Trained:
    """A training that ended.

    Attributes:
        model: which.
        row: of `classifiers`.
        epochs: rows of `training_epochs`.
        state_file: what can be removed once both are committed.
    """

    model: Model
    row: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    state_file: Path


@dataclass(frozen=True)
class TrainingReport:
    """What `train_classifiers` did.

    Attributes:
        trained: models trained and committed.
        unchanged: models whose data, configuration and code are those of their row.
        failed: models that could not be trained, and why.
        notes: by model, what a person should know.
        seconds: the whole took.
    """

    trained: tuple[Model, ...] = ()
    unchanged: tuple[Model, ...] = ()
    failed: tuple[tuple[Model, str], ...] = ()
    notes: tuple[tuple[Model, str], ...] = ()
    seconds: float = 0.0


def train_classifiers(
    lake: Lake,
    settings: Settings,
    task: TaskName,
    config: TrainingConfig,
    *,
    models: Sequence[tuple[Bone, str]] = ALL_MODELS,
    cluster: Cluster,
    progress: "Progress | None" = None,
    device: str | None = None,
) -> TrainingReport:
    """Train the models of a task that are not trained yet, or not on what the lake holds now.

    Each is committed as it and those before it are done, so a kill loses no finished model.

    Args:
        lake: holds images, labels and splits, and receives the models.
        settings: where ImageNet weights lie, and the device.
        task: 'oa', or 'chronic_pain', which begins with the models of 'oa'.
        config: the training, the same for all.
        models: bones and strategies.
        cluster: of the processes on a CPU.
        progress: told each model that ends.
        device: 'cpu' or 'cuda'; that of the settings where None.

    Raises:
        ModelError: participants of the pain model's test split in the training of 'oa', or a
            participant in two splits.
        LakeBusyError: another process is writing to the lake.
    """
    began = time.perf_counter()
    require_no_leak(lake, task)
    place = device or chosen_device(settings)
    known = lake.sql("FROM classifiers")
    images = labelled_images(lake, task)
    jobs: list[_Job] = []
    unchanged: list[Model] = []
    failed: list[tuple[Model, str]] = []
    for bone, strategy in sorted(models):
        model = Model(task, bone, strategy)
        try:
            rows = model_rows(images, model)
            weights = initial_weights(lake, known, settings, model, config, rows)
        except ModelError as error:
            failed.append((model, str(error)))
            continue
        job = _Job(lake.root, model, config, rows, weights, place)
        if _is_done(job, known.to_dicts()):
            unchanged.append(model)
        else:
            jobs.append(job)
    trained: list[Model] = []
    notes: list[tuple[Model, str]] = []
    for number, (job, answer) in enumerate(_in_order(jobs, _answers(jobs, cluster, place)), 1):
        if isinstance(answer, Trained):
            _commit(lake, job, answer)
            trained.append(job.model)
            notes += [(job.model, text) for text in json.loads(answer.row["notes"])]
        else:
            failed.append((job.model, answer))
        if progress is not None:
            progress(number, len(jobs), f"training of {job.model.name}")
    return TrainingReport(
        tuple(trained),
        tuple(unchanged),
        tuple(failed),
        tuple(notes),
        time.perf_counter() - began,
    )


def _is_done(job: _Job, known: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the table's row of this model is of the same data, weights, choices and code."""
    return any(
        (row["task"], row["bone"], row["strategy"])
        == (job.model.task, job.model.bone, job.model.strategy)
        and row["input_fingerprint"] == _fingerprint(job)
        and (job.root / row["path"]).is_file()
        for row in known
    )


def _fingerprint(job: _Job) -> str:
    stated = [
        job.rows.data_hash,
        job.config.config_hash,
        weights_fingerprint(job.initialization),
        CODE_VERSION["classifiers"],
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


def _answers(
    jobs: Sequence[_Job], cluster: Cluster, device: str
) -> Iterator[tuple[_Job, Trained | str]]:
    """Each training's outcome, as they end: the result, or what went wrong."""
    # Processes would each hold the images in the memory of one GPU.
    used = cluster if device == "cpu" else Cluster()
    for job, answer in used.map(_train_job, jobs):
        yield job, str(answer) if isinstance(answer, Exception) else answer


def _in_order(
    jobs: Sequence[_Job], answers: Iterator[tuple[_Job, Trained | str]]
) -> Iterator[tuple[_Job, Trained | str]]:
    """Outcomes in the order of the jobs, so that the same models give the same batches."""
    ready: dict[Model, Trained | str] = {}
    waiting = list(jobs)
    for job, answer in answers:
        ready[job.model] = answer
        while waiting and waiting[0].model in ready:
            first = waiting.pop(0)
            yield first, ready.pop(first.model)


def _train_job(job: _Job) -> Trained | str:
    """In a worker: train, keep the checkpoint, and say what it is. A message where it cannot be."""
    import torch

    model, rows = job.model, job.rows
    state_file = job.root / STATE_FOLDER / f"{_fingerprint(job)[:32]}.state"
    began = time.perf_counter()
    try:
        data = training_data(
            cached_bank(job.root, model.bone, rows.knee_visits, job.device), model.strategy, rows
        )
        result = train(
            data,
            job.config,
            initialization=job.initialization,
            device=job.device,
            state_file=state_file,
            state_every_s=STATE_EVERY_S,
        )
    except (ValueError, torch.OutOfMemoryError) as error:
        return str(error)
    path = store_checkpoint(job.root / model.folder, result.network, _metadata(job, result))
    row = _row(job, result, path, time.perf_counter() - began)
    key = {name: row[name] for name in ("task", "bone", "strategy", "checkpoint_hash")}
    return Trained(model, row, epoch_rows(key, result), state_file)


def _metadata(job: _Job, result: TrainingResult) -> CheckpointMetadata:
    return CheckpointMetadata(
        network=job.config.network,
        task=job.model.task,
        bone=job.model.bone,
        strategy=job.model.strategy,
        normalization=asdict(result.normalization),
        ranges_id=job.rows.ranges_id,
        data_hash=job.rows.data_hash,
        seed=job.config.seed,
        config=job.config.as_dict(),
        best_epoch=result.best_epoch,
        metrics=asdict(result.best.validation),
        code_version=CODE_VERSION["classifiers"],
        initialized_from=result.initialized_from,
    )


def _row(job: _Job, result: TrainingResult, path: Path, seconds: float) -> dict[str, Any]:
    config, best = job.config, result.best.validation
    notes = list(result.notes)
    if job.rows.n_left_out:
        notes.append(f"{job.rows.n_left_out} knee-visits without T2 are left out")
    return {
        "task": job.model.task,
        "bone": job.model.bone,
        "strategy": job.model.strategy,
        "checkpoint_hash": path.stem,
        "path": path.relative_to(job.root).as_posix(),
        "architecture": config.network.architecture,
        "width": config.network.width,
        "initialization": config.initialization,
        "initialized_from": result.initialized_from,
        "config": json.dumps(config.as_dict(), sort_keys=True),
        "config_hash": config.config_hash,
        "data_hash": job.rows.data_hash,
        "input_fingerprint": _fingerprint(job),
        "ranges_id": job.rows.ranges_id,
        "split_rule": job.rows.split_rule,
        "seed": config.seed,
        "n_training": job.rows.n_training,
        "n_validation": len(job.rows.knee_visits) - job.rows.n_training,
        "n_left_out": job.rows.n_left_out,
        "n_epochs": len(result.epochs),
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "batch_size": result.batch_size,
        "auc_variation_percent": result.auc_variation_percent,
        **{f"val_{name}": value for name, value in asdict(best).items()},
        "notes": json.dumps(notes),
        "code_version": CODE_VERSION["classifiers"],
        "seconds": seconds,
    }


def epoch_rows(key: Mapping[str, Any], result: TrainingResult) -> list[dict[str, Any]]:
    """Rows of `training_epochs`."""
    return [
        {
            **key,
            "epoch": row.epoch,
            "train_loss": row.train_loss,
            **{f"val_{name}": value for name, value in asdict(row.validation).items()},
            "is_best": row.epoch == result.best_epoch,
            "seconds": row.seconds,
        }
        for row in result.epochs
    ]


def _commit(lake: Lake, job: _Job, trained: Trained) -> None:
    version = CODE_VERSION["classifiers"]
    with lake.batch("classifiers", "all", version, job.config.config_hash) as batch:
        batch.add("classifiers", [trained.row])
        batch.add("training_epochs", trained.epochs)
    if trained.state_file.is_file():
        files.remove_file(trained.state_file)
