"""The lake: one place on a disk, its tables, its maps, and what has been done."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import duckdb
import polars as pl

import sql
from imaging.labels import BONES, Bone
from lake import delta, files, views
from lake.batch import Batch, Swept, staging_folders, sweep, writer_lock
from lake.errors import LakeError
from lake.maps import MapPart, open_maps, read_map
from lake.tables import TABLES, Table
from sql.reading import fetch

if TYPE_CHECKING:
    import xarray as xr

FORMAT_VERSION = 1
_FORMAT_FILE = "lake.json"


def local_root(root: Path | str) -> Path:
    """A root as given by the user to a folder: the one place that knows of URLs.

    Raises:
        LakeError: a root that is not on a local disk, or that DuckDB would read as a pattern.
    """
    url = urlsplit(str(root))
    if "://" in str(root) and url.scheme != "file":
        raise LakeError(
            f"{root}: only local folders can hold a lake so far; give a path such as ./lake_data"
        )
    path = Path(unquote(url.path)) if url.scheme == "file" else Path(root)
    path = path.expanduser().absolute()
    if set(str(path)) & set("*?[]"):
        raise LakeError(f"{path}: a lake's path must not hold any of * ? [ ]; choose another")
    return path


def input_fingerprint(parts: Sequence[str | None], config_hash: str, code_version: str) -> str:
    """Fingerprint of a step's inputs, as `sql/lake/pending_*.sql` computes it.

    Args:
        parts: for segmentation (label, scheme, DESS), for maps (label, scheme, DESS, MSME)
            fingerprints; None where there is none.
        config_hash: hash of the step's parameters.
        code_version: version of the step's code.
    """
    words = [part or "-" for part in parts] + [config_hash, code_version]
    return hashlib.sha256("|".join(words).encode()).hexdigest()


def _of_visit(table: Table) -> str:
    """The condition that a row is of the visit $timepoint, or that none is asked for."""
    # Rows that are of no visit (a participant, a release) belong to every one.
    timepoint = "timepoint" if "timepoint" in table.column_names else "$timepoint"
    return f"($timepoint::VARCHAR IS NULL OR {timepoint} = $timepoint)"


class Lake:
    """A lake at a root; reading needs nothing to be there yet.

    Attributes:
        root: its folder, absolute.
    """

    def __init__(self, root: Path | str) -> None:
        """Args: root: a local path or a file:// URL.

        Raises:
            LakeError: not a local root, or a lake of a newer kneelake.
        """
        self.root = local_root(root)
        marker = self.root / _FORMAT_FILE
        if marker.is_file():
            version = json.loads(marker.read_text(encoding="utf-8"))["format_version"]
            if version > FORMAT_VERSION:
                raise LakeError(
                    f"{self.root} was written in format {version}, this kneelake reads up to "
                    f"{FORMAT_VERSION}; install a newer kneelake"
                )

    @contextmanager
    def batch(
        self,
        step: str,
        timepoint: str,
        code_version: str,
        config_hash: str,
        wait_s: float = 60.0,
    ) -> Iterator[Batch]:
        """A batch of results that counts when the block ends without an error.

        Compute first, then open the batch: it holds the writer's lock until it ends.

        Args:
            step: one of `lake.tables.STEPS`.
            timepoint: of all its rows; 'unknown' for refused inputs that do not tell; 'all' for
                steps whose rows are of any visit, such as a release of clinical tables or an
                analysis.
            code_version: version of the code that computed them.
            config_hash: hash of the parameters they were computed with.
            wait_s: how long to wait for another writer, s.

        Raises:
            LakeBusyError: another process is writing.
            SchemaError: rows that do not fit; nothing is stored.
            OSError: the disk refused; nothing counts.
        """
        with writer_lock(self.root, wait_s):
            self._mark_format()
            if staging_folders(self.root):
                self._sweep()
            batch = Batch(
                self.root, self._next_number(), step, timepoint, code_version, config_hash
            )
            try:
                yield batch
            except BaseException:
                batch.discard()
                raise
            batch.commit()

    def sweep(self, wait_s: float = 60.0) -> Swept:
        """Remove what interrupted batches left behind; what counts is not touched.

        Raises:
            LakeBusyError: another process is writing.
        """
        with writer_lock(self.root, wait_s):
            return self._sweep()

    def connect(
        self, settings: Mapping[str, Any] | None = None, query: str | None = None
    ) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB connection with a view per table, on what is committed now.

        Args:
            settings: choices of `cohort_parameters` other than the default.
            query: what will be asked, where nothing else will: views it does not need are not made.

        Raises:
            LakeError: a setting that no view reads.
        """
        return views.connect(self.root, settings, query)

    def sql(
        self,
        query: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:
        """Run one query over the views.

        Args:
            query: the query.
            params: values it asks for as `$name`.
            settings: choices of `cohort_parameters` other than the default.

        Raises:
            LakeError: more or other than one query, or a setting that no view reads.
        """
        with self._connect_for(query, settings) as connection:
            views.require_read_only(connection, query)
            return fetch(connection, query, params)

    def query(self, name: str, params: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Run a shipped SQL file, `<group>/<name>`.

        Raises:
            KeyError: no such file.
            LakeError: a value it needs is missing, or one it does not know is given.
        """
        file = sql.load(name)
        given = dict(params or {})
        if set(given) != set(file.parameters):
            raise LakeError(
                f"{name} needs the values {', '.join(file.parameters) or 'none'}; given: "
                f"{', '.join(given) or 'none'}"
            )
        return self.sql(file.text, given or None)

    def pending(
        self, step: str, config_hash: str, code_version: str, timepoint: str | None = None
    ) -> pl.DataFrame:
        """Knee-visits a step has still to compute, with their inputs and input_fingerprint.

        Args:
            step: 'segmentation', 'maps' or 'images'.
            config_hash: hash of the step's parameters.
            code_version: version of the step's code.
            timepoint: one visit; None for all.
        """
        names = {
            "segmentation": "lake/pending_segmentations",
            "maps": "lake/pending_maps",
            "images": "lake/pending_images",
        }
        if step not in names:
            raise LakeError(f"nothing is ever pending for {step}; use one of {', '.join(names)}")
        return self.query(
            names[step],
            {"config_hash": config_hash, "code_version": code_version, "timepoint": timepoint},
        )

    def status(
        self,
        segmentation_config_hash: str,
        segmentation_code_version: str,
        maps_config_hash: str,
        maps_code_version: str,
    ) -> pl.DataFrame:
        """Knee-visits by timepoint and stage, and how many are pending or quarantined."""
        return self.query(
            "lake/status",
            {
                "segmentation_config_hash": segmentation_config_hash,
                "segmentation_code_version": segmentation_code_version,
                "maps_config_hash": maps_config_hash,
                "maps_code_version": maps_code_version,
            },
        )

    def check(self, table_name: str, timepoint: str | None = None) -> pl.DataFrame:
        """How many current rows fail each of a table's checks, over one visit or all.

        Returns:
            columns check, column, expected, n_failed; one row per check.
        """
        table = TABLES[table_name]
        counts = ", ".join(
            f"count(*) FILTER (WHERE NOT coalesce({check.predicate}, false)) AS {check.name}"
            for check in table.checks
        )
        found = self.sql(
            f"SELECT {counts} FROM {table_name} WHERE {_of_visit(table)}",  # noqa: S608 - registry text, value bound
            {"timepoint": timepoint},
        ).row(0, named=True)
        return pl.DataFrame(
            [
                {
                    "check": check.name,
                    "column": check.column,
                    "expected": check.expected,
                    "n_failed": found[check.name],
                }
                for check in table.checks
            ]
        )

    def data_version(self, table_name: str, timepoint: str | None = None) -> str:
        """A hash that changes when a table's current rows (of one visit) do, and only then."""
        table = TABLES[table_name]
        batches = self.sql(
            f"SELECT batch_id, count(*) AS n FROM {table.name} "  # noqa: S608 - registry name, value bound
            f"WHERE {_of_visit(table)} "
            "GROUP BY batch_id ORDER BY batch_id",
            {"timepoint": timepoint},
        )
        return hashlib.sha256(json.dumps(batches.rows()).encode()).hexdigest()[:16]

    def maps(self, bone: Bone, variable: str, timepoint: str | None = None) -> "xr.DataArray":
        """A map (or mask) of one bone of all knees, lazy: (knee, phi, theta).

        Raises:
            LakeError: no such bone or map, none in the lake, or maps on different grids.
        """
        if bone not in BONES:
            raise LakeError(f"{bone} is not a bone; use one of {', '.join(BONES)}")
        rows = self.sql(
            "SELECT * FROM maps_index WHERE bone = $bone "
            "AND ($timepoint::VARCHAR IS NULL OR timepoint = $timepoint) ORDER BY knee_visit",
            {"bone": bone, "timepoint": timepoint},
        )
        return open_maps(self.root, variable, rows.to_dicts())

    def knee_maps(self, knee_visit: str) -> dict[Bone, MapPart]:
        """All current maps of one knee-visit, by bone.

        Raises:
            LakeError: there are none.
        """
        rows = self.sql(
            "SELECT * FROM maps_index WHERE knee_visit = $knee_visit", {"knee_visit": knee_visit}
        ).to_dicts()
        if not rows:
            raise LakeError(f"there are no maps of {knee_visit}; see `kneelake status`")
        return {row["bone"]: read_map(self.root, row) for row in rows}

    def write_catalog(self, path: Path) -> None:
        """Write the views as a DuckDB file for other clients; see `views.write_catalog`."""
        views.write_catalog(self.root, path)

    def _connect_for(
        self, query: str, settings: Mapping[str, Any] | None
    ) -> duckdb.DuckDBPyConnection:
        return views.connect(self.root, settings, query)

    def _mark_format(self) -> None:
        marker = self.root / _FORMAT_FILE
        if not marker.is_file():
            files.write_whole(marker, json.dumps({"format_version": FORMAT_VERSION}) + "\n")

    def _next_number(self) -> int:
        # A batch_id opens with its number.
        committed = views.committed_batches(self.root)
        return max((int(batch_id.split("-")[0]) for batch_id in committed), default=0) + 1

    def _sweep(self) -> Swept:
        for table in TABLES.values():
            delta.drop_torn_commit(self.root, table)
        committed = views.committed_batches(self.root)
        return sweep(self.root, committed, views.parts_in_use(self.root, committed))
