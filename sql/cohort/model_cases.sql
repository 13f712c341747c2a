-- The knee-visits of the two classification models with their label, covariates and split.
-- 'oa': right knees with images and a grade (osteoarthritis pretraining); 'chronic_pain': those that
-- meet the pain definition as well, the study's cohort.
-- grain: one row per model and knee-visit.
-- assumes: age and BMI are those of the visit; WOMAC pain that of the knee.
-- column model: oa or chronic_pain.
-- column is_case: Osteoarthritis, or chronic pain.
-- column split: training, validation or test.
-- column womac_pain [points]: WOMAC pain score of the knee, 0 to 20.
SELECT
    models.model,
    candidates.knee_visit,
    candidates.subject_id,
    candidates.side,
    candidates.timepoint,
    CASE models.model
        WHEN 'oa' THEN candidates.osteoarthritis
        ELSE candidates.pain_label = 'chronic_pain'
    END AS is_case,
    splits.split,
    enrollees.sex,
    visits.age_years,
    visits.bmi,
    candidates.kl_grade,
    knee_pain.womac_pain
FROM cohort_candidates AS candidates
JOIN (VALUES ('oa'), ('chronic_pain')) AS models (model)
    ON candidates.exclusion IS NULL
    OR (models.model = 'oa' AND candidates.exclusion = 'pain_definition')
LEFT JOIN splits USING (subject_id)
LEFT JOIN enrollees USING (subject_id)
LEFT JOIN clinical_visits AS visits USING (subject_id, timepoint)
LEFT JOIN knee_pain USING (knee_visit)
