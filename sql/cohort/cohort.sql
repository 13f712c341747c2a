-- The study's cohort: who is in, with which label, covariates and split.
-- grain: one row per knee-visit included.
-- assumes: `cohort_candidates` excluded everybody else; age and BMI may be missing (NULL).
-- column split: training, validation or test.
-- column chronic_pain: Chronic pain (true) or no pain (false).
-- column osteoarthritis: Kellgren-Lawrence grade of oa_min_kl (2) or more.
-- column jsw_medial_min_mm [mm]: Minimum medial joint space width.
-- column womac_pain [points]: WOMAC pain score of the knee, 0 to 20.
SELECT
    cases.knee_visit,
    cases.subject_id,
    cases.side,
    cases.timepoint,
    cases.split,
    cases.is_case AS chronic_pain,
    oa_labels.osteoarthritis,
    cases.kl_grade,
    oa_labels.jsn_medial,
    oa_labels.jsn_lateral,
    oa_labels.jsw_medial_min_mm,
    cases.sex,
    cases.age_years,
    cases.bmi,
    cases.womac_pain
FROM model_cases AS cases
LEFT JOIN oa_labels USING (knee_visit)
WHERE cases.model = 'chronic_pain'
