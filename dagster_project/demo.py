"""`kneelake demo`: a simulated cohort through the whole path, as a user would run it.

Here: the order of the calls and what is shown at the end. Not here: any computation.

A few people are imaged and measured; training classifiers takes hundreds of knees, so the maps of
the others are drawn from the same model of the knee (`pipeline.drawn_maps`), and said to be drawn.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_project.text import text_table
from lake.store import Lake
from pipeline.config import FIGURES_FOLDER, Settings
from pipeline.ingest import Progress

if TYPE_CHECKING:
    from dagster_project.launch import AssetResult


CLASSIFIERS = """
WITH aucs AS (
    SELECT bone, strategy,
           format('{:.2f} ({:.2f}, {:.2f})', estimate, percentile_low, percentile_high) AS auc
    FROM model_performance
    WHERE task = 'chronic_pain' AND visits = 'first' AND metric = 'auc' AND estimate IS NOT NULL
)
SELECT strategy,
       any_value(auc) FILTER (WHERE bone = 'patella') AS patella,
       any_value(auc) FILTER (WHERE bone = 'tibia') AS tibia,
       any_value(auc) FILTER (WHERE bone = 'femur') AS femur,
       any_value(auc) FILTER (WHERE bone = 'ptf') AS ptf
FROM aucs GROUP BY strategy ORDER BY strategy
"""
"""AUC of pain on the test split, with the bootstrap's percentiles."""

PAGES = {"atlas.html": "3-D page", "report.html": "report"}
"""Pages that open in a browser, the report last."""

CLINICAL = ("group:clinical",)
"""What has to be there before people's maps are drawn."""

DRAWN_PER_VISIT = 56
"""Knee-visits drawn at most: those of the pain models first, then some that only grade."""

SEPARATION = 1.2
"""Of the planted change with and without pain, SD: a Bayes AUC of 0.80, near the paper's AUCs, at
which a few dozen knees do not part the classes altogether."""

PERMUTATIONS = 500
"""Rearrangements: the smallest family-wise p is 0.002."""
MODELS_CORRECT = 10
"""Of 18: narrow networks of a few epochs seldom agree all, and Fig. 1 needs knees to compare."""

SUMMARY = """
SELECT bone, compartment, biomarker, any_value(unit) AS unit,
       count(*) FILTER (WHERE timepoint = $first) AS knees_first,
       avg(mean) FILTER (WHERE timepoint = $first) AS mean_first,
       stddev_samp(mean) FILTER (WHERE timepoint = $first) AS sd_first,
       count(*) FILTER (WHERE timepoint = $last) AS knees_last,
       avg(mean) FILTER (WHERE timepoint = $last) AS mean_last,
       stddev_samp(mean) FILTER (WHERE timepoint = $last) AS sd_last
FROM biomarkers_long
WHERE is_default AND compartment <> 'whole'
GROUP BY bone, compartment, biomarker
ORDER BY bone, biomarker, compartment
"""


def run_demo(
    folder: Path,
    *,
    n_imaged: int,
    n_people: int,
    timepoints: Sequence[str],
    seed: int,
    workers: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> int:
    """Simulate, materialise, show.

    Args:
        folder: everything goes here; an earlier demo's content is replaced.
        n_imaged: people whose knee is simulated as images and measured.
        n_people: people in the clinical tables; the maps of those not imaged are drawn. With no
            more than are imaged nothing is drawn, and no classifier trained.
        timepoints: visits of each.
        seed: of the cohort.
        workers: processes at most; None for as many as fit.
        progress: told (done, total, text).
        say: told a line for the user.

    Returns:
        The exit code.
    """
    from dagster_project.launch import materialize
    from phantom.clinical_writer import write_clinical_release
    from phantom.cohort import simulate_cohort
    from phantom.delivery import plan_delivery, write_delivery
    from phantom.planted_pain import PainModel
    from pipeline.drawn_maps import DrawingPlan, land_drawn_maps

    start = time.perf_counter()
    draws = n_people > n_imaged
    settings = Settings.from_environment(
        lake_root=folder / "lake",
        inbox=folder / "inbox",
        workers=workers,
        classifier_preset="demo" if draws else "off",
        n_permutations=PERMUTATIONS,
        min_models_correct=MODELS_CORRECT,
    )
    for old in ("lake", "inbox", "dagster_home", "figures"):
        shutil.rmtree(folder / old, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)

    plans = plan_delivery(n_imaged, timepoints, seed=seed)
    written = 0

    def one_more(_visit: object) -> None:
        nonlocal written
        written += 1
        progress(written, len(plans), "phantom knee-visits simulated")

    write_delivery(settings.inbox, plans, workers=settings.workers, progress=one_more)
    write_clinical_release(
        settings.inbox / "clinical",
        simulate_cohort(max(n_people, n_imaged), seed=seed),
        "ascii",
    )
    say(
        f"simulated {len(plans)} knee-visits as DICOM and labels, and the clinical tables of "
        f"{max(n_people, n_imaged)} people, in {settings.inbox}"
    )

    def run(selection: Sequence[str] | None) -> None:
        materialize(
            settings,
            selection,
            sorted(timepoints),
            progress,
            home=folder / "dagster_home",
            engine="processes" if settings.workers > 1 else "serial",
            on_result=lambda result: say(f"  materialised {_described(result)}"),
        )

    lake = Lake(settings.lake_root)
    if draws:
        run(CLINICAL)
        others = lake.sql(
            "SELECT knee_visit FROM cohort_candidates WHERE NOT list_contains($imaged, subject_id)",
            {"imaged": sorted({plan.subject_id for plan in plans})},
        )["knee_visit"].to_list()
        drawn = sum(
            land_drawn_maps(
                lake,
                DrawingPlan(seed, PainModel(SEPARATION)),
                timepoint=timepoint,
                limit=DRAWN_PER_VISIT,
                only=others,
                progress=progress,
            ).n_knee_visit
            for timepoint in sorted(timepoints)
        )
        say(f"drew the maps of {drawn} more knee-visits from the same model of the knee")
    run(None)
    mapped = lake.sql("SELECT DISTINCT knee_visit FROM maps_index ORDER BY knee_visit")
    knees = mapped["knee_visit"].to_list()
    if len(knees) == 0:
        say("no knee was mapped; `kneelake status` says why")
        return 1
    say("")
    _show(folder, lake, knees, sorted(timepoints), say)
    say("")
    say(f"{len(knees)} knee-visits with maps in {time.perf_counter() - start:.0f} s")
    say(
        f"UI       {_this_command()} ui --root {settings.lake_root} --inbox {settings.inbox} "
        f"--home {folder / 'dagster_home'}"
    )
    return 0


def _show(
    folder: Path,
    lake: Lake,
    knees: Sequence[str],
    visits: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Print what came out, and where the tables and figures of it lie."""
    from pipeline.figures import bland_altman_figure, knee_figure, trajectory_figure

    pictures = {
        f"{knees[0]}.png": knee_figure(lake.knee_maps(knees[0]), title=knees[0]),
        "bland_altman.png": bland_altman_figure(lake.sql("SELECT * FROM map_agreement")),
        "trajectories.png": trajectory_figure(
            lake.sql("SELECT * FROM biomarkers WHERE is_default")
        ),
    }
    for name, content in pictures.items():
        (folder / "figures" / name).write_bytes(content)
    summary = lake.sql(SUMMARY, {"first": visits[0], "last": visits[-1]})
    summary.write_csv(folder / "biomarkers_summary.csv")
    say(text_table(summary, decimals=3))
    say("")
    aucs = lake.sql(CLASSIFIERS)
    if len(aucs):
        say("chronic pain, AUC on the first visits of the test split (95 % bootstrap percentiles)")
        say(text_table(aucs))
        say("")
    say(f"table    {folder / 'biomarkers_summary.csv'}")
    of_assets = sorted((lake.root / FIGURES_FOLDER).iterdir())
    for path in [*(folder / "figures" / name for name in pictures), *of_assets]:
        if path.suffix in {".png", ".html"} and path.name not in PAGES:
            say(f"{'table' if path.suffix == '.html' else 'figure':8} {path}")
    for name, what in PAGES.items():
        if (lake.root / FIGURES_FOLDER / name).is_file():
            say(f"{what:8} {lake.root / 'figures' / name}")


def _described(result: "AssetResult") -> str:
    where = f"{result.asset} {result.timepoint}" if result.timepoint else result.asset
    failed = f"  (checks that failed: {', '.join(result.failed_checks)})"
    return where + (failed if result.failed_checks else "")


def _this_command() -> str:
    """How the running command is called from here: it may lie in an environment not on PATH."""
    if shutil.which("kneelake"):
        return "kneelake"
    return os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).name == "kneelake" else "kneelake"
