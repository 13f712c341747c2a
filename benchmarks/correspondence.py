"""Landmarks and regions carried from bone to bone, against pyfocusr and trimesh's non-rigid ICP.

The bones of ../shared/data/ssm are drawn from a published shape model: the same vertex is the same
point in each. The source is turned by 15 degrees and moved by 20 mm; the target is re-tessellated,
evenly by clustering and unevenly by quadric decimation, so that the order of vertices says nothing.
trimesh's method does not look for the turn and is handed the source as our similarity places it.
The truth is a registration's, too: differences under 0.3 mm mean little.

Then the same with shafts cut elsewhere; femoral regions carried between the shape model's femora
and a real, osteoarthritic one (`benchmarks.femoral_regions`); and drawn maps carried to an atlas.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from benchmarks.femoral_regions import femoral_regions, region_dice
from benchmarks.peers import run_peer
from benchmarks.t2_fit import shared_data
from imaging.atlas import match_to_atlas, prepare_atlas, surface_of_map
from imaging.correspondence import DEFAULT_OPTIONS, correspond, place
from imaging.label_files import read_labels
from imaging.labels import BONES as BONE_NAMES
from imaging.labels import LabelVolume, load_scheme
from imaging.sphere import FRAMES, read_map
from imaging.surface import bone_surface, largest_component
from imaging.triangles import Surface, area_vectors, vertex_normals
from imaging.volume import to_knee_frame
from phantom.map_cohort import DrawnKnee, draw_maps

BONES = ("Femur", "Tibia", "Patella")
PAIRS = (("S001", "S002"), ("S002", "S010"), ("S010", "S001"))
PEER_PAIRS = 1
"""pyfocusr takes minutes a bone on one core."""
PEER_TIMEOUT_S = 1800.0
LIMITLESS = replace(
    DEFAULT_OPTIONS,
    max_energy=np.inf,
    max_flipped_share=1.0,
    max_distance_mm=np.inf,
    max_unmatched_share=1.0,
    max_log_area_sd=np.inf,
    max_aspect=np.inf,
)
"""What does not fit shall show in the tables."""

FloatArray = NDArray[np.float64]
Row = tuple[float, float, float, float]


def read(folder: Path, subject: str, bone: str) -> Surface:
    import pyvista as pv

    return _surface(pv.read(folder / "ssm" / f"{subject}_{bone}.ply"))


def _surface(mesh: "object") -> Surface:
    faces = mesh.faces.reshape(-1, 4)[:, 1:].astype(np.int64)  # type: ignore[attr-defined]
    return Surface(np.asarray(mesh.points, dtype=float), faces)  # type: ignore[attr-defined]


def _mesh(surface: Surface) -> "object":
    import pyvista as pv

    cells = np.c_[np.full(len(surface.faces), 3), surface.faces].ravel()
    return pv.PolyData(surface.vertices_mm, cells)


def decimated(surface: Surface, share: float = 0.6) -> Surface:
    return _surface(_mesh(surface).decimate(share))  # type: ignore[attr-defined]


def cut(surface: Surface, height_mm: float, up: int) -> Surface:
    """Cut off at a height and closed by a flat face; what lies against `up` is kept."""
    mesh = _mesh(surface).clip_closed_surface(  # type: ignore[attr-defined]
        normal=(0, 0, -up), origin=(0, 0, height_mm)
    )
    return _surface(mesh.triangulate().clean())


def moved(surface: Surface) -> Surface:
    """Turned by 15 degrees about an oblique axis, moved by 20 mm."""
    axis = np.array([0.48, -0.62, 0.62])
    turn = Rotation.from_rotvec(np.radians(15) * axis / np.linalg.norm(axis)).as_matrix()
    shift = 20 * np.array([0.6, 0.0, -0.8])
    middle = surface.vertices_mm.mean(axis=0)
    return Surface((surface.vertices_mm - middle) @ turn.T + middle + shift, surface.faces)


def run() -> None:
    """Print the tables."""
    folder = shared_data()
    # The first call compiles.
    patella = read(folder, "S001", "Patella")
    correspond(patella, patella)
    landmarks(folder)
    cuts(folder)
    regions(folder)
    atlas()


def landmarks(folder: Path) -> None:
    """Print landmark errors on whole bones."""
    rows: dict[tuple[str, str, str], list[Row]] = {}
    for bone in BONES:
        for number, (one, other) in enumerate(PAIRS):
            truth = read(folder, other, bone)
            source = moved(read(folder, one, bone))
            targets = {"uniform": uniform(truth), "decimated": decimated(truth)}
            for name, target in targets.items():
                for method, points, seconds in _matches(source, target):
                    rows.setdefault((name, bone, method), []).append(
                        _row(points, seconds, source, target, truth)
                    )
            if number >= PEER_PAIRS:
                continue
            for method, found in (
                ("pyfocusr", _pyfocusr(source, targets)),
                ("trimesh Amberg", _amberg(source, truth, targets)),
            ):
                for name, (points, seconds) in found.items():
                    rows.setdefault((name, bone, method), []).append(
                        _row(points, seconds, source, targets[name], truth)
                    )
    print("| target | bone | method | pairs | landmark error mm | p95 mm | CPU s | flipped % |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, bone, method), values in sorted(rows.items()):
        error, p95, seconds, flipped = np.mean(values, axis=0)
        print(
            f"| {name} | {bone} | {method} | {len(values)} | {error:.2f} | {p95:.2f} "
            f"| {seconds:.1f} | {flipped:.3f} |",
            flush=True,
        )


def _matches(source: Surface, target: Surface) -> Iterator[tuple[str, FloatArray, float]]:
    began = time.process_time()
    yield "similarity", place(source, target), time.process_time() - began
    began = time.process_time()
    found = correspond(source, target, LIMITLESS)
    yield "kneelake", found.points_mm, time.process_time() - began


def _row(
    points: FloatArray, seconds: float, source: Surface, target: Surface, truth: Surface
) -> Row:
    error = np.linalg.norm(points - truth.vertices_mm, axis=1)
    outward = vertex_normals(target)[
        cKDTree(target.vertices_mm).query(points[source.faces].mean(axis=1))[1]
    ]
    flipped = (area_vectors(points, source.faces) * outward).sum(axis=1) < 0
    return float(error.mean()), float(np.percentile(error, 95)), seconds, 100 * flipped.mean()


def uniform(surface: Surface, n_points: int | None = None) -> Surface:
    """Re-tessellated evenly by pyacvd, in pymskt's environment."""
    found = run_peer(
        "pymskt",
        "pyacvd_remesh.py",
        {
            "vertices": surface.vertices_mm,
            "faces": surface.faces,
            "n_points": np.array(n_points or len(surface.vertices_mm)),
        },
    )
    return Surface(found["uniform_vertices"], found["uniform_faces"])


def _named(targets: dict[str, Surface]) -> dict[str, NDArray]:
    return {
        f"{name}_{what}": getattr(target, field)
        for name, target in targets.items()
        for what, field in (("vertices", "vertices_mm"), ("faces", "faces"))
    }


def _pyfocusr(source: Surface, targets: dict[str, Surface]) -> dict[str, tuple[FloatArray, float]]:
    """Places of the source's vertices and CPU seconds, for targets it got done with in time."""
    found = {}
    for name, target in targets.items():
        given = {"source_vertices": source.vertices_mm, "source_faces": source.faces}
        try:
            theirs = run_peer(
                "pymskt",
                "pyfocusr_match.py",
                given | _named({"target": target}),
                timeout_s=PEER_TIMEOUT_S,
            )
        except subprocess.SubprocessError as stopped:
            print(f"pyfocusr, {name}: {type(stopped).__name__}", flush=True)
            continue
        found[name] = theirs["points"], float(theirs["seconds"])
    return found


def _amberg(
    source: Surface, truth: Surface, targets: dict[str, Surface]
) -> dict[str, tuple[FloatArray, float]]:
    given = {"source_vertices": place(source, truth), "source_faces": source.faces}
    theirs = run_peer("trimesh", "trimesh_match.py", given | _named(targets))
    return {name: (theirs[f"{name}_points"], float(theirs[f"{name}_seconds"])) for name in targets}


def cuts(folder: Path) -> None:
    """Print landmark errors where one of the shafts was cut shorter, on what is left of it."""
    print("\n| bone | shaft left mm | cut | similarity mm | kneelake mm |\n|---|---|---|---|---|")
    for bone, up, left_mm in (
        ("Femur", 1, 70.0), ("Femur", 1, 85.0), ("Tibia", -1, 65.0), ("Tibia", -1, 80.0),
    ):  # fmt: skip
        for which in ("target", "source"):
            errors = []
            for one, other in PAIRS:
                source, truth = read(folder, one, bone), read(folder, other, bone)
                whole = truth if which == "target" else source
                height = up * ((up * whole.vertices_mm[:, 2]).min() + left_mm)
                target, shorter = decimated(truth), cut(whole, height, up)
                # Away from the cut, vertices of the whole bone are vertices of the shorter one.
                rows = np.flatnonzero(up * (height - whole.vertices_mm[:, 2]) > 6.0)
                kept = rows
                if which == "target":
                    target = cut(target, height, up)
                else:
                    source = shorter
                    kept = cKDTree(shorter.vertices_mm).query(whole.vertices_mm[rows])[1]
                errors.append(
                    [
                        np.linalg.norm(points[kept] - truth.vertices_mm[rows], axis=1).mean()
                        for _, points, _ in _matches(moved(source), target)
                    ]
                )
            similarity, own = np.mean(errors, axis=0)
            print(
                f"| {bone} | {left_mm:.0f} | {which} | {similarity:.2f} | {own:.2f} |", flush=True
            )


def regions(folder: Path) -> None:
    """Print the Dice of five femoral regions carried from femur to femur."""
    femora = {name: _knee_frame(read(folder, name, "Femur")) for name in ("S001", "S002", "S010")}
    femora["real"] = uniform(_real_femur(folder), 8000)
    own = {name: femoral_regions(femur) for name, femur in femora.items()}
    groups = {
        "real -> model": [("real", name) for name in ("S001", "S002", "S010")],
        "model -> real": [(name, "real") for name in ("S001", "S002", "S010")],
        "model -> model": list(PAIRS),
    }
    print("\n| femora | method | pairs | Dice |\n|---|---|---|---|")
    for group, pairs in groups.items():
        dice: dict[str, list[float]] = {}
        for number, (one, other) in enumerate(pairs):
            source, target = moved(femora[one]), femora[other]
            found = [(method, points) for method, points, _ in _matches(source, target)]
            if number < PEER_PAIRS:
                theirs = _pyfocusr(source, {"uniform": target})
                found += [("pyfocusr", points) for points, _ in theirs.values()]
            for method, points in found:
                dice.setdefault(method, []).append(
                    region_dice(points, own[one], target, own[other])
                )
        for method, values in dice.items():
            print(f"| {group} | {method} | {len(values)} | {np.mean(values):.3f} |", flush=True)


def _knee_frame(femur: Surface) -> Surface:
    """The model's axes are right, anterior, superior."""
    return Surface(femur.vertices_mm * np.array([-1.0, -1.0, 1.0]), femur.faces)


def _real_femur(folder: Path) -> Surface:
    labels = read_labels(folder / "knee" / "sag_3d_dess_right_label.nrrd", load_scheme("mskt"))
    placed = to_knee_frame(labels, "RIGHT")
    femur = LabelVolume(placed.array, placed.affine, labels.scheme).bone("femur")
    surface = bone_surface(largest_component(femur), placed.affine)
    # pyacvd subdivides first; a tenth of the triangles leaves the surface as it is.
    return decimated(Surface(surface.vertices_mm, surface.faces), 0.9)


def atlas() -> None:
    """Print what carrying drawn maps to an atlas costs, and how far off they come to lie."""
    amplitudes = (0.0, 1.0, -1.0, 2.0, 0.5, -1.5)
    knees = [
        DrawnKnee(1_000_001 + 37 * row, "RIGHT", "V00", amplitude)
        for row, amplitude in enumerate(amplitudes)
    ]
    print("\n| bone | knees | match_to_atlas CPU ms | error mm | p95 mm |\n|---|---|---|---|---|")
    for bone in BONE_NAMES:
        drawn = draw_maps(5, knees, bone)
        shapes, frame, centroids = drawn.maps["bone_shape"], FRAMES[bone], drawn.centroid_mm
        prepared = prepare_atlas(surface_of_map(shapes[0], frame, centroids[0]))
        away = prepared.surface.vertices_mm - centroids[0]
        directions = away / np.linalg.norm(away, axis=1, keepdims=True)
        seconds, errors = [], []
        for shape, centroid in zip(shapes[1:], centroids[1:], strict=True):
            began = time.process_time()
            found = match_to_atlas(prepared, shape, bone, centroid)
            seconds.append(time.process_time() - began)
            # A pixel of one drawn knee is the same point of another.
            true = centroid + read_map(shape, frame, directions)[:, None] * directions
            errors.append(np.linalg.norm(found.points_mm - true, axis=1))
        error = np.concatenate(errors)
        print(
            f"| {bone} | {len(seconds)} | {1e3 * np.mean(seconds):.0f} | {np.nanmean(error):.2f} "
            f"| {np.nanpercentile(error, 95):.2f} |",
            flush=True,
        )
