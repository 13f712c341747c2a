-- Change of every biomarker since the first visit it was measured at.
-- grain: one row per knee, bone, compartment, biomarker, method and later timepoint.
-- assumes: months between visits are those planned (timepoints), not those between the scans.
WITH measured AS (
    SELECT long.*, timepoints.months
    FROM biomarkers_long AS long
    JOIN timepoints USING (timepoint)
    WHERE long.mean IS NOT NULL
),
since_first AS (
    SELECT
        *,
        first_value(timepoint) OVER knee AS first_timepoint,
        first_value(mean) OVER knee AS first_mean,
        months - first_value(months) OVER knee AS months_since_first
    FROM measured
    WINDOW knee AS (
        PARTITION BY subject_id, side, bone, compartment, biomarker, method ORDER BY months
    )
)
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    bone,
    compartment,
    biomarker,
    method,
    is_default,
    unit,
    first_timepoint,
    months_since_first,
    first_mean,
    mean,
    mean - first_mean AS change,
    12 * (mean - first_mean) / months_since_first AS change_per_year
FROM since_first
WHERE months_since_first > 0
