-- What the leakage controls are fitted on: the rows of Table 3 with every control's average.
-- Shuffled: patients of a split are put in the order of an MD5 of seed and number, and each takes the
-- next one's Grad-CAM (the last the first's), so never his own; his k-th visit takes the other's k-th,
-- beginning again where the other has fewer. Outcomes are permuted in the same way, in another order.
-- grain: one row per knee-visit, bone and biomarker (as regression_cases).
-- assumes: averages of the whole bone; control networks explain pain, scaled, over the map.
-- column dl_guided [mm or ms]: The DL-guided average; NULL where there is none.
-- column dl_shuffled [mm or ms]: The same map weighted with another patient's Grad-CAM.
-- column dl_other_class [mm or ms]: Weighted with the same network's Grad-CAM of the other class (no pain for pain and contrastive).
-- column model_logit [logit]: What the network of the Grad-CAM says of the knee: logit of pain less that of no pain.
-- column dl_permuted_labels [mm or ms]: Weighted with the Grad-CAM of a network trained on labels permuted between patients.
-- column dl_cross_fitted [mm or ms]: Weighted with the Grad-CAM of a network trained and selected on other patients.
-- column chronic_pain_permuted: Outcome of another patient.
WITH cams AS (
    SELECT
        cells.* EXCLUDE (batch_id, input_fingerprint),
        said.split,
        said.logit_yes - said.logit_no AS model_logit,
        cells.target = CASE cam_target
            WHEN 'predicted' THEN if(said.predicted, 'pain', 'no_pain')
            ELSE cam_target
        END AS is_chosen,
        cells.target = CASE cam_target
            WHEN 'predicted' THEN if(said.predicted, 'no_pain', 'pain')
            WHEN 'no_pain' THEN 'pain'
            ELSE 'no_pain'
        END AS is_other_class
    FROM cam_cells AS cells
    SEMI JOIN predictions AS made USING (task, bone, strategy, knee_visit, input_fingerprint)
    JOIN model_predictions AS said USING (task, bone, strategy, knee_visit, checkpoint_hash)
    CROSS JOIN association_parameters
    WHERE cells.task = 'chronic_pain' AND cells.strategy IN ('thickness', 't2')
),
numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY bone, strategy, subject_id ORDER BY timepoint, side
        ) AS visit_number,
        count(*) OVER (PARTITION BY bone, strategy, subject_id) AS n_visits
    FROM cams
    WHERE is_chosen
),
patients AS (
    SELECT
        bone,
        strategy,
        split,
        subject_id,
        coalesce(lead(subject_id) OVER in_order, first_value(subject_id) OVER in_order)
            AS donor_subject_id,
        coalesce(lead(n_visits) OVER in_order, first_value(n_visits) OVER in_order)
            AS n_donor_visits
    FROM (
        SELECT DISTINCT
            bone,
            strategy,
            split,
            subject_id,
            n_visits,
            seeded_uniform('cams:' || control_seed, subject_id) AS place
        FROM numbered
        CROSS JOIN association_parameters
    )
    WINDOW in_order AS (PARTITION BY bone, strategy, split ORDER BY place, subject_id)
),
shuffled AS (
    SELECT own.knee_visit, donor.* EXCLUDE (knee_visit)
    FROM numbered AS own
    JOIN patients USING (bone, strategy, split, subject_id)
    JOIN numbered AS donor
        ON donor.bone = own.bone
            AND donor.strategy = own.strategy
            AND donor.split = own.split
            AND donor.subject_id = patients.donor_subject_id
            AND donor.visit_number = (own.visit_number - 1) % patients.n_donor_visits + 1
    -- A patient who is alone has nobody else's map.
    WHERE patients.donor_subject_id <> own.subject_id
),
weights AS (
    SELECT knee_visit, bone, strategy, n_phi, n_theta, cells, lowest, highest, 'shuffled' AS kind
    FROM shuffled
    UNION ALL
    SELECT knee_visit, bone, strategy, n_phi, n_theta, cells, lowest, highest, 'other_class'
    FROM cams
    WHERE is_other_class
),
sums AS (
    SELECT
        knee_visit,
        bone,
        biomarker,
        if(biomarker = 'cartilage_thickness', 'thickness', 't2') AS strategy,
        n_phi,
        n_theta,
        CASE averaging WHEN 'map' THEN value_sum ELSE value_sum_surface END AS value_sum,
        CASE averaging WHEN 'map' THEN weight_sum ELSE weight_sum_surface END AS weight_sum
    FROM cell_sums
    CROSS JOIN association_parameters
    WHERE compartment = 'whole'
),
averages AS (
    SELECT
        knee_visit,
        bone,
        biomarker,
        kind,
        cam_weighted_mean(cam_scaling, cells, lowest, highest, value_sum, weight_sum) AS average
    FROM weights
    JOIN sums USING (knee_visit, bone, strategy, n_phi, n_theta)
    CROSS JOIN association_parameters
),
own_logits AS (
    SELECT knee_visit, bone, strategy, model_logit FROM numbered
),
outcomes AS (
    SELECT
        knee_visit,
        subject_id,
        split,
        chronic_pain,
        row_number() OVER (PARTITION BY subject_id ORDER BY timepoint, side) AS visit_number,
        count(*) OVER (PARTITION BY subject_id) AS n_visits
    FROM cohort
),
outcome_donors AS (
    SELECT
        subject_id,
        coalesce(lead(subject_id) OVER in_order, first_value(subject_id) OVER in_order)
            AS donor_subject_id,
        coalesce(lead(n_visits) OVER in_order, first_value(n_visits) OVER in_order)
            AS n_donor_visits
    FROM (
        SELECT DISTINCT
            split,
            subject_id,
            n_visits,
            seeded_uniform('outcomes:' || control_seed, subject_id) AS place
        FROM outcomes
        CROSS JOIN association_parameters
    )
    WINDOW in_order AS (PARTITION BY split ORDER BY place, subject_id)
),
permuted AS (
    SELECT own.knee_visit, donor.chronic_pain::INTEGER AS chronic_pain_permuted
    FROM outcomes AS own
    JOIN outcome_donors USING (subject_id)
    JOIN outcomes AS donor
        ON donor.subject_id = outcome_donors.donor_subject_id
            AND donor.visit_number = (own.visit_number - 1) % outcome_donors.n_donor_visits + 1
),
of_networks AS (
    SELECT
        knee_visit,
        bone,
        biomarker,
        max(dl_guided) FILTER (WHERE control = 'permuted_labels') AS dl_permuted_labels,
        max(dl_guided) FILTER (WHERE control = 'cross_fitted') AS dl_cross_fitted
    FROM control_biomarkers
    GROUP BY ALL
)
SELECT
    cases.*,
    guided.dl_guided,
    shuffled.average AS dl_shuffled,
    other_class.average AS dl_other_class,
    own_logits.model_logit,
    of_networks.dl_permuted_labels,
    of_networks.dl_cross_fitted,
    permuted.chronic_pain_permuted
FROM regression_cases AS cases
LEFT JOIN dl_guided_biomarkers AS guided
    ON guided.knee_visit = cases.knee_visit
        AND guided.bone = cases.bone
        AND guided.biomarker = cases.biomarker
        AND guided.compartment = 'whole'
LEFT JOIN averages AS shuffled
    ON shuffled.knee_visit = cases.knee_visit
        AND shuffled.bone = cases.bone
        AND shuffled.biomarker = cases.biomarker
        AND shuffled.kind = 'shuffled'
LEFT JOIN averages AS other_class
    ON other_class.knee_visit = cases.knee_visit
        AND other_class.bone = cases.bone
        AND other_class.biomarker = cases.biomarker
        AND other_class.kind = 'other_class'
LEFT JOIN own_logits
    ON own_logits.knee_visit = cases.knee_visit
        AND own_logits.bone = cases.bone
        AND own_logits.strategy = if(cases.biomarker = 'cartilage_thickness', 'thickness', 't2')
LEFT JOIN of_networks
    ON of_networks.knee_visit = cases.knee_visit
        AND of_networks.bone = cases.bone
        AND of_networks.biomarker = cases.biomarker
LEFT JOIN permuted ON permuted.knee_visit = cases.knee_visit
