"""Run an analysis of the lake: compute it where its input changed, store it, write its files.

Here: the order of the steps. Not here: the models (`published_regressions`,
`cohort_regressions`) or how results look (`regression_tables`, `regression_figures`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl

import sql
from lake.store import Lake
from pipeline import cohort_regressions as cohort
from pipeline import leakage_controls as leakage
from pipeline import published_regressions as published
from pipeline.config import Settings
from pipeline.leakage_tables import leakage_panels, leakage_table
from pipeline.manuscript import table_files
from pipeline.regression_figures import forest_plot, panels
from pipeline.regression_tables import caution_notes, differences, table_2, table_3
from pipeline.regressions import RESULT_TABLES, Results, fingerprint, is_current, store
from sql.reading import fetch
from stats.source import load_macros

Tables = Mapping[str, pl.DataFrame]
ROWS = "rows_of_analysis"
"""Name of the table of the rows analysed, on the connection that analyses them."""


@dataclass(frozen=True)
class Run:
    """What a run of an analysis came to.

    Attributes:
        analysis: its name.
        computed: whether its input had changed; else the lake had its results.
        n_rows: rows analysed.
        n_fitted, n_failed: models.
        tables: its rows of every result table.
        notes: what it assumes.
        input_fingerprint: of rows, choices and code.
    """

    analysis: str
    computed: bool
    n_rows: int
    n_fitted: int
    n_failed: int
    tables: Tables
    notes: tuple[str, ...]
    input_fingerprint: str


def _run(
    lake: Lake,
    settings: Settings,
    analysis: str,
    cases: str,
    queries: tuple[str, ...],
    compute: Callable[[duckdb.DuckDBPyConnection, str], Results],
    choices: Mapping[str, Any] | None,
) -> Run:
    with lake.connect(choices, f"{cases} FROM analyses") as connection:
        # A sum over threads differs from run to run in its last digits, and so would the bytes.
        connection.execute("SET threads = 1")
        # Once: the views behind the cases are deep, and the models read them many times. In order,
        # since sums in another order differ in their last digits.
        connection.execute(f"CREATE TEMP TABLE {ROWS} AS {cases} ORDER BY ALL")
        rows = fetch(connection, f"FROM {ROWS}")
        identity = fingerprint(rows, {**(choices or {}), "queries": queries})
        computed = not is_current(connection, analysis, identity)
        if computed:
            # A connection made for a query has the macros of that query only.
            load_macros(connection)
            store(lake, settings, analysis, identity, compute(connection, ROWS))
    return _stored(lake, analysis, computed=computed)


def _stored(lake: Lake, analysis: str, *, computed: bool) -> Run:
    read = " ".join(f"FROM {name}" for name in ("analyses", *RESULT_TABLES))
    with lake.connect(query=read) as connection:
        [run] = fetch(connection, "FROM analyses WHERE analysis = $1", [analysis]).to_dicts()
        tables = {
            name: fetch(
                connection,
                f"SELECT * EXCLUDE (analysis, batch_id) FROM {name} "  # noqa: S608 - registry names
                "WHERE analysis = $1 ORDER BY ALL",
                [analysis],
            )
            for name in RESULT_TABLES
        }
    return Run(
        analysis,
        computed,
        run["n_rows"],
        run["n_results"],
        run["n_failed"],
        tables,
        tuple(run["notes"].splitlines()),
        run["input_fingerprint"],
    )


def stored_run(lake: Lake, analysis: str) -> Run | None:
    """What the lake holds of an analysis; None where it has not been run."""
    known = lake.sql("SELECT 1 FROM analyses WHERE analysis = $name", {"name": analysis})
    return _stored(lake, analysis, computed=False) if known.height else None


def run_published(lake: Lake, settings: Settings) -> Run:
    """Refit Table 3 from the published files in the lake.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    return _run(
        lake,
        settings,
        published.ANALYSIS,
        published.CASES,
        (),
        published.published_regressions,
        None,
    )


def run_radiographic(
    lake: Lake, settings: Settings, choices: Mapping[str, Any] | None = None
) -> Run:
    """Table 2 on the lake's cohort.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    query = sql.load("association/radiographic_cases").text
    return _run(
        lake,
        settings,
        cohort.RADIOGRAPHIC,
        cohort.RADIOGRAPHIC_CASES,
        (query,),
        cohort.radiographic_regression,
        choices,
    )


def _texts(*names: str) -> tuple[str, ...]:
    """The queries of some views, which are part of what an analysis depends on."""
    return tuple(sql.load(f"association/{name}").text for name in names)


def run_nested(lake: Lake, settings: Settings, choices: Mapping[str, Any] | None = None) -> Run:
    """Table 3 on the lake's cohort, with the DL-guided averages of the rows that have one.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    return _run(
        lake,
        settings,
        cohort.NESTED,
        cohort.nested_cases(cohort.DL_TABLE),
        _texts("regression_cases", cohort.DL_TABLE),
        cohort.nested_regressions,
        choices,
    )


def run_leakage_controls(
    lake: Lake, settings: Settings, choices: Mapping[str, Any] | None = None
) -> Run:
    """The main test of the DL-guided average and its leakage controls.

    Raises:
        LakeBusyError: another process is writing to the lake.
    """
    given = dict(choices or {})
    split = str(given.get("regression_split", "test"))
    as_networks = all(
        given.get(name, default) == default
        for name, default in (
            ("cam_target", "pain"),
            ("cam_scaling", "scaled"),
            ("averaging", "map"),
        )
    )

    def compute(connection: duckdb.DuckDBPyConnection, cases: str) -> Results:
        return leakage.leakage_controls(connection, cases, split=split, with_networks=as_networks)

    return _run(
        lake,
        settings,
        leakage.ANALYSIS,
        leakage.CASES,
        (*_texts("leakage_control_cases", "regression_cases", cohort.DL_TABLE), split),
        compute,
        # Rows of all splits: the cross-fitted pair takes them.
        {**given, "regression_split": "all"},
    )


def _compartment_names(lake: Lake) -> dict[str, dict[str, str]]:
    """The compartments' names in the published files, by bone and term."""
    rows = lake.sql("SELECT DISTINCT bone, compartment_1, compartment_2 FROM published_cases")
    return {
        row["bone"]: {
            f"compartment_{number}_mm": f"{row[f'compartment_{number}']} thickness, mm"
            for number in (1, 2)
        }
        for row in rows.to_dicts()
    }


def published_files(lake: Lake, run: Run) -> dict[str, bytes]:
    """Table 3 refitted, its differences from the printed one, and the forest plot."""
    names = _compartment_names(lake)
    title = "Table 3 refitted from the published files"
    return {
        **table_files(
            "table_3_published",
            table_3(run.tables, names),
            title,
            [*run.notes, *caution_notes(run.tables, names)],
        ),
        **table_files(
            "table_3_differences",
            differences(run.tables["printed_comparisons"]),
            "Where the printed Table 3 differs from the published files",
        ),
        **_forest("forest_published", run, title, names),
    }


def radiographic_files(run: Run) -> dict[str, bytes]:
    """Table 2 and its forest plot."""
    title = "Table 2: chronic pain and radiographic features"
    return {
        **table_files("table_2", table_2(run.tables), title, run.notes),
        **_forest("forest_radiographic", run, title, {}),
    }


def nested_files(run: Run) -> dict[str, bytes]:
    """Table 3 on the cohort and its forest plot."""
    title = "Table 3: what compartment and DL-guided averages add"
    return {
        **table_files(
            "table_3", table_3(run.tables), title, [*run.notes, *caution_notes(run.tables)]
        ),
        # Of a dozen bones and biomarkers, only what the pairs of models differ by.
        **_forest("forest_nested", run, title, {}, (*cohort.COMPARTMENTS, cohort.DL_GUIDED)),
    }


def leakage_files(run: Run) -> dict[str, bytes]:
    """The leakage controls and their forest plot."""
    title = "Leakage controls of the DL-guided average"
    shown = leakage_panels(run.tables)
    return {
        **table_files("leakage_controls", leakage_table(run.tables), title, run.notes),
        "forest_leakage.png": forest_plot(shown, title, "png"),
        "forest_leakage.svg": forest_plot(shown, title, "svg"),
    }


def _forest(
    name: str,
    run: Run,
    title: str,
    names: Mapping[str, Mapping[str, str]],
    only: Collection[str] = (),
) -> dict[str, bytes]:
    shown = panels(run.tables, names, only)
    return {
        f"{name}.png": forest_plot(shown, title, "png"),
        f"{name}.svg": forest_plot(shown, title, "svg"),
    }
