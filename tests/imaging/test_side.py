from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadInputError, Reason
from imaging.label_files import read_labels
from imaging.labels import LabelVolume, Tissue, load_scheme
from imaging.side import anatomical_side, resolve_side
from imaging.volume import MIRROR_X
from tests.imaging.label_fixtures import blocks, lps_affine

T = Tissue
# Slices run towards the patient's left: in a right knee lateral comes first.
RIGHT_FULL = {
    T.TIBIA: 9,
    T.FIBULA: 2,
    T.LATERAL_TIBIAL_CARTILAGE: 5,
    T.MEDIAL_TIBIAL_CARTILAGE: 13,
    T.LATERAL_MENISCUS: 4,
    T.MEDIAL_MENISCUS: 15,
}


def mirrored(labels: LabelVolume) -> LabelVolume:
    return LabelVolume(labels.array, MIRROR_X @ labels.affine, labels.scheme)


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (RIGHT_FULL, "fibula"),
        ({T.TIBIA: 9, T.FIBULA: 2}, "fibula"),
        ({T.LATERAL_TIBIAL_CARTILAGE: 2, T.MEDIAL_TIBIAL_CARTILAGE: 9}, "tibial cartilage"),
        ({T.LATERAL_MENISCUS: 2, T.MEDIAL_MENISCUS: 9}, "meniscus"),
        ({T.TIBIA: 9, T.FEMUR: 9}, "bones lie at x = -"),
    ],
)
def test_each_evidence_alone_tells_both_sides(places, says: str):
    labels = blocks(places)
    found = anatomical_side(labels)
    assert (found.side, says in found.evidence) == ("RIGHT", True)
    assert anatomical_side(mirrored(labels)).side == "LEFT"


def test_a_knee_at_the_midline_without_lateral_structures_tells_nothing():
    labels = blocks({T.TIBIA: 9, T.FEMUR: 9}, affine=lps_affine(-20.0))
    assert anatomical_side(labels).side is None


def test_stray_voxels_do_not_vote():
    labels = blocks({T.TIBIA: 9, T.FEMUR: 9}, affine=lps_affine(-20.0))
    array = labels.array.copy()
    array[0, 0, :5] = 8
    assert anatomical_side(LabelVolume(array, labels.affine, labels.scheme)).side is None


def test_structures_beat_position_and_majority_beats_one():
    # Lies at x > 0 but its fibula is towards smaller x.
    labels = blocks({T.TIBIA: 9, T.FIBULA: 2}, affine=lps_affine(60.0))
    found = anatomical_side(labels)
    assert found.side == "RIGHT"
    assert "against it the bones lie at x = +" in found.evidence
    swapped = RIGHT_FULL | {T.LATERAL_MENISCUS: 15, T.MEDIAL_MENISCUS: 4}
    found = anatomical_side(blocks(swapped))
    assert found.side == "RIGHT"
    assert "against it lateral against medial meniscus" in found.evidence


def test_a_tie_goes_to_the_position_and_says_so():
    places = {T.TIBIA: 9, T.FIBULA: 2, T.LATERAL_MENISCUS: 15, T.MEDIAL_MENISCUS: 4}
    found = anatomical_side(blocks(places))
    assert found.side == "RIGHT"
    assert "contradicting" in found.evidence
    assert anatomical_side(blocks(places, affine=lps_affine(-20.0))).side is None


@pytest.mark.parametrize(
    ("declared", "described"), [("RIGHT", None), (None, "RIGHT"), ("RIGHT", "RIGHT"), (None, None)]
)
def test_agreeing_sides_resolve(declared, described):
    side, evidence = resolve_side(declared, described, blocks(RIGHT_FULL), "x")
    assert side == "RIGHT"
    assert "fibula" in evidence


@pytest.mark.parametrize(
    ("declared", "described"),
    [("LEFT", None), (None, "LEFT"), ("LEFT", "LEFT"), ("RIGHT", "LEFT"), ("LEFT", "RIGHT")],
)
def test_a_claim_against_anatomy_is_refused(declared, described):
    with pytest.raises(BadInputError) as caught:
        resolve_side(declared, described, blocks(RIGHT_FULL), "visit/label.nrrd")
    assert caught.value.reason is Reason.WRONG_SIDE
    assert "anatomy shows RIGHT: fibula against tibia" in str(caught.value)
    assert "visit/label.nrrd" in str(caught.value)


def test_without_anatomy_the_claim_stands_unless_claims_contradict():
    labels = blocks({T.TIBIA: 9, T.FEMUR: 9}, affine=lps_affine(-20.0))
    assert resolve_side("LEFT", None, labels, "x")[0] == "LEFT"
    assert resolve_side(None, "RIGHT", labels, "x")[0] == "RIGHT"
    with pytest.raises(BadInputError) as caught:
        resolve_side("LEFT", "RIGHT", labels, "x")
    assert caught.value.reason is Reason.WRONG_SIDE
    with pytest.raises(BadInputError) as caught:
        resolve_side(None, None, labels, "x")
    assert caught.value.reason is Reason.UNKNOWN_SIDE
    assert "--side" in str(caught.value)


def test_real_knee_declared_left_is_refused(shared_data: Path):
    path = shared_data / "knee" / "sag_3d_dess_right_label.nrrd"
    labels = read_labels(path, load_scheme("mskt"))
    assert resolve_side("RIGHT", None, labels, path)[0] == "RIGHT"
    with pytest.raises(BadInputError) as caught:
        resolve_side("LEFT", None, labels, path)
    assert caught.value.reason is Reason.WRONG_SIDE
    # With bones and cartilage alone, the place in the scanner still tells.
    bones = LabelVolume(np.where(labels.array == 5, 1, 0), labels.affine, load_scheme("oai-zib"))
    assert anatomical_side(bones).side == "RIGHT"
