-- Maps that have still to be read at the atlas's points.
-- Work to do is an anti-join: what can be read and is not there with the same inputs and code. A
-- model trained anew costs its own Grad-CAM maps.
-- grain: one row per knee-visit, bone, biomarker and quantity.
-- assumes: $timepoint is one visit, or NULL for all; $code_version is that of this step.
SELECT wanted.*
FROM atlas_map_inputs AS wanted
ANTI JOIN (
    SELECT rows.knee_visit, rows.bone, rows.biomarker, rows.quantity, rows.input_fingerprint
    FROM atlas_maps AS rows
    JOIN batches USING (batch_id)
    WHERE batches.code_version = $code_version
) AS made
    USING (knee_visit, bone, biomarker, quantity, input_fingerprint)
WHERE $timepoint::VARCHAR IS NULL OR wanted.timepoint = $timepoint
ORDER BY bone, knee_visit, biomarker, quantity
