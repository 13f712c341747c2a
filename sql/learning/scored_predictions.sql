-- All scores that are evaluated: every classifier and every PTF ensemble.
-- grain: one row per task, bone (femur, tibia, patella or ptf), strategy and knee-visit.
-- assumes: as model_predictions and ptf_predictions.
SELECT
    task,
    bone,
    strategy,
    knee_visit,
    subject_id,
    timepoint,
    split,
    is_first,
    is_last,
    is_case,
    probability,
    predicted,
    is_correct
FROM model_predictions
UNION ALL BY NAME
SELECT
    task,
    bone,
    strategy,
    knee_visit,
    subject_id,
    timepoint,
    split,
    is_first,
    is_last,
    is_case,
    probability,
    predicted,
    is_correct
FROM ptf_predictions
