-- Labels and splits, by the choices the paper's text leaves open.
-- Each item is true, false or NULL (unanswered); AND and OR then say NULL where the answers given do
-- not decide.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: the choices are those of `cohort_parameters`.

-- Hip, knee, ankle or foot. No 30-day item asks about the hip: its 12-month item stands in.
CREATE OR REPLACE MACRO pain_below_waist(
    hip_pain_rule, knee_below_waist, hip_frequent, hip_any, ankle_or_foot, index_knee, other_knee
) AS
    ankle_or_foot
    OR CASE hip_pain_rule
        WHEN 'frequent_12m' THEN hip_frequent
        WHEN 'any_12m' THEN hip_any
        ELSE false
    END
    OR CASE knee_below_waist
        WHEN 'any' THEN index_knee OR other_knee
        WHEN 'other_knee' THEN other_knee
        ELSE false
    END;

-- Neck or back. No item asks whether the back hurt on more than half the days: "most of the time"
-- stands in, or any back pain.
CREATE OR REPLACE MACRO pain_axial(back_pain_rule, neck, back_most_of_the_time, back_any) AS
    neck
    OR CASE back_pain_rule WHEN 'most_of_the_time' THEN back_most_of_the_time ELSE back_any END;

-- Chronic pain, no pain, or neither, from the three answers on one knee.
CREATE OR REPLACE MACRO pain_label_of(any_pain, frequent_pain, frequent_months, min_months) AS
    CASE
        WHEN any_pain AND frequent_pain AND frequent_months >= min_months THEN 'chronic_pain'
        WHEN NOT any_pain AND frequent_pain IS NOT TRUE THEN 'no_pain'
        WHEN any_pain AND (NOT frequent_pain OR frequent_months < min_months)
            THEN 'intermediate'
        ELSE 'unknown'
    END;

-- Training, validation or test: where a person's number lies, whoever else is in the study.
CREATE OR REPLACE MACRO split_of(seed, subject_id, training_share, validation_share) AS
    CASE
        WHEN seeded_uniform(seed, subject_id) < training_share THEN 'training'
        WHEN seeded_uniform(seed, subject_id) < training_share + validation_share
            THEN 'validation'
        ELSE 'test'
    END;

-- What a split depends on, as one text: two of the same text have the same people.
CREATE OR REPLACE MACRO split_rule_of(seed, training_share, validation_share) AS
    concat_ws('|', seed::BIGINT, training_share::DOUBLE, validation_share::DOUBLE);
