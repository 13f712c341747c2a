-- Who the knees are that the chronic-pain classifiers get right, beside all knees judged.
-- The paper: 87 true positives with pain (age 63.8 +- 8.3, BMI 31.0 +- 5.1, 33 men, 54 women) and
-- 184 true negatives without (60.1 +- 9.6, 25.9 +- 4.2, 77 men, 107 women), of 875.
-- grain: one row per group: tp_pain, tn_no_pain, none, and all.
-- assumes: as model_agreement, one knee per patient; the SD is that of a sample.
-- column agreement: tp_pain, tn_no_pain, none (fewer models right), or all of them.
-- column n [patients]: Patients of the group, each with the first visit.
-- column n_cases [patients]: Of these with chronic pain.
-- column age_mean [years]: Mean age at the visit.
-- column age_sd [years]: Its standard deviation.
-- column bmi_mean [kg/m2]: Mean body-mass index.
-- column bmi_sd [kg/m2]: Its standard deviation.
-- column n_male [patients]: Men.
-- column n_female [patients]: Women.
-- column race: Race as reported: patients of each, most first.
WITH knees AS (
    SELECT
        unnest(['all', agreement.agreement]) AS agreement,
        agreement.is_case,
        cases.age_years,
        cases.bmi,
        cases.sex,
        coalesce(enrollees.race, 'not reported') AS race
    FROM model_agreement AS agreement
    JOIN model_cases AS cases USING (knee_visit)
    LEFT JOIN enrollees ON enrollees.subject_id = agreement.subject_id
    WHERE cases.model = 'chronic_pain'
),
races AS (
    SELECT agreement, string_agg(race || ' ' || n, ', ' ORDER BY n DESC, race) AS race
    FROM (SELECT agreement, race, count(*) AS n FROM knees GROUP BY agreement, race)
    GROUP BY agreement
)
SELECT
    knees.agreement,
    count(*) AS n,
    count(*) FILTER (WHERE is_case) AS n_cases,
    avg(age_years) AS age_mean,
    stddev_samp(age_years) AS age_sd,
    avg(bmi) AS bmi_mean,
    stddev_samp(bmi) AS bmi_sd,
    count(*) FILTER (WHERE sex = 'M') AS n_male,
    count(*) FILTER (WHERE sex = 'F') AS n_female,
    any_value(races.race) AS race
FROM knees
LEFT JOIN races USING (agreement)
GROUP BY knees.agreement
