"""The search for hyperparameters over the lake's models, and the authors' published one beside it.

A trial is done where `sweep_runs` lists it with the same data, first weights, configuration and
code, so an interrupted sweep goes on where it was. Trials see the training and validation splits
only, and are chosen by the latter (view `sweep_best`).
"""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from imaging.errors import BadInputError, Reason
from imaging.labels import Bone
from lake.store import Lake
from models.errors import ModelError
from models.initialization import Initialization
from models.sweep import SweepGrid, Trial, TrialResult, run_sweep
from models.training import require_trainable
from models.training_config import TrainingConfig, preset
from pipeline.cluster import Cluster
from pipeline.config import CODE_VERSION, Settings
from pipeline.model_data import (
    ALL_MODELS,
    Model,
    ModelRows,
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

GRIDS: Mapping[str, SweepGrid] = {
    "paper": SweepGrid(),
    "demo": SweepGrid(
        learning_rates=(3e-3, 1e-3),
        architectures=("resnet18",),
        oa_architectures=("resnet18",),
    ),
}
"""What each preset tries; what the grid does not vary is the preset's training on pain."""

_FUSIONS = {
    "Thickness": "thickness",
    "Bone": "bone_shape",
    "T2Fusion": "t2",
    "BoneCartFusion": "bone_thickness",
    "CartFusion": "thickness_t2",
    "AllFusion": "all_biomarkers",
}
_PRETRAININGS = {"Random": "random", "ImageNet": "imagenet", "Diagnosis": "oa"}
_FREEZINGS = {
    "Finetuned": "all",
    "FirstLayerExtract": "from_layer2",
    "FirstTwoLayersExtract": "from_layer3",
    # Its code freezes every layer of that name, and trains the new head alone.
    "FeatureExtract": "head",
}
_PUBLISHED_MODEL = re.compile(
    rf"^({'|'.join(_PRETRAININGS)})(Resnet(?:18|34|50))({'|'.join(_FREEZINGS)})1e(\d+)$"
)
_PUBLISHED_COLUMNS = ("Bone", "Fusion", "TPR", "TNR", "AUC", "MCC", "TPN", "CV", "Model")


@dataclass(frozen=True)
class _Job:
    """Trials a worker runs in one go: one, or those that share a frozen network."""

    root: Path
    model: Model
    base: TrainingConfig
    trials: tuple[Trial, ...]
    rows: ModelRows
    initialization: Initialization
    device: str


@dataclass(frozen=True)
class SweepReport:
    """What `sweep_classifiers` did.

    Attributes:
        n_full, n_legal: points of the grid per model, and how many of them are tried.
        n_run: trials run now, of all models.
        n_unchanged: trials that were there already.
        n_skipped: of those run, without initial weights.
        n_failed: of those run, without a result.
        failed: models of which nothing could be run, and why.
        seconds: the whole took.
    """

    n_full: int
    n_legal: int
    n_run: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    failed: tuple[tuple[Model, str], ...] = ()
    seconds: float = 0.0


def grid_of(name: str) -> tuple[SweepGrid, TrainingConfig]:
    """The grid of a preset and what it does not vary.

    Raises:
        ModelError: no such preset.
    """
    if name not in GRIDS:
        raise ModelError(f"{name!r} is no preset of the sweep; use {', '.join(GRIDS)}")
    return GRIDS[name], preset(name, "chronic_pain")


def sweep_classifiers(
    lake: Lake,
    settings: Settings,
    grid: SweepGrid,
    base: TrainingConfig,
    *,
    models: Sequence[tuple[Bone, str]] = ALL_MODELS,
    cluster: Cluster,
    progress: "Progress | None" = None,
    device: str | None = None,
) -> SweepReport:
    """Run every legal trial of the pain models that `sweep_runs` does not list yet.

    Each is committed as soon as it and those before it are done.

    Raises:
        ModelError: a participant in two splits.
        LakeBusyError: another process is writing to the lake.
    """
    began = time.perf_counter()
    require_no_leak(lake, "chronic_pain")
    place = device or chosen_device(settings)
    runs = lake.sql("SELECT input_fingerprint FROM sweep_runs WHERE status <> 'failed'")
    done = set(runs["input_fingerprint"])
    known, images = lake.sql("FROM classifiers"), labelled_images(lake, "chronic_pain")
    jobs: list[_Job] = []
    failed: list[tuple[Model, str]] = []
    unchanged = 0
    for bone, strategy in sorted(models):
        model = Model("chronic_pain", bone, strategy)
        try:
            rows = model_rows(images, model)
            for trials in _groups(grid):
                config = trials[0].config(base)
                weights = initial_weights(lake, known, settings, model, config, rows)
                job = _Job(lake.root, model, base, trials, rows, weights, place)
                due = tuple(one for one in trials if _fingerprint(job, one) not in done)
                unchanged += len(trials) - len(due)
                if due:
                    jobs.append(dataclasses.replace(job, trials=due))
        except ModelError as error:
            failed.append((model, str(error)))
    counts = {"done": 0, "skipped": 0, "failed": 0}
    # Processes would each hold the images in the memory of one GPU.
    used = cluster if place == "cpu" else Cluster()
    for number, (job, results) in enumerate(_in_order(jobs, used), 1):
        _commit(lake, job, results)
        for result in results:
            counts[result.status] += 1
        if progress is not None:
            progress(number, len(jobs), f"sweep of {job.model.name}: {job.trials[0].trial_id}")
    return SweepReport(
        grid.n_full,
        len(grid.trials()),
        sum(counts.values()),
        unchanged,
        counts["skipped"],
        counts["failed"],
        tuple(failed),
        time.perf_counter() - began,
    )


def _groups(grid: SweepGrid) -> Iterator[tuple[Trial, ...]]:
    """Trials that run in one go: heads of one frozen network, any other by itself."""

    def shared(trial: Trial) -> str:
        network = f"{trial.initialization}-{trial.architecture}"
        return network if trial.trained == "head" else trial.trial_id

    for _, group in groupby(grid.trials(), shared):
        yield tuple(group)


def _fingerprint(job: _Job, trial: Trial) -> str:
    stated = [
        job.rows.data_hash,
        trial.config(job.base).config_hash,
        weights_fingerprint(job.initialization),
        CODE_VERSION["sweep"],
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


def _run_job(job: _Job) -> list[TrialResult]:
    """In a worker: the job's trials, on a bank that stays for the next job of the same bone."""
    try:
        bank = cached_bank(job.root, job.model.bone, job.rows.knee_visits, job.device)
        data = training_data(bank, job.model.strategy, job.rows)
        require_trainable(data)
    except ValueError as error:
        return _all_failed(job, str(error))
    return list(
        run_sweep(data, job.base, job.trials, lambda _: job.initialization, device=job.device)
    )


def _all_failed(job: _Job, reason: str) -> list[TrialResult]:
    return [TrialResult(one, one.config(job.base), "failed", reason) for one in job.trials]


def _in_order(jobs: Sequence[_Job], cluster: Cluster) -> Iterator[tuple[_Job, list[TrialResult]]]:
    """Results in the order of the jobs, so that the same sweep gives the same batches."""
    ready: dict[int, list[TrialResult]] = {}
    places = {id(job): place for place, job in enumerate(jobs)}
    following = 0
    for job, answer in cluster.map(_run_job, jobs):
        ready[places[id(job)]] = (
            _all_failed(job, str(answer)) if isinstance(answer, Exception) else answer
        )
        while following in ready:
            yield jobs[following], ready.pop(following)
            following += 1


def _commit(lake: Lake, job: _Job, results: Sequence[TrialResult]) -> None:
    with lake.batch("sweep", "all", CODE_VERSION["sweep"], job.base.config_hash) as batch:
        batch.add("sweep_runs", [_row(job, result) for result in results])


def _row(job: _Job, result: TrialResult) -> dict[str, Any]:
    config, trial = result.config, result.trial
    numbers = asdict(result.metrics) if result.metrics is not None else {}
    is_done = result.status == "done"
    return {
        "task": job.model.task,
        "bone": job.model.bone,
        "strategy": job.model.strategy,
        "trial_id": trial.trial_id,
        "architecture": trial.architecture,
        "width": config.network.width,
        "initialization": trial.initialization,
        "trained": trial.trained,
        "learning_rate": trial.learning_rate,
        "status": result.status,
        "reason": None if is_done else result.reason,
        "n_epochs": result.n_epochs,
        "best_epoch": result.best_epoch if is_done else None,
        **{
            f"val_{name}": numbers.get(name)
            for name in ("loss", "sensitivity", "specificity", "auc", "mcc")
        },
        "auc_variation_percent": result.auc_variation_percent if is_done else None,
        "config": json.dumps(config.as_dict(), sort_keys=True),
        "config_hash": config.config_hash,
        "data_hash": job.rows.data_hash,
        "input_fingerprint": _fingerprint(job, trial),
        "code_version": CODE_VERSION["sweep"],
        "seconds": result.seconds,
    }


def read_published_sweep(path: Path) -> pl.DataFrame:
    """The authors' best runs per bone, strategy and initialisation, in the columns of `sweep_best`.

    The file is `painoptimization.csv` of the authors' public repository (alemorm/deep-pain).

    Returns:
        one row per bone, strategy and initialisation: architecture, trained, learning_rate,
        val_sensitivity, val_specificity, val_auc, val_mcc, tpn, auc_variation_percent.

    Raises:
        BadInputError: columns or values this file does not have.
    """
    try:
        rows = pl.read_csv(path).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            path.name,
            f"it cannot be read as a table ({type(error).__name__})",
            "Give painoptimization.csv of the authors' repository",
        ) from error
    missing = [name for name in _PUBLISHED_COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise BadInputError(
            Reason.MISSING_COLUMN,
            path.name,
            f"column {', '.join(missing)} is missing",
            "Give painoptimization.csv of the authors' repository",
        )
    return pl.DataFrame([_published(path, number, row) for number, row in enumerate(rows, 2)])


def _published(path: Path, line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    named = _PUBLISHED_MODEL.match(str(row["Model"]))
    if named is None or row["Fusion"] not in _FUSIONS:
        raise BadInputError(
            Reason.BAD_VALUE,
            path.name,
            f"line {line}: Model is {row['Model']!r}, Fusion is {row['Fusion']!r}",
            "Expected names such as DiagnosisResnet50FeatureExtract1e5 and T2Fusion",
        )
    pretraining, network, freezing, exponent = named.groups()
    return {
        "task": "chronic_pain",
        "bone": str(row["Bone"]).lower(),
        "strategy": _FUSIONS[row["Fusion"]],
        "initialization": _PRETRAININGS[pretraining],
        "architecture": network.lower(),
        "trained": _FREEZINGS[freezing],
        "learning_rate": 10.0 ** -int(exponent),
        "val_sensitivity": float(row["TPR"]),
        "val_specificity": float(row["TNR"]),
        "val_auc": float(row["AUC"]),
        "val_mcc": float(row["MCC"]),
        "tpn": float(row["TPN"]),
        "auc_variation_percent": float(row["CV"]),
    }
