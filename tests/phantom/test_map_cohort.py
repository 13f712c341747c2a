"""Drawn maps: the geometry of measured ones, a planted change where it is said to be, no other."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import rankdata

from imaging.labels import BONES, Bone
from phantom.cohort import YEARS, simulate_cohort, visit_index
from phantom.map_cohort import (
    NO_EFFECT,
    DrawnKnee,
    PlantedEffect,
    draw_maps,
    knee_region,
    own_amplitude,
    planted_region,
    severity_of,
    traits_of,
)
from phantom.planted_pain import PainModel
from phantom.reference_surface import _average_knee, reference_bone, reference_volumes_mm3

SEED = 5
ONLY_AMPLITUDE = PlantedEffect(severity=0.0)


def knees(n: int, amplitude: np.ndarray | None = None, timepoint: str = "V00") -> list[DrawnKnee]:
    amplitude = np.zeros(n) if amplitude is None else amplitude
    return [
        DrawnKnee(1000001 + 37 * row, "RIGHT", timepoint, float(amplitude[row])) for row in range(n)
    ]


def auc(pain: np.ndarray, score: np.ndarray) -> float:
    rank = rankdata(score)
    positive = pain.sum()
    above = rank[pain].sum() - positive * (positive + 1) / 2
    return float(above / positive / (~pain).sum())


def auc_se(n_positive: int, n_negative: int) -> float:
    """Of an AUC of a half: (n + m + 1) / (12 n m), Mann and Whitney 1947."""
    return float(np.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative)))


@pytest.mark.parametrize("bone", BONES)
def test_the_reference_lies_on_the_phantoms_surface(bone: Bone) -> None:
    truth, _ = _average_knee()
    reference = reference_bone(bone)
    points = truth.bones[bone].to_patient[:3, :3] @ reference.points_mm.reshape(-1, 3)[::37].T
    points = points.T + truth.bones[bone].to_patient[:3, 3]
    distance = np.abs(truth.bone_distance_mm(bone, points))
    # Voxels of 1.4 x 0.55 x 0.55 mm, smoothed by 0.7 mm.
    assert np.median(distance) < 0.2
    covered = truth.thickness_mm(bone, points) > 0
    margin = reference.margin_mm.ravel()[::37]
    agree = covered == (margin > 0)
    assert agree[np.abs(margin) > 0.5].mean() > 0.99
    # What the shaft's crop closes has no counterpart in the phantom.
    assert np.isfinite(reference.rho_mm).all()
    assert 0.05 < covered.mean() < 0.7


def test_the_reference_has_the_volumes_of_a_knee() -> None:
    # A segmented real knee: femur 143, tibia 102, patella 13 ml (phantom.anatomy).
    volumes = {str(tissue): volume / 1000 for tissue, volume in reference_volumes_mm3().items()}
    assert 120 < volumes["femur"] < 170
    assert 85 < volumes["tibia"] < 125
    assert 8 < volumes["patella"] < 20


@pytest.mark.parametrize("bone", BONES)
def test_maps_are_plausible(bone: Bone) -> None:
    drawn = draw_maps(SEED, knees(12, np.linspace(-2, 2, 12)), bone)
    thickness, shape = drawn.maps["cartilage_thickness"], drawn.maps["bone_shape"]
    assert np.array_equal(np.isfinite(thickness), drawn.coverage)
    assert np.isfinite(shape).all()
    assert np.nanmin(thickness) > 0
    assert np.nanmax(thickness) < 6
    assert 1.3 < np.nanmean(thickness) < 3
    reference = reference_bone(bone)
    assert abs(np.median(shape / reference.rho_mm) - 1) < 0.05
    deep, superficial = drawn.maps["t2_deep"], drawn.maps["t2_superficial"]
    assert 25 < np.nanmean(deep) < np.nanmean(superficial) < 55
    assert 7 < np.nanmean(superficial - deep) < 13
    np.testing.assert_allclose(drawn.maps["t2_mean"], (deep + superficial) / 2, rtol=1e-5)
    sizes = np.array([traits_of(SEED, knee).size for knee in drawn.knees])
    areas = drawn.area_mm2.sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(areas / areas[0], (sizes / sizes[0]) ** 2, rtol=1e-5)


@pytest.mark.parametrize("bone", BONES)
def test_same_bytes_whichever_knees_are_drawn_together(bone: Bone) -> None:
    asked = knees(5, np.arange(5.0))
    together = draw_maps(SEED, asked, bone)
    alone = draw_maps(SEED, [asked[3]], bone)
    turned = draw_maps(SEED, asked[::-1], bone)
    for name, values in together.maps.items():
        assert values[3].tobytes() == alone.maps[name][0].tobytes()
        assert values[3].tobytes() == turned.maps[name][1].tobytes()
    other = draw_maps(SEED + 1, [asked[3]], bone)
    assert not np.array_equal(alone.maps["bone_shape"], other.maps["bone_shape"])


@pytest.mark.parametrize("specific", [False, True])
def test_the_change_is_where_and_what_it_is_said_to_be(specific: bool) -> None:
    effect = PlantedEffect(0.1, 4.0, 2.0, severity=0.0, knee_specific=specific)
    knee = DrawnKnee(1000038, "RIGHT", "V00")
    changed = dataclasses.replace(knee, amplitude=1.5)
    before = draw_maps(SEED, [knee], "tibia", effect)
    after = draw_maps(SEED, [changed], "tibia", effect)
    region = knee_region(SEED, knee, "tibia", effect)
    covered = before.coverage[0]

    def difference(name: str) -> np.ndarray:
        return after.maps[name][0].astype(float) - before.maps[name][0]

    reference = reference_bone("tibia")
    whole = covered & (reference.margin_mm > 6.0)
    expected = 1.5 * region.profile
    np.testing.assert_allclose(
        difference("cartilage_thickness")[whole], -0.1 * expected[whole], atol=1e-5
    )
    for name in ("t2_deep", "t2_superficial", "t2_mean"):
        np.testing.assert_allclose(difference(name)[covered], 4.0 * expected[covered], atol=1e-4)
    scale = traits_of(SEED, knee).size / reference.size
    np.testing.assert_allclose(difference("bone_shape"), scale * 2.0 * expected, atol=1e-4)
    assert region.mask.any()
    assert (region.profile[region.mask] > 0.5).all()


@pytest.mark.parametrize("bone", BONES)
def test_shares_of_the_region_are_those_of_its_mask(bone: Bone) -> None:
    region, reference = planted_region(bone), reference_bone(bone)
    covered = reference.margin_mm > 0
    assert region.profile.max() == 1.0
    assert not (region.mask & ~covered).any()
    assert region.grid_share == pytest.approx(np.count_nonzero(region.mask) / 224**2)
    inside = reference.area_mm2[region.mask].sum()
    assert region.area_share == pytest.approx(inside / reference.area_mm2.sum())
    assert region.cartilage_share == pytest.approx(inside / reference.area_mm2[covered].sum())
    # Femur and tibia: medial, where the phantom's lesion lies; patella: the lateral facet.
    medial = reference.medial[region.mask].mean()
    assert medial == (0.0 if bone == "patella" else 1.0)


def test_a_knees_own_region_lies_anywhere_on_its_cartilage() -> None:
    effect = PlantedEffect(knee_specific=True)
    masks = [knee_region(SEED, knee, "femur", effect).mask for knee in knees(40)]
    overlap = np.mean([(masks[0] & other).sum() / masks[0].sum() for other in masks[1:]])
    assert overlap < 0.3
    medial = reference_bone("femur").medial
    assert 5 < sum(medial[mask].mean() > 0.5 for mask in masks) < 35


def test_the_best_auc_is_the_models() -> None:
    model = PainModel(separation=1.5, prevalence=0.3)
    rng = np.random.default_rng(2)
    pain = rng.random(40_000) < model.prevalence
    amplitude = model.amplitude(pain.astype(float), rng.standard_normal(len(pain)))
    assert auc(pain, amplitude) == pytest.approx(model.bayes_auc, abs=0.006)
    # Pain given the amplitude is logistic: in every tenth as frequent as the log odds say.
    expected = 1 / (1 + np.exp(-model.log_odds(amplitude)))
    for tenth in np.array_split(np.argsort(amplitude), 10):
        se = np.sqrt(expected[tenth].mean() * (1 - expected[tenth].mean()) / len(tenth))
        assert abs(pain[tenth].mean() - expected[tenth].mean()) < 4 * se
    drawn = model.draw_pain(amplitude, np.random.default_rng(3))
    assert auc(drawn, amplitude) == pytest.approx(model.bayes_auc, abs=0.01)
    assert PainModel(separation=0.0).bayes_auc == 0.5
    with pytest.raises(ValueError, match="use a share between 0 and 1"):
        PainModel(prevalence=1.0)


@pytest.mark.parametrize(
    ("name", "sign"), [("cartilage_thickness", -1), ("t2_deep", 1), ("bone_shape", 1)]
)
def test_the_mean_over_the_region_nearly_reaches_the_best_auc(name: str, sign: int) -> None:
    model = PainModel(separation=2.0, prevalence=0.4)
    rng = np.random.default_rng(4)
    pain = rng.random(240) < model.prevalence
    amplitude = model.amplitude(pain.astype(float), rng.standard_normal(len(pain)))
    drawn = draw_maps(SEED, knees(len(pain), amplitude), "patella", ONLY_AMPLITUDE)
    inside = np.nanmean(drawn.maps[name][:, planted_region("patella").mask], axis=1)
    best = auc(pain, amplitude)
    # What is left is what knees differ in besides: thickness, T2 and size of their own.
    assert auc(pain, sign * inside) > 0.5 + 0.85 * (best - 0.5)
    # The same maps with labels that have nothing to do with them.
    shuffled = rng.permutation(pain)
    limit = 4 * auc_se(int(pain.sum()), int((~pain).sum()))
    assert abs(auc(shuffled, sign * inside) - 0.5) < limit


def test_no_effect_draws_the_same_whatever_the_amplitude() -> None:
    low, high = (
        draw_maps(SEED, knees(2, np.full(2, amplitude)), "tibia", NO_EFFECT)
        for amplitude in (-3.0, 3.0)
    )
    for name, values in low.maps.items():
        assert values.tobytes() == high.maps[name].tobytes()


def test_people_are_the_cohorts_and_thin_with_its_severity() -> None:
    cohort = simulate_cohort(60, seed=SEED)
    drawn_at = knees(60, timepoint="V06")
    assert [knee.subject_id for knee in drawn_at] == cohort.ids.tolist()
    severity = np.array([severity_of(traits_of(SEED, knee), "V06") for knee in drawn_at])
    years = YEARS[visit_index("V06")]
    people = cohort.people
    expected = np.minimum(people.severity + people.progression_per_year * years, 1.0)
    np.testing.assert_allclose(severity, expected)
    drawn = draw_maps(SEED, drawn_at, "tibia")
    inside = np.nanmean(drawn.maps["cartilage_thickness"][:, planted_region("tibia").mask], axis=1)
    assert np.corrcoef(inside, people.thinning_mm[:, visit_index("V06")])[0, 1] < -0.7


def test_a_knee_keeps_its_bone_and_loses_cartilage() -> None:
    first, last = (draw_maps(SEED, knees(8, timepoint=visit), "femur") for visit in ("V00", "V10"))
    shape = np.abs(first.maps["bone_shape"] - last.maps["bone_shape"])
    assert shape.max() < 0.5
    thickness = [drawn.maps["cartilage_thickness"] for drawn in (first, last)]
    assert (np.nanmean(thickness[0], axis=(1, 2)) > np.nanmean(thickness[1], axis=(1, 2))).all()
    assert np.array_equal(first.coverage, last.coverage)


def test_left_and_right_are_a_persons_two_knees() -> None:
    right = DrawnKnee(1000001, "RIGHT", "V00")
    left = dataclasses.replace(right, side="LEFT")
    assert traits_of(SEED, right) == traits_of(SEED, left)
    drawn = draw_maps(SEED, [right, left], "patella")
    assert not np.array_equal(drawn.maps["t2_mean"][0], drawn.maps["t2_mean"][1], equal_nan=True)


def test_own_amplitudes_are_standard_normal_and_partly_a_knees() -> None:
    people = knees(800)
    femur, tibia = (
        np.array([own_amplitude(SEED, knee, bone) for knee in people])
        for bone in ("femur", "tibia")
    )
    later = np.array(
        [
            own_amplitude(SEED, dataclasses.replace(knee, timepoint="V03"), "femur")
            for knee in people
        ]
    )
    assert abs(femur.mean()) < 4 / np.sqrt(800)
    assert abs(femur.std() - 1) < 4 / np.sqrt(2 * 800)
    # Thirds: the knee's, the bone's, the visit's.
    assert abs(np.corrcoef(femur, tibia)[0, 1] - 1 / 3) < 4 / np.sqrt(800)
    assert abs(np.corrcoef(femur, later)[0, 1] - 2 / 3) < 4 / np.sqrt(800)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no knees to draw"):
        draw_maps(SEED, [], "femur")
    with pytest.raises(ValueError, match="no images at V07"):
        draw_maps(SEED, knees(1, timepoint="V07"), "femur")
