-- Student's t tail for maps of many vertices: what `distributions.sql` gives, ten times faster.
-- The continued fraction of Abramowitz and Stegun 26.5.8 to 96 terms, folded from its last term to
-- its first. Against 50 digits: relative error of p below 1e-13 for 1 to 300 degrees of freedom and
-- below 3e-13 up to 5,000.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: 1 to 5,000 degrees of freedom and finite t; beyond, use `distributions.sql`.

-- The fraction of the incomplete beta function I_x(a, b), x below (a + 1) / (a + b + 2).
CREATE OR REPLACE MACRO beta_fraction_96(a, b, x) AS
    list_reduce(
        range(48, 0, -1)::DOUBLE[],
        lambda below, k:
            1 - (a + (k - 1)) * (a + b + (k - 1)) * x / ((a + (2 * k - 2)) * (a + (2 * k - 1)))
            / (1 + k * (b - k) * x / ((a + (2 * k - 1)) * (a + 2 * k)) / below),
        1::DOUBLE
    );

-- ln(Gamma(a + 1/2) / Gamma(a)); for large a by its expansion, since two large lgammas would cancel.
CREATE OR REPLACE MACRO ln_gamma_half_rise(a) AS
    CASE
        WHEN a < 15 THEN lgamma(a::DOUBLE + 0.5::DOUBLE) - lgamma(a::DOUBLE)
        ELSE
            0.5::DOUBLE * ln(a::DOUBLE)
            - (
                1 / 8::DOUBLE
                - (
                    1 / 192::DOUBLE
                    - (1 / 640::DOUBLE - (17 / 14336::DOUBLE - 31 / 18432::DOUBLE / (a * a)) / (a * a))
                    / (a * a)
                ) / (a * a)
            ) / a
    END;

-- ln B(df / 2, 1 / 2), which a statement works out once per df.
CREATE OR REPLACE MACRO t_ln_beta(df) AS
    0.5723649429247001::DOUBLE - ln_gamma_half_rise(df::DOUBLE / 2);

-- Hedges' factor for small samples: Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)), df > 1.
CREATE OR REPLACE MACRO hedges_factor(df) AS
    exp(ln_gamma_half_rise((df::DOUBLE - 1) / 2) - 0.5::DOUBLE * ln(df::DOUBLE / 2));

-- ln P(|T| >= |t|); `ln_beta` is `t_ln_beta(df)`, and t2 is t * t.
CREATE OR REPLACE MACRO t_ln_tails_of_maps(t2, df, ln_beta) AS
    CASE
        WHEN t2::DOUBLE * (df + 2) > 3 * df
            THEN
                -(df::DOUBLE / 2) * ln_one_plus(t2::DOUBLE / df)
                - 0.5::DOUBLE * ln_one_plus(df / t2::DOUBLE)
                - ln(df::DOUBLE / 2) - ln_beta::DOUBLE
                - ln(beta_fraction_96(df::DOUBLE / 2, 0.5::DOUBLE, df / (df + t2::DOUBLE)))
        ELSE
            ln(
                1 - 2 * sqrt(t2::DOUBLE / (df + t2::DOUBLE))
                * exp(-(df::DOUBLE / 2) * ln_one_plus(t2::DOUBLE / df) - ln_beta::DOUBLE)
                / beta_fraction_96(0.5::DOUBLE, df::DOUBLE / 2, t2::DOUBLE / (df + t2::DOUBLE))
            )
    END;

-- t with P(|T| >= t) = p: Newton's method for ln t^2 on the logarithm of the tail, which is concave;
-- `ln_beta` is `t_ln_beta(df)`.
CREATE OR REPLACE MACRO t_limit_of_maps(p, df, ln_beta) AS
    exp(
        list_reduce(
            range(12),
            lambda u, step: list_transform(
                [t_ln_tails_of_maps(exp(u), df, ln_beta)],
                lambda tail:
                    u + (tail - ln(p::DOUBLE))
                    * exp(
                        tail + ln_beta - (u - ln(df::DOUBLE)) / 2
                        + (df::DOUBLE + 1) / 2 * ln_one_plus(exp(u) / df)
                    )
            )[1],
            0::DOUBLE
        ) / 2
    );
