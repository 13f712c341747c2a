-- The knee-visits of the two classification models that have images of a bone.
-- What the classifiers are trained, chosen and tested on; the five images of a bone are one row.
-- grain: one row per task, bone and knee-visit.
-- assumes: a knee-visit's images are of its current maps.
-- column task: oa or chronic_pain.
-- column is_case: Osteoarthritis, or chronic pain.
-- column split: training, validation or test; the same for all knee-visits of a participant.
-- column split_rule: Seed and shares of the split.
SELECT
    cases.model AS task,
    images.bone,
    cases.knee_visit,
    cases.subject_id,
    cases.is_case,
    cases.split,
    images.has_t2,
    images.part,
    images.row,
    images.ranges_id,
    split_rule_of(split_seed, training_share, validation_share) AS split_rule
FROM model_cases AS cases
JOIN image_index AS images USING (knee_visit)
CROSS JOIN cohort_parameters
WHERE cases.is_case IS NOT NULL AND cases.split IS NOT NULL
