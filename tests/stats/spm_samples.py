"""Small cohorts, maps and meshes for the tests of statistical parametric mapping."""

import duckdb
import numpy as np
import polars as pl

import sql
from stats.mesh import SurfaceMesh


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for file in sql.macros():
        connection.execute(file.text)
    return connection


def cohort(n: int, seed: int = 0, *, first: int = 1_000_000) -> pl.DataFrame:
    """Cases with age, sex and BMI, of which about a third has pain."""
    rng = np.random.default_rng(seed)
    age = rng.normal(62, 9, n)
    return pl.DataFrame(
        {
            "case": [f"{first + i}_RIGHT_V00" for i in range(n)],
            "position": np.arange(1, n + 1),
            "subject_id": np.arange(first, first + n),
            "pain": (rng.random(n) < 0.35 + 0.01 * (62 - age)).astype(int),
            "age": age,
            "sex": rng.integers(1, 3, n),
            "bmi": rng.normal(28, 4.5, n),
        }
    )


def design_matrix(cases: pl.DataFrame) -> np.ndarray:
    columns = cases.select("age", "sex", "bmi", "pain").to_numpy().astype(float)
    return np.column_stack([np.ones(cases.height), columns])


def grid_mesh(rows: int, columns: int, compartment: list[str] | None = None) -> SurfaceMesh:
    """A flat sheet of unequal triangles, rows x columns vertices."""
    number = np.arange(rows * columns).reshape(rows, columns)
    a, b = number[:-1, :-1].ravel(), number[:-1, 1:].ravel()
    c, d = number[1:, :-1].ravel(), number[1:, 1:].ravel()
    faces = np.concatenate([np.column_stack([a, b, c]), np.column_stack([b, d, c])])
    y, x = np.mgrid[:rows, :columns].astype(float)
    vertices = np.column_stack([(x * (1 + 0.05 * x)).ravel(), y.ravel(), np.zeros(y.size)])
    return SurfaceMesh.from_faces(vertices, faces, compartment=compartment)


def smooth_maps(rng: np.random.Generator, n: int, rows: int, columns: int) -> np.ndarray:
    """Smooth correlated noise of variance about 1, shape (n, rows * columns)."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(n, rows, columns)), (0, 1.5, 1.5))
    return (noise / noise.std()).reshape(n, -1)


def register(connection: duckdb.DuckDBPyConnection, name: str, values: np.ndarray) -> None:
    """A map of one row per vertex from (n_case, n_vertex); NaN stays NaN."""
    connection.register(
        name,
        pl.DataFrame(
            {"vertex": np.arange(values.shape[1]), "values": values.T.tolist()}
        ).to_arrow(),
    )
