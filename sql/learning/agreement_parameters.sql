-- How many of the chronic-pain classifiers have to be right for a knee to count as understood.
-- grain: one row.
-- assumes: the paper takes the intersection of all 18.
-- parameter min_models_correct: the k of "correct by k of 18"; 18 is the paper's intersection.
SELECT
    within(
        'min_models_correct',
        coalesce(getvariable('min_models_correct')::BIGINT, 18),
        1,
        18
    ) AS min_models_correct
