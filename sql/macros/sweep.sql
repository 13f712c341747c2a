-- Small dense matrices as DOUBLE[][], by rows: products, the sweep operator, and what follows from it.
-- The sweep operator (Goodnight 1979, doi:10.1080/00031305.1979.10482685) turns a symmetric positive
-- definite matrix into its inverse in place, one pivot after the other; on [[H, g], [g', 0]] swept
-- on H's rows it leaves H^-1, the solution H^-1 g and -g' H^-1 g at once. There is no pivoting: scale
-- first. A macro repeats its arguments wherever it names them; a list of one, and a lambda over it,
-- has each worked out once.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: rectangular matrices without NULL; sweeping, a symmetric one whose pivots are not zero.

CREATE OR REPLACE MACRO matrix_column(a, k) AS
    list_transform(a::DOUBLE[][], lambda matrix_row: matrix_row[k]);

CREATE OR REPLACE MACRO matrix_transpose(a) AS
    list_transform(
        [a::DOUBLE[][]],
        lambda m: list_transform(
            range(1, len(m[1]) + 1), lambda j: list_transform(m, lambda matrix_row: matrix_row[j])
        )
    )[1];

-- a x of a matrix and a vector.
CREATE OR REPLACE MACRO matrix_vector(a, x) AS
    list_transform(
        [{'a': a::DOUBLE[][], 'x': x::DOUBLE[]}],
        lambda m: list_transform(m.a, lambda matrix_row: list_dot_product(matrix_row, m.x))
    )[1];

-- a b of two matrices.
CREATE OR REPLACE MACRO matrix_product(a, b) AS
    list_transform(
        [{'a': a::DOUBLE[][], 'columns': matrix_transpose(b)}],
        lambda m: list_transform(
            m.a,
            lambda matrix_row: list_transform(
                m.columns, lambda other: list_dot_product(matrix_row, other)
            )
        )
    )[1];

-- One step: the k-th pivot of a matrix.
CREATE OR REPLACE MACRO matrix_sweep_pivot(a, k) AS
    list_transform(
        a,
        lambda matrix_row, i: list_transform(
            matrix_row,
            lambda element, j: CASE
                WHEN i = k AND j = k THEN 1 / element
                WHEN i = k THEN element / a[k][k]
                WHEN j = k THEN -element / a[k][k]
                ELSE element - matrix_row[k] * a[k][j] / a[k][k]
            END
        )
    );

-- A matrix swept on its first n pivots.
CREATE OR REPLACE MACRO matrix_sweep(a, n) AS
    list_reduce(
        list_transform(range(1, n + 1), lambda k: [[k::DOUBLE]]),
        lambda swept, step: matrix_sweep_pivot(swept, step[1][1]::BIGINT),
        a::DOUBLE[][]
    );

CREATE OR REPLACE MACRO matrix_inverse(a) AS matrix_sweep(a, len(a));

-- ln det of a symmetric positive definite matrix: each pivot is read before its own sweep.
CREATE OR REPLACE MACRO matrix_log_determinant(a) AS
    list_reduce(
        list_transform(range(1, len(a) + 1), lambda k: {'m': [[k::DOUBLE]], 'total': 0::DOUBLE}),
        lambda state, step: {
            'm': matrix_sweep_pivot(state.m, step.m[1][1]::BIGINT),
            'total': state.total + ln(state.m[step.m[1][1]::BIGINT][step.m[1][1]::BIGINT])
        },
        {'m': a::DOUBLE[][], 'total': 0::DOUBLE}
    ).total;

-- Rows t_k, each a combination of the variables 1..k, so that T r T' is the identity: Gram-Schmidt in
-- the inner product of a correlation matrix. 1 / t_kk^2 is the share of variable k's variance that
-- those before it leave unexplained; it is kept above 1e-300, so that a variable that is a
-- combination of others shows as a huge t_kk.
CREATE OR REPLACE MACRO matrix_whitening(r) AS
    list_reduce(
        list_transform(range(1, len(r) + 1), lambda k: [[k::DOUBLE]]),
        lambda done, step: list_concat(
            done,
            list_transform(
                list_transform(
                    [matrix_vector(done, r[step[1][1]::BIGINT])],
                    lambda known: list_transform(
                        range(1, len(r) + 1),
                        lambda j: (j = step[1][1])::INTEGER
                        - coalesce(list_dot_product(known, matrix_column(done, j)), 0)
                    )
                ),
                lambda rest: list_transform(
                    rest,
                    lambda element: element / sqrt(
                        greatest(list_dot_product(rest, matrix_vector(r, rest)), 1e-300)
                    )
                )
            )
        ),
        []::DOUBLE[][]
    );
