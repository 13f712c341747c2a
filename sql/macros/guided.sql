-- Averages weighted with a Grad-CAM, from what its cells see of a map (`cell_sums`).
-- The Grad-CAM enlarged to the image is linear in its cells, and each pixel's interpolation weights
-- sum to 1: sums over pixels are sums over cells, exactly (`models/cam_cells.py`).
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: lists of one grid, in one order; cells are rectified.

-- Weight of the pixels with a value. 'scaled': of the map from its lowest value (0) to its highest
-- (1) over the whole image; 'rectified': of the map as it is. NULL where the map is all zero, is
-- flat (no scale) or has no mass there: less than 1e-12 of the unscaled weight is rounding.
CREATE OR REPLACE MACRO cam_mass(scaling, cells, lowest, highest, weight_sum) AS
    CASE
        WHEN highest <= 0 THEN NULL
        WHEN scaling = 'rectified'
            THEN nullif(list_dot_product(cells, weight_sum), 0)
        WHEN highest <= lowest THEN NULL
        WHEN list_dot_product(cells, weight_sum) - lowest * list_sum(weight_sum)
            > 1e-12 * list_dot_product(cells, weight_sum)
            THEN (list_dot_product(cells, weight_sum) - lowest * list_sum(weight_sum))
                / (highest - lowest)
    END;

-- The average of a map weighted with a Grad-CAM; NULL where `cam_mass` is.
CREATE OR REPLACE MACRO cam_weighted_mean(scaling, cells, lowest, highest, value_sum, weight_sum) AS
    CASE scaling
        WHEN 'rectified' THEN list_dot_product(cells, value_sum)
        ELSE (list_dot_product(cells, value_sum) - lowest * list_sum(value_sum))
            / nullif(highest - lowest, 0)
    END / cam_mass(scaling, cells, lowest, highest, weight_sum);
