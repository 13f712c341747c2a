"""Every cohort table on a random study against the same rules written as plain Python loops.

The loops share nothing with the SQL: dictionaries and `None`, one person at a time.
"""

import hashlib
from collections import Counter, defaultdict
from statistics import mean, stdev
from typing import Any

import pytest
from cohort_samples import connect, frame, random_study

ABOVE = ("shoulder", "elbow", "wrist", "hand")
PAPER = {
    "back_pain_rule": "most_of_the_time",
    "knee_below_waist": "any",
    "hip_pain_rule": "frequent_12m",
    "widespread_level": "patient",
    "unanswered_items": "no",
    "chronic_pain_min_months": 7,
}
OTHER = {
    "back_pain_rule": "any",
    "knee_below_waist": "other_knee",
    "hip_pain_rule": "none",
    "widespread_level": "visit",
    "unanswered_items": "unknown",
    "chronic_pain_min_months": 6,
}


def any_of(answers: list) -> bool | None:
    if any(answer is True for answer in answers):
        return True
    return None if None in answers else False


def all_of(answers: list) -> bool | None:
    if any(answer is False for answer in answers):
        return False
    return None if None in answers else True


def widespread_at(visit: dict, side: str, choice: dict) -> bool | None:
    other = "left" if side == "right" else "right"
    both = ("right", "left")
    above = [visit[f"{joint}_frequent_pain_30d_{one}"] for joint in ABOVE for one in both]
    below = [
        visit[f"{joint}_frequent_pain_30d_{one}"] for joint in ("ankle", "foot") for one in both
    ]
    hip = {"frequent_12m": "hip_frequent_pain_12m", "any_12m": "hip_any_pain_12m"}
    if choice["hip_pain_rule"] in hip:
        below += [visit[f"{hip[choice['hip_pain_rule']]}_{one}"] for one in both]
    knees = {"any": both, "other_knee": (other,), "none": ()}[choice["knee_below_waist"]]
    below += [visit[f"knee_frequent_pain_30d_{one}"] for one in knees]
    back = visit["back_any_pain_30d"]
    if choice["back_pain_rule"] == "most_of_the_time":
        often = visit["back_pain_frequency_30d"]
        back = often >= 2 if often is not None else (False if back is False else None)
    axial = [visit["neck_frequent_pain_30d"], back]
    found = all_of([any_of(above), any_of(below), any_of(axial)])
    return False if found is None and choice["unanswered_items"] == "no" else found


def label(visit: dict | None, side: str, choice: dict) -> str:
    if visit is None:
        return "unknown"
    any_pain = visit[f"knee_any_pain_12m_{side}"]
    frequent = visit[f"knee_frequent_pain_12m_{side}"]
    months = visit[f"knee_frequent_pain_months_12m_{side}"]
    if any_pain is None or (not any_pain and frequent):
        return "unknown"
    if not any_pain:
        return "no_pain"
    if frequent is False or (months is not None and months < choice["chronic_pain_min_months"]):
        return "intermediate"
    return "chronic_pain" if frequent and months is not None else "unknown"


def grade(readings: list[dict], timepoint: str) -> int | None:
    order = (37, 15) if timepoint in ("V08", "V10") else (15, 37)
    by_project = {reading["reading_project"]: reading["kl_grade"] for reading in readings}
    grades = [by_project.get(project) for project in order]
    return next((one for one in grades if one is not None), None)


def outliers(study: dict) -> set[str]:
    volumes = defaultdict(list)
    for row in study["tissue_volumes"]:
        volumes[row["tissue"]].append(row["volume_mm3"])
    limits = {tissue: (mean(found), 3 * stdev(found)) for tissue, found in volumes.items()}
    return {
        row["knee_visit"]
        for row in study["tissue_volumes"]
        if abs(row["volume_mm3"] - limits[row["tissue"]][0]) > limits[row["tissue"]][1]
    }


def expected(study: dict, choice: dict) -> dict[str, dict[str, Any]]:
    """By knee-visit with DESS: what excludes it, and its values."""
    visits = {(row["subject_id"], row["timepoint"]): row for row in study["clinical_visits"]}
    readings = defaultdict(list)
    for row in study["radiographs"]:
        readings[row["knee_visit"]].append(row)
    scans = {
        (row["knee_visit"], row["sequence"]) for row in study["scans_listed"] if row["acquired"]
    }
    poor = outliers(study)
    ever = {
        (subject, side)
        for (subject, _), visit in visits.items()
        for side in ("right", "left")
        if widespread_at(visit, side, choice)
    }
    found = {}
    for row in study["scans_listed"]:
        name, side = row["knee_visit"], row["side"].lower()
        if (name, "DESS") not in scans or name in found:
            continue
        visit = visits.get((row["subject_id"], row["timepoint"]))
        spread = widespread_at(visit, side, choice) if visit else None
        if choice["widespread_level"] == "patient" and (row["subject_id"], side) in ever:
            spread = True
        pain, kl = label(visit, side, choice), grade(readings[name], row["timepoint"])
        reason = {"unknown": "pain_unknown", "intermediate": "intermediate_pain"}.get(pain)
        if reason is None and spread is not False:
            reason = "widespread_pain" if spread else "widespread_pain_unknown"
        tests = {
            "segmentation_quality": name in poor,
            "left_knee": side == "left",
            "no_msme": (name, "MSME") not in scans,
            "no_kl_grade": kl is None,
            "pain_definition": reason is not None,
        }
        exclusion = next((step for step, failed in tests.items() if failed), None)
        found[name] = {
            "exclusion": exclusion,
            "reason": reason if exclusion == "pain_definition" else None,
            "label": pain,
            "kl": kl,
            "subject": row["subject_id"],
            "timepoint": row["timepoint"],
            "visit": visit,
        }
    return found


def split_of(subject_id: int) -> str:
    digest = hashlib.md5(f"42:{subject_id}".encode(), usedforsecurity=False).hexdigest()
    uniform = int(digest[:13], 16) / 2**52
    return (
        "training"
        if uniform < 4029 / 7437
        else "validation"
        if uniform < 4029 / 7437 + 1257 / 7437
        else "test"
    )


@pytest.fixture(scope="module", params=[PAPER, OTHER], ids=["paper", "other"])
def case(request):
    study = random_study(250, 11)
    return connect(study, request.param), expected(study, request.param), study


def test_exclusions(case) -> None:
    connection, rows, _ = case
    found = frame(
        connection,
        "SELECT knee_visit, exclusion, pain_exclusion, pain_label, kl_grade FROM cohort_candidates",
    )
    assert {row[0]: row[1:] for row in found.rows()} == {
        name: (row["exclusion"], row["reason"], row["label"], row["kl"])
        for name, row in rows.items()
    }


def test_flow(case) -> None:
    connection, rows, _ = case
    flow = frame(connection, "FROM cohort_flow")
    counts = Counter(row["exclusion"] for row in rows.values())
    left, remaining = len(rows), dict(rows)
    for step in flow.to_dicts()[1:]:
        left -= counts[step["step"]]
        remaining = {
            name: row for name, row in remaining.items() if row["exclusion"] != step["step"]
        }
        assert (step["n_excluded"], step["n_remaining"]) == (counts[step["step"]], left)
        people = {row["subject"] for row in remaining.values()}
        assert step["n_patients_remaining"] == len(people)
    reasons = dict(frame(connection, "SELECT reason, n_excluded FROM pain_exclusions").rows())
    assert Counter(reasons) == Counter(row["reason"] for row in rows.values() if row["reason"])
    assert frame(connection, "SELECT count(*) FROM cohort").item() == left > 0


def test_variants_hold_the_choice_in_use(case) -> None:
    connection, rows, _ = case
    used = frame(connection, "FROM widespread_pain_variants WHERE is_in_use").row(0, named=True)
    included = [row for row in rows.values() if row["exclusion"] is None]
    assert used["n_included"] == len(included)
    assert used["n_chronic_pain"] == sum(row["label"] == "chronic_pain" for row in included)
    reasons = Counter(row["reason"] for row in rows.values())
    assert used["n_excluded_widespread"] == reasons["widespread_pain"]
    assert used["n_excluded_widespread_unknown"] == reasons["widespread_pain_unknown"]


def test_table_4(case) -> None:
    connection, rows, study = case
    sexes = {row["subject_id"]: row["sex"] for row in study["enrollees"]}
    sets = {
        "oa": [row for row in rows.values() if row["exclusion"] in (None, "pain_definition")],
        "chronic_pain": [row for row in rows.values() if row["exclusion"] is None],
    }
    balance = {
        (row["model"], row["split"]): row
        for row in frame(connection, "FROM split_balance").to_dicts()
    }
    for model, members in sets.items():
        for split in ("training", "validation", "test", "all"):
            chosen = [row for row in members if split in ("all", split_of(row["subject"]))]
            found = balance[model, split]
            cases = [
                row["kl"] >= 2 if model == "oa" else row["label"] == "chronic_pain"
                for row in chosen
            ]
            assert found["n_knee_visits"] == len(chosen)
            assert found["n_cases"] == sum(cases)
            assert found["n_patients"] == len({row["subject"] for row in chosen})
            assert found["share"] == pytest.approx(len(chosen) / len(members))
            assert found["n_female"] == sum(sexes[row["subject"]] == "F" for row in chosen)
            for name, key in (("age", "age_years"), ("womac_pain", "womac_pain_right")):
                values = [
                    row["visit"][key]
                    for row in chosen
                    if row["visit"] and row["visit"][key] is not None
                ]
                assert found[f"{name}_mean"] == pytest.approx(mean(values))
                assert found[f"{name}_sd"] == pytest.approx(stdev(values))
        per_patient = Counter(Counter(row["subject"] for row in members).values())
        assert balance[model, "all"]["timepoint_distribution"] == " ".join(
            f"{n}:{people}" for n, people in sorted(per_patient.items())
        )


def test_first_timepoints(case) -> None:
    connection, rows, _ = case
    first: dict[int, str] = {}
    for row in rows.values():
        if row["exclusion"] is None:
            subject = row["subject"]
            first[subject] = min(first.get(subject, "V99"), row["timepoint"])
    found = frame(connection, "SELECT subject_id, timepoint FROM first_timepoints")
    assert dict(found.rows()) == first


def test_seeds_agree_with_the_tests_of_the_seed_in_use(case) -> None:
    connection, _, _ = case
    seed = frame(connection, "FROM split_seeds WHERE split_seed = 42").row(0, named=True)
    for row in frame(connection, "FROM split_tests WHERE unit = 'knee_visit'").to_dicts():
        model = row["model"]
        assert seed[f"{model}_sex_p"] == pytest.approx(row["sex_p"], rel=1e-9)
        assert seed[f"{model}_age_bmi_wilks_p"] == pytest.approx(row["wilks_p"], rel=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "cohort_flow_sums",
        "cohort_keys",
        "cohort_in_range",
        "split_shares",
    ],
)
def test_checks_pass(case, name) -> None:
    import sql

    assert frame(case[0], sql.load(f"cohort_checks/{name}").text).is_empty()


def test_order_of_rows_does_not_matter() -> None:
    study = random_study(40, 5)
    reverse = {name: rows[::-1] for name, rows in study.items()}
    for name in ("cohort", "cohort_flow", "widespread_pain", "oa_labels"):
        query = f"FROM {name} ORDER BY ALL"
        assert frame(connect(study), query).equals(frame(connect(reverse), query))
