-- Scans with a label somebody drew and delivered: what segmentation networks are trained on.
-- Labels that the check of segmentations has refused are left out.
-- grain: one row per knee-visit with a delivered label and its DESS scan.
-- assumes: at most one current DESS scan per knee-visit.
SELECT
    label.knee_visit,
    label.subject_id,
    label.side,
    label.timepoint,
    label.scheme,
    label.source,
    label.label_fingerprint,
    dess.series_fingerprint AS dess_fingerprint
FROM label_files AS label
JOIN scans AS dess ON dess.knee_visit = label.knee_visit AND dess.sequence = 'DESS'
ANTI JOIN ledger AS refused
    ON refused.knee_visit = label.knee_visit
    AND refused.step = 'segmentation'
    AND refused.status = 'quarantined'
ORDER BY label.knee_visit
