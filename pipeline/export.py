"""The lake's results in forms that other tools read: CSV, Parquet, LaTeX, HTML, R, BIDS.

An export holds no path, no device data and no time of day; the same lake and software give the same
bytes. `manifest.tsv` has the SHA-256 of every file, and tells an export from any other folder.

Here: which tables, and the folder. Not here: the forms (`export_latex`, `export_bids`, `export_r`,
`manuscript`), or any number.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from lake.errors import LakeError
from lake.store import Lake
from lake.tables import TABLES, data_dictionary
from pipeline.config import Settings
from pipeline.export_bids import bids_files
from pipeline.export_latex import table_latex
from pipeline.export_r import r_script
from pipeline.manuscript import table_csv, table_html
from pipeline.report import tables
from pipeline.report_reading import Reading, has_relation

MANIFEST = "manifest.tsv"
VIEWS = (
    "agreement_groups",
    "biomarkers_long",
    "biomarkers_wide",
    "cam_groups",
    "cohort",
    "cohort_flow",
    "dl_guided_biomarkers",
    "longitudinal_change",
    "map_agreement_summary",
    "model_agreement",
    "model_predictions",
    "pain_exclusions",
    "ptf_predictions",
    "radiographic_cases",
    "regression_cases",
    "split_balance",
    "split_tests",
    "sweep_best",
    "widespread_pain_variants",
)
STORED = ("cam_biomarkers", "classifiers", "map_agreement", "published_cases",
          "segmentation_performance", "training_epochs")  # fmt: skip
"""Tables exported besides those of results."""
_WITHHELD = ("path", "part", "row", "file", "initialized_from", "seconds")
"""Where files lie, and what differs from run to run."""
README = """# An export of kneelake

| | |
|---|---|
| `tables/*.parquet`, `tables/*.csv` | tables and views of the lake; lists are JSON in the CSV |
| `manuscript/*.tex`, `*.html`, `*.csv` | the report's tables: LaTeX (booktabs), for Word, plain |
| `read_kneelake.R` | reads any table into R with its types and factor levels |
| `kneelake.sql` | the same tables as views: `duckdb -init kneelake.sql`, started in this folder |
| `bids/` | biomarkers as a BIDS derivative |
| `data_dictionary.md`, `columns.csv` | what every column means, and its unit |
| `manifest.tsv` | SHA-256 of every file |

A table that is not here has no rows in the lake yet. Participants are named by their study number;
numbers that begin with 1 are of simulated people.
"""


def exported_relations() -> list[str]:
    """Every result table and main view that this kneelake has, by name."""
    results = [name for name, table in TABLES.items() if table.step == "statistics"]
    names = sorted({*results, *STORED, *VIEWS})
    return [name for name in names if has_relation(name)]


def export_files(
    lake: Lake, settings: Settings, table_assets: Mapping[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Every file of an export but the manifest: its path, and its content.

    Args:
        lake: a snapshot of the lake.
        settings: parameters in use.
        table_assets: which asset writes each table.
    """
    reading = Reading(lake, settings, table_assets)
    frames: dict[str, pl.DataFrame] = {}
    for name in exported_relations():
        rows = reading.rows(name)
        if rows.is_empty():
            continue
        frames[name] = rows.drop([column for column in _WITHHELD if column in rows.columns])
        buffer = io.BytesIO()
        frames[name].write_parquet(buffer)
        yield f"tables/{name}.parquet", buffer.getvalue()
        yield f"tables/{name}.csv", _plain(frames[name]).write_csv().encode()
    for block in tables(reading):
        stem = f"manuscript/{block.name}"
        latex = table_latex(block.name, block.table, block.title, block.notes)
        yield f"{stem}.tex", latex.encode()
        yield f"{stem}.html", table_html(block.table, block.title, block.notes).encode()
        yield f"{stem}.csv", table_csv(block.table).encode()
    for path, text in bids_files(lake):
        yield f"bids/{path}", text.encode()
    yield "read_kneelake.R", r_script(frames).encode()
    yield "kneelake.sql", _duckdb(frames).encode()
    yield "columns.csv", _columns(frames).write_csv().encode()
    yield "data_dictionary.md", data_dictionary().encode()
    yield "README.md", README.encode()


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as CSV can hold them: a list is its JSON."""
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    return rows.with_columns(
        pl.struct(pl.col(name).alias("v")).struct.json_encode().str.slice(5).str.head(-1)
        .alias(name)
        for name in lists
    )  # fmt: skip


def _duckdb(frames: Mapping[str, pl.DataFrame]) -> str:
    return "".join(
        f"CREATE OR REPLACE VIEW {name} AS FROM read_parquet('tables/{name}.parquet');\n"
        for name in frames
    )


def _columns(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Every exported column: its table, type, unit and meaning as far as they are written down."""
    import sql

    views = {file.name: file.columns for file in sql.load_all().values()}
    known = {column.name: column for table in TABLES.values() for column in table.columns}
    rows = []
    for name, frame in frames.items():
        own = {column.name: column for column in TABLES[name].columns} if name in TABLES else {}
        for column, kind in frame.schema.items():
            meaning, unit = views.get(name, {}).get(column, ("", ""))
            described = own.get(column) or (known.get(column) if not meaning else None)
            if described is not None:
                meaning, unit = described.description, described.unit
            rows.append(
                {
                    "table": name,
                    "column": column,
                    "type": str(kind),
                    "unit": unit,
                    "description": meaning,
                }
            )
    return pl.DataFrame(rows, schema=["table", "column", "type", "unit", "description"])


def write_export(
    lake: Lake, settings: Settings, table_assets: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write an export; files of an earlier one that are no more are removed.

    Returns:
        the files written.

    Raises:
        LakeError: the folder holds something else than an earlier export.
    """
    before = _files_before(folder)
    written: dict[str, str] = {}
    for name, content in export_files(lake, settings, table_assets):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written[name] = hashlib.sha256(content).hexdigest()
    for name in sorted(before - set(written)):
        (folder / name).unlink(missing_ok=True)
    lines = "".join(f"{name}\t{digest}\n" for name, digest in sorted(written.items()))
    (folder / MANIFEST).write_text(f"file\tsha256\n{lines}", encoding="utf-8")
    return [folder / name for name in (*written, MANIFEST)]


def _files_before(folder: Path) -> set[str]:
    """The files of an earlier export in a folder."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        lines = manifest.read_text(encoding="utf-8").splitlines()[1:]
        names = {line.split("\t")[0] for line in lines}
        # A manifest that somebody wrote must not remove what lies outside the folder.
        return {name for name in names if ".." not in Path(name).parts and name[:1] != "/"}
    if folder.is_dir() and any(folder.iterdir()):
        raise LakeError(
            f"{folder} is not empty and no earlier export: it has no {MANIFEST}; name another "
            "folder"
        )
    return set()
