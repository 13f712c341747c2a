"""Where maps of two groups of knees differ, point by point on the atlas (the paper's Fig. 1).

Here: which knees and maps are compared, and keeping what came out. Not here: the tests
(`stats.spm_family`), the groups (`sql/association/spm_cases.sql`) or how maps are scaled
(`sql/atlas/scaled_cam_maps.sql`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np
import polars as pl

from imaging.labels import Bone
from lake.association_tables import SINGLE_BIOMARKERS
from lake.store import Lake
from pipeline.atlas import AtlasBone, read_atlas
from pipeline.config import CODE_VERSION, Settings
from pipeline.regressions import is_current
from pipeline.spm_results import NOTES, store_refusal, store_spm
from sql.reading import fetch
from stats.errors import StatisticsError
from stats.permutation import PermutationOptions
from stats.source import load_macros
from stats.spm_design import SpmDesign
from stats.spm_family import spm_family

COVARIATES = ("age_years", "sex", "bmi")
CASES = "compared_cases"
"""Name of the table of the cases, on the connection that compares them."""


@dataclass(frozen=True)
class Comparison:
    """One family of maps, tested together.

    Attributes:
        analysis: its name, also the asset's.
        group: column of `spm_cases`: group 1 where true, group 0 where false.
        target: whose Grad-CAM; None for the biomarkers themselves.
        title: what is compared, for people.
        notes: what it means, one sentence each.
    """

    analysis: str
    group: str
    target: str | None
    title: str
    notes: tuple[str, ...]


_TP_TN = (
    "Group 1: true positives with pain; group 0: true negatives without; the knees that at least "
    "`min_models_correct` of the 18 models get right."
)
_SELECTED = (
    "The groups are chosen by the models whose maps are compared: some difference is there by "
    "construction, and no p-value corrects for that. Read it beside the leakage controls."
)
_SCALED = "Maps are rectified and scaled from 0 to 1 knee by knee, so magnitudes are not compared."

COMPARISONS: Mapping[str, Comparison] = {
    one.analysis: one
    for one in (
        Comparison(
            "spm_cam_pain",
            "is_tp_pain",
            "pain",
            "Grad-CAM for pain: true positives with pain against true negatives without",
            (_TP_TN, "Evidence for pain in both groups: the same functional of both.", _SCALED,
             _SELECTED),
        ),
        Comparison(
            "spm_cam_predicted",
            "is_tp_pain",
            "predicted",
            "Grad-CAM of the predicted class: true positives with pain against true negatives",
            (
                _TP_TN,
                "Evidence for pain in group 1 and for no pain in group 0, as the authors' code: "
                "two functionals, which differ also where knees do not.",
                _SCALED,
                _SELECTED,
            ),
        ),
        Comparison(
            "spm_biomarkers",
            "has_pain",
            None,
            "Biomarkers: chronic pain against no pain",
            ("All test knees at each patient's first visit; no network takes part.",),
        ),
    )
}  # fmt: skip
"""By name of the analysis."""


@dataclass(frozen=True)
class ComparisonOptions:
    """How maps are tested.

    Attributes:
        n_permutations: rearrangements behind family-wise p-values.
        seed: of the rearrangements.
        cluster_p: two-sided uncorrected p that forms clusters.
        min_models_correct: the k of "correct by k of 18" that makes the groups of Fig. 1.
        min_present_share: of the cases that need a value at a vertex for it to be searched.
    """

    n_permutations: int = 5000
    seed: int = 0
    cluster_p: float = 0.001
    min_models_correct: int = 18
    min_present_share: float = 0.5


@dataclass(frozen=True)
class ComparisonRun:
    """What a comparison came to.

    Attributes:
        analysis: its name.
        state: 'computed', 'unchanged', 'refused' (`reason` says why) or 'waiting' for maps.
        n_group1, n_group0: knees compared.
        n_left_out: knees of either group without maps on the atlas.
        reason: why there is no result; None where there is.
        input_fingerprint: of cases, maps, options and code.
    """

    analysis: str
    state: str
    n_group1: int
    n_group0: int
    n_left_out: int
    reason: str | None
    input_fingerprint: str


def map_name(bone: str, biomarker: str) -> str:
    """Name of a map in the tables of results."""
    return f"{bone}_{biomarker}"


def compare_maps(
    lake: Lake,
    settings: Settings,
    comparison: Comparison,
    options: ComparisonOptions | None = None,
) -> ComparisonRun:
    """Test a family of maps and store what came out, where its input has changed.

    Args:
        lake: with the atlas and maps read there; receives `spm_points`, `spm_clusters`,
            `spm_compartments`.
        settings: what the rows are written with.
        comparison: which family.
        options: how; the defaults where None.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    options = options or ComparisonOptions()
    read = f"FROM spm_cases FROM analyses FROM {_relation(comparison)} FROM current_atlas_maps"
    choices = {"min_models_correct": options.min_models_correct}
    with lake.connect(choices, read) as connection:
        cases, n_left_out = _make_cases(connection, comparison)
        counts = {flag: cases.filter(pl.col("in_group") == flag).height for flag in (True, False)}
        if not len(cases):
            return ComparisonRun(comparison.analysis, "waiting", 0, 0, n_left_out, None, "")
        identity = _fingerprint(connection, comparison, options, cases)

        def run(state: str, reason: str | None = None) -> ComparisonRun:
            return ComparisonRun(
                comparison.analysis, state, counts[True], counts[False], n_left_out, reason,
                identity,
            )  # fmt: skip

        if is_current(connection, comparison.analysis, identity):
            return run("unchanged")
        # A connection made for a query has the macros of that query only.
        load_macros(connection)
        atlas = read_atlas(lake)
        notes = (
            *comparison.notes,
            *_options_note(comparison, options),
            *_left_out_note(n_left_out),
            *NOTES,
        )
        maps = _make_maps(connection, comparison, atlas)
        # A sum over threads differs from run to run in its last digits, and so would the bytes.
        connection.execute("SET threads = 1")
        try:
            family = spm_family(
                connection,
                maps,
                CASES,
                SpmDesign("in_group", COVARIATES, case="knee_visit"),
                meshes={
                    map_name(bone, biomarker): made.mesh
                    for bone, made in atlas.items()
                    for biomarker in SINGLE_BIOMARKERS
                },
                permutations=PermutationOptions(
                    options.n_permutations,
                    options.seed,
                    cluster_p=options.cluster_p,
                    min_present_share=options.min_present_share,
                ),
            )
        except StatisticsError as error:
            n_maps = len(atlas) * len(SINGLE_BIOMARKERS)
            store_refusal(
                lake, settings, comparison.analysis, identity, len(cases), n_maps, str(error)
            )
            return run("refused", str(error))
    store_spm(lake, settings, comparison.analysis, identity, family, notes)
    return run("computed")


def _relation(comparison: Comparison) -> str:
    return "scaled_cam_maps" if comparison.target else "current_atlas_maps"


def _options_note(comparison: Comparison, options: ComparisonOptions) -> tuple[str, ...]:
    chosen = (
        f"{options.n_permutations} rearrangements (seed {options.seed}); searched where at least "
        f"{options.min_present_share:.0%} of the knees have a value."
    )
    if comparison.target is None:
        return (chosen,)
    return (f"min_models_correct = {options.min_models_correct}; {chosen}",)


def _left_out_note(n_left_out: int) -> tuple[str, ...]:
    if not n_left_out:
        return ()
    return (
        f"{n_left_out} knees of the two groups have no maps on the atlas (not mapped, or "
        "quarantined) and are left out.",
    )


def _make_cases(
    connection: duckdb.DuckDBPyConnection, comparison: Comparison
) -> tuple[pl.DataFrame, int]:
    """The table of cases that have maps on the atlas; those, and how many have none."""
    connection.execute(
        f"CREATE TEMP TABLE of_groups AS SELECT knee_visit, {comparison.group} AS in_group, "  # noqa: S608 - names of ours
        f"{', '.join(COVARIATES)} FROM spm_cases WHERE {comparison.group} IS NOT NULL"
    )
    quantity = "target = 'pain'" if comparison.target else "quantity = 'value'"
    connection.execute(
        f"CREATE TEMP TABLE {CASES} AS SELECT *, "  # noqa: S608 - names of ours
        "row_number() OVER (ORDER BY knee_visit) AS position FROM of_groups "
        f"SEMI JOIN (SELECT knee_visit FROM {_relation(comparison)} WHERE {quantity}) "
        "USING (knee_visit) ORDER BY knee_visit"
    )
    cases = fetch(connection, f"FROM {CASES} ORDER BY knee_visit").drop("position")
    [(n_all,)] = connection.execute("SELECT count(*) FROM of_groups").fetchall()
    return cases, int(n_all) - len(cases)


def _fingerprint(
    connection: duckdb.DuckDBPyConnection,
    comparison: Comparison,
    options: ComparisonOptions,
    cases: pl.DataFrame,
) -> str:
    maps = connection.execute(
        "SELECT DISTINCT input_fingerprint FROM current_atlas_maps "  # noqa: S608 - a name of ours
        f"SEMI JOIN {CASES} USING (knee_visit) ORDER BY ALL"
    ).fetchall()
    stated: list[Any] = [
        CODE_VERSION["statistics"],
        asdict(comparison),
        asdict(options),
        cases.rows(),
        maps,
    ]
    return hashlib.sha256(json.dumps(stated, default=str).encode()).hexdigest()


def _make_maps(
    connection: duckdb.DuckDBPyConnection,
    comparison: Comparison,
    atlas: Mapping[Bone, AtlasBone],
) -> dict[str, str]:
    """A table of each map, one row per vertex, values in the order of the cases.

    A case without the map has no value at any vertex. That layout is a quarter of the work of one
    row per case for the ANCOVA, which reads each map several times.
    """
    wanted = "target = $1" if comparison.target else "quantity = $1"
    connection.execute(
        "CREATE TEMP TABLE compared_maps AS SELECT position, bone, biomarker, values "  # noqa: S608 - names of ours
        f"FROM {_relation(comparison)} JOIN {CASES} USING (knee_visit) WHERE {wanted}",
        [comparison.target or "value"],
    )
    [(n_cases,)] = connection.execute(f"SELECT count(*) FROM {CASES}").fetchall()  # noqa: S608 - a name of ours
    relations = {}
    for bone, made in atlas.items():
        n_vertices = len(made.surface.vertices_mm)
        for biomarker in SINGLE_BIOMARKERS:
            name = map_name(bone, biomarker)
            relations[name] = f"map_of_{name}"
            found = fetch(
                connection,
                "SELECT position, values FROM compared_maps WHERE bone = $1 AND biomarker = $2 "
                "AND values IS NOT NULL",
                [bone, biomarker],
            )
            values = np.full((n_vertices, n_cases), np.nan, np.float32)
            if found.height:
                of_cases = found["values"].list.to_array(n_vertices).to_numpy()
                values[:, found["position"].to_numpy() - 1] = of_cases.T
            rows = pl.DataFrame({"vertex": np.arange(n_vertices), "values": values})
            connection.register("vertex_rows", rows.to_arrow())
            connection.execute(
                f"CREATE TEMP TABLE {relations[name]} AS "  # noqa: S608 - names of ours
                "SELECT vertex, values::FLOAT[] AS values FROM vertex_rows"
            )
            connection.unregister("vertex_rows")
    connection.execute("DROP TABLE compared_maps")
    return relations
