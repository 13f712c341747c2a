-- One-way MANOVA of two outcomes, from sums of squares and products.
-- E (within groups) and H (between groups) are symmetric 2 x 2 matrices handed over as
-- (e11, e12, e22) and (h11, h12, h22). 1 - Wilks' lambda is worked out from H itself, since
-- subtracting determinants would lose the digits that a p-value near 0 or 1 is made of.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: two outcomes; with three or more groups both F statistics have 2 (groups - 1) degrees
-- of freedom above, and that of Wilks' lambda is exact (Rao). Pillai's is the usual approximation.

-- Determinant of the symmetric matrix [[a, b], [b, c]].
CREATE OR REPLACE MACRO determinant2(a, b, c) AS a::DOUBLE * c::DOUBLE - b::DOUBLE * b::DOUBLE;

-- tr(X adj(Y)) of symmetric 2 x 2 matrices, so that tr(X Y^-1) = trace_adjugate / determinant2(Y).
CREATE OR REPLACE MACRO trace_adjugate2(x11, x12, x22, y11, y12, y22) AS
    x11::DOUBLE * y22::DOUBLE - 2 * x12::DOUBLE * y12::DOUBLE + x22::DOUBLE * y11::DOUBLE;

-- 1 - det(E) / det(E + H).
CREATE OR REPLACE MACRO one_minus_wilks(e11, e12, e22, h11, h12, h22) AS
    (trace_adjugate2(h11, h12, h22, e11, e12, e22) + determinant2(h11, h12, h22))
    / determinant2(e11 + h11, e12 + h12, e22 + h22);

-- tr(H (E + H)^-1).
CREATE OR REPLACE MACRO pillai_trace(e11, e12, e22, h11, h12, h22) AS
    trace_adjugate2(h11, h12, h22, e11 + h11, e12 + h12, e22 + h22)
    / determinant2(e11 + h11, e12 + h12, e22 + h22);

-- F of Wilks' lambda for n rows in k groups; df are (2 (k-1), 2 (n-k-1)), for k = 2 (2, n-3).
CREATE OR REPLACE MACRO wilks_f(less_wilks, n, k) AS
    CASE
        WHEN k = 2 THEN less_wilks / (1 - less_wilks) * (n - 3) / 2
        ELSE
            less_wilks / (1 + sqrt(1 - less_wilks)) / sqrt(1 - less_wilks) * (n - k - 1) / (k - 1)
    END;

CREATE OR REPLACE MACRO wilks_df2(n, k) AS CASE WHEN k = 2 THEN n - 3 ELSE 2 * (n - k - 1) END;

-- F of Pillai's trace for n rows in k groups; df are (2 (k-1), 2 (n-k)), for k = 2 (2, n-3).
CREATE OR REPLACE MACRO pillai_f(pillai, n, k) AS
    CASE
        WHEN k = 2 THEN pillai / (1 - pillai) * (n - 3) / 2
        ELSE pillai / (2 - pillai) * (n - k) / (k - 1)
    END;

CREATE OR REPLACE MACRO pillai_df2(n, k) AS CASE WHEN k = 2 THEN n - 3 ELSE 2 * (n - k) END;
