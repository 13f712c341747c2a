-- Table 4: training, validation and test splits of the classification models.
-- A row per split and one for all of them, which also holds the timepoint distribution and the
-- tests of independence on knee-visits (the paper's unit; by patient in `split_tests`).
-- grain: one row per model and split, or 'all'.
-- assumes: means are over knee-visits; the SD is that of a sample; "cases" are knees with the label.
-- column model: oa or chronic_pain.
-- column split: training, validation, test or all.
-- column n_knee_visits [knee-visits]: Images of the split.
-- column share: Of all the model's knee-visits.
-- column n_cases [knee-visits]: With the label.
-- column case_share: n_cases by n_knee_visits.
-- column n_patients [patients]: Patients of the split.
-- column timepoints_per_patient [visits]: Mean number of visits.
-- column age_mean [years]: Mean age at the visit.
-- column age_sd [years]: Its standard deviation.
-- column bmi_mean [kg/m2]: Mean body-mass index.
-- column bmi_sd [kg/m2]: Its standard deviation.
-- column kl_mean [grade]: Mean Kellgren-Lawrence grade.
-- column kl_sd [grade]: Its standard deviation.
-- column womac_pain_mean [points]: Mean WOMAC pain score.
-- column womac_pain_sd [points]: Its standard deviation.
-- column n_male [knee-visits]: Of men.
-- column n_female [knee-visits]: Of women.
-- column timepoint_distribution: Visits:patients, for all splits together.
-- column sex_p: Chi-square test of sex by split.
-- column age_bmi_wilks_p: MANOVA of age and BMI by split, Wilks' lambda.
-- column age_bmi_pillai_p: The same, Pillai's trace.
WITH cases AS (
    SELECT *, unnest(['all', split]) AS part
    FROM model_cases
),
distributions AS (
    SELECT
        model,
        string_agg(n_timepoints || ':' || n_patients, ' ' ORDER BY n_timepoints)
            AS timepoint_distribution
    FROM timepoint_distribution
    GROUP BY model
)
SELECT
    cases.model,
    cases.part AS split,
    count(*) AS n_knee_visits,
    count(*) / sum(count(*)) FILTER (WHERE cases.part <> 'all') OVER (PARTITION BY cases.model)
        AS share,
    count(*) FILTER (WHERE is_case) AS n_cases,
    avg(is_case::INTEGER) AS case_share,
    count(DISTINCT subject_id) AS n_patients,
    count(*) / count(DISTINCT subject_id) AS timepoints_per_patient,
    avg(age_years) AS age_mean,
    stddev_samp(age_years) AS age_sd,
    avg(bmi) AS bmi_mean,
    stddev_samp(bmi) AS bmi_sd,
    avg(kl_grade) AS kl_mean,
    stddev_samp(kl_grade) AS kl_sd,
    avg(womac_pain) AS womac_pain_mean,
    stddev_samp(womac_pain) AS womac_pain_sd,
    count(*) FILTER (WHERE sex = 'M') AS n_male,
    count(*) FILTER (WHERE sex = 'F') AS n_female,
    any_value(distributions.timepoint_distribution) AS timepoint_distribution,
    any_value(tests.sex_p) AS sex_p,
    any_value(tests.wilks_p) AS age_bmi_wilks_p,
    any_value(tests.pillai_p) AS age_bmi_pillai_p
FROM cases
LEFT JOIN distributions ON distributions.model = cases.model AND cases.part = 'all'
LEFT JOIN split_tests AS tests
    ON tests.model = cases.model AND tests.unit = 'knee_visit' AND cases.part = 'all'
GROUP BY cases.model, cases.part
ORDER BY
    cases.model DESC,
    list_position(['training', 'validation', 'test', 'all'], cases.part)
