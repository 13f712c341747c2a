-- Radiographic osteoarthritis: Kellgren-Lawrence grade 2 or more.
-- Two projects may have read one radiograph; the reading in use is project 15 up to V06 and 37 at
-- V08 and V10. Narrowing is that of the same reading; joint space width has its own and is taken
-- from the preferred project that measured it.
-- grain: one row per knee-visit with a grade.
-- assumes: project 42 is stored as 37; a grade is missing where no project gave one.
-- column osteoarthritis: Kellgren-Lawrence grade of oa_min_kl (2) or more.
-- column jsw_medial_min_mm [mm]: Minimum medial joint space width.
WITH readings AS (
    SELECT
        radiographs.*,
        CASE
            WHEN timepoint IN ('V08', 'V10') THEN reading_project <> 37
            ELSE reading_project <> 15
        END AS is_second_choice,
        kl_reading,
        oa_min_kl
    FROM radiographs
    CROSS JOIN cohort_parameters
),
widths AS (
    SELECT
        knee_visit,
        first(jsw_medial_min_mm ORDER BY is_second_choice, reading_project) AS jsw_medial_min_mm
    FROM readings
    WHERE jsw_medial_min_mm IS NOT NULL
    GROUP BY knee_visit
),
grades AS (
    SELECT *
    FROM readings
    WHERE kl_grade IS NOT NULL AND (kl_reading = 'preferred_first' OR NOT is_second_choice)
    QUALIFY
        row_number() OVER (PARTITION BY knee_visit ORDER BY is_second_choice, reading_project) = 1
)
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    reading_project,
    kl_grade,
    kl_grade >= oa_min_kl AS osteoarthritis,
    jsn_medial,
    jsn_lateral,
    widths.jsw_medial_min_mm
FROM grades
LEFT JOIN widths USING (knee_visit)
