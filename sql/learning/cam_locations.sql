-- The Grad-CAM maps that count: of the network in use, on the image it predicted last.
-- grain: one row per task, bone, strategy and knee-visit with a map.
-- assumes: maps and predictions of one fingerprint come from one pass.
-- column part: The Zarr part, relative to the lake's root; the strategy is its variable.
-- column row: The map's index in the part.
SELECT
    predictions.task,
    predictions.bone,
    predictions.strategy,
    predictions.knee_visit,
    predictions.split,
    predictions.is_first,
    predictions.is_case,
    predictions.predicted,
    predictions.is_correct,
    predictions.logit_no,
    predictions.logit_yes,
    cams.part,
    cams.row
FROM cam_index AS cams
SEMI JOIN predictions AS made USING (task, bone, strategy, knee_visit, input_fingerprint)
JOIN model_predictions AS predictions
    USING (task, bone, strategy, knee_visit, checkpoint_hash)
