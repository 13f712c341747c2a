-- Visits whose maps were computed with more than one configuration or code version.
-- A row is one of the mixture: numbers of one visit that were not measured the same way. Materialise
-- the visit again with the configuration that is to count.
-- grain: one row per visit and configuration, where a visit has several.
-- assumes: $timepoint is one visit, or NULL for all.
SELECT
    maps_index.timepoint,
    batches.config_hash,
    batches.code_version,
    count(DISTINCT maps_index.knee_visit) AS n_knee_visit
FROM maps_index
JOIN batches USING (batch_id)
-- Maps drawn without images say how they were made in `drawn_knees`.
ANTI JOIN drawn_knees USING (knee_visit)
WHERE $timepoint::VARCHAR IS NULL OR maps_index.timepoint = $timepoint
GROUP BY maps_index.timepoint, batches.config_hash, batches.code_version
QUALIFY count(*) OVER (PARTITION BY maps_index.timepoint) > 1
ORDER BY maps_index.timepoint, n_knee_visit DESC
