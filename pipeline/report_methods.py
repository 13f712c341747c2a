"""How the numbers were made: parameters, software, data, refusals, and the statements.

Here: the report's chapter on methods, and its appendix. Not here: any result.
"""

import dataclasses
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import sql
from imaging.knee import MapParameters
from lake.tables import TABLES
from lake.views import VIEW_GROUPS
from models.gradcam import Explanation
from pipeline.config import CODE_VERSION, config_hash
from pipeline.report_blocks import (
    Block,
    DetailsBlock,
    Layout,
    Source,
    TableBlock,
    TextBlock,
    laid_out,
    text_of,
    text_table,
)
from pipeline.report_reading import (
    RESULTS_OF,
    Reading,
    has_relation,
    lineage,
    read_by,
    view_file,
)

PACKAGES = (
    "kneelake",
    "duckdb",
    "deltalake",
    "pyarrow",
    "polars",
    "dagster",
    "torch",
    "monai",
    "numpy",
    "scipy",
    "numba",
    "scikit-image",
    "SimpleITK",
    "pydicom",
    "nibabel",
    "pynrrd",
    "pyreadstat",
    "pyvista",
    "statsmodels",
    "zarr",
    "matplotlib",
    "jinja2",
)
STATEMENTS = "regression_statements"
"""The SQL of each regression by its SHA-256; not every lake has it."""
COMMANDS = """kneelake ingest DELIVERIES          # scans, labels, clinical and published tables
kneelake materialize --preset paper # every asset that is pending, in order
kneelake sql "FROM cohort_flow"     # any table or view of this report
kneelake report --out report.html   # this page
kneelake export FOLDER              # every table of it for R, Word, LaTeX and BIDS tools
"""


def parameters(reading: Reading) -> Sequence[Block]:
    """Every named choice of a view, with the value in use."""
    cells, read = [], []
    for file in sql.views(VIEW_GROUPS):
        if not file.settings:
            continue
        read.append(file.name)
        [row] = reading.read(f"FROM {file.name}").to_dicts()
        cells += [
            [name, text_of(row.get(name)), meaning, file.name]
            for name, meaning in file.settings.items()
        ]
    return (
        TableBlock(
            "parameters",
            "Choices of cohort, regressions and groups, with the paper's reading as default",
            text_table(("Parameter", "Value", "Meaning", "View"), cells),
            Source("cohort_parameters", tuple(read)),
            _evidence(reading),
        ),
    )


def _evidence(reading: Reading) -> tuple[str, ...]:
    """How the evidence of the networks was read, of each visit's newest predictions."""
    made = reading.read(
        "SELECT DISTINCT config_hash FROM (FROM batches WHERE step = 'predictions' "
        "QUALIFY batch_number = max(batch_number) OVER (PARTITION BY timepoint)) ORDER BY ALL"
    )["config_hash"].to_list()
    if not made:
        return ()
    told = [f"{one} {Explanation()}" if " " not in one else one for one in made]
    return (
        "Precision of the networks, and how their evidence is read (KNEELAKE_EXPLANATION): "
        f"{', '.join(told)}; the paper's is {Explanation()}.",
    )


def measuring(reading: Reading) -> Sequence[Block]:
    """Parameters of maps and biomarkers, and whether the lake was computed with them."""
    stored = reading.read(
        "SELECT config_hash, count(*) AS n FROM batches WHERE step = 'maps' AND n_knee_visit > 0 "
        "GROUP BY ALL ORDER BY ALL"
    )
    if stored.is_empty():
        return ()
    here = config_hash(reading.settings)
    default = dict(_flat(dataclasses.asdict(MapParameters())))
    cells = [
        [name, text_of(value), text_of(default[name])]
        for name, value in _flat(dataclasses.asdict(reading.settings.maps))
    ]
    others = [one for one in stored["config_hash"].to_list() if one != here]
    notes = [f"Configuration {here[:16]}."]
    if others:
        notes.append(
            "Some maps of the lake were committed with another configuration: "
            f"{', '.join(one[:16] for one in others)}. Drawn maps have one of their own; of "
            "measured ones `kneelake status` says what is pending."
        )
    return (
        TableBlock(
            "map_parameters",
            "Parameters of maps and biomarkers",
            text_table(("Parameter", "Value", "Default (the paper's)"), cells),
            Source("knee_biomarkers", ("batches",)),
            tuple(notes),
        ),
    )


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def trainings(reading: Reading) -> Sequence[Block]:
    """Choices of the trainings; where models differ, each value with how many have it."""
    rows = reading.read("SELECT task, config FROM classifiers ORDER BY task, bone, strategy")
    if rows.is_empty():
        return ()
    tasks = rows["task"].unique().sort().to_list()
    by_task: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for row in rows.to_dicts():
        by_task[row["task"]].append(dict(_flat(json.loads(row["config"]))))
    names = sorted({name for configs in by_task.values() for one in configs for name in one})
    if not names:
        return ()
    cells = [
        [name, *(_values(one.get(name) for one in by_task[task]) for task in tasks)]
        for name in names
    ]
    headings = ("Parameter", *(task.replace("_", " ") for task in tasks))
    return (
        TableBlock(
            "training_parameters",
            "Choices of the trainings in use",
            text_table(headings, cells),
            Source("pain_classifiers", ("classifiers",)),
        ),
    )


def _values(values: Iterable[Any]) -> str:
    texts = [text_of(value) for value in values]
    counts = {text: texts.count(text) for text in sorted(set(texts))}
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({n})" for text, n in counts.items())


def software(reading: Reading) -> Sequence[Block]:
    """Versions of packages, and of the code of each step."""
    steps = reading.read(
        "SELECT step, string_agg(DISTINCT code_version, ', ' ORDER BY code_version) AS versions, "
        "count(*) AS n_batches, sum(n_knee_visit)::BIGINT AS n_knee_visit, "
        "sum(n_quarantined)::BIGINT AS n_quarantined FROM batches GROUP BY step ORDER BY step"
    ).to_dicts()
    cells = [
        [
            row["step"],
            row["versions"],
            CODE_VERSION.get(row["step"], "-"),
            *(text_of(row[name]) for name in ("n_batches", "n_knee_visit", "n_quarantined")),
        ]
        for row in steps
    ]
    packages = [["Python", platform.python_version()], *([one, _version(one)] for one in PACKAGES)]
    batches = Source("scan_inventory", ("batches",))
    blocks: list[Block] = [
        TableBlock(
            "software",
            "Software that made this report",
            text_table(("Package", "Version"), packages),
            batches,
            ("What was computed by another version has another code version below.",),
        )
    ]
    if cells:
        headings = (
            "Step",
            "Code versions in the lake",
            "Here",
            "Batches",
            "Knee-visits (times computed)",
            "Refused",
        )
        blocks.append(
            TableBlock(
                "code_versions",
                "Code versions of the steps",
                text_table(headings, cells),
                batches,
            )
        )
    return blocks


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def data(reading: Reading) -> Sequence[Block]:
    """Data versions, checksums of what was delivered."""
    cells = []
    for name in TABLES:
        n = reading.count(name)
        if n:
            asset = reading.asset_of(name)
            cells.append([name, asset, f"{n:,}", reading.version(name)])
    if not cells:
        return ()
    blocks: list[Block] = [
        TableBlock(
            "data_versions",
            "Tables of the lake",
            text_table(("Table", "Asset", "Rows", "Data version"), cells),
            Source("scan_inventory", ("batches",)),
            ("A data version changes when the table's rows do, and only then.",),
        )
    ]
    releases = reading.read("FROM releases ORDER BY source_table, visit, sha256")
    if releases.height:
        blocks.append(
            TableBlock(
                "releases",
                "Clinical tables read",
                laid_out(
                    releases,
                    {
                        "source_table": "Table",
                        "visit": "Visit",
                        "version": "Version",
                        "dialect": "Form",
                        "n_rows": "Rows",
                        "sha256": "SHA-256",
                    },
                ),
                Source("releases", ("releases",)),
            )
        )
    files = reading.read(
        "SELECT bone, count(*) AS n, any_value(sha256) AS sha256 FROM published_cases "
        "GROUP BY bone ORDER BY bone"
    )
    if files.height:
        blocks.append(
            TableBlock(
                "published_files",
                "The authors' files",
                laid_out(files, {"bone": "Bone", "n": "Rows", "sha256": "SHA-256"}),
                Source("published_cases", ("published_cases",)),
            )
        )
    return blocks


def refused(reading: Reading) -> Sequence[Block]:
    """What was refused, by reason."""
    rows = reading.read(
        "SELECT stage, reason, count(*) AS n, any_value(remedy ORDER BY file) AS remedy "
        "FROM quarantine GROUP BY stage, reason ORDER BY stage, n DESC, reason"
    )
    if rows.is_empty():
        return (TextBlock(("Nothing is refused now.",), source=Source(*_QUARANTINE)),)
    return (
        TableBlock(
            "quarantine",
            "Inputs refused now",
            laid_out(
                rows,
                {
                    "stage": "Step",
                    "reason": Layout("Reason", lambda text: text.replace("_", " ")),
                    "n": "Files",
                    "remedy": "What to do",
                },
            ),
            Source(*_QUARANTINE),
        ),
    )


_QUARANTINE = ("scan_inventory", ("quarantine",))


def commands(reading: Reading) -> Sequence[Block]:  # noqa: ARG001 - as every other section
    """How to come to the same numbers."""
    return (
        DetailsBlock("Commands", COMMANDS),
        TextBlock(
            (
                "The same deliveries, parameters and versions give the same tables and this page "
                "byte for byte on one machine; a network trained on a GPU repeats to rounding.",
            )
        ),
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A relation in the appendix.

    Attributes:
        name: the table or view.
        asset: what makes it.
        version: of its rows.
        facts: description, grain, assumptions.
        reads: what it is worked out from in turn.
        statement: its SQL; '' of a table, which is stored.
    """

    name: str
    asset: str
    version: str
    facts: tuple[str, ...]
    reads: tuple[str, ...]
    statement: str


@dataclasses.dataclass(frozen=True)
class Statement:
    """The SQL of a regression.

    Attributes:
        analysis: of which.
        sha256: as `regression_models` names it.
        models: how many models it was run for.
        text: the statement; '' where the lake does not hold it.
    """

    analysis: str
    sha256: str
    models: int
    text: str


def entries(reading: Reading, relations: Iterable[str]) -> list[Entry]:
    """The relations shown and all that they are worked out from, by name."""
    wanted = {name for relation in relations for name in lineage(relation)}
    return [_entry(reading, name) for name in sorted(wanted) if has_relation(name)]


def _entry(reading: Reading, name: str) -> Entry:
    file = view_file(name)
    asset, version = reading.asset_of(name), reading.version(name)
    if file is not None:
        facts = [
            file.description,
            f"One row per {file.grain.removeprefix('one row per ')}" if file.grain else "",
            f"Assumes: {file.assumptions}" if file.assumptions else "",
        ]
        return Entry(name, asset, version, tuple(filter(None, facts)), read_by(name), file.text)
    table = TABLES[name]
    versions = CODE_VERSION.get(table.step, "") if table.step else ""  # type: ignore[call-overload]
    facts = [
        table.description,
        f"Stored by step '{table.step}', code version {versions}." if versions else "",
    ]
    return Entry(name, asset, version, tuple(filter(None, facts)), (), "")


def statements(reading: Reading, analyses: Iterable[str]) -> list[Statement]:
    """The statements of some analyses, with their text where the lake holds it."""
    found = reading.read(
        "SELECT analysis, statement_sha256 AS sha256, count(*) AS n FROM regression_models "
        "WHERE statement_sha256 IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).to_dicts()
    texts: dict[str, str] = {}
    if has_relation(STATEMENTS):
        texts = {
            row["statement_sha256"]: row["statement"]
            for row in reading.read(
                f"SELECT statement_sha256, statement FROM {STATEMENTS}"  # noqa: S608 - a name of ours
            ).to_dicts()
        }
    wanted = set(analyses)
    return [
        Statement(row["analysis"], row["sha256"], row["n"], texts.get(row["sha256"], ""))
        for row in found
        if row["analysis"] in wanted
    ]


def assets_of(source: Source) -> str:
    """The asset a source names; of a result table, its analysis."""
    return source.analysis if source.asset == RESULTS_OF else source.asset
