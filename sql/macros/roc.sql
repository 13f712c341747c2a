-- Sensitivity, specificity, AUC, their bootstrap, DeLong's test and calibration, as table macros.
-- Each reads a relation by its name: `FROM roc_performance('my_cases', threshold := 0.4)`.
-- grain: no rows; `CREATE MACRO` statements, each with its own grain.
-- assumes: the relation has model (any type; one value where there is one model), is_case (BOOLEAN)
-- and score (finite DOUBLE), no NULL, and both classes in each model; `stats.roc` makes sure.

-- How well a score tells cases from the others: at a threshold, over all thresholds, and its AUC.
-- AUC is the share of pairs, one of each class, that the score puts in order, ties counting one
-- half; its standard error is that of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837),
-- from each case's share of the others that it beats. Counts are integers all the way, so that the
-- result is the same whatever the number of threads.
-- grain: one row per model.
-- assumes: rows are independent: with several knee-visits of one patient the standard error is too
-- small; use the bootstrap by patient.
-- column auc_low: of the interval on the logit scale, or the plain cut to 0..1; NULL where se is 0
-- column youden_threshold: the score of largest sensitivity + specificity, the highest of several
CREATE OR REPLACE MACRO roc_performance(
    relation, threshold := 0.5, scale := 'logit', confidence := 0.95
) AS TABLE
    WITH scored AS (FROM query_table(relation)),
    totals AS (
        SELECT
            model,
            count(*) AS n,
            count_if(is_case) AS n_positive,
            count_if(NOT is_case) AS n_negative,
            count_if(is_case AND score >= threshold) AS true_positive,
            count_if(NOT is_case AND score >= threshold) AS false_positive
        FROM scored
        GROUP BY model
    ),
    tied AS (
        SELECT model, score, count_if(is_case) AS p, count_if(NOT is_case) AS q
        FROM scored
        GROUP BY model, score
    ),
    -- Twice the number of the other class below (positives) or above (negatives), ties a half.
    placed AS (
        SELECT
            tied.model,
            tied.score,
            tied.p,
            tied.q,
            2 * sum(tied.q) OVER upto - tied.q AS positive_beats,
            2 * (totals.n_positive - sum(tied.p) OVER upto) + tied.p AS negative_beats,
            (totals.n_positive - sum(tied.p) OVER upto + tied.p) * totals.n_negative
            - (totals.n_negative - sum(tied.q) OVER upto + tied.q) * totals.n_positive AS youden
        FROM tied INNER JOIN totals ON tied.model = totals.model
        WINDOW upto AS (PARTITION BY tied.model ORDER BY tied.score ROWS UNBOUNDED PRECEDING)
    ),
    summed AS (
        SELECT
            model,
            sum(p * positive_beats) AS beats,
            sum(p * positive_beats * positive_beats) AS positive_squares,
            sum(q * negative_beats * negative_beats) AS negative_squares,
            max({'youden': youden, 'threshold': score}) AS best
        FROM placed
        GROUP BY model
    ),
    figures AS (
        SELECT
            totals.*,
            n_negative - false_positive AS true_negative,
            n_positive - true_positive AS false_negative,
            beats::DOUBLE / (2 * n_positive::HUGEINT * n_negative) AS auc,
            sqrt(
                (n_positive * positive_squares - beats * beats)::DOUBLE
                / (4 * n_negative::DOUBLE ** 2 * n_positive::DOUBLE ** 2 * (n_positive - 1))
                + (n_negative * negative_squares - beats * beats)::DOUBLE
                / (4 * n_positive::DOUBLE ** 2 * n_negative::DOUBLE ** 2 * (n_negative - 1))
            ) AS auc_se,
            normal_quantile(0.5::DOUBLE + confidence / 2::DOUBLE) * auc_se AS plain_step,
            CASE WHEN auc > 0 AND auc < 1 THEN plain_step / (auc * (1 - auc)) END AS logit_step,
            best.threshold AS youden_threshold,
            best.youden::DOUBLE / (n_positive::HUGEINT * n_negative) AS youden_index
        FROM totals INNER JOIN summed ON totals.model = summed.model
    )
    SELECT
        model,
        n,
        n_positive::BIGINT AS n_positive,
        n_negative::BIGINT AS n_negative,
        threshold::DOUBLE AS threshold,
        true_positive::BIGINT AS true_positive,
        false_positive::BIGINT AS false_positive,
        true_negative::BIGINT AS true_negative,
        false_negative::BIGINT AS false_negative,
        true_positive / n_positive AS sensitivity,
        true_negative / n_negative AS specificity,
        (sensitivity + specificity) / 2 AS balanced_accuracy,
        (true_positive + true_negative) / n AS accuracy,
        true_positive / nullif(true_positive + false_positive, 0) AS ppv,
        true_negative / nullif(true_negative + false_negative, 0) AS npv,
        auc,
        CASE WHEN isfinite(auc_se) THEN auc_se END AS auc_se,
        CASE
            WHEN auc_se > 0 AND isfinite(auc_se)
                THEN CASE scale
                    WHEN 'logit' THEN 1 / (1 + exp(-(ln(auc / (1 - auc)) - logit_step)))
                    ELSE greatest(auc - plain_step, 0)
                END
        END AS auc_low,
        CASE
            WHEN auc_se > 0 AND isfinite(auc_se)
                THEN CASE scale
                    WHEN 'logit' THEN 1 / (1 + exp(-(ln(auc / (1 - auc)) + logit_step)))
                    ELSE least(auc + plain_step, 1)
                END
        END AS auc_high,
        youden_threshold,
        youden_index
    FROM figures
    ORDER BY model;

-- The ROC curve: sensitivity and specificity of `score >= threshold` at every score there is.
-- The first point of a model, at an infinite threshold, calls nobody a case.
-- grain: one row per model and distinct score, from the highest, after the point (0, 1).
-- assumes: as above.
CREATE OR REPLACE MACRO roc_curve(relation) AS TABLE
    WITH scored AS (FROM query_table(relation)),
    tied AS (
        SELECT model, score, count_if(is_case) AS p, count_if(NOT is_case) AS q
        FROM scored
        GROUP BY model, score
        UNION ALL
        SELECT DISTINCT model, 'Infinity'::DOUBLE, 0, 0 FROM scored
    )
    SELECT
        model,
        score AS threshold,
        (sum(p) OVER from_top)::BIGINT AS true_positive,
        (sum(q) OVER from_top)::BIGINT AS false_positive,
        true_positive::DOUBLE / sum(p) OVER whole AS sensitivity,
        1 - false_positive::DOUBLE / sum(q) OVER whole AS specificity
    FROM tied
    WINDOW
        whole AS (PARTITION BY model),
        from_top AS (PARTITION BY model ORDER BY score DESC ROWS UNBOUNDED PRECEDING)
    ORDER BY model, threshold DESC;

-- The difference of two scores' AUC on the same cases, and DeLong's test of it.
-- DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837: each case's share of the other class
-- that it beats by the first score, less that by the second; the variance of the mean difference is
-- the sum of both classes' variances of it over their sizes.
-- grain: one row per model.
-- assumes: first_score and second_score in place of score; rows are independent (with several
-- knee-visits of one patient p is too small); the scores were not fitted on these cases as nested
-- models, for which the test is not valid (Demler 2012).
-- column p: 1 where the scores rank alike, NULL where the difference has no variance to test it by
CREATE OR REPLACE MACRO roc_paired_test(relation, confidence := 0.95) AS TABLE
    WITH scored AS (FROM query_table(relation)),
    totals AS (
        SELECT
            model,
            count(*) AS n,
            count_if(is_case) AS n_positive,
            count_if(NOT is_case) AS n_negative
        FROM scored
        GROUP BY model
    ),
    -- Twice the number of the other class that each case beats, ties counting one half.
    placed AS (
        SELECT
            scored.model,
            scored.is_case,
            CASE
                WHEN is_case
                    THEN
                        2 * count_if(NOT is_case) OVER first_upto
                        - count_if(NOT is_case) OVER first_tied
                ELSE
                    2 * (n_positive - count_if(is_case) OVER first_upto)
                    + count_if(is_case) OVER first_tied
            END::HUGEINT AS first_beats,
            CASE
                WHEN is_case
                    THEN
                        2 * count_if(NOT is_case) OVER second_upto
                        - count_if(NOT is_case) OVER second_tied
                ELSE
                    2 * (n_positive - count_if(is_case) OVER second_upto)
                    + count_if(is_case) OVER second_tied
            END::HUGEINT AS second_beats
        FROM scored INNER JOIN totals ON scored.model = totals.model
        WINDOW
            first_upto AS (
                PARTITION BY scored.model ORDER BY first_score RANGE UNBOUNDED PRECEDING
            ),
            first_tied AS (PARTITION BY scored.model, first_score),
            second_upto AS (
                PARTITION BY scored.model ORDER BY second_score RANGE UNBOUNDED PRECEDING
            ),
            second_tied AS (PARTITION BY scored.model, second_score)
    ),
    summed AS (
        SELECT
            model,
            is_case,
            sum(first_beats) AS first_sum,
            sum(second_beats) AS second_sum,
            sum(first_beats - second_beats) AS difference_sum,
            sum((first_beats - second_beats) * (first_beats - second_beats)) AS difference_squares
        FROM placed
        GROUP BY model, is_case
    ),
    figures AS (
        SELECT
            totals.model,
            n,
            n_positive,
            n_negative,
            positive.first_sum::DOUBLE / (2 * n_positive::HUGEINT * n_negative) AS first_auc,
            positive.second_sum::DOUBLE / (2 * n_positive::HUGEINT * n_negative) AS second_auc,
            positive.difference_sum::DOUBLE / (2 * n_positive::HUGEINT * n_negative) AS difference,
            sqrt(
                (
                    n_positive * positive.difference_squares
                    - positive.difference_sum * positive.difference_sum
                )::DOUBLE
                / (4 * n_negative::DOUBLE ** 2 * n_positive::DOUBLE ** 2 * (n_positive - 1))
                + (
                    n_negative * negative.difference_squares
                    - negative.difference_sum * negative.difference_sum
                )::DOUBLE
                / (4 * n_positive::DOUBLE ** 2 * n_negative::DOUBLE ** 2 * (n_negative - 1))
            ) AS raw_se,
            CASE WHEN isfinite(raw_se) THEN raw_se END AS se,
            normal_quantile(0.5::DOUBLE + confidence / 2::DOUBLE) AS quantile
        FROM totals
        INNER JOIN summed AS positive ON totals.model = positive.model AND positive.is_case
        INNER JOIN summed AS negative ON totals.model = negative.model AND NOT negative.is_case
    )
    SELECT
        model,
        n,
        n_positive::BIGINT AS n_positive,
        n_negative::BIGINT AS n_negative,
        first_auc,
        second_auc,
        difference,
        se,
        difference - quantile * se AS difference_low,
        difference + quantile * se AS difference_high,
        CASE
            WHEN se > 0 THEN difference / se
            WHEN difference = 0 AND se = 0 THEN 0::DOUBLE
        END AS z,
        normal_two_sided(z) AS p,
        ln_normal_two_sided(z) AS ln_p
    FROM figures
    ORDER BY model;

-- Bootstrap of a score's performance by patient: percentile interval, and the paper's interval.
-- A replicate draws as many patients as there are, with replacement, and takes every row of each.
-- Draw k of replicate r is the patient at place floor(m u) of the m patients of a model in order of
-- their ids, u = seeded_uniform(seed, 'r:k'), so models on the same patients share their draws. A
-- replicate in which a figure is not defined (one class only) is left out of it and counted.
-- grain: one row per model and metric.
-- assumes: the relation has model, subject_id, is_case (BOOLEAN) and score (finite); patients are
-- independent of each other, their rows need not be.
-- column percentile_low: of the replicates; the interval of the figure itself
-- column mean_low: mean - 1.96 sd / sqrt(n_replicates), as the paper's tables have it: it shrinks
-- with the number of replicates and says nothing of the sampling error
CREATE OR REPLACE MACRO roc_bootstrap(
    relation, seed := 0, n_replicates := 100, threshold := 0.5, confidence := 0.95
) AS TABLE
    WITH scored AS (FROM query_table(relation)),
    patients AS (
        SELECT
            model,
            subject_id,
            row_number() OVER (PARTITION BY model ORDER BY subject_id) - 1 AS place
        FROM scored
        GROUP BY model, subject_id
    ),
    sizes AS (
        SELECT model, count(*) AS n_patients FROM patients GROUP BY model
    ),
    replicates AS (
        SELECT unnest(range(1, n_replicates + 1)) AS replicate
    ),
    uniforms AS (
        SELECT replicate, draw, seeded_uniform(seed, replicate || ':' || draw) AS u
        FROM replicates
        CROSS JOIN (
            SELECT unnest(range(1, (SELECT max(n_patients) FROM sizes) + 1)) AS draw
        )
    ),
    drawn AS (
        SELECT
            sizes.model,
            uniforms.replicate,
            floor(uniforms.u * sizes.n_patients)::BIGINT AS place,
            count(*) AS times
        FROM sizes INNER JOIN uniforms ON uniforms.draw <= sizes.n_patients
        GROUP BY ALL
    ),
    tied AS (
        SELECT
            drawn.model,
            drawn.replicate,
            scored.score,
            coalesce(sum(drawn.times) FILTER (scored.is_case), 0) AS p,
            coalesce(sum(drawn.times) FILTER (NOT scored.is_case), 0) AS q
        FROM drawn
        INNER JOIN patients ON drawn.model = patients.model AND drawn.place = patients.place
        INNER JOIN scored
            ON patients.model = scored.model AND patients.subject_id = scored.subject_id
        GROUP BY drawn.model, drawn.replicate, scored.score
        UNION ALL
        SELECT model, 0, score, count_if(is_case), count_if(NOT is_case)
        FROM scored
        GROUP BY model, score
    ),
    placed AS (
        SELECT
            *,
            2 * sum(q) OVER (
                PARTITION BY model, replicate ORDER BY score ROWS UNBOUNDED PRECEDING
            ) - q AS positive_beats
        FROM tied
    ),
    counted AS (
        SELECT
            model,
            replicate,
            sum(p) AS n_positive,
            sum(q) AS n_negative,
            coalesce(sum(p) FILTER (score >= threshold), 0) AS true_positive,
            coalesce(sum(q) FILTER (score < threshold), 0) AS true_negative,
            sum(p * positive_beats) AS beats
        FROM placed
        GROUP BY model, replicate
    ),
    figures AS (
        SELECT
            model,
            replicate,
            true_positive::DOUBLE / nullif(n_positive, 0) AS sensitivity,
            true_negative::DOUBLE / nullif(n_negative, 0) AS specificity,
            (sensitivity + specificity) / 2 AS balanced_accuracy,
            (true_positive + true_negative)::DOUBLE / (n_positive + n_negative) AS accuracy,
            true_positive::DOUBLE / nullif(true_positive + n_negative - true_negative, 0) AS ppv,
            true_negative::DOUBLE / nullif(true_negative + n_positive - true_positive, 0) AS npv,
            beats::DOUBLE / nullif(2 * n_positive * n_negative, 0) AS auc
        FROM counted
    ),
    long AS (
        SELECT model, replicate, metric, figure
        FROM figures UNPIVOT INCLUDE NULLS (
            figure FOR metric IN (
                sensitivity, specificity, balanced_accuracy, accuracy, ppv, npv, auc
            )
        )
    ),
    gathered AS (
        SELECT
            model,
            metric,
            any_value(figure) FILTER (replicate = 0) AS estimate,
            -- In their order, so that sums do not depend on the threads.
            list(figure ORDER BY replicate) FILTER (replicate > 0 AND figure IS NOT NULL) AS figures,
            len(coalesce(figures, [])) AS n_defined
        FROM long
        GROUP BY model, metric
    )
    SELECT
        model,
        metric,
        estimate,
        n_defined AS n_replicates,
        n_replicates - n_defined AS n_undefined,
        list_avg(figures) AS bootstrap_mean,
        list_stddev_samp(figures) AS bootstrap_sd,
        list_aggregate(figures, 'quantile_cont', (1 - confidence) / 2) AS percentile_low,
        list_aggregate(figures, 'quantile_cont', (1 + confidence) / 2) AS percentile_high,
        bootstrap_mean - 1.96::DOUBLE * bootstrap_sd / sqrt(n_defined) AS mean_low,
        bootstrap_mean + 1.96::DOUBLE * bootstrap_sd / sqrt(n_defined) AS mean_high
    FROM gathered
    ORDER BY model, metric;

-- Whether predicted probabilities mean what they say: Brier score and logistic recalibration.
-- Cox (Biometrika 1958;45:562): logit P(case) = intercept + slope logit(probability), by maximum
-- likelihood; 0 and 1 are perfect. Calibration in the large is the intercept with the slope at 1.
-- A probability of 0 or 1 has no logit and is taken as `smallest` or 1 less that, and counted.
-- Scaled Brier is 1 less Brier over that of predicting everybody the share of cases.
-- grain: one row per model.
-- assumes: score is a probability; rows are independent (with several knee-visits of one patient
-- the intervals are too short).
-- column converged: false where the scores separate the classes or Newton's method did not settle;
-- then intercept, slope and their intervals are NULL
CREATE OR REPLACE MACRO calibration_of(relation, smallest := 1e-7, confidence := 0.95) AS TABLE
    WITH RECURSIVE scored AS (FROM query_table(relation)),
    logits AS MATERIALIZED (
        SELECT
            model,
            is_case::INTEGER AS y,
            ln(bounded / (1 - bounded)) AS x
        FROM (
            SELECT *, least(greatest(score, smallest), 1 - smallest::DOUBLE) AS bounded FROM scored
        )
    ),
    plain AS (
        SELECT
            model,
            count(*) AS n,
            count_if(is_case)::BIGINT AS n_positive,
            count_if(score < smallest OR score > 1 - smallest::DOUBLE)::BIGINT AS n_bounded,
            avg(score) AS mean_predicted,
            n_positive / n AS share_of_cases,
            avg((score - is_case::INTEGER) ** 2) AS brier,
            1 - brier / (share_of_cases * (1 - share_of_cases)) AS scaled_brier
        FROM scored
        GROUP BY model
    ),
    -- Both fits side by side: `large` of the intercept alone; a + b (x - centre) of the two.
    spread AS (
        SELECT model, avg(x) AS centre, stddev_pop(x) AS scale FROM logits GROUP BY model
    ),
    newton AS (
        SELECT
            plain.model,
            0 AS step,
            ln(share_of_cases / (1 - share_of_cases)) - spread.centre AS large,
            ln(share_of_cases / (1 - share_of_cases)) AS a,
            0::DOUBLE AS b,
            'Infinity'::DOUBLE AS move,
            0::DOUBLE AS large_information,
            0::DOUBLE AS h11,
            0::DOUBLE AS h12,
            0::DOUBLE AS h22
        FROM plain INNER JOIN spread ON plain.model = spread.model
        UNION ALL
        SELECT
            model,
            step + 1,
            -- A step over 2 would leave the part where the quadratic is like the likelihood.
            large + greatest(least(large_g / large_h, 2), -2),
            a + (h22 * g1 - h12 * g2) / (h11 * h22 - h12 * h12),
            b + (h11 * g2 - h12 * g1) / (h11 * h22 - h12 * h12),
            greatest(
                abs(large_g / large_h),
                abs((h22 * g1 - h12 * g2) / (h11 * h22 - h12 * h12)),
                abs((h11 * g2 - h12 * g1) / (h11 * h22 - h12 * h12))
            ),
            large_h,
            h11,
            h12,
            h22
        FROM (
            SELECT
                model,
                step,
                large,
                a,
                b,
                sum(y - 1 / (1 + exp(-(large + x)))) AS large_g,
                sum(1 / (2 + exp(large + x) + exp(-(large + x)))) AS large_h,
                sum(y - 1 / (1 + exp(-(a + b * z)))) AS g1,
                sum((y - 1 / (1 + exp(-(a + b * z)))) * z) AS g2,
                sum(1 / (2 + exp(a + b * z) + exp(-(a + b * z)))) AS h11,
                sum(z / (2 + exp(a + b * z) + exp(-(a + b * z)))) AS h12,
                sum(z * z / (2 + exp(a + b * z) + exp(-(a + b * z)))) AS h22
            FROM (
                SELECT newton.*, y, x, (x - spread.centre) / spread.scale AS z
                FROM newton
                INNER JOIN logits ON newton.model = logits.model
                INNER JOIN spread ON newton.model = spread.model
                WHERE newton.step < 60 AND newton.move > 1e-10
            )
            GROUP BY model, step, large, a, b
        )
    ),
    settled AS (
        SELECT model, max_by(newton, step) AS last FROM newton GROUP BY model
    ),
    fitted AS (
        SELECT
            settled.model,
            last.move <= 1e-10 AND isfinite(last.move) AS converged,
            last.step AS iterations,
            last.large AS in_the_large,
            1 / sqrt(last.large_information) AS in_the_large_se,
            last.b / scale AS slope,
            last.a - slope * centre AS intercept,
            last.h11 * last.h22 - last.h12 * last.h12 AS determinant,
            sqrt(last.h11 / determinant) / scale AS slope_se,
            sqrt(
                (
                    last.h22 + 2 * (centre / scale) * last.h12 + (centre / scale) ** 2 * last.h11
                ) / determinant
            ) AS intercept_se,
            normal_quantile(0.5::DOUBLE + confidence / 2::DOUBLE) AS quantile
        FROM settled INNER JOIN spread ON settled.model = spread.model
    )
    SELECT
        plain.*,
        converged,
        iterations,
        CASE WHEN converged THEN intercept END AS intercept,
        CASE WHEN converged THEN intercept_se END AS intercept_se,
        CASE WHEN converged THEN intercept - quantile * intercept_se END AS intercept_low,
        CASE WHEN converged THEN intercept + quantile * intercept_se END AS intercept_high,
        CASE WHEN converged THEN slope END AS slope,
        CASE WHEN converged THEN slope_se END AS slope_se,
        CASE WHEN converged THEN slope - quantile * slope_se END AS slope_low,
        CASE WHEN converged THEN slope + quantile * slope_se END AS slope_high,
        CASE WHEN converged THEN in_the_large END AS in_the_large,
        CASE WHEN converged THEN in_the_large_se END AS in_the_large_se
    FROM plain INNER JOIN fitted ON plain.model = fitted.model
    ORDER BY plain.model;

-- The reliability table: predicted probability against the share of cases, in bins of equal width.
-- The share's interval is Wilson's (JASA 1927;22:209).
-- grain: one row per model and bin that has cases.
-- assumes: score is a probability; rows are independent.
CREATE OR REPLACE MACRO reliability_of(relation, n_bins := 10, confidence := 0.95) AS TABLE
    WITH scored AS (FROM query_table(relation))
    SELECT * EXCLUDE (quantile, wilson_middle, wilson_half)
    FROM (
        SELECT
            model,
            least(floor(score * n_bins), n_bins - 1)::INTEGER + 1 AS bin,
            (bin - 1) / n_bins AS bin_from,
            bin / n_bins AS bin_to,
            count(*) AS n,
            count_if(is_case)::BIGINT AS n_positive,
            list_avg(list(score ORDER BY score)) AS mean_predicted,
            n_positive / n AS observed,
            normal_quantile(0.5::DOUBLE + confidence / 2::DOUBLE) AS quantile,
            (observed + quantile ** 2 / (2 * n)) / (1 + quantile ** 2 / n) AS wilson_middle,
            quantile * sqrt(observed * (1 - observed) / n + quantile ** 2 / (4 * n ** 2))
            / (1 + quantile ** 2 / n) AS wilson_half,
            greatest(wilson_middle - wilson_half, 0) AS observed_low,
            least(wilson_middle + wilson_half, 1) AS observed_high
        FROM scored
        GROUP BY model, bin
    )
    ORDER BY model, bin;
