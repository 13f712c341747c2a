-- What each map at the atlas's points is read from: a correspondence, and a map or a Grad-CAM.
-- Grad-CAM maps are those of the paper's single-biomarker models.
-- grain: one row per knee-visit, bone, biomarker and quantity that can be read.
-- assumes: a part is named for its content, so the same place means the same values.
-- column part: The Zarr part the values are in; the biomarker, or the strategy, is its variable.
-- column row: The knee's index in that part.
-- column correspondence_part: The Zarr part that says where the atlas's points lie.
-- column correspondence_row: The knee's index in that part.
WITH located AS (
    SELECT
        found.knee_visit,
        found.subject_id,
        found.side,
        found.timepoint,
        found.bone,
        found.atlas_id,
        found.part AS correspondence_part,
        found.row AS correspondence_row,
        maps.part AS map_part,
        maps.row AS map_row,
        maps.has_t2
    FROM correspondences AS found
    SEMI JOIN atlas_bones USING (bone, atlas_id)
    JOIN maps_index AS maps USING (knee_visit, bone)
),
readable AS (
    SELECT
        located.* EXCLUDE (map_part, map_row, has_t2),
        names.biomarker,
        'value' AS quantity,
        NULL AS strategy,
        map_part AS part,
        map_row AS row
    FROM located
    CROSS JOIN (
        VALUES
            ('bone_shape'), ('cartilage_thickness'), ('t2_superficial'), ('t2_deep'), ('t2_mean')
    ) AS names (biomarker)
    WHERE has_t2 OR names.biomarker IN ('bone_shape', 'cartilage_thickness')
    UNION ALL BY NAME
    SELECT
        located.* EXCLUDE (map_part, map_row, has_t2),
        models.biomarker,
        'cam_' || targets.target AS quantity,
        models.strategy,
        cams.part,
        cams.row
    FROM located
    CROSS JOIN (
        VALUES
            ('bone_shape', 'bone_shape'), ('cartilage_thickness', 'thickness'), ('t2_mean', 't2')
    ) AS models (biomarker, strategy)
    CROSS JOIN (VALUES ('pain'), ('no_pain')) AS targets (target)
    JOIN cam_locations AS cams
        ON cams.task = 'chronic_pain'
        AND cams.knee_visit = located.knee_visit
        AND cams.bone = located.bone
        AND cams.strategy = models.strategy
)
SELECT
    readable.*,
    sha256(
        concat_ws(
            '|', atlas_id, correspondence_part, correspondence_row, part, row, biomarker, quantity
        )
    ) AS input_fingerprint
FROM readable
