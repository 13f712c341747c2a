-- The inclusion flowchart (Fig. 2): what each criterion excluded, in the paper's order.
-- n_remaining of a row is that of the row before less n_excluded, and ends at the cohort.
-- grain: one row per step of the flowchart.
-- assumes: a knee-visit counts at the first criterion that excludes it. The paper states MSME as a
-- criterion but counts no right knee without it, so its number there is 0.
-- column step_number: Order of the criteria; 0 is the start.
-- column step: Short name, as in `cohort_candidates.exclusion`.
-- column description: What is counted or excluded.
-- column n_excluded [knee-visits]: Excluded at this step.
-- column n_remaining [knee-visits]: Left after it.
-- column n_patients_remaining [patients]: Patients with a knee-visit left.
-- column share_remaining: n_remaining by that of the step before.
-- column paper_n_excluded [knee-visits]: Published number.
-- column paper_n_remaining [knee-visits]: Published number.
-- column paper_share_remaining: Published share.
WITH steps AS (
    FROM (
        VALUES
        (0, 'dess', '3D-DESS image volumes', 0, 47078),
        (1, 'segmentation_quality', 'Poor segmentation', 261, 46817),
        (2, 'left_knee', 'Left knee', 22464, 24353),
        (3, 'no_msme', 'Right knee without MSME', 0, 24353),
        (4, 'no_kl_grade', 'No KL grade at the visit', 3235, 21118),
        (5, 'pain_definition', 'Pain definition not met', 13681, 7437)
    ) AS listed (step_number, step, description, paper_n_excluded, paper_n_remaining)
),
candidates AS (
    SELECT subject_id, coalesce(step_number, 6) AS excluded_at
    FROM cohort_candidates
    LEFT JOIN steps ON steps.step = cohort_candidates.exclusion
)
SELECT
    step_number,
    step,
    description,
    count(*) FILTER (WHERE excluded_at = step_number) AS n_excluded,
    count(*) FILTER (WHERE excluded_at > step_number) AS n_remaining,
    count(DISTINCT subject_id) FILTER (WHERE excluded_at > step_number) AS n_patients_remaining,
    n_remaining / nullif(n_remaining + n_excluded, 0) AS share_remaining,
    any_value(paper_n_excluded) AS paper_n_excluded,
    any_value(paper_n_remaining) AS paper_n_remaining,
    any_value(paper_n_remaining / (paper_n_remaining + paper_n_excluded))
        AS paper_share_remaining
FROM steps
LEFT JOIN candidates ON true
GROUP BY step_number, step, description
ORDER BY step_number
