"""Tables 2 and 3: logistic regressions of chronic pain, in the paper's order.

Here: the assets that land published tables and run each analysis, and what the UI shows of them.
Not here: the rows analysed (`sql/association`), which models (`pipeline.published_regressions`,
`pipeline.cohort_regressions`) or how they are fitted (`stats`).

They are not partitioned, since an analysis reads across visits. An analysis whose input has not
changed is not run again, and keeps its data version.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.imaging import LAKE_WRITER
from assets.metadata import figure, preview, quarantine_preview, registry_schema
from assets.resources import LakeResource
from assets.sql_assets import WHEN_DATA_CHANGE
from lake.keys import UNKNOWN_TIMEPOINT
from lake.tables import TABLES
from pipeline.config import CODE_VERSION, FIGURES_FOLDER

if TYPE_CHECKING:
    from pipeline.association import Run

GROUP = "association"
OWNERS = ["team:statistics"]
RESULTS = ("regression_models", "regression_terms", "regression_tests", "regression_performance")


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    code_version=CODE_VERSION["published"],
    description=TABLES["published_cases"].description,
    metadata={"dagster/column_schema": registry_schema(TABLES["published_cases"])},
    pool=LAKE_WRITER,
)
def published_cases(lake: LakeResource) -> dg.MaterializeResult:
    """Land the authors' regression tables of the inbox, or refuse them with a reason."""
    from pipeline.published import ingest_published

    settings = lake.settings()
    report = ingest_published(lake.open(), settings, [settings.inbox])
    store = lake.snapshot()
    with store.connect() as now:
        counts = now.execute(
            "SELECT count(*), count(DISTINCT bone) FROM published_cases"
        ).fetchall()
        refused = quarantine_preview(now, "published", UNKNOWN_TIMEPOINT)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("published_cases")),
        metadata={
            "dagster/row_count": int(counts[0][0]),
            "n_bones": int(counts[0][1]),
            "n_files_landed": len(report.landed),
            "n_files_unchanged": report.unchanged,
            **refused,
        },
    )


def _materialized(
    lake: LakeResource, run: "Run", files: Mapping[str, bytes], shown: Mapping[str, str]
) -> dg.MaterializeResult:
    """Write an analysis' files and show its tables and forest plot."""
    from pipeline.manuscript import write_files

    write_files(lake.settings().lake_root / FIGURES_FOLDER, dict(files))
    pictures: dict[str, Any] = {}
    for name, file in shown.items():
        content = files[file]
        pictures[name] = (
            figure(content, name)
            if file.endswith(".png")
            else dg.MetadataValue.md(content.decode("utf-8"))
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(run.input_fingerprint[:16]),
        metadata={
            "dagster/row_count": run.n_rows,
            "n_models_fitted": run.n_fitted,
            "n_models_not_fitted": run.n_failed,
            "computed": run.computed,
            "assumes": dg.MetadataValue.md("\n".join(f"- {note}" for note in run.notes)),
            **{table: preview(run.tables[table]) for table in RESULTS},
            **pictures,
        },
    )


@dg.asset(
    deps=[published_cases],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "duckdb", "deltalake"},
    code_version=CODE_VERSION["statistics"],
    automation_condition=WHEN_DATA_CHANGE,
    pool=LAKE_WRITER,
)
def published_regressions(lake: LakeResource) -> dg.MaterializeResult:
    """Table 3 refitted from the authors' published files, and where the printed table differs."""
    from pipeline.association import published_files, run_published

    store = lake.open()
    run = run_published(store, lake.settings())
    shown = {
        "table_3": "table_3_published.md",
        "differences_from_print": "table_3_differences.md",
        "forest_plot": "forest_published.png",
    }
    return _materialized(lake, run, published_files(store, run), shown)


@dg.asset(
    deps=["radiographic_cases"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "duckdb", "deltalake"},
    code_version=CODE_VERSION["statistics"],
    automation_condition=WHEN_DATA_CHANGE,
    pool=LAKE_WRITER,
)
def radiographic_regression(lake: LakeResource) -> dg.MaterializeResult:
    """Table 2: chronic pain on KL, joint space narrowing and width, adjusted for age, sex, BMI."""
    from pipeline.association import radiographic_files, run_radiographic

    run = run_radiographic(lake.open(), lake.settings())
    shown = {"table_2": "table_2.md", "forest_plot": "forest_radiographic.png"}
    return _materialized(lake, run, radiographic_files(run), shown)


@dg.asset(
    deps=["regression_cases", "dl_guided_biomarkers"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "duckdb", "deltalake"},
    code_version=CODE_VERSION["statistics"],
    automation_condition=WHEN_DATA_CHANGE,
    pool=LAKE_WRITER,
)
def nested_regressions(lake: LakeResource) -> dg.MaterializeResult:
    """Table 3 on the cohort: what compartment and DL-guided averages add to age, BMI and sex."""
    from pipeline.association import nested_files, run_nested

    run = run_nested(lake.open(), lake.settings())
    shown = {"table_3": "table_3.md", "forest_plot": "forest_nested.png"}
    return _materialized(lake, run, nested_files(run), shown)


@dg.asset(
    deps=["leakage_control_cases"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "duckdb", "deltalake"},
    code_version=CODE_VERSION["statistics"],
    automation_condition=WHEN_DATA_CHANGE,
    pool=LAKE_WRITER,
)
def leakage_controls(lake: LakeResource) -> dg.MaterializeResult:
    """Whether the DL-guided average still adds once one explanation is taken away.

    Another patient's Grad-CAM, networks of permuted labels, permuted outcome, the other class, the
    network's own logit, and networks that never saw the patient; each with how to read it.
    """
    from pipeline.association import leakage_files, run_leakage_controls

    run = run_leakage_controls(lake.open(), lake.settings())
    shown = {"controls": "leakage_controls.md", "forest_plot": "forest_leakage.png"}
    return _materialized(lake, run, leakage_files(run), shown)
