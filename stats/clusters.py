"""Where on a surface a map differs: clusters, their area, peak and compartments."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stats.mesh import SurfaceMesh
from stats.tfce import connected_parts

Floats = NDArray[np.float64]

CLUSTER_SCHEMA: dict[str, pl.DataType] = {
    "cluster": pl.Int64(),
    "sign": pl.Int64(),
    "n_vertices": pl.Int64(),
    "area_mm2": pl.Float64(),
    "peak_vertex": pl.Int64(),
    "peak_t": pl.Float64(),
    "peak_estimate": pl.Float64(),
    "peak_x_mm": pl.Float64(),
    "peak_y_mm": pl.Float64(),
    "peak_z_mm": pl.Float64(),
    "mean_estimate": pl.Float64(),
    "compartments": pl.List(
        pl.Struct({"compartment": pl.String(), "area_mm2": pl.Float64(), "share": pl.Float64()})
    ),
}

ALL = "all"
"""The row of a compartment table that is over the whole surface."""

SIGNIFICANT = 0.05


def cluster_labels(t: Floats, limit: Floats, mesh: SurfaceMesh) -> NDArray[np.int64]:
    """Cluster of each vertex, from 1 by falling area; 0 where |t| is below the limit or NaN.

    Vertices of one cluster share edges and the sign of t.

    Args:
        t: shape (n,).
        limit: |t| that forms clusters, shape (n,).
        mesh: of n vertices.
    """
    known = np.nan_to_num(np.asarray(t, dtype=np.float64), nan=0.0)
    above = connected_parts(known >= limit, mesh.neighbours)
    below = connected_parts(known <= -limit, mesh.neighbours)
    joined = np.where(below > 0, below + above.max(initial=0), above)
    area = np.bincount(joined, mesh.area_mm2)
    # Equal areas keep the order of their lowest vertices, so that numbers are reproducible.
    rank = np.zeros(len(area), dtype=np.int64)
    rank[1 + np.argsort(-area[1:], kind="stable")] = np.arange(1, len(area))
    return rank[joined]


def cluster_table(
    points: pl.DataFrame, labels: NDArray[np.int64], mesh: SurfaceMesh
) -> pl.DataFrame:
    """One row per cluster, largest first.

    Args:
        points: of `spm`, in the order of the mesh's vertices.
        labels: of `cluster_labels`.
        mesh: the surface.

    Returns:
        Columns `CLUSTER_SCHEMA`: areas in mm2, positions in mm, `peak_...` where |t| is largest,
        `mean_estimate` weighted by area; `compartments` with the area and share in each.
    """
    t, estimate = points["t"].to_numpy(), points["estimate"].to_numpy()
    names = np.array(mesh.compartment if mesh.compartment is not None else [])
    rows = []
    for cluster in range(1, int(labels.max(initial=0)) + 1):
        inside = np.flatnonzero(labels == cluster)
        area = mesh.area_mm2[inside]
        peak = inside[np.argmax(np.abs(t[inside]))]
        x, y, z = mesh.vertices_mm[peak].tolist()
        rows.append(
            {
                "cluster": cluster,
                "sign": int(np.sign(t[peak])),
                "n_vertices": len(inside),
                "area_mm2": float(area.sum()),
                "peak_vertex": int(peak),
                "peak_t": float(t[peak]),
                "peak_estimate": float(estimate[peak]),
                "peak_x_mm": x,
                "peak_y_mm": y,
                "peak_z_mm": z,
                "mean_estimate": _weighted(estimate[inside], area),
                "compartments": [
                    {
                        "compartment": str(name),
                        "area_mm2": float(area[names[inside] == name].sum()),
                        "share": float(area[names[inside] == name].sum() / area.sum())
                        if area.sum() > 0
                        else None,
                    }
                    for name in np.unique(names[inside])
                ]
                if mesh.compartment is not None
                else [],
            }
        )
    return pl.DataFrame(rows, schema=CLUSTER_SCHEMA)


def _weighted(values: Floats, weights: Floats) -> float | None:
    known = np.isfinite(values)
    total = weights[known].sum()
    return float(values[known] @ weights[known] / total) if total > 0 else None


def compartment_table(points: pl.DataFrame, mesh: SurfaceMesh) -> pl.DataFrame:
    """Area-weighted summary of a map per compartment, and over the whole surface (`all`).

    Args:
        points: of `spm_family` (with `p_fwe_max_t` where there were permutations), in the order
            of the mesh's vertices.
        mesh: the surface; without compartments only the row `all`.

    Returns:
        Per compartment: n_vertices; area_mm2; tested_area_mm2; group means, estimate and Hedges'
        g averaged over the tested area; area_p05_mm2 (uncorrected p < 0.05), area_fwe_mm2
        (max-T p < 0.05; NULL without permutations) and their shares of the tested area.
    """
    area, p = mesh.area_mm2, points["p"].to_numpy()
    names = np.array(mesh.compartment if mesh.compartment is not None else [""] * mesh.n)
    tested = np.isfinite(p)
    corrected = "p_fwe_max_t" in points.columns
    fwe = points["p_fwe_max_t"].to_numpy() if corrected else p
    rows = []
    for name in [ALL, *(str(n) for n in np.unique(names) if n)]:
        inside = np.ones(mesh.n, dtype=bool) if name == ALL else names == name
        used = inside & tested
        tested_area = float(area[used].sum())
        small = float(area[used & (p < SIGNIFICANT)].sum())
        family = float(area[used & (fwe < SIGNIFICANT)].sum()) if corrected else None
        rows.append(
            {
                "compartment": name,
                "n_vertices": int(inside.sum()),
                "area_mm2": float(area[inside].sum()),
                "tested_area_mm2": tested_area,
                **{
                    column: _weighted(points[source].to_numpy()[used], area[used])
                    for column, source in (
                        ("mean_group0", "mean_group0"),
                        ("mean_group1", "mean_group1"),
                        ("estimate", "estimate"),
                        ("mean_hedges_g", "hedges_g"),
                    )
                },
                "area_p05_mm2": small,
                "share_p05": small / tested_area if tested_area > 0 else None,
                "area_fwe_mm2": family,
                "share_fwe": family / tested_area
                if family is not None and tested_area > 0
                else None,
            }
        )
    floats = (
        "mean_group0",
        "mean_group1",
        "estimate",
        "mean_hedges_g",
        "share_p05",
        "area_fwe_mm2",
    )
    return pl.DataFrame(rows).with_columns(pl.col(*floats, "share_fwe").cast(pl.Float64))
