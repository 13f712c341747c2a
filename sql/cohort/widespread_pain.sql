-- Widespread pain: above the waist, below the waist and axial at the same visit.
-- `widespread` is what excludes: at the visit, or (the paper's "we excluded patients") at any visit
-- of the patient. NULL, with unanswered_items = 'unknown', where the answers do not decide.
-- grain: one row per knee-visit with an interview.
-- assumes: the five choices on it in `cohort_parameters`; see `widespread_pain_variants`.
-- column above_waist: Frequent pain of a shoulder, elbow, wrist or hand, past 30 days.
-- column below_waist: Pain of a hip, knee, ankle or foot, by the choices in use.
-- column axial: Pain of neck or back, by the choice in use.
-- column widespread_at_visit: All three at this visit.
-- column widespread: Whether widespread pain excludes this knee-visit.
WITH regions AS (
    SELECT
        knee_visit,
        subject_id,
        side,
        timepoint,
        above_waist,
        pain_below_waist(
            hip_pain_rule,
            knee_below_waist,
            hip_frequent,
            hip_any,
            ankle_or_foot,
            index_knee,
            other_knee
        ) AS below_waist,
        pain_axial(back_pain_rule, neck, back_most_of_the_time, back_any) AS axial,
        widespread_level,
        unanswered_items
    FROM pain_sites
    CROSS JOIN cohort_parameters
),
visits AS (
    SELECT
        * EXCLUDE (unanswered_items),
        CASE unanswered_items
            WHEN 'no' THEN coalesce(above_waist AND below_waist AND axial, false)
            ELSE above_waist AND below_waist AND axial
        END AS widespread_at_visit
    FROM regions
)
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    above_waist,
    below_waist,
    axial,
    widespread_at_visit,
    CASE widespread_level
        WHEN 'patient'
            THEN widespread_at_visit
                OR coalesce(bool_or(widespread_at_visit) OVER (PARTITION BY subject_id, side), false)
        ELSE widespread_at_visit
    END AS widespread
FROM visits
