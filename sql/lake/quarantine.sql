-- Inputs that are refused now, each with its reason and what to do.
-- A refusal by segmentation or maps counts while its batch is the newest that tried the knee-visit.
-- A refusal at ingest counts until something lands for its knee-visit in a later batch; a file that
-- tells no knee-visit stays, its newest refusal only. A refused clinical table, or published table,
-- counts until a file of its name lands in a later batch. All refusals ever: quarantine_history.
-- grain: one row per refused file and step.
-- assumes: a later delivery for the same knee-visit answers an earlier refusal.
WITH landed AS (
    SELECT knee_visit, max(batch_number) AS batch_number
    FROM (
        SELECT knee_visit, batch_number FROM scans_history
        UNION ALL
        SELECT knee_visit, batch_number FROM label_files_history
    )
    GROUP BY knee_visit
),
at_ingest AS (
    SELECT *
    FROM quarantine_history
    WHERE stage = 'ingest'
    QUALIFY rank() OVER (PARTITION BY knee_visit, file ORDER BY batch_number DESC) = 1
),
of_clinical_tables AS (
    SELECT *
    FROM quarantine_history
    WHERE stage = 'clinical'
    QUALIFY rank() OVER (PARTITION BY file ORDER BY batch_number DESC) = 1
),
of_published_tables AS (
    SELECT *
    FROM quarantine_history
    WHERE stage = 'published'
    QUALIFY rank() OVER (PARTITION BY file ORDER BY batch_number DESC) = 1
),
refused AS (
    SELECT at_ingest.*
    FROM at_ingest
    LEFT JOIN landed ON landed.knee_visit = at_ingest.knee_visit
    WHERE landed.batch_number IS NULL OR landed.batch_number <= at_ingest.batch_number
    UNION ALL BY NAME
    SELECT tried.*
    FROM quarantine_history AS tried
    SEMI JOIN ledger
        ON ledger.knee_visit = tried.knee_visit
        AND ledger.step = tried.stage
        AND ledger.batch_id = tried.batch_id
    UNION ALL BY NAME
    SELECT of_clinical_tables.*
    FROM of_clinical_tables
    ANTI JOIN releases_history AS landed_table
        ON parse_filename(landed_table.file) = parse_filename(of_clinical_tables.file)
        -- Inventories are all called contents.csv, in a folder per visit.
        AND (
            landed_table.file = of_clinical_tables.file
            OR parse_filename(landed_table.file) NOT ILIKE 'contents%'
        )
        AND landed_table.batch_number > of_clinical_tables.batch_number
    UNION ALL BY NAME
    SELECT of_published_tables.*
    FROM of_published_tables
    ANTI JOIN published_cases_history AS landed_table
        ON parse_filename(landed_table.file) = parse_filename(of_published_tables.file)
        AND landed_table.batch_number > of_published_tables.batch_number
)
SELECT * EXCLUDE (batch_number) FROM refused
