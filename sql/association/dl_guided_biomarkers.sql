-- DL-guided biomarkers: a biomarker's map averaged with the Grad-CAM of its single model as weights.
-- Thickness is weighted by the model of strategy `thickness`, every T2 by that of strategy `t2`. The
-- sum over the 224 x 224 pixels of the enlarged Grad-CAM is one over its cells, exactly; the paper's
-- scaling to 0..1 is done here, per knee, on the enlarged map's extremes (`cam_weighted_mean`).
-- grain: one row per knee-visit, bone, biomarker and compartment with a Grad-CAM and sums of its grid.
-- assumes: networks in use on current images (as cam_locations); pixels without a value count nowhere.
-- column compartment: The pixels averaged over: whole, medial or lateral.
-- column checkpoint_hash: The network whose Grad-CAM it is.
-- column cam_target: Whose evidence weights it; see `association_parameters`.
-- column dl_guided [mm or ms]: The weighted average; NULL where the Grad-CAM is all zero or flat, or has no mass on a pixel with a value.
-- column classical_mean [mm or ms]: The unweighted average of the same pixels.
-- column weight_total [pixels or mm2]: Sum of the weights over pixels with a value; NULL as dl_guided.
-- column n_pixels: Pixels with a value.
-- column all_zero: Whether the Grad-CAM shows no evidence for its target anywhere.
WITH single_models (biomarker, strategy, unit) AS (
    VALUES
        ('cartilage_thickness', 'thickness', 'mm'),
        ('t2_superficial', 't2', 'ms'),
        ('t2_deep', 't2', 'ms'),
        ('t2_mean', 't2', 'ms')
),
cams AS (
    SELECT
        cells.knee_visit,
        cells.bone,
        cells.strategy,
        cells.checkpoint_hash,
        cells.n_phi,
        cells.n_theta,
        cells.cells,
        cells.lowest,
        cells.highest,
        cam_target,
        cam_scaling,
        averaging
    FROM cam_cells AS cells
    SEMI JOIN predictions AS made USING (task, bone, strategy, knee_visit, input_fingerprint)
    JOIN model_predictions AS said USING (task, bone, strategy, knee_visit, checkpoint_hash)
    CROSS JOIN association_parameters
    WHERE cells.task = 'chronic_pain'
        AND cells.target = CASE cam_target
            WHEN 'predicted' THEN if(said.predicted, 'pain', 'no_pain')
            ELSE cam_target
        END
),
sums AS (
    SELECT
        knee_visit,
        subject_id,
        side,
        timepoint,
        bone,
        biomarker,
        compartment,
        n_phi,
        n_theta,
        list_sum(weight_sum) AS n_pixels,
        CASE averaging WHEN 'map' THEN value_sum ELSE value_sum_surface END AS value_sum,
        CASE averaging WHEN 'map' THEN weight_sum ELSE weight_sum_surface END AS weight_sum
    FROM cell_sums
    CROSS JOIN association_parameters
)
SELECT
    sums.knee_visit,
    sums.subject_id,
    sums.side,
    sums.timepoint,
    sums.bone,
    sums.biomarker,
    sums.compartment,
    single_models.unit,
    cams.strategy,
    cams.checkpoint_hash,
    cams.cam_target,
    cams.cam_scaling,
    cams.averaging,
    cam_weighted_mean(cam_scaling, cells, lowest, highest, value_sum, weight_sum) AS dl_guided,
    list_sum(value_sum) / nullif(list_sum(weight_sum), 0) AS classical_mean,
    cam_mass(cam_scaling, cells, lowest, highest, weight_sum) AS weight_total,
    round(n_pixels)::BIGINT AS n_pixels,
    highest <= 0 AS all_zero
FROM cams
JOIN single_models USING (strategy)
JOIN sums USING (knee_visit, bone, biomarker, n_phi, n_theta)
