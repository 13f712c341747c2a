-- What Table 3 is fitted on: chronic pain, age, BMI, sex and a biomarker's compartment averages.
-- Bone shape is left out: the paper finds no sense in averaging it.
-- grain: one row per knee-visit, bone and biomarker.
-- assumes: a compartment's average is that of the biomarker's default method.
-- column split: training, validation or test.
-- column is_first_timepoint: Whether it is the patient's first visit in the cohort: one row per patient.
-- column chronic_pain: 1 chronic pain, 0 no pain.
-- column sex_female: 1 woman, 0 man.
-- column medial [mm or ms]: Average over the medial compartment; NULL where nothing was measured.
-- column lateral [mm or ms]: Average over the lateral compartment.
WITH averages AS (
    SELECT
        knee_visit,
        bone,
        biomarker,
        unit,
        max(mean) FILTER (WHERE compartment = 'medial') AS medial,
        max(mean) FILTER (WHERE compartment = 'lateral') AS lateral
    FROM biomarkers_long
    WHERE is_default AND biomarker <> 'bone_shape' AND compartment IN ('medial', 'lateral')
    GROUP BY ALL
)
SELECT
    cohort.knee_visit,
    cohort.subject_id,
    cohort.timepoint,
    cohort.split,
    first_timepoints.knee_visit IS NOT NULL AS is_first_timepoint,
    averages.bone,
    averages.biomarker,
    averages.unit,
    cohort.chronic_pain::INTEGER AS chronic_pain,
    cohort.age_years,
    cohort.bmi,
    (cohort.sex = 'F')::INTEGER AS sex_female,
    averages.medial,
    averages.lateral
FROM cohort
JOIN averages USING (knee_visit)
LEFT JOIN first_timepoints USING (knee_visit)
CROSS JOIN association_parameters
WHERE regression_split = 'all' OR cohort.split = regression_split
