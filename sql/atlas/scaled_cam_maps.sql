-- Grad-CAM of the single-biomarker models at the atlas's points, scaled from 0 to 1 per knee.
-- "Scaled" is of the rectified map enlarged to the image, as published maps are. `predicted` is the
-- map of the class the model says, as the authors' code has it.
-- grain: one row per knee-visit, bone, biomarker and target.
-- assumes: `values` follow the order of `atlas_vertices`.
-- column target: pain, no_pain or predicted.
-- column values [1]: NULL where there is no evidence anywhere, since such a map has no scale.
WITH maps AS (
    SELECT
        knee_visit,
        bone,
        biomarker,
        substr(quantity, 5) AS target,
        CASE biomarker
            WHEN 'cartilage_thickness' THEN 'thickness'
            WHEN 't2_mean' THEN 't2'
            ELSE biomarker
        END AS strategy,
        values
    FROM current_atlas_maps
    WHERE quantity <> 'value'
),
scaled AS (
    SELECT
        maps.knee_visit,
        maps.bone,
        maps.biomarker,
        maps.target,
        cams.predicted,
        CASE
            WHEN cells.highest > cells.lowest
            -- Stored in single precision, which may pass the ends by a rounding.
            THEN list_transform(
                maps.values,
                lambda value: if(
                    value IS NULL,
                    NULL,
                    least(
                        1,
                        greatest(0, (value - cells.lowest) / (cells.highest - cells.lowest))
                    )
                )
            )
        END AS values
    FROM maps
    JOIN cam_locations AS cams
        ON cams.task = 'chronic_pain'
        AND cams.bone = maps.bone
        AND cams.strategy = maps.strategy
        AND cams.knee_visit = maps.knee_visit
    JOIN cam_cells AS cells
        ON cells.task = 'chronic_pain'
        AND cells.bone = maps.bone
        AND cells.strategy = maps.strategy
        AND cells.knee_visit = maps.knee_visit
        AND cells.target = maps.target
    -- Of the network and image in use, as the map itself is.
    SEMI JOIN predictions AS made
        ON made.task = cells.task
        AND made.bone = cells.bone
        AND made.strategy = cells.strategy
        AND made.knee_visit = cells.knee_visit
        AND made.input_fingerprint = cells.input_fingerprint
)
SELECT knee_visit, bone, biomarker, target, values
FROM scaled
UNION ALL BY NAME
SELECT knee_visit, bone, biomarker, 'predicted' AS target, values
FROM scaled
WHERE target = CASE WHEN predicted THEN 'pain' ELSE 'no_pain' END
