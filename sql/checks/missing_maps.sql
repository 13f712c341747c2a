-- Bones of an accepted segmentation that have no maps.
-- A row is a bone that a reader of the maps would miss without notice. `why` tells whether maps
-- refused the knee (see quarantine), has not been run on it, or left the bone out.
-- grain: one row per knee-visit and bone without maps.
-- assumes: $timepoint is one visit, or NULL for all; a bone of the label has a tissue volume.
SELECT
    volumes.knee_visit,
    volumes.timepoint,
    volumes.tissue AS bone,
    CASE
        WHEN tried.status = 'quarantined' THEN 'refused'
        WHEN tried.status = 'done' THEN 'left out'
        ELSE 'not run'
    END AS why
FROM tissue_volumes AS volumes
LEFT JOIN ledger AS tried ON tried.knee_visit = volumes.knee_visit AND tried.step = 'maps'
ANTI JOIN maps_index AS mapped
    ON mapped.knee_visit = volumes.knee_visit AND mapped.bone = volumes.tissue
WHERE volumes.tissue IN ('femur', 'tibia', 'patella')
    AND volumes.volume_mm3 > 0
    AND ($timepoint::VARCHAR IS NULL OR volumes.timepoint = $timepoint)
ORDER BY volumes.knee_visit, volumes.tissue
