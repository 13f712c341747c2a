"""`kneelake spm`: maps of two groups compared point by point.

Here: its arguments, the summary for people with what it assumes, `--json` for programs, the files
written. Not here: work (`stats`), storing (`pipeline.spm_results`).
"""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_project.logit_cli import is_file, opened
from dagster_project.terminal import (
    NO_STATEMENT,
    add_command,
    add_json,
    existing_lake,
    print_json,
    print_table,
    settings_of,
)

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from stats.spm_family import SpmFamily

CASES = "spm_cases"
DEFAULT_PERMUTATIONS = 5000
ASSUMES = (
    "Assumes that cases are independent and residuals normal with one variance; p is not corrected "
    "for the number of vertices (as in the paper), q_bh is (Benjamini-Hochberg)."
)
PERMUTED = (
    "p_fwe is family-wise, by {n:,} Freedman-Lane permutations{blocks}: valid where the residuals "
    "of {unit} are exchangeable, without normality."
)


def add_spm(commands: Any) -> None:
    """Add the command to the parser."""
    spm = add_command(commands, "spm", _spm, "Maps of two groups, point by point (ANCOVA in SQL).")
    spm.add_argument(
        "maps",
        nargs="+",
        help="tables of (vertex, values), (case, vertex, value) or (case, values): each a table of "
        "the lake, a CSV or a Parquet file; several are corrected as one family",
    )
    spm.add_argument("--cases", required=True, help="the cases: a table of the lake or a file")
    spm.add_argument("--group", required=True, help="column of 0 and 1: differences are 1 minus 0")
    spm.add_argument(
        "--covariates", default="age,sex,bmi", metavar="A,B", help="default: age,sex,bmi"
    )
    spm.add_argument("--case", default="case", help="key column of cases and maps (default: case)")
    spm.add_argument("--position", default="position", help="1-based index into `values`")
    spm.add_argument("--block", help="who the cases are of, such as subject_id")
    spm.add_argument("--mesh", action="append", type=Path, help="surface of each map, or of all")
    spm.add_argument("--faces", type=Path, help="triangles, where --mesh is a Parquet of vertices")
    spm.add_argument(
        "--permutations", type=int, metavar="N", help="family-wise p by N permutations"
    )
    spm.add_argument(
        "--tfce", action="store_true", help="threshold-free cluster enhancement; needs --mesh"
    )
    spm.add_argument("--exchange", choices=("whole", "within"), default="whole")
    spm.add_argument("--cluster-p", type=float, default=0.001, help="forms clusters (default .001)")
    spm.add_argument(
        "--min-present",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the cases that need a value at a vertex for family-wise p there (default .5)",
    )
    spm.add_argument("--seed", type=int, default=0, help="of the permutations")
    spm.add_argument("--out", type=Path, help="write all vertices here (.parquet or .csv)")
    spm.add_argument("--store", metavar="NAME", help="keep the results in the lake by this name")
    spm.add_argument("--engine", choices=("sql", "polars"), default="sql")
    spm.add_argument("--show-sql", action="store_true", help="print the statement as well")
    add_json(spm)


def _spm(parsed: argparse.Namespace) -> int:
    from stats.permutation import PermutationOptions
    from stats.spm_design import SpmDesign
    from stats.spm_family import spm_family

    if parsed.out is not None and parsed.out.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"--out {parsed.out}: write .parquet or .csv")
    if parsed.tfce and not parsed.mesh:
        raise ValueError("--tfce needs the surface: name it with --mesh")
    n_permutations = parsed.permutations
    if parsed.block is not None and n_permutations is None and not parsed.tfce:
        raise ValueError(
            f"--block {parsed.block} is what permutations keep together, and other p take cases as "
            "independent: give --permutations, or leave --block out and give one case of each"
        )
    if n_permutations is None and parsed.tfce:
        n_permutations = DEFAULT_PERMUTATIONS
    # Before the work, so that a mistyped root does not waste it.
    lake = existing_lake(settings_of(parsed)) if parsed.store else None
    covariates = tuple(name.strip() for name in parsed.covariates.split(",") if name.strip())
    design = SpmDesign(parsed.group, covariates, parsed.case, parsed.block, parsed.position)
    options = (
        None
        if n_permutations is None
        else PermutationOptions(
            n_permutations,
            parsed.seed,
            parsed.exchange,
            cluster_p=parsed.cluster_p,
            min_present_share=parsed.min_present,
        )
    )
    with opened(parsed, parsed.maps[0]) as (connection, first):
        if parsed.out is not None or parsed.store is not None:
            # A sum over threads differs in its last digits from run to run, and so would the bytes.
            connection.execute("SET threads = 1")
        relations = _relations(parsed, connection, first)
        cases = _cases_name(parsed, relations)
        _attach(parsed, connection, parsed.cases, cases)
        family = spm_family(
            connection,
            relations,
            cases,
            design,
            meshes=_meshes(parsed, list(relations)),
            permutations=options,
            cluster_p=parsed.cluster_p,
            engine=parsed.engine,
        )
    files = _write(parsed.out, family) if parsed.out is not None else []
    if lake is not None:
        from pipeline.spm_results import store_spm

        store_spm(lake, settings_of(parsed), parsed.store, _fingerprint(family), family)
    _report(parsed, family, n_permutations, files)
    return 0


def _relations(
    parsed: argparse.Namespace, connection: "duckdb.DuckDBPyConnection", first: str
) -> dict[str, str]:
    """Relation of each map by its name: the file's name, or the table's."""
    names = [Path(maps).stem if is_file(maps) else maps for maps in parsed.maps]
    if len(set(names)) < len(names):
        raise ValueError(f"two maps are called alike: {', '.join(names)}")
    relations = {names[0]: first}
    for number, (name, maps) in enumerate(zip(names[1:], parsed.maps[1:], strict=True), 2):
        relations[name] = f"spm_map_{number}"
        _attach(parsed, connection, maps, relations[name])
    return relations


def _cases_name(parsed: argparse.Namespace, relations: dict[str, str]) -> str:
    """What the cases are called in messages and statements: as the file, if no map is."""
    name = Path(parsed.cases).name
    taken = {relation.casefold() for relation in relations.values()}
    return name if is_file(parsed.cases) and name.casefold() not in taken else CASES


def _attach(
    parsed: argparse.Namespace, connection: "duckdb.DuckDBPyConnection", table: str, name: str
) -> None:
    """Make a table known to a connection that another one was opened with."""
    from stats.source import describe

    with opened(parsed, table) as (other, relation):
        describe(other, relation)
        connection.register(name, other.table(relation).to_arrow_table())


def _meshes(parsed: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    from stats.mesh import read_mesh

    given = parsed.mesh or []
    if len(given) not in (0, 1, len(names)):
        raise ValueError(
            f"--mesh was given {len(given)} times for {len(names)} maps: once, or each"
        )
    meshes = [read_mesh(path, parsed.faces) for path in given]
    return dict(zip(names, meshes * len(names) if len(meshes) == 1 else meshes, strict=False))


def _fingerprint(family: "SpmFamily") -> str:
    digest = hashlib.sha256()
    for name, result in family.results.items():
        digest.update(f"{name}\n{result.sql}\n{result.n_cases}\n".encode())
    digest.update(family.points.hash_rows(0).to_numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, family: "SpmFamily") -> list[Path]:
    """The vertices, and beside them the tables there are."""
    import polars as pl

    tables = {
        "": family.points,
        "_clusters": family.clusters,
        "_compartments": family.compartments,
        "_maxima": family.null_maxima,
    }
    written = []
    for suffix, table in tables.items():
        if suffix and table.is_empty():
            continue
        target = path.with_name(f"{path.stem}{suffix}{path.suffix}")
        if path.suffix.lower() == ".parquet":
            table.write_parquet(target)
        else:
            lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
            table.drop(lists).write_csv(target)
        written.append(target)
    return written


def _summary(family: "SpmFamily") -> "pl.DataFrame":
    """One row per map: vertices tested, and how many differ by each criterion."""
    import polars as pl

    criteria = ("p", "q_bh", "q_by", "p_fwe_max_t", "p_fwe_tfce", "p_fwe_max_t_family")
    there = [name for name in criteria if name in family.points.columns]
    peak = pl.col("t").abs().arg_max()
    return family.points.group_by("map", maintain_order=True).agg(
        pl.len().alias("vertices"),
        pl.col("t").count().alias("tested"),
        *((pl.col(name) < 0.05).sum().alias(f"{name}<.05") for name in there),
        pl.col("vertex").get(peak).alias("peak_vertex"),
        pl.col("t").get(peak).alias("peak_t"),
        pl.col("estimate").get(peak).alias("peak_estimate"),
        pl.col("hedges_g").get(peak).alias("peak_hedges_g"),
    )


def _report(
    parsed: argparse.Namespace, family: "SpmFamily", n_permutations: int | None, files: list[Path]
) -> None:
    results = family.results
    first = next(iter(results.values()))
    if parsed.json:
        said: dict[str, Any] = {
            "n_cases": first.n_cases,
            "n_dropped": first.n_dropped,
            "n_group0": first.n_group0,
            "n_group1": first.n_group1,
            "n_permutations": n_permutations,
            "maps": _summary(family).to_dicts(),
            "not_tested": {name: dict(one.not_tested) for name, one in results.items()},
            "clusters": family.clusters.to_dicts(),
            "compartments": family.compartments.to_dicts(),
            "files": [str(file) for file in files],
        }
        if parsed.show_sql:
            said["sql"] = {name: one.sql for name, one in results.items()}
        print_json(said)
        return
    print(
        f"{first.n_cases} cases, {first.n_group1} of group 1 and {first.n_group0} of group 0 "
        f"({parsed.group}); {first.n_dropped} left out because a value is missing; adjusted for "
        f"{parsed.covariates or 'nothing'}"
    )
    print_table(_summary(family))
    for name, one in results.items():
        if one.not_tested:
            told = ", ".join(f"{reason} {count}" for reason, count in one.not_tested.items())
            print(f"{name}: vertices not tested: {told}")
    for title, table in (("Clusters", family.clusters), ("Compartments", family.compartments)):
        if not table.is_empty():
            print(f"\n{title}")
            print_table(table.drop("compartments", strict=False))
    print(f"\n{ASSUMES}")
    if n_permutations is not None:
        blocks = f" of whole {parsed.block}" if parsed.block and parsed.exchange == "whole" else ""
        print(PERMUTED.format(n=n_permutations, blocks=blocks, unit=parsed.block or "cases"))
    for file in files:
        print(f"wrote {file}")
    if parsed.store:
        print(f"kept in the lake as {parsed.store}: spm_points, spm_clusters, spm_compartments")
    if parsed.show_sql:
        for one in results.values():
            print(f"\n{one.sql or NO_STATEMENT}")
