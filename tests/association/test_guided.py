"""DL-guided averages: exact against the enlarged map, incremental, and never a division by zero."""

from dataclasses import replace

import duckdb
import numpy as np
import pytest
from small_study import VISITS, SmallStudy, add_classifier, small_study

from imaging.labels import COMPARTMENTS
from lake.keys import BIOMARKER_UNITS
from models.cam_cells import cell_sums, guided_average, rectified_cells
from models.cam_views import rectified, scaled, upsampled
from models.gradcam import Explanation
from pipeline.cams import cam_maps
from pipeline.cluster import Cluster
from pipeline.guided import SINGLE_STRATEGY, GuidedReport, materialize_cell_sums
from pipeline.predictions import PredictionOptions, knee_regions, materialize_predictions
from pipeline.report_methods import parameters
from pipeline.report_reading import Reading
from stats.source import load_macros

BONE = "tibia"
EVERY_SPLIT = PredictionOptions(cam_splits=("training", "validation", "test"))


def predict(study: SmallStudy, explanation: str = "grad_cam") -> int:
    """Number of maps made."""
    settings = replace(study.settings, explanation=Explanation.of(explanation))
    reports = [
        materialize_predictions(study.lake, settings, visit, options=EVERY_SPLIT, cluster=Cluster())
        for visit in VISITS
    ]
    return sum(report.n_cams for report in reports)


def sum_cells(study: SmallStudy) -> list[GuidedReport]:
    return [materialize_cell_sums(study.lake, study.settings, visit) for visit in VISITS]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return small_study(
        tmp_path_factory.mktemp("guided") / "lake",
        knees=3,
        strategies=("thickness", "t2"),
        bones=(BONE,),
    )


@pytest.fixture(scope="module")
def first(study: SmallStudy) -> list[GuidedReport]:
    predict(study)
    return sum_cells(study)


@pytest.fixture(scope="module")
def pixels(study: SmallStudy, first) -> tuple[dict[str, dict], dict]:
    """Maps by biomarker and knee-visit, and what the pixels are by knee-visit."""
    maps = {}
    for biomarker in SINGLE_STRATEGY:
        stacked = study.lake.maps(BONE, biomarker)
        names = stacked["knee"].to_numpy().tolist()
        maps[biomarker] = dict(zip(names, stacked.to_numpy().astype(np.float64), strict=True))
    return maps, knee_regions(study.lake, BONE, names)


@pytest.mark.parametrize(
    ("target", "scaling", "averaging"),
    [
        ("pain", "scaled", "map"),
        ("no_pain", "rectified", "surface"),
        ("predicted", "scaled", "surface"),
        ("contrastive", "rectified", "map"),
    ],
)
def test_averages_are_those_of_the_enlarged_map(
    study, first, pixels, target, scaling, averaging
) -> None:
    assert_averages_of_the_enlarged_map(study, pixels, target, scaling, averaging)


def assert_averages_of_the_enlarged_map(study, pixels, target, scaling, averaging) -> None:
    choices = {"cam_target": target, "cam_scaling": scaling, "averaging": averaging}
    rows = study.lake.sql("FROM dl_guided_biomarkers", settings=choices).to_dicts()
    found = {(row["biomarker"], row["compartment"], row["knee_visit"]): row for row in rows}
    n_compared = 0
    for biomarker, strategy in SINGLE_STRATEGY.items():
        cams = cam_maps(study.lake, BONE, strategy, target, view="raw", enlarged=False)
        large = upsampled(rectified(cams.maps.astype(np.float64)))
        weights = scaled(large).values if scaling == "scaled" else large
        maps, regions = pixels
        for knee_visit, weight in zip(cams.knee_visits, weights, strict=True):
            values = maps[biomarker][knee_visit]
            region = regions[knee_visit]
            area = np.nan_to_num(region.area_mm2).astype(np.float64)
            each = weight * (area if averaging == "surface" else 1.0)
            masks = dict(
                zip(COMPARTMENTS, (region.shown, region.medial, ~region.medial), strict=True)
            )
            for compartment, mask in masks.items():
                used = mask & region.shown & np.isfinite(values)
                row = found[biomarker, compartment, knee_visit]
                assert row["n_pixels"] == used.sum()
                assert row["unit"] == BIOMARKER_UNITS[biomarker]
                n_compared += row["dl_guided"] is not None
                if each[used].sum() == 0:
                    assert row["dl_guided"] is None
                    continue
                wanted = (each[used] * values[used]).sum() / each[used].sum()
                assert row["dl_guided"] == pytest.approx(wanted, rel=1e-9)
                assert row["weight_total"] == pytest.approx(each[used].sum(), rel=1e-9)
                plain = area[used] if averaging == "surface" else np.ones(used.sum())
                mean = (plain * values[used]).sum() / plain.sum()
                assert row["classical_mean"] == pytest.approx(mean, rel=1e-9)
    assert n_compared > 20
    assert len(rows) == len(found)


def test_a_second_run_does_nothing_and_a_new_model_costs_its_own_cells(study, first) -> None:
    batches = study.lake.sql("SELECT count(*) AS n FROM batches")["n"][0]
    assert sum(report.n_cams for report in first) > 0
    assert sum(report.n_knees for report in first) > 0
    again = sum_cells(study)
    assert [(report.n_cams, report.n_knees, report.batch_id) for report in again] == [
        (0, 0, None)
    ] * len(VISITS)
    assert study.lake.sql("SELECT count(*) AS n FROM batches")["n"][0] == batches
    for name in ("cam_cells", "cell_sums"):
        assert study.lake.check(name)["n_failed"].sum() == 0
    before = study.lake.sql("FROM dl_guided_biomarkers WHERE bone = 'tibia' AND strategy = 't2'")
    ranges_id = study.lake.sql("SELECT any_value(ranges_id) AS r FROM classifiers")["r"][0]
    add_classifier(study.lake, "chronic_pain", "tibia", "t2", ranges_id, seed=5)
    # The replaced network's cells count no more, even before the new one's are there.
    assert study.lake.sql(
        "FROM dl_guided_biomarkers WHERE bone = 'tibia' AND strategy = 't2'"
    ).is_empty()
    predict(study)
    n_own = study.lake.sql(
        "SELECT count(*) AS n FROM cam_locations WHERE bone = 'tibia' AND strategy = 't2'"
    )["n"][0]
    third = sum_cells(study)
    assert sum(report.n_cams for report in third) == n_own
    # Maps and grid are the same: nothing is summed again.
    assert sum(report.n_knees for report in third) == 0
    after = study.lake.sql("FROM dl_guided_biomarkers WHERE bone = 'tibia' AND strategy = 't2'")
    assert after.height == before.height
    assert set(after["checkpoint_hash"]).isdisjoint(before["checkpoint_hash"])


def planted(cells: np.ndarray, values: np.ndarray, scaling: str) -> tuple[float | None, float]:
    """The average of a map by a Grad-CAM of given cells: by the macro, and by the module."""
    made = rectified_cells(cells[None].astype(float))
    everywhere = np.ones((1, *values.shape), bool)
    [sums] = cell_sums(values, everywhere, np.ones_like(values), cells.shape)
    with duckdb.connect() as connection:
        load_macros(connection)
        [(found,)] = connection.execute(
            "SELECT cam_weighted_mean($1, $2::DOUBLE[], $3::DOUBLE, $4::DOUBLE, $5::DOUBLE[], "
            "$6::DOUBLE[])",
            [
                scaling,
                made.cells[0].ravel().tolist(),
                float(made.lowest[0]),
                float(made.highest[0]),
                sums.value_sum.ravel().tolist(),
                sums.weight_sum.ravel().tolist(),
            ],
        ).fetchall()
    own = guided_average(sums, made.cells[0], float(made.lowest[0]), float(made.highest[0]))
    return found, own


def test_one_cell_sees_its_own_pixels() -> None:
    cells = np.zeros((7, 7))
    cells[3, 3] = 5.0
    values = np.full((224, 224), 9.0)
    # All a cell reaches lies within one cell's width of its centre, 112 +- 32.
    values[80:144, 80:144] = 2.0
    for scaling in ("scaled", "rectified"):
        found, own = planted(cells, values, scaling)
        assert found == pytest.approx(2.0, abs=1e-12)
        assert own == pytest.approx(2.0, abs=1e-12)
    values[80:144, 80:112] = np.nan
    values[80:144, 112:144] = 3.0
    assert planted(cells, values, "scaled")[0] == pytest.approx(3.0, abs=1e-12)


@pytest.mark.parametrize("scaling", ["scaled", "rectified"])
def test_no_evidence_is_no_average(scaling: str) -> None:
    values = np.ones((224, 224))
    # Nothing positive; and evidence only where nothing has a value.
    assert planted(np.full((7, 7), -1.0), values, scaling)[0] is None
    corner = np.zeros((7, 7))
    corner[0, 0] = 1.0
    values[:64, :64] = np.nan
    assert planted(corner, values, scaling)[0] is None
    assert np.isnan(planted(corner, values, scaling)[1])


def test_scaling_takes_the_lowest_value_off_everywhere() -> None:
    cells = np.full((7, 7), 2.0)
    cells[:, 3] = 6.0
    values = np.full((224, 224), 1.0)
    values[:, 80:144] = 4.0
    # Scaled, only the stripe has weight; rectified, all has.
    assert planted(cells, values, "scaled")[0] == pytest.approx(4.0, abs=1e-9)
    # Mean of the enlarged map: 2 + 4/7; of its part in the stripe: (2 x 64 + 4 x 32) / 224.
    wanted = 1.0 + 3.0 * ((2 * 64 + 4 * 32) / 224) / (2 + 4 / 7)
    assert planted(cells, values, "rectified")[0] == pytest.approx(wanted, abs=1e-9)
    # A flat map has no scale: the paper's scaling leaves nothing.
    found, own = planted(np.full((7, 7), 2.0), values, "scaled")
    assert found is None
    assert np.isnan(own)
    assert planted(np.full((7, 7), 2.0), values, "rectified")[0] == pytest.approx(values.mean())
    # Evidence beside the plateau only: what is left of the plateau after scaling is rounding.
    values[:, 80:144] = np.nan
    values[:, 144:] = np.nan
    assert planted(cells + 0.1, values, "scaled")[0] is None


def test_evidence_of_an_earlier_block_is_averaged_on_its_own_finer_cells(study, pixels) -> None:
    n_maps = study.lake.sql("SELECT count(*) AS n FROM cam_locations")["n"][0]
    assert predict(study, "hires_cam:layer3") == n_maps
    assert predict(study, "hires_cam:layer3") == 0
    sum_cells(study)
    cams = cam_maps(study.lake, BONE, "thickness", "pain", view="raw", enlarged=False)
    assert cams.maps.shape[1:] == (14, 14)
    assert_averages_of_the_enlarged_map(study, pixels, "pain", "scaled", "map")
    [choices] = parameters(Reading(study.lake, study.settings))
    assert "float32 hires_cam:layer3" in str(choices)
    # The newest count: the paper's way is computed anew when it is asked for again.
    assert predict(study) == n_maps
    cams = cam_maps(study.lake, BONE, "thickness", "pain", view="raw", enlarged=False)
    assert cams.maps.shape[1:] == (7, 7)
