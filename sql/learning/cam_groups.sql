-- Where the evidence lies on average: Grad-CAM numbers of the knees the models get right.
-- The groups are those of the paper's Fig. 1, true positives with pain and true negatives without,
-- by the agreement of the 18 classifiers.
-- grain: one row per bone, strategy, target and group.
-- assumes: as model_agreement; means over knees, each knee once (its patient's first visit).
-- column n: Knees of the group with a map of the model.
-- column n_all_zero: Of these without any evidence for the target.
-- column medial_share [1]: Mean share of the mass that lies medial, all pixels of the map alike.
-- column medial_share_surface [1]: The same, pixels weighted by surface.
-- column covered_share_surface [1]: Mean share of the mass on cartilage, weighted by surface.
-- column entropy [1]: Mean entropy, from 0 (one cell) to 1 (all alike).
SELECT
    numbers.bone,
    numbers.strategy,
    numbers.target,
    agreement.agreement,
    count(*) AS n,
    count(*) FILTER (WHERE numbers.all_zero) AS n_all_zero,
    avg(numbers.medial_share) AS medial_share,
    avg(numbers.medial_share_surface) AS medial_share_surface,
    avg(numbers.covered_share_surface) AS covered_share_surface,
    avg(numbers.entropy) AS entropy
FROM cam_biomarkers AS numbers
JOIN cam_locations USING (task, bone, strategy, knee_visit)
JOIN model_agreement AS agreement USING (knee_visit)
WHERE numbers.task = 'chronic_pain' AND agreement.agreement <> 'none'
GROUP BY numbers.bone, numbers.strategy, numbers.target, agreement.agreement
