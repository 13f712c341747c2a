-- Keys of the cohort's tables that occur more than once, and patients in two splits.
-- grain: one row per table and key.
-- assumes: the grain that each file states.
SELECT table_name, key, count(*) AS n
FROM (
    SELECT 'cohort_candidates' AS table_name, knee_visit AS key FROM cohort_candidates
    UNION ALL
    SELECT 'cohort', knee_visit FROM cohort
    UNION ALL
    SELECT 'first_timepoints', subject_id::VARCHAR FROM first_timepoints
    UNION ALL
    SELECT 'splits', subject_id::VARCHAR FROM splits
    UNION ALL
    SELECT 'pain_labels', knee_visit FROM pain_labels
    UNION ALL
    SELECT 'widespread_pain', knee_visit FROM widespread_pain
    UNION ALL
    SELECT 'oa_labels', knee_visit FROM oa_labels
    UNION ALL
    SELECT 'segmentation_qc', knee_visit || ' ' || tissue FROM segmentation_qc
) AS keys
GROUP BY table_name, key
HAVING count(*) > 1
UNION ALL
SELECT 'cohort: patient in two splits', subject_id::VARCHAR, count(DISTINCT split)
FROM cohort
GROUP BY subject_id
HAVING count(DISTINCT split) > 1
