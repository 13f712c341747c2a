"""Table S1 and Figure S2: the lake's ensembles against labels that people drew.

Only test people count, whom no network saw in training or validation. Scans are segmented anew, so
that a delivered label in the lake is left as it is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelVolume, Tissue
from imaging.volume import Volume, to_knee_frame
from lake.store import Lake
from models.segmentation_metrics import Agreement, agreement, bootstrap_mean
from models.segmenters import EnsembleSegmenter, KneeScan
from models.vnet import TASKS
from pipeline.cluster import Cluster
from pipeline.computing import checked_label, scan_image
from pipeline.config import CODE_VERSION, Settings
from pipeline.ingest import Progress, unexpected
from pipeline.segmentation_networks import STEP, LabelledScan, labelled_scans, splits_now

SHOWN_CASES = 3
"""Knee-visits of Figure S2."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """What Figure S2 shows of one test case, in the right-knee frame.

    Attributes:
        image: one sagittal slice, (row, column).
        predicted: labels of that slice in scheme `kneelake`.
        drawn: the same of the drawn label.
        pixel_mm: rows and columns.
        mpts_mm: over the whole volume, mean over the tissues that were found.
        dice: the same.
    """

    image: NDArray
    predicted: NDArray[np.uint8]
    drawn: NDArray[np.uint8]
    pixel_mm: tuple[float, float]
    mpts_mm: float
    dice: float


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """What an evaluation did.

    Attributes:
        segmenter_hash: of the ensembles.
        n_cases: test knee-visits evaluated; 0 where the lake had them already.
        refused: test knee-visits that could not be used, each with what is wrong.
        overlays: of the first cases.
    """

    segmenter_hash: str
    n_cases: int
    refused: Mapping[str, str]
    overlays: Mapping[str, Overlay]


@dataclass(frozen=True, eq=False)
class _Case:
    agreements: Mapping[Tissue, Agreement]
    overlay: Overlay


def evaluate_networks(
    lake: Lake,
    settings: Settings,
    segmenter: EnsembleSegmenter,
    *,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Segment the test scans and hold them against their labels, unless that was done before.

    Raises:
        ValueError: no test scan could be used.
        LakeBusyError: another process is writing to the lake.
    """
    version = segmenter.ensemble_hash
    known = lake.sql("SELECT DISTINCT segmenter_hash FROM segmentation_performance").to_series()
    if known.to_list() == [version]:
        return EvaluationReport(version, 0, {}, {})
    splits = splits_now(lake)
    refused: dict[str, str] = {}
    scans = list(_test_scans(lake, settings, splits, refused))
    cases: dict[str, _Case] = {}
    rows: list[dict[str, Any]] = []
    worker = _Worker(segmenter)
    for done, (scan, case) in enumerate(Cluster().map(worker, scans), 1):
        if isinstance(case, Exception):
            refused[scan.knee_visit] = str(unexpected(case, scan.knee_visit))
        else:
            cases[scan.knee_visit] = case
            rows += _rows(scan, case, version)
        if progress is not None:
            progress(done, len(scans), f"evaluated {scan.knee_visit}")
    if not cases:
        problems = "; ".join(refused.values()) or "no labelled scan of a test person is left"
        raise ValueError(f"the segmentation networks cannot be evaluated: {problems}")
    with lake.batch(STEP, "all", CODE_VERSION[STEP], version) as batch:
        batch.add("segmentation_cases", rows)
        batch.add("segmentation_performance", performance(rows))
    shown = {name: cases[name].overlay for name in sorted(cases)[:SHOWN_CASES]}
    return EvaluationReport(version, len(cases), refused, shown)


def performance(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Table S1 from rows of `segmentation_cases`: means with 95 % bootstrap intervals.

    Cases are resampled, as if each were another person's; knee-visits of one person make the
    intervals too narrow.
    """
    by_tissue: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_tissue[row["tissue"]].append(row)
    table = []
    for tissue, cases in by_tissue.items():
        line: dict[str, Any] = {
            "tissue": tissue,
            "segmenter_hash": cases[0]["segmenter_hash"],
            "n": len(cases),
            "n_empty": sum(case["mpts_mm"] is None for case in cases),
        }
        for measure in ("dice", "mpts_mm", "mpts_voxel_mm"):
            values = [case[measure] for case in cases if case[measure] is not None]
            interval = bootstrap_mean(values) if values else None
            for part in ("mean", "low", "high"):
                line[f"{measure}_{part}"] = None if interval is None else getattr(interval, part)
        table.append(line)
    return table


def _test_scans(
    lake: Lake, settings: Settings, splits: Mapping[str, str], refused: dict[str, str]
) -> Iterator[LabelledScan]:
    for one in labelled_scans(lake, settings):
        knee_visit = one.knee_visit if isinstance(one, LabelledScan) else one[0]
        if splits.get(knee_visit) == "test":
            if isinstance(one, LabelledScan):
                yield one
            else:
                refused[knee_visit] = one[1]


class _Worker:
    """Segments one scan and compares."""

    def __init__(self, segmenter: EnsembleSegmenter) -> None:
        self._segmenter = segmenter

    def __call__(self, scan: LabelledScan) -> _Case:
        drawn, _ = checked_label(scan.task)
        image = scan_image(scan.scan)
        if not isinstance(image, Volume):
            raise TypeError("a structural scan is one image")
        predicted = self._segmenter.found(KneeScan(image, scan.side, scan.knee_visit))
        agreements: dict[Tissue, Agreement] = {}
        for task in TASKS.values():
            for tissue, parts in zip(task.tissues, task.parts, strict=True):
                true = drawn.mask(*parts)
                if true.any():
                    agreements[tissue] = agreement(predicted.mask(tissue), true, image.affine)
        return _Case(agreements, _overlay(scan, image, predicted, drawn, agreements))


def _overlay(
    scan: LabelledScan,
    image: Volume,
    predicted: LabelVolume,
    drawn: LabelVolume,
    agreements: Mapping[Tissue, Agreement],
) -> Overlay:
    """The sagittal slice with most drawn cartilage, in the right-knee frame."""
    values = np.zeros(drawn.array.shape, np.uint8)
    cartilage = np.zeros(drawn.array.shape, bool)
    for name, task in TASKS.items():
        for tissue, parts in zip(task.tissues, task.parts, strict=True):
            mask = drawn.mask(*parts)
            values[mask] = predicted.scheme.values([tissue])[0]
            if name == "cartilage":
                cartilage |= mask
    framed, own, true, covered = (
        to_knee_frame(Volume(array, image.affine), scan.side)
        for array in (image.array, predicted.array, values, cartilage)
    )
    number = int(np.argmax(covered.array.sum(axis=(1, 2))))
    distances = [one.mpts_mm for one in agreements.values() if one.mpts_mm is not None]
    return Overlay(
        framed.array[number],
        own.array[number],
        true.array[number],
        (float(framed.spacing_mm[1]), float(framed.spacing_mm[2])),
        float(np.mean(distances)) if distances else float("nan"),
        float(np.mean([one.dice for one in agreements.values()])),
    )


def _rows(scan: LabelledScan, case: _Case, version: str) -> Iterator[dict[str, Any]]:
    key = {name: scan.task.row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")}
    for tissue, one in case.agreements.items():
        values = asdict(one)
        values["drawn_mm3"] = values.pop("true_mm3")
        yield {
            **key,
            "split": "test",
            "tissue": str(tissue),
            "segmenter_hash": version,
            **values,
        }
