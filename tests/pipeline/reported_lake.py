"""A small lake with results of every kind that a report shows, none computed from images."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from imaging.labels import BONES
from lake.keys import BIOMARKER_UNITS, STRATEGIES
from lake.store import Lake
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.association import run_nested, run_radiographic
from pipeline.config import Settings
from pipeline.evaluation import EvaluationOptions, evaluate
from pipeline.evaluation_results import store_evaluation
from stats.source import load_macros

PEOPLE = 120
SPLIT_RULE = f"42|{4029 / 7437}|{1257 / 7437}"
NAMES = ("knee_visit", "subject_id", "side", "timepoint")
SPM = "spm_cam_pain"
ODD_NOTE = "Trained on 5 % of <all> knees & more"
"""A note of a training with everything that HTML and LaTeX have to escape."""


def reported_lake(root: Path, seed: int = 3) -> Lake:
    lake = Lake(root)
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(PEOPLE, seed=seed)).items():
            batch.add(name, frame.with_columns(pl.lit(value=False).alias("retracted")))
    rng = np.random.default_rng(seed)
    cases = lake.sql("FROM model_cases WHERE model = 'chronic_pain' ORDER BY knee_visit").to_dicts()
    _add_maps(lake, cases, rng)
    _add_predictions(lake, cases, rng)
    settings = Settings(lake.root)
    run_radiographic(lake, settings)
    run_nested(lake, settings)
    with lake.connect(query="FROM scored_predictions") as connection:
        load_macros(connection)
        found = evaluate(connection, "chronic_pain", "first", EvaluationOptions(n_replicates=10))
    store_evaluation(lake, settings, [found], "f", 1)
    _add_spm(lake, rng)
    return lake


def _add_maps(lake: Lake, cases: list[dict[str, Any]], rng: np.random.Generator) -> None:
    """Thickness of the femur, its agreement, and that the knees were drawn."""
    for timepoint in sorted({case["timepoint"] for case in cases}):
        here = [case for case in cases if case["timepoint"] == timepoint]
        keys = [{name: case[name] for name in NAMES} for case in here]
        with lake.batch("maps", timepoint, "1", "c") as batch:
            done = {"step": "maps", "input_fingerprint": "f", "status": "done", "seconds": 1.0}
            batch.add("ledger", [{"knee_visit": key["knee_visit"], **done} for key in keys])
            drawn = {"bone": "femur", "seed": 1, "pain_label": None, "amplitude": 0.0}
            batch.add(
                "drawn_knees", [{**key, **drawn, "separation": 2.0, "effect": "{}"} for key in keys]
            )
            rows, agreement = [], []
            for key, case in zip(keys, here, strict=True):
                for compartment in ("medial", "lateral"):
                    thinner = 0.2 * case["is_case"] * (compartment == "medial")
                    rows.append(
                        {
                            **key,
                            "bone": "femur",
                            "compartment": compartment,
                            "biomarker": "cartilage_thickness",
                            "method": "skeleton",
                            "is_default": True,
                            "mean": 2.3 - thinner + 0.3 * float(rng.normal()),
                            "sd": 0.3,
                            "n": 100,
                            "area_mm2": 900.0,
                        }
                    )
                mean = rows[-1]["mean"]
                agreement.append(
                    {
                        **key,
                        "bone": "femur",
                        "biomarker": "cartilage_thickness",
                        "surface_mean": mean,
                        "map_mean": mean + 0.02 * float(rng.normal()),
                        "map_mean_area_weighted": mean + 0.01 * float(rng.normal()),
                        "n_surface": 100,
                        "n_map": 100,
                    }
                )
            batch.add("biomarkers", rows)
            batch.add("map_agreement", agreement)


def _classifier(bone: str, strategy: str) -> dict[str, Any]:
    texts = {"config_hash": "c", "data_hash": "d", "input_fingerprint": "f", "ranges_id": "r"}
    counts = {"n_left_out": 0, "n_epochs": 3, "best_epoch": 2, "batch_size": 16, "seed": 0}
    shares = ("auc_variation_percent", "val_sensitivity", "val_specificity", "val_auc", "val_mcc")
    return {
        **texts,
        **counts,
        **dict.fromkeys(shares, 0.5),
        "task": "chronic_pain",
        "bone": bone,
        "strategy": strategy,
        "checkpoint_hash": "h",
        "path": "",
        "architecture": "resnet18",
        "width": 0.25,
        "initialization": "random",
        "initialized_from": "",
        "config": '{"network": {"width": 0.25}, "learning_rate": 0.001}',
        "split_rule": SPLIT_RULE,
        "n_training": 10,
        "n_validation": 5,
        "stopped_early": False,
        "val_loss": 0.7,
        "notes": f'["{ODD_NOTE}"]',
        "code_version": "1",
        "seconds": 1.0,
    }


def _add_predictions(lake: Lake, cases: list[dict[str, Any]], rng: np.random.Generator) -> None:
    models = [(bone, strategy) for bone in BONES for strategy in STRATEGIES]
    with lake.batch("classifiers", "all", "1", "c") as batch:
        batch.add("classifiers", [_classifier(bone, strategy) for bone, strategy in models])
    for timepoint in sorted({case["timepoint"] for case in cases}):
        rows = []
        for case in (one for one in cases if one["timepoint"] == timepoint):
            hard = rng.normal()
            for bone, strategy in models:
                margin = float(4 * (case["is_case"] - 0.5) + 1.5 * hard + rng.normal())
                rows.append(
                    {
                        **{name: case[name] for name in NAMES},
                        "task": "chronic_pain",
                        "bone": bone,
                        "strategy": strategy,
                        "checkpoint_hash": "h",
                        "input_fingerprint": "f",
                        "logit_no": 0.0,
                        "logit_yes": margin,
                        "probability": float(1 / (1 + np.exp(-margin))),
                        "predicted": bool(margin > 0),
                    }
                )
        with lake.batch("predictions", timepoint, "1", "c") as batch:
            batch.add("predictions", rows)


def _add_spm(lake: Lake, rng: np.random.Generator) -> None:
    """Maps by compartment and one cluster, as an SPM analysis leaves them."""
    maps = [f"femur_{name}" for name in BIOMARKER_UNITS if name != "t2_deep"]
    with lake.batch("statistics", "all", "1", "c") as batch:
        batch.add(
            "analyses",
            [
                {
                    "analysis": SPM,
                    "input_fingerprint": "f",
                    "n_rows": 10,
                    "n_results": len(maps),
                    "n_failed": 0,
                    "notes": "Groups are chosen by the models.",
                }
            ],
        )
        batch.add(
            "spm_compartments",
            [
                {
                    "analysis": SPM,
                    "map": name,
                    "compartment": compartment,
                    "n_vertices": 100,
                    "area_mm2": 1000.0,
                    "tested_area_mm2": 900.0,
                    "share_p05": float(rng.random()),
                    "share_fwe": float(rng.random()),
                }
                for name in maps
                for compartment in ("all", "medial")
            ],
        )
        batch.add(
            "spm_clusters",
            [
                {
                    "analysis": SPM,
                    "map": maps[0],
                    "cluster": 1,
                    "sign": -1,
                    "n_vertices": 9,
                    "area_mm2": 90.0,
                    "p_fwe_area": 0.0123,
                }
            ],
        )
