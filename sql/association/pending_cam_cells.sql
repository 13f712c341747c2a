-- Grad-CAM maps whose cells are still to be laid out for SQL.
-- Work to do is an anti-join: a current map without cells of the same network, image and code. A new
-- visit costs its own knees, a model trained anew its own maps, a second run nothing.
-- grain: one row per bone, strategy and knee-visit.
-- assumes: $timepoint is one visit; $code_version is that of this step.
SELECT
    located.task,
    located.bone,
    located.strategy,
    located.knee_visit,
    listed.subject_id,
    listed.side,
    listed.timepoint,
    listed.checkpoint_hash,
    listed.input_fingerprint,
    located.part,
    located.row
FROM cam_locations AS located
JOIN cam_index AS listed USING (task, bone, strategy, knee_visit, part, row)
ANTI JOIN (
    SELECT cells.task, cells.bone, cells.strategy, cells.knee_visit, cells.input_fingerprint
    FROM cam_cells AS cells
    JOIN batches USING (batch_id)
    WHERE batches.code_version = $code_version
) AS done
    USING (task, bone, strategy, knee_visit, input_fingerprint)
WHERE located.task = 'chronic_pain' AND listed.timepoint = $timepoint
ORDER BY located.bone, located.strategy, located.knee_visit
