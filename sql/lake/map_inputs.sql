-- What the maps of a knee are computed from: its segmentation and, where delivered, DESS and MSME.
-- MSME is optional: without it there are no T2 maps, and the knee is computed again when it comes.
-- grain: one row per segmented knee-visit.
-- assumes: at most one current scan per knee-visit and sequence.
SELECT
    segmented.knee_visit,
    segmented.subject_id,
    segmented.side,
    segmented.timepoint,
    segmented.scheme,
    segmented.source,
    segmented.label_fingerprint,
    dess.series_fingerprint AS dess_fingerprint,
    msme.series_fingerprint AS msme_fingerprint,
    concat_ws(
        '|',
        segmented.label_fingerprint,
        segmented.scheme,
        coalesce(dess.series_fingerprint, '-'),
        coalesce(msme.series_fingerprint, '-')
    ) AS inputs
FROM segmentations AS segmented
LEFT JOIN scans AS dess ON dess.knee_visit = segmented.knee_visit AND dess.sequence = 'DESS'
LEFT JOIN scans AS msme ON msme.knee_visit = segmented.knee_visit AND msme.sequence = 'MSME'
