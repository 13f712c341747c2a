-- Biomarkers, wide: the mean of every biomarker, one column each, by the published methods.
-- Columns are <bone>_<compartment>_<biomarker>_<unit>; NULL where a knee has no such value.
-- grain: one row per knee-visit.
-- assumes: one default method per bone, compartment and biomarker.
PIVOT (
    SELECT
        knee_visit,
        subject_id,
        side,
        timepoint,
        concat_ws('_', bone, compartment, biomarker, unit) AS name,
        mean
    FROM biomarkers_long
    WHERE is_default
)
ON name IN (
        'femur_whole_bone_shape_mm',
        'femur_whole_cartilage_thickness_mm',
        'femur_whole_t2_superficial_ms',
        'femur_whole_t2_deep_ms',
        'femur_whole_t2_mean_ms',
        'femur_medial_bone_shape_mm',
        'femur_medial_cartilage_thickness_mm',
        'femur_medial_t2_superficial_ms',
        'femur_medial_t2_deep_ms',
        'femur_medial_t2_mean_ms',
        'femur_lateral_bone_shape_mm',
        'femur_lateral_cartilage_thickness_mm',
        'femur_lateral_t2_superficial_ms',
        'femur_lateral_t2_deep_ms',
        'femur_lateral_t2_mean_ms',
        'tibia_whole_bone_shape_mm',
        'tibia_whole_cartilage_thickness_mm',
        'tibia_whole_t2_superficial_ms',
        'tibia_whole_t2_deep_ms',
        'tibia_whole_t2_mean_ms',
        'tibia_medial_bone_shape_mm',
        'tibia_medial_cartilage_thickness_mm',
        'tibia_medial_t2_superficial_ms',
        'tibia_medial_t2_deep_ms',
        'tibia_medial_t2_mean_ms',
        'tibia_lateral_bone_shape_mm',
        'tibia_lateral_cartilage_thickness_mm',
        'tibia_lateral_t2_superficial_ms',
        'tibia_lateral_t2_deep_ms',
        'tibia_lateral_t2_mean_ms',
        'patella_whole_bone_shape_mm',
        'patella_whole_cartilage_thickness_mm',
        'patella_whole_t2_superficial_ms',
        'patella_whole_t2_deep_ms',
        'patella_whole_t2_mean_ms',
        'patella_medial_bone_shape_mm',
        'patella_medial_cartilage_thickness_mm',
        'patella_medial_t2_superficial_ms',
        'patella_medial_t2_deep_ms',
        'patella_medial_t2_mean_ms',
        'patella_lateral_bone_shape_mm',
        'patella_lateral_cartilage_thickness_mm',
        'patella_lateral_t2_superficial_ms',
        'patella_lateral_t2_deep_ms',
        'patella_lateral_t2_mean_ms'
)
USING max(mean)
GROUP BY knee_visit, subject_id, side, timepoint
