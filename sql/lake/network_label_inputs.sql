-- What a segmentation network may label: each DESS scan, and what is known of its labels.
-- grain: one row per knee-visit with a DESS scan.
-- assumes: at most one current DESS scan per knee-visit.
SELECT
    dess.knee_visit,
    dess.subject_id,
    dess.side,
    dess.timepoint,
    dess.series_fingerprint AS dess_fingerprint,
    delivered.label_fingerprint IS NOT NULL AS has_delivered,
    coalesce(network.replaces_delivered, false) AS replaces_delivered,
    network.dess_fingerprint AS labelled_dess_fingerprint,
    network.segmenter_hash AS labelled_by,
    network.label_fingerprint AS network_label_fingerprint,
    network.source AS network_source,
    tried.input_fingerprint AS tried_fingerprint
FROM scans AS dess
LEFT JOIN label_files AS delivered ON delivered.knee_visit = dess.knee_visit
LEFT JOIN network_labels AS network ON network.knee_visit = dess.knee_visit
LEFT JOIN ledger AS tried
    ON tried.knee_visit = dess.knee_visit AND tried.step = 'network_labels'
WHERE dess.sequence = 'DESS'
