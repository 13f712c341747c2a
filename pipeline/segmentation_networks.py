"""Segmentation networks of a lake: trained on delivered labels, and held against them.

Labelled scans are split by person, so that nobody is in training and in test. One training run is
one folder, named for its data and settings: a run that was killed goes on in it, and a run that
would change nothing does nothing. Table S1 is about people the networks have not seen.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from imaging.errors import BadInputError, Reason
from imaging.label_files import file_fingerprint
from imaging.volume import Side, Volume
from lake.files import write_whole
from lake.store import Lake
from models.segmentation_checkpoint import read_metadata
from models.segmentation_preparation import PreparedCase, Spacing, case_key, write_case
from models.segmentation_training import TrainingOptions, Validation, data_hash, train_member
from models.segmenters import hashed
from models.vnet import Member, paper_members
from pipeline.cluster import Cluster
from pipeline.computing import Input, KneeTask, checked_label, scan_image
from pipeline.config import CODE_VERSION, Settings
from pipeline.inbox import locate
from pipeline.ingest import Progress, unexpected
from pipeline.locator import FOLDER
from pipeline.steps import grids_of, label_of

Preset = Literal["demo", "paper"]
Split = Literal["train", "validation", "test"]
STEP: Final = "segmentation_networks"
NETWORKS = "models/segmentation"
"""Where the lake keeps the networks."""

_SPLITS = "splits.json"


@dataclass(frozen=True)
class NetworkPlan:
    """What is trained, on how much.

    Attributes:
        members: the networks.
        options: how each is trained.
        shares: of people in train and validation; the rest are test.
        max_knee_visits: labelled scans used at most.
    """

    members: tuple[Member, ...]
    options: TrainingOptions
    shares: tuple[float, float] = (0.56, 0.15)
    max_knee_visits: int = 174


def network_plan(preset: str, *, seed: int = 0, device: str = "cpu") -> NetworkPlan:
    """A plan by name.

    'paper': eleven V-Nets at the scans' own voxels, with the paper's 57 : 15 : 30 of people and no
    more scans than it had. 'demo': the same eleven as reduced networks at coarse voxels, minutes
    on a processor; its labels are not good enough to measure.

    Raises:
        ValueError: another name.
    """
    if preset == "paper":
        return NetworkPlan(paper_members(), TrainingOptions(seed=seed, device=device))
    if preset == "demo":
        options = TrainingOptions(
            steps=200,
            patch=(32, 64, 64),
            patch_2d=(96, 96),
            batch=2,
            batch_2d=4,
            learning_rate=3e-3,
            validate_every=50,
            seed=seed,
            spacing_mm=(1.6, 1.2, 1.2),
            device=device,
        )
        return NetworkPlan(paper_members("reduced"), options, max_knee_visits=12)
    raise ValueError(f"{preset!r} is no preset of segmentation networks; use demo or paper")


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did.

    Attributes:
        run: its folder below `NETWORKS`.
        n_trained: networks trained now.
        n_kept: networks that were there already.
        n_by_split: labelled scans.
        refused: labelled scans that could not be used, each with what is wrong.
        histories: validations by network.
    """

    run: str
    n_trained: int
    n_kept: int
    n_by_split: Mapping[Split, int]
    refused: Mapping[str, str]
    histories: Mapping[str, Sequence[Validation]]


def split_by_person(
    subject_ids: Sequence[int], shares: tuple[float, float], seed: int
) -> dict[int, Split]:
    """Which split each person is in; at least one in each.

    The order is that of a hash of seed and number, so it does not depend on who else is there.

    Raises:
        ValueError: fewer than three people.
    """
    people = sorted(
        set(subject_ids), key=lambda one: hashlib.sha256(f"{seed}|{one}".encode()).hexdigest()
    )
    if len(people) < 3:
        raise ValueError(
            f"segmentation networks need labelled scans of at least 3 people (training, "
            f"validation, test); there are {len(people)}. Deliver labels with their DESS scans"
        )
    n_train = min(max(1, round(shares[0] * len(people))), len(people) - 2)
    n_validation = min(max(1, round(shares[1] * len(people))), len(people) - n_train - 1)

    def split(place: int) -> Split:
        if place < n_train:
            return "train"
        return "validation" if place < n_train + n_validation else "test"

    return {person: split(place) for place, person in enumerate(people)}


@dataclass(frozen=True)
class LabelledScan:
    """One knee-visit with a delivered label; can be sent to another process."""

    task: KneeTask
    scan: Input

    @property
    def knee_visit(self) -> str:
        """`<subject_id>_<side>_<timepoint>`."""
        return str(self.task.row["knee_visit"])

    @property
    def side(self) -> Side:
        """Of the knee."""
        return "LEFT" if self.task.row["side"] == "LEFT" else "RIGHT"


def labelled_scans(lake: Lake, settings: Settings) -> Iterator[LabelledScan | tuple[str, str]]:
    """Delivered labels with their scans; where data are gone, the knee-visit and what is wrong."""
    rows = lake.sql("FROM labelled_scans").to_dicts()
    grids = {
        timepoint: grids_of(lake, timepoint) for timepoint in {row["timepoint"] for row in rows}
    }
    for row in rows:
        try:
            label, scheme_source = label_of(settings, row)
            scan = Input(locate(settings.inbox, row["dess_fingerprint"]), row["dess_fingerprint"])
        except BadInputError as error:
            yield row["knee_visit"], str(error)
        else:
            grid = grids[row["timepoint"]][row["dess_fingerprint"]]
            yield LabelledScan(KneeTask(row, label, scheme_source, grid), scan)


def train_networks(
    lake: Lake,
    settings: Settings,
    plan: NetworkPlan,
    *,
    cluster: Cluster,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train what the plan asks for and is not there yet, and list it in the lake.

    Raises:
        ValueError: fewer than three people have a labelled scan.
        BadInputError: a training that cannot go on, such as a loss that is no number.
        LakeBusyError: another process is writing to the lake.
    """
    refused: dict[str, str] = {}
    scans: list[LabelledScan] = []
    for one in labelled_scans(lake, settings):
        if isinstance(one, LabelledScan):
            scans.append(one)
        else:
            refused[one[0]] = one[1]
    scans = _chosen(scans, plan)
    splits = split_by_person(
        [int(scan.task.row["subject_id"]) for scan in scans], plan.shares, plan.options.seed
    )
    work = settings.inbox / FOLDER / "prepared_scans"
    cases = _prepare(scans, plan.options.spacing_mm, work, cluster, refused, progress)
    by_split: dict[Split, list[PreparedCase]] = {name: [] for name in get_args(Split)}
    for scan in scans:
        if scan.knee_visit in cases:
            by_split[splits[int(scan.task.row["subject_id"])]].append(cases[scan.knee_visit])
    data = data_hash({name: [case.folder.name for case in one] for name, one in by_split.items()})
    run = run_name(plan, data)
    folder = lake.root / NETWORKS / run
    folder.mkdir(parents=True, exist_ok=True)
    named = {case.knee_visit: name for name, kept in by_split.items() for case in kept}
    write_whole(folder / _SPLITS, json.dumps(named, indent=1, sort_keys=True) + "\n")
    jobs = [
        _Job(
            member, tuple(by_split["train"]), tuple(by_split["validation"]), plan.options,
            folder / f"{member.name}.safetensors", data,
        )
        for member in plan.members
    ]  # fmt: skip
    left = [job for job in jobs if not job.history.is_file()]
    _train_all(left, cluster, progress)
    _list_networks(lake, jobs, run)
    shutil.rmtree(work, ignore_errors=True)
    return TrainingReport(
        run,
        len(left),
        len(jobs) - len(left),
        {name: len(one) for name, one in by_split.items()},
        refused,
        {job.member.name: read_history(job.history) for job in jobs},
    )


def run_name(plan: NetworkPlan, data: str) -> str:
    """The name of a training run: the same for the same data, networks and settings."""
    options = dataclasses.asdict(plan.options)
    del options["device"]
    members = [dataclasses.asdict(member) for member in plan.members]
    return hashed(CODE_VERSION[STEP], data, options, members)[:16]


def read_history(path: Path) -> tuple[Validation, ...]:
    """The validations of a network that has been trained."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Validation(one["step"], one["loss"], tuple(one["dice"])) for one in stored)


def networks_now(lake: Lake) -> list[dict[str, Any]]:
    """Rows of the networks that count."""
    return lake.sql("FROM segmentation_networks ORDER BY task, member").to_dicts()


def splits_now(lake: Lake) -> dict[str, Split]:
    """The split of each knee-visit in the run whose networks count; empty without networks."""
    rows = networks_now(lake)
    if not rows:
        return {}
    path = (lake.root / rows[0]["checkpoint"]).with_name(_SPLITS)
    return json.loads(path.read_text(encoding="utf-8"))


def histories_now(lake: Lake) -> dict[str, tuple[Validation, ...]]:
    """The validations of the networks that count."""
    return {
        row["member"]: read_history(_history_of(lake.root / row["checkpoint"]))
        for row in networks_now(lake)
    }


def _chosen(scans: list[LabelledScan], plan: NetworkPlan) -> list[LabelledScan]:
    """The scans a plan uses, by hash, so that more labels do not change who was in before."""

    def order(scan: LabelledScan) -> str:
        return hashlib.sha256(f"{plan.options.seed}|{scan.knee_visit}".encode()).hexdigest()

    return sorted(sorted(scans, key=order)[: plan.max_knee_visits], key=lambda one: one.knee_visit)


@dataclass(frozen=True)
class _Preparation:
    scan: LabelledScan
    folder: Path
    spacing_mm: Spacing | None


def _prepare_one(preparation: _Preparation) -> PreparedCase:
    scan = preparation.scan
    labels, _ = checked_label(scan.task)
    image = scan_image(scan.scan)
    if not isinstance(image, Volume):
        raise BadInputError(
            Reason.MIXED_SERIES,
            scan.knee_visit,
            "has a DESS series of several echoes",
            "Deliver the combined DESS image",
        )
    return write_case(
        preparation.folder, scan.knee_visit, image, labels, scan.side, preparation.spacing_mm
    )


def _prepare(
    scans: Sequence[LabelledScan],
    spacing_mm: Spacing | None,
    work: Path,
    cluster: Cluster,
    refused: dict[str, str],
    progress: Progress | None,
) -> dict[str, PreparedCase]:
    """The prepared cases by knee-visit; what cannot be used goes to `refused`."""
    jobs = []
    for scan in scans:
        row = scan.task.row
        key = case_key(row["dess_fingerprint"], row["label_fingerprint"], row["scheme"], spacing_mm)
        jobs.append(_Preparation(scan, work / key, spacing_mm))
    cases: dict[str, PreparedCase] = {}
    for done, (job, result) in enumerate(cluster.map(_prepare_one, jobs), 1):
        if isinstance(result, Exception):
            refused[job.scan.knee_visit] = str(unexpected(result, job.scan.knee_visit))
        else:
            cases[job.scan.knee_visit] = result
        if progress is not None:
            progress(done, len(jobs), f"prepared {job.scan.knee_visit}")
    return cases


@dataclass(frozen=True)
class _Job:
    member: Member
    training: tuple[PreparedCase, ...]
    validation: tuple[PreparedCase, ...]
    options: TrainingOptions
    checkpoint: Path
    data_hash: str

    @property
    def history(self) -> Path:
        """Written last: the sign that the training is over."""
        return _history_of(self.checkpoint)


def _history_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")


def _train_one(job: _Job) -> None:
    try:
        trained = train_member(
            job.member,
            job.training,
            job.validation,
            job.options,
            job.checkpoint,
            data_hash=job.data_hash,
        )
    except ValueError as error:
        raise BadInputError(
            Reason.BAD_VALUE,
            job.member.name,
            f"cannot be trained: {error}",
            "See docs/segmentation.md",
        ) from None
    history = json.dumps([dataclasses.asdict(one) for one in trained.history])
    write_whole(job.history, history + "\n")


def _train_all(jobs: Sequence[_Job], cluster: Cluster, progress: Progress | None) -> None:
    # Processes would share one GPU's memory.
    on_gpu = any(job.options.device != "cpu" for job in jobs)
    errors: list[Exception] = []
    where = Cluster() if on_gpu else cluster
    for done, (job, result) in enumerate(where.map(_train_one, jobs), 1):
        if isinstance(result, Exception):
            errors.append(result)
        if progress is not None:
            progress(done, len(jobs), f"trained {job.member.name}")
    if errors:
        raise errors[0]


def _list_networks(lake: Lake, jobs: Sequence[_Job], run: str) -> None:
    rows = []
    for job in jobs:
        metadata = read_metadata(job.checkpoint)
        rows.append(
            {
                "task": job.member.task,
                "member": job.member.name,
                "architecture": job.member.architecture,
                "dimensions": job.member.dimensions,
                "loss": job.member.loss,
                "checkpoint": job.checkpoint.relative_to(lake.root).as_posix(),
                "checkpoint_hash": file_fingerprint(job.checkpoint),
                "data_hash": job.data_hash,
                "seed": metadata.seed,
                "best_step": metadata.best_step,
                "validation_dice": metadata.validation_dice,
            }
        )
    now = [{name: row[name] for name in rows[0]} for row in networks_now(lake)]
    if sorted(now, key=_by_member) != sorted(rows, key=_by_member):
        with lake.batch(STEP, "all", CODE_VERSION[STEP], run) as batch:
            batch.add("segmentation_networks", rows)


def _by_member(row: Mapping[str, Any]) -> str:
    return str(row["member"])
