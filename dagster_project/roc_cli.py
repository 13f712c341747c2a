"""`kneelake roc`: how well a score tells cases from the others.

Here: its arguments, tables for people with what they assume, `--json` for programs. Not here: work
(`stats.roc`).
"""

import argparse
import math
from typing import TYPE_CHECKING, Any

from dagster_project.logit_cli import opened
from dagster_project.terminal import add_command, add_json, print_json, print_table

if TYPE_CHECKING:
    from stats.roc import RocTable

N_REPLICATES = 100
"""As in the paper."""
ASSUMES = (
    "Intervals of the AUC and the test of two scores (DeLong) take rows to be independent. Several "
    "rows of one person are not: name who they are with --cluster, and read the bootstrap."
)
RESAMPLED = (
    "percentile_* is the interval of the figure; mean_* that of the mean over replicates, as the "
    "paper's Table 1 prints: it says nothing of the sampling error."
)


def add_roc(commands: Any) -> None:
    """Add the command to the parser."""
    roc = add_command(commands, "roc", _roc, "Sensitivity, specificity and AUC of a score in SQL.")
    roc.add_argument("table", help="a table or view of the lake, a CSV or a Parquet file")
    roc.add_argument("--outcome", required=True, help="column of 0 and 1")
    roc.add_argument("--score", required=True, help="column; the higher, the more likely a case")
    roc.add_argument("--compare", metavar="COLUMN", help="a second score of the same rows (DeLong)")
    roc.add_argument("--by", metavar="G,H", help="columns that tell models apart")
    roc.add_argument("--cluster", metavar="COLUMN", help="who the rows are of: bootstrap by them")
    roc.add_argument(
        "--threshold", type=float, default=0.5, help="a case from here on (default .5)"
    )
    roc.add_argument("--bootstrap", type=int, metavar="N", help="default: 100, where --cluster")
    roc.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    roc.add_argument("--drop-missing", action="store_true", help="leave incomplete rows out")
    roc.add_argument("--show-sql", action="store_true", help="print the statements as well")
    add_json(roc)


def _roc(parsed: argparse.Namespace) -> int:
    from stats.roc import bootstrap, paired_test, performance
    from stats.roc_rows import Missing, Scores

    if parsed.bootstrap is not None and parsed.cluster is None:
        raise ValueError(
            "--bootstrap draws persons: name the column that tells them with --cluster"
        )
    by = tuple(name.strip() for name in (parsed.by or "").split(",") if name.strip())
    missing: Missing = "drop" if parsed.drop_missing else "refuse"
    with opened(parsed, parsed.table) as (connection, relation):
        scores = Scores(relation, parsed.outcome, parsed.score, by, parsed.cluster)
        found = {
            "performance": performance(
                connection, scores, threshold=parsed.threshold, missing=missing
            )
        }
        if parsed.compare is not None:
            found["comparison"] = paired_test(connection, scores, parsed.compare, missing=missing)
        if parsed.cluster is not None:
            found["bootstrap"] = bootstrap(
                connection,
                scores,
                n_replicates=N_REPLICATES if parsed.bootstrap is None else parsed.bootstrap,
                seed=parsed.seed,
                threshold=parsed.threshold,
                missing=missing,
            )
    if parsed.json:
        said: dict[str, Any] = {name: _plain_rows(table) for name, table in found.items()}
        if parsed.show_sql:
            said["sql"] = {name: table.sql for name, table in found.items()}
        print_json(said)
        return 0
    for name, table in found.items():
        print(name)
        print_table(table.table)
        print("")
    print(ASSUMES if parsed.cluster is None else f"{ASSUMES}\n{RESAMPLED}")
    if parsed.show_sql:
        for table in found.values():
            print(f"\n{table.sql}")
    return 0


def _plain_rows(found: "RocTable") -> list[dict[str, Any]]:
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in found.table.to_dicts()
    ]
