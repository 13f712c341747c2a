-- What segmentation reads of each label: the label, its scheme and the DESS scan.
-- A delivered label wins over a network's, unless the network was told to replace it. A network's
-- label counts for the scan it was made of only.
-- grain: one row per knee-visit with a label.
-- assumes: at most one current DESS scan per knee-visit.
WITH of_networks AS (
    SELECT network.*
    FROM network_labels AS network
    JOIN scans AS dess
        ON dess.knee_visit = network.knee_visit
        AND dess.sequence = 'DESS'
        AND dess.series_fingerprint = network.dess_fingerprint
    ANTI JOIN label_files AS delivered
        ON delivered.knee_visit = network.knee_visit AND NOT network.replaces_delivered
),
label AS (
    SELECT knee_visit, subject_id, side, timepoint, scheme, source, label_fingerprint
    FROM of_networks
    UNION ALL
    SELECT knee_visit, subject_id, side, timepoint, scheme, source, label_fingerprint
    FROM label_files
    ANTI JOIN of_networks USING (knee_visit)
)
SELECT
    label.knee_visit,
    label.subject_id,
    label.side,
    label.timepoint,
    label.scheme,
    label.source,
    label.label_fingerprint,
    dess.series_fingerprint AS dess_fingerprint,
    concat_ws(
        '|', label.label_fingerprint, label.scheme, coalesce(dess.series_fingerprint, '-')
    ) AS inputs
FROM label
LEFT JOIN scans AS dess ON dess.knee_visit = label.knee_visit AND dess.sequence = 'DESS'
