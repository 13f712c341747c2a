-- Training, validation or test: every patient in exactly one.
-- A patient's split is where the MD5 of the seed and the patient's number falls. It depends on
-- nothing else, so new visits, new patients or another order of delivery never move anyone.
-- grain: one row per patient.
-- assumes: patients are alike on average; `split_tests` tests it. The paper's shares are of
-- knee-visits and hold for patients, since the number of visits does not depend on the hash.
-- column uniform: Where the hash of seed and patient falls, 0 to 1.
-- column split: training, validation or test.
SELECT
    subject_id,
    seeded_uniform(split_seed, subject_id) AS uniform,
    split_of(split_seed, subject_id, training_share, validation_share) AS split
FROM (
    SELECT subject_id FROM enrollees
    UNION
    SELECT subject_id FROM scans_listed
    UNION
    SELECT subject_id FROM scans
) AS patients
CROSS JOIN cohort_parameters
