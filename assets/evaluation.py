"""How well the classifiers do on people they have not seen: Tables 1, S2 and S3.

Here: the asset that judges, and what it shows. Not here: any statistic (`stats.roc`), which rows
are judged (`sql/learning`), or the layout of the tables (`pipeline.evaluation_tables`).
"""

import dagster as dg
from pydantic import Field

from assets.metadata import figure, registry_schema
from assets.resources import LakeResource
from lake.tables import TABLES
from pipeline.config import CODE_VERSION, FIGURES_FOLDER

GROUP = "learning"
OWNERS = ["team:learning"]
LAKE_WRITER = "lake_writer"


class EvaluationConfig(dg.Config):
    """Choices of an evaluation."""

    n_replicates: int = Field(default=100, ge=2, description="Of the bootstrap; the paper's 100.")
    seed: int = Field(default=0, ge=0, description="Of its draws.")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="Probability from which a case is called."
    )


@dg.asset(
    deps=["scored_predictions"],
    group_name=GROUP,
    kinds={"duckdb", "matplotlib"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["statistics"],
    metadata={"dagster/column_schema": registry_schema(TABLES["model_performance"])},
)
def model_evaluation(config: EvaluationConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Sensitivity, specificity and AUC of every classifier and PTF ensemble on the test split.

    First, last and all visits, with the bootstrap by patient in both readings (percentiles, and the
    paper's interval of the mean), DeLong, calibration, and paired comparisons of strategies with
    FDR: tables `model_performance`, `model_calibration`, `model_comparisons`; Tables 1, S2 and S3
    as HTML, Markdown and CSV; ROC curves as PNG.
    """
    from pipeline.evaluation import EvaluationOptions
    from pipeline.evaluation_results import (
        ANALYSIS,
        evaluate_lake,
        evaluation_fingerprint,
        store_evaluation,
        test_rows,
        write_evaluation,
    )
    from pipeline.evaluation_tables import TITLES, performance_table, roc_figure
    from pipeline.manuscript import table_markdown
    from pipeline.regressions import is_current

    options = EvaluationOptions(**config.model_dump())
    store, settings = lake.open(), lake.settings()
    with store.connect() as connection:
        rows = test_rows(connection)
        if rows.is_empty():
            return dg.MaterializeResult(
                data_version=dg.DataVersion("waiting"),
                metadata={"state": "waiting: no knee of a test split is predicted yet"},
            )
        stated = evaluation_fingerprint(rows, options)
        is_new = not is_current(connection, ANALYSIS, stated)
        evaluations = evaluate_lake(connection, options)
    if is_new:
        store_evaluation(store, settings, evaluations, stated, len(rows))
    files = write_evaluation(evaluations, settings.lake_root / FIGURES_FOLDER)
    shown: dict[str, dg.MetadataValue] = {}
    for found in evaluations:
        name, title = TITLES[found.task, found.visits]
        if found.visits == "all":
            continue
        table, notes = performance_table(found, "percentile")
        shown[name] = dg.MetadataValue.md(table_markdown(table, notes))
        shown[f"{name}_roc"] = figure(roc_figure(found, title=title, dpi=56), title)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(stated[:16]),
        metadata={
            **shown,
            "newly_stored": is_new,
            "n_rows": len(rows),
            "n_models": sum(len(found.calibration) for found in evaluations),
            "n_not_judged": sum(
                row["reason"] is not None for found in evaluations for row in found.calibration
            ),
            "files": dg.MetadataValue.path(settings.lake_root / FIGURES_FOLDER),
            "n_files": len(files),
        },
    )
