-- The cohort under every reading of the pain definition the paper's text allows.
-- All combinations of the open choices, with the one in use marked: how much the study depends on
-- what its text does not settle. The paper arrives at 7,437 knee-visits, 2,448 of them chronic.
-- grain: one row per combination of choices.
-- assumes: every other criterion as in `cohort_parameters`; counts are of knee-visits that reach
-- the pain definition.
-- column back_pain_rule: The choice of that name.
-- column knee_below_waist: The choice of that name.
-- column hip_pain_rule: The choice of that name.
-- column widespread_level: The choice of that name.
-- column unanswered_items: The choice of that name.
-- column chronic_pain_min_months [months]: The choice of that name.
-- column is_in_use: The choices of `cohort_parameters`.
-- column n_excluded_widespread [knee-visits]: Labelled, but with widespread pain.
-- column n_excluded_widespread_unknown [knee-visits]: Labelled, but widespread pain cannot be told.
-- column n_included [knee-visits]: The cohort under these choices.
-- column n_chronic_pain [knee-visits]: With chronic pain.
-- column n_no_pain [knee-visits]: Without pain.
-- column chronic_pain_share: n_chronic_pain by n_included (paper 0.329).
-- column share_included: n_included by those that reach the pain definition.
-- column paper_share_included: 7,437 of 21,118.
WITH choices AS (
    SELECT
        back_pain_rule,
        knee_below_waist,
        hip_pain_rule,
        widespread_level,
        unanswered_items,
        min_months
    FROM unnest(['most_of_the_time', 'any']) AS back (back_pain_rule)
    CROSS JOIN unnest(['any', 'other_knee', 'none']) AS knee (knee_below_waist)
    CROSS JOIN unnest(['frequent_12m', 'any_12m', 'none']) AS hip (hip_pain_rule)
    CROSS JOIN unnest(['patient', 'visit']) AS level (widespread_level)
    CROSS JOIN unnest(['no', 'unknown']) AS unanswered (unanswered_items)
    CROSS JOIN (
        SELECT unnest(list_distinct([6, 7, chronic_pain_min_months])) AS min_months
        FROM cohort_parameters
    ) AS months
),
-- The regions do not depend on the level, the unanswered items or the months.
at_visits AS (
    SELECT
        sites.knee_visit,
        sites.subject_id,
        sites.side,
        rules.back_pain_rule,
        rules.knee_below_waist,
        rules.hip_pain_rule,
        sites.above_waist
        AND pain_below_waist(
            rules.hip_pain_rule,
            rules.knee_below_waist,
            sites.hip_frequent,
            sites.hip_any,
            sites.ankle_or_foot,
            sites.index_knee,
            sites.other_knee
        )
        AND pain_axial(
            rules.back_pain_rule, sites.neck, sites.back_most_of_the_time, sites.back_any
        ) AS widespread_at_visit
    FROM pain_sites AS sites
    CROSS JOIN (
        SELECT DISTINCT back_pain_rule, knee_below_waist, hip_pain_rule FROM choices
    ) AS rules
),
at_any_visit AS (
    SELECT
        subject_id,
        side,
        back_pain_rule,
        knee_below_waist,
        hip_pain_rule,
        coalesce(bool_or(widespread_at_visit), false) AS ever_widespread
    FROM at_visits
    GROUP BY ALL
),
reached AS (
    SELECT
        candidates.knee_visit,
        pain.knee_any_pain_12m,
        pain.knee_frequent_pain_12m,
        pain.knee_frequent_pain_months_12m
    FROM cohort_candidates AS candidates
    LEFT JOIN pain_labels AS pain USING (knee_visit)
    WHERE candidates.exclusion IS NULL OR candidates.exclusion = 'pain_definition'
),
-- What can be told of a knee-visit takes few values: count those, then apply the choices.
profiles AS (
    SELECT
        at_visits.back_pain_rule,
        at_visits.knee_below_waist,
        at_visits.hip_pain_rule,
        at_visits.widespread_at_visit,
        at_any_visit.ever_widespread,
        reached.knee_any_pain_12m,
        reached.knee_frequent_pain_12m,
        reached.knee_frequent_pain_months_12m,
        count(*) AS n
    FROM reached
    JOIN at_visits USING (knee_visit)
    JOIN at_any_visit
        USING (subject_id, side, back_pain_rule, knee_below_waist, hip_pain_rule)
    GROUP BY ALL
),
judged AS (
    SELECT
        choices.*,
        profiles.n,
        pain_label_of(
            profiles.knee_any_pain_12m,
            profiles.knee_frequent_pain_12m,
            profiles.knee_frequent_pain_months_12m,
            choices.min_months
        ) AS pain_label,
        CASE choices.unanswered_items
            WHEN 'no' THEN coalesce(profiles.widespread_at_visit, false)
            ELSE profiles.widespread_at_visit
        END
        OR (choices.widespread_level = 'patient' AND profiles.ever_widespread) AS widespread
    FROM choices
    JOIN profiles USING (back_pain_rule, knee_below_waist, hip_pain_rule)
),
counted AS (
    SELECT
        back_pain_rule,
        knee_below_waist,
        hip_pain_rule,
        widespread_level,
        unanswered_items,
        min_months,
        coalesce(sum(n) FILTER (WHERE labelled AND widespread), 0)::BIGINT
            AS n_excluded_widespread,
        coalesce(sum(n) FILTER (WHERE labelled AND widespread IS NULL), 0)::BIGINT
            AS n_excluded_widespread_unknown,
        coalesce(sum(n) FILTER (WHERE labelled AND NOT widespread), 0)::BIGINT AS n_included,
        coalesce(
            sum(n) FILTER (WHERE pain_label = 'chronic_pain' AND NOT widespread), 0
        )::BIGINT AS n_chronic_pain
    FROM (SELECT *, pain_label IN ('chronic_pain', 'no_pain') AS labelled FROM judged) AS labels
    GROUP BY ALL
)
SELECT
    counted.back_pain_rule,
    counted.knee_below_waist,
    counted.hip_pain_rule,
    counted.widespread_level,
    counted.unanswered_items,
    counted.min_months AS chronic_pain_min_months,
    counted.back_pain_rule = parameters.back_pain_rule
    AND counted.knee_below_waist = parameters.knee_below_waist
    AND counted.hip_pain_rule = parameters.hip_pain_rule
    AND counted.widespread_level = parameters.widespread_level
    AND counted.unanswered_items = parameters.unanswered_items
    AND counted.min_months = parameters.chronic_pain_min_months AS is_in_use,
    counted.n_excluded_widespread,
    counted.n_excluded_widespread_unknown,
    counted.n_included,
    counted.n_chronic_pain,
    counted.n_included - counted.n_chronic_pain AS n_no_pain,
    counted.n_chronic_pain / nullif(counted.n_included, 0) AS chronic_pain_share,
    counted.n_included / reached_total.n AS share_included,
    7437 / 21118 AS paper_share_included
FROM counted
CROSS JOIN cohort_parameters AS parameters
CROSS JOIN (SELECT count(*) AS n FROM reached) AS reached_total
ORDER BY
    is_in_use DESC,
    counted.back_pain_rule,
    counted.knee_below_waist,
    counted.hip_pain_rule,
    counted.widespread_level,
    counted.unanswered_items,
    counted.min_months
