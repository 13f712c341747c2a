"""Predictions and Grad-CAM in the lake: right, incremental, and of the networks in use."""

import numpy as np
import pytest
from small_study import VISITS, SmallStudy, add_classifier

from imaging.labels import BONES
from lake.errors import LakeError
from lake.keys import CAM_TARGETS, STRATEGIES
from models.checkpoint import load_checkpoint
from models.gradcam import TARGETS, cam
from pipeline.cams import cam_maps
from pipeline.cluster import Cluster
from pipeline.image_figures import knee_planes
from pipeline.images import open_bank
from pipeline.knee_figures import figure_5
from pipeline.knee_view import SINGLE_STRATEGIES, knee_cams
from pipeline.predictions import PredictionOptions, PredictionReport, materialize_predictions

ALL = PredictionOptions(cam_splits=("training", "validation", "test"))


def materialize(
    study: SmallStudy, options: PredictionOptions | None = None
) -> list[PredictionReport]:
    return [
        materialize_predictions(
            study.lake, study.settings, visit, options=options, cluster=Cluster()
        )
        for visit in VISITS
    ]


def total(reports: list[PredictionReport], name: str) -> int:
    return sum(getattr(report, name) for report in reports)


@pytest.fixture(scope="module")
def first(study: SmallStudy) -> list[PredictionReport]:
    return materialize(study)


@pytest.fixture(scope="module")
def everything(study: SmallStudy, first: list[PredictionReport]) -> list[PredictionReport]:
    """A second round that keeps the maps of all splits."""
    return materialize(study, ALL)


def count(study: SmallStudy, query: str) -> int:
    return study.read(f"SELECT count(*) AS n FROM ({query})")["n"][0]


def test_targets_of_the_table_are_those_of_the_models() -> None:
    assert CAM_TARGETS == TARGETS


def test_every_model_predicts_every_knee_visit(study, first) -> None:
    images = count(study, "FROM model_images WHERE task = 'chronic_pain'")
    assert images % len(BONES) == 0
    assert total(first, "n_predicted") == count(study, "FROM predictions")
    with_t2 = count(study, "FROM model_images WHERE task = 'chronic_pain' AND has_t2")
    assert total(first, "n_predicted") == 3 * images + 3 * with_t2
    # Only the held-out knees are explained.
    test = count(study, "FROM model_images WHERE task = 'chronic_pain' AND split = 'test'")
    assert total(first, "n_cams") == count(study, "FROM cam_index") == len(STRATEGIES) * test > 0
    assert count(study, "FROM cam_biomarkers") == len(CAM_TARGETS) * total(first, "n_cams")
    assert not any(report.failed for report in first)


def test_predictions_are_the_networks(study: SmallStudy, first) -> None:
    row = study.read("SELECT path FROM classifiers WHERE bone = 'tibia' AND strategy = 't2'").row(
        0, named=True
    )
    network, _ = load_checkpoint(study.lake.root / row["path"])
    stored = study.read(
        "FROM model_predictions WHERE bone = 'tibia' AND strategy = 't2' ORDER BY knee_visit"
    )
    bank = open_bank(study.lake, "tibia", stored["knee_visit"].to_list())
    logits = network(bank.batch(range(len(bank)), "t2")).detach().numpy()
    np.testing.assert_allclose(stored.select("logit_no", "logit_yes"), logits, atol=1e-4)
    softmax = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(stored["probability"], softmax, atol=1e-5)
    np.testing.assert_array_equal(stored["predicted"], softmax > 0.5)
    np.testing.assert_array_equal(stored["is_correct"], stored["predicted"] == stored["is_case"])


def test_a_second_run_computes_nothing(study: SmallStudy, first) -> None:
    before = count(study, "FROM batches")
    again = materialize(study)
    assert total(again, "n_pending") == 0
    assert count(study, "FROM batches") == before


def test_maps_of_more_splits_are_added(study: SmallStudy, everything) -> None:
    assert total(everything, "n_predicted") == 0
    assert total(everything, "n_cams") > 0
    assert count(study, "FROM cam_locations") == count(study, "FROM predictions")


@pytest.mark.parametrize("target", TARGETS)
def test_maps_are_read_back(study: SmallStudy, everything, target: str) -> None:
    found = cam_maps(study.lake, "femur", "thickness", target, view="raw", enlarged=False)
    path = study.read(
        "SELECT path FROM classifiers WHERE bone = 'femur' AND strategy = 'thickness'"
    )["path"][0]
    network, _ = load_checkpoint(study.lake.root / path)
    bank = open_bank(study.lake, "femur", list(found.knee_visits))
    wanted = cam(network, bank.batch(range(len(bank)), "thickness"), target).numpy()
    # Stored in half precision.
    np.testing.assert_allclose(found.maps, wanted, atol=1e-3 * np.abs(wanted).max())
    np.testing.assert_array_equal(found.all_zero, ~(wanted > 0).any((1, 2)))


def test_views_and_choice_of_maps(study: SmallStudy, everything) -> None:
    names = sorted(study.read("FROM image_index WHERE bone = 'tibia'")["knee_visit"])[2:0:-1]
    raw = cam_maps(study.lake, "tibia", "t2", "no_pain", names, view="raw")
    assert raw.knee_visits == tuple(names)
    assert raw.maps.shape == (2, 224, 224)
    assert (len(raw.phi), len(raw.theta)) == (224, 224)
    positive = cam_maps(study.lake, "tibia", "t2", "no_pain", names)
    assert positive.maps.min() >= 0
    scaled = cam_maps(study.lake, "tibia", "t2", "no_pain", names, view="scaled")
    for flat, values in zip(scaled.all_zero, scaled.maps, strict=True):
        assert values.max() == (0 if flat else 1)
    with pytest.raises(LakeError, match="no Grad-CAM of the tibia t2 model of 9_LEFT_V00"):
        cam_maps(study.lake, "tibia", "t2", knee_visits=["9_LEFT_V00"])
    with pytest.raises(LakeError, match="is none of pain, no_pain"):
        cam_maps(study.lake, "tibia", "t2", "knee")


def test_fig_5_shows_what_the_models_saw_and_said(study: SmallStudy, everything) -> None:
    knee = study.read(
        "SELECT min(knee_visit) AS knee FROM model_images WHERE task = 'chronic_pain' AND has_t2"
    )["knee"][0]
    found = knee_cams(study.lake, knee, "femur")
    assert set(found) == set(SINGLE_STRATEGIES)
    said = study.read(
        "SELECT strategy, predicted FROM model_predictions "
        "WHERE knee_visit = $knee AND bone = 'femur'",
        knee=knee,
    )
    for strategy, one in found.items():
        assert (strategy, one.predicted) in said.rows()
    t2 = found["t2"]
    raw = cam_maps(study.lake, "femur", "t2", "pain", [knee], view="raw", enlarged=False)
    np.testing.assert_array_equal(t2.cells, np.maximum(raw.maps[0], 0))
    heat = cam_maps(study.lake, "femur", "t2", "pain", [knee])
    np.testing.assert_array_equal(t2.heat, heat.maps[0])
    part = study.lake.knee_maps(knee)["femur"]
    planes = knee_planes(study.lake, knee, "femur")
    assert figure_5(part, planes, found, dpi=50, picture_px=60).startswith(b"\x89PNG")
    with pytest.raises(LakeError, match="no images of the femur of 9_LEFT_V00"):
        knee_planes(study.lake, "9_LEFT_V00", "femur")


def test_the_sum_of_a_map_is_its_logit_less_the_bias(study: SmallStudy, everything) -> None:
    rows = study.read(
        "SELECT logit_yes - signed_sum AS bias, bone, strategy FROM model_predictions "
        "JOIN cam_biomarkers USING (task, bone, strategy, knee_visit) WHERE target = 'pain'"
    )
    for (bone, strategy), of_model in rows.group_by("bone", "strategy"):
        path = study.read(
            "SELECT path FROM classifiers WHERE bone = $bone AND strategy = $strategy",
            bone=bone,
            strategy=strategy,
        )["path"][0]
        network, _ = load_checkpoint(study.lake.root / path)
        np.testing.assert_allclose(of_model["bias"], float(network.fc.bias[1].detach()), atol=5e-3)


def test_ensembles_are_means_over_the_bones(study: SmallStudy, first) -> None:
    ensembles = study.read("FROM ptf_predictions")
    assert len(ensembles) == count(study, "FROM model_predictions") / 3
    one = ensembles.row(0, named=True)
    shares = study.read(
        "SELECT probability FROM model_predictions "
        "WHERE knee_visit = $knee_visit AND strategy = $strategy",
        knee_visit=one["knee_visit"],
        strategy=one["strategy"],
    )["probability"]
    assert len(shares) == 3
    assert one["probability"] == pytest.approx(shares.mean())
    assert one["predicted"] == (shares.mean() > 0.5)


def test_agreement_of_k_models(study: SmallStudy, first) -> None:
    rows = study.read("FROM model_agreement")
    assert len(rows) == count(
        study,
        "SELECT DISTINCT subject_id FROM model_cases WHERE model = 'chronic_pain' "
        "AND split = 'test' AND knee_visit IN (SELECT knee_visit FROM image_index)",
    )
    for row in rows.to_dicts():
        named = {True: "tp_pain", False: "tn_no_pain"}[row["is_case"]]
        assert row["agreement"] == (named if row["n_correct"] == 18 else "none")
    looser = study.lake.sql("FROM model_agreement", settings={"min_models_correct": 1})
    for row in looser.to_dicts():
        assert (row["agreement"] == "none") == (row["n_correct"] == 0)


def test_under_another_split_no_network_is_judged(study: SmallStudy, everything) -> None:
    # Of the people whom another seed would test, these networks have trained on most.
    assert len(study.lake.sql("FROM model_predictions")) > 0
    for changed in ({"split_seed": 7}, {"training_share": 0.3}):
        assert study.lake.sql("FROM model_predictions", settings=changed).is_empty()
        assert study.lake.sql("FROM scored_predictions", settings=changed).is_empty()


def test_a_new_network_costs_its_own_predictions(study: SmallStudy, everything) -> None:
    knees = count(study, "FROM predictions WHERE bone = 'patella' AND strategy = 'thickness'")
    ranges_id = study.read("SELECT DISTINCT ranges_id FROM image_index")["ranges_id"][0]
    before = study.read("FROM model_predictions WHERE bone = 'patella' AND strategy = 'thickness'")
    add_classifier(study.lake, "chronic_pain", "patella", "thickness", ranges_id, seed=3)
    # What the former network said does not count any more.
    assert (
        count(study, "FROM model_predictions WHERE bone = 'patella' AND strategy = 'thickness'")
        == 0
    )
    again = materialize(study, ALL)
    assert total(again, "n_pending") == total(again, "n_predicted") == knees
    after = study.read("FROM model_predictions WHERE bone = 'patella' AND strategy = 'thickness'")
    assert len(after) == knees
    assert not np.allclose(after["logit_yes"], before["logit_yes"])


def test_a_damaged_checkpoint_stops_no_other_model(study: SmallStudy, everything) -> None:
    ranges_id = study.read("SELECT DISTINCT ranges_id FROM image_index")["ranges_id"][0]
    digest = add_classifier(study.lake, "chronic_pain", "femur", "t2", ranges_id, seed=4)
    add_classifier(study.lake, "chronic_pain", "femur", "thickness", ranges_id, seed=4)
    path = study.lake.root / f"models/chronic_pain/femur/t2/{digest}.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    report = materialize(study)[0]
    assert [key for key, _ in report.failed] == [("chronic_pain", "femur", "t2")]
    assert "SHA-256" in report.failed[0][1]
    assert report.n_predicted == report.n_pending / 2


def test_unknown_choices_are_refused(study: SmallStudy) -> None:
    with pytest.raises(ValueError, match="no split; use training"):
        PredictionOptions(cam_splits=("holdout",))
    with pytest.raises(LakeError, match="V12 is not a visit"):
        materialize_predictions(study.lake, study.settings, "V12", cluster=Cluster())
