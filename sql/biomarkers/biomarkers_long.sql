-- Biomarkers, tidy: every value with its method and its unit.
-- grain: one row per knee-visit, bone, compartment, biomarker and method.
-- assumes: nothing beyond `biomarkers`.
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    bone,
    compartment,
    biomarker,
    method,
    is_default,
    mean,
    sd,
    n,
    area_mm2,
    CASE WHEN starts_with(biomarker, 't2_') THEN 'ms' ELSE 'mm' END AS unit
FROM biomarkers
