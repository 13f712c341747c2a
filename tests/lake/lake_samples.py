"""Hand-made rows and maps for the lake's tests; also imported by `crash_writer.py`."""

from typing import Any

import numpy as np

from lake.maps import MapKnee, MapPart
from lake.store import Lake

GRID = {
    "n_slice": 10,
    "n_row": 20,
    "n_column": 30,
    "slice_spacing_mm": 0.7,
    "row_spacing_mm": 0.36,
    "column_spacing_mm": 0.36,
}


def key(subject_id: int, timepoint: str = "V00", side: str = "RIGHT") -> dict[str, Any]:
    return {
        "knee_visit": f"{subject_id}_{side}_{timepoint}",
        "subject_id": subject_id,
        "side": side,
        "timepoint": timepoint,
    }


def scan(subject_id: int, sequence: str, fingerprint: str, timepoint: str = "V00") -> dict:
    return {
        **key(subject_id, timepoint),
        **GRID,
        "sequence": sequence,
        "series_fingerprint": fingerprint,
        "n_files": 10,
        "affine": [0.7, 0, 0, -60, 0, 0, 0.4, -20, 0, -0.4, 0, 30, 0, 0, 0, 1],
        "echo_times_ms": [10.0, 20.0] if sequence == "MSME" else [16.3],
    }


def label(subject_id: int, fingerprint: str, timepoint: str = "V00", scheme: str = "mskt") -> dict:
    return {
        **key(subject_id, timepoint),
        "scheme": scheme,
        "source": "delivered",
        "label_fingerprint": fingerprint,
    }


def biomarker(subject_id: int, mean: float | None = 2.0, **other: Any) -> dict:
    row = {
        **key(subject_id, other.pop("timepoint", "V00")),
        "bone": "femur",
        "compartment": "medial",
        "biomarker": "cartilage_thickness",
        "method": "skeleton",
        "is_default": True,
        "mean": mean,
        "sd": None if mean is None else 0.5,
        "n": 0 if mean is None else 100,
        "area_mm2": 900.0,
    }
    return row | other


def ledger(knee_visit: str, step: str, fingerprint: str, status: str = "done") -> dict:
    return {
        "knee_visit": knee_visit,
        "step": step,
        "input_fingerprint": fingerprint,
        "status": status,
        "seconds": 1.5,
    }


def refusal(subject_id: int | None, stage: str, file: str, timepoint: str = "V00") -> dict:
    known = {"timepoint": timepoint} if subject_id is None else key(subject_id, timepoint)
    return {
        **known,
        "stage": stage,
        "file": file,
        "reason": "truncated_file",
        "what": "ends after 10 bytes",
        "remedy": "Deliver it again",
    }


def part(
    subject_ids: list[int],
    bone: str = "femur",
    timepoint: str = "V00",
    size: int = 16,
    thickness_mm: float = 2.0,
    t2: bool = True,
) -> MapPart:
    """Maps whose values tell the knee: bone_shape is 30 + subject_id % 10 everywhere."""
    shape = (len(subject_ids), size, size)
    rho = 30.0 + np.array(subject_ids)[:, None, None] % 10
    covered = np.zeros(shape, bool)
    covered[:, : size // 2] = True
    maps = {
        "bone_shape": np.broadcast_to(rho, shape).astype(np.float32),
        "cartilage_thickness": np.where(covered, thickness_mm, np.nan).astype(np.float32),
    }
    if t2:
        maps["t2_mean"] = np.where(covered, 40.0, np.nan).astype(np.float32)
    knees = tuple(
        MapKnee(
            key(subject_id, timepoint)["knee_visit"],
            subject_id,
            "RIGHT",
            (1.0, 2.0, 3.0),
            False,
            0.04,
            0.02,
            0.5,
        )
        for subject_id in subject_ids
    )
    return MapPart(
        bone,
        knees,
        np.linspace(-1.0, 1.0, size),
        np.linspace(-3.0, 3.0, size),
        maps,
        covered,
        ~covered,
        np.full(covered.shape, 0.5, np.float32),
        {"code_version": "1", "axes": [[1.0, 0.0], [0.0, 1.0]]},
    )


def run_segmentation(lake: Lake, config_hash: str = "c", code_version: str = "1") -> list[str]:
    """What an orchestrator does: segment all that is pending, a batch per timepoint."""
    pending = lake.pending("segmentation", config_hash, code_version).to_dicts()
    for timepoint in sorted({row["timepoint"] for row in pending}):
        with lake.batch("segmentation", timepoint, code_version, config_hash) as batch:
            for row in (row for row in pending if row["timepoint"] == timepoint):
                names = ("knee_visit", "subject_id", "side", "timepoint", "scheme", "source")
                own = {name: row[name] for name in (*names, "label_fingerprint")}
                batch.add(
                    "segmentations",
                    [own | GRID | {"side_evidence": "fibula", "mirrored": False}],
                )
                batch.add(
                    "ledger",
                    [ledger(row["knee_visit"], "segmentation", row["input_fingerprint"])],
                )
    return [row["knee_visit"] for row in pending]


def run_maps(
    lake: Lake, config_hash: str = "c", code_version: str = "1", mean: float = 2.0
) -> list[str]:
    """Likewise for the maps."""
    pending = lake.pending("maps", config_hash, code_version).to_dicts()
    for timepoint in sorted({row["timepoint"] for row in pending}):
        with lake.batch("maps", timepoint, code_version, config_hash) as batch:
            rows = [row for row in pending if row["timepoint"] == timepoint]
            with_t2 = all(row["msme_fingerprint"] for row in rows)
            numbers = [row["subject_id"] for row in rows]
            batch.add_map_part("femur", part(numbers, timepoint=timepoint, t2=with_t2))
            for row in rows:
                batch.add("biomarkers", [biomarker(row["subject_id"], mean, timepoint=timepoint)])
                batch.add("ledger", [ledger(row["knee_visit"], "maps", row["input_fingerprint"])])
    return [row["knee_visit"] for row in pending]
