-- Ensembles of patella, tibia and femur (PTF): the mean of the three bones' probabilities.
-- A knee-visit without all three has no ensemble. The ensemble says yes above one half.
-- grain: one row per task, strategy and knee-visit.
-- assumes: at most one classifier per task, bone and strategy.
-- column probability [1]: Mean of the three bones' probabilities of pain (osteoarthritis).
-- column predicted: Whether it is above one half.
SELECT
    task,
    'ptf' AS bone,
    strategy,
    knee_visit,
    any_value(subject_id) AS subject_id,
    any_value(side) AS side,
    any_value(timepoint) AS timepoint,
    any_value(split) AS split,
    any_value(is_first) AS is_first,
    any_value(is_last) AS is_last,
    any_value(is_case) AS is_case,
    -- Of a sorted list, so that no order of rows shows in the last digit.
    list_avg(list_sort(list(probability))) AS probability,
    list_avg(list_sort(list(probability))) > 0.5 AS predicted,
    (list_avg(list_sort(list(probability))) > 0.5) = any_value(is_case) AS is_correct
FROM model_predictions
GROUP BY task, strategy, knee_visit
HAVING count(*) = 3
