-- Test knees that k of the 18 chronic-pain classifiers get right, at each patient's first visit.
-- The paper's true positives with pain and true negatives without are those that all 18 get right
-- (87 and 184 of 875). A knee without all maps has fewer models, which counts against it.
-- grain: one row per patient of the test split with a prediction at the first visit.
-- assumes: correct means the larger of the two logits is that of the true class.
-- column n_models: Classifiers that predict this knee-visit.
-- column n_correct: Of these right.
-- column agreement: tp_pain or tn_no_pain where min_models_correct models are right, else none.
SELECT
    knee_visit,
    any_value(subject_id) AS subject_id,
    any_value(timepoint) AS timepoint,
    any_value(is_case) AS is_case,
    count(*) AS n_models,
    count(*) FILTER (WHERE is_correct) AS n_correct,
    CASE
        WHEN count(*) FILTER (WHERE is_correct) < any_value(min_models_correct) THEN 'none'
        WHEN any_value(is_case) THEN 'tp_pain'
        ELSE 'tn_no_pain'
    END AS agreement
FROM model_predictions
CROSS JOIN agreement_parameters
WHERE task = 'chronic_pain' AND split = 'test' AND is_first
GROUP BY knee_visit
