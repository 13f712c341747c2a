-- Tests that find sex, or age and BMI, different between splits (p < 0.05), as in Table 4.
-- A row is a test to look at: with a bad seed choose another from `split_seeds`, before any result
-- has been looked at.
-- grain: one row per model and unit with a significant difference.
-- assumes: knee-visits are not independent, so their tests reject too easily; patients' do not.
SELECT model, unit, sex_p, wilks_p, pillai_p
FROM split_tests
WHERE sex_p < 0.05 OR wilks_p < 0.05
