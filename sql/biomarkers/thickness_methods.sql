-- Cartilage thickness by the three methods side by side, mm.
-- skeleton is the paper's: distance to the skeleton, doubled, per sagittal slice.
-- skeleton_subvoxel corrects its bias; normal measures from surface to surface.
-- grain: one row per knee-visit, bone and compartment.
-- assumes: the methods are named skeleton, skeleton_subvoxel and normal.
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    bone,
    compartment,
    max(mean) FILTER (WHERE method = 'skeleton') AS skeleton_mm,
    max(mean) FILTER (WHERE method = 'skeleton_subvoxel') AS skeleton_subvoxel_mm,
    max(mean) FILTER (WHERE method = 'normal') AS normal_mm,
    skeleton_mm - normal_mm AS skeleton_minus_normal_mm,
    skeleton_subvoxel_mm - normal_mm AS skeleton_subvoxel_minus_normal_mm
FROM biomarkers
WHERE biomarker = 'cartilage_thickness'
GROUP BY ALL
