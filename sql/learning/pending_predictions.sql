-- Classifiers' predictions and Grad-CAM maps still to compute.
-- Work to do is an anti-join: a model on an image that has no row of the same fingerprint. A new
-- visit, another image, another network, way to compute or code version makes it pending, and only it.
-- An image scaled by other ranges than its model was trained with is not of that model's world: it
-- waits until images or model are made again; so does a model trained under another split.
-- grain: one row per task, bone, strategy and knee-visit with something to compute.
-- assumes: $timepoint is one visit, or NULL for all; $cam_splits lists the splits whose Grad-CAM
-- maps are kept; $computed_as and $code_version are those of this step.
-- column needs_prediction: Whether there is no prediction of this fingerprint.
-- column needs_cam: Whether a Grad-CAM is wanted and there is none of this fingerprint.
WITH wanted AS (
    SELECT
        images.knee_visit,
        located.subject_id,
        located.side,
        located.timepoint,
        classifiers.task,
        classifiers.bone,
        classifiers.strategy,
        classifiers.checkpoint_hash,
        classifiers.path,
        list_contains($cam_splits::VARCHAR[], images.split) AS wants_cam,
        sha256(
            concat_ws(
                '|',
                classifiers.checkpoint_hash,
                images.part,
                images.row,
                $computed_as::VARCHAR,
                $code_version::VARCHAR
            )
        ) AS input_fingerprint
    FROM classifiers
    JOIN model_images AS images USING (task, bone, ranges_id, split_rule)
    -- Not `model_cases` once more: the cohort is worked out once.
    JOIN image_index AS located USING (knee_visit, bone)
    WHERE ($timepoint::VARCHAR IS NULL OR located.timepoint = $timepoint)
        AND (images.has_t2 OR classifiers.strategy IN ('thickness', 'bone_shape', 'bone_thickness'))
)
SELECT
    wanted.* EXCLUDE (wants_cam),
    predicted.knee_visit IS NULL AS needs_prediction,
    wants_cam AND explained.knee_visit IS NULL AS needs_cam
FROM wanted
LEFT JOIN predictions AS predicted
    USING (task, bone, strategy, knee_visit, input_fingerprint)
LEFT JOIN cam_index AS explained
    USING (task, bone, strategy, knee_visit, input_fingerprint)
WHERE needs_prediction OR needs_cam
ORDER BY task, bone, strategy, knee_visit
