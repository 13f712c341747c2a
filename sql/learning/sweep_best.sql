-- The best trial of each initialisation under each rule, by its validation split alone.
-- val_loss: lowest loss. val_auc: highest AUC. tpn (the authors' code): highest sensitivity +
-- specificity + AUC among trials with at least 0.5 of the first two. Ties go to the first by name.
-- Trials of other knee-visits, labels, splits or images than the model's newest trial do not count:
-- their validation numbers are of another validation split.
-- grain: one row per task, bone, strategy, initialisation and rule with a trial that qualifies.
-- assumes: batches number the order of commits; no test result is looked at.
-- column rule: val_loss, val_auc or tpn.
-- column tpn: Sensitivity + specificity + AUC.
-- column is_best: Best of all initialisations of its model under the rule.
WITH committed AS (
    SELECT runs.*, batches.batch_number
    FROM sweep_runs AS runs
    JOIN batches USING (batch_id)
),
newest AS (
    SELECT task, bone, strategy, arg_max(data_hash, batch_number) AS data_hash
    FROM committed
    GROUP BY task, bone, strategy
),
ranked AS (
    SELECT
        rules.rule,
        runs.*,
        runs.val_sensitivity + runs.val_specificity + runs.val_auc AS tpn,
        CASE rules.rule
            WHEN 'val_loss' THEN -runs.val_loss
            WHEN 'val_auc' THEN runs.val_auc
            ELSE runs.val_sensitivity + runs.val_specificity + runs.val_auc
        END AS score
    FROM committed AS runs
    SEMI JOIN newest USING (task, bone, strategy, data_hash)
    CROSS JOIN (VALUES ('val_loss'), ('val_auc'), ('tpn')) AS rules (rule)
    WHERE runs.status = 'done'
        AND (rules.rule <> 'tpn' OR least(runs.val_sensitivity, runs.val_specificity) >= 0.5)
)
SELECT
    rule,
    task,
    bone,
    strategy,
    initialization,
    trial_id,
    architecture,
    trained,
    learning_rate,
    best_epoch,
    n_epochs,
    val_loss,
    val_sensitivity,
    val_specificity,
    val_auc,
    val_mcc,
    tpn,
    auc_variation_percent,
    row_number() OVER (
        PARTITION BY rule, task, bone, strategy ORDER BY score DESC, trial_id
    ) = 1 AS is_best
FROM ranked
QUALIFY row_number() OVER (
    PARTITION BY rule, task, bone, strategy, initialization ORDER BY score DESC, trial_id
) = 1
