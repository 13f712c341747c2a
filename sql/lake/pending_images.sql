-- Knee-visits whose maps have still to become 8-bit images.
-- Work to do is an anti-join: maps whose fingerprint is not that of the newest attempt. New or
-- corrected maps, another set of ranges or another code version makes a knee-visit pending.
-- grain: one row per pending knee-visit.
-- assumes: $config_hash holds the set of ranges; $timepoint is one visit, or NULL for all.
WITH wanted AS (
    SELECT *, sha256(concat_ws('|', inputs, $config_hash, $code_version)) AS input_fingerprint
    FROM image_inputs
    WHERE $timepoint::VARCHAR IS NULL OR timepoint = $timepoint
)
SELECT knee_visit, subject_id, side, timepoint, input_fingerprint
FROM wanted
ANTI JOIN (FROM ledger WHERE step = 'images') AS tried
    USING (knee_visit, input_fingerprint)
ORDER BY knee_visit
