-- Every knee-visit with a DESS scan and the first criterion that excludes it, in the paper's order.
-- The order decides the counts: a left knee without a grade counts as left. Within the pain
-- definition `pain_exclusion` says which part of it.
-- grain: one row per knee-visit with a DESS scan.
-- assumes: one DESS volume per knee-visit; of a repeated scan the later one is used.
-- column segmentation_is_poor: A tissue's volume is an outlier; NULL without a segmentation.
-- column has_msme: Whether an MSME scan (T2) matches.
-- column osteoarthritis: Kellgren-Lawrence grade of oa_min_kl (2) or more.
-- column pain_label: chronic_pain, no_pain, intermediate or unknown.
-- column widespread: Whether the patient has widespread pain.
-- column exclusion: The first criterion not met; NULL for the cohort.
-- column pain_exclusion: What of the pain definition was not met, where that excluded.
WITH source AS (
    SELECT knee_visit, subject_id, side, timepoint, sequence
    FROM scans_listed
    WHERE acquired AND (SELECT scan_source = 'listed' FROM cohort_parameters)
    UNION ALL
    SELECT knee_visit, subject_id, side, timepoint, sequence
    FROM scans
    WHERE (SELECT scan_source = 'delivered' FROM cohort_parameters)
),
quality AS (
    SELECT knee_visit, bool_or(is_poor) AS is_poor
    FROM segmentation_qc
    GROUP BY knee_visit
),
judged AS (
    SELECT
        dess.knee_visit,
        dess.subject_id,
        dess.side,
        dess.timepoint,
        quality.is_poor AS segmentation_is_poor,
        msme.knee_visit IS NOT NULL AS has_msme,
        oa_labels.kl_grade,
        oa_labels.osteoarthritis,
        coalesce(pain_labels.pain_label, 'unknown') AS pain_label,
        widespread_pain.widespread,
        CASE
            WHEN coalesce(pain_labels.pain_label, 'unknown') = 'unknown' THEN 'pain_unknown'
            WHEN pain_labels.pain_label = 'intermediate' THEN 'intermediate_pain'
            WHEN widespread_pain.widespread THEN 'widespread_pain'
            WHEN widespread_pain.widespread IS NULL THEN 'widespread_pain_unknown'
        END AS pain_exclusion,
        cohort_parameters.msme_required,
        cohort_parameters.unsegmented
    FROM (FROM source WHERE sequence = 'DESS') AS dess
    LEFT JOIN (FROM source WHERE sequence = 'MSME') AS msme USING (knee_visit)
    LEFT JOIN quality USING (knee_visit)
    LEFT JOIN oa_labels USING (knee_visit)
    LEFT JOIN pain_labels USING (knee_visit)
    LEFT JOIN widespread_pain USING (knee_visit)
    CROSS JOIN cohort_parameters
)
SELECT
    * EXCLUDE (pain_exclusion, msme_required, unsegmented),
    CASE
        WHEN coalesce(segmentation_is_poor, unsegmented = 'exclude') THEN 'segmentation_quality'
        WHEN side = 'LEFT' THEN 'left_knee'
        WHEN msme_required AND NOT has_msme THEN 'no_msme'
        WHEN kl_grade IS NULL THEN 'no_kl_grade'
        WHEN pain_exclusion IS NOT NULL THEN 'pain_definition'
    END AS exclusion,
    CASE WHEN exclusion = 'pain_definition' THEN pain_exclusion END AS pain_exclusion
FROM judged
