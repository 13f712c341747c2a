-- Rows of the cohort that its criteria do not allow.
-- grain: one row per knee-visit that should not be there as it is.
-- assumes: the registry's ranges hold already for what is handed through.
SELECT knee_visit, side, chronic_pain, kl_grade, split, osteoarthritis, age_years, bmi
FROM cohort
CROSS JOIN cohort_parameters
WHERE
    side <> 'RIGHT'
    OR chronic_pain IS NULL
    OR kl_grade IS NULL
    OR kl_grade NOT BETWEEN 0 AND 4
    OR osteoarthritis <> (kl_grade >= oa_min_kl)
    OR split IS NULL
    OR split NOT IN ('training', 'validation', 'test')
