"""Permutation p-values: against a slow implementation, and how often they err under the null."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from spm_samples import cohort, connect, design_matrix, grid_mesh, register, smooth_maps
from statsmodels.stats.multitest import multipletests

from stats.errors import StatisticsError
from stats.exchange import ExchangePlan, plan_exchange
from stats.mesh import SurfaceMesh
from stats.permutation import (
    PermutationOptions,
    PermutedMap,
    cluster_limit,
    comparable_t,
    family_wise_p,
    null_maxima,
    orthonormal_basis,
    over_family,
    permuted_t,
)
from stats.spm_design import SpmDesign
from stats.spm_family import spm_family
from stats.tfce import largest_of_maps, tfce

MESH = grid_mesh(10, 20)


def observed_t(values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    everyone = np.ones(values.shape[1], dtype=bool)
    given = PermutedMap(values, everyone, np.zeros(values.shape[1]), None)
    return permuted_t(given, orthonormal_basis(matrix), np.arange(len(values))[None])[0]


def slow_freedman_lane(column: np.ndarray, matrix: np.ndarray, order: np.ndarray) -> float:
    """As the paper of Freedman and Lane has it, with statsmodels; NaN travel with their case."""
    known = np.isfinite(column)
    reduced = sm.OLS(column[known], matrix[known, :-1]).fit()
    residual = np.full(len(column), np.nan)
    residual[known] = reduced.resid
    moved = residual[order]
    there = np.isfinite(moved)
    fitted = matrix[there, :-1] @ reduced.params
    return float(sm.OLS(fitted + moved[there], matrix[there]).fit().tvalues[-1])


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_it_is_freedman_lane(missing: float) -> None:
    cases = cohort(30)
    matrix = design_matrix(cases)
    rng = np.random.default_rng(0)
    values = rng.normal(40, 2, (30, 12)) + 0.3 * cases["bmi"].to_numpy()[:, None]
    values[:, 1:][rng.random((30, 11)) < missing] = np.nan
    orders = np.array([np.arange(30), *(rng.permutation(30) for _ in range(15))])
    given = PermutedMap(values, np.ones(12, dtype=bool), np.zeros(12), None)
    found = permuted_t(given, orthonormal_basis(matrix), orders)
    expected = [
        [slow_freedman_lane(column, matrix, order) for column in values.T] for order in orders
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_p_values_are_counts_of_the_same_permutations() -> None:
    """The whole of `null_maxima`, a map with and one without missing values, by brute force."""
    cases = cohort(24)
    matrix = design_matrix(cases)
    rng = np.random.default_rng(1)
    first, second = smooth_maps(rng, 24, 10, 20), smooth_maps(rng, 24, 10, 20)
    second[rng.random(second.shape) < 0.05] = np.nan
    second[:, 7] = np.nan
    tested = np.ones(200, dtype=bool)
    tested[7] = False
    plan = plan_exchange(matrix[:, -1] == 1, None, "whole")
    options = PermutationOptions(39, seed=5, cluster_p=0.1)
    most = len(matrix) - matrix.shape[1]
    maps = []
    for values, known in ((first, np.ones(200, dtype=bool)), (second, tested)):
        t = np.full(200, np.nan)
        t[known] = observed_t(values[:, known], matrix)
        df = np.isfinite(values).sum(axis=0) - matrix.shape[1]
        maps.append(PermutedMap(values, known, comparable_t(t, np.maximum(df, 1), most), MESH))
    found = null_maxima(maps, matrix, plan, options)
    orders = np.array(list(plan.draw(5, 39)))
    basis = orthonormal_basis(matrix)
    for index, given in enumerate(maps):
        df = np.isfinite(given.values).sum(axis=0) - matrix.shape[1]
        t = comparable_t(permuted_t(given, basis, orders), np.maximum(df, 1), most)
        np.testing.assert_allclose(found.abs_t[index], np.abs(t).max(axis=1), rtol=1e-12)
        enhanced = [np.abs(tfce(row, MESH.area_mm2, MESH.neighbours)).max() for row in t]
        np.testing.assert_allclose(found.tfce[index], enhanced, rtol=1e-12)
        as_large = (np.abs(t) >= np.abs(given.t)).sum(axis=0)
        np.testing.assert_array_equal(found.as_large[index][given.tested], as_large[given.tested])
    p = family_wise_p(np.abs(maps[0].t), found.abs_t[0])
    expected = [(1 + (found.abs_t[0] >= abs(t)).sum()) / 40 for t in maps[0].t]
    np.testing.assert_allclose(p, expected)
    family = over_family(found.abs_t)
    np.testing.assert_array_equal(family, found.abs_t.max(axis=0))
    assert np.isnan(family_wise_p(np.array([np.nan]), family)[0])


@pytest.mark.parametrize("df", [1, 3, 10, 200])
def test_statistics_of_few_cases_are_put_on_the_scale_of_many(df: int) -> None:
    t = np.array([-30.0, -4.0, -1.5, 0.0, 0.5, 2.0, 6.0])
    exact = scipy_stats.t.isf(scipy_stats.t.sf(np.abs(t), df), 300) * np.sign(t)
    # The approximation is good to some hundredths, but for a single degree of freedom.
    np.testing.assert_allclose(
        comparable_t(t, np.full(7, df), 300), exact, rtol=0.2 if df == 1 else 0.05
    )
    np.testing.assert_array_equal(comparable_t(t, np.full(7, 300), 300), t)


def test_vertices_of_a_few_cases_do_not_drown_the_others() -> None:
    """Where hardly any knee has cartilage the largest statistics are of any size."""
    cases = cohort(80)
    connection = connect()
    connection.register("knees", cases.to_arrow())
    rng = np.random.default_rng(8)
    values = smooth_maps(rng, 80, 10, 20)
    values[cases["pain"].to_numpy() == 1, 90:110] += 1.5
    # 20 vertices with 8 to 27 cases, whose values are mostly the same.
    for place in range(20):
        few = rng.permutation(80)[: 8 + place]
        odd = np.where(rng.random(len(few)) < 0.3, rng.normal(0, 1, len(few)), 0.0)
        values[:, place] = np.nan
        values[few, place] = odd + 1e-3 * rng.normal(0, 1, len(few))
    register(connection, "maps", values)

    def found(share: float) -> pl.DataFrame:
        options = PermutationOptions(199, min_present_share=share)
        family = spm_family(
            connection, {"m": "maps"}, "knees", SpmDesign("pain"), meshes={"m": MESH},
            permutations=options,
        )  # fmt: skip
        return family.points

    half, everything = found(0.5), found(0.0)
    planted = pl.col("vertex").is_between(90, 109)
    assert half.filter(planted)["p_fwe_max_t"].max() < 0.05
    # Tested, but not searched.
    rare = half.filter(pl.col("vertex") < 20)
    assert rare["p"].null_count() < 20
    for column in ("p_fwe_max_t", "p_fwe_tfce", "p_permutation", "tfce", "cluster"):
        assert rare[column].is_null().all()
    assert everything["p_fwe_max_t"].null_count() == everything["t"].null_count()


def test_the_same_seed_gives_the_same_bytes_whatever_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = design_matrix(cohort(40))
    values = smooth_maps(np.random.default_rng(2), 40, 10, 20)
    plan = plan_exchange(matrix[:, -1] == 1, None, "whole")
    given = PermutedMap(values, np.ones(200, dtype=bool), observed_t(values, matrix), MESH)

    def run(seed: int) -> np.ndarray:
        found = null_maxima([given], matrix, plan, PermutationOptions(50, seed=seed))
        return np.concatenate([found.abs_t, found.tfce, found.cluster_area_mm2])

    first = run(1)
    np.testing.assert_array_equal(first, run(1))
    assert not np.array_equal(first, run(2))
    monkeypatch.setattr("stats.permutation._BATCH_NUMBERS", 5000)
    np.testing.assert_allclose(first, run(1), rtol=1e-10)


def test_whole_blocks_move_together_to_blocks_of_their_size() -> None:
    block = np.array([0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 6, 6, 7])
    group = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    plan = plan_exchange(group, block, "whole")
    assert plan.n_fixed == 3
    assert np.exp(plan.ln_possible) == pytest.approx(24 * 6)
    seen = set()
    for order in plan.draw(0, 400):
        assert sorted(order) == list(range(14))
        assert order[8:11].tolist() == [8, 9, 10]
        for number in range(8):
            taken = order[block == number]
            source = block[taken]
            assert len(set(source)) == 1
            np.testing.assert_array_equal(taken, np.flatnonzero(block == source[0]))
        seen.add(tuple(order))
    assert len(seen) > 120


def test_within_blocks_nothing_leaves_its_block() -> None:
    block = np.repeat(np.arange(6), [1, 2, 3, 2, 2, 2])
    group = np.arange(12) % 2 == 0
    plan = plan_exchange(group, block, "within")
    assert plan.n_fixed == 1
    for order in plan.draw(0, 50):
        np.testing.assert_array_equal(block[order], block)


@pytest.mark.parametrize(
    ("group", "block", "exchange", "message"),
    [
        ([0, 0, 1, 1] * 3, np.repeat(np.arange(6), 2), "within", "use exchange='whole'"),
        ([0] * 6 + [1] * 3, np.repeat(np.arange(5), [2, 2, 2, 1, 2]), "whole", None),
        ([0] * 4 + [1] * 6, np.repeat(np.arange(4), [2, 2, 3, 3]), "whole", "equal size differ"),
        ([0, 0, 1], None, "whole", "only 6 rearrangements"),
    ],
)
def test_designs_that_cannot_be_rearranged(
    group: list[int], block: np.ndarray | None, exchange: str, message: str | None
) -> None:
    if message is None:
        assert plan_exchange(np.array(group) == 1, block, exchange).n_fixed == 1
        return
    with pytest.raises(StatisticsError, match=message):
        plan_exchange(np.array(group) == 1, block, exchange)


def error_rates(
    values_of: Callable[[np.random.Generator], np.ndarray],
    matrix: np.ndarray,
    plan: ExchangePlan,
    draws: int,
) -> tuple[int, ...]:
    """How many of some null cohorts have a vertex with max-T, TFCE or cluster p <= 0.05."""
    found = np.zeros(3, dtype=int)
    everyone = np.ones(MESH.n, dtype=bool)
    for draw in range(draws):
        values = values_of(np.random.default_rng(1000 + draw))
        t = observed_t(values, matrix)
        options = PermutationOptions(99, seed=draw, cluster_p=0.05)
        null = null_maxima([PermutedMap(values, everyone, t, MESH)], matrix, plan, options)
        n = np.isfinite(values).sum(axis=0)
        limit = cluster_limit(n, matrix.shape[1], options.cluster_p)
        enhanced = tfce(t, MESH.area_mm2, MESH.neighbours)
        _, area = largest_of_maps(t[None], limit, MESH.area_mm2, *MESH.neighbours, 0.5, 2.0)
        for index, (largest, maxima) in enumerate(
            (
                (np.abs(t).max(), null.abs_t),
                (np.abs(enhanced).max(), null.tfce),
                (area[0], null.cluster_area_mm2),
            )
        ):
            found[index] += family_wise_p(np.array([largest]), maxima[0])[0] <= 0.05
    return tuple(found.tolist())


def within_monte_carlo(count: int, draws: int) -> bool:
    """Whether a count is within the 99.9 % range of 5 % of the draws."""
    low, high = scipy_stats.binom.ppf([0.0005, 0.9995], draws, 0.05)
    return bool(low <= count <= high)


def test_family_wise_error_is_5_percent_for_smooth_null_maps() -> None:
    """400 cohorts of 45 cases, skewed residuals, 200 vertices, 50 of them with missing values."""
    cases = cohort(45, seed=3)
    matrix = design_matrix(cases)
    plan = plan_exchange(matrix[:, -1] == 1, None, "whole")
    drift = 0.15 * cases["bmi"].to_numpy()[:, None]

    def values(rng: np.random.Generator) -> np.ndarray:
        found = np.exp(0.7 * smooth_maps(rng, 45, 10, 20)) + drift
        # Denuded cartilage: a part of the map in which many cases have no value.
        found[:, 150:][rng.random((45, 50)) < 0.2] = np.nan
        return found

    rates = error_rates(values, matrix, plan, 400)
    assert all(within_monte_carlo(count, 400) for count in rates[:2]), rates
    # Cluster areas are discrete, so their test may be conservative, never liberal.
    assert rates[2] <= scipy_stats.binom.ppf(0.9995, 400, 0.05), rates


def repeated_visits(rng: np.random.Generator, subjects: np.ndarray) -> np.ndarray:
    """Null maps of visits, those of one subject much alike."""
    own = smooth_maps(rng, subjects.max() + 1, 10, 20)
    return np.sqrt(0.8) * own[subjects] + np.sqrt(0.2) * smooth_maps(rng, len(subjects), 10, 20)


def test_whole_blocks_keep_the_error_rate_where_naive_permutation_does_not() -> None:
    """30 subjects with two to four visits; the group belongs to the subject."""
    visits = np.r_[np.full(10, 2), np.full(10, 3), np.full(10, 4)]
    subjects = np.repeat(np.arange(30), visits)
    rng = np.random.default_rng(4)
    # Alternating, so that each size has both groups.
    pain = (np.arange(30) % 2)[subjects]
    age = rng.normal(60, 8, 30)[subjects] + np.concatenate([np.arange(n) for n in visits])
    matrix = np.column_stack([np.ones(len(subjects)), age, pain])
    whole = plan_exchange(pain == 1, subjects, "whole")
    naive = plan_exchange(pain == 1, None, "whole")

    def values(rng: np.random.Generator) -> np.ndarray:
        return repeated_visits(rng, subjects)

    rates = error_rates(values, matrix, whole, 300)
    assert all(within_monte_carlo(count, 300) for count in rates[:2]), rates
    naive_rates = error_rates(values, matrix, naive, 60)
    assert min(naive_rates) > 0.3 * 60, naive_rates


def test_within_blocks_keep_the_error_rate_for_a_group_that_varies_in_a_patient() -> None:
    subjects = np.repeat(np.arange(20), 2)
    pain = np.tile([0, 1], 20)
    matrix = np.column_stack([np.ones(40), pain])
    plan = plan_exchange(pain == 1, subjects, "within")
    rates = error_rates(lambda rng: repeated_visits(rng, subjects), matrix, plan, 200)
    assert all(within_monte_carlo(count, 200) for count in rates[:2]), rates


@pytest.fixture(scope="module")
def planted() -> tuple[pl.DataFrame, dict[str, np.ndarray], np.ndarray]:
    """Two maps of 80 cases with missing values; an effect in a disc of the first."""
    cases = cohort(80, seed=6)
    rng = np.random.default_rng(6)
    maps = {name: smooth_maps(rng, 80, 10, 20) for name in ("femur thickness", "tibia t2")}
    disc = np.hypot(MESH.vertices_mm[:, 0] - 8, MESH.vertices_mm[:, 1] - 5) < 3.2
    maps["femur thickness"][:, disc] -= 2.0 * cases["pain"].to_numpy()[:, None]
    maps["femur thickness"][rng.random((80, 200)) < 0.03] = np.nan
    return cases, maps, disc


def test_a_planted_effect_is_found_and_the_family_is_corrected(
    planted: tuple[pl.DataFrame, dict[str, np.ndarray], np.ndarray],
) -> None:
    cases, maps, disc = planted
    connection = connect()
    connection.register("knees", cases.to_arrow())
    for name, values in maps.items():
        register(connection, name, values)
    labels = ["medial" if x < 11 else "lateral" for x in MESH.vertices_mm[:, 0]]
    mesh = SurfaceMesh.from_faces(MESH.vertices_mm, MESH.faces, compartment=labels)
    family = spm_family(
        connection,
        {name: name for name in maps},
        "knees",
        SpmDesign("pain", block="subject_id"),
        meshes=dict.fromkeys(maps, mesh),
        permutations=PermutationOptions(199, cluster_p=0.01),
    )
    femur = family.points.filter(pl.col("map") == "femur thickness")
    tibia = family.points.filter(pl.col("map") == "tibia t2")
    for column in ("p_fwe_max_t", "p_fwe_tfce", "p_fwe_max_t_family", "p_fwe_tfce_family"):
        hit = femur[column].to_numpy() < 0.05
        dice = 2 * (hit & disc).sum() / (hit.sum() + disc.sum())
        assert dice > 0.75, column
    assert (tibia["p_fwe_max_t"] < 0.05).sum() == 0
    assert (femur["p_fwe_max_t_family"] >= femur["p_fwe_max_t"]).all()
    assert (femur.filter(pl.lit(disc))["tfce"] < 0).all()
    cluster = family.clusters.row(0, named=True)
    assert (cluster["map"], cluster["sign"], cluster["p_fwe_area"]) == (
        "femur thickness",
        -1,
        0.005,
    )
    shares = {found["compartment"]: found["share"] for found in cluster["compartments"]}
    assert shares["medial"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert family.clusters["p_fwe_area_family"].is_between(0, 1).all()
    both = np.concatenate([family.results[name].points["p"].to_numpy() for name in maps])
    np.testing.assert_allclose(
        family.points["q_bh_family"], multipletests(both, method="fdr_bh")[1], rtol=1e-12
    )
    assert family.null_maxima.height == 3 * 199
    whole = family.null_maxima.filter(pl.col("map") == "")["max_abs_t"].to_numpy()
    each = [
        family.null_maxima.filter(pl.col("map") == name)["max_abs_t"].to_numpy() for name in maps
    ]
    np.testing.assert_array_equal(whole, np.maximum(*each))
    row = family.compartments.filter(map="femur thickness", compartment="all").row(0, named=True)
    assert row["area_fwe_mm2"] == pytest.approx(
        mesh.area_mm2[femur["p_fwe_max_t"].to_numpy() < 0.05].sum()
    )


def test_the_order_of_the_cases_of_each_map_does_not_matter(
    planted: tuple[pl.DataFrame, dict[str, np.ndarray], np.ndarray],
) -> None:
    """The second map is long: its cases come by name, those of the first by position."""
    cases, maps, _ = planted
    shuffled = cases.sample(fraction=1, shuffle=True, seed=2)
    named = shuffled.with_columns(position=pl.Series(np.arange(1, 81)))
    frames, found = {}, {}
    first, second = maps["femur thickness"], maps["tibia t2"]
    rows = [cases["case"].to_list().index(case) for case in shuffled["case"]]
    frames["long"] = pl.DataFrame(
        {
            "case": np.tile(cases["case"].to_list(), 200),
            "vertex": np.repeat(np.arange(200), 80),
            "value": second.T.ravel(),
        }
    )
    assert rows != sorted(rows)
    for layout in ("rows", "long"):
        connection = connect()
        connection.register("knees", named.to_arrow())
        register(connection, "first", first[rows])
        register(connection, "rows", second[rows])
        connection.register("long", frames["long"].to_arrow())
        found[layout] = spm_family(
            connection,
            {"first": "first", "second": layout},
            "knees",
            SpmDesign("pain"),
            permutations=PermutationOptions(49, seed=3),
        )
    np.testing.assert_allclose(
        found["rows"].null_maxima["max_abs_t"], found["long"].null_maxima["max_abs_t"], rtol=1e-10
    )


def test_without_meshes_there_are_no_clusters(
    planted: tuple[pl.DataFrame, dict[str, np.ndarray], np.ndarray],
) -> None:
    cases, maps, _ = planted
    connection = connect()
    connection.register("knees", cases.to_arrow())
    register(connection, "first", maps["tibia t2"])
    family = spm_family(
        connection, {"a": "first"}, "knees", SpmDesign("pain"), permutations=PermutationOptions(19)
    )
    assert family.clusters.is_empty()
    assert family.compartments.is_empty()
    assert family.points["p_fwe_tfce"].null_count() == 200
    assert family.points["p_permutation"].min() >= 1 / 20
    agreement = np.corrcoef(family.points["p_permutation"], family.points["p"])[0, 1]
    assert agreement > 0.9
