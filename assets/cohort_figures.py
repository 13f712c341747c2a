"""The inclusion flowchart and Table 4, drawn from the cohort's tables.

Here: the asset that draws. Not here: what is drawn (`pipeline.cohort_figures`), or any count
(`sql/cohort`).
"""

import dagster as dg

from assets.metadata import figure
from assets.resources import LakeResource
from pipeline.config import FIGURES_FOLDER

GROUP = "cohort"


@dg.asset(
    deps=["cohort_flow", "pain_exclusions", "split_balance"],
    group_name=GROUP,
    owners=["team:clinical"],
    kinds={"python", "matplotlib"},
    # Raised by hand when the drawing changes.
    code_version="1",
)
def cohort_figures(lake: LakeResource) -> dg.MaterializeResult:
    """The inclusion flowchart (Fig. 2) and Table 4 as PNG, SVG, HTML, Markdown and CSV."""
    from pipeline.cohort_figures import write_cohort_figures

    files = {
        path.name: path
        for path in write_cohort_figures(lake.open(), lake.settings().lake_root / FIGURES_FOLDER)
    }
    return dg.MaterializeResult(
        metadata={
            "flowchart": figure(files["cohort_flow.png"].read_bytes(), "Inclusion flowchart"),
            "table_4": dg.MetadataValue.md(files["table_4.md"].read_text(encoding="utf-8")),
        }
    )
