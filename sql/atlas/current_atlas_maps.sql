-- Maps at the atlas's points that are of the atlas, the maps and the networks in use.
-- grain: one row per knee-visit, bone, biomarker and quantity.
-- assumes: `values` follow the order of `atlas_vertices`.
SELECT rows.* EXCLUDE (batch_id)
FROM atlas_maps AS rows
SEMI JOIN atlas_map_inputs
    USING (knee_visit, bone, biomarker, quantity, input_fingerprint)
