-- Knee-visits that have still to be matched with the atlas.
-- Work to do is an anti-join: knees to compare whose maps, atlas, options and code are not those of
-- the newest attempt. A new visit costs its own knees, another atlas all of them.
-- grain: one row per pending knee-visit.
-- assumes: $config_hash holds the atlas; $timepoint is one visit, or NULL for all; $visits is 'first'
-- (each patient's first visit, as the paper) or 'all'.
WITH wanted AS (
    SELECT
        inputs.*,
        sha256(concat_ws('|', inputs.inputs, $config_hash, $code_version)) AS input_fingerprint
    FROM image_inputs AS inputs
    JOIN cohort USING (knee_visit)
    LEFT JOIN first_timepoints USING (knee_visit)
    WHERE cohort.split = 'test'
        AND ($visits = 'all' OR first_timepoints.knee_visit IS NOT NULL)
        AND ($timepoint::VARCHAR IS NULL OR inputs.timepoint = $timepoint)
)
SELECT knee_visit, subject_id, side, timepoint, input_fingerprint
FROM wanted
ANTI JOIN (FROM ledger WHERE step = 'correspondence') AS tried
    USING (knee_visit, input_fingerprint)
ORDER BY knee_visit
