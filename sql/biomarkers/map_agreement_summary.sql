-- Bland-Altman agreement of the mean on the map with the mean on the surface.
-- bias is map minus surface; the limits are bias -+ 1.96 sd, each with its 95 % interval; slope is
-- that of the difference on the mean of the two, which tells whether the bias grows with the value.
-- grain: one row per bone, biomarker and weighting ('pixels' as the paper, or 'area').
-- assumes: knee-visits are taken as independent, as the paper does.
WITH pairs AS (
    SELECT bone, biomarker, 'pixels' AS weighting, surface_mean, map_mean AS on_map
    FROM map_agreement
    UNION ALL
    SELECT bone, biomarker, 'area', surface_mean, map_mean_area_weighted
    FROM map_agreement
),
differences AS (
    SELECT
        {'bone': bone, 'biomarker': biomarker, 'weighting': weighting} AS family,
        on_map - surface_mean AS difference,
        (on_map + surface_mean) / 2 AS mean_of_pair
    FROM pairs
),
trends AS (
    SELECT
        family,
        avg(mean_of_pair) AS mean_of_both,
        regr_slope(difference, mean_of_pair) AS slope
    FROM differences
    GROUP BY family
)
SELECT
    unnest(agreement.family),
    agreement.* EXCLUDE (family),
    mean_of_both,
    slope
FROM bland_altman('differences') AS agreement
INNER JOIN trends ON agreement.family = trends.family
