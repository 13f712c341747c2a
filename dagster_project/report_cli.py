"""`kneelake report` and `kneelake export`: the paper as one page, and its tables for other tools.

Here: their arguments. Not here: work (`pipeline.report`, `pipeline.export`).
"""

import argparse
from pathlib import Path
from typing import Any

from dagster_project.terminal import add_command, existing_lake, settings_of


def add_report(commands: Any) -> None:
    """Add both commands to the parser."""
    report = add_command(
        commands, "report", _report, "The paper end to end as one HTML page, to read or print."
    )
    report.add_argument(
        "--out", type=Path, default=Path("report.html"), help="default: report.html"
    )
    export = add_command(
        commands, "export", _export, "Every table for R, pandas, Word, LaTeX and BIDS tools."
    )
    export.add_argument("folder", type=Path, help="a new or empty folder, or an earlier export")
    export.add_argument(
        "--catalog",
        type=Path,
        metavar="FILE",
        help="also write a DuckDB catalogue of the lake here; it holds the lake's path",
    )


def _report(parsed: argparse.Namespace) -> int:
    from assets.imaging import TABLE_ASSETS
    from assets.resources import LakeSnapshot
    from pipeline.report import write_report

    settings = settings_of(parsed)
    existing_lake(settings)
    snapshot = LakeSnapshot(settings.lake_root)
    print(f"wrote {write_report(snapshot, settings, TABLE_ASSETS, parsed.out)}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from assets.imaging import TABLE_ASSETS
    from assets.resources import LakeSnapshot
    from pipeline.export import write_export

    settings = settings_of(parsed)
    lake = existing_lake(settings)
    written = write_export(LakeSnapshot(settings.lake_root), settings, TABLE_ASSETS, parsed.folder)
    print(f"wrote {len(written):,} files into {parsed.folder}; README.md says what they are")
    if parsed.catalog is not None:
        lake.write_catalog(parsed.catalog)
        print(f"wrote {parsed.catalog}")
    return 0
