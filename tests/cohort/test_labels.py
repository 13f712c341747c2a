"""Labels and exclusions on tables small enough to work out by hand."""

import duckdb
import pytest
from cohort_samples import chronic, connect, frame, interview, knee, listed, reading

from lake.tables import TABLES

ABOVE = {"shoulder_frequent_pain_30d_right": True}
BELOW = {"foot_frequent_pain_30d_left": True}
NECK = {"neck_frequent_pain_30d": True}


@pytest.mark.parametrize(
    ("any_pain", "frequent", "months", "label"),
    [
        (False, False, None, "no_pain"),
        (False, None, None, "no_pain"),
        (True, True, 7, "chronic_pain"),
        (True, True, 12, "chronic_pain"),
        (True, True, 6, "intermediate"),
        (True, False, None, "intermediate"),
        (True, None, 3, "intermediate"),
        (True, True, None, "unknown"),
        (True, None, None, "unknown"),
        (None, True, 12, "unknown"),
        (None, None, None, "unknown"),
        (False, True, 12, "unknown"),
    ],
)
def test_pain_label(any_pain, frequent, months, label) -> None:
    answers = {
        "knee_any_pain_12m_right": any_pain,
        "knee_frequent_pain_12m_right": frequent,
        "knee_frequent_pain_months_12m_right": months,
    }
    found = frame(connect({"clinical_visits": [interview(1000001, **answers)]}), "FROM pain_labels")
    assert dict(found.select("side", "pain_label").rows()) == {"RIGHT": label, "LEFT": "no_pain"}


def test_at_least_six_months_is_a_choice() -> None:
    tables = {"clinical_visits": [interview(1000001, **chronic(months=6))]}
    query = "SELECT pain_label FROM pain_labels WHERE side = 'RIGHT'"
    assert frame(connect(tables), query).item() == "intermediate"
    assert frame(connect(tables, {"chronic_pain_min_months": 6}), query).item() == "chronic_pain"


WIDESPREAD = [
    # All three regions at once, by each of their items.
    (ABOVE | BELOW | NECK, {}, True),
    ({"elbow_frequent_pain_30d_left": True} | BELOW | NECK, {}, True),
    ({"wrist_frequent_pain_30d_left": True} | BELOW | NECK, {}, True),
    ({"hand_frequent_pain_30d_left": True} | BELOW | NECK, {}, True),
    (ABOVE | {"ankle_frequent_pain_30d_right": True} | NECK, {}, True),
    # Two of three are not enough.
    (ABOVE | BELOW, {}, False),
    (ABOVE | NECK, {}, False),
    (BELOW | NECK, {}, False),
    # The back: how often decides, unless any pain does.
    (ABOVE | BELOW | {"back_any_pain_30d": True, "back_pain_frequency_30d": 1}, {}, False),
    (ABOVE | BELOW | {"back_any_pain_30d": True, "back_pain_frequency_30d": 2}, {}, True),
    (ABOVE | BELOW | {"back_any_pain_30d": True, "back_pain_frequency_30d": 3}, {}, True),
    (
        ABOVE | BELOW | {"back_any_pain_30d": True, "back_pain_frequency_30d": 0},
        {"back_pain_rule": "any"},
        True,
    ),
    # The hip: 12 months stand in for 30 days.
    (ABOVE | NECK | {"hip_frequent_pain_12m_left": True}, {}, True),
    (ABOVE | NECK | {"hip_frequent_pain_12m_left": True}, {"hip_pain_rule": "none"}, False),
    (ABOVE | NECK | {"hip_any_pain_12m_left": True}, {}, False),
    (ABOVE | NECK | {"hip_any_pain_12m_left": True}, {"hip_pain_rule": "any_12m"}, True),
    # The knee: of the right (index) and the left one.
    (ABOVE | NECK | {"knee_frequent_pain_30d_right": True}, {}, True),
    (
        ABOVE | NECK | {"knee_frequent_pain_30d_right": True},
        {"knee_below_waist": "other_knee"},
        False,
    ),
    (
        ABOVE | NECK | {"knee_frequent_pain_30d_left": True},
        {"knee_below_waist": "other_knee"},
        True,
    ),
    (ABOVE | NECK | {"knee_frequent_pain_30d_left": True}, {"knee_below_waist": "none"}, False),
    # Unanswered items.
    (ABOVE | BELOW | {"neck_frequent_pain_30d": None}, {}, False),
    (ABOVE | BELOW | {"neck_frequent_pain_30d": None}, {"unanswered_items": "unknown"}, None),
    # ... which cannot matter where another region is free of pain.
    (BELOW | {"neck_frequent_pain_30d": None}, {"unanswered_items": "unknown"}, False),
    (ABOVE | BELOW | NECK | {"hip_frequent_pain_12m_left": None}, {}, True),
]


@pytest.mark.parametrize(("answers", "settings", "expected"), WIDESPREAD)
def test_widespread_pain(answers, settings, expected) -> None:
    connection = connect({"clinical_visits": [interview(1000001, **answers)]}, settings)
    found = frame(connection, "SELECT widespread FROM widespread_pain WHERE side = 'RIGHT'")
    assert found.item() is expected


def test_widespread_pain_excludes_the_patient_or_the_visit() -> None:
    tables = {
        "clinical_visits": [
            interview(1000001, "V00"),
            interview(1000001, "V01", **ABOVE, **BELOW, **NECK),
            interview(1000002, "V00"),
        ]
    }
    query = (
        "SELECT subject_id, timepoint, widespread FROM widespread_pain WHERE side = 'RIGHT' "
        "ORDER BY ALL"
    )
    assert [row[2] for row in frame(connect(tables), query).rows()] == [True, True, False]
    by_visit = connect(tables, {"widespread_level": "visit"})
    assert [row[2] for row in frame(by_visit, query).rows()] == [False, True, False]


def test_reading_of_the_project_in_use() -> None:
    tables = {
        "radiographs": [
            reading(1000001, 1, 37),
            reading(1000001, 3, 15, jsn_medial=1.2),
            reading(1000002, 2, 37),
            reading(1000003, 0, 15, timepoint="V08"),
            reading(1000003, 4, 37, timepoint="V08"),
            # Project 15 measured the joint space but gave no grade.
            reading(1000004, None, 15, jsw_medial_min_mm=4.5),
            reading(1000004, 1, 37, jsw_medial_min_mm=None),
        ]
    }
    query = (
        "SELECT subject_id, reading_project, kl_grade, osteoarthritis, jsn_medial, "
        "jsw_medial_min_mm FROM oa_labels ORDER BY ALL"
    )
    assert frame(connect(tables), query).rows() == [
        (1000001, 15, 3, True, 1.2, None),
        (1000002, 37, 2, True, None, None),
        (1000003, 37, 4, True, None, None),
        (1000004, 37, 1, False, None, 4.5),
    ]
    strict = connect(tables, {"kl_reading": "preferred_only", "oa_min_kl": 4})
    assert [row[:4] for row in frame(strict, query).rows()] == [
        (1000001, 15, 3, False),
        (1000003, 37, 4, True),
    ]


def volume(subject_id: int, volume_mm3: float, tissue: str = "femur") -> dict:
    return knee(subject_id) | {"tissue": tissue, "volume_mm3": volume_mm3}


def test_segmentation_outside_three_standard_deviations() -> None:
    # Mean 100 and SD 10 are given; 130 is 3 SDs away, not outside; patella has no reference.
    reference = [{"tissue": "femur", "mean_mm3": 100.0, "sd_mm3": 10.0}]
    volumes = {1000001: 130.0, 1000002: 130.1, 1000003: 69.9, 1000004: 100.0}
    rows = [volume(subject, mm3) for subject, mm3 in volumes.items()]
    rows.append(volume(1000001, 9e5, "patella"))
    connection = connect({"tissue_volumes": rows}, {"segmentation_reference": reference})
    found = frame(connection, "FROM segmentation_qc WHERE is_poor ORDER BY subject_id")
    assert found["subject_id"].to_list() == [1000002, 1000003]
    assert found["sd_from_mean"].to_list() == pytest.approx([3.01, -3.01])
    looser = {"segmentation_reference": reference, "segmentation_sd_limit": 3.5}
    assert frame(
        connect({"tissue_volumes": rows}, looser), "FROM segmentation_qc WHERE is_poor"
    ).is_empty()


def test_without_a_reference_the_lake_is_its_own() -> None:
    # 20 of 100 and one of 200: mean 104.76, SD 21.82, so 200 is 4.36 SDs away.
    rows = [volume(1000001 + number, 100.0) for number in range(20)] + [volume(1000021, 200.0)]
    found = frame(connect({"tissue_volumes": rows}), "FROM segmentation_qc WHERE is_poor")
    assert found["subject_id"].to_list() == [1000021]
    assert found["sd_from_mean"].item() == pytest.approx(4.3644, abs=1e-4)
    lone = frame(connect({"tissue_volumes": rows[:1]}), "FROM segmentation_qc").row(0, named=True)
    assert lone["is_poor"] is False


def one_of_each() -> dict[str, list[dict]]:
    """Nine knee-visits with DESS: one per exclusion, and two that stay."""
    people = range(1000001, 1000010)
    scans = [listed(subject) for subject in people if subject != 1000002]
    scans += [listed(subject, sequence="MSME") for subject in people if subject != 1000003]
    scans += [listed(1000002, "LEFT"), listed(1000002, "LEFT", sequence="MSME")]
    scans += [listed(1000010, acquired=False), listed(1000011, acquired=None)]
    return {
        "enrollees": [{"subject_id": subject, "sex": "F"} for subject in people],
        "scans_listed": scans,
        # 1: segmentation; 2: left; 3: no MSME; 4: no grade; 5 unknown; 6 intermediate; 7 widespread
        "tissue_volumes": [volume(1000001, 1e5)],
        "radiographs": [
            reading(1000002, 1, side="LEFT"),
            *(reading(subject, 1 + subject % 2) for subject in people if subject != 1000004),
        ],
        "clinical_visits": [
            interview(1000001),
            interview(1000002),
            interview(1000003),
            interview(1000004, **chronic()),
            interview(1000006, **chronic(months=2)),
            interview(1000007, **ABOVE, **BELOW, **NECK),
            interview(1000008, **chronic(), womac_pain_right=9.0),
            interview(1000009, age_years=71),
        ],
    }


REFERENCE = {"segmentation_reference": [{"tissue": "femur", "mean_mm3": 1.0, "sd_mm3": 1.0}]}


def test_flow_counts_each_exclusion_once_in_the_papers_order() -> None:
    connection = connect(one_of_each(), REFERENCE)
    flow = frame(connection, "FROM cohort_flow")
    assert flow.select("step", "n_excluded", "n_remaining", "n_patients_remaining").rows() == [
        ("dess", 0, 9, 9),
        ("segmentation_quality", 1, 8, 8),
        ("left_knee", 1, 7, 7),
        ("no_msme", 1, 6, 6),
        ("no_kl_grade", 1, 5, 5),
        ("pain_definition", 3, 2, 2),
    ]
    assert flow["share_remaining"][-1] == pytest.approx(0.4)
    reasons = frame(connection, "SELECT reason, n_excluded FROM pain_exclusions")
    assert dict(reasons.rows()) == {
        "pain_unknown": 1,
        "intermediate_pain": 1,
        "widespread_pain": 1,
        "widespread_pain_unknown": 0,
    }
    cohort = frame(connection, "FROM cohort ORDER BY knee_visit").to_dicts()
    assert [row["subject_id"] for row in cohort] == [1000008, 1000009]
    assert [row["chronic_pain"] for row in cohort] == [True, False]
    assert cohort[0] | {"split": ""} == {
        "knee_visit": "1000008_RIGHT_V00",
        "subject_id": 1000008,
        "side": "RIGHT",
        "timepoint": "V00",
        "split": "",
        "chronic_pain": True,
        "osteoarthritis": False,
        "kl_grade": 1,
        "jsn_medial": None,
        "jsn_lateral": None,
        "jsw_medial_min_mm": None,
        "sex": "F",
        "age_years": 60,
        "bmi": 27.5,
        "womac_pain": 9.0,
    }


def test_the_papers_own_numbers_add_up() -> None:
    flow = frame(connect({}), "FROM cohort_flow")
    remaining = flow["paper_n_remaining"].to_list()
    excluded = flow["paper_n_excluded"].to_list()
    assert remaining[0] == 47078
    assert remaining[-1] == 7437
    for step in range(1, 6):
        assert remaining[step] == remaining[step - 1] - excluded[step]


def test_choices_on_scans() -> None:
    tables = one_of_each()
    kept = connect(tables, REFERENCE | {"msme_required": False})
    query = "SELECT count(*) FROM model_cases WHERE model = 'chronic_pain'"
    assert frame(kept, query).item() == 3
    refused = connect(tables, REFERENCE | {"unsegmented": "exclude"})
    assert frame(refused, query).item() == 0
    images = [knee(1000008) | {"sequence": sequence} for sequence in ("DESS", "MSME")]
    delivered = connect(tables | {"scans": images}, {"scan_source": "delivered"})
    flow = frame(delivered, "SELECT n_remaining FROM cohort_flow")
    assert flow["n_remaining"].to_list() == [1, 1, 1, 1, 1, 1]


def test_first_timepoint_of_each_patient() -> None:
    visits = [("V03", 1000001), ("V00", 1000001), ("V10", 1000002), ("V08", 1000002)]
    tables = {
        "scans_listed": [
            listed(subject, timepoint=timepoint, sequence=sequence)
            for timepoint, subject in visits
            for sequence in ("DESS", "MSME")
        ],
        "radiographs": [reading(subject, 2, timepoint=timepoint) for timepoint, subject in visits],
        "clinical_visits": [interview(subject, timepoint) for timepoint, subject in visits],
    }
    connection = connect(tables)
    found = frame(connection, "SELECT knee_visit FROM first_timepoints ORDER BY 1")
    assert found["knee_visit"].to_list() == ["1000001_RIGHT_V00", "1000002_RIGHT_V08"]
    counts = frame(connection, "FROM timepoint_distribution")
    assert counts.rows() == [("oa", 2, 2), ("chronic_pain", 2, 2)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("back_pain_rule", "sometimes"),
        ("knee_below_waist", "left"),
        ("hip_pain_rule", ""),
        ("widespread_level", "person"),
        ("unanswered_items", "yes"),
        ("scan_source", "imagined"),
        ("kl_reading", "mean"),
        ("unsegmented", "drop"),
        ("chronic_pain_min_months", 13),
        ("oa_min_kl", 0),
        ("training_share", 1.5),
        ("segmentation_sd_limit", 0),
    ],
)
def test_a_choice_that_is_none_is_refused_by_name(name, value) -> None:
    with pytest.raises(duckdb.Error, match=f"parameter {name} is .*; use "):
        frame(connect({}, {name: value}), "FROM cohort_parameters")


def test_samples_use_columns_that_exist() -> None:
    assert set(interview(1000001)) <= set(TABLES["clinical_visits"].column_names)
