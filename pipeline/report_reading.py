"""What a report reads: the lake as it is now, and where each number of it comes from.

Here: queries, versions and lineage of tables and views. Not here: what is shown.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl

import sql
from lake.errors import LakeError
from lake.store import Lake
from lake.tables import TABLES
from lake.views import VIEW_GROUPS
from pipeline.association import Run, stored_run
from pipeline.config import Settings
from sql.reading import fetch

RESULTS_OF = "an analysis"
"""In place of the asset of a table of results, which every analysis writes."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A lake that is read for a report.

    Attributes:
        lake: the lake; give a snapshot of it, so that all is read from one state.
        settings: parameters in use, to be set beside those the lake was computed with.
        table_assets: which asset writes each table.
    """

    lake: Lake
    settings: Settings
    table_assets: Mapping[str, str] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict)
    _runs: dict[str, Run | None] = field(default_factory=dict)
    _rows: dict[str, pl.DataFrame] = field(default_factory=dict)
    _chosen: list[duckdb.DuckDBPyConnection] = field(default_factory=list)

    def read(self, query: str, **values: Any) -> pl.DataFrame:
        """A query over tables and views, with the choices of these settings."""
        if "agreement_parameters" not in sql.needed_by(query, VIEW_GROUPS):
            return self.lake.sql(query, values or None)
        if not self._chosen:
            # Once: a connection with choices of its own makes every view anew.
            choices = {"min_models_correct": self.settings.min_models_correct}
            self._chosen.append(self.lake.connect(choices))
        return fetch(self._chosen[0], query, values or None)

    def rows(self, relation: str) -> pl.DataFrame:
        """A table or view, in an order of its own, without the batches.

        Raises:
            LakeError: there is no such table or view.
        """
        if not has_relation(relation):
            raise LakeError(f"{relation} is neither a table nor a view of this kneelake")
        if relation not in self._rows:
            excluded = " EXCLUDE (batch_id)" if relation in TABLES else ""
            query = f"SELECT *{excluded} FROM {relation} ORDER BY ALL"  # noqa: S608 - known
            self._rows[relation] = self.read(query)
        return self._rows[relation]

    def count(self, relation: str) -> int:
        """Rows of a table or view; 0 where this kneelake has none of that name."""
        if not has_relation(relation):
            return 0
        return int(self.read(f"SELECT count(*) AS n FROM {relation}").item())  # noqa: S608 - known

    def run(self, analysis: str) -> Run | None:
        """The results of an analysis; None where it has not been run."""
        if analysis not in self._runs:
            self._runs[analysis] = stored_run(self.lake, analysis)
        return self._runs[analysis]

    def asset_of(self, relation: str) -> str:
        """The asset that makes a table or view."""
        if relation in TABLES and TABLES[relation].step == "statistics":
            return RESULTS_OF
        return self.table_assets.get(relation, relation)

    def version(self, relation: str) -> str:
        """Changes when a relation's rows, or the query of a view, do."""
        if relation not in self._versions:
            self._versions[relation] = self._version(relation)
        return self._versions[relation]

    def _version(self, relation: str) -> str:
        file = view_file(relation)
        if file is None:
            return self.lake.data_version(relation) if relation in TABLES else "not there"
        read = [name for name in stored_tables(relation) if name in self.table_assets]
        stated = [file.text, [[name, self.version(name)] for name in read]]
        return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:16]

    def newer_input(self, analysis: str, relations: tuple[str, ...]) -> str:
        """What to say where tables that an analysis reads were written after it ran; '' else."""
        found = self.read(
            "SELECT max(batch_number) AS n FROM batches JOIN analyses USING (batch_id) "
            "WHERE analysis = $analysis",
            analysis=analysis,
        )["n"].to_list()
        if found == [None]:
            return ""
        tables = {name for relation in relations for name in stored_tables(relation)}
        steps = sorted(
            {TABLES[name].step for name in tables if TABLES[name].step not in ("", "statistics")}
        )
        newest = self.read(
            "SELECT max(batch_number) AS n FROM batches WHERE list_contains($steps, step)",
            steps=steps,
        )["n"].to_list()
        if newest == [None] or newest[0] <= found[0]:
            return ""
        return (
            f"Batch {newest[0]} of the lake is newer than this analysis (batch {found[0]}) and of "
            f"a step that it reads. Materialise {analysis} before you quote a number: it is run "
            "again if its rows have changed."
        )


def has_relation(relation: str) -> bool:
    """Whether this kneelake has a table or view of that name, with rows or without."""
    return relation in TABLES or view_file(relation) is not None


def view_file(relation: str) -> sql.SqlFile | None:
    """The SQL of a view; None where it is none."""
    files = {file.name: file for file in sql.views(VIEW_GROUPS)}
    return files.get(relation) if relation not in TABLES else None


def read_by(relation: str) -> tuple[str, ...]:
    """What a view's query names, tables and views; () of a table."""
    file = view_file(relation)
    if file is None:
        return ()
    known = [other.name for other in sql.views(VIEW_GROUPS)] + list(TABLES)
    return tuple(sorted({name for name in known if name != relation and file.mentions(name)}))


def stored_tables(relation: str) -> tuple[str, ...]:
    """The tables that a relation's rows are worked out from, down through every view."""
    return tuple(name for name in lineage(relation) if name in TABLES)


def lineage(relation: str) -> tuple[str, ...]:
    """A relation and all that it is worked out from, by name."""
    seen: set[str] = set()
    waiting = [relation]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += read_by(name)
    return tuple(sorted(seen))
