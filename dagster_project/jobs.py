"""Named selections a person or a sensor can run.

Here: jobs. Not here: when they run (`sensors`, `automation`).
"""

import dagster as dg

UPDATE_TIMEPOINT = "update_timepoint"

update_timepoint = dg.define_asset_job(
    UPDATE_TIMEPOINT,
    selection=dg.AssetSelection.all(),
    description=(
        "Everything for one visit: inventory, segmentations, maps and biomarkers of what is "
        "pending, the checks, and the SQL assets that read them."
    ),
)
