"""The paper as one page, and its tables in forms that other tools read.

Here: the two assets. Not here: what they hold (`pipeline.report`, `pipeline.export`).
"""

import dataclasses

import dagster as dg
from pydantic import Field

from assets.imaging import TABLE_ASSETS
from assets.resources import LakeResource
from pipeline.config import FIGURES_FOLDER, Settings

GROUP = "report"
OWNERS = ["team:statistics"]
READS = [
    "agreement_groups",
    "cam_groups",
    "cohort",
    "cohort_flow",
    "comparison_figures",
    "dl_guided_biomarkers",
    "knee_biomarkers",
    "leakage_controls",
    "map_agreement_summary",
    "model_agreement",
    "model_evaluation",
    "nested_regressions",
    "pain_classifiers",
    "pain_exclusions",
    "published_regressions",
    "radiographic_regression",
    "segmentation_metrics",
    "split_balance",
    "split_tests",
    "spm_biomarkers",
    "spm_cam_pain",
    "spm_cam_predicted",
    "sweep_best",
    "training_images",
    "widespread_pain_variants",
]
"""What the sections of `pipeline.report.SECTIONS` show."""


class ReportConfig(dg.Config):
    """What the report is told besides the lake."""

    min_models_correct: int = Field(
        default=Settings.min_models_correct,
        ge=1,
        le=18,
        description="Models (of 18) that have to be right for a knee to be in a group of Fig. 1; "
        "as the comparisons were run with.",
    )


@dg.asset(
    deps=READS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "matplotlib"},
    # Raised by hand when the page changes.
    code_version="1",
)
def report(config: ReportConfig, lake: LakeResource) -> dg.MaterializeResult:
    """The paper end to end as one HTML page, every number with what made it."""
    from pipeline.report import FILE, write_report

    settings = dataclasses.replace(lake.settings(), min_models_correct=config.min_models_correct)
    folder = settings.lake_root / FIGURES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = write_report(lake.snapshot(), settings, TABLE_ASSETS, folder / FILE)
    return dg.MaterializeResult(
        metadata={"file": dg.MetadataValue.path(path), "n_bytes": path.stat().st_size}
    )


@dg.asset(
    deps=READS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "parquet"},
    # Raised by hand when the files change.
    code_version="1",
)
def exports(lake: LakeResource) -> dg.MaterializeResult:
    """Every table as CSV, Parquet, LaTeX and HTML, for R, and as a BIDS derivative."""
    from pipeline.export import write_export

    settings = lake.settings()
    folder = settings.lake_root / "exports"
    files = write_export(lake.snapshot(), settings, TABLE_ASSETS, folder)
    return dg.MaterializeResult(
        metadata={"folder": dg.MetadataValue.path(folder), "n_files": len(files)}
    )
