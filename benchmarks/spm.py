"""SPM of 20,000 vertices x 271 knees: kneelake, statsmodels, nilearn, BrainStat, tfce.

271 knees are the paper's 87 TP-pain and 184 TN-no-pain. The maps are simulated, with a fixed seed:
smooth, positive and zero over half of the surface as class activation maps are, with a difference
in a disc. Every tool reads the same Parquet file and runs in a process of its own, on one thread.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.peers import run_peer
from stats.mesh import SurfaceMesh

GRID = (100, 200)
KNEES, PAIN = 271, 87
PERMUTATIONS = 1000
LOOP_VERTICES = 500
"""Vertices that the statsmodels loop gets; its time is multiplied up, and said to be."""
NULL_MAPS = 50

Array = NDArray[np.float64]


def knees() -> Array:
    """Design (KNEES, 5): intercept, age, sex, BMI, pain; the paper's ages and BMI by group."""
    rng = np.random.default_rng(0)
    pain = (np.arange(KNEES) < PAIN).astype(float)
    age = rng.normal(60.1 + 3.7 * pain, 9)
    bmi = rng.normal(25.9 + 5.1 * pain, 4)
    return np.column_stack([np.ones(KNEES), age, rng.integers(1, 3, KNEES), bmi, pain])


def sphere() -> SurfaceMesh:
    """A grid of GRID over a sphere of 30 mm, closed around."""
    rows, columns = GRID
    phi, theta = np.meshgrid(
        np.linspace(-1.4, 0.4, rows),
        np.linspace(0, 2 * np.pi, columns, endpoint=False),
        indexing="ij",
    )
    vertices = 30 * np.stack(
        [np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1
    )
    number = np.arange(rows * columns).reshape(GRID)
    a, b = number[:-1], np.roll(number, -1, axis=1)[:-1]
    c, d = number[1:], np.roll(number, -1, axis=1)[1:]
    faces = np.concatenate(
        [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    )
    return SurfaceMesh.from_faces(vertices.reshape(-1, 3), faces)


def smooth(rng: np.random.Generator) -> Array:
    noise = gaussian_filter(rng.normal(size=GRID), 6, mode=("nearest", "wrap"))
    return noise / noise.std()


def simulated_maps(design: Array) -> NDArray[np.float32]:
    """Shape (KNEES, n_vertex)."""
    rng = np.random.default_rng(1)
    row, column = np.mgrid[: GRID[0], : GRID[1]]
    disc = np.exp(-((row - 50) ** 2 + (column - 100) ** 2) / (2 * 8**2))
    maps = [smooth(rng) + 0.8 * pain * disc for pain in design[:, -1]]
    return np.maximum(np.array(maps), 0).reshape(KNEES, -1).astype(np.float32)


def write_maps(path: Path, maps: NDArray[np.float32]) -> None:
    """One row per vertex, as the lake stores them."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(maps.T.ravel()), KNEES).cast(
        pa.list_(pa.float32())
    )
    pq.write_table(pa.table({"vertex": np.arange(maps.shape[1]), "values": values}), path)


def statsmodels_loop(path: Path, design: Array) -> tuple[Array, Array, float]:
    """Values of t and p of the first LOOP_VERTICES, and CPU seconds multiplied up to all.

    The loop gives what our statement gives, but for g and the corrections: estimate, SE, t, p, its
    interval, and the raw and adjusted means.
    """
    start = time.process_time()
    table = pq.read_table(path)
    flat = table["values"].combine_chunks().values.to_numpy()
    values = flat.reshape(table.num_rows, -1).astype(np.float64)
    reading = time.process_time() - start
    start = time.process_time()
    pain = design[:, -1] == 1
    at_mean = np.tile(design.mean(axis=0), (2, 1))
    at_mean[:, -1] = 0, 1
    found = np.empty((LOOP_VERTICES, 11))
    for vertex, row in enumerate(values[:LOOP_VERTICES]):
        fit = sm.OLS(row, design).fit()
        found[vertex, :4] = fit.tvalues[-1], fit.pvalues[-1], fit.params[-1], fit.bse[-1]
        found[vertex, 4:6] = fit.conf_int()[-1]
        found[vertex, 6:8] = fit.predict(at_mean)
        found[vertex, 8:] = row[pain].mean(), row[~pain].mean(), fit.mse_resid
    per_vertex = (time.process_time() - start) / LOOP_VERTICES
    return found[:, 0], found[:, 1], reading + per_vertex * table.num_rows


def ancova(folder: Path, design: Array, maps: NDArray[np.float32]) -> None:
    path = folder / "maps.parquet"
    write_maps(path, maps)
    print(
        f"{maps.shape[1]:,} vertices x {KNEES} knees, {path.stat().st_size / 1e6:.0f} MB Parquet,"
    )
    print("reading included; quickest of 5 runs\n")
    t_loop, p_loop, loop_cpu = statsmodels_loop(path, design)
    exact = least_squares_t(maps.astype(np.float64), design)
    given = {"design": design, "maps_file": np.array(str(path)), "threads": np.array(1)}
    print("| tool | CPU s | wall s | peak MB (start) | max t error | p error (relative) | x loop |")
    print("|---|---|---|---|---|---|---|")
    for tool, peer, script in (
        ("kneelake, one SQL statement", "kneelake", "spm_kneelake.py"),
        ("kneelake, polars engine", "kneelake", "spm_kneelake.py"),
        ("nilearn OLSModel + scipy FDR", "nilearn", "spm_nilearn.py"),
        ("BrainStat SLM + FDR", "brainstat", "spm_brainstat.py"),
    ):
        engine = {"engine": np.array("polars" if "polars" in tool else "sql")}
        found = run_peer(peer, script, given | engine)
        cpu, wall, peak, before = found["cost"]
        known = np.isfinite(exact)
        error = np.abs(found["t"] - exact)[known].max()
        p = f"{np.abs(found['p'][:LOOP_VERTICES] / p_loop - 1).max():.0e}" if "p" in found else "-"
        print(
            f"| {tool} | {cpu:.2f} | {wall:.2f} | {peak:.0f} ({before:.0f}) | {error:.0e} | {p} "
            f"| {loop_cpu / cpu:.0f} |"
        )
    error = np.nanmax(np.abs(t_loop - exact[:LOOP_VERTICES]))
    print(
        f"| statsmodels OLS loop (from {LOOP_VERTICES} vertices) | {loop_cpu:.1f} | - | - "
        f"| {error:.0e} | 0 | 1 |"
    )


def least_squares_t(values: Array, design: Array) -> Array:
    """Values of t by QR, for checking."""
    basis, triangle = np.linalg.qr(design)
    residual = values - basis @ (basis.T @ values)
    sigma = np.sqrt((residual**2).sum(axis=0) / (KNEES - design.shape[1]))
    return (basis[:, -1] @ values) / sigma * np.sign(triangle[-1, -1])


def permutations(design: Array, maps: NDArray[np.float32]) -> None:
    print(f"\n{PERMUTATIONS} Freedman-Lane permutations, max-T over all vertices\n")
    given = {
        "design": design,
        "values": maps.astype(np.float64),
        "n_permutations": np.array(PERMUTATIONS),
    }
    print("| tool | CPU s | wall s | peak MB (start) | 95 % of max abs t |")
    print("|---|---|---|---|---|")
    for tool, peer, script in (
        ("kneelake", "kneelake", "spm_kneelake_permutation.py"),
        ("nilearn permuted_ols", "nilearn", "spm_permuted_ols.py"),
    ):
        found = run_peer(peer, script, given)
        cpu, wall, peak, before = found["cost"]
        limit = np.quantile(found["maxima"], 0.95)
        print(f"| {tool} | {cpu:.1f} | {wall:.1f} | {peak:.0f} ({before:.0f}) | {limit:.3f} |")


def enhancement() -> None:
    mesh = sphere()
    rng = np.random.default_rng(2)
    t = np.array([smooth(rng).ravel() for _ in range(NULL_MAPS)])
    start, indices = mesh.neighbours
    given = {"t": t, "start": start, "indices": indices}
    print(f"\nTFCE of {NULL_MAPS} maps of {mesh.n:,} vertices, both signs, areas of 1\n")
    print("| tool | CPU ms per map | largest difference, of the largest value |")
    print("|---|---|---|")
    ours = run_peer("kneelake", "spm_kneelake_tfce.py", given)
    theirs = run_peer("tfce", "spm_tfce.py", given)
    apart = np.abs(ours["enhanced"] - theirs["enhanced"]).max() / np.abs(ours["enhanced"]).max()
    print(f"| kneelake | {1000 * ours['cost'][0] / NULL_MAPS:.1f} | - |")
    print(f"| tfce (float32) | {1000 * theirs['cost'][0] / NULL_MAPS:.1f} | {apart:.0e} |")


def run() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    design = knees()
    maps = simulated_maps(design)
    with tempfile.TemporaryDirectory() as name:
        ancova(Path(name), design, maps)
    permutations(design, maps)
    enhancement()
