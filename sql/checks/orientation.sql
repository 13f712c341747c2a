-- Knees that do not lie as a right knee does in the right-knee frame.
-- A row is a knee whose axes are permuted or flipped, or that was mirrored when it is a right knee
-- or not mirrored when it is a left one: its medial and lateral values cannot be believed.
-- grain: one row per knee-visit and violated rule.
-- assumes: $timepoint is one visit, or NULL for all; y runs to posterior and z to superior (LPS).
WITH centres AS (
    SELECT
        knee_visit,
        timepoint,
        max(centroid_y_mm) FILTER (WHERE bone = 'femur') AS femur_y_mm,
        max(centroid_z_mm) FILTER (WHERE bone = 'femur') AS femur_z_mm,
        max(centroid_z_mm) FILTER (WHERE bone = 'tibia') AS tibia_z_mm,
        max(centroid_y_mm) FILTER (WHERE bone = 'patella') AS patella_y_mm
    FROM maps_index
    GROUP BY knee_visit, timepoint
),
violations AS (
    SELECT knee_visit, timepoint, 'the tibia lies above the femur' AS rule
    FROM centres
    WHERE tibia_z_mm >= femur_z_mm
    UNION ALL
    SELECT knee_visit, timepoint, 'the patella lies behind the femur'
    FROM centres
    WHERE patella_y_mm >= femur_y_mm
    UNION ALL
    SELECT DISTINCT knee_visit, timepoint, 'maps mirrored against their side'
    FROM maps_index
    WHERE mirrored <> (side = 'LEFT')
    UNION ALL
    SELECT knee_visit, timepoint, 'segmentation mirrored against its side'
    FROM segmentations
    WHERE mirrored <> (side = 'LEFT')
)
SELECT knee_visit, timepoint, rule
FROM violations
WHERE $timepoint::VARCHAR IS NULL OR timepoint = $timepoint
ORDER BY knee_visit, rule
