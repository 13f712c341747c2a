"""Named selections a person or a sensor can run.

Here: jobs. Not here: when they run (`sensors`, `automation`).
"""

import dagster as dg

UPDATE_TIMEPOINT = "update_timepoint"
UPDATE_COHORT = "update_cohort"
UPDATE_ASSOCIATION = "update_association"

update_timepoint = dg.define_asset_job(
    UPDATE_TIMEPOINT,
    selection=dg.AssetSelection.groups("imaging", "biomarkers"),
    description=(
        "Everything for one visit: inventory, segmentations, maps and biomarkers of what is "
        "pending, the checks, and the SQL assets that read them."
    ),
)

update_cohort = dg.define_asset_job(
    UPDATE_COHORT,
    selection=dg.AssetSelection.groups("clinical", "cohort"),
    description=(
        "Everything about the people: clinical tables of the inbox, labels, exclusions, splits and "
        "Table 4, with their checks."
    ),
)

update_association = dg.define_asset_job(
    UPDATE_ASSOCIATION,
    # What is of a visit, and networks, are asked for by themselves.
    selection=dg.AssetSelection.groups("association")
    - dg.AssetSelection.assets("correspondences", "atlas_maps", "cell_sums", "control_networks"),
    description=(
        "Tables 2 and 3: published tables of the inbox refitted, the same models on the cohort "
        "with DL-guided averages, and the leakage controls; and maps compared on the atlas."
    ),
)
