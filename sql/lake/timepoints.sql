-- The visits and the months since baseline they were planned at.
-- V02 (18 months) and V04 (30 months) saw part of the participants only.
-- grain: one row per timepoint.
-- assumes: the schedule of the Osteoarthritis Initiative.
SELECT timepoint, months
FROM (
    VALUES ('V00', 0), ('V01', 12), ('V02', 18), ('V03', 24), ('V04', 30), ('V05', 36),
    ('V06', 48), ('V07', 60), ('V08', 72), ('V09', 84), ('V10', 96), ('V11', 108)
) AS visits (timepoint, months)
