"""Labels from a segmentation network for scans that came without one.

Which network is a setting: the ensembles trained on this lake, a MONAI bundle, or what nnU-Net has
written. Pending is a scan whose ledger row has another fingerprint of scan, network and settings;
the same scan and network are never computed twice. A delivered label wins, unless `prefer` says
otherwise. The answer is stored in the lake under `labels/`, named for its content, and goes on to
the step `segmentation` as a delivered label does.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.label_files import file_fingerprint, write_labels
from imaging.volume import Side, Volume
from lake.files import fsync_file, make_directory, move_into_place
from lake.store import Lake, input_fingerprint
from models.monai_bundle import BundleSegmenter
from models.nnunet_output import NnunetOutput
from models.segmentation_inference import InferenceOptions
from models.segmentation_postprocessing import SCHEME, in_stored_scheme
from models.segmenters import EnsembleSegmenter, KneeScan, Segmenter
from pipeline.cluster import Cluster
from pipeline.computing import Input, scan_image
from pipeline.config import CODE_VERSION, Settings
from pipeline.inbox import locate
from pipeline.ingest import Progress, unexpected
from pipeline.segmentation_networks import networks_now
from pipeline.steps import StepReport, network_label_path

STEP: Final = "network_labels"
BATCH_SCANS = 4
"""Scans committed at once: a V-Net ensemble takes minutes for each."""

Preference = Literal["delivered", "networks"]
"""Whose label counts where both are there."""


def open_segmenter(
    text: str,
    lake: Lake,
    *,
    inference: InferenceOptions | None = None,
    scheme: str | None = None,
) -> Segmenter:
    """The segmenter a setting names.

    Args:
        text: `ensemble`, `monai_bundle:FOLDER` (several folders, separated as in PATH, are
            averaged) or `nnunet:FOLDER`.
        lake: whose ensembles `ensemble` means.
        inference: how our ensembles are run, and the device of a bundle.
        scheme: tissue map of nnU-Net's output in place of its own `dataset.json`.

    Raises:
        BadInputError: MISSING_INPUT where no network has been trained or a folder is not there, and
            what the segmenters raise.
        ValueError: the text names none.
    """
    kind, _, place = text.partition(":")
    if kind == "ensemble" and not place:
        rows = networks_now(lake)
        if not rows:
            raise BadInputError(
                Reason.MISSING_INPUT,
                "ensemble",
                "is asked for, but this lake has no segmentation networks",
                "Materialise segmentation_networks with preset demo or paper first",
            )
        return EnsembleSegmenter([lake.root / row["checkpoint"] for row in rows], inference)
    if kind == "monai_bundle" and place:
        folders = [Path(one) for one in place.split(os.pathsep)]
        return BundleSegmenter(folders, (inference or InferenceOptions()).device)
    if kind == "nnunet" and place:
        return NnunetOutput(Path(place), scheme)
    raise ValueError(
        f"{text!r} is no segmenter; use ensemble, monai_bundle:FOLDER or nnunet:FOLDER"
    )


def label_scans(
    lake: Lake,
    settings: Settings,
    segmenter: Segmenter,
    timepoint: str,
    *,
    prefer: Preference = "delivered",
    progress: Progress | None = None,
) -> StepReport:
    """Label every pending scan of a visit and record it in the ledger.

    Scans are worked through one after another in this process; torch spreads each over its threads
    or the GPU. A scan that cannot be labelled is quarantined and stops nobody else.

    Raises:
        BadInputError: the segmenter cannot be used at all.
        LakeBusyError: another process is writing to the lake.
    """
    start = time.perf_counter()
    jobs = _pending(lake, settings, segmenter, timepoint, prefer)
    counts = {"done": 0, "quarantined": 0, "missing": 0}
    batch_id = None
    chunk: list[tuple[_Job, _Labelled | Exception]] = []
    for done, (job, answer) in enumerate(Cluster().map(_Worker(segmenter, settings), jobs), 1):
        if isinstance(answer, BadInputError) and answer.reason == Reason.MISSING_INPUT:
            counts["missing"] += 1
        else:
            chunk.append((job, answer))
        if progress is not None:
            progress(done, len(jobs), f"network label of {job.row['knee_visit']}")
        if len(chunk) == BATCH_SCANS or (done == len(jobs) and chunk):
            batch_id = _commit(lake, segmenter, timepoint, chunk, counts) or batch_id
            chunk = []
    return StepReport(
        STEP,
        timepoint,
        len(jobs),
        counts["done"],
        counts["quarantined"],
        time.perf_counter() - start,
        batch_id,
        counts["missing"],
    )


@dataclass(frozen=True)
class _Job:
    """A pending scan.

    Attributes:
        row: of `network_label_inputs`.
        version: of the segmenter for it.
        replaces_delivered: whether the answer is to count over a delivered label.
        input_fingerprint: for the ledger.
    """

    row: Mapping[str, Any]
    version: str
    replaces_delivered: bool
    input_fingerprint: str


@dataclass(frozen=True)
class _Labelled:
    label_fingerprint: str
    seconds: float


def _pending(
    lake: Lake, settings: Settings, segmenter: Segmenter, timepoint: str, prefer: Preference
) -> list[_Job]:
    rows = lake.sql(
        "FROM network_label_inputs WHERE timepoint = $timepoint ORDER BY knee_visit",
        {"timepoint": timepoint},
    ).to_dicts()
    jobs = []
    for row in rows:
        replaces = prefer == "networks" and row["has_delivered"]
        # A network's label that counted over a delivered one gives way again.
        if row["has_delivered"] and not replaces and not row["replaces_delivered"]:
            continue
        version = segmenter.version(row["knee_visit"])
        if version is None:
            continue
        fingerprint = input_fingerprint(
            [row["dess_fingerprint"], version, str(replaces)], "", CODE_VERSION[STEP]
        )
        if fingerprint != row["tried_fingerprint"] or _is_lost(settings, row):
            jobs.append(_Job(row, version, replaces, fingerprint))
    return jobs


def _is_lost(settings: Settings, row: Mapping[str, Any]) -> bool:
    """Whether the lake lists a label whose file is gone."""
    fingerprint = row["network_label_fingerprint"]
    return (
        fingerprint is not None
        and not network_label_path(settings, row["timepoint"], fingerprint).is_file()
    )


class _Worker:
    """Labels one scan and stores the answer."""

    def __init__(self, segmenter: Segmenter, settings: Settings) -> None:
        self._segmenter = segmenter
        self._settings = settings

    def __call__(self, job: _Job) -> _Labelled:
        start = time.perf_counter()
        row = job.row
        same = (row["labelled_dess_fingerprint"], row["labelled_by"]) == (
            row["dess_fingerprint"],
            job.version,
        )
        if same and not _is_lost(self._settings, row):
            # Only whose label counts has changed.
            return _Labelled(row["network_label_fingerprint"], 0.0)
        scan = Input(locate(self._settings.inbox, row["dess_fingerprint"]), row["dess_fingerprint"])
        image = scan_image(scan)
        if not isinstance(image, Volume):
            raise BadInputError(
                Reason.MIXED_SERIES,
                short_name(scan.path),
                "has several echoes where a structural scan is one image",
                "Deliver the combined DESS image",
            )
        side: Side = "LEFT" if row["side"] == "LEFT" else "RIGHT"
        labels = self._segmenter.segment(KneeScan(image, side, row["knee_visit"]))
        fingerprint = self._store(in_stored_scheme(labels), row["timepoint"])
        return _Labelled(fingerprint, time.perf_counter() - start)

    def _store(self, labels: Volume, timepoint: str) -> str:
        """Write a label under its fingerprint, whole or not at all."""
        folder = network_label_path(self._settings, timepoint, "-").parent
        make_directory(folder)
        staged = folder / f"writing-{os.getpid()}.nrrd"
        write_labels(labels, staged)
        fsync_file(staged)
        fingerprint = file_fingerprint(staged)
        move_into_place(staged, network_label_path(self._settings, timepoint, fingerprint))
        return fingerprint


def _commit(
    lake: Lake,
    segmenter: Segmenter,
    timepoint: str,
    chunk: Sequence[tuple[_Job, _Labelled | Exception]],
    counts: dict[str, int],
) -> str | None:
    rows: dict[str, list[dict[str, Any]]] = {"network_labels": [], "quarantine": [], "ledger": []}
    for job, answer in chunk:
        key = {name: job.row[name] for name in ("knee_visit", "subject_id", "side", "timepoint")}
        done = isinstance(answer, _Labelled)
        counts["done" if done else "quarantined"] += 1
        if isinstance(answer, _Labelled):
            rows["network_labels"].append(
                {
                    **key,
                    "scheme": SCHEME,
                    "source": segmenter.source,
                    "label_fingerprint": answer.label_fingerprint,
                    "dess_fingerprint": job.row["dess_fingerprint"],
                    "segmenter_hash": job.version,
                    "replaces_delivered": job.replaces_delivered,
                }
            )
        else:
            error = unexpected(answer, job.row["knee_visit"])
            rows["quarantine"].append(
                {
                    **key,
                    "stage": STEP,
                    "file": short_name(error.file),
                    "reason": str(error.reason),
                    "what": error.what,
                    "remedy": error.remedy,
                    "input_fingerprint": job.input_fingerprint,
                }
            )
        rows["ledger"].append(
            {
                "knee_visit": job.row["knee_visit"],
                "step": STEP,
                "input_fingerprint": job.input_fingerprint,
                "status": "done" if done else "quarantined",
                "seconds": answer.seconds if isinstance(answer, _Labelled) else 0.0,
            }
        )
    # Versions may differ by scan (nnU-Net writes one file each), so rows carry their own.
    with lake.batch(STEP, timepoint, CODE_VERSION[STEP], segmenter.source) as batch:
        for table, table_rows in rows.items():
            if table_rows:
                batch.add(table, table_rows)
    return batch.batch_id
