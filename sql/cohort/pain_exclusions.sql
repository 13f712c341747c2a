-- What part of the pain definition excluded knee-visits; sums to that step of `cohort_flow`.
-- The paper gives the sum only (13,681).
-- grain: one row per reason.
-- assumes: a knee-visit counts at the first reason listed.
-- column reason_number: Order of the reasons.
-- column reason: Short name.
-- column description: What it means.
-- column n_excluded [knee-visits]: Excluded for it.
-- column n_patients [patients]: Patients concerned.
SELECT
    reason_number,
    reasons.reason,
    reasons.description,
    count(candidates.knee_visit) AS n_excluded,
    count(DISTINCT candidates.subject_id) AS n_patients
FROM (
    VALUES
    (1, 'pain_unknown', 'Answers on knee pain missing'),
    (2, 'intermediate_pain', 'Knee pain, but not chronic'),
    (3, 'widespread_pain', 'Widespread pain'),
    (4, 'widespread_pain_unknown', 'Widespread pain cannot be told')
) AS reasons (reason_number, reason, description)
LEFT JOIN cohort_candidates AS candidates ON candidates.pain_exclusion = reasons.reason
GROUP BY reason_number, reasons.reason, reasons.description
ORDER BY reason_number
