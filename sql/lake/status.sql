-- How far the knee-visits of each timepoint have come.
-- grain: one row per timepoint that anything is known of.
-- assumes: the parameters are those of the configuration and code in use; pending counts are the
-- rows of pending_segmentations and pending_maps under them.
WITH stages AS (
    SELECT timepoint, knee_visit, 'scanned' AS stage FROM scans
    UNION ALL
    SELECT timepoint, knee_visit, 'with_msme' FROM scans WHERE sequence = 'MSME'
    UNION ALL
    SELECT timepoint, knee_visit, 'labelled' FROM segmentation_inputs
    UNION ALL
    SELECT timepoint, knee_visit, 'segmented' FROM segmentations
    UNION ALL
    SELECT timepoint, knee_visit, 'mapped' FROM maps_index
    UNION ALL
    SELECT timepoint, knee_visit, 'mapped_with_t2' FROM maps_index WHERE has_t2
    UNION ALL
    SELECT timepoint, knee_visit, 'segmentation_pending'
    FROM (
        SELECT
            timepoint,
            knee_visit,
            sha256(
                concat_ws('|', inputs, $segmentation_config_hash, $segmentation_code_version)
            ) AS input_fingerprint
        FROM segmentation_inputs
    )
    ANTI JOIN (FROM ledger WHERE step = 'segmentation') AS tried
        USING (knee_visit, input_fingerprint)
    UNION ALL
    SELECT timepoint, knee_visit, 'maps_pending'
    FROM (
        SELECT
            timepoint,
            knee_visit,
            sha256(concat_ws('|', inputs, $maps_config_hash, $maps_code_version))
                AS input_fingerprint
        FROM map_inputs
    )
    ANTI JOIN (FROM ledger WHERE step = 'maps') AS tried USING (knee_visit, input_fingerprint)
    UNION ALL
    -- A refused file that does not tell its knee counts by itself.
    SELECT timepoint, coalesce(knee_visit, file), 'quarantined' FROM quarantine
)
SELECT
    timepoint,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'scanned') AS n_scanned,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'with_msme') AS n_with_msme,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'labelled') AS n_labelled,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'segmented') AS n_segmented,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'mapped') AS n_mapped,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'mapped_with_t2') AS n_mapped_with_t2,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'segmentation_pending')
        AS n_segmentation_pending,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'maps_pending') AS n_maps_pending,
    count(DISTINCT knee_visit) FILTER (WHERE stage = 'quarantined') AS n_quarantined
FROM stages
GROUP BY timepoint
ORDER BY timepoint
