"""Landmarks carried from bone to bone, against pyfocusr and trimesh's non-rigid ICP.

The bones of ../shared/data/ssm are drawn from a published shape model: the same vertex is the same
point in each. The source is turned by 15 degrees and moved by 20 mm; the target is re-tessellated,
evenly by clustering and unevenly by quadric decimation, so that the order of vertices says nothing.
trimesh's method does not look for the turn and is handed the source as our similarity places it.
The truth is a registration's, too: differences under 0.3 mm mean little.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import run_peer
from benchmarks.t2_fit import shared_data
from imaging.correspondence import DEFAULT_OPTIONS, Surface, correspond, place

BONES = ("Femur", "Tibia", "Patella")
PAIRS = (("S001", "S002"), ("S002", "S010"), ("S010", "S001"))
PEER_PAIRS = 1
"""pyfocusr takes a quarter of a minute a bone."""


def read(folder: Path, subject: str, bone: str) -> Surface:
    import pyvista as pv

    mesh = pv.read(folder / "ssm" / f"{subject}_{bone}.ply")
    return Surface(np.asarray(mesh.points, dtype=float), _faces(mesh))


def _faces(mesh: "object") -> NDArray[np.int64]:
    return mesh.faces.reshape(-1, 4)[:, 1:].astype(np.int64)  # type: ignore[attr-defined]


def decimated(surface: Surface) -> Surface:
    import pyvista as pv

    cells = np.c_[np.full(len(surface.faces), 3), surface.faces].ravel()
    mesh = pv.PolyData(surface.vertices_mm, cells).decimate(0.6)
    return Surface(np.asarray(mesh.points, dtype=float), _faces(mesh))


def moved(surface: Surface) -> Surface:
    """Turned by 15 degrees about an oblique axis, moved by 20 mm."""
    from scipy.spatial.transform import Rotation

    axis = np.array([0.48, -0.62, 0.62])
    turn = Rotation.from_rotvec(np.radians(15) * axis / np.linalg.norm(axis)).as_matrix()
    shift = 20 * np.array([0.6, 0.0, -0.8])
    middle = surface.vertices_mm.mean(axis=0)
    return Surface((surface.vertices_mm - middle) @ turn.T + middle + shift, surface.faces)


def run() -> None:
    """Print a table per tessellation: mean landmark error, CPU seconds, flipped triangles."""
    folder = shared_data()
    options = replace(DEFAULT_OPTIONS, max_energy=np.inf, max_flipped_share=1.0)
    rows: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    for bone in BONES:
        for number, (one, other) in enumerate(PAIRS):
            truth = read(folder, other, bone)
            source, coarse = moved(read(folder, one, bone)), decimated(truth)
            compared = number < PEER_PAIRS
            given = {
                "source_vertices": source.vertices_mm,
                "source_faces": source.faces,
                "target_vertices": truth.vertices_mm,
                "target_faces": truth.faces,
                "decimated_vertices": coarse.vertices_mm,
                "decimated_faces": coarse.faces,
                "n_points": np.array(len(truth.vertices_mm)),
                "run_match": np.array(int(compared)),
            }
            theirs = run_peer("pymskt", "pyfocusr_match.py", given)
            targets = {
                "uniform": Surface(theirs["uniform_vertices"], theirs["uniform_faces"]),
                "decimated": coarse,
            }
            for name, target in targets.items():
                began = time.process_time()
                found = correspond(source, target, options)
                seconds = time.process_time() - began
                rows.setdefault((name, bone, "kneelake"), []).append(
                    (
                        error_mm(found.points_mm, truth),
                        seconds,
                        100 * found.quality.flipped_share,
                    )
                )
                if compared:
                    rows.setdefault((name, bone, "pyfocusr"), []).append(
                        (
                            error_mm(theirs[f"{name}_points"], truth),
                            float(theirs[f"{name}_seconds"]),
                            np.nan,
                        )
                    )
            if compared:
                amberg = run_peer(
                    "trimesh",
                    "trimesh_match.py",
                    {
                        "source_vertices": place(source, truth),
                        "source_faces": source.faces,
                        **{
                            f"{name}_{what}": getattr(target, field)
                            for name, target in targets.items()
                            for what, field in (("vertices", "vertices_mm"), ("faces", "faces"))
                        },
                    },
                )
                for name in targets:
                    rows.setdefault((name, bone, "trimesh Amberg"), []).append(
                        (
                            error_mm(amberg[f"{name}_points"], truth),
                            float(amberg[f"{name}_seconds"]),
                            np.nan,
                        )
                    )
    print("| target | bone | method | pairs | landmark error mm | CPU s | flipped % |")
    print("|---|---|---|---|---|---|---|")
    for (name, bone, method), values in sorted(rows.items()):
        mean = np.mean(values, axis=0)
        flipped = "" if np.isnan(mean[2]) else f"{mean[2]:.3f}"
        print(
            f"| {name} | {bone} | {method} | {len(values)} | {mean[0]:.2f} | {mean[1]:.1f} "
            f"| {flipped} |"
        )


def error_mm(points: NDArray[np.float64], truth: Surface) -> float:
    """Mean distance of vertices from where they belong."""
    return float(np.linalg.norm(points - truth.vertices_mm, axis=1).mean())
