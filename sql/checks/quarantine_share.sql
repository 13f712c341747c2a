-- Visits of which more than a twentieth of the delivered knee-visits is refused.
-- A row is a visit whose refusals are too many to be bad luck: a wrong scheme or layout, a download
-- that broke off. The paper lost 0.6 % of its scans to quality control.
-- grain: one row per visit over the limit.
-- assumes: $timepoint is one visit, or NULL for all; a refused file that tells no knee counts as one.
WITH refused AS (
    SELECT timepoint, count(DISTINCT coalesce(knee_visit, file)) AS n_refused
    FROM quarantine
    GROUP BY timepoint
),
delivered AS (
    SELECT timepoint, count(DISTINCT name) AS n_delivered
    FROM (
        SELECT timepoint, knee_visit AS name FROM scans
        UNION ALL
        SELECT timepoint, knee_visit FROM label_files
        UNION ALL
        SELECT timepoint, coalesce(knee_visit, file) FROM quarantine
    ) AS everything
    GROUP BY timepoint
)
SELECT
    timepoint,
    n_refused,
    n_delivered,
    n_refused / n_delivered AS share
FROM refused
JOIN delivered USING (timepoint)
WHERE share > 0.05 AND ($timepoint::VARCHAR IS NULL OR timepoint = $timepoint)
ORDER BY timepoint
