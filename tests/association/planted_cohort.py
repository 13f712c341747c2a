"""A cohort whose chronic pain is drawn from coefficients we know.

People, visits and radiographs are the phantom's. Nobody has pain but in the right knee, where it is
chronic or none: P(chronic) = sigmoid(truth . x), drawn anew at every visit, so that a logistic
regression on the lake's cohort estimates exactly these coefficients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lake.store import Lake
from lake.tables import CLINICAL_VISIT_VALUES
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables

DEMOGRAPHICS = {"age_years": -0.03, "bmi": 0.08, "sex_female": 0.4}
RADIOGRAPHIC = {
    **DEMOGRAPHICS,
    "jsn_medial": 0.0,
    "jsn_lateral": 0.0,
    "jsw_medial_min_mm": -0.2,
    "kl_grade": 0.5,
}
"""Compartment averages have no effect given these."""
THICKNESS = {**DEMOGRAPHICS, "medial": -1.5, "lateral": 0.0}
CENTRES = {"jsw_medial_min_mm": 4.5, "kl_grade": 1.2, "age_years": 62, "bmi": 28.5, "medial": 2.3}


@dataclass(frozen=True)
class Planted:
    """A lake and the coefficients its pain was drawn from."""

    lake: Lake
    truth: Mapping[str, float]


GRID = (4, 8)
"""Cells of a planted Grad-CAM; each sees one pixel, the upper half of them medial."""


@dataclass(frozen=True)
class Guidance:
    """Maps of thickness and a network's Grad-CAM on them, one pixel a cell.

    Attributes:
        slope: what a mm of thickness does to the log odds of pain, at one cell of each knee's own.
        leaks: whether the Grad-CAM points at a thin cell where the network says pain and at a thick
            one where not; else it points at the knee's own cell. What the network says goes with
            pain: its logit is normal with SD 1, its mean higher by 1.5 with pain.
    """

    slope: float = 0.0
    leaks: bool = False


def planted_lake(
    root: Path,
    truth: Mapping[str, float],
    *,
    n_people: int,
    seed: int,
    guidance: Guidance | None = None,
) -> Planted:
    lake = Lake(root)
    tables = cohort_tables(simulate_cohort(n_people, seed=seed))
    _commit(lake, tables)
    rows = lake.sql(
        "SELECT oa_labels.* REPLACE (floor(jsn_medial) AS jsn_medial, "
        "floor(jsn_lateral) AS jsn_lateral), age_years, bmi, (sex = 'F')::INT AS sex_female "
        "FROM oa_labels JOIN clinical_visits USING (subject_id, timepoint) "
        "JOIN enrollees USING (subject_id) WHERE side = 'RIGHT' ORDER BY knee_visit"
    )
    random = np.random.default_rng(seed)
    rows = rows.with_columns(
        medial=pl.Series(random.normal(2.3, 0.4, rows.height).clip(0.2)),
        lateral=pl.Series(random.normal(2.4, 0.4, rows.height).clip(0.2)),
    )
    log_odds = -0.4 + sum(
        slope * (rows[name].fill_null(CENTRES.get(name, 0.0)).to_numpy() - CENTRES.get(name, 0.0))
        for name, slope in truth.items()
    )
    cells, own = np.zeros((rows.height, 0)), np.zeros(rows.height, int)
    if guidance is not None:
        cells = random.normal(2.3, 0.4, (rows.height, GRID[0] * GRID[1])).clip(0.2)
        own = random.integers(0, cells.shape[1], rows.height)
        half = cells.shape[1] // 2
        rows = rows.with_columns(
            medial=pl.Series(cells[:, :half].mean(axis=1)),
            lateral=pl.Series(cells[:, half:].mean(axis=1)),
        )
        log_odds = log_odds + guidance.slope * (cells[np.arange(len(own)), own] - 2.3)
    chronic = random.random(rows.height) < 1 / (1 + np.exp(-log_odds))
    rows = rows.with_columns(chronic=pl.Series(chronic))
    _commit(lake, {"clinical_visits": _answers(tables["clinical_visits"], rows)})
    _add_thickness(lake, rows)
    if guidance is not None:
        logit = random.normal(1.5 * (chronic - 0.5), 1.0)
        if guidance.leaks:
            # Among the thinner half, or among the thicker.
            rank = random.integers(0, half, len(own)) + half * (logit <= 0)
            own = cells.argsort(axis=1)[np.arange(len(own)), rank]
        _add_cams(lake, rows, cells, own, logit, random)
    return Planted(lake, truth)


def _add_cams(
    lake: Lake,
    rows: pl.DataFrame,
    cells: np.ndarray,
    chosen: np.ndarray,
    logit: np.ndarray,
    random: np.random.Generator,
) -> None:
    """A network in use, what it says, where it looks, and the maps it looks at."""
    from small_study import classifier_row

    with lake.batch("classifiers", "all", "1", "c") as batch:
        batch.add("classifiers", [classifier_row("chronic_pain", "femur", "thickness", "h")])
    keys = ("knee_visit", "subject_id", "side", "timepoint")
    n = cells.shape[1]
    ones = [1.0] * n
    for (timepoint,), visit in rows.with_row_index("place").group_by(
        "timepoint", maintain_order=True
    ):
        predictions, cams, sums = [], [], []
        for row in visit.to_dicts():
            place = row["place"]
            key = {name: row[name] for name in keys}
            model = {"task": "chronic_pain", "bone": "femur", "strategy": "thickness"}
            made = {"checkpoint_hash": "h", "input_fingerprint": "f"}
            predictions.append(
                {
                    **key,
                    **model,
                    **made,
                    "logit_no": 0.0,
                    "logit_yes": float(logit[place]),
                    "probability": float(1 / (1 + np.exp(-logit[place]))),
                    "predicted": bool(logit[place] > 0),
                }
            )
            other = int(random.integers(0, n))
            for target, cell in (("pain", chosen[place]), ("no_pain", other), ("contrastive", 0)):
                weights = [0.0] * n
                weights[int(cell)] = 2.0
                grid = {"n_phi": GRID[0], "n_theta": GRID[1]}
                extremes = {"cells": weights, "lowest": 0.0, "highest": 2.0}
                cams.append({**key, **model, **made, "target": target, **grid, **extremes})
            values = cells[place].tolist()
            seen = {"value_sum": values, "weight_sum": ones}
            surface = {f"{name}_surface": found for name, found in seen.items()}
            what = {"biomarker": "cartilage_thickness", "compartment": "whole"}
            sums.append(
                {
                    **key,
                    "bone": "femur",
                    **what,
                    **grid,
                    **seen,
                    **surface,
                    "input_fingerprint": "f",
                }
            )
        with lake.batch("predictions", str(timepoint), "1", "c") as batch:
            batch.add("predictions", predictions)
        with lake.batch("guided", str(timepoint), "1", "c") as batch:
            batch.add("cam_cells", cams)
            batch.add("cell_sums", sums)


def _commit(lake: Lake, tables: Mapping[str, pl.DataFrame]) -> None:
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in tables.items():
            batch.add(name, frame.with_columns(pl.lit(value=False).alias("retracted")))


def _answers(visits: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """No pain anywhere, but chronic pain of the right knee where it was drawn."""
    joined = visits.join(
        rows.select("subject_id", "timepoint", "chronic"),
        on=["subject_id", "timepoint"],
        how="left",
    ).with_columns(pl.col("chronic").fill_null(value=False))
    pain = {}
    for column in CLINICAL_VISIT_VALUES:
        if column.duckdb_type == "BOOLEAN":
            pain[column.name] = pl.lit(column.name == "no_other_joint_pain_30d")
    for name in ("knee_any_pain_12m_right", "knee_frequent_pain_12m_right"):
        pain[name] = pl.col("chronic")
    months = "knee_frequent_pain_months_12m_right"
    never = ("back_pain_frequency_30d", "knee_frequent_pain_months_12m_left")
    return joined.with_columns(
        *(value.alias(name) for name, value in pain.items()),
        *(pl.lit(None, pl.String).alias(f"{name}_missing") for name in pain),
        pl.when("chronic").then(12).alias(months),
        pl.when(~pl.col("chronic")).then(pl.lit("not_expected")).alias(f"{months}_missing"),
        *(pl.lit(None, pl.Int64).alias(name) for name in never),
        *(pl.lit("not_expected").alias(f"{name}_missing") for name in never),
    ).drop("chronic")


def _add_thickness(lake: Lake, rows: pl.DataFrame) -> None:
    """Femoral cartilage thickness, the default method, as if all scans had been measured."""
    keys = ("knee_visit", "subject_id", "side", "timepoint")
    for (timepoint,), visit in rows.group_by("timepoint", maintain_order=True):
        with lake.batch("maps", timepoint, "1", "c") as batch:
            batch.add(
                "ledger",
                visit.select(
                    "knee_visit",
                    pl.lit("maps").alias("step"),
                    pl.lit("f").alias("input_fingerprint"),
                    pl.lit("done").alias("status"),
                    pl.lit(1.0).alias("seconds"),
                ),
            )
            for compartment in ("medial", "lateral"):
                batch.add(
                    "biomarkers",
                    visit.select(
                        *keys,
                        pl.lit("femur").alias("bone"),
                        pl.lit(compartment).alias("compartment"),
                        pl.lit("cartilage_thickness").alias("biomarker"),
                        pl.lit("skeleton").alias("method"),
                        pl.lit(value=True).alias("is_default"),
                        pl.col(compartment).alias("mean"),
                        pl.lit(0.3).alias("sd"),
                        pl.lit(100).alias("n"),
                        pl.lit(900.0).alias("area_mm2"),
                    ),
                )
