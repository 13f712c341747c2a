"""Biomarkers as a BIDS derivative: one TSV per knee-visit, participants and sessions.

After the Brain Imaging Data Structure 1.10.0 (doi 10.1038/sdata.2016.44), whose derivatives have no
entity for the side of a joint: `side-R` and `side-L` are this data set's own, and say so.

Here: files and their contents. Not here: any biomarker (`sql/biomarkers`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from lake.store import Lake
from lake.tables import TABLES

BIDS_VERSION = "1.10.0"
_COLUMNS = ("bone", "compartment", "biomarker", "method", "unit", "mean", "sd", "n", "area_mm2")
_KNEES = (
    "SELECT subject_id, timepoint, side, bone, compartment, biomarker, method, unit, mean, sd, n, "
    "area_mm2 FROM biomarkers_long WHERE is_default ORDER BY ALL"
)
_PEOPLE = (
    "SELECT subject_id, any_value(enrollees.sex) AS sex, min(visits.age_years) AS age, "
    "any_value(splits.split) AS split, count(DISTINCT knees.timepoint) AS n_sessions "
    "FROM (SELECT DISTINCT subject_id, timepoint FROM biomarkers) AS knees "
    "LEFT JOIN enrollees USING (subject_id) "
    "LEFT JOIN clinical_visits AS visits USING (subject_id, timepoint) "
    "LEFT JOIN splits USING (subject_id) GROUP BY subject_id ORDER BY subject_id"
)
_VISITS = (
    "SELECT subject_id, timepoint, age_years, bmi "
    "FROM (SELECT DISTINCT subject_id, timepoint FROM biomarkers) "
    "LEFT JOIN clinical_visits USING (subject_id, timepoint) ORDER BY subject_id, timepoint"
)
README = f"""# Knee biomarkers

Means of bone shape, cartilage thickness and T2 over the compartments of a knee, by kneelake, as a
derivative in the form of BIDS {BIDS_VERSION}.

    sub-<participant>/ses-<visit>/anat/sub-<participant>_ses-<visit>_side-<R|L>_biomarkers.tsv

`side` is an entity of this data set: BIDS has none for the side of a joint. `biomarkers.json` at
the top describes the columns of every `*_biomarkers.tsv` (inheritance principle). Visits are those
of the Osteoarthritis Initiative, V00 being enrolment. A participant whose number begins with 1 is
simulated. `n/a`: not measured or not known.
"""


def bids_files(lake: Lake) -> Iterator[tuple[str, str]]:
    """Every file of the data set: its path, and its text.

    Nothing where no knee has biomarkers.
    """
    knees = lake.sql(_KNEES)
    if knees.is_empty():
        return
    people = lake.sql(_PEOPLE)
    drawn = bool(lake.sql("SELECT count(*) FROM drawn_knees").item())
    yield "dataset_description.json", _json(_description(simulated=drawn))
    yield "README.md", README
    yield "participants.json", _json(_PARTICIPANTS)
    yield (
        "participants.tsv",
        _tsv(
            ("participant_id", "sex", "age", "split", "n_sessions"),
            [
                (f"sub-{row['subject_id']}", *(row[name] for name in list(row)[1:]))
                for row in people.to_dicts()
            ],
        ),
    )
    yield "sessions.json", _json(_SESSIONS)
    for (subject,), visits in lake.sql(_VISITS).group_by("subject_id", maintain_order=True):
        yield (
            f"sub-{subject}/sub-{subject}_sessions.tsv",
            _tsv(
                ("session_id", "age", "bmi"),
                [
                    (f"ses-{row['timepoint']}", row["age_years"], row["bmi"])
                    for row in visits.to_dicts()
                ],
            ),
        )
    yield "biomarkers.json", _json(_biomarkers())
    groups = knees.group_by("subject_id", "timepoint", "side", maintain_order=True)
    for (subject, timepoint, side), rows in groups:
        visit = f"sub-{subject}_ses-{timepoint}"
        path = f"sub-{subject}/ses-{timepoint}/anat/{visit}_side-{str(side)[0]}_biomarkers.tsv"
        yield path, _tsv(_COLUMNS, rows.select(_COLUMNS).rows())


def _description(*, simulated: bool) -> dict[str, Any]:
    try:
        version = metadata.version("kneelake")
    except metadata.PackageNotFoundError:
        version = "unknown"
    name = "Knee MRI biomarkers of bone shape, cartilage thickness and T2"
    return {
        "Name": f"{name} (simulated knees)" if simulated else name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "kneelake",
                "Version": version,
                "Description": "Spherical maps and biomarkers of segmented knee MRI.",
            }
        ],
    }


_PARTICIPANTS: Mapping[str, Any] = {
    "sex": {"Description": "Sex.", "Levels": {"M": "male", "F": "female"}},
    "age": {"Description": "Age at the first visit with biomarkers.", "Units": "year"},
    "split": {
        "Description": "Split of the classifiers, by participant.",
        "Levels": {
            "training": "networks learned from",
            "validation": "epochs were chosen on",
            "test": "judged on",
        },
    },
    "n_sessions": {"Description": "Visits with biomarkers."},
}
_SESSIONS: Mapping[str, Any] = {
    "age": {"Description": "Age at the visit, completed years.", "Units": "year"},
    "bmi": {"Description": "Body-mass index at the visit.", "Units": "kg/m^2"},
}


def _biomarkers() -> dict[str, Any]:
    """The columns, as the lake's registry describes them."""
    table = TABLES["biomarkers"]
    described: dict[str, Any] = {}
    for name in _COLUMNS:
        if name == "unit":
            described[name] = {"Description": "Unit of mean and sd: mm or ms."}
            continue
        column = table.column(name)
        described[name] = {"Description": column.description}
        if name in {"mean", "sd"}:
            described[name]["Units"] = "as in column unit"
        elif name == "area_mm2":
            described[name]["Units"] = "mm^2"
        if column.allowed:
            described[name]["Levels"] = {level: level.replace("_", " ") for level in column.allowed}
    return described


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _tsv(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["\t".join(headings)]
    lines += ["\t".join("n/a" if cell is None else f"{cell}" for cell in row) for row in rows]
    return "\n".join(lines) + "\n"
