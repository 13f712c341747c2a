-- Upper tails, their logarithms and quantiles of the normal, t, chi-square and F distributions.
-- As macros in plain SQL: no extension, no user function, so every DuckDB client gives the same
-- p-value. `ln_...` is the logarithm of a tail, finite long after the tail itself has fallen below
-- the smallest DOUBLE. The normal tail is Cody's rational approximation (Math. Comp. 1969;23:631)
-- with the coefficients of R's pnorm; the normal quantile is Wichura's AS 241 (Appl. Stat.
-- 1988;37:477). t and chi-square are F: t^2 has 1 and df degrees of freedom, chi-square / df has df
-- and infinitely many. F is an incomplete beta function: the density in the saddle-point form of
-- Loader (2000), which has no large numbers to cancel, over the continued fraction of Didonato and
-- Morris (TOMS 708, 1992). A macro repeats its arguments wherever it names them; a list of one, and
-- a lambda over it, has each worked out once.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: at least 1 degree of freedom (fewer: fewer digits); infinitely many are allowed. NULL
-- gives NULL, NaN gives NaN; a negative chi-square or F, no degrees of freedom, and a probability
-- outside 0 to 1 give NULL.

-- ln(1 + y) without losing a small y (Kahan): DuckDB has no log1p.
CREATE OR REPLACE MACRO ln_one_plus(y) AS
    CASE WHEN 1 + y = 1 THEN y ELSE y * ln(1 + y) / ((1 + y) - 1) END;

-- ln(1 - exp(y)) for y <= 0, without losing an exp(y) near 0 or near 1.
CREATE OR REPLACE MACRO ln_one_minus_exp(y) AS
    CASE
        WHEN y = 0 THEN '-Infinity'::DOUBLE
        WHEN y > -0.7::DOUBLE THEN ln(-2 * sinh(y / 2)) + y / 2
        ELSE ln_one_plus(-exp(y))
    END;

-- What Stirling's formula leaves of ln Gamma(z).
CREATE OR REPLACE MACRO stirling_rest(z) AS
    CASE
        WHEN z < 15
            THEN lgamma(z) + z - z * ln(z) - 0.5::DOUBLE * ln(6.283185307179586::DOUBLE / z)
        ELSE
            (
                1 / 12::DOUBLE
                - (
                    1 / 360::DOUBLE
                    - (1 / 1260::DOUBLE - (1 / 1680::DOUBLE - 1 / 1188 / z / z) / z / z) / z / z
                ) / z / z
            ) / z
    END;

-- ln of the density of ln F at ln f, for 2p and 2q degrees of freedom.
CREATE OR REPLACE MACRO ln_f_density(f, p, q) AS
    stirling_rest(p + q) - stirling_rest(p) - stirling_rest(q)
    + 0.5::DOUBLE * ln(least(p, q) * (greatest(p, q) / (p + q)) / 6.283185307179586::DOUBLE)
    - CASE
        WHEN p <= q THEN (p + q) * ln_one_plus(p * (f - 1) / (p + q)) - p * ln(f)
        ELSE (p + q) * ln_one_plus(q * (1 / f - 1) / (p + q)) + q * ln(f)
    END;

-- ln P(F >= f) for 2p and 2q degrees of freedom where that is the smaller tail. slope is that of
-- the density's logarithm, x = q / (q + p f), y = 1 - x.
CREATE OR REPLACE MACRO ln_f_far_tail(f, p, q) AS
    ln_f_density(f, p, q)
    - list_transform(
        [{
            'p': p,
            'q': q,
            'n': p + q,
            'x': q / (q + p * f),
            'y': p * f / (q + p * f),
            'slope': p * (f - 1) * (q / (q + p * f)),
            'width': sqrt(least(p, q))
        }],
        lambda v: ln(
            v.q * (v.slope + 1) / (v.q + 1)
            + v.q * v.n * (v.p - 1) * v.x * v.x / ((v.q + 1) * (v.q + 1))
            / list_reduce(
                range(
                    (
                        8 + (52 + 1.4::DOUBLE * v.width)
                        / (1 + greatest(v.slope - 1, 0) / (1 + 2 * v.width))
                    )::BIGINT,
                    0,
                    -1
                )::DOUBLE[],
                lambda below, k:
                    k + k * (v.p - k) * v.x / (v.q + 2 * k - 1)
                    + (v.q + k) * (v.slope + 1 + k * (1 + v.y)) / (v.q + 2 * k + 1)
                    + (v.q + k) * (v.n + k) * (k + 1) * (v.p - k - 1) * v.x * v.x
                    / ((v.q + 2 * k + 1) * (v.q + 2 * k + 1)) / below,
                1e3::DOUBLE
            )
        )
    )[1];

-- ln P(F >= f) for 2p and 2q degrees of freedom, 0 < f < infinity: the smaller tail, or 1 less it.
CREATE OR REPLACE MACRO ln_f_tail(f, p, q) AS
    list_transform(
        list_transform(
            [
                CASE
                    WHEN q * (p + 1) < p * f * (q + 1)
                        THEN {'f': f, 'p': p, 'q': q, 'upper': true}
                    ELSE {'f': 1 / f, 'p': q, 'q': p, 'upper': false}
                END
            ],
            lambda v: {'tail': ln_f_far_tail(v.f, v.p, v.q), 'upper': v.upper}
        ),
        lambda v: CASE WHEN v.upper THEN v.tail ELSE ln_one_minus_exp(v.tail) END
    )[1];

-- ln P(X >= f) of an F variable with df1 and df2 degrees of freedom. From 1e150 on the tail is a
-- power of f, whose logarithm is handed over as `ln_more`.
CREATE OR REPLACE MACRO ln_f_tail_beyond(f, ln_more, df1, df2) AS
    list_transform(
        [{'f': f, 'ln_more': ln_more, 'df1': df1::DOUBLE, 'df2': df2::DOUBLE}],
        lambda v: CASE
            WHEN v.f IS NULL OR v.df1 IS NULL OR v.df2 IS NULL THEN NULL
            WHEN isnan(v.f) OR isnan(v.df1) OR isnan(v.df2) THEN 'NaN'::DOUBLE
            WHEN v.f < 0 OR v.df1 <= 0 OR v.df2 <= 0 THEN NULL
            WHEN v.f = 0 THEN 0::DOUBLE
            WHEN isinf(v.ln_more) THEN '-Infinity'::DOUBLE
            ELSE
                ln_f_tail(v.f, least(v.df1 / 2, 1e100::DOUBLE), least(v.df2 / 2, 1e100::DOUBLE))
                - CASE WHEN v.ln_more > 0 THEN v.df2 / 2 * v.ln_more ELSE 0 END
        END
    )[1];

CREATE OR REPLACE MACRO ln_f_upper_tail(f, df1, df2) AS
    ln_f_tail_beyond(
        CASE
            WHEN f::DOUBLE > 1e150::DOUBLE AND NOT isnan(f::DOUBLE) THEN 1e150::DOUBLE
            ELSE f::DOUBLE
        END,
        ln(greatest(f::DOUBLE / 1e150::DOUBLE, 1)),
        df1,
        df2
    );

CREATE OR REPLACE MACRO f_upper_tail(f, df1, df2) AS exp(ln_f_upper_tail(f, df1, df2));

-- P(|T| >= |t|) of a t variable with df degrees of freedom, and its logarithm.
CREATE OR REPLACE MACRO ln_t_two_sided(t, df) AS
    ln_f_tail_beyond(
        CASE
            WHEN isnan(t::DOUBLE) THEN t::DOUBLE
            WHEN abs(t::DOUBLE) > 1e75::DOUBLE THEN 1e150::DOUBLE
            ELSE t::DOUBLE * t::DOUBLE
        END,
        2 * ln(greatest(abs(t::DOUBLE) / 1e75::DOUBLE, 1)),
        1,
        df
    );

CREATE OR REPLACE MACRO t_two_sided(t, df) AS exp(ln_t_two_sided(t, df));

-- P(T >= t).
CREATE OR REPLACE MACRO t_upper_tail(t, df) AS
    (t::DOUBLE < 0)::DOUBLE
    + CASE WHEN t::DOUBLE < 0 THEN -0.5::DOUBLE ELSE 0.5::DOUBLE END * exp(ln_t_two_sided(t, df));

CREATE OR REPLACE MACRO ln_t_upper_tail(t, df) AS
    list_transform(
        [ln_t_two_sided(t, df) - 0.6931471805599453::DOUBLE],
        lambda tail: CASE WHEN t::DOUBLE < 0 THEN ln_one_plus(-exp(tail)) ELSE tail END
    )[1];

-- A polynomial of x, from the coefficient of the highest power to the constant.
CREATE OR REPLACE MACRO polynomial(x, coefficients) AS
    list_reduce(coefficients::DOUBLE[], lambda above, c: above * x + c);

-- Half less P(Z >= z) of a standard normal variable, |z| <= 0.6744898.
CREATE OR REPLACE MACRO normal_middle(z) AS
    z * polynomial(
        z * z,
        [
            0.065682337918207449113, 2.2352520354606839287, 161.02823106855587881,
            1067.6894854603709582, 18154.981253343561249
        ]
    ) / polynomial(
        z * z,
        [
            1, 47.20258190468824187, 976.09855173777669322, 10260.932208618978205,
            45507.789335026729956
        ]
    );

-- P(Z >= y) exp(y^2 / 2), y > 0.6744898.
CREATE OR REPLACE MACRO normal_tail_scaled(y) AS
    CASE
        WHEN y <= 5.656854249492381::DOUBLE
            THEN polynomial(
                y,
                [
                    1.0765576773720192317e-8, 0.39894151208813466764, 8.8831497943883759412,
                    93.506656132177855979, 597.27027639480026226, 2494.5375852903726711,
                    6848.1904505362823326, 11602.651437647350124, 9842.7148383839780218
                ]
            ) / polynomial(
                y,
                [
                    1, 22.266688044328115691, 235.38790178262499861, 1519.377599407554805,
                    6485.558298266760755, 18615.571640885098091, 34900.952721145977266,
                    38912.003286093271411, 19685.429676859990727
                ]
            )
        ELSE (
            0.398942280401432677939946059934::DOUBLE
            - polynomial(
                1 / y / y,
                [
                    0.02307344176494017303, 0.21589853405795699, 0.1274011611602473639,
                    0.022235277870649807, 0.001421619193227893466, 2.9112874951168792e-5
                ]
            ) / polynomial(
                1 / y / y,
                [
                    1, 1.28426009614491121, 0.468238212480865118, 0.0659881378689285515,
                    0.00378239633202758244, 7.29751555083966205e-5
                ]
            ) / y / y
        ) / y
    END;

-- exp(-y^2 / 2), squared in two parts so that no digit of a large y is lost.
CREATE OR REPLACE MACRO normal_bell(y) AS
    exp(-trunc(y * 16) / 16 * (trunc(y * 16) / 16) / 2)
    * exp(-(y - trunc(y * 16) / 16) * (y + trunc(y * 16) / 16) / 2);

-- P(|Z| >= |z|) of a standard normal variable, and its logarithm.
CREATE OR REPLACE MACRO normal_two_sided(z) AS
    list_transform(
        [abs(z::DOUBLE)],
        lambda y: CASE
            WHEN isnan(y) THEN y
            WHEN y <= 0.67448975::DOUBLE THEN 1 - 2 * normal_middle(y)
            WHEN y > 40 THEN 0::DOUBLE
            ELSE 2 * normal_bell(y) * normal_tail_scaled(y)
        END
    )[1];

CREATE OR REPLACE MACRO ln_normal_two_sided(z) AS
    list_transform(
        [abs(z::DOUBLE)],
        lambda y: CASE
            WHEN y <= 0.67448975::DOUBLE THEN ln_one_plus(-2 * normal_middle(y))
            WHEN isinf(y) THEN '-Infinity'::DOUBLE
            ELSE 0.6931471805599453::DOUBLE - y * y / 2 + ln(normal_tail_scaled(y))
        END
    )[1];

-- P(Z >= z).
CREATE OR REPLACE MACRO normal_upper_tail(z) AS
    list_transform(
        [z::DOUBLE],
        lambda y: CASE
            WHEN abs(y) <= 0.67448975::DOUBLE THEN 0.5::DOUBLE - normal_middle(y)
            WHEN y < 0 THEN 1 - normal_two_sided(y) / 2
            ELSE normal_two_sided(y) / 2
        END
    )[1];

CREATE OR REPLACE MACRO ln_normal_upper_tail(z) AS
    list_transform(
        [z::DOUBLE],
        lambda y: CASE
            WHEN abs(y) <= 0.67448975::DOUBLE THEN ln(0.5::DOUBLE - normal_middle(y))
            WHEN y < 0 THEN ln_one_plus(-normal_two_sided(y) / 2)
            ELSE ln_normal_two_sided(y) - 0.6931471805599453::DOUBLE
        END
    )[1];

-- P(X >= x) of a chi-square variable with df degrees of freedom, and its logarithm.
CREATE OR REPLACE MACRO chi_square_upper_tail(x, df) AS
    CASE
        WHEN df::DOUBLE = 1 AND x::DOUBLE >= 0 THEN normal_two_sided(sqrt(greatest(x::DOUBLE, 0)))
        ELSE exp(ln_f_upper_tail(x::DOUBLE / df::DOUBLE, df, 'Infinity'::DOUBLE))
    END;

CREATE OR REPLACE MACRO ln_chi_square_upper_tail(x, df) AS
    CASE
        WHEN df::DOUBLE = 1 AND x::DOUBLE >= 0
            THEN ln_normal_two_sided(sqrt(greatest(x::DOUBLE, 0)))
        ELSE ln_f_upper_tail(x::DOUBLE / df::DOUBLE, df, 'Infinity'::DOUBLE)
    END;

-- z with P(Z <= z) = p.
CREATE OR REPLACE MACRO normal_quantile(p) AS
    list_transform(
        [{
            'p': p::DOUBLE,
            'middle': p::DOUBLE - 0.5::DOUBLE,
            'r': sqrt(-ln(least(greatest(p::DOUBLE, 0), greatest(1 - p::DOUBLE, 0))))
        }],
        lambda v: CASE
            WHEN isnan(v.p) THEN v.p
            WHEN v.p < 0 OR v.p > 1 THEN NULL
            WHEN v.p = 0 THEN '-Infinity'::DOUBLE
            WHEN v.p = 1 THEN 'Infinity'::DOUBLE
            WHEN abs(v.middle) <= 0.425::DOUBLE
                THEN
                    v.middle * polynomial(
                        0.180625::DOUBLE - v.middle * v.middle,
                        [
                            2509.0809287301226727, 33430.575583588128105, 67265.770927008700853,
                            45921.953931549871457, 13731.693765509461125, 1971.5909503065514427,
                            133.14166789178437745, 3.387132872796366608
                        ]
                    ) / polynomial(
                        0.180625::DOUBLE - v.middle * v.middle,
                        [
                            5226.495278852545925, 28729.085735721942674, 39307.89580009271061,
                            21213.794301586595867, 5394.1960214247511077, 687.1870074920579083,
                            42.313330701600911252, 1
                        ]
                    )
            WHEN v.r <= 5
                THEN
                    sign(v.middle) * polynomial(
                        v.r - 1.6::DOUBLE,
                        [
                            7.7454501427834140764e-4, 0.0227238449892691845833,
                            0.24178072517745061177, 1.27045825245236838258, 3.64784832476320460504,
                            5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734
                        ]
                    ) / polynomial(
                        v.r - 1.6::DOUBLE,
                        [
                            1.05075007164441684324e-9, 5.475938084995344946e-4,
                            0.0151986665636164571966, 0.14810397642748007459,
                            0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1
                        ]
                    )
            ELSE
                sign(v.middle) * polynomial(
                    v.r - 5,
                    [
                        2.01033439929228813265e-7, 2.71155556874348757815e-5,
                        0.0012426609473880784386, 0.026532189526576123093, 0.29656057182850489123,
                        1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772
                    ]
                ) / polynomial(
                    v.r - 5,
                    [
                        2.04426310338993978564e-15, 1.4215117583164458887e-7,
                        1.8463183175100546818e-5, 7.868691311456132591e-4, 0.0148753612908506148525,
                        0.13692988092273580531, 0.59983220655588793769, 1
                    ]
                )
        END
    )[1];

-- t with P(T <= t) = p: Newton's method for ln t^2 on the logarithm of the tail, which is concave,
-- from Wallace's normal approximation.
CREATE OR REPLACE MACRO t_quantile(p, df) AS
    list_transform(
        list_transform(
            [{
                'p': p::DOUBLE,
                'tail': 2 * least(p::DOUBLE, 1 - p::DOUBLE),
                'df': df::DOUBLE,
                'nan': isnan(p::DOUBLE) OR isnan(df::DOUBLE),
                'half_square':
                    normal_quantile(p) * normal_quantile(p) / 2 / df::DOUBLE
                    * ((8 * df::DOUBLE + 3) / (8 * df::DOUBLE + 1))
                    * ((8 * df::DOUBLE + 3) / (8 * df::DOUBLE + 1))
            }],
            lambda v: {
                'p': v.p,
                'tail': v.tail,
                'df': v.df,
                'nan': v.nan,
                'start': CASE
                    WHEN v.half_square < 300
                        THEN ln(v.df) + v.half_square + ln(2 * sinh(v.half_square))
                    ELSE ln(v.df) + 2 * v.half_square
                END
            }
        ),
        lambda v: CASE
            WHEN v.p IS NULL OR v.df IS NULL THEN NULL
            WHEN v.nan THEN 'NaN'::DOUBLE
            WHEN v.p < 0 OR v.p > 1 OR v.df <= 0 THEN NULL
            WHEN v.p = 0 THEN '-Infinity'::DOUBLE
            WHEN v.p = 1 THEN 'Infinity'::DOUBLE
            WHEN v.p = 0.5::DOUBLE THEN 0::DOUBLE
            WHEN isinf(v.df) THEN normal_quantile(v.p)
            ELSE
                sign(v.p - 0.5::DOUBLE) * exp(
                    list_reduce(
                        [1, 2, 3, 4, 5],
                        lambda u, step: list_transform(
                            [{
                                'tail': ln_f_tail(
                                    exp(least(u, 345)), 0.5::DOUBLE, v.df / 2
                                ),
                                'density': ln_f_density(
                                    exp(least(u, 345)), 0.5::DOUBLE, v.df / 2
                                )
                            }],
                            lambda now:
                                u
                                + (now.tail - v.df / 2 * greatest(u - 345, 0) - ln(v.tail))
                                * exp(now.tail - now.density)
                        )[1],
                        v.start
                    ) / 2
                )
        END
    )[1];
