"""The atlas in the lake: its reference knee, correspondences, maps read there, and comparisons."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.interpolate import RegularGridInterpolator

from benchmarks.planted_association import planted_lake
from imaging.labels import BONES
from imaging.sphere import FRAMES
from lake.arrays import read_rows
from lake.errors import LakeError
from lake.store import Lake
from phantom.map_cohort import PlantedEffect, planted_region
from phantom.planted_pain import PainModel
from pipeline.atlas import AtlasBone, make_atlas, read_atlas
from pipeline.atlas_maps import materialize_atlas_maps
from pipeline.atlas_view import atlas_meshes, group_maps
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.correspondences import materialize_correspondences
from pipeline.guided import materialize_cell_sums
from pipeline.map_comparisons import COMPARISONS, ComparisonOptions, compare_maps

PLAN_SEED = 3
VISIT = "V00"
LEVEL = 4
"""Coarse enough to be quick, fine enough for facets to cut no corners."""
OPTIONS = ComparisonOptions(n_permutations=99, min_models_correct=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Test knees with a strong thinning in one place where there is pain; matched and read."""
    from pipeline.drawn_maps import DrawingPlan

    plan = DrawingPlan(
        PLAN_SEED,
        pain=PainModel(separation=4.0),
        effect=PlantedEffect(thinning_mm=0.4, severity=0.0),
    )
    lake = planted_lake(
        tmp_path_factory.mktemp("atlas") / "lake", plan, n_people=170, timepoint=VISIT
    )
    make_atlas(lake, settings_of(lake), level=LEVEL)
    materialize_correspondences(lake, VISIT, cluster=Cluster())
    materialize_atlas_maps(lake, VISIT)
    return lake


def settings_of(lake: Lake) -> Settings:
    return Settings(lake_root=lake.root)


def planted_at(made: AtlasBone) -> np.ndarray:
    """Height of the femur's planted region at the atlas's points, 1 in its middle."""
    pixel = FRAMES["femur"].pixel(made.surface.vertices_mm - made.centroid_mm)
    row, column = np.rint(pixel).astype(int).T
    return planted_region("femur").profile[row.clip(0, 223), column % 224]


@pytest.fixture
def copy(study: Lake, tmp_path: Path) -> Lake:
    shutil.copytree(study.root, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def test_reference_is_the_knee_nearest_to_the_average(study: Lake) -> None:
    people = study.sql("FROM first_timepoints WHERE split = 'test' ORDER BY knee_visit")
    values = np.column_stack(
        [people["age_years"], people["bmi"], (people["sex"] == "F").cast(pl.Float64)]
    ).astype(float)
    spread = np.nanstd(values, axis=0, ddof=1)
    distance = np.linalg.norm((values - np.nanmean(values, axis=0)) / spread, axis=1)
    # Only those with maps and all three values can be it; the average is that of everybody.
    mapped = (people["timepoint"] == VISIT).to_numpy() & np.isfinite(distance)
    nearest = people["knee_visit"].to_list()[int(np.where(mapped, distance, np.inf).argmin())]
    ranked = study.sql("FROM reference_candidates ORDER BY reference_rank")
    assert ranked["knee_visit"][0] == nearest
    assert ranked["distance"].to_list() == pytest.approx(sorted(distance[mapped]))
    assert set(study.sql("FROM atlas_bones")["reference_knee_visit"]) == {nearest}


def test_atlas_has_the_area_of_the_reference_and_both_sides(study: Lake) -> None:
    for bone, made in read_atlas(study).items():
        corners = made.surface.vertices_mm[made.surface.faces]
        triangles = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        assert made.area_mm2.sum() == pytest.approx(np.linalg.norm(triangles, axis=1).sum())
        x = made.surface.vertices_mm[:, 0]
        # Towards the patient's left, which is medial in the right-knee frame.
        assert x[made.is_medial].min() > x[~made.is_medial].max() - 1.0, bone
        assert 0.05 < made.is_cartilage.mean() < 0.8


def test_atlas_is_kept_until_asked_for_anew(copy: Lake) -> None:
    before = copy.sql("FROM atlas_bones ORDER BY bone")
    assert make_atlas(copy, settings_of(copy), level=LEVEL).state == "kept"
    second = copy.sql("FROM reference_candidates ORDER BY reference_rank")["knee_visit"][1]
    report = make_atlas(copy, settings_of(copy), reference=second, level=LEVEL)
    assert (report.state, report.reference_knee_visit) == ("made", second)
    after = copy.sql("FROM atlas_bones ORDER BY bone")
    assert not set(before["atlas_id"]) & set(after["atlas_id"])
    # Maps of the former atlas count no more.
    assert copy.sql("FROM current_atlas_maps").is_empty()
    with pytest.raises(LakeError, match="1000001_RIGHT_V00 cannot be the reference"):
        make_atlas(copy, settings_of(copy), reference="1000001_RIGHT_V00")


def test_without_test_knees_the_atlas_waits(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert make_atlas(lake, Settings(lake_root=lake.root)).state == "waiting"
    with pytest.raises(LakeError, match="there is no atlas"):
        read_atlas(lake)


def test_points_lie_where_the_drawn_bones_have_them(study: Lake) -> None:
    # Drawn bones bulge and grow about one average knee, ray by ray: the same direction is the same
    # place. The atlas's own directions are the truth.
    for bone, made in read_atlas(study).items():
        own = made.surface.vertices_mm - made.centroid_mm
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        rows = study.sql(
            "SELECT part, row FROM correspondences WHERE bone = $bone", {"bone": bone}
        ).rows()
        places = [(part, int(row)) for part, row in rows]
        phi, theta = (read_rows(study.root, name, places) for name in ("phi", "theta"))
        frame = FRAMES[bone]
        local = np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)])
        found = np.moveaxis(local, 0, -1) @ frame.axes
        rho = np.linalg.norm(made.surface.vertices_mm - made.centroid_mm, axis=1)
        off_mm = rho * np.linalg.norm(found - own, axis=2)
        assert np.nanmean(off_mm) < 1.5, bone


def test_a_second_run_has_nothing_to_do(study: Lake) -> None:
    assert materialize_correspondences(study, VISIT, cluster=Cluster()).n_pending == 0
    assert materialize_atlas_maps(study, VISIT).n_pending == 0


def test_maps_are_those_of_the_knee_at_the_points(study: Lake) -> None:
    rows = study.sql(
        "SELECT rows.*, inputs.part, inputs.row, inputs.strategy, inputs.correspondence_part, "
        "inputs.correspondence_row FROM atlas_maps AS rows "
        "JOIN atlas_map_inputs AS inputs USING (knee_visit, bone, biomarker, quantity) "
        "WHERE bone = 'femur' ORDER BY knee_visit, biomarker, quantity"
    )
    first = rows.filter(pl.col("knee_visit") == rows["knee_visit"][0]).to_dicts()
    quantities = {(row["biomarker"], row["quantity"]) for row in first}
    assert len(quantities) == 5 + 3 * 2
    frame = FRAMES["femur"]
    for row in first:
        place = [(row["correspondence_part"], int(row["correspondence_row"]))]
        phi, theta = (read_rows(study.root, name, place)[0] for name in ("phi", "theta"))
        values = np.array(row["values"], dtype=float)
        stored = read_rows(
            study.root, row["strategy"] or row["biomarker"], [(row["part"], int(row["row"]))]
        )[0].astype(float)
        if row["quantity"] == "value":
            grid, at = stored, (frame.phi, frame.theta)
            tolerance = {"bone_shape": 0.3, "cartilage_thickness": 0.4}.get(row["biomarker"], 8.0)
        else:
            grid = np.maximum(stored[int(row["quantity"] == "cam_pain")], 0)
            at = tuple(
                np.linspace(one[0], one[-1], 224)[16::32][:7] - (one[1] - one[0]) / 2
                for one in (frame.phi, frame.theta)
            )
            tolerance = 0.02
        # Away from the border and the seam linear interpolation is another way to the same value.
        inside = (phi > at[0][0]) & (phi < at[0][-1]) & (theta > at[1][0]) & (theta < at[1][-1])
        expected = RegularGridInterpolator(at, grid)(np.column_stack([phi, theta])[inside])
        both = np.isfinite(expected) & np.isfinite(values[inside])
        assert both.sum() > 50
        # Single pixels of the drawn noise differ; most agree closely.
        assert np.median(np.abs(expected - values[inside])[both]) < tolerance / 4
        assert np.quantile(np.abs(expected - values[inside])[both], 0.98) < tolerance


def test_a_bone_that_cannot_be_matched_stops_nobody_else(copy: Lake) -> None:
    row = copy.sql("SELECT knee_visit, timepoint FROM correspondences ORDER BY knee_visit").row(0)
    knee_visit, timepoint = row
    parts = copy.knee_maps(knee_visit)
    wrong = dataclasses.replace(
        parts["femur"],
        maps={**parts["femur"].maps, "bone_shape": parts["tibia"].maps["bone_shape"]},
    )
    subject, _, _ = knee_visit.split("_")
    with copy.batch("maps", timepoint, "corrected", "c") as batch:
        for bone in BONES:
            batch.add_map_part(bone, wrong if bone == "femur" else parts[bone])
        batch.add("ledger", [{
            "knee_visit": knee_visit, "step": "maps", "input_fingerprint": "corrected",
            "status": "done", "seconds": 0.0,
        }])  # fmt: skip
    n_before = copy.sql("SELECT count(DISTINCT knee_visit) AS n FROM correspondences")["n"][0]
    report = materialize_correspondences(copy, timepoint, cluster=Cluster())
    assert (report.n_pending, report.n_quarantined) == (1, 1)
    told = copy.sql("FROM quarantine WHERE stage = 'correspondence'").to_dicts()
    assert [(one["knee_visit"], one["reason"]) for one in told] == [(knee_visit, "bad_surface")]
    assert "femur" in told[0]["file"]
    left = copy.sql("SELECT DISTINCT knee_visit FROM correspondences")["knee_visit"].to_list()
    assert knee_visit not in left
    assert len(left) == n_before - 1
    run = compare_maps(copy, settings_of(copy), COMPARISONS["spm_biomarkers"], OPTIONS)
    others = copy.sql("SELECT count(*) AS n FROM spm_cases WHERE timepoint <> 'V00'")["n"][0]
    assert (run.state, run.n_left_out) == ("computed", 1 + others)
    assert str(subject) not in str(copy.sql("FROM current_atlas_maps")["knee_visit"].to_list())


def test_comparison_finds_what_was_planted(copy: Lake) -> None:
    comparison = COMPARISONS["spm_biomarkers"]
    run = compare_maps(copy, settings_of(copy), comparison, OPTIONS)
    assert run.state == "computed"
    cases = copy.sql("FROM spm_cases WHERE timepoint = $visit", {"visit": VISIT})
    assert run.n_group1 == cases["has_pain"].sum()
    assert run.n_group1 + run.n_group0 == len(cases)
    points = copy.sql(
        "FROM spm_points WHERE analysis = 'spm_biomarkers' AND map = 'femur_cartilage_thickness' "
        "ORDER BY vertex"
    )
    made = read_atlas(copy)["femur"]
    assert len(points) == len(made.surface.vertices_mm)
    # Pain thins the cartilage there.
    region = planted_at(made)
    t = points["t"].to_numpy()
    peak = int(np.nanargmin(t))
    # Of a few knees the largest t need not be in the very middle.
    assert region[peak] > 0.2
    assert points["estimate"][peak] < 0
    assert points["p"][peak] < 0.001
    assert np.nanmean(t[region > 0.5]) < np.nanmean(t[region < 0.05]) - 1.5
    # Nothing where nothing is.
    assert (
        points.filter(pl.Series(region < 0.05))["p_fwe_max_t"].drop_nulls() < 0.05
    ).mean() < 0.05
    assert compare_maps(copy, settings_of(copy), comparison, OPTIONS).state == "unchanged"
    other = dataclasses.replace(OPTIONS, seed=1)
    assert compare_maps(copy, settings_of(copy), comparison, other).state == "computed"


def test_comparison_of_cams_waits_for_them_and_finds_where_they_lie(copy: Lake) -> None:
    settings = settings_of(copy)
    assert compare_maps(copy, settings, COMPARISONS["spm_cam_pain"], OPTIONS).state == "waiting"
    materialize_cell_sums(copy, settings, VISIT)
    run = compare_maps(copy, settings, COMPARISONS["spm_cam_pain"], OPTIONS)
    assert run.state == "computed"
    agreed = copy.sql(
        "SELECT is_tp_pain, count(*) AS n FROM spm_cases WHERE timepoint = $visit GROUP BY ALL",
        {"visit": VISIT},
        {"min_models_correct": OPTIONS.min_models_correct},
    )
    counts = dict(agreed.rows())
    assert (run.n_group1, run.n_group0) == (counts[True], counts[False])
    [one] = [
        found for found in group_maps(copy, "spm_cam_pain")
        if found.name == "femur_cartilage_thickness"
    ]  # fmt: skip
    # Evidence for pain was planted in the region of true positives, and is noise in true negatives.
    made = read_atlas(copy)["femur"]
    at = planted_at(made)
    assert at[int(np.nanargmax(one.t))] > 0.2
    assert one.mean_group1[at > 0.8].min() > one.mean_group0[at > 0.8].max()
    assert len(atlas_meshes(copy)["femur"].vertices_mm) == len(one.t)
    # Scaled knee by knee on the enlarged map, of which the atlas sees a part.
    scaled = copy.sql("FROM scaled_cam_maps WHERE target = 'pain' AND values IS NOT NULL")
    values = np.concatenate([np.array(row, dtype=float) for row in scaled["values"]])
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 1 + 1e-6


def test_too_few_knees_are_refused_with_the_reason(copy: Lake) -> None:
    names = copy.sql("SELECT knee_visit FROM spm_cases WHERE has_pain ORDER BY knee_visit")
    subjects = [int(name.split("_")[0]) for name in names["knee_visit"]]
    visits = copy.sql("FROM clinical_visits").drop("batch_id")
    gone = visits.filter(pl.col("subject_id").is_in(subjects)).with_columns(
        pl.lit(True).alias("retracted")
    )
    with copy.batch("clinical", "all", "1", "c") as batch:
        batch.add("clinical_visits", gone)
    run = compare_maps(copy, settings_of(copy), COMPARISONS["spm_biomarkers"], OPTIONS)
    assert run.state == "refused"
    assert run.reason
    stored = copy.sql("FROM analyses WHERE analysis = 'spm_biomarkers'").to_dicts()
    assert stored[0]["n_results"] == 0
    assert "Not tested" in stored[0]["notes"]
    assert copy.sql("FROM spm_points").is_empty()
