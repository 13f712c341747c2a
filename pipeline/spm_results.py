"""Maps tested together, as rows of the lake."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS, TABLES
from pipeline.config import CODE_VERSION, Settings, config_hash
from stats.spm_family import SpmFamily

NOTES = (
    "Differences are group 1 minus group 0, adjusted for the covariates by least squares.",
    "t, F and p take cases to be independent and residuals to be normal; permutation p-values "
    "take blocks to be exchangeable.",
    "p is not corrected for the number of vertices, as in the paper; q and p_fwe are.",
)


def store_spm(
    lake: Lake,
    settings: Settings,
    analysis: str,
    input_fingerprint: str,
    family: SpmFamily,
    notes: Sequence[str] = NOTES,
) -> None:
    """Write a family of maps as one batch; it replaces the analysis' former results.

    Args:
        lake: where to.
        settings: what the rows are written with.
        analysis: its name.
        input_fingerprint: of what was analysed.
        family: what came out.
        notes: what it assumes.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    tables = {
        "spm_points": family.points,
        "spm_clusters": _as_text(family.clusters),
        "spm_compartments": family.compartments,
    }
    ledger = {
        "analysis": analysis,
        "input_fingerprint": input_fingerprint,
        "n_rows": max(one.n_cases for one in family.results.values()),
        "n_results": sum(one.n_tested > 0 for one in family.results.values()),
        "n_failed": sum(one.n_tested == 0 for one in family.results.values()),
        "notes": "\n".join(notes),
    }
    _commit(lake, settings, ledger, tables)


def store_refusal(
    lake: Lake,
    settings: Settings,
    analysis: str,
    input_fingerprint: str,
    n_cases: int,
    n_maps: int,
    reason: str,
) -> None:
    """Write of a family that it could not be tested and why; its former results leave the views.

    Args:
        lake: where to.
        settings: what the row is written with.
        analysis: its name.
        input_fingerprint: of what was analysed.
        n_cases: cases there were.
        n_maps: maps of the family.
        reason: why not.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    ledger = {
        "analysis": analysis,
        "input_fingerprint": input_fingerprint,
        "n_rows": n_cases,
        "n_results": 0,
        "n_failed": n_maps,
        "notes": f"Not tested: {reason}",
    }
    _commit(lake, settings, ledger, {})


def _commit(
    lake: Lake, settings: Settings, ledger: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]
) -> None:
    """One batch: the analysis' row, and its rows of other tables."""
    with lake.batch(
        "statistics",
        ALL_TIMEPOINTS,
        CODE_VERSION["statistics"],
        config_hash(settings, "statistics"),
    ) as batch:
        batch.add("analyses", [ledger])
        for name, rows in tables.items():
            if rows.height:
                columns = [column for column in TABLES[name].column_names if column in rows.columns]
                batch.add(name, rows.select(pl.lit(ledger["analysis"]).alias("analysis"), *columns))


def _as_text(clusters: pl.DataFrame) -> pl.DataFrame:
    """The list of compartments as text, for a table that any client can read."""
    if "compartments" not in clusters.columns or clusters.is_empty():
        return clusters
    texts = [
        ", ".join(f"{one['compartment']} {100 * one['share']:.1f} %" for one in found or [])
        for found in clusters["compartments"].to_list()
    ]
    return clusters.with_columns(pl.Series("compartments", texts, dtype=pl.String))
