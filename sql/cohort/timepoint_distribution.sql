-- How many patients have how many timepoints, per model (Table 4).
-- grain: one row per model and number of timepoints.
-- assumes: one knee per patient and visit.
-- column model: oa or chronic_pain.
-- column n_timepoints [visits]: Visits of a patient among the model's cases.
-- column n_patients [patients]: Patients with that many.
SELECT
    model,
    n_timepoints,
    count(*) AS n_patients
FROM (
    SELECT model, subject_id, count(DISTINCT timepoint) AS n_timepoints
    FROM model_cases
    GROUP BY model, subject_id
) AS patients
GROUP BY model, n_timepoints
ORDER BY model DESC, n_timepoints
