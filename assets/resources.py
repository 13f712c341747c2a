"""What assets, checks and sensors are given to work with.

Here: where the lake is, how work is spread, which parameters it uses, and where progress is told.
Each is a thin, validated shell that a run's launchpad can edit; the work is in `pipeline`.
Not here: any computation, and any reading of the environment when definitions load: an empty field
is looked up when a run starts, so definitions load the same everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import duckdb
from pydantic import Field

import sql
from imaging.knee import MapParameters
from lake import views
from lake.store import Lake
from pipeline.cluster import Cluster
from pipeline.config import Settings

if TYPE_CHECKING:
    from pipeline.ingest import Progress


@dataclass
class _Views:
    """A connection with every view, and which of them are tables on it."""

    connection: duckdb.DuckDBPyConnection
    settled: set[str] = field(default_factory=set)

    def settle(self, query: str) -> None:
        """Work out what a query needs of the views that many read, where that has not been done."""
        needed = {"batches", *sql.needed_by(query, views.VIEW_GROUPS)} - self.settled
        names = [name for name in views.shared_views() if name in needed]
        if names:
            views.settle(self.connection, names)
            self.settled.update(names)


@lru_cache(maxsize=1)
def _views_of(root: Path, committed: frozenset[str]) -> _Views:  # noqa: ARG001 - the key
    return _Views(views.connect(root))


class LakeSnapshot(Lake):
    """A lake to read from, as it was when this was made.

    Making the views takes longer than most queries on them, and a run with its checks asks many:
    they share one set of views for as long as no batch is committed.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        committed = frozenset(views.committed_batches(self.root))
        self._views = _views_of(self.root, committed)

    def connect(
        self, settings: Mapping[str, Any] | None = None, query: str | None = None
    ) -> duckdb.DuckDBPyConnection:
        """A cursor of the shared connection; closing it leaves the views.

        With a query, views it needs that many read are worked out first; all are there anyway.
        """
        # Variables belong to the connection its cursors share: other settings need another one.
        if settings:
            return super().connect(settings, query)
        if query is not None:
            self._views.settle(query)
        return self._views.connection.cursor()

    def _connect_for(
        self, query: str, settings: Mapping[str, Any] | None
    ) -> duckdb.DuckDBPyConnection:
        return self.connect(settings, query)


class LakeResource(dg.ConfigurableResource):
    """The lake, its inbox and the meaning of the labels delivered to it."""

    lake_root: str = Field(default="", description="Folder of the lake; empty: KNEELAKE_ROOT.")
    inbox: str = Field(default="", description="Folder of deliveries; empty: KNEELAKE_INBOX.")
    scheme: str = Field(default="", description="Tissue map of the labels; empty: KNEELAKE_SCHEME.")

    def settings(self, maps: MapParameters | None = None) -> Settings:
        """The settings of a run; what is left empty comes from the environment."""
        given: dict[str, object] = {}
        if self.lake_root:
            given["lake_root"] = Path(self.lake_root)
        if self.inbox:
            given["inbox"] = Path(self.inbox)
        if self.scheme:
            given["scheme"] = self.scheme
        if maps is not None:
            given["maps"] = maps
        return Settings.from_environment(**given)

    def open(self) -> Lake:
        """The lake, to write to.

        Raises:
            LakeError: not a local folder, or a lake of a newer kneelake.
        """
        return Lake(self.settings().lake_root)

    def snapshot(self) -> LakeSnapshot:
        """The lake as it is now, to read from.

        Raises:
            LakeError: not a local folder, or a lake of a newer kneelake.
        """
        return LakeSnapshot(self.settings().lake_root)


class ClusterResource(dg.ConfigurableResource):
    """How the knees of a step are spread over processes."""

    engine: Literal["serial", "processes"] = Field(
        default="processes", description="serial: in the run's own process; processes: in workers."
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="Worker processes; 0: KNEELAKE_WORKERS, or as many as cores and memory allow "
        "at 2 GiB a worker.",
    )

    def open(self, settings: Settings) -> Cluster:
        """The cluster of a run."""
        return Cluster(engine=self.engine, workers=self.workers or settings.workers)


class ProgressResource:
    """Where a step tells how far it is: the run's log, and a listener where there is one."""

    def __init__(self, listener: "Progress | None" = None) -> None:
        self._listener = listener

    def to(self, log: dg.DagsterLogManager) -> "Progress":
        """A progress callable that logs about every tenth of a step."""
        last_tenth = -1

        def tell(done: int, total: int, text: str) -> None:
            nonlocal last_tenth
            if self._listener is not None:
                self._listener(done, total, text)
            tenth = 10 * done // total if total else 10
            if tenth != last_tenth:
                last_tenth = tenth
                log.info(f"{done} of {total}: {text}")

        return tell
