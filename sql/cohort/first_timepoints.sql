-- The first included visit of each patient: one independent row per patient.
-- The paper reports ROC and Grad-CAM on these, "to avoid any timepoint correlation bias".
-- grain: one row per patient of the cohort.
-- assumes: one knee per patient (the right one); visit codes sort by time.
FROM cohort
QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY timepoint, side) = 1
