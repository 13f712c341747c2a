-- Guards and stable random numbers shared by the cohort's files.
-- grain: no rows; `CREATE MACRO` statements.
-- assumes: MD5, the same in every DuckDB version and in every other language (`hash` is not).

-- The value where it is one of those allowed; otherwise an error that names the parameter.
CREATE OR REPLACE MACRO one_of(name, value, allowed) AS
    CASE
        WHEN list_contains(allowed, value) THEN value
        ELSE error(
            'parameter ' || name || ' is ' || coalesce(value::VARCHAR, 'NULL')
            || '; use one of ' || array_to_string(allowed, ', ')
        )
    END;

-- The value where it lies within limits; otherwise an error that names the parameter.
CREATE OR REPLACE MACRO within(name, value, low, high) AS
    CASE
        WHEN value BETWEEN low AND high THEN value
        ELSE error(
            'parameter ' || name || ' is ' || coalesce(value::VARCHAR, 'NULL')
            || '; use ' || low::VARCHAR || ' to ' || high::VARCHAR
        )
    END;

-- A number in [0, 1) that is the same for one name and seed on every machine, for ever: the first
-- 52 bits of their MD5.
CREATE OR REPLACE MACRO seeded_uniform(seed, name) AS
    ('0x' || substr(md5(seed::VARCHAR || ':' || name::VARCHAR), 1, 13))::BIGINT / 4503599627370496::DOUBLE;
