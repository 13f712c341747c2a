-- Test knees ranked as the reference knee, whose bones become the atlas: nearest to average first.
-- The paper: "the vertices of a reference bone surface, selected to match the average demographic
-- distribution of the test set". Distance is that of age, BMI and sex (woman 1, man 0) from the test
-- split's means, each in its standard deviations.
-- grain: one row per patient of the chronic-pain test split with maps of all bones, at the first visit.
-- assumes: one row per patient, so that nobody counts twice in the averages; ties go by name.
-- column distance [SD]: Root of the summed squares of the three standardised differences.
-- column reference_rank: 1 is the reference knee, unless an atlas was made already.
-- column mean_age_years [years]: Of the test split.
-- column mean_bmi [kg/m2]: Of the test split.
-- column share_female [1]: Of the test split.
WITH everyone AS (
    SELECT knee_visit, subject_id, side, timepoint, age_years, bmi, sex
    FROM first_timepoints
    WHERE split = 'test'
),
average AS (
    SELECT
        avg(age_years) AS mean_age_years,
        stddev_samp(age_years) AS sd_age_years,
        avg(bmi) AS mean_bmi,
        stddev_samp(bmi) AS sd_bmi,
        avg((sex = 'F')::INTEGER) AS share_female,
        stddev_samp((sex = 'F')::INTEGER) AS sd_female
    FROM everyone
),
mapped AS (
    SELECT knee_visit FROM maps_index GROUP BY knee_visit HAVING count(DISTINCT bone) = 3
)
SELECT
    everyone.*,
    mean_age_years,
    mean_bmi,
    share_female,
    -- Where all are alike in something, it says nothing of who is nearest.
    sqrt(
        coalesce(((age_years - mean_age_years) / nullif(sd_age_years, 0)) ^ 2, 0)
        + coalesce(((bmi - mean_bmi) / nullif(sd_bmi, 0)) ^ 2, 0)
        + coalesce((((sex = 'F')::INTEGER - share_female) / nullif(sd_female, 0)) ^ 2, 0)
    ) AS distance,
    row_number() OVER (ORDER BY distance, knee_visit) AS reference_rank
FROM everyone
SEMI JOIN mapped USING (knee_visit)
CROSS JOIN average
WHERE age_years IS NOT NULL AND bmi IS NOT NULL AND sex IS NOT NULL
