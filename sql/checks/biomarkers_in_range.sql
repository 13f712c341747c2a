-- Biomarkers of a whole bone outside the range that living knees have.
-- A row is a knee to look at: a wrong scheme, a label of something else, a failed T2 series. The
-- limits leave room around published means (OAI cartilage 1.5 to 3.5 mm, T2 30 to 45 ms at 3 T) for
-- advanced disease; what no measurement can give is already refused on write.
-- grain: one row per knee-visit, bone and biomarker out of range, default method.
-- assumes: $timepoint is one visit, or NULL for all; adult knees.
WITH limits AS (
    SELECT *
    FROM (
        VALUES
            ('femur', 'cartilage_thickness', 1.0, 4.0),
            ('tibia', 'cartilage_thickness', 1.0, 4.5),
            ('patella', 'cartilage_thickness', 0.8, 5.5),
            ('femur', 'bone_shape', 22.0, 48.0),
            ('tibia', 'bone_shape', 20.0, 45.0),
            ('patella', 'bone_shape', 8.0, 30.0),
            ('femur', 't2_superficial', 18.0, 100.0),
            ('femur', 't2_deep', 15.0, 80.0),
            ('femur', 't2_mean', 18.0, 90.0),
            ('tibia', 't2_superficial', 18.0, 100.0),
            ('tibia', 't2_deep', 15.0, 80.0),
            ('tibia', 't2_mean', 18.0, 90.0),
            ('patella', 't2_superficial', 18.0, 100.0),
            ('patella', 't2_deep', 15.0, 80.0),
            ('patella', 't2_mean', 18.0, 90.0)
    ) AS listed (bone, biomarker, lowest, highest)
)
SELECT
    biomarkers.knee_visit,
    biomarkers.timepoint,
    biomarkers.bone,
    biomarkers.biomarker,
    biomarkers.mean,
    limits.lowest,
    limits.highest,
    biomarkers.n
FROM biomarkers
JOIN limits USING (bone, biomarker)
WHERE biomarkers.is_default
    AND biomarkers.compartment = 'whole'
    AND biomarkers.mean IS NOT NULL
    AND NOT biomarkers.mean BETWEEN limits.lowest AND limits.highest
    AND ($timepoint::VARCHAR IS NULL OR biomarkers.timepoint = $timepoint)
ORDER BY biomarkers.knee_visit, biomarkers.bone, biomarkers.biomarker
