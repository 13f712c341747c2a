-- Every choice the association models depend on, with the paper's reading as default.
-- `SET VARIABLE jsn_grading = 'decimal';` in any DuckDB client changes one for what is read
-- afterwards on that connection; from Python `lake.connect({"jsn_grading": "decimal"})`.
-- grain: one row.
-- assumes: the paper (Results, Tables 2 and 3) wherever it speaks.
-- parameter jsn_grading: 'whole' (OARSI grades 0 to 3) or 'decimal' (changes within a grade as well).
-- parameter regression_split: rows of Table 3: 'test' (where Grad-CAM maps are) or 'all'.
-- parameter cam_target: whose evidence weights DL-guided averages: 'pain', 'no_pain', 'contrastive' (pain less no pain) or 'predicted' (the class the model says, as in the authors' code).
-- parameter cam_scaling: 'scaled' (each knee's map from 0 to 1, the paper's text) or 'rectified' (as it is).
-- parameter averaging: DL-guided averages over the pixels of the 'map' (the paper) or over the bone 'surface'.
-- parameter control_seed: which permutation of patients the leakage controls take (0).
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
    ) AS regression_split,
    one_of(
        'cam_target',
        coalesce(getvariable('cam_target')::VARCHAR, 'pain'),
        ['pain', 'no_pain', 'predicted', 'contrastive']
    ) AS cam_target,
    one_of(
        'cam_scaling',
        coalesce(getvariable('cam_scaling')::VARCHAR, 'scaled'),
        ['scaled', 'rectified']
    ) AS cam_scaling,
    one_of(
        'averaging',
        coalesce(getvariable('averaging')::VARCHAR, 'map'),
        ['map', 'surface']
    ) AS averaging,
    within(
        'control_seed', coalesce(getvariable('control_seed')::BIGINT, 0), 0, 2147483647
    ) AS control_seed
