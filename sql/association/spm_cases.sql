-- The knees whose maps are compared point by point: the test split, each patient's first visit.
-- Fig. 1 compares true positives with pain and true negatives without, those the models agree on;
-- the control compares all with pain and all without.
-- grain: one row per patient of the chronic-pain test split.
-- assumes: as model_agreement; covariates are those of the visit.
-- column has_pain: Group of all knees: chronic pain, or none.
-- column is_tp_pain: Group of Fig. 1: true positive with pain, or true negative without; NULL for knees the models disagree on.
-- column n_correct: Models that are right, of n_models; NULL without predictions.
SELECT
    cases.knee_visit,
    cases.subject_id,
    cases.timepoint,
    cases.chronic_pain::BOOLEAN AS has_pain,
    CASE agreed.agreement WHEN 'tp_pain' THEN true WHEN 'tn_no_pain' THEN false END AS is_tp_pain,
    agreed.n_correct,
    agreed.n_models,
    cases.age_years,
    cases.sex,
    cases.bmi
FROM first_timepoints AS cases
LEFT JOIN model_agreement AS agreed USING (knee_visit)
WHERE cases.split = 'test'
