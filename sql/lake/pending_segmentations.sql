-- Delivered labels that segmentation has still to check.
-- Work to do is an anti-join: inputs whose fingerprint is not that of the newest attempt. A new or
-- corrected input, another parameter or another code version makes a knee-visit pending; a refused
-- input is not tried again until it changes.
-- grain: one row per pending knee-visit.
-- assumes: $config_hash and $code_version are this step's; $timepoint is one visit, or NULL for all.
WITH wanted AS (
    SELECT *, sha256(concat_ws('|', inputs, $config_hash, $code_version)) AS input_fingerprint
    FROM segmentation_inputs
    WHERE $timepoint::VARCHAR IS NULL OR timepoint = $timepoint
)
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    scheme,
    source,
    label_fingerprint,
    dess_fingerprint,
    input_fingerprint
FROM wanted
ANTI JOIN (FROM ledger WHERE step = 'segmentation') AS tried
    USING (knee_visit, input_fingerprint)
ORDER BY knee_visit
