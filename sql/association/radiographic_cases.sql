-- What Table 2 is fitted on: chronic pain and what a radiograph shows of the knee.
-- The model is fitted where split is training and evaluated where it is test, as the image models.
-- grain: one row per knee-visit of the cohort.
-- assumes: a grade counts as a number (each step the same log odds), as in the paper.
-- column split: training, validation or test.
-- column chronic_pain: 1 chronic pain, 0 no pain.
-- column kl_grade [grade]: Kellgren-Lawrence grade, 0 to 4.
-- column jsn_medial [grade]: Medial joint space narrowing, OARSI grade; whole unless jsn_grading is 'decimal'.
-- column jsn_lateral [grade]: Lateral joint space narrowing, likewise.
-- column jsw_medial_min_mm [mm]: Minimum medial joint space width.
-- column sex_female: 1 woman, 0 man.
SELECT
    knee_visit,
    subject_id,
    timepoint,
    split,
    chronic_pain::INTEGER AS chronic_pain,
    kl_grade,
    CASE jsn_grading WHEN 'whole' THEN floor(jsn_medial) ELSE jsn_medial END AS jsn_medial,
    CASE jsn_grading WHEN 'whole' THEN floor(jsn_lateral) ELSE jsn_lateral END AS jsn_lateral,
    jsw_medial_min_mm,
    age_years,
    (sex = 'F')::INTEGER AS sex_female,
    bmi
FROM cohort
CROSS JOIN association_parameters
