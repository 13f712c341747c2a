-- Segmentations whose volume is more than three standard deviations from the mean.
-- The mean and SD are those of the training segmentations (parameter `segmentation_reference`: a
-- list of tissue, mean_mm3, sd_mm3); without them, those of every segmentation in the lake.
-- grain: one row per knee-visit and tissue.
-- assumes: a tissue without a reference, or without spread, cannot be told to be poor.
-- column mean_mm3 [mm3]: Mean volume of the tissue in the reference segmentations.
-- column sd_mm3 [mm3]: Its standard deviation.
-- column sd_from_mean [SD]: How far the volume is from the mean.
-- column is_poor: Farther than segmentation_sd_limit.
WITH reference AS (
    SELECT unnest(segmentation_reference, recursive := true)
    FROM cohort_parameters
    WHERE segmentation_reference IS NOT NULL
    UNION ALL BY NAME
    SELECT
        tissue,
        avg(volume_mm3) AS mean_mm3,
        stddev_samp(volume_mm3) AS sd_mm3
    FROM tissue_volumes
    WHERE (SELECT segmentation_reference IS NULL FROM cohort_parameters)
    GROUP BY tissue
)
SELECT
    knee_visit,
    volumes.subject_id,
    volumes.side,
    volumes.timepoint,
    tissue,
    volumes.volume_mm3,
    reference.mean_mm3,
    reference.sd_mm3,
    (volumes.volume_mm3 - reference.mean_mm3) / nullif(reference.sd_mm3, 0) AS sd_from_mean,
    coalesce(
        abs(volumes.volume_mm3 - reference.mean_mm3)
        > cohort_parameters.segmentation_sd_limit * nullif(reference.sd_mm3, 0),
        false
    ) AS is_poor
FROM tissue_volumes AS volumes
LEFT JOIN reference USING (tissue)
CROSS JOIN cohort_parameters
