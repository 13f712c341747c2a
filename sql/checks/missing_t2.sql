-- Bones with cartilage that have no T2 although the knee's MSME scan landed.
-- A row is a T2 series that is lost without a refusal: it does not overlap the label in patient
-- space, or no voxel of it could be fitted. Look at t2_quality, and at whether the two are of one
-- visit.
-- grain: one row per knee-visit and bone without T2.
-- assumes: $timepoint is one visit, or NULL for all; maps are not pending.
SELECT
    maps_index.knee_visit,
    maps_index.timepoint,
    maps_index.bone,
    quality.n_voxel,
    quality.fraction_unfitted,
    quality.fraction_at_bound
FROM maps_index
SEMI JOIN (FROM scans WHERE sequence = 'MSME') AS delivered
    ON delivered.knee_visit = maps_index.knee_visit
LEFT JOIN t2_quality AS quality
    ON quality.knee_visit = maps_index.knee_visit AND quality.bone = maps_index.bone
WHERE NOT maps_index.has_t2
    AND maps_index.covered_share > 0
    AND ($timepoint::VARCHAR IS NULL OR maps_index.timepoint = $timepoint)
ORDER BY maps_index.knee_visit, maps_index.bone
