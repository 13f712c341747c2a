-- Every choice the association models depend on, with the paper's reading as default.
-- `SET VARIABLE jsn_grading = 'decimal';` in any DuckDB client changes one for what is read
-- afterwards on that connection; from Python `lake.connect({"jsn_grading": "decimal"})`.
-- grain: one row.
-- assumes: the paper (Results, Tables 2 and 3) wherever it speaks.
-- parameter jsn_grading: 'whole' (OARSI grades 0 to 3) or 'decimal' (changes within a grade as well).
-- parameter regression_split: rows of Table 3: 'test' (where Grad-CAM maps are) or 'all'.
SELECT
    one_of(
        'jsn_grading',
        coalesce(getvariable('jsn_grading')::VARCHAR, 'whole'),
        ['whole', 'decimal']
    ) AS jsn_grading,
    one_of(
        'regression_split',
        coalesce(getvariable('regression_split')::VARCHAR, 'test'),
        ['test', 'all']
    ) AS regression_split
