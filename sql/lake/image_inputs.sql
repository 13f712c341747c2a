-- What the image planes of a knee are made from: its current maps of every bone.
-- A part is named for its content, so the same place means the same values.
-- grain: one row per knee-visit with maps.
-- assumes: at most one current row of `maps_index` per knee-visit and bone.
SELECT
    knee_visit,
    subject_id,
    side,
    timepoint,
    string_agg(concat_ws(':', bone, part, "row"), '|' ORDER BY bone) AS inputs
FROM maps_index
GROUP BY ALL
