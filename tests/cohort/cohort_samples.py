"""Tables of a made-up study, and a connection that holds them under the cohort's views.

The tables are plain DuckDB tables with the registry's columns, so that a test says only the values
it is about; everything else is NULL.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl

import sql
from lake.tables import TABLES

BASE = (
    "enrollees",
    "clinical_visits",
    "radiographs",
    "scans_listed",
    "scans",
    "tissue_volumes",
)
VISITS = ("V00", "V01", "V03", "V05", "V06", "V08", "V10")
JOINTS = ("shoulder", "elbow", "wrist", "hand", "ankle", "foot")
TISSUES = ("femur_bone", "tibia_bone", "femoral_cartilage")
POLARS = {
    "VARCHAR": pl.String,
    "BIGINT": pl.Int64,
    "DOUBLE": pl.Float64,
    "BOOLEAN": pl.Boolean,
    "DOUBLE[]": pl.List(pl.Float64),
}

Rows = Sequence[Mapping[str, Any]]


def connect(
    tables: Mapping[str, Rows], settings: Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection with the base tables (those not given are empty) and the macros."""
    connection = duckdb.connect()
    for name in BASE:
        schema = {column.name: POLARS[column.duckdb_type] for column in TABLES[name].columns}
        rows = [{key: row.get(key) for key in schema} for row in tables.get(name, ())]
        unknown = {key for row in tables.get(name, ()) for key in row} - set(schema)
        assert not unknown, (name, unknown)
        frame = pl.DataFrame(rows, schema=schema)
        connection.register("frame", frame.to_arrow())
        connection.execute(f"CREATE TABLE {name} AS FROM frame")
        connection.unregister("frame")
    for file in sql.macros():
        connection.execute(file.text)
    for name, value in (settings or {}).items():
        assert name in sql.settings()
        connection.execute(f"SET VARIABLE {name} = $1", [value])
    return connection


def frame(connection: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    """A query's result; makes the views it needs and no others, since each costs time."""
    wanted = sql.needed_by(query, ("cohort",))
    for file in sql.views(("cohort",)):
        if file.name in wanted:
            connection.execute(f"CREATE VIEW IF NOT EXISTS {file.name} AS {file.text}")
    return pl.DataFrame(connection.sql(query).to_arrow_table())


def knee(subject_id: int, side: str = "RIGHT", timepoint: str = "V00") -> dict[str, Any]:
    return {
        "knee_visit": f"{subject_id}_{side}_{timepoint}",
        "subject_id": subject_id,
        "side": side,
        "timepoint": timepoint,
    }


def listed(subject_id: int, side: str = "RIGHT", timepoint: str = "V00", **more: Any) -> dict:
    return knee(subject_id, side, timepoint) | {"sequence": "DESS", "acquired": True} | more


def reading(subject_id: int, kl_grade: int | None, project: int = 15, **more: Any) -> dict:
    where = {key: more.pop(key) for key in ("side", "timepoint") if key in more}
    return knee(subject_id, **where) | {"reading_project": project, "kl_grade": kl_grade} | more


def interview(subject_id: int, timepoint: str = "V00", **answers: Any) -> dict:
    """Somebody without any pain; answers as given (`None`: unanswered)."""
    sides = ("right", "left")
    said: dict[str, Any] = {
        "subject_id": subject_id,
        "timepoint": timepoint,
        "age_years": 60,
        "bmi": 27.5,
        "back_any_pain_30d": False,
        "neck_frequent_pain_30d": False,
        "no_other_joint_pain_30d": True,
    }
    for side in sides:
        said |= {
            f"{item}_{side}": False
            for item in (
                "knee_any_pain_12m",
                "knee_frequent_pain_12m",
                "knee_any_pain_30d",
                "knee_frequent_pain_30d",
                "hip_any_pain_12m",
                "hip_frequent_pain_12m",
                *(f"{joint}_frequent_pain_30d" for joint in JOINTS),
            )
        }
        said[f"womac_pain_{side}"] = 0.0
    return said | answers


def chronic(side: str = "right", months: int | None = 12) -> dict[str, Any]:
    return {
        f"knee_any_pain_12m_{side}": True,
        f"knee_frequent_pain_12m_{side}": True,
        f"knee_frequent_pain_months_12m_{side}": months,
    }


def random_study(n_people: int, seed: int) -> dict[str, list[dict]]:
    """A study with every kind of gap: no claim to resemble real people."""
    random = np.random.default_rng(seed)
    study: dict[str, list[dict]] = {name: [] for name in BASE}

    def maybe(value: Any, share: float) -> Any:
        return None if random.random() < share else value

    for number in range(n_people):
        subject = 1000001 + number
        frailty = random.uniform(0.02, 0.6)
        study["enrollees"].append(
            {"subject_id": subject, "sex": maybe(random.choice(["M", "F"]), 0.01)}
        )
        age, bmi = int(random.integers(45, 80)), random.normal(28.5, 4.8)
        for timepoint in VISITS:
            if random.random() < 0.15:
                continue
            _random_visit(study, subject, timepoint, (frailty, age, bmi), random, maybe)
    for rows in study.values():
        random.shuffle(rows)
    return study


def _random_visit(study, subject, timepoint, person, random, maybe) -> None:
    frailty, age, bmi = person
    hurts = random.random(40) < frailty

    def said(index: int) -> bool | None:
        return maybe(bool(hurts[index]), 0.05)

    back = said(0)
    answers: dict[str, Any] = {
        "subject_id": subject,
        "timepoint": timepoint,
        "age_years": maybe(age + VISITS.index(timepoint), 0.02),
        "bmi": maybe(float(np.clip(bmi + random.normal(), 15, 60)), 0.02),
        "back_any_pain_30d": back,
        "back_pain_frequency_30d": maybe(int(random.integers(0, 4)), 0.05) if back else None,
        "neck_frequent_pain_30d": said(1),
    }
    index = 2
    for side in ("right", "left"):
        for joint in JOINTS:
            answers[f"{joint}_frequent_pain_30d_{side}"] = said(index)
            index += 1
        for item in ("hip_any_pain_12m", "hip_frequent_pain_12m", "knee_frequent_pain_30d"):
            answers[f"{item}_{side}"] = said(index)
            index += 1
        any_pain = maybe(bool(random.random() < 0.7), 0.03)
        frequent = maybe(bool(any_pain and random.random() < 0.4), 0.03)
        answers[f"knee_any_pain_12m_{side}"] = any_pain
        answers[f"knee_frequent_pain_12m_{side}"] = frequent
        answers[f"knee_frequent_pain_months_12m_{side}"] = (
            maybe(int(random.integers(1, 13)), 0.05) if frequent else None
        )
        answers[f"womac_pain_{side}"] = maybe(float(random.integers(0, 21)), 0.02)
    study["clinical_visits"].append(answers)
    for side in ("RIGHT", "LEFT"):
        where = {"side": side, "timepoint": timepoint}
        if random.random() < 0.95:
            study["scans_listed"].append(
                listed(subject, **where) | {"acquired": maybe(random.random() < 0.97, 0.01)}
            )
        if random.random() < (0.97 if side == "RIGHT" else 0.02):
            study["scans_listed"].append(listed(subject, **where) | {"sequence": "MSME"})
        for project in (15, 37):
            if random.random() < 0.6:
                grade = maybe(int(random.integers(0, 5)), 0.05)
                width = maybe(float(random.uniform(0, 8)), 0.3)
                study["radiographs"].append(
                    reading(subject, grade, project, jsw_medial_min_mm=width, **where)
                )
        if random.random() < 0.5:
            study["tissue_volumes"] += [
                knee(subject, **where)
                | {"tissue": tissue, "volume_mm3": float(random.normal(1000, 100))}
                for tissue in TISSUES
            ]
