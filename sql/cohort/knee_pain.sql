-- What was answered about each knee at each visit.
-- grain: one row per knee-visit with an interview.
-- assumes: nothing; one row of `clinical_visits` becomes one per knee.
-- column knee_visit: <subject_id>_<side>_<timepoint>.
-- column side: The knee's side.
-- column knee_any_pain_12m: Any pain, aching or stiffness of this knee, past 12 months.
-- column knee_frequent_pain_12m: Pain of this knee on more than half the days of a month, past 12 months.
-- column knee_frequent_pain_months_12m [months]: Months with such pain, past 12 months.
-- column knee_frequent_pain_30d: Pain of this knee on more than half of the past 30 days.
-- column other_knee_frequent_pain_30d: The same of the other knee.
-- column womac_pain [points]: WOMAC pain score of this knee, 0 to 20.
SELECT
    concat_ws('_', subject_id, 'RIGHT', timepoint) AS knee_visit,
    subject_id,
    'RIGHT' AS side,
    timepoint,
    knee_any_pain_12m_right AS knee_any_pain_12m,
    knee_frequent_pain_12m_right AS knee_frequent_pain_12m,
    knee_frequent_pain_months_12m_right AS knee_frequent_pain_months_12m,
    knee_frequent_pain_30d_right AS knee_frequent_pain_30d,
    knee_frequent_pain_30d_left AS other_knee_frequent_pain_30d,
    womac_pain_right AS womac_pain
FROM clinical_visits
UNION ALL
SELECT
    concat_ws('_', subject_id, 'LEFT', timepoint),
    subject_id,
    'LEFT',
    timepoint,
    knee_any_pain_12m_left,
    knee_frequent_pain_12m_left,
    knee_frequent_pain_months_12m_left,
    knee_frequent_pain_30d_left,
    knee_frequent_pain_30d_right,
    womac_pain_left
FROM clinical_visits
