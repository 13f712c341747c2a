"""The code location: everything Dagster knows of kneelake, put together.

Here: assembling assets, checks, sensors, jobs and resources into one `Definitions`, and policy
that applies to all of them. Not here: any of those things themselves, any computation, any reading
of the environment.
"""

from typing import Any

import dagster as dg

from assets import (
    association,
    atlas,
    cams,
    classifiers,
    clinical,
    cohort_figures,
    evaluation,
    guided,
    images,
    imaging,
    report,
    segmentation,
)
from assets.resources import ClusterResource, LakeResource, ProgressResource
from assets.sql_assets import sql_assets
from dagster_project.automation import automation
from dagster_project.checks import all_checks
from dagster_project.cohort_checks import cohort_checks
from dagster_project.jobs import update_association, update_cohort, update_timepoint
from dagster_project.sensors import inbox_sensor


def build_defs(**overrides: Any) -> dg.Definitions:
    """A fresh code location.

    Args:
        **overrides: resources by name (`lake`, `cluster`, `progress`) in place of the default.
    """
    resources: dict[str, Any] = {
        "lake": LakeResource(),
        "cluster": ClusterResource(),
        "progress": ProgressResource(),
    }
    unknown = sorted(set(overrides) - set(resources))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: not a resource; use {', '.join(resources)}")
    return dg.Definitions(
        assets=[
            *dg.load_assets_from_modules(
                [
                    imaging,
                    segmentation,
                    images,
                    classifiers,
                    cams,
                    evaluation,
                    clinical,
                    cohort_figures,
                    association,
                    atlas,
                    guided,
                    report,
                ]
            ),
            *sql_assets(),
        ],
        asset_checks=[*all_checks(), *cohort_checks()],
        jobs=[update_timepoint, update_cohort, update_association],
        sensors=[inbox_sensor, automation],
        resources={**resources, **overrides},
        # A step costs .05 s in process and 2 s in one of its own; heavy steps spread over the
        # cluster resource's processes instead.
        executor=dg.in_process_executor,
    )


defs = build_defs()
