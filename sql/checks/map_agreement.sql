-- Bones whose mean thickness on the map is off that on the surface by more than a pixel.
-- A row is a bone whose spherical maps must not stand for its surface: the paper accepts maps whose
-- mean thickness deviates by less than the in-plane pixel of DESS, 0.3646 mm (140 mm / 384). Bias is
-- map minus surface, the mean over the knees of a visit, each pixel counted once as in the paper.
-- grain: one row per visit and bone over the limit.
-- assumes: $timepoint is one visit, or NULL for all.
SELECT
    timepoint,
    bone,
    biomarker,
    count(*) AS n,
    avg(map_mean - surface_mean) AS bias_mm,
    stddev_samp(map_mean - surface_mean) AS sd_mm,
    140.0 / 384.0 AS limit_mm
FROM map_agreement
WHERE biomarker = 'cartilage_thickness'
    AND ($timepoint::VARCHAR IS NULL OR timepoint = $timepoint)
GROUP BY timepoint, bone, biomarker
HAVING abs(bias_mm) > limit_mm
ORDER BY timepoint, bone
