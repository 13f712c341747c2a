-- Correction for many tests, standardisation, agreement, one-way ANOVA and contingency tables.
-- The table macros read a relation by its name: `FROM adjusted_p_values('my_tests')`.
-- grain: no rows; `CREATE MACRO` statements, each with its own grain.
-- assumes: as each says.

-- A column less its mean over its SD, over all rows or within a family; NULL where it is constant.
CREATE OR REPLACE MACRO standardised(x) AS
    (x::DOUBLE - avg(x::DOUBLE) OVER ()) / nullif(stddev_samp(x::DOUBLE) OVER (), 0);

CREATE OR REPLACE MACRO standardised_within(x, family) AS
    (x::DOUBLE - avg(x::DOUBLE) OVER (PARTITION BY family))
    / nullif(stddev_samp(x::DOUBLE) OVER (PARTITION BY family), 0);

-- The p-values of families of tests, adjusted: Bonferroni; Benjamini and Hochberg (JRSS B
-- 1995;57:289) and Benjamini and Yekutieli (Ann. Stat. 2001;29:1165), by which the expected share
-- of false ones among the tests called at q is at most q. A NULL or NaN p is no test.
-- grain: one row per row of the relation, which has columns family (any type) and p.
-- assumes: q_bh: tests independent or positively dependent; q_by: nothing.
CREATE OR REPLACE MACRO adjusted_p_values(relation) AS TABLE
    WITH checked AS (
        SELECT
            *,
            CASE
                WHEN p IS NULL OR NOT isfinite(p::DOUBLE) THEN NULL
                WHEN p < 0 OR p > 1 THEN error('a p-value is ' || p::VARCHAR)
                ELSE p::DOUBLE
            END AS adjusting_p
        FROM query_table(relation)
    ),
    ranked AS (
        SELECT
            *,
            row_number() OVER whole AS adjusting_place,
            count(adjusting_p) OVER (PARTITION BY family) AS n_tests
        FROM checked
        WINDOW whole AS (PARTITION BY family, adjusting_p IS NULL ORDER BY adjusting_p)
    ),
    stepped AS (
        SELECT
            *,
            min(adjusting_p * n_tests / adjusting_place) OVER from_largest AS adjusting_q,
            sum(1 / adjusting_place) OVER (
                PARTITION BY family, adjusting_p IS NULL
            ) AS adjusting_harmonic
        FROM ranked
        WINDOW
            from_largest AS (
                PARTITION BY family, adjusting_p IS NULL
                ORDER BY adjusting_place DESC
                ROWS UNBOUNDED PRECEDING
            )
    )
    -- least() passes over a NULL.
    SELECT
        * EXCLUDE (adjusting_p, adjusting_place, adjusting_q, adjusting_harmonic),
        CASE WHEN adjusting_p IS NOT NULL THEN least(adjusting_p * n_tests, 1) END AS p_bonferroni,
        CASE WHEN adjusting_p IS NOT NULL THEN least(adjusting_q, 1) END AS q_bh,
        CASE
            WHEN adjusting_p IS NOT NULL THEN least(adjusting_q * adjusting_harmonic, 1)
        END AS q_by
    FROM stepped;

-- Agreement of two measurements from their differences (Bland and Altman, Lancet 1986;327:307):
-- bias, SD, and limits of agreement bias -+ 1.96 SD with t intervals (Bland and Altman, SMMR
-- 1999;8:135). A NULL difference is left out.
-- grain: one row per family of the relation, which has columns family and difference.
-- assumes: differences independent, normal, and as large for small values as for large ones.
CREATE OR REPLACE MACRO bland_altman(relation) AS TABLE
    WITH moments AS (
        SELECT
            family,
            count(difference) AS n,
            avg(difference::DOUBLE) AS bias,
            stddev_samp(difference::DOUBLE) AS sd
        FROM query_table(relation)
        GROUP BY family
    ),
    errors AS (
        SELECT *, t_quantile(0.975, n - 1) * sd AS spread FROM moments
    )
    SELECT * EXCLUDE (half)
    FROM (
        SELECT
            family,
            n,
            bias,
            sd,
            bias - spread / sqrt(n) AS bias_low,
            bias + spread / sqrt(n) AS bias_high,
            bias - 1.96::DOUBLE * sd AS lower_limit,
            bias + 1.96::DOUBLE * sd AS upper_limit,
            spread * sqrt(1 / n + 1.96::DOUBLE * 1.96::DOUBLE / (2 * nullif(n - 1, 0))) AS half,
            lower_limit - half AS lower_limit_low,
            lower_limit + half AS lower_limit_high,
            upper_limit - half AS upper_limit_low,
            upper_limit + half AS upper_limit_high
        FROM errors
    )
    ORDER BY family;

-- One-way ANOVA of a value on the levels of a factor; NULL where there are fewer than two levels or
-- no more rows than levels. Rows with a NULL or NaN are left out and counted.
-- grain: one row per family of the relation, which has columns family, level and value.
-- assumes: independent rows, normal within a level, of one variance.
CREATE OR REPLACE MACRO one_way_anova(relation) AS TABLE
    WITH levels AS (
        SELECT
            family,
            level,
            count(value) AS n,
            avg(value::DOUBLE) AS mean,
            var_pop(value::DOUBLE) * n AS squares
        FROM query_table(relation)
        WHERE level IS NOT NULL AND (isfinite(value::DOUBLE) OR isinf(value::DOUBLE))
        GROUP BY family, level
    ),
    centred AS (
        SELECT
            *,
            sum(n * mean) OVER (PARTITION BY family) / sum(n) OVER (PARTITION BY family) AS centre
        FROM levels
    ),
    sums AS (
        SELECT
            family,
            sum(n)::BIGINT AS n,
            count(*) AS n_levels,
            sum(n * (mean - centre) ** 2) AS between_squares,
            sum(squares) AS within_squares
        FROM centred
        GROUP BY family
    ),
    tested AS (
        SELECT
            all_rows.family,
            n,
            all_rows.n_rows - n AS n_dropped,
            n_levels,
            between_squares,
            within_squares,
            CASE WHEN n_levels > 1 AND n > n_levels THEN n_levels - 1 END AS df1,
            CASE WHEN n_levels > 1 AND n > n_levels THEN n - n_levels END AS df2,
            (between_squares / df1) / (within_squares / df2) AS f
        FROM (
            SELECT family, count(*) AS n_rows FROM query_table(relation) GROUP BY family
        ) AS all_rows
        INNER JOIN sums ON all_rows.family IS NOT DISTINCT FROM sums.family
    )
    SELECT
        *,
        between_squares / (between_squares + within_squares) AS eta_squared,
        f_upper_tail(f, df1, df2) AS p,
        ln_f_upper_tail(f, df1, df2) AS ln_p
    FROM tested
    ORDER BY family;

-- Pearson's chi-square test that two factors are independent, over the full cross of their levels,
-- so that a cell nobody is in counts. Rows with a NULL are left out and counted.
-- grain: one row per family of the relation: columns family, first_level and second_level.
-- assumes: independent rows; expected counts of at least 5, the smallest of which is handed back.
CREATE OR REPLACE MACRO chi_square_of_table(relation) AS TABLE
    WITH rows AS (
        SELECT family, first_level, second_level
        FROM query_table(relation)
        WHERE first_level IS NOT NULL AND second_level IS NOT NULL
    ),
    first_margin AS (
        SELECT family, first_level, count(*) AS n FROM rows GROUP BY family, first_level
    ),
    second_margin AS (
        SELECT family, second_level, count(*) AS n FROM rows GROUP BY family, second_level
    ),
    cells AS (
        SELECT family, first_level, second_level, count(*) AS n
        FROM rows
        GROUP BY family, first_level, second_level
    ),
    totals AS (
        SELECT
            all_rows.family,
            count(first_level) FILTER (second_level IS NOT NULL) AS n,
            count(*) - n AS n_dropped,
            count(DISTINCT first_level) FILTER (second_level IS NOT NULL) AS n_first,
            count(DISTINCT second_level) FILTER (first_level IS NOT NULL) AS n_second
        FROM query_table(relation) AS all_rows
        GROUP BY all_rows.family
    ),
    expected AS (
        SELECT
            totals.family,
            first_margin.n::DOUBLE * second_margin.n / totals.n AS expected,
            coalesce(cells.n, 0) AS observed
        FROM totals
        INNER JOIN first_margin ON totals.family IS NOT DISTINCT FROM first_margin.family
        INNER JOIN second_margin ON totals.family IS NOT DISTINCT FROM second_margin.family
        LEFT JOIN cells
            ON totals.family IS NOT DISTINCT FROM cells.family
            AND first_margin.first_level = cells.first_level
            AND second_margin.second_level = cells.second_level
    ),
    summed AS (
        SELECT
            family,
            sum((observed - expected) ** 2 / expected) AS chi_square,
            min(expected) AS smallest_expected
        FROM expected
        GROUP BY family
    )
    SELECT
        totals.family,
        n,
        n_dropped,
        n_first,
        n_second,
        chi_square,
        nullif((n_first - 1) * (n_second - 1), 0) AS df,
        smallest_expected,
        sqrt(chi_square / n / nullif(least(n_first, n_second) - 1, 0)) AS cramers_v,
        chi_square_upper_tail(chi_square, df) AS p,
        ln_chi_square_upper_tail(chi_square, df) AS ln_p
    FROM totals
    LEFT JOIN summed ON totals.family IS NOT DISTINCT FROM summed.family
    ORDER BY totals.family;
