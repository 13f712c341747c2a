-- Which batch's results count for each knee-visit and step.
-- The newest batch that tried a knee-visit counts. Where it refused the input nothing counts, so a
-- corrected input that is now refused leaves no stale number; and maps of a label that has since
-- been refused do not count either.
-- grain: one row per knee-visit and step that has results.
-- assumes: `ledger` holds the newest row per knee-visit and step.
SELECT result.knee_visit, result.step, result.batch_id
FROM ledger AS result
LEFT JOIN ledger AS segmentation
    ON segmentation.knee_visit = result.knee_visit AND segmentation.step = 'segmentation'
WHERE result.status = 'done'
    AND (result.step <> 'maps' OR segmentation.status IS DISTINCT FROM 'quarantined')
