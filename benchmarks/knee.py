"""A whole knee of real resolution: label and T2 series to all maps, against pymskt and DOSMA.

The real label and the real multi-echo series of ../shared/data are of two people: the series is
moved onto the label, so the work is real and the T2 values mean nothing. The peers do less:
pymskt projects no T2 and makes no spherical maps, and DOSMA gets the same number of voxels that
need no resampling.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import run_peer
from benchmarks.t2_fit import SLOW_VOXELS, VOXELS, log_linear, shared_data, vectors
from imaging.dicom import read_echoes
from imaging.knee import knee_maps
from imaging.label_files import read_labels
from imaging.labels import load_scheme
from imaging.volume import EchoSeries, index_to_world
from lake.maps import write_knee_zarr
from pipeline.config import CODE_VERSION
from pipeline.parts import map_parts

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def whole_knee() -> dict[str, object]:
    """Read, measure, write; in this process."""
    from imaging.knee import MapParameters

    began = time.process_time(), time.perf_counter()
    knee = shared_data() / "knee"
    labels = read_labels(knee / "sag_3d_dess_right_label.nrrd", load_scheme("mskt"))
    series = read_echoes(knee / "mese_t2_dicom.zip")
    middle = [
        index_to_world(affine, (np.array(shape) - 1) / 2)
        for affine, shape in (
            (labels.affine, labels.array.shape),
            (series.affine, series.array.shape[1:]),
        )
    ]
    affine = series.affine.copy()
    affine[:3, 3] += middle[0] - middle[1]
    series = EchoSeries(series.array, affine, series.echo_times_ms)
    measured = knee_maps(labels, "RIGHT", t2_series=series)
    with tempfile.TemporaryDirectory() as folder:
        parts = map_parts(measured, MapParameters(), CODE_VERSION["maps"], knee_visit="knee")
        write_knee_zarr(Path(folder) / "knee.zarr", parts)
    means = {
        f"{row.bone} {row.compartment}": row.mean
        for row in measured.biomarkers
        if row.biomarker == "cartilage_thickness" and row.method == "normal"
    }
    return {
        "cpu_seconds": time.process_time() - began[0],
        "wall_seconds": time.perf_counter() - began[1],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "means": means,
        "stages": measured.seconds,
    }


def ours() -> dict[str, object]:
    """The same in a fresh process on one thread, after one run that fills the JIT's cache."""
    runs = [
        subprocess.run(
            [sys.executable, "-m", "benchmarks.knee"],
            env={**os.environ, **ONE_THREAD},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(4)
    ]
    results = [json.loads(run) for run in runs[1:]]
    return min(results, key=lambda result: result["cpu_seconds"])


def dosma_seconds() -> float:
    """CPU seconds of DOSMA's three-parameter fit for a knee's voxels, scaled from a subset."""
    signals, times, _ = vectors()
    some = signals[:SLOW_VOXELS]
    s0, t2 = log_linear(some, times)
    start = np.stack([s0, t2, np.zeros_like(s0)], axis=1)
    found = run_peer(
        "dosma", "dosma_t2.py", {"signals": some, "echo_times_ms": times, "start": start}
    )
    return float(found["cpu_seconds"]) * VOXELS / len(some)


def run() -> None:
    """Print the table."""
    label = shared_data() / "knee" / "sag_3d_dess_right_label.nrrd"
    if not label.is_file():
        print("Skipped: the real data of ../shared/data is not on this machine.")
        return
    ourselves = ours()
    bones = np.array([[5, 1, -1, -1], [6, 2, 3, -1], [7, 4, -1, -1]])
    pymskt = run_peer(
        "pymskt", "pymskt_thickness.py", {"label_path": np.array(str(label)), "bones": bones}
    )
    dosma = dosma_seconds()
    peers = float(pymskt["cpu_seconds"]) + dosma
    seconds = ourselves["cpu_seconds"]
    means = ourselves["means"]
    print(
        "| whole knee, one core | CPU s | peak GB | thickness femur / tibia / patella, mm |\n"
        "|---|---|---|---|\n"
        f"| kneelake: reading, three thickness methods, T2, 15 maps, Zarr | {seconds:.1f} | "
        f"{ourselves['peak_gb']:.2f} | {means['femur whole']:.3f} / {means['tibia whole']:.3f} / "
        f"{means['patella whole']:.3f} (normal) |\n"
        f"| pymskt: thickness of three bones | {float(pymskt['cpu_seconds']):.1f} | "
        f"{float(pymskt['peak_bytes']) / 1e9:.2f} | "
        f"{' / '.join(f'{mean:.3f}' for mean in pymskt['mean_mm'])} (rays) |\n"
        f"| DOSMA: three-parameter T2 of {VOXELS:,} voxels | {dosma:.1f} | | |\n"
        f"\nRatio of CPU seconds, pymskt + DOSMA over kneelake: {peers / seconds:.1f}\n\n"
        f"Wall time of the kneelake run: {ourselves['wall_seconds']:.1f} s; stages: "
        + ", ".join(f"{name} {value:.2f}" for name, value in ourselves["stages"].items())
    )


if __name__ == "__main__":
    print(json.dumps(whole_knee()))
