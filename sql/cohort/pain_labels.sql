-- Chronic knee pain, as the paper defines it.
-- chronic_pain: pain on more than half the days of a month, for more than 6 of the past 12 months.
-- no_pain: none at all in the past 12 months. intermediate: pain that is neither. unknown: an answer
-- that decides is missing, or two contradict each other.
-- grain: one row per knee-visit with an interview.
-- assumes: KPNR12 is "any", KPR12CV "more than half the days of a month", KPNR12M the months of that.
-- column pain_label: chronic_pain, no_pain, intermediate or unknown.
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    knee_any_pain_12m,
    knee_frequent_pain_12m,
    knee_frequent_pain_months_12m,
    womac_pain,
    pain_label_of(
        knee_any_pain_12m,
        knee_frequent_pain_12m,
        knee_frequent_pain_months_12m,
        chronic_pain_min_months
    ) AS pain_label
FROM knee_pain
CROSS JOIN cohort_parameters
