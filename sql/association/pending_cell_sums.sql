-- Knees of which it is still to be worked out what a Grad-CAM's cells see of their maps.
-- Wanted are knees with a Grad-CAM of one of the single models, on the grid of that model. Work to do
-- is an anti-join on the fingerprint of maps, grids and code: a model trained anew on the same grid
-- costs nothing, one of another grid the knees it explains.
-- grain: one row per bone and knee-visit.
-- assumes: $timepoint is one visit; $code_version is that of this step; cells are laid out already.
-- column thickness_grid: Cells along phi and theta of the thickness model's map; NULL without one.
-- column t2_grid: The same of the T2 model's.
WITH grids AS (
    SELECT
        cells.knee_visit,
        cells.bone,
        max([cells.n_phi, cells.n_theta]) FILTER (WHERE cells.strategy = 'thickness')
            AS thickness_grid,
        max([cells.n_phi, cells.n_theta]) FILTER (WHERE cells.strategy = 't2') AS t2_grid
    FROM cam_cells AS cells
    SEMI JOIN predictions AS made USING (task, bone, strategy, knee_visit, input_fingerprint)
    SEMI JOIN model_predictions AS said USING (task, bone, strategy, knee_visit, checkpoint_hash)
    WHERE cells.task = 'chronic_pain'
        AND cells.strategy IN ('thickness', 't2')
        AND cells.target = 'pain'
        AND cells.timepoint = $timepoint
    GROUP BY cells.knee_visit, cells.bone
),
wanted AS (
    SELECT
        grids.knee_visit,
        maps.subject_id,
        maps.side,
        maps.timepoint,
        grids.bone,
        grids.thickness_grid,
        grids.t2_grid,
        maps.part,
        maps.row,
        sha256(
            concat_ws(
                '|',
                maps.part,
                maps.row,
                coalesce(thickness_grid::VARCHAR, '-'),
                coalesce(t2_grid::VARCHAR, '-'),
                $code_version::VARCHAR
            )
        ) AS input_fingerprint
    FROM grids
    JOIN maps_index AS maps USING (knee_visit, bone)
)
SELECT wanted.*
FROM wanted
ANTI JOIN cell_sums AS done USING (knee_visit, bone, input_fingerprint)
ORDER BY bone, knee_visit
