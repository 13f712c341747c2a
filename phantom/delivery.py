"""A delivery as an OAI researcher has it on disk: dated folders of series, and segmentations."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imaging.label_files import write_labels
from imaging.volume import Side
from phantom.dicom_writer import Packing, Visit, write_series
from phantom.images import dess_image, msme_affine, msme_image
from phantom.knee import KneeTruth, knee_truth
from phantom.raster import DEMO, FULL, MSME_OF, Grid, labels_of, place_grid, rasterise

GridName = Literal["demo", "full"]

GRIDS: dict[GridName, Grid] = {"demo": DEMO, "full": FULL}

_FIRST_SUBJECT = 1_000_000
_RELEASE = {"V02": "2.D.2", "V04": "4.G.1"}


@dataclass(frozen=True)
class PlannedVisit:
    """One knee-visit to write. It can be sent to another process.

    Attributes:
        seed: of the cohort.
        subject_id: 7 digits, starting with 1.
        side: which knee.
        timepoint: V00 to V10.
        grid: `demo` or `full` (OAI's own).
        snr: of cartilage, at the first echo in the MSME series.
        packing: each series as a folder, a zip or a tar.gz.
    """

    seed: int
    subject_id: int
    side: Side
    timepoint: str
    grid: GridName = "demo"
    snr: float = 50.0
    packing: Packing = "folder"

    @property
    def knee_visit(self) -> str:
        """`<subject_id>_<side>_<timepoint>`."""
        return f"{self.subject_id}_{self.side}_{self.timepoint}"

    def truth(self) -> KneeTruth:
        """What is true of this knee-visit, drawn anew."""
        return knee_truth(self.seed, self.subject_id, self.side, self.timepoint)


@dataclass(frozen=True)
class WrittenVisit:
    """Where the parts of a knee-visit were written.

    Attributes:
        plan: what was written; `plan.truth()` is the truth about it.
        dess: series folder or archive.
        msme: series folder or archive.
        labels: the segmentation, scheme `mskt`, on the grid of the DESS series.
    """

    plan: PlannedVisit
    dess: Path
    msme: Path
    labels: Path


def subject_ids(n_subjects: int) -> list[int]:
    """The synthetic participants of a cohort; all start with 1."""
    return [_FIRST_SUBJECT + 1 + 37 * index for index in range(n_subjects)]


def _release(visit: Visit) -> str:
    """The image release a visit came in: number of the visit, cohort half, version."""
    if visit.timepoint in _RELEASE:
        return _RELEASE[visit.timepoint]
    half = "C" if visit.subject_id % 2 else "E"
    number = int(visit.timepoint[1:])
    version = 2 if half == "C" and number < 5 else 1
    return f"{number}.{half}.{version}"


def dess_affine(truth: KneeTruth, grid: Grid) -> np.ndarray:
    """Where the DESS series lies: centred on the knee, tilted a few degrees as scanners do."""
    key = f"{truth.seed}|{truth.subject_id}|{truth.timepoint}|tilt".encode()
    rng = np.random.default_rng(list(hashlib.sha256(key).digest()))
    about_z, about_y = rng.uniform(-5.0, 5.0, size=2)
    return place_grid(truth, grid, (about_z, about_y))


def write_knee_visit(root: Path, plan: PlannedVisit) -> WrittenVisit:
    """Write one knee-visit into an inbox; the same plan always writes the same bytes.

    Series go to `<root>/<month>m/<release>/<subject>/<yyyymmdd>/<barcode>/001` ..., the
    segmentation to `<root>/segmentations/<subject>_<side>_<timepoint>.nrrd`.
    """
    truth = plan.truth()
    visit = Visit(plan.seed, plan.subject_id, plan.side, plan.timepoint)
    grid = GRIDS[plan.grid]
    raster = rasterise(truth, dess_affine(truth, grid), grid.shape, with_t2=True)

    segmentations = root / "segmentations"
    segmentations.mkdir(parents=True, exist_ok=True)
    labels = segmentations / f"{plan.knee_visit}.nrrd"
    write_labels(labels_of(raster), labels)

    folder = root / f"{visit.months:02d}m" / _release(visit) / str(plan.subject_id) / visit.date
    dess = write_series(
        folder, visit, "DESS", dess_image(truth, raster, snr=plan.snr), plan.packing
    )
    msme_grid = MSME_OF[grid]
    echoes = msme_image(truth, msme_affine(truth, msme_grid), msme_grid.shape, snr=plan.snr)
    msme = write_series(folder, visit, "MSME", echoes, plan.packing)
    return WrittenVisit(plan, dess, msme, labels)


def plan_delivery(
    n_subjects: int,
    timepoints: Sequence[str] = ("V00", "V03"),
    *,
    seed: int,
    grid: GridName = "demo",
    left_share: float = 0.0,
    snr: float = 50.0,
    packing: Packing = "folder",
) -> list[PlannedVisit]:
    """The knee-visits of a cohort.

    Args:
        n_subjects: how many people.
        timepoints: visits of each.
        seed: settles everything.
        grid: `demo` or `full`.
        left_share: share of the people whose LEFT knee was scanned; the paper has right knees only.
        snr: of cartilage.
        packing: each series as a folder, a zip or a tar.gz.
    """
    ids = subject_ids(n_subjects)
    n_left = round(left_share * n_subjects)
    lefts = set(np.random.default_rng([seed, 4]).permutation(ids)[:n_left].tolist())
    return [
        PlannedVisit(seed, subject, "LEFT" if subject in lefts else "RIGHT", timepoint, grid, snr,
                     packing)
        for subject in ids
        for timepoint in timepoints
    ]  # fmt: skip


def _write_star(job: tuple[Path, PlannedVisit]) -> WrittenVisit:
    return write_knee_visit(*job)


def write_delivery(
    root: Path,
    plans: Sequence[PlannedVisit],
    *,
    workers: int = 1,
    progress: Callable[[WrittenVisit], None] | None = None,
) -> list[WrittenVisit]:
    """Write knee-visits into an inbox, in order, in as many processes as asked for.

    Args:
        root: the inbox, made if missing.
        plans: from `plan_delivery`.
        workers: processes; 1 stays in this one.
        progress: called after each knee-visit.
    """
    root.mkdir(parents=True, exist_ok=True)
    written: list[WrittenVisit] = []
    for visit in _write_all([(root, plan) for plan in plans], workers):
        written.append(visit)
        if progress is not None:
            progress(visit)
    return written


def _write_all(jobs: list[tuple[Path, PlannedVisit]], workers: int) -> Iterator[WrittenVisit]:
    if workers == 1:
        yield from map(_write_star, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_star, jobs)
