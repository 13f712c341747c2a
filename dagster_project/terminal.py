"""What commands of `kneelake` share: arguments for the lake, and how they print.

Here: helpers of `cli` and `logit_cli`. Not here: any command.
"""

import argparse
import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import polars as pl

    from lake.store import Lake
    from pipeline.config import Settings

Command = Callable[[argparse.Namespace], int]

NO_STATEMENT = "-- the polars engine runs no SQL"
"""What `--show-sql` shows for it."""


def add_command(
    commands: Any, name: str, function: Command, help_text: str, *, lake: bool = True
) -> argparse.ArgumentParser:
    """A command, with the arguments that name a lake where it works on one."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text
    )
    parser.set_defaults(command=function)
    if lake:
        parser.add_argument("--root", type=Path, help="the lake (default: KNEELAKE_ROOT)")
        parser.add_argument("--inbox", type=Path, help="the inbox (default: KNEELAKE_INBOX)")
        parser.add_argument("--workers", type=int, help="processes at most")
    return parser


@contextlib.contextmanager
def warnings_told(name: str) -> Iterator[None]:
    """Print to stderr what statistics warn of; other warnings are for developers, and logged.

    Args:
        name: the command.
    """
    from stats.errors import StatisticsWarning

    logging.captureWarnings(capture=True)
    logged = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, StatisticsWarning):
            print(f"kneelake {name}: warning: {message}", file=sys.stderr)
        else:
            logged(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", StatisticsWarning)
        warnings.showwarning = show
        yield


def add_json(parser: argparse.ArgumentParser) -> None:
    """The switch to print JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def settings_of(parsed: argparse.Namespace, **more: Any) -> "Settings":
    """The settings that the arguments of `add_command` say."""
    from pipeline.config import Settings

    return Settings.from_environment(
        lake_root=parsed.root,
        inbox=parsed.inbox,
        workers=parsed.workers,
        scheme=getattr(parsed, "scheme", None),
        **more,
    )


def existing_lake(settings: "Settings") -> "Lake":
    """The lake, which has to be there.

    Raises:
        LakeError: there is none.
    """
    from lake.errors import LakeError
    from lake.store import Lake

    if not settings.lake_root.is_dir():
        raise LakeError(
            f"there is no lake at {settings.lake_root}; name one with --root or KNEELAKE_ROOT, or "
            "make one with `kneelake ingest` or `kneelake demo`"
        )
    return Lake(settings.lake_root)


def print_json(content: Any) -> None:
    """Print for programs; a number that is none has to be None."""
    print(json.dumps(content, indent=2, allow_nan=False, default=str))


def print_table(rows: "pl.DataFrame") -> None:
    """Print for people."""
    from dagster_project.text import text_table

    print(text_table(rows))
