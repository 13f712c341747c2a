"""The `kneelake` command.

Here: arguments, tables for people, `--json` for programs, exit codes (2 bad input, 1 our failure).
Not here: work. Every command calls one function of `pipeline`, `lake` or `launch`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_project.logit_cli import add_logit
from dagster_project.report_cli import add_report
from dagster_project.roc_cli import add_roc
from dagster_project.spm_cli import add_spm
from dagster_project.terminal import (
    Command,
    add_command,
    add_json,
    existing_lake,
    print_json,
    print_table,
    settings_of,
    warnings_told,
)

if TYPE_CHECKING:
    from imaging.knee import MapParameters
    from imaging.relaxometry import FitOptions
    from pipeline.clinical import ClinicalReport
    from pipeline.config import Settings
    from pipeline.ingest import IngestReport
    from pipeline.published import PublishedReport

BAD_INPUT, OUR_FAILURE = 2, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    from imaging.errors import BadInputError
    from lake.errors import LakeError

    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    try:
        with warnings_told(parsed.name):
            return command(parsed)
    except (BadInputError, LakeError, ValueError) as error:
        print(f"kneelake {parsed.name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        print(
            f"kneelake {parsed.name}: {error.filename}: {error.strerror}. Check the path, and that "
            "its folder is there and may be written to",
            file=sys.stderr,
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("kneelake: interrupted; what was committed stays", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kneelake",
        description="A data-lake feature store for longitudinal knee MRI with DuckDB analytics.",
        epilog="The lake lies at KNEELAKE_ROOT (or ./lake_data), its inbox at KNEELAKE_INBOX "
        "(or ./inbox).",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    _add_lake_commands(commands)
    _add_single_commands(commands)
    add_logit(commands)
    add_roc(commands)
    add_spm(commands)
    add_report(commands)
    _add_demo(commands)
    return parser


def _add_lake_commands(commands: Any) -> None:
    ingest = add_command(commands, "ingest", _ingest, "Land deliveries, or quarantine them.")
    ingest.add_argument("paths", nargs="*", type=Path, help="folders or files; none: the inbox")
    ingest.add_argument("--scheme", help="tissue map of labels that do not name theirs")
    ingest.add_argument("--subject", type=int, help="whose they are, over paths and headers")
    ingest.add_argument("--side", type=_side, help="right or left")
    ingest.add_argument("--timepoint", help="V00 to V11")
    add_json(ingest)

    materialize = add_command(
        commands, "materialize", _materialize, "Materialise what is pending, as the UI does."
    )
    materialize.add_argument("selection", nargs="*", help="assets or groups; none: all")
    materialize.add_argument("--timepoint", action="append", help="only this visit; repeatable")
    materialize.add_argument("--scheme", help="tissue map of labels that do not name theirs")
    materialize.add_argument(
        "--preset",
        choices=("demo", "paper"),
        help="train classifiers where something is new; else as KNEELAKE_CLASSIFIER_PRESET",
    )
    _add_home(materialize)
    _add_measuring(materialize)
    add_json(materialize)

    status = add_command(commands, "status", _status, "Knee-visits by timepoint and stage.")
    _add_measuring(status)
    add_json(status)

    sql = add_command(commands, "sql", _sql, "Read-only SQL over the lake.")
    sql.add_argument("query", nargs="?")
    sql.add_argument(
        "--macros", action="store_true", help="print the macros, for any other DuckDB client"
    )
    sql.add_argument("--format", choices=("table", "csv", "json", "parquet"), default="table")
    sql.add_argument("--out", type=Path, help="write here instead of printing")
    _add_choices(sql)

    cohort = add_command(
        commands, "cohort", _cohort, "Who is in the study: inclusion flow, splits and Table 4."
    )
    cohort.add_argument("--out", type=Path, help="write the flowchart and Table 4 into this folder")
    _add_choices(cohort)
    add_json(cohort)

    view = add_command(commands, "view", _view, "Maps and surfaces of one knee as a figure.")
    view.add_argument("knee", help="a knee-visit of the lake, or a .zarr file of `kneelake maps`")
    view.add_argument("--out", type=Path, required=True, help="the PNG to write")

    ui = add_command(commands, "ui", _ui, "Dagster UI on this lake.")
    ui.add_argument("--port", type=int, default=3000)
    _add_home(ui)


def _add_single_commands(commands: Any) -> None:
    t2 = add_command(commands, "t2", _t2, "T2 map of one multi-echo series.", lake=False)
    t2.add_argument("series", type=Path, help="folder or archive of the DICOM series")
    t2.add_argument("--mask", type=Path, help="label file on the series' grid")
    t2.add_argument("--scheme", help="fit only the mask's cartilages by this tissue map")
    t2.add_argument("--out", type=Path, required=True, help=".nrrd, .nii or .nii.gz")
    _add_fit(t2)
    add_json(t2)

    maps = add_command(
        commands, "maps", _maps, "One knee's maps and biomarkers without a lake.", lake=False
    )
    maps.add_argument("labels", type=Path, help="segmentation: NRRD, NIfTI, MetaImage, DICOM-SEG")
    maps.add_argument("--t2-series", type=Path, help="multi-echo series of the same visit")
    maps.add_argument("--dess", type=Path, help="the scan of the labels, to align the T2 series")
    maps.add_argument("--side", type=_side, help="right or left; checked against the anatomy")
    maps.add_argument("--scheme", required=True, help="tissue map: a name or a .toml file")
    maps.add_argument("--out", type=Path, required=True, help="the .zarr to write")
    maps.add_argument("--overwrite", action="store_true", help="replace --out if it is there")
    _add_measuring(maps)
    add_json(maps)


def _add_demo(commands: Any) -> None:
    demo = add_command(
        commands,
        "demo",
        _demo,
        "Simulate a cohort and materialise everything.",
        lake=False,
    )
    demo.add_argument("--folder", type=Path, default=Path("demo"), help="where (default: ./demo)")
    demo.add_argument("--subjects", type=int, default=12, help="people whose knee is imaged")
    demo.add_argument(
        "--people",
        type=int,
        default=300,
        help="people in the cohort; the maps of those not imaged are drawn",
    )
    demo.add_argument("--timepoint", action="append", help="default: V00 and V03")
    demo.add_argument("--seed", type=int, default=2021)
    demo.add_argument("--workers", type=int, help="processes at most")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another choice than the default of `cohort_parameters`; may be repeated",
    )


def _choices(parsed: argparse.Namespace) -> dict[str, str]:
    if wrong := [choice for choice in parsed.set if "=" not in choice]:
        raise ValueError(f"--set {wrong[0]}: write NAME=VALUE")
    return dict(choice.split("=", 1) for choice in parsed.set)


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=Path, help="Dagster's own folder (default: DAGSTER_HOME or ./.dagster_home)"
    )


def _add_fit(parser: argparse.ArgumentParser) -> None:
    # Names are checked where they are used, so that --help need not load the imaging code.
    parser.add_argument(
        "--t2-model",
        default="three_parameter",
        help="three_parameter (the paper's), two_parameter or log_linear",
    )
    parser.add_argument("--first-echo", default="keep", help="keep (default) or drop")
    parser.add_argument(
        "--offset", default="free", help="sign of the offset C: free (default) or non_negative"
    )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--thickness",
        default="skeleton",
        help="published method: skeleton (the paper's), skeleton_subvoxel or normal; "
        "the others are reported beside it",
    )
    parser.add_argument("--hit-rule", default="outermost", help="outermost (default) or nearest")
    _add_fit(parser)


def _side(text: str) -> str:
    if text.upper() not in {"RIGHT", "LEFT"}:
        raise argparse.ArgumentTypeError(f"{text!r} is no side; give right or left")
    return text.upper()


def _fit_options(parsed: argparse.Namespace) -> "FitOptions":
    from imaging.relaxometry import FitOptions

    return FitOptions(model=parsed.t2_model, first_echo=parsed.first_echo, offset=parsed.offset)


def _parameters(parsed: argparse.Namespace) -> "MapParameters":
    from imaging.knee import MapParameters

    return MapParameters(
        thickness_method=parsed.thickness, hit_rule=parsed.hit_rule, t2=_fit_options(parsed)
    )


def _home(parsed: argparse.Namespace) -> Path:
    import os

    return parsed.home or Path(os.environ.get("DAGSTER_HOME") or ".dagster_home")


class _Bar:
    """One progress bar at a time, on stderr; a new one when the step changes."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._step = ""

    def __call__(self, done: int, total: int, text: str) -> None:
        from tqdm import tqdm

        step = text.split(" ", maxsplit=1)[0]
        if self._bar is None or step != self._step or total != self._bar.total:
            self.close()
            self._step = step
            # disable=None: only where a person watches, not in a log.
            self._bar = tqdm(
                total=total, desc=step, unit="", file=sys.stderr, leave=False, disable=None
            )
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix_str(text[:60], refresh=False)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _ingest(parsed: argparse.Namespace) -> int:
    from lake.errors import LakeError
    from lake.store import Lake
    from pipeline.clinical import ingest_clinical, is_clinical_file
    from pipeline.cluster import Cluster
    from pipeline.ingest import IngestReport, ingest
    from pipeline.knee_visit import KneeVisit
    from pipeline.published import ingest_published, is_published_table

    settings = settings_of(parsed)
    if not parsed.paths and not settings.inbox.is_dir():
        raise LakeError(
            f"there is no inbox at {settings.inbox}; name one with --inbox or KNEELAKE_INBOX, or "
            "name the deliveries"
        )
    lake = Lake(settings.lake_root)
    tables = parsed.paths or [settings.inbox]
    clinical = ingest_clinical(lake, settings, tables)
    published = ingest_published(lake, settings, tables)
    images = [
        path
        for path in parsed.paths
        if not (is_clinical_file(path) or (path.is_file() and is_published_table(path)))
    ]
    if parsed.paths and not images:
        _report_ingest(parsed, IngestReport(), clinical, published)
        return 0
    bar = _Bar()
    report = ingest(
        lake,
        settings,
        images or None,
        declared=KneeVisit(parsed.subject, parsed.side, parsed.timepoint),
        cluster=Cluster("processes" if settings.workers > 1 else "serial", settings.workers),
        progress=bar,
    )
    bar.close()
    _report_ingest(parsed, report, clinical, published)
    return 0


def _report_ingest(
    parsed: argparse.Namespace,
    report: "IngestReport",
    clinical: "ClinicalReport",
    published: "PublishedReport",
) -> None:
    if parsed.json:
        print_json(
            {
                "landed": report.landed,
                "unchanged": report.unchanged,
                "quarantined": report.quarantined,
                "skipped": report.skipped,
                "superseded": report.superseded,
                "clinical": vars(clinical),
                "published": vars(published),
            }
        )
        return
    print(
        f"landed {len(report.landed)}, unchanged {report.unchanged}, skipped {report.skipped}, "
        f"superseded {len(report.superseded)}, quarantined {len(report.quarantined)}"
    )
    if clinical.landed or clinical.unchanged or clinical.refused:
        print(
            f"clinical tables: {len(clinical.landed)} files landed, {clinical.unchanged} "
            f"unchanged, {clinical.skipped} not used, {clinical.refused} refused"
        )
    for table, change in clinical.changes.items():
        print(
            f"  {table}: {change['added']} rows added, {change['changed']} changed, "
            f"{change['retracted']} retracted"
        )
    for row in clinical.superseded:
        print(f"  {row['file']}: {row['columns']} columns give way to {row['kept']}")
    if clinical.absent:
        print(f"  told by no release: {', '.join(clinical.absent)}")
    for row in published.landed:
        print(f"published table of the {row['bone']}: {row['n_rows']:,} rows of {row['file']}")
    for row in (*report.quarantined, *clinical.quarantined, *published.quarantined):
        print(f"  {row['reason']}: {row['file']} {row['what']}. {row['remedy']}")


def _materialize(parsed: argparse.Namespace) -> int:
    from dagster_project.launch import AssetResult, RunFailedError, materialize

    settings = settings_of(parsed, maps=_parameters(parsed), classifier_preset=parsed.preset)
    bar = _Bar()

    def told(result: AssetResult) -> None:
        bar.close()
        if not parsed.json:
            print(_result_line(result), file=sys.stderr)

    try:
        results = materialize(
            settings,
            parsed.selection or None,
            parsed.timepoint or _visits_at_hand(settings),
            progress=bar,
            home=_home(parsed),
            on_result=told,
        )
    except RunFailedError as error:
        print(f"kneelake materialize: {error}", file=sys.stderr)
        return OUR_FAILURE
    finally:
        bar.close()
    if parsed.json:
        print_json([vars(result) for result in results])
    return 0


def _visits_at_hand(settings: "Settings") -> list[str]:
    """Visits that the inbox or the lake knows: the other partitions stay unmaterialised."""
    from lake.errors import LakeError
    from lake.keys import TIMEPOINTS
    from lake.store import Lake
    from pipeline.inbox import discover

    deliveries = discover(settings.inbox) if settings.inbox.is_dir() else []
    visits = {delivery.timepoint for delivery in deliveries if delivery.timepoint}
    if settings.lake_root.is_dir():
        known = Lake(settings.lake_root).sql("SELECT DISTINCT timepoint FROM scans")
        visits |= set(known["timepoint"])
    if not visits and not deliveries:
        raise LakeError(
            f"there is nothing in the inbox {settings.inbox} and nothing in the lake "
            f"{settings.lake_root}; put deliveries into the inbox, or name another with --inbox"
        )
    # Deliveries that tell no visit are read, and refused with their reason, with any visit.
    return sorted(visits) or [TIMEPOINTS[0]]


def _result_line(result: Any) -> str:
    place = result.timepoint or result.model
    where = f" {place}" if place else ""
    numbers = ", ".join(
        f"{name} {result.metadata[name]}"
        for name in ("n_pending", "n_computed", "n_quarantined", "val_auc", "best_epoch", "state")
        if name in result.metadata
    )
    failed = f"  FAILED CHECKS: {', '.join(result.failed_checks)}" if result.failed_checks else ""
    return f"{result.asset}{where}: {numbers or 'done'}{failed}"


def _status(parsed: argparse.Namespace) -> int:
    from pipeline.steps import status

    settings = settings_of(parsed, maps=_parameters(parsed))
    lake = existing_lake(settings)
    stages = status(lake, settings)
    quarantined = lake.sql(
        "SELECT timepoint, stage, coalesce(knee_visit, '-') AS knee_visit, reason, file, what "
        "FROM quarantine ORDER BY ALL"
    )
    last = lake.sql(
        "SELECT batch_number, step, timepoint, n_knee_visit, n_quarantined FROM batches "
        "ORDER BY batch_number DESC LIMIT 1"
    )
    if parsed.json:
        print_json(
            {
                "stages": stages.to_dicts(),
                "quarantined": quarantined.to_dicts(),
                "last_batch": next(iter(last.to_dicts()), None),
            }
        )
        return 0
    print_table(stages)
    if len(quarantined):
        print("\nQuarantined")
        print_table(quarantined)
    if len(last):
        print("\nLast batch")
        print_table(last)
    return 0


def _sql(parsed: argparse.Namespace) -> int:
    import duckdb

    if parsed.macros:
        import sql

        print(sql.macro_text())
        return 0
    if parsed.query is None:
        raise ValueError("give a query, or --macros")
    lake = existing_lake(settings_of(parsed))
    try:
        rows = lake.sql(parsed.query, settings=_choices(parsed))
    except duckdb.Error as error:
        raise ValueError(str(error)) from error
    if parsed.format == "parquet":
        if parsed.out is None:
            raise ValueError("--format parquet needs --out FILE")
        rows.write_parquet(parsed.out)
        return 0
    if parsed.format == "csv":
        text = rows.write_csv()
    elif parsed.format == "json":
        text = rows.write_json()
    else:
        from dagster_project.text import text_table

        text = text_table(rows)
    if parsed.out is not None:
        parsed.out.write_text(text, encoding="utf-8")
    else:
        print(text.rstrip("\n"))
    return 0


def _cohort(parsed: argparse.Namespace) -> int:
    from pipeline.cohort_figures import write_cohort_figures

    lake = existing_lake(settings_of(parsed))
    chosen = _choices(parsed)
    flow = lake.sql("FROM cohort_flow", settings=chosen)
    balance = lake.sql("FROM split_balance", settings=chosen)
    files = write_cohort_figures(lake, parsed.out, chosen) if parsed.out is not None else []
    if parsed.json:
        print_json(
            {
                "flow": flow.to_dicts(),
                "split_balance": balance.to_dicts(),
                "files": [str(file) for file in files],
            }
        )
        return 0
    print_table(flow)
    print("")
    print_table(balance)
    for file in files:
        print(f"wrote {file}")
    return 0


def _view(parsed: argparse.Namespace) -> int:
    from lake.maps import read_knee_zarr
    from pipeline.figures import knee_figure

    if parsed.knee.endswith(".zarr"):
        parts, title = read_knee_zarr(Path(parsed.knee)), Path(parsed.knee).name
    else:
        parts, title = existing_lake(settings_of(parsed)).knee_maps(parsed.knee), parsed.knee
    parsed.out.write_bytes(knee_figure(parts, title=title))
    print(f"wrote {parsed.out}")
    return 0


def _ui(parsed: argparse.Namespace) -> int:
    from dagster_project.launch import serve_ui

    return serve_ui(_home(parsed), parsed.port, settings_of(parsed))


def _t2(parsed: argparse.Namespace) -> int:
    from imaging.labels import load_scheme
    from pipeline.single import t2_of_series

    report = t2_of_series(
        parsed.series,
        parsed.out,
        mask=parsed.mask,
        scheme=load_scheme(parsed.scheme) if parsed.scheme else None,
        options=_fit_options(parsed),
    )
    if parsed.json:
        print_json(report.as_json())
        return 0
    print(f"{report.voxels:,} voxels in {report.seconds:.3f} s, written to {parsed.out}")
    print(
        f"T2 median {report.median_ms:.2f} ms (5 % {report.p05_ms:.2f}, 95 % {report.p95_ms:.2f}); "
        f"{100 * report.fraction_at_bound:.2f} % at a bound"
    )
    for flag, count in report.flags.items():
        print(f"  {flag}: {count:,} voxels")
    return 0


def _maps(parsed: argparse.Namespace) -> int:
    from pipeline.single import maps_json, maps_of_knee

    measured = maps_of_knee(
        parsed.labels,
        side=parsed.side,
        scheme=parsed.scheme,
        out=parsed.out,
        t2_series=parsed.t2_series,
        structural=parsed.dess,
        parameters=_parameters(parsed),
        overwrite=parsed.overwrite,
    )
    said = maps_json(measured)
    if parsed.json:
        print_json(said)
        return 0
    import polars as pl

    rows = pl.DataFrame(said["biomarkers"] + said["other_methods"])
    print_table(rows.filter(pl.col("n") > 0))
    for bone, shares in said["maps"].items():
        hidden = shares["hidden_cartilage_share"]
        if hidden is not None:
            print(f"{bone}: {100 * hidden:.2f} % of its cartilage is hidden")
    seconds = sum(said["seconds"].values())
    print(f"{measured.side.lower()} knee, written to {parsed.out} in {seconds:.1f} s")
    return 0


def _demo(parsed: argparse.Namespace) -> int:
    from dagster_project.demo import run_demo

    bar = _Bar()

    def say(text: str) -> None:
        bar.close()
        print(text, flush=True)

    try:
        return run_demo(
            parsed.folder,
            n_imaged=parsed.subjects,
            n_people=parsed.people,
            timepoints=parsed.timepoint or ["V00", "V03"],
            seed=parsed.seed,
            workers=parsed.workers,
            progress=bar,
            say=say,
        )
    finally:
        bar.close()


if __name__ == "__main__":
    sys.exit(main())
