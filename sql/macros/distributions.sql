-- Upper tail probabilities of the chi-square and F distributions.
-- As macros in plain SQL: no extension, no user function, so every DuckDB client gives the same
-- p-value. Series and continued fractions are those of Abramowitz and Stegun 6.5.29, 6.5.31 and
-- 26.5.8, folded over a list from its last term to its first. A macro repeats its arguments wherever
-- it names them; a list of one, and a lambda over it, has each worked out once.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: finite statistics and at least one degree of freedom, else NULL or NaN.

-- ln(1 + y) without losing a small y (Kahan): DuckDB has no log1p.
CREATE OR REPLACE MACRO ln_one_plus(y) AS
    CASE WHEN 1 + y = 1 THEN y ELSE y * ln(1 + y) / ((1 + y) - 1) END;

-- What Stirling's formula leaves of ln Gamma(z); to 1e-15 from z = 15 on. `r` is 1 / z^2.
CREATE OR REPLACE MACRO stirling_rest(z, r) AS
    (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r / 1188)))) / z;

-- ln(Gamma(a + b) / Gamma(a)); for large a by Stirling, since two large lgammas would cancel.
CREATE OR REPLACE MACRO ln_gamma_rise(a, b) AS
    CASE
        WHEN a < 15 THEN lgamma(a + b) - lgamma(a)
        ELSE
            (a - 0.5::DOUBLE) * ln_one_plus(b / a) + b * ln(a + b) - b
            + stirling_rest(a + b, 1 / ((a + b) * (a + b))) - stirling_rest(a, 1 / (a * a))
    END;

-- Regularised upper incomplete gamma function Q(a, x) by its continued fraction, x > a + 1.
CREATE OR REPLACE MACRO gamma_upper_fraction(a, x) AS
    exp(a * ln(x) - x - lgamma(a))
    / list_reduce(
        range(1999, 0, -1),
        lambda below, k: x + 2 * k - 1 - a - k * (k - a) / below,
        x + 3999 - a
    );

-- Regularised lower incomplete gamma function P(a, x) by its series, x <= a + 1.
CREATE OR REPLACE MACRO gamma_lower_series(a, x) AS
    exp(a * ln(x) - x - lgamma(a + 1))
    * list_reduce(range(1999, 0, -1), lambda above, k: 1 + above * x / (a + k), 1::DOUBLE);

-- P(X >= x) of a chi-square variable with df degrees of freedom.
CREATE OR REPLACE MACRO chi_square_upper_tail(x, df) AS
    list_transform(
        [{'x': x::DOUBLE / 2, 'a': df::DOUBLE / 2}],
        lambda half: CASE
            WHEN half.x < 0 OR half.a <= 0 THEN NULL
            WHEN half.x = 0 THEN 1::DOUBLE
            WHEN half.x <= half.a + 1 THEN 1 - gamma_lower_series(half.a, half.x)
            ELSE gamma_upper_fraction(half.a, half.x)
        END
    )[1];

-- Regularised incomplete beta function I_x(a, b) by its continued fraction, x below (a+1)/(a+b+2).
-- ln_x and ln_y are the logarithms of x and 1 - x, handed over so that no digit is lost.
CREATE OR REPLACE MACRO beta_fraction(a, b, x, ln_x, ln_y) AS
    exp(
        a * ln_x + b * ln_y - ln(a)
        + CASE
            WHEN a >= b THEN ln_gamma_rise(a, b) - lgamma(b)
            ELSE ln_gamma_rise(b, a) - lgamma(a)
        END
    )
    / list_reduce(
        range(999, 0, -1),
        lambda below, k:
            1 - (a + k - 1) * (a + b + k - 1) * x / ((a + 2 * k - 2) * (a + 2 * k - 1))
            / (1 + k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)) / below),
        1::DOUBLE
    );

-- P(X >= f) of an F variable with df1 and df2 degrees of freedom: I_x(df2/2, df1/2) at
-- x = df2 / (df2 + df1 f), or 1 - I_(1-x)(df1/2, df2/2) where that converges faster.
CREATE OR REPLACE MACRO f_upper_tail(f, df1, df2) AS
    list_transform(
        list_transform(
            [{'f': f::DOUBLE, 'p': df1::DOUBLE / 2, 'q': df2::DOUBLE / 2}],
            lambda given: {
                'f': given.f,
                'p': given.p,
                'q': given.q,
                'x': given.q / (given.q + given.p * given.f),
                'y': given.p * given.f / (given.q + given.p * given.f),
                'direct': given.q / (given.q + given.p * given.f)
                < (given.q + 1) / (given.q + given.p + 2),
                'ln_x': -ln_one_plus(given.p * given.f / given.q),
                'ln_y': -ln_one_plus(given.q / (given.p * given.f))
            }
        ),
        lambda v: CASE
            WHEN v.f < 0 OR v.p <= 0 OR v.q <= 0 THEN NULL
            WHEN v.f = 0 THEN 1::DOUBLE
            WHEN v.direct THEN beta_fraction(v.q, v.p, v.x, v.ln_x, v.ln_y)
            ELSE 1 - beta_fraction(v.p, v.q, v.y, v.ln_y, v.ln_x)
        END
    )[1];
