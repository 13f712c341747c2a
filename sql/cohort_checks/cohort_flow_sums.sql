-- Steps of the flowchart that do not follow from the one before, or do not end at the cohort.
-- grain: one row per step that does not add up.
-- assumes: knee-visits are excluded once; the last step is the pain definition, whose reasons sum to
-- it.
SELECT
    step,
    n_remaining,
    lag(n_remaining) OVER (ORDER BY step_number) - n_excluded AS n_expected
FROM cohort_flow
QUALIFY n_remaining <> n_expected
UNION ALL
SELECT 'cohort', count(*), (SELECT min(n_remaining) FROM cohort_flow)
FROM cohort
HAVING count(*) <> (SELECT min(n_remaining) FROM cohort_flow)
UNION ALL
SELECT
    'pain_exclusions',
    sum(n_excluded),
    (SELECT n_excluded FROM cohort_flow WHERE step = 'pain_definition')
FROM pain_exclusions
HAVING
    sum(n_excluded) <> (SELECT n_excluded FROM cohort_flow WHERE step = 'pain_definition')
