-- What segmentation reads of each delivered label: the label, its scheme and the DESS scan.
-- grain: one row per knee-visit with a delivered label.
-- assumes: at most one current DESS scan per knee-visit.
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
FROM label_files AS label
LEFT JOIN scans AS dess ON dess.knee_visit = label.knee_visit AND dess.sequence = 'DESS'
