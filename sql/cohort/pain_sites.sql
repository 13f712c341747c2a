-- Which parts of the body hurt at a visit: the ingredients of the widespread-pain rule.
-- true, false, or NULL where the answers given do not tell.
-- grain: one row per knee-visit with an interview; the index knee is the row's.
-- assumes: shoulder, elbow, wrist, hand, neck, ankle, foot and knee: more than half of the past 30
-- days; hip: the past 12 months; back: the past 30 days, how often where there was any.
-- column above_waist: Frequent pain of a shoulder, elbow, wrist or hand, past 30 days.
-- column hip_frequent: Pain of a hip on more than half the days of a month, past 12 months.
-- column hip_any: Any pain of a hip, past 12 months.
-- column ankle_or_foot: Frequent pain of an ankle or foot, past 30 days.
-- column index_knee: Frequent pain of this knee, past 30 days.
-- column other_knee: Frequent pain of the other knee, past 30 days.
-- column neck: Frequent pain of the neck, past 30 days.
-- column back_any: Any pain of the back, past 30 days.
-- column back_most_of_the_time: Pain of the back most or all of the time, past 30 days.
WITH body AS (
    SELECT
        subject_id,
        timepoint,
        shoulder_frequent_pain_30d_right OR shoulder_frequent_pain_30d_left
        OR elbow_frequent_pain_30d_right OR elbow_frequent_pain_30d_left
        OR wrist_frequent_pain_30d_right OR wrist_frequent_pain_30d_left
        OR hand_frequent_pain_30d_right OR hand_frequent_pain_30d_left AS above_waist,
        hip_frequent_pain_12m_right OR hip_frequent_pain_12m_left AS hip_frequent,
        hip_any_pain_12m_right OR hip_any_pain_12m_left AS hip_any,
        ankle_frequent_pain_30d_right OR ankle_frequent_pain_30d_left
        OR foot_frequent_pain_30d_right OR foot_frequent_pain_30d_left AS ankle_or_foot,
        neck_frequent_pain_30d AS neck,
        back_any_pain_30d AS back_any,
        -- How often is asked only where there was any.
        coalesce(back_pain_frequency_30d >= 2, CASE WHEN NOT back_any_pain_30d THEN false END)
            AS back_most_of_the_time
    FROM clinical_visits
)
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    above_waist,
    hip_frequent,
    hip_any,
    ankle_or_foot,
    knee_frequent_pain_30d AS index_knee,
    other_knee_frequent_pain_30d AS other_knee,
    neck,
    back_any,
    back_most_of_the_time
FROM knee_pain
JOIN body USING (subject_id, timepoint)
