"""Whose knee a path and a header say it is."""

import pytest

from imaging.errors import BadInputError, Reason
from pipeline.inbox import path_parts
from pipeline.knee_visit import KneeVisit, of_path, require_complete, resolve


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("00m/0.C.2/1000001/20040909/10583703", KneeVisit(1000001, None, "V00")),
        ("48m/48m/48m/6.E.1/1000001/20080909/11583703.tar.gz", KneeVisit(1000001, None, "V06")),
        # The first number of a release is the visit, not its months.
        ("10.C.1/1000002/20130101/10583703.zip", KneeVisit(1000002, None, "V10")),
        ("18m/2.D.2/1000002/20060101/10583703", KneeVisit(1000002, None, "V02")),
        ("labels/1000001_LEFT_V03.nrrd", KneeVisit(1000001, "LEFT", "V03")),
        ("1000001_right_v03_reader-2.nii.gz", KneeVisit(1000001, "RIGHT", "V03")),
        ("24m/3.C.2/1000001/1000001_RIGHT_V03", KneeVisit(1000001, "RIGHT", "V03")),
        # Barcodes, dates and parts of UIDs are no subjects.
        ("20040909/10583703/1.3.12.1000009.5", KneeVisit()),
        ("120m/x", KneeVisit()),
        (".", KneeVisit()),
    ],
)
def test_paths(key: str, expected: KneeVisit) -> None:
    assert of_path(path_parts(key), "file") == expected


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("00m/1.C.2/1000001/x", "V00, V01"),
        ("1000001/1000002_RIGHT_V00.nrrd", "1000001, 1000002"),
        ("RIGHT/1000002_LEFT_V00.nrrd", "LEFT, RIGHT"),
    ],
)
def test_a_path_that_contradicts_itself(key: str, named: str) -> None:
    with pytest.raises(BadInputError, match=named) as caught:
        of_path(path_parts(key), "file")
    assert caught.value.reason == Reason.UNKNOWN_KNEE_VISIT


def test_the_caller_settles_what_path_and_header_dispute() -> None:
    path, header = KneeVisit(1000001, "RIGHT", "V00"), KneeVisit(1000001, "LEFT", "V00")
    with pytest.raises(BadInputError, match="side RIGHT and a DICOM header of side LEFT") as caught:
        resolve(KneeVisit(), path, header, "file")
    assert caught.value.reason == Reason.UNKNOWN_KNEE_VISIT
    assert resolve(KneeVisit(side="LEFT"), path, header, "file").name == "1000001_LEFT_V00"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(BadInputError, match="the side or the visit"):
        require_complete(KneeVisit(subject_id=1000001), "file")
