"""Several maps tested together: the ANCOVA of each, corrected over the vertices of all maps."""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from sql.reading import fetch
from stats.clusters import (
    CLUSTER_SCHEMA,
    cluster_labels,
    cluster_table,
    compartment_table,
)
from stats.engines import Engine
from stats.errors import StatisticsError
from stats.exchange import plan_exchange
from stats.mesh import SurfaceMesh
from stats.permutation import (
    NullMaxima,
    PermutationOptions,
    PermutedMap,
    cluster_limit,
    comparable_t,
    family_wise_p,
    null_maxima,
    over_family,
    searched,
)
from stats.spm import SpmResult, spm
from stats.spm_design import SpmDesign, listed
from stats.spm_maps import ExtraMaps, MapMatrix, check_maps, map_matrix
from stats.spm_sql import Layout
from stats.tfce import tfce

WHOLE_FAMILY = ""
"""`map` of the rows of `null_maxima` that are over all maps."""

_FAMILY_Q = """
SELECT
    vertex_row,
    least(
        1,
        exp(
            MIN(ln_p + ln(n_tested / rank)) OVER (
                ORDER BY rank ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
            )
        )
    ) AS q
FROM (
    SELECT
        vertex_row,
        ln_p,
        count(*) OVER () AS n_tested,
        row_number() OVER (ORDER BY ln_p) AS rank
    FROM family_points
    WHERE ln_p IS NOT NULL
)
"""


@dataclass(frozen=True, eq=False)
class SpmFamily:
    """Maps tested together.

    Attributes:
        points: `map`, the columns of `SpmResult.points`, q_bh_family; with permutations also
            p_permutation (uncorrected), p_fwe_max_t and p_fwe_max_t_family; for maps with a mesh
            also cluster, and with permutations tfce, p_fwe_tfce and p_fwe_tfce_family. Those of
            permutations, and clusters beside them, are NULL where a vertex is not `searched`.
        clusters: `map`, the columns of `cluster_table`; with permutations p_fwe_area and
            p_fwe_area_family. Maps without a mesh have none.
        compartments: `map` and the columns of `compartment_table`.
        null_maxima: `map` ('' is the whole family), permutation, max_abs_t, max_tfce,
            max_cluster_area_mm2. Empty without permutations.
        results: the ANCOVA of each map, with its statement.
        n_possible: rearrangements there are; None without permutations.
        n_fixed_cases: cases that no rearrangement moves; None without permutations.
    """

    points: pl.DataFrame
    clusters: pl.DataFrame
    compartments: pl.DataFrame
    null_maxima: pl.DataFrame
    results: Mapping[str, SpmResult]
    n_possible: float | None
    n_fixed_cases: int | None


def spm_family(
    connection: duckdb.DuckDBPyConnection,
    maps: Mapping[str, str],
    cases: str,
    design: SpmDesign,
    *,
    meshes: Mapping[str, SurfaceMesh] | None = None,
    permutations: PermutationOptions | None = None,
    layout: Layout | None = None,
    extra_maps: ExtraMaps = "refuse",
    confidence: float = 0.95,
    cluster_p: float = 0.001,
    engine: Engine = "sql",
) -> SpmFamily:
    """Test a family of maps of the same cases, e.g. 3 bones x 3 biomarkers.

    Args:
        connection: with the macros of `sql.macros()`.
        maps: relation of each map by its name.
        cases: relation of the cases.
        design: what the columns of the cases are; its `block` is what permutations keep together.
        meshes: surface by name of the map, for the maps that have one; then vertices are numbered
            from 0 as there. TFCE and clusters need it.
        permutations: None for no permutation p-values.
        layout: of the maps; None to recognise it.
        extra_maps: see `spm`.
        confidence: see `spm`.
        cluster_p: two-sided p that forms clusters where there are no permutations.
        engine: see `spm`.

    Raises:
        StatisticsError: see `spm`; or maps of other cases, or a mesh with another number of
            vertices.
    """
    surfaces = dict(meshes or {})
    unknown = sorted(set(surfaces) - set(maps))
    if not maps or unknown or WHOLE_FAMILY in maps:
        raise StatisticsError(
            f"meshes of {listed(unknown)}, which are not maps; there are {listed(list(maps))}"
            if unknown
            else "give at least one map, each with a name"
        )
    results = {
        name: spm(
            connection,
            relation,
            cases,
            design,
            layout=layout,
            extra_maps=extra_maps,
            confidence=confidence,
            engine=engine,
        )
        for name, relation in maps.items()
    }
    for name, mesh in surfaces.items():
        _check_mesh(results[name].points, mesh, name)
    limit_p = cluster_p if permutations is None else permutations.cluster_p
    n_columns = _n_columns(results)
    region = {name: _searched(result, permutations) for name, result in results.items()}
    labels = {
        name: cluster_labels(
            np.where(region[name], results[name].points["t"].to_numpy(), np.nan),
            cluster_limit(results[name].points["n"].to_numpy(), n_columns[name], limit_p),
            mesh,
        )
        for name, mesh in surfaces.items()
    }
    frames = {
        name: _with_clusters(result.points, labels.get(name)) for name, result in results.items()
    }
    tables = {
        name: cluster_table(results[name].points, labels[name], mesh)
        for name, mesh in surfaces.items()
    }
    maxima = _no_maxima()
    n_possible, n_fixed = None, None
    if permutations is not None:
        matrices = {
            name: map_matrix(
                connection, check_maps(connection, relation, cases, design, layout, extra_maps)
            )
            for name, relation in maps.items()
        }
        first = next(iter(matrices.values())).cases
        plan = plan_exchange(first.group, first.block, permutations.exchange)
        given = [
            PermutedMap(
                _values_of(name, matrices[name], first.keys),
                region[name],
                _comparable(results[name], region[name], n_columns[name]),
                surfaces.get(name),
            )
            for name in maps
        ]
        found = null_maxima(given, first.matrix, plan, permutations)
        for index, name in enumerate(maps):
            frames[name] = _with_permutation_p(
                frames[name], found, index, given[index], permutations
            )
            if name in tables:
                tables[name] = _with_area_p(tables[name], found, index)
        maxima = _maxima_table(list(maps), found)
        n_possible, n_fixed = float(np.exp(min(plan.ln_possible, 700.0))), plan.n_fixed
    return SpmFamily(
        points=_family_q(connection, _stack(frames)),
        clusters=_stack(tables) if tables else _no_clusters(),
        compartments=_stack(
            {name: compartment_table(frames[name], mesh) for name, mesh in surfaces.items()}
        )
        if surfaces
        else pl.DataFrame(),
        null_maxima=maxima,
        results=results,
        n_possible=n_possible,
        n_fixed_cases=n_fixed,
    )


def _check_mesh(points: pl.DataFrame, mesh: SurfaceMesh, name: str) -> None:
    if points.height != mesh.n or points["vertex"].to_list() != list(range(mesh.n)):
        raise StatisticsError(
            f"the map {name!r} has {points.height} vertices from {points['vertex'].min()!r} to "
            f"{points['vertex'].max()!r}, and its mesh {mesh.n}, numbered from 0; give a row (of "
            "NULL) for vertices without values"
        )


def _n_columns(results: Mapping[str, SpmResult]) -> dict[str, int]:
    """Columns of each design: what n exceeds df by."""
    found = {}
    for name, result in results.items():
        tested = result.points.drop_nulls("df")
        found[name] = int(tested["n"][0] - tested["df"][0]) if tested.height else result.n_cases
    return found


def _searched(result: SpmResult, permutations: PermutationOptions | None) -> NDArray[np.bool_]:
    t, n = result.points["t"].to_numpy(), result.points["n"].to_numpy()
    if permutations is None:
        return np.isfinite(t)
    return searched(t, n, result.n_cases, permutations)


def _comparable(
    result: SpmResult, region: NDArray[np.bool_], n_columns: int
) -> NDArray[np.float64]:
    """Statistics of the vertices that are searched, NaN elsewhere."""
    t, n = result.points["t"].to_numpy(), result.points["n"].to_numpy()
    df = np.maximum(n - n_columns, 1)
    return np.where(region, comparable_t(t, df, result.n_cases - n_columns), np.nan)


def _values_of(name: str, matrix: MapMatrix, keys: pl.Series) -> NDArray[np.float64]:
    """A map's values with its cases in the order of the first map's."""
    row = {key: index for index, key in enumerate(matrix.cases.keys.to_list())}
    if set(row) != set(keys.to_list()):
        raise StatisticsError(f"the map {name!r} is of other cases than the first")
    return matrix.values[[row[key] for key in keys.to_list()]]


def _with_clusters(points: pl.DataFrame, labels: NDArray[np.int64] | None) -> pl.DataFrame:
    if labels is None:
        return points.with_columns(pl.lit(None, pl.Int64).alias("cluster"))
    return points.with_columns(pl.Series("cluster", labels).replace(0, None))


def _column(name: str, values: NDArray[np.floating]) -> pl.Series:
    return pl.Series(name, values, dtype=pl.Float64).fill_nan(None)


def _with_permutation_p(
    points: pl.DataFrame,
    found: NullMaxima,
    index: int,
    given: PermutedMap,
    options: PermutationOptions,
) -> pl.DataFrame:
    t = given.t
    size = np.abs(t)
    enhanced = np.full(len(t), np.nan)
    if given.mesh is not None:
        enhanced = np.where(
            given.tested,
            tfce(
                t,
                given.mesh.area_mm2,
                given.mesh.neighbours,
                options.tfce_extent_power,
                options.tfce_height_power,
            ),
            np.nan,
        )
    each = (1 + found.as_large[index]) / (1 + found.abs_t.shape[1])
    return points.with_columns(
        _column("p_permutation", np.where(given.tested, each, np.nan)),
        _column("p_fwe_max_t", family_wise_p(size, found.abs_t[index])),
        _column("p_fwe_max_t_family", family_wise_p(size, over_family(found.abs_t))),
        _column("tfce", enhanced),
        _column("p_fwe_tfce", family_wise_p(np.abs(enhanced), found.tfce[index])),
        _column("p_fwe_tfce_family", family_wise_p(np.abs(enhanced), over_family(found.tfce))),
    )


def _with_area_p(table: pl.DataFrame, found: NullMaxima, index: int) -> pl.DataFrame:
    area = table["area_mm2"].to_numpy()
    return table.with_columns(
        _column("p_fwe_area", family_wise_p(area, found.cluster_area_mm2[index])),
        _column("p_fwe_area_family", family_wise_p(area, over_family(found.cluster_area_mm2))),
    )


def _stack(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(
        frame.select(pl.lit(name).alias("map"), pl.all()) for name, frame in frames.items()
    )


def _family_q(connection: duckdb.DuckDBPyConnection, points: pl.DataFrame) -> pl.DataFrame:
    """Benjamini-Hochberg over every tested vertex of every map, in SQL."""
    cursor = connection.cursor()
    cursor.register("family_points", points.select("ln_p").with_row_index("vertex_row"))
    q = fetch(cursor, _FAMILY_Q)
    cursor.close()
    return (
        points.with_row_index("vertex_row")
        .join(
            q.select(pl.col("vertex_row").cast(pl.UInt32), q_bh_family=pl.col("q")),
            on="vertex_row",
            how="left",
            maintain_order="left",
        )
        .drop("vertex_row")
    )


def _no_clusters() -> pl.DataFrame:
    return pl.DataFrame(schema={"map": pl.String(), **CLUSTER_SCHEMA})


def _no_maxima() -> pl.DataFrame:
    return _maxima_frame("x", np.zeros((3, 0))).clear()


def _maxima_frame(name: str, columns: NDArray[np.float64]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "map": [name] * columns.shape[1],
            "permutation": np.arange(1, columns.shape[1] + 1),
            "max_abs_t": columns[0],
            "max_tfce": columns[1],
            "max_cluster_area_mm2": columns[2],
        },
        schema_overrides={"map": pl.String},
    ).with_columns(pl.col(pl.Float64).fill_nan(None))


def _maxima_table(names: list[str], found: NullMaxima) -> pl.DataFrame:
    parts = [
        _maxima_frame(
            name,
            np.array([found.abs_t[i], found.tfce[i], found.cluster_area_mm2[i]]),
        )
        for i, name in enumerate(names)
    ]
    whole = [over_family(each) for each in (found.abs_t, found.tfce, found.cluster_area_mm2)]
    return pl.concat([*parts, _maxima_frame(WHOLE_FAMILY, np.array(whole))])
