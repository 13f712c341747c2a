"""Splits: one per patient, the same for ever, of the intended sizes."""

import hashlib

import pytest
from cohort_samples import VISITS, connect, frame, listed
from hypothesis import given, settings
from hypothesis import strategies as st

SHARES = {"training": 4029 / 7437, "validation": 1257 / 7437, "test": 2151 / 7437}
SUBJECTS = st.sets(st.integers(1_000_000, 9_999_999), min_size=1, max_size=40)


def in_python(subject_id: int, seed: int) -> str:
    """The rule stated in another language: the first 52 bits of MD5('seed:subject')."""
    digest = hashlib.md5(f"{seed}:{subject_id}".encode(), usedforsecurity=False).hexdigest()
    uniform = int(digest[:13], 16) / 2**52
    if uniform < SHARES["training"]:
        return "training"
    return "validation" if uniform < SHARES["training"] + SHARES["validation"] else "test"


def splits(subjects, seed: int = 42) -> dict[int, str]:
    tables = {"enrollees": [{"subject_id": subject, "sex": "F"} for subject in subjects]}
    query = "SELECT subject_id, split FROM splits"
    return dict(frame(connect(tables, {"split_seed": seed}), query).rows())


@settings(max_examples=10, deadline=None)
@given(SUBJECTS, SUBJECTS, st.integers(0, 2**31))
def test_new_patients_never_move_anyone(before, later, seed) -> None:
    first = splits(sorted(before), seed)
    both = splits(sorted(before | later, reverse=True), seed)
    assert {subject: both[subject] for subject in before} == first
    assert both == {subject: in_python(subject, seed) for subject in before | later}


def test_new_visits_and_new_sources_never_move_anyone() -> None:
    people = range(1000001, 1000201)
    first = splits(people)
    scans = [
        listed(subject, side, visit)
        for subject in people
        for visit in VISITS
        for side in ("LEFT", "RIGHT")
    ]
    enrolled = [{"subject_id": subject} for subject in people]
    for tables in (
        {"scans_listed": scans},
        {"scans_listed": scans[::-1], "enrollees": enrolled[:50]},
        {"enrollees": enrolled, "scans": [{"subject_id": 1000001, "knee_visit": "x"}]},
    ):
        assert dict(frame(connect(tables), "SELECT subject_id, split FROM splits").rows()) == first


@pytest.mark.parametrize("seed", [0, 1, 42, 1234567])
def test_sizes_are_those_of_the_paper(seed: int) -> None:
    found = list(splits(range(1000001, 1020001), seed).values())
    for split, share in SHARES.items():
        # Four standard errors of a share of 20,000.
        margin = 4 * (share * (1 - share) / 20000) ** 0.5
        assert found.count(split) / 20000 == pytest.approx(share, abs=margin)


def test_another_seed_is_another_split() -> None:
    people = range(1000001, 1001001)
    one, other = splits(people, 1), splits(people, 2)
    same = sum(one[subject] == other[subject] for subject in people) / 1000
    # Two independent draws agree by chance with the sum of the squared shares.
    assert same == pytest.approx(sum(share**2 for share in SHARES.values()), abs=0.07)
