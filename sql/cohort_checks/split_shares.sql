-- Splits whose share of the cohort's patients is further from the intended one than chance allows.
-- grain: one row per split that is off.
-- assumes: without patients there is nothing to be off; more than four standard errors of a binomial share are no chance.
WITH intended AS (
    SELECT 'training' AS split, training_share AS share FROM cohort_parameters
    UNION ALL
    SELECT 'validation', validation_share FROM cohort_parameters
    UNION ALL
    SELECT 'test', 1 - training_share - validation_share FROM cohort_parameters
),
patients AS (
    SELECT intended.split, intended.share, count(first_timepoints.subject_id) AS n_patients
    FROM intended
    LEFT JOIN first_timepoints USING (split)
    GROUP BY intended.split, intended.share
)
SELECT
    split,
    n_patients,
    share,
    n_patients / nullif(sum(n_patients) OVER (), 0) AS share_found
FROM patients
QUALIFY
    abs(share_found - share) > 4 * sqrt(share * (1 - share) / sum(n_patients) OVER ())
