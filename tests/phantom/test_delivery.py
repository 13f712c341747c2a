"""A delivery on disk."""

import hashlib
import re

import numpy as np
import pytest

from imaging.dicom import peek_header, read_echoes, read_volume
from imaging.label_files import read_labels
from imaging.labels import BONES, load_scheme
from phantom.delivery import plan_delivery, subject_ids, write_delivery


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def delivery(tmp_path_factory):
    root = tmp_path_factory.mktemp("inbox")
    plans = plan_delivery(1, ("V00", "V03"), seed=3)
    seen = []
    return root, write_delivery(root, plans, progress=seen.append), seen


def test_two_processes_write_the_same_bytes(delivery, tmp_path):
    root, written, _ = delivery
    write_delivery(tmp_path, [visit.plan for visit in written], workers=2)
    assert digests(tmp_path) == digests(root)


def test_tree_is_that_of_the_oai(delivery):
    root, written, seen = delivery
    assert seen == written
    for visit, month in zip(written, ("00m", "24m"), strict=True):
        for series, count in ((visit.dess, 80), (visit.msme, 189)):
            path = series.relative_to(root).as_posix()
            assert re.fullmatch(rf"{month}/[03]\.[CE]\.[12]/1\d{{6}}/20\d{{6}}/1\d{{7}}", path)
            names = sorted(file.name for file in series.iterdir())
            assert names == [f"{number:03d}" for number in range(1, count + 1)]
        assert visit.labels.name == f"{visit.plan.knee_visit}.nrrd"


def test_scan_segmentation_and_truth_belong_together(delivery):
    _, written, _ = delivery
    visit = written[1]
    header = peek_header(visit.msme)
    assert (header.subject_id, header.side, header.timepoint, header.sequence) == (
        visit.plan.subject_id, "RIGHT", "V03", "MSME",
    )  # fmt: skip
    volume, echoes = read_volume(visit.dess), read_echoes(visit.msme)
    labels = read_labels(visit.labels, load_scheme("mskt"))
    np.testing.assert_allclose(labels.affine, volume.affine, atol=1e-6)
    assert labels.array.shape == volume.array.shape
    assert echoes.array.shape == (7, 27, 192, 192)
    truth = visit.plan.truth()
    for bone in BONES:
        index = np.argwhere(labels.cartilage(bone))[::50]
        points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        distance = truth.bone_distance_mm(bone, points)
        assert np.all(distance > -0.01)
        assert np.all(distance < truth.thickness_mm(bone, points) + 0.02)


def test_cohort_plan():
    plans = plan_delivery(10, ("V00", "V01", "V03"), seed=5, left_share=0.3)
    assert len(plans) == 30
    assert sum(plan.side == "LEFT" for plan in plans) == 9
    sides = {plan.subject_id: {p.side for p in plans if p.subject_id == plan.subject_id}
             for plan in plans}  # fmt: skip
    assert all(len(side) == 1 for side in sides.values())
    assert plans == plan_delivery(10, ("V00", "V01", "V03"), seed=5, left_share=0.3)
    assert all(re.fullmatch(r"1\d{6}", str(subject)) for subject in subject_ids(500))
    assert len(set(subject_ids(500))) == 500
