-- Every choice the cohort depends on, with the paper's reading as default.
-- The one place where they are declared. `SET VARIABLE back_pain_rule = 'any';` in any DuckDB client
-- changes one for every cohort table read afterwards on that connection; from Python
-- `lake.connect({"back_pain_rule": "any"})`. `widespread_pain_variants` counts all readings.
-- grain: one row.
-- assumes: the paper (Methods, Clinical outcome definition and Patient inclusion) wherever it speaks.
-- parameter scan_source: 'listed' (what a release says was scanned) or 'delivered' (images here).
-- parameter segmentation_sd_limit: SDs from the mean volume at which a segmentation is refused.
-- parameter segmentation_reference: mean and SD of the training segmentations; NULL: of all here.
-- parameter unsegmented: 'keep' or 'exclude' knee-visits without a segmentation.
-- parameter msme_required: whether a knee-visit needs an MSME scan as well.
-- parameter kl_reading: 'preferred_first' (15 to V06, 37 at V08 and V10, else any) or 'preferred_only'.
-- parameter oa_min_kl: Kellgren-Lawrence grade from which a knee has osteoarthritis.
-- parameter chronic_pain_min_months: the paper's "more than 6 months" is 7; 6 reads it as "at least".
-- parameter back_pain_rule: 'most_of_the_time' or 'any', for "more than half of the days".
-- parameter knee_below_waist: knees that count as below-waist joints: 'any', 'other_knee', 'none'.
-- parameter hip_pain_rule: 'frequent_12m', 'any_12m' or 'none', since no hip item asks of 30 days.
-- parameter widespread_level: 'patient' (excluded at all visits; "we excluded patients") or 'visit'.
-- parameter unanswered_items: 'no' (nothing reported) or 'unknown' (undecided visits are excluded).
-- parameter split_seed: of the hash that assigns patients to splits.
-- parameter training_share: the paper's 4029 of 7437 knee-visits.
-- parameter validation_share: the paper's 1257 of 7437; the rest is the test split.
SELECT
    one_of(
        'scan_source',
        coalesce(getvariable('scan_source')::VARCHAR, 'listed'),
        ['listed', 'delivered']
    ) AS scan_source,
    within(
        'segmentation_sd_limit',
        coalesce(getvariable('segmentation_sd_limit')::DOUBLE, 3),
        0.1::DOUBLE,
        100::DOUBLE
    ) AS segmentation_sd_limit,
    getvariable('segmentation_reference')
    ::STRUCT(tissue VARCHAR, mean_mm3 DOUBLE, sd_mm3 DOUBLE)[] AS segmentation_reference,
    one_of(
        'unsegmented',
        coalesce(getvariable('unsegmented')::VARCHAR, 'keep'),
        ['keep', 'exclude']
    ) AS unsegmented,
    coalesce(getvariable('msme_required')::BOOLEAN, true) AS msme_required,
    one_of(
        'kl_reading',
        coalesce(getvariable('kl_reading')::VARCHAR, 'preferred_first'),
        ['preferred_first', 'preferred_only']
    ) AS kl_reading,
    within('oa_min_kl', coalesce(getvariable('oa_min_kl')::BIGINT, 2), 1, 4) AS oa_min_kl,
    within(
        'chronic_pain_min_months',
        coalesce(getvariable('chronic_pain_min_months')::BIGINT, 7),
        1,
        12
    ) AS chronic_pain_min_months,
    one_of(
        'back_pain_rule',
        coalesce(getvariable('back_pain_rule')::VARCHAR, 'most_of_the_time'),
        ['most_of_the_time', 'any']
    ) AS back_pain_rule,
    one_of(
        'knee_below_waist',
        coalesce(getvariable('knee_below_waist')::VARCHAR, 'any'),
        ['any', 'other_knee', 'none']
    ) AS knee_below_waist,
    one_of(
        'hip_pain_rule',
        coalesce(getvariable('hip_pain_rule')::VARCHAR, 'frequent_12m'),
        ['frequent_12m', 'any_12m', 'none']
    ) AS hip_pain_rule,
    one_of(
        'widespread_level',
        coalesce(getvariable('widespread_level')::VARCHAR, 'patient'),
        ['patient', 'visit']
    ) AS widespread_level,
    one_of(
        'unanswered_items',
        coalesce(getvariable('unanswered_items')::VARCHAR, 'no'),
        ['no', 'unknown']
    ) AS unanswered_items,
    coalesce(getvariable('split_seed')::BIGINT, 42) AS split_seed,
    within(
        'training_share',
        coalesce(getvariable('training_share')::DOUBLE, 4029 / 7437),
        0::DOUBLE,
        1::DOUBLE
    ) AS training_share,
    within(
        'validation_share',
        coalesce(getvariable('validation_share')::DOUBLE, 1257 / 7437),
        0::DOUBLE,
        1::DOUBLE
    ) AS validation_share
