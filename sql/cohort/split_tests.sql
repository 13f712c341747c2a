-- Are sex, age and BMI independent of the split? (Table 4.)
-- Pearson's chi-square of sex by split, and one-way MANOVA of (age, BMI) by split with Wilks' lambda
-- and Pillai's trace. The paper's unit is the knee-visit, whose rows are not independent within a
-- patient; the same tests on each patient's first timepoint stand beside them.
-- grain: one row per model and unit.
-- assumes: rows without sex (chi-square), age or BMI (MANOVA) are left out and not counted in n.
-- column model: oa or chronic_pain.
-- column unit: What a row of the test is: knee_visit (the paper) or first_timepoint (one per patient).
-- column sex_n: Rows of the chi-square test.
-- column sex_chi_square: Pearson's chi-square of sex by split, uncorrected.
-- column sex_df: Its degrees of freedom.
-- column sex_p: Its p-value.
-- column age_bmi_n: Rows of the MANOVA.
-- column wilks_lambda: Wilks' lambda of (age, BMI) by split.
-- column wilks_f: Its F.
-- column wilks_df1: Degrees of freedom above.
-- column wilks_df2: Degrees of freedom below.
-- column wilks_p: Its p-value.
-- column pillai_trace: Pillai's trace of (age, BMI) by split.
-- column pillai_f: Its F.
-- column pillai_df1: Degrees of freedom above.
-- column pillai_df2: Degrees of freedom below.
-- column pillai_p: Its p-value.
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY model, subject_id ORDER BY timepoint, side) AS visit_number
    FROM model_cases
),
rows_by_unit AS (
    SELECT model, units.unit, split, sex, age_years::DOUBLE AS age, bmi
    FROM numbered
    JOIN (VALUES ('knee_visit'), ('first_timepoint')) AS units (unit)
        ON units.unit = 'knee_visit' OR numbered.visit_number = 1
),
counted AS (
    SELECT model, unit, split, sex, count(*) AS n
    FROM rows_by_unit
    WHERE sex IS NOT NULL
    GROUP BY model, unit, split, sex
),
-- Every split with every sex: a combination nobody has still has an expected number.
crossed AS (
    SELECT
        splits_of_unit.model,
        splits_of_unit.unit,
        splits_of_unit.split,
        sexes.sex,
        coalesce(counted.n, 0) AS n
    FROM (SELECT DISTINCT model, unit, split FROM counted) AS splits_of_unit
    JOIN (SELECT DISTINCT model, unit, sex FROM counted) AS sexes USING (model, unit)
    LEFT JOIN counted USING (model, unit, split, sex)
),
expected AS (
    SELECT
        *,
        sum(n) OVER (PARTITION BY model, unit, split)
        * sum(n) OVER (PARTITION BY model, unit, sex)
        / sum(n) OVER (PARTITION BY model, unit) AS n_expected
    FROM crossed
),
chi_square AS (
    SELECT
        model,
        unit,
        sum(n)::BIGINT AS sex_n,
        sum((n - n_expected) ^ 2 / n_expected) AS sex_chi_square,
        (count(DISTINCT split) - 1) * (count(DISTINCT sex) - 1) AS sex_df
    FROM expected
    GROUP BY model, unit
),
complete AS (
    FROM rows_by_unit
    WHERE isfinite(age) AND isfinite(bmi)
),
-- Moments about the mean of all, which keeps their digits.
centred AS (
    SELECT
        *,
        age - avg(age) OVER (PARTITION BY model, unit) AS x,
        bmi - avg(bmi) OVER (PARTITION BY model, unit) AS y
    FROM complete
),
groups AS (
    SELECT
        model,
        unit,
        split,
        count(*) AS n,
        avg(x) AS mean_x,
        avg(y) AS mean_y,
        count(*) * var_pop(x) AS within_xx,
        count(*) * covar_pop(x, y) AS within_xy,
        count(*) * var_pop(y) AS within_yy
    FROM centred
    GROUP BY model, unit, split
),
squares AS (
    SELECT
        model,
        unit,
        sum(n)::BIGINT AS n,
        count(*) AS k,
        sum(within_xx) AS e11,
        sum(within_xy) AS e12,
        sum(within_yy) AS e22,
        sum(n * mean_x * mean_x) AS h11,
        sum(n * mean_x * mean_y) AS h12,
        sum(n * mean_y * mean_y) AS h22
    FROM groups
    GROUP BY model, unit
    -- With fewer rows, or one split only, there is nothing to test.
    HAVING k > 1 AND sum(n) > k + 2
),
statistics AS (
    SELECT
        *,
        one_minus_wilks(e11, e12, e22, h11, h12, h22) AS less_wilks,
        pillai_trace(e11, e12, e22, h11, h12, h22) AS pillai
    FROM squares
),
manova AS (
    SELECT
        *,
        wilks_f(less_wilks, n, k) AS wilks_f_value,
        pillai_f(pillai, n, k) AS pillai_f_value,
        2 * (k - 1) AS df1
    FROM statistics
)
SELECT
    model,
    unit,
    chi_square.sex_n,
    chi_square.sex_chi_square,
    chi_square.sex_df,
    chi_square_upper_tail(chi_square.sex_chi_square, chi_square.sex_df) AS sex_p,
    manova.n AS age_bmi_n,
    1 - manova.less_wilks AS wilks_lambda,
    manova.wilks_f_value AS wilks_f,
    manova.df1 AS wilks_df1,
    wilks_df2(manova.n, manova.k) AS wilks_df2,
    f_upper_tail(manova.wilks_f_value, manova.df1, wilks_df2(manova.n, manova.k)) AS wilks_p,
    manova.pillai AS pillai_trace,
    manova.pillai_f_value AS pillai_f,
    manova.df1 AS pillai_df1,
    pillai_df2(manova.n, manova.k) AS pillai_df2,
    f_upper_tail(manova.pillai_f_value, manova.df1, pillai_df2(manova.n, manova.k)) AS pillai_p
FROM chi_square
LEFT JOIN manova USING (model, unit)
ORDER BY model DESC, unit DESC
