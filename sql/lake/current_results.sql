-- Which batch's results count for each knee-visit and step.
-- The newest batch that tried a knee-visit counts. Where it refused the input nothing counts, so a
-- corrected input that is now refused leaves no stale number; nor do maps of a label, or images and
-- correspondences of maps, that have since been refused.
-- grain: one row per knee-visit and step that has results.
-- assumes: `ledger` holds the newest row per knee-visit and step.
SELECT result.knee_visit, result.step, result.batch_id
FROM ledger AS result
LEFT JOIN ledger AS segmentation
    ON segmentation.knee_visit = result.knee_visit AND segmentation.step = 'segmentation'
LEFT JOIN ledger AS maps ON maps.knee_visit = result.knee_visit AND maps.step = 'maps'
WHERE result.status = 'done'
    AND (
        result.step NOT IN ('maps', 'images', 'correspondence')
        OR segmentation.status IS DISTINCT FROM 'quarantined'
    )
    AND (
        result.step NOT IN ('images', 'correspondence')
        OR maps.status IS DISTINCT FROM 'quarantined'
    )
