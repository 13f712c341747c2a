-- Upper tail probabilities of the chi-square and F distributions.
-- As macros in plain SQL: no extension, no user function, so every DuckDB client gives the same
-- p-value. Series and continued fractions are those of Abramowitz and Stegun 6.5.29, 6.5.31 and
-- 26.5.8, folded over a list from its last term to its first.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: finite statistics and at least one degree of freedom, else NULL or NaN.

-- ln(1 + y) without losing a small y (Kahan): DuckDB has no log1p.
CREATE OR REPLACE MACRO ln_one_plus(y) AS
    CASE
        WHEN 1 + y::DOUBLE = 1 THEN y::DOUBLE
        ELSE y::DOUBLE * ln(1 + y::DOUBLE) / ((1 + y::DOUBLE) - 1)
    END;

-- What Stirling's formula leaves of ln Gamma(z); to 1e-15 from z = 15 on.
CREATE OR REPLACE MACRO stirling_rest(z) AS
    (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / (1188 * z::DOUBLE * z)) / (z::DOUBLE * z))
        / (z::DOUBLE * z)) / (z::DOUBLE * z)) / z::DOUBLE;

-- ln(Gamma(a + b) / Gamma(a)); for large a by Stirling, since two large lgammas would cancel.
CREATE OR REPLACE MACRO ln_gamma_rise(a, b) AS
    CASE
        WHEN a::DOUBLE < 15 THEN lgamma(a::DOUBLE + b::DOUBLE) - lgamma(a::DOUBLE)
        ELSE
            (a::DOUBLE - 0.5::DOUBLE) * ln_one_plus(b::DOUBLE / a::DOUBLE)
            + b::DOUBLE * ln(a::DOUBLE + b::DOUBLE) - b::DOUBLE
            + stirling_rest(a::DOUBLE + b::DOUBLE) - stirling_rest(a::DOUBLE)
    END;

-- Regularised upper incomplete gamma function Q(a, x) by its continued fraction, x > a + 1.
CREATE OR REPLACE MACRO gamma_upper_fraction(a, x) AS
    exp(a::DOUBLE * ln(x::DOUBLE) - x::DOUBLE - lgamma(a::DOUBLE))
    / list_reduce(
        range(1, 2000),
        lambda below, reverse:
            x::DOUBLE + 2 * (2000 - reverse) - 1 - a::DOUBLE
            - (2000 - reverse) * ((2000 - reverse) - a::DOUBLE) / below,
        x::DOUBLE + 4001 - a::DOUBLE
    );

-- Regularised lower incomplete gamma function P(a, x) by its series, x <= a + 1.
CREATE OR REPLACE MACRO gamma_lower_series(a, x) AS
    exp(a::DOUBLE * ln(x::DOUBLE) - x::DOUBLE - lgamma(a::DOUBLE + 1))
    * list_reduce(
        range(1, 2000),
        lambda above, reverse: 1 + above * x::DOUBLE / (a::DOUBLE + 2000 - reverse),
        1::DOUBLE
    );

-- P(X >= x) of a chi-square variable with df degrees of freedom.
CREATE OR REPLACE MACRO chi_square_upper_tail(x, df) AS
    CASE
        WHEN x::DOUBLE < 0 OR df::DOUBLE <= 0 THEN NULL
        WHEN x::DOUBLE = 0 THEN 1::DOUBLE
        WHEN x::DOUBLE / 2 <= df::DOUBLE / 2 + 1
            THEN 1 - gamma_lower_series(df::DOUBLE / 2, x::DOUBLE / 2)
        ELSE gamma_upper_fraction(df::DOUBLE / 2, x::DOUBLE / 2)
    END;

-- Regularised incomplete beta function I_x(a, b) by its continued fraction, x below (a+1)/(a+b+2).
-- `y` is 1 - x, `ln_x` and `ln_y` their logarithms, handed over so that none is lost by rounding.
CREATE OR REPLACE MACRO beta_fraction(a, b, x, ln_x, ln_y) AS
    exp(
        a::DOUBLE * ln_x + b::DOUBLE * ln_y - ln(a::DOUBLE)
        + CASE
            WHEN a::DOUBLE >= b::DOUBLE
                THEN ln_gamma_rise(a::DOUBLE, b::DOUBLE) - lgamma(b::DOUBLE)
            ELSE ln_gamma_rise(b::DOUBLE, a::DOUBLE) - lgamma(a::DOUBLE)
        END
    )
    / list_reduce(
        range(1, 1000),
        lambda below, reverse:
            1 - (a::DOUBLE + 1000 - reverse - 1) * (a::DOUBLE + b::DOUBLE + 1000 - reverse - 1)
            * x::DOUBLE
            / ((a::DOUBLE + 2 * (1000 - reverse) - 2) * (a::DOUBLE + 2 * (1000 - reverse) - 1))
            / (
                1 + (1000 - reverse) * (b::DOUBLE - (1000 - reverse)) * x::DOUBLE
                / (
                    (a::DOUBLE + 2 * (1000 - reverse) - 1) * (a::DOUBLE + 2 * (1000 - reverse))
                )
                / below
            ),
        1::DOUBLE
    );

-- P(X >= f) of an F variable with df1 and df2 degrees of freedom: I_x(df2/2, df1/2) at
-- x = df2 / (df2 + df1 f).
CREATE OR REPLACE MACRO f_upper_tail(f, df1, df2) AS
    CASE
        WHEN f::DOUBLE < 0 OR df1::DOUBLE <= 0 OR df2::DOUBLE <= 0 THEN NULL
        WHEN f::DOUBLE = 0 THEN 1::DOUBLE
        WHEN df2::DOUBLE / (df2::DOUBLE + df1::DOUBLE * f::DOUBLE)
            < (df2::DOUBLE / 2 + 1) / (df2::DOUBLE / 2 + df1::DOUBLE / 2 + 2)
            THEN beta_fraction(
                df2::DOUBLE / 2,
                df1::DOUBLE / 2,
                df2::DOUBLE / (df2::DOUBLE + df1::DOUBLE * f::DOUBLE),
                -ln_one_plus(df1::DOUBLE * f::DOUBLE / df2::DOUBLE),
                -ln_one_plus(df2::DOUBLE / (df1::DOUBLE * f::DOUBLE))
            )
        ELSE 1 - beta_fraction(
            df1::DOUBLE / 2,
            df2::DOUBLE / 2,
            df1::DOUBLE * f::DOUBLE / (df2::DOUBLE + df1::DOUBLE * f::DOUBLE),
            -ln_one_plus(df2::DOUBLE / (df1::DOUBLE * f::DOUBLE)),
            -ln_one_plus(df1::DOUBLE * f::DOUBLE / df2::DOUBLE)
        )
    END;
