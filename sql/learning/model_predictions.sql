-- What the classifiers in use say of every knee-visit, beside the truth.
-- Predictions of a network that has been replaced do not count, nor do those of knee-visits that are
-- in the model's cohort no more. Nor do those of a network trained under another split (another seed
-- or other shares): it has seen people who are tested now.
-- grain: one row per task, bone, strategy and knee-visit.
-- assumes: `classifiers` holds the network in use of each task, bone and strategy.
-- column is_case: Osteoarthritis, or chronic pain.
-- column is_correct: Whether what is predicted is so.
-- column is_first: The patient's first visit in the cohort of the task; one such row per patient.
-- column is_last: The patient's last visit in it.
-- column split: training, validation or test.
WITH in_use AS (
    SELECT task, bone, strategy, checkpoint_hash
    FROM classifiers
    CROSS JOIN cohort_parameters
    WHERE
        classifiers.split_rule = split_rule_of(split_seed, training_share, validation_share)
),
cases AS (
    SELECT
        model AS task,
        knee_visit,
        split,
        is_case,
        row_number() OVER (PARTITION BY model, subject_id ORDER BY timepoint, side) = 1 AS is_first,
        row_number() OVER (PARTITION BY model, subject_id ORDER BY timepoint DESC, side DESC) = 1
            AS is_last
    FROM model_cases
)
SELECT
    predictions.task,
    predictions.bone,
    predictions.strategy,
    predictions.knee_visit,
    predictions.subject_id,
    predictions.side,
    predictions.timepoint,
    cases.split,
    cases.is_first,
    cases.is_last,
    cases.is_case,
    predictions.logit_no,
    predictions.logit_yes,
    predictions.probability,
    predictions.predicted,
    predictions.predicted = cases.is_case AS is_correct,
    predictions.checkpoint_hash
FROM predictions
SEMI JOIN in_use USING (task, bone, strategy, checkpoint_hash)
JOIN cases USING (task, knee_visit)
