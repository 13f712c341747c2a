"""The association stage at the paper's size, and what it finds where something, or nothing, is.

Three parts, `python -m benchmarks association`:

1. 875 test knees x 3 bones from maps to tables: atlas, correspondences, maps on the atlas, cell
   sums, three families of maps with 5,000 rearrangements, Table 3 and its controls; wall time by
   step and the largest memory of this process and its workers.
2. Point by point on 875 knees with a strong planted change: how well the family-wise significant
   part of the surface agrees with the region (Dice, by area).
3. 200 null cohorts: the same knees under labels drawn at random; how often anything is family-wise
   significant, with its Monte Carlo interval.

Predictions and Grad-CAM are planted (`planted_association`): no network is trained. As in the paper
all eighteen models are right about some 271 of the 875 knees, the ones whose Grad-CAM are compared;
biomarkers are compared in all.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.planted_association import planted_lake
from imaging.labels import Bone
from imaging.sphere import FRAMES
from lake.store import Lake
from phantom.map_cohort import PlantedEffect, planted_region
from phantom.planted_pain import PainModel
from pipeline.association import run_leakage_controls, run_nested
from pipeline.atlas import AtlasBone, make_atlas, read_atlas
from pipeline.atlas_maps import materialize_atlas_maps
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.correspondences import materialize_correspondences
from pipeline.drawn_maps import DrawingPlan
from pipeline.guided import materialize_cell_sums
from pipeline.map_comparisons import COMPARISONS, compare_maps, map_name
from stats.mesh import SurfaceMesh
from stats.permutation import PermutationOptions
from stats.source import load_macros
from stats.spm_design import SpmDesign
from stats.spm_family import spm_family

SEED = 5
N_KNEES, N_PEOPLE = 875, 6500
"""More people than the study's: of the phantom's, fewer have first visits in the test split."""
AGREED_SHARE = 0.48
"""Of the knees; all models are right about 65 % where they agree, so about 31 % here."""
WORKERS = 2
STRONG = PlantedEffect(thinning_mm=0.5, severity=0.0)
N_NULL, N_NULL_PERMUTATIONS, N_NULL_KNEES = 200, 99, 200

CRITERIA = ("p_fwe_max_t", "p_fwe_tfce")
REACHED = {"at half its height": 0.5, "at a tenth": 0.1}
"""What counts as the planted region, which falls off as a Gaussian: the share of its height. Of a
change as strong as this one, knees enough see its foot too."""


@contextmanager
def timed(name: str, taken: dict[str, float]) -> Iterator[None]:
    """Add a step's wall seconds."""
    start = time.perf_counter()
    yield
    taken[name] = taken.get(name, 0.0) + time.perf_counter() - start


def peak_gib() -> tuple[float, float]:
    """Largest resident memory of this process, and of the largest worker, GiB."""
    own, workers = (
        resource.getrusage(who).ru_maxrss / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own, workers


def associate(lake: Lake, settings: Settings) -> dict[str, float]:
    """The whole stage as the assets run it; seconds by step."""
    taken: dict[str, float] = {}
    cluster = Cluster("processes", WORKERS)
    visits = sorted(lake.sql("SELECT DISTINCT timepoint FROM maps_index")["timepoint"])
    with timed("atlas", taken):
        make_atlas(lake, settings)
    for timepoint in visits:
        with timed("correspondences", taken):
            materialize_correspondences(lake, timepoint, cluster=cluster)
        with timed("atlas maps", taken):
            materialize_atlas_maps(lake, timepoint)
        with timed("cell sums", taken):
            materialize_cell_sums(lake, settings, timepoint)
    for name, comparison in COMPARISONS.items():
        with timed(name, taken):
            compare_maps(lake, settings, comparison)
    steps: tuple[tuple[str, Callable[[Lake, Settings], object]], ...] = (
        ("Table 3", run_nested),
        ("leakage controls", run_leakage_controls),
    )
    for name, function in steps:
        with timed(name, taken):
            function(lake, settings)
    return taken


def height_on_atlas(bone: Bone, made: AtlasBone) -> NDArray[np.float32]:
    """Height of the planted change at the atlas's points, 1 in its middle, 0 off cartilage."""
    frame = FRAMES[bone]
    pixel = np.rint(frame.pixel(made.surface.vertices_mm - made.centroid_mm)).astype(int)
    profile = planted_region(bone).profile
    height = profile[pixel[:, 0].clip(0, profile.shape[0] - 1), pixel[:, 1] % profile.shape[1]]
    return np.where(made.is_cartilage, height, np.float32(0))


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_], area: NDArray[np.float64]) -> float:
    """Overlap by area, 1 where they are the same."""
    return float(2 * area[one & other].sum() / (area[one].sum() + area[other].sum()))


def found_regions(lake: Lake) -> list[tuple[str, str, str, float]]:
    """Bone, criterion, what counts as the region, and Dice of what was found with it."""
    rows: list[tuple[str, str, str, float]] = []
    for bone, made in read_atlas(lake).items():
        height = height_on_atlas(bone, made)
        points = lake.sql(
            "SELECT t, p_fwe_max_t, p_fwe_tfce FROM spm_points "
            "WHERE analysis = 'spm_biomarkers' AND map = $map ORDER BY vertex",
            {"map": map_name(bone, "cartilage_thickness")},
        )
        for criterion in CRITERIA:
            found = (points[criterion].fill_null(1.0) < 0.05).to_numpy()
            rows += [
                (bone, criterion, name, dice(found, height > share, made.area_mm2))
                for name, share in REACHED.items()
            ]
    return rows


def null_rates(lake: Lake) -> list[tuple[str, str, int]]:
    """Of 200 labellings at random, those with anything family-wise significant, by map.

    Values are missing where knees lack cartilage, as in the comparisons themselves.
    """
    atlas = read_atlas(lake)
    rows: list[tuple[str, str, int]] = []
    femur: Bone = "femur"
    quantities = (("cartilage_thickness", "value"), ("cartilage_thickness", "cam_pain"))
    for biomarker, quantity in quantities:
        stored = lake.sql(
            "SELECT values FROM current_atlas_maps WHERE bone = $bone AND biomarker = $biomarker "
            "AND quantity = $quantity ORDER BY knee_visit LIMIT $n",
            {"bone": femur, "biomarker": biomarker, "quantity": quantity, "n": N_NULL_KNEES},
        )["values"]
        values = np.array(stored.list.to_array(len(stored[0])).to_numpy(), dtype=np.float64)
        n_found = dict.fromkeys(CRITERIA, 0)
        with duckdb.connect() as connection:
            load_macros(connection)
            maps = pl.DataFrame({"vertex": np.arange(values.shape[1]), "values": values.T})
            connection.register("maps_given", maps.to_arrow())
            connection.execute(
                "CREATE TABLE maps AS SELECT vertex, values::DOUBLE[] AS values FROM maps_given"
            )
            for cohort in range(N_NULL):
                for name, smallest in one_null(connection, atlas[femur].mesh, cohort).items():
                    n_found[name] += smallest < 0.05
        rows += [(f"{femur} {biomarker} {quantity}", name, n) for name, n in n_found.items()]
    return rows


def one_null(
    connection: duckdb.DuckDBPyConnection, mesh: SurfaceMesh, cohort: int
) -> dict[str, float]:
    """Smallest family-wise p of a random labelling with random covariates."""
    rng = np.random.default_rng([SEED, cohort])
    (n,) = connection.sql("SELECT len(values) FROM maps LIMIT 1").fetchall()[0]
    covariates = {name: rng.standard_normal(n) for name in ("age", "sex", "bmi")}
    labels = rng.permutation(np.arange(n) < n // 3).astype(np.int64)
    cases = pl.DataFrame(
        {"case": np.arange(n), "position": np.arange(1, n + 1), "pain": labels, **covariates}
    )
    connection.register("cases", cases.to_arrow())
    found = spm_family(
        connection,
        {"map": "maps"},
        "cases",
        SpmDesign("pain"),
        meshes={"map": mesh},
        permutations=PermutationOptions(N_NULL_PERMUTATIONS, cohort),
    )
    connection.unregister("cases")
    return {name: float(found.points[name].min()) for name in CRITERIA}  # type: ignore[arg-type]


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = DrawingPlan(SEED, pain=PainModel(separation=2.0), effect=STRONG)
        start = time.perf_counter()
        lake = planted_lake(
            Path(folder) / "lake",
            plan,
            n_people=N_PEOPLE,
            n_knees=N_KNEES,
            agreed_share=AGREED_SHARE,
        )
        settings = Settings(lake_root=lake.root)
        n = lake.sql("SELECT count(DISTINCT knee_visit) AS n FROM maps_index")["n"][0]
        print(f"{n} test knees drawn in {time.perf_counter() - start:.0f} s", flush=True)
        groups = lake.sql(
            "SELECT agreement, count(*) AS n FROM model_agreement GROUP BY ALL ORDER BY ALL"
        )
        print(dict(groups.iter_rows()), flush=True)
        taken = associate(lake, settings)
        print("| step | wall s |\n|---|---|")
        for name, seconds in taken.items():
            print(f"| {name} | {seconds:.1f} |")
        own, worker = peak_gib()
        print(
            f"| all | {sum(taken.values()):.1f} |\n\npeak memory {own:.2f} GiB, of the largest "
            f"worker {worker:.2f} GiB (there are {WORKERS})\n",
            flush=True,
        )
        quality = lake.sql(
            "SELECT bone, count(*) AS n, avg(distance_mm) AS distance_mm, max(flipped_share) AS "
            "flipped, avg(lost_share) AS lost FROM correspondences GROUP BY bone ORDER BY bone"
        )
        with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
            print(quality)
        print("| bone | criterion | planted region | Dice |\n|---|---|---|---|")
        for bone, criterion, name, overlap in found_regions(lake):
            print(f"| {bone} | {criterion} < 0.05 | {name} | {overlap:.2f} |", flush=True)
        print("\n| null cohorts: map | criterion | significant | rate (95 % interval) |")
        print("|---|---|---|---|")
        for name, criterion, n_found in null_rates(lake):
            interval = binomtest(n_found, N_NULL).proportion_ci(method="wilson")
            print(
                f"| {name} | {criterion} | {n_found} of {N_NULL} | {n_found / N_NULL:.3f} "
                f"({interval.low:.3f}, {interval.high:.3f}) |"
            )
