"""The registry of every table: columns, types, units, ranges and what they mean.

One registry, four uses: the schema enforced on write, the asset checks, the column schemas shown in
the UI, and the data dictionary. No wall-clock time is a column, so the same input gives the same
rows; `varies` marks the one measurement of the machine (seconds) that may differ between runs.
"""

from collections.abc import Mapping

import pyarrow as pa

from imaging.labels import COMPARTMENTS, Tissue
from lake.association_tables import ATLAS_TABLES
from lake.keys import (
    BIOMARKER_RANGES,
    BIOMARKER_UNITS,
    CAM_TARGETS,
    KNEE_VISIT_RULE,
    PREDICTION_KEY,
    SIDES,
    STRATEGIES,
    TASKS,
    TIMEPOINTS,
    UNKNOWN_TIMEPOINT,
    knee_key,
    prediction_key,
)
from lake.keys import BONE as _BONE
from lake.registry import BATCH_ID, Check, Column, Table
from lake.registry import count as _count
from lake.registry import number as _number
from lake.registry import text as _text
from lake.registry import whole as _whole
from lake.registry import yes_no as _yes_no
from lake.statistics_tables import STATISTICS_TABLES

SEQUENCES = ("DESS", "MSME")
ALL_TIMEPOINTS = "all"
"""Timepoint of a batch whose rows are of any visit: a release of clinical tables, an analysis."""
LEDGER_STEPS = ("network_labels", "segmentation", "maps", "images", "correspondence")
"""Steps that work knee-visit by knee-visit: the ledger says what they tried."""
LEARNING_STEPS = ("segmentation_networks", "ranges", "classifiers", "sweep", "predictions")
"""Steps that are pending model by model: their tables say themselves what has been done."""
SPANNING_STEPS = (
    "clinical",
    "published",
    "statistics",
    "segmentation_networks",
    "ranges",
    "classifiers",
    "sweep",
    "atlas",
    "controls",
)
"""Steps whose rows are of any visit, or of none: their batches are of `ALL_TIMEPOINTS`."""
ASSOCIATION_STEPS = ("atlas", "atlas_maps", "guided", "controls")
"""Steps between Grad-CAM and statistics: their rows carry the fingerprint of what they are of."""
STEPS = (
    "ingest",
    "clinical",
    "published",
    "statistics",
    *LEDGER_STEPS,
    *LEARNING_STEPS,
    *ASSOCIATION_STEPS,
)
MISSING_REASONS: Mapping[str, str] = {
    "missing_form": "the source says the form or workbook is missing (SAS `.`)",
    "blank": "an empty cell",
    "collapsed": "missing in a source that keeps no reason (ASCII, NDA): any reason is possible",
    "not_expected": "not asked, because an earlier answer made it pointless (`.A`)",
    "below_range": "`.B`",
    "cannot_do": "cannot do or attempted (`.C`)",
    "dont_know": "does not know (`.D`)",
    "non_exposed_control": "`.E`",
    "not_done_phone_contact": "`.F`",
    "unreleased_high": "`.G`",
    "above_range": "`.H`",
    "inadequate_data": "`.I`",
    "unassigned": "`.J`",
    "cannot_do_not_attempted": "`.K`",
    "permanently_lost": "`.L`",
    "missing": "`.M`",
    "not_required": "`.N`",
    "not_done_other": "`.O`",
    "prosthetic": "a prosthetic joint (`.P`)",
    "refused": "`.R`",
    "unreleased_low": "`.S`",
    "technical_problem": "`.T`",
    "unable_to_examine": "`.U`",
    "missed_visit": "`.V`",
    "impossible_value": "`.W`",
    "does_not_do": "`.X`",
    "not_delivered": "no release that landed holds this column for this visit",
}
"""Why a value is missing, as clinical tables say it; the letters are the OAI's SAS codes."""
DIALECTS = ("contents", "nda", "ascii", "sas")
"""Forms of the OAI's tables, the one that keeps most last: of the same value the last counts."""

_SCHEME = _text("scheme", "The tissue map that gives the label values a meaning.")
NETWORK_SOURCES = ("ensemble", "monai_bundle", "nnunet")
"""Where a label can come from besides a delivery: our networks, a MONAI bundle, nnU-Net."""
_SOURCE = _text("source", "Where the label comes from.", ("delivered", *NETWORK_SOURCES))
_LABEL_FINGERPRINT = _text("label_fingerprint", "SHA-256 of the label file's content.")


def _grid(what: str) -> tuple[Column, ...]:
    sizes = [
        Column(f"n_{axis}", pa.int64(), f"{axis.capitalize()}s of the {what}.", minimum=1)
        for axis in ("slice", "row", "column")
    ]
    spacings = [
        _number(f"{axis}_spacing_mm", f"Distance between {axis}s.", "mm", 0.01, 20.0)
        for axis in ("slice", "row", "column")
    ]
    return (*sizes, *spacings)


def _biomarker_rules() -> tuple[Check, ...]:
    ranges = tuple(
        Check(
            f"{biomarker}_in_range",
            "mean",
            f"biomarker <> '{biomarker}' OR mean IS NULL OR mean BETWEEN {low!r} AND {high!r}",
            f"expected {low:g} to {high:g} {BIOMARKER_UNITS[biomarker]} for {biomarker}",
        )
        for biomarker, (low, high) in BIOMARKER_RANGES.items()
    )
    return (
        KNEE_VISIT_RULE,
        *ranges,
        Check("mean_present", "mean", "n = 0 OR mean IS NOT NULL", "may be NULL only with n = 0"),
        Check(
            "sd_present", "sd", "n <= 1 OR sd IS NOT NULL", "may be NULL only with n = 0 or n = 1"
        ),
    )


def with_reasons(*columns: Column) -> tuple[Column, ...]:
    """Each column followed by `<name>_missing`, the reason where the value is NULL."""
    return tuple(
        both
        for column in columns
        for both in (
            column,
            _text(
                f"{column.name}_missing",
                f"Why {column.name} is missing; NULL where it is not.",
                tuple(MISSING_REASONS),
                nullable=True,
            ),
        )
    )


def _reason_rules(columns: tuple[Column, ...]) -> tuple[Check, ...]:
    return tuple(
        Check(
            f"{column.name}_or_reason",
            column.name,
            f"retracted OR ({column.name} IS NULL) = ({column.name}_missing IS NOT NULL)",
            "expected either a value or the reason why it is missing",
        )
        for column in columns
    )


_SUBJECT_ID = Column("subject_id", pa.int64(), "The participant's study number.", minimum=1)
_TIMEPOINT = _text("timepoint", "The visit.", TIMEPOINTS)
_SIDE = _text("side", "The knee's side.", SIDES)
_RETRACTED = Column(
    "retracted",
    pa.bool_(),
    "True where a later release lists this row no more; such rows are in the history only.",
)
_SHA256 = _text("sha256", "SHA-256 of the release file.")

_OTHER_JOINTS = ("shoulder", "elbow", "wrist", "hand", "ankle", "foot")


def _side_items(side: str) -> tuple[Column, ...]:
    knee = f"{side} knee pain, aching or stiffness"
    hip = f"{side} hip pain, aching or stiffness"
    month = "on more than half the days of a month, past 12 months"
    days = "on more than half the days, past 30 days"
    letter = side[0].upper()
    return (
        _yes_no(f"knee_any_pain_12m_{side}", f"Any {knee}, past 12 months (KPN{letter}12)."),
        _yes_no(f"knee_frequent_pain_12m_{side}", f"{knee} {month} (KP{letter}12CV)."),
        _whole(
            f"knee_frequent_pain_months_12m_{side}",
            f"Months with {knee} on more than half the days (KPN{letter}12M).",
            "months",
            0,
            12,
        ),
        _yes_no(f"knee_any_pain_30d_{side}", f"Any {knee}, past 30 days ({letter}KP30CV)."),
        _yes_no(f"knee_frequent_pain_30d_{side}", f"{knee} {days} (KP{letter}30CV)."),
        _yes_no(f"hip_any_pain_12m_{side}", f"Any {hip}, past 12 months (HPN{letter}12)."),
        _yes_no(f"hip_frequent_pain_12m_{side}", f"{hip} {month} (HP{letter}12CV)."),
        *(
            _yes_no(
                f"{joint}_frequent_pain_30d_{side}",
                f"{side} {joint} pain, aching or stiffness {days} "
                f"(OJPN{letter}{joint[0].upper()}); "
                "false only where the question on other joints was answered.",
            )
            for joint in _OTHER_JOINTS
        ),
        _number(f"womac_pain_{side}", f"WOMAC pain score, {side} knee.", "points", 0.0, 20.0, True),
    )


ENROLLEE_VALUES = (
    _text("sex", "Sex.", ("M", "F"), nullable=True),
    _text("race", "Race.", ("other", "white", "black", "asian"), nullable=True),
    _yes_no("hispanic", "Hispanic or Latino."),
    _text("cohort", "Study cohort.", ("progression", "incidence", "control"), nullable=True),
    _text("site", "Clinical centre.", ("A", "B", "C", "D", "E"), nullable=True),
    _whole("half", "First or second half of the cohort to be released.", "", 1, 2),
)
CLINICAL_VISIT_VALUES = (
    _whole("visit_day", "Days from the enrollment visit; 0 at V00.", "days", 0, 7300),
    _whole("age_years", "Age in completed years.", "years", 40, 110),
    _number("bmi", "Body-mass index.", "kg/m2", 10.0, 80.0, True),
    _yes_no("back_any_pain_30d", "Any back pain, past 30 days (BP30)."),
    _whole(
        "back_pain_frequency_30d",
        "How often back pain bothered: 0 rarely, 1 some, 2 most, 3 all of the time (BP30OFT).",
        "",
        0,
        3,
    ),
    _yes_no(
        "neck_frequent_pain_30d",
        "Neck pain, aching or stiffness on more than half the days, past 30 days (OJPNNK); false "
        "only where the question on other joints was answered.",
    ),
    _yes_no(
        "no_other_joint_pain_30d",
        "None of neck, shoulders, elbows, wrists, hands, ankles, feet hurt (OJPNNO = 0); false "
        "where one of them was named.",
    ),
    *_side_items("right"),
    *_side_items("left"),
)
RADIOGRAPH_VALUES = (
    _whole("kl_grade", "Kellgren and Lawrence grade (XRKL).", "grade", 0, 4),
    _number(
        "jsn_medial",
        "Medial joint space narrowing, OARSI grade; decimals within a grade (XRJSM).",
        "grade",
        0.0,
        3.9,
        True,
    ),
    _number("jsn_lateral", "Lateral joint space narrowing (XRJSL).", "grade", 0.0, 3.9, True),
    _number(
        "jsw_medial_min_mm", "Minimum medial joint space width (MCMJSW).", "mm", 0.0, 20.0, True
    ),
    _text("barcode", "Archive barcode of the image, 12 digits (text: it opens with 0).", (), True),
)
SCAN_LISTED_VALUES = (
    Column("acquired", pa.bool_(), "Whether the series was scanned.", nullable=True),
    _text("barcode", "Archive barcode of the latest scan, 12 digits.", (), True),
    _text("quality", "Quality control result (QCRESLT).", ("Y", "YD", "NR", "N"), True),
    _text("not_acquired_reason", "Why it was not scanned (MNDREAS).", (), True),
    _whole("n_series", "Series acquired, repeats included.", "", 0),
)
OUTCOME_VALUES = (
    _whole(
        "knee_replacement_day",
        "Day of the first knee replacement after enrollment (ERKDAYS, ELKDAYS).",
        "days",
        0,
        7300,
    ),
    _yes_no(
        "knee_replaced_at_baseline",
        "A replacement is seen on the baseline X-ray (ERKBLRP, ELKBLRP).",
    ),
    _whole(
        "knee_replacement_status",
        "0 failed to confirm, 1 self-reported, 2 pending, 3 confirmed (ERKRPCF, ELKRPCF).",
        "",
        0,
        3,
    ),
    _text(
        "knee_replacement_reported_at",
        "Visit at which it was first reported (ERKVSRP, ELKVSRP).",
        TIMEPOINTS,
        True,
    ),
)


_MODEL = (
    _text("task", "What is predicted.", TASKS),
    _BONE,
    _text("strategy", "How the bone's maps are merged into three channels.", STRATEGIES),
)
_ARCHITECTURE = _text("architecture", "The network.", ("resnet18", "resnet34", "resnet50"))
_WIDTH = _number("width", "Channels relative to the published network.", "1", 0.01, 4.0)
_INITIALIZATION = _text("initialization", "What it began with.", ("random", "imagenet", "oa"))
_CONFIG_HASH = _text("config_hash", "SHA-256 of the training's whole configuration.")
_DATA_HASH = _text("data_hash", "SHA-256 of knee-visits, labels, splits and images.")
_TRAINING_CODE = _text("code_version", "Version of the code that trained it.")


def _seconds(what: str) -> Column:
    return Column("seconds", pa.float64(), what, "s", minimum=0.0, varies=True)


def _validation(nullable: bool = False) -> tuple[Column, ...]:
    """How a classifier does on its validation split."""
    return (
        _number("val_loss", "Class-weighted cross-entropy.", "nats", nullable=nullable),
        _number("val_sensitivity", "At a probability above 0.5.", "1", 0.0, 1.0, nullable),
        _number("val_specificity", "At a probability of 0.5 or less.", "1", 0.0, 1.0, nullable),
        _number("val_auc", "Area under the ROC curve.", "1", 0.0, 1.0, nullable),
        _number("val_mcc", "Matthews correlation.", "1", -1.0, 1.0, nullable),
    )


_AUC_VARIATION = (
    "Coefficient of variation of the validation AUC over the epochs: how rough the training was."
)


_ALL = (
    Table(
        "scans",
        "Scans that landed: one row per knee-visit and sequence.",
        (
            *knee_key(),
            _text("sequence", "DESS (structure) or MSME (T2).", SEQUENCES),
            _text("series_fingerprint", "SHA-256 of the files' contents, in any order."),
            _count("n_files", "Files the series was read from.", 1),
            *_grid("scan"),
            Column(
                "affine",
                pa.list_(pa.float64()),
                "4 x 4 matrix by rows, (slice, row, column) index to LPS mm: the grid a label of "
                "the scan has to lie on.",
                "mm",
                minimum=-5000.0,
                maximum=5000.0,
            ),
            Column(
                "echo_times_ms",
                pa.list_(pa.float64()),
                "Echo times, rising.",
                "ms",
                minimum=0.01,
                maximum=1000.0,
            ),
            BATCH_ID,
        ),
        step="ingest",
        key=("knee_visit", "sequence"),
        grain=("knee_visit", "sequence"),
        rules=(
            KNEE_VISIT_RULE,
            Check("affine_size", "affine", "len(affine) = 16", "expected 16 numbers"),
        ),
    ),
    Table(
        "label_files",
        "Label volumes as they were delivered: one row per knee-visit.",
        (*knee_key(), _SCHEME, _SOURCE, _LABEL_FINGERPRINT, BATCH_ID),
        step="ingest",
        key=("knee_visit",),
        grain=("knee_visit",),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "segmentation_networks",
        "Segmentation networks trained here: the newest ensemble of each task, a row per network.",
        (
            _text("task", "What its ensemble segments.", ("bone", "cartilage")),
            _text("member", "The network: task, architecture, dimensions and loss."),
            _text("architecture", "vnet, or reduced for trials.", ("vnet", "reduced")),
            _count("dimensions", "3 for volumes, 2 for sagittal slices.", 2),
            _text("loss", "What it was trained with."),
            _text("checkpoint", "Its weights, relative to the lake's root."),
            _text("checkpoint_hash", "SHA-256 of that file."),
            _text("data_hash", "Hash of the labelled scans and their splits."),
            Column("seed", pa.int64(), "Of weights, sampling and augmentation.", minimum=0),
            _count("best_step", "Step whose weights were kept.", 1),
            _number("validation_dice", "Mean Dice at that step, validation cases.", "1", 0.0, 1.0),
            BATCH_ID,
        ),
        partitioned=False,
        step="segmentation_networks",
        key=("task",),
        grain=("task", "member"),
    ),
    Table(
        "segmentation_cases",
        "The newest ensembles against drawn labels: one row per knee-visit and tissue.",
        (
            *knee_key(),
            _text("split", "Of the labelled scans, by person.", ("train", "validation", "test")),
            _text("tissue", "The tissue.", tuple(str(tissue) for tissue in Tissue)),
            _text("segmenter_hash", "The ensembles and how they were run."),
            _number("dice", "Dice score coefficient.", "1", 0.0, 1.0),
            _number(
                "mpts_mm",
                "Mean distance of the predicted surface's points to the drawn surface; NULL where "
                "either is empty.",
                "mm",
                0.0,
                500.0,
                True,
            ),
            _number(
                "mpts_voxel_mm", "The same between edge voxels.", "mm", 0.0, 500.0, nullable=True
            ),
            _number("predicted_mm3", "Volume the networks found.", "mm3", 0.0, 2e6),
            _number("drawn_mm3", "Volume drawn.", "mm3", 0.0, 2e6),
            BATCH_ID,
        ),
        step="segmentation_networks",
        key=("tissue",),
        grain=("knee_visit", "tissue"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "segmentation_performance",
        "Table S1: how well the newest ensembles do on test people, one row per tissue. Intervals "
        "are percentile bootstraps of the mean over knee-visits.",
        (
            _text("tissue", "The tissue.", tuple(str(tissue) for tissue in Tissue)),
            _text("segmenter_hash", "The ensembles and how they were run."),
            _count("n", "Test knee-visits.", 1),
            _count("n_empty", "Of these the networks found nothing in; they have no distance."),
            *(
                _number(f"{measure}_{part}", f"{what}, {how}.", unit, 0.0, nullable=null)
                for measure, what, unit, null in (
                    ("dice", "Dice score coefficient", "1", False),
                    ("mpts_mm", "Mean point-to-surface distance", "mm", True),
                    ("mpts_voxel_mm", "The same between edge voxels", "mm", True),
                )
                for part, how in (
                    ("mean", "mean"),
                    ("low", "lower end of the 95 % interval"),
                    ("high", "upper end of the 95 % interval"),
                )
            ),
            BATCH_ID,
        ),
        partitioned=False,
        step="segmentation_networks",
        key=("tissue",),
        grain=("tissue",),
    ),
    Table(
        "network_labels",
        "Labels that a network gave: one row per knee-visit.",
        (
            *knee_key(),
            _SCHEME,
            _text("source", "What kind of network.", NETWORK_SOURCES),
            _LABEL_FINGERPRINT,
            _text("dess_fingerprint", "The scan it is a label of."),
            _text("segmenter_hash", "The networks and how they were run."),
            Column(
                "replaces_delivered",
                pa.bool_(),
                "Whether it counts although a label was delivered; by default it does not.",
            ),
            BATCH_ID,
        ),
        step="network_labels",
        key=("knee_visit",),
        grain=("knee_visit",),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "segmentations",
        "Label volumes checked and put into the right-knee frame: one row per knee-visit.",
        (
            *knee_key(),
            _SCHEME,
            _SOURCE,
            _LABEL_FINGERPRINT,
            _text("side_evidence", "What the side was decided from."),
            Column("mirrored", pa.bool_(), "A left knee mirrored into the right-knee frame."),
            *_grid("label volume"),
            BATCH_ID,
        ),
        step="segmentation",
        key=("knee_visit",),
        grain=("knee_visit",),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "tissue_volumes",
        "Volume of each tissue of the label: one row per knee-visit and tissue.",
        (
            *knee_key(),
            _text("tissue", "The tissue.", tuple(str(tissue) for tissue in Tissue)),
            _number("volume_mm3", "Voxels times the volume of a voxel.", "mm3", 0.0, 2e6),
            BATCH_ID,
        ),
        step="segmentation",
        key=("knee_visit",),
        grain=("knee_visit", "tissue"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "maps_index",
        "Where each knee's spherical maps lie: one row per knee-visit and bone.",
        (
            *knee_key(),
            _BONE,
            _text("part", "The Zarr part, relative to the lake's root."),
            Column("row", pa.int64(), "The knee's index in the part.", minimum=0),
            *(
                _number(
                    f"centroid_{axis}_mm",
                    f"The map's centre along {axis} of the right-knee frame.",
                    "mm",
                    -5000.0,
                    5000.0,
                )
                for axis in "xyz"
            ),
            Column("mirrored", pa.bool_(), "A left knee mirrored into the right-knee frame."),
            _number(
                "multi_hit_share",
                "Share of rays that meet the surface more than once.",
                "1",
                0.0,
                1.0,
            ),
            _number(
                "hidden_cartilage_share",
                "Share of the cartilage-covered surface the map cannot show; NULL without any.",
                "1",
                0.0,
                1.0,
                nullable=True,
            ),
            _number(
                "covered_share",
                "Cartilage-covered share, by area, of the surface the map shows.",
                "1",
                0.0,
                1.0,
            ),
            Column("has_t2", pa.bool_(), "Whether the three T2 maps hold values."),
            BATCH_ID,
        ),
        step="maps",
        key=("knee_visit",),
        grain=("knee_visit", "bone"),
        rules=(KNEE_VISIT_RULE,),
        parts="maps",
    ),
    Table(
        "biomarkers",
        "Biomarkers, long: one row per knee-visit, bone, compartment, biomarker and method.",
        (
            *knee_key(),
            _BONE,
            _text("compartment", "The whole bone or one side of it.", COMPARTMENTS),
            _text("biomarker", "The biomarker; its unit follows.", tuple(BIOMARKER_UNITS)),
            _text("method", "How it was measured."),
            Column("is_default", pa.bool_(), "The method of the published tables."),
            _number("mean", "Mean; NULL where nothing was measured.", "mm or ms", nullable=True),
            _number("sd", "Standard deviation over the compartment.", "mm or ms", nullable=True),
            _count("n", "Measurements averaged."),
            _number("area_mm2", "Surface they lie on.", "mm2", 0.0, 1e5),
            BATCH_ID,
        ),
        step="maps",
        key=("knee_visit",),
        grain=("knee_visit", "bone", "compartment", "biomarker", "method"),
        rules=_biomarker_rules(),
    ),
    Table(
        "map_agreement",
        "A biomarker's mean on the surface and on its map: one row per knee-visit, bone, "
        "biomarker.",
        (
            *knee_key(),
            _BONE,
            _text("biomarker", "The biomarker; its unit follows.", tuple(BIOMARKER_UNITS)),
            _number("surface_mean", "Mean over the surface.", "mm or ms"),
            _number("map_mean", "Mean over the map's pixels.", "mm or ms"),
            _number(
                "map_mean_area_weighted",
                "Mean over the map's pixels weighted by the surface each stands for.",
                "mm or ms",
            ),
            _count("n_surface", "Surface points averaged.", 1),
            _count("n_map", "Map pixels averaged.", 1),
            BATCH_ID,
        ),
        step="maps",
        key=("knee_visit",),
        grain=("knee_visit", "bone", "biomarker"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "t2_quality",
        "How well the T2 fit and its registration went: one row per knee-visit and bone.",
        (
            *knee_key(),
            _BONE,
            _count("n_voxel", "Cartilage voxels fitted or refused."),
            _number("fraction_at_bound", "Share of voxels whose T2 met a bound.", "1", 0.0, 1.0),
            _number("fraction_unfitted", "Share of voxels without a fit.", "1", 0.0, 1.0),
            _number(
                "median_residual",
                "Median root-mean-square residual; NULL where nothing was fitted.",
                "signal",
                nullable=True,
            ),
            *(
                _number(
                    f"shift_{axis}_mm",
                    f"Image-based shift of MSME onto DESS along {axis} of the right-knee frame.",
                    "mm",
                    -50.0,
                    50.0,
                )
                for axis in "xyz"
            ),
            Column("shift_accepted", pa.bool_(), "Whether that shift was used."),
            BATCH_ID,
        ),
        step="maps",
        key=("knee_visit",),
        grain=("knee_visit", "bone"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "releases",
        "Release files of clinical tables that landed: one row per file content.",
        (
            _SHA256,
            _text("file", "The file, as short as still finds it."),
            _text("source_table", "Table of the OAI, in lower case and without its visit code."),
            _text("dialect", "Form of the file.", DIALECTS),
            _text(
                "version", "Release version the rows carry; NULL where they carry none.", (), True
            ),
            _text("visit", "Visit of the file, or 'all'.", (*TIMEPOINTS, ALL_TIMEPOINTS)),
            _count("n_rows", "Rows of the file."),
            BATCH_ID,
        ),
        partitioned=False,
        step="clinical",
        key=("sha256",),
        grain=("sha256",),
    ),
    Table(
        "column_sources",
        "Which release each column of each visit comes from: one row per table, column and visit.",
        (
            _text("table_name", "The clinical table."),
            _text("column_name", "Its column."),
            _text("visit", "The visit, or 'all'.", (*TIMEPOINTS, ALL_TIMEPOINTS)),
            _text("source_variable", "Name of the variable in that release."),
            _text("dialect", "Form of the release.", DIALECTS),
            _text("version", "Its version.", (), True),
            _SHA256,
            BATCH_ID,
        ),
        partitioned=False,
        step="clinical",
        key=("table_name", "column_name", "visit"),
        grain=("table_name", "column_name", "visit"),
    ),
    Table(
        "enrollees",
        "The participants: one row each.",
        (_SUBJECT_ID, *with_reasons(*ENROLLEE_VALUES), _RETRACTED, BATCH_ID),
        partitioned=False,
        step="clinical",
        key=("subject_id",),
        grain=("subject_id",),
        rules=_reason_rules(ENROLLEE_VALUES),
    ),
    Table(
        "clinical_visits",
        "What was asked and measured at a visit: one row per participant and visit attended.",
        (_SUBJECT_ID, _TIMEPOINT, *with_reasons(*CLINICAL_VISIT_VALUES), _RETRACTED, BATCH_ID),
        step="clinical",
        key=("subject_id", "timepoint"),
        grain=("subject_id", "timepoint"),
        rules=_reason_rules(CLINICAL_VISIT_VALUES),
    ),
    Table(
        "radiographs",
        "Readings of knee radiographs: one row per knee, visit and reading project.",
        (
            *knee_key(),
            _whole(
                "reading_project", "Reading project; 42 is stored as 37.", "", 1, nullable=False
            ),
            *with_reasons(*RADIOGRAPH_VALUES),
            _RETRACTED,
            BATCH_ID,
        ),
        step="clinical",
        key=("knee_visit", "reading_project"),
        grain=("knee_visit", "reading_project"),
        rules=(KNEE_VISIT_RULE, *_reason_rules(RADIOGRAPH_VALUES)),
    ),
    Table(
        "scans_listed",
        "Scans a release says were made: one row per knee-visit and sequence.",
        (
            *knee_key(),
            _text("sequence", "DESS (structure) or MSME (T2).", SEQUENCES),
            *with_reasons(*SCAN_LISTED_VALUES),
            _RETRACTED,
            BATCH_ID,
        ),
        step="clinical",
        key=("knee_visit", "sequence"),
        grain=("knee_visit", "sequence"),
        rules=(KNEE_VISIT_RULE, *_reason_rules(SCAN_LISTED_VALUES)),
    ),
    Table(
        "outcomes",
        "Knee replacements: one row per knee.",
        (_SUBJECT_ID, _SIDE, *with_reasons(*OUTCOME_VALUES), _RETRACTED, BATCH_ID),
        partitioned=False,
        step="clinical",
        key=("subject_id", "side"),
        grain=("subject_id", "side"),
        rules=_reason_rules(OUTCOME_VALUES),
    ),
    Table(
        "drawn_knees",
        "Knee-visits whose maps were drawn from the phantom's model, without images, and what was "
        "planted in them: one row per knee-visit and bone.",
        (
            *knee_key(),
            _BONE,
            Column("seed", pa.int64(), "Of the cohort.", minimum=0),
            _text("pain_label", "The label the planted change goes with.", nullable=True),
            _number("amplitude", "How pronounced the planted change is.", "SD", -100.0, 100.0),
            _number(
                "separation",
                "Its mean with chronic pain less that without; 0 in a null cohort.",
                "SD",
            ),
            _text("effect", "What one SD does to the maps, as JSON."),
            BATCH_ID,
        ),
        step="maps",
        key=("knee_visit",),
        grain=("knee_visit", "bone"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "map_ranges",
        "What the ends of the 8-bit scale stand for: one row per set, bone and map. A set never "
        "changes once it is fitted; fitting anew makes another, and the newest of its kind counts.",
        (
            _text("ranges_id", "Hash of the set's values and of how they were chosen."),
            _text("population", "Knees it is fitted on.", ("training", "all")),
            _number("lower_quantile", "Quantile of the lower end; 0 is the minimum.", "1", 0, 1),
            _number("upper_quantile", "Quantile of the upper end; 1 is the maximum.", "1", 0, 1),
            _BONE,
            _text("biomarker", "The map; its unit follows.", tuple(BIOMARKER_UNITS)),
            _number("minimum", "Value that becomes 0.", "mm or ms", -1000.0, 1000.0),
            _number("maximum", "Value that becomes 255.", "mm or ms", -1000.0, 1000.0),
            _count("n_knee_visit", "Knee-visits whose map it is fitted on.", 1),
            _count("n_value", "Pixels with a value on those maps.", 1),
            BATCH_ID,
        ),
        partitioned=False,
        step="ranges",
        key=("population", "lower_quantile", "upper_quantile"),
        grain=("ranges_id", "bone", "biomarker"),
        rules=(
            Check("range_rises", "maximum", "maximum > minimum", "expected more than minimum"),
            Check(
                "quantiles_rise",
                "upper_quantile",
                "upper_quantile > lower_quantile",
                "expected more than lower_quantile",
            ),
        ),
    ),
    Table(
        "image_index",
        "Where each knee's 8-bit image planes lie: one row per knee-visit and bone.",
        (
            *knee_key(),
            _BONE,
            _text("part", "The Zarr part, relative to the lake's root."),
            Column("row", pa.int64(), "The knee's index in the part.", minimum=0),
            _text("ranges_id", "The set of `map_ranges` it was scaled with."),
            Column("has_t2", pa.bool_(), "Whether the three T2 planes hold values."),
            *(
                _number(
                    f"{end}_share",
                    f"Largest share, over the planes, of values {end} the range.",
                    "1",
                    0.0,
                    1.0,
                )
                for end in ("below", "above")
            ),
            BATCH_ID,
        ),
        step="images",
        key=("knee_visit",),
        grain=("knee_visit", "bone"),
        rules=(KNEE_VISIT_RULE,),
        parts="images",
    ),
    Table(
        "classifiers",
        "Trained classifiers: one row per task, bone and strategy.",
        (
            *_MODEL,
            _text("checkpoint_hash", "First 16 hex digits of the checkpoint's SHA-256."),
            _text("path", "The checkpoint, relative to the lake's root."),
            _ARCHITECTURE,
            _WIDTH,
            _INITIALIZATION,
            _text("initialized_from", "File and SHA-256 it began with; '' for random weights."),
            _text("config", "The training's whole configuration, JSON."),
            _CONFIG_HASH,
            _DATA_HASH,
            _text("input_fingerprint", "SHA-256 of data, first weights, configuration and code."),
            _text("ranges_id", "The set of `map_ranges` its images were scaled with."),
            _text("split_rule", "Seed and shares of the split it was trained under."),
            _count("seed", "Of weights, order of images and augmentation."),
            _count("n_training", "Knee-visits it was trained on.", 1),
            _count("n_validation", "Knee-visits its best epoch was chosen on.", 1),
            _count("n_left_out", "Knee-visits of both without a map it needs."),
            _count("n_epochs", "Epochs trained.", 1),
            _count("best_epoch", "The epoch whose weights these are, from 1.", 1),
            Column("stopped_early", pa.bool_(), "Whether patience ended the training."),
            _count("batch_size", "Images at once; below the configured where memory ran out.", 1),
            _number("auc_variation_percent", _AUC_VARIATION, "%"),
            *_validation(),
            _text("notes", "What a person should know of the training, JSON list."),
            _TRAINING_CODE,
            _seconds("The training took, since it was last resumed."),
            BATCH_ID,
        ),
        partitioned=False,
        step="classifiers",
        key=("task", "bone", "strategy"),
        grain=("task", "bone", "strategy"),
    ),
    Table(
        "training_epochs",
        "Epochs of the classifiers' trainings: one row per task, bone, strategy and epoch.",
        (
            *_MODEL,
            _text("checkpoint_hash", "The checkpoint the training gave."),
            _count("epoch", "From 1.", 1),
            _number("train_loss", "Mean class-weighted loss while the weights moved.", "nats"),
            *_validation(),
            Column("is_best", pa.bool_(), "Whether its weights were kept."),
            _seconds("The epoch took."),
            BATCH_ID,
        ),
        partitioned=False,
        step="classifiers",
        key=("task", "bone", "strategy"),
        grain=("task", "bone", "strategy", "epoch"),
    ),
    Table(
        "sweep_runs",
        "Trials of the search for hyperparameters: one row per task, bone, strategy and trial.",
        (
            *_MODEL,
            _text("trial_id", "Initialisation, network, what is trained, rate."),
            _ARCHITECTURE,
            _WIDTH,
            _INITIALIZATION,
            _text("trained", "What learned.", ("all", "from_layer2", "from_layer3", "head")),
            _number("learning_rate", "Of Adam.", "1", 0.0, 1.0),
            _text("status", "How it ended.", ("done", "skipped", "failed")),
            _text("reason", "Why it is not done; NULL where it is.", (), True),
            _count("n_epochs", "Epochs trained."),
            _whole("best_epoch", "Epoch of these numbers, from 1.", "", 1),
            *_validation(nullable=True),
            _number("auc_variation_percent", _AUC_VARIATION, "%", nullable=True),
            _text("config", "The trial's whole configuration, JSON."),
            _CONFIG_HASH,
            _DATA_HASH,
            _text("input_fingerprint", "SHA-256 of data, first weights, configuration and code."),
            _TRAINING_CODE,
            _seconds("The trial took."),
            BATCH_ID,
        ),
        partitioned=False,
        step="sweep",
        key=("task", "bone", "strategy", "trial_id"),
        grain=("task", "bone", "strategy", "trial_id"),
        rules=(
            Check(
                "done_has_numbers",
                "val_auc",
                "(status = 'done') = (val_auc IS NOT NULL)",
                "expected for trials that are done, and for no others",
            ),
        ),
    ),
    Table(
        "predictions",
        "What each classifier says: one row per task, bone, strategy and knee-visit.",
        (
            *prediction_key(),
            _number("logit_no", "Logit of no pain (no osteoarthritis).", minimum=None),
            _number("logit_yes", "Logit of pain (osteoarthritis).", minimum=None),
            _number("probability", "Softmax probability of pain (osteoarthritis).", "1", 0, 1),
            Column(
                "predicted",
                pa.bool_(),
                "Pain (osteoarthritis) has the larger logit; no where they are equal.",
            ),
            BATCH_ID,
        ),
        step="predictions",
        key=PREDICTION_KEY,
        grain=PREDICTION_KEY,
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "cam_index",
        "Where each raw Grad-CAM lies: one row per task, bone, strategy and knee-visit.",
        (
            *prediction_key(),
            _text("part", "The Zarr part, relative to the lake's root."),
            Column("row", pa.int64(), "The map's index in the part.", minimum=0),
            BATCH_ID,
        ),
        step="predictions",
        key=PREDICTION_KEY,
        grain=PREDICTION_KEY,
        rules=(KNEE_VISIT_RULE,),
        parts="cams",
    ),
    Table(
        "cam_biomarkers",
        "Numbers of each rectified Grad-CAM: one row per task, bone, strategy, "
        "knee-visit and target. Shares are NULL where the map is all zero.",
        (
            *prediction_key(),
            _text("target", "The class whose evidence the map shows.", CAM_TARGETS),
            Column("all_zero", pa.bool_(), "No evidence for the target anywhere."),
            _number(
                "signed_sum", "Sum of the raw map: the target's logit less its bias.", minimum=None
            ),
            _number("positive_sum", "Sum of the rectified map."),
            *(
                _number(f"{region}_share{suffix}", f"{what}{how}.", "1", 0.0, 1.0, True)
                for region, what in (
                    ("medial", "Share of the mass that lies medial"),
                    ("covered", "Share of the mass that lies on cartilage"),
                )
                for suffix, how in (
                    ("", ", all pixels of the map alike"),
                    ("_surface", ", pixels weighted by the surface each stands for"),
                )
            ),
            _number("peak_phi", "Elevation of the cell with most evidence.", "rad", -4, 4, True),
            _number("peak_theta", "Angle of that cell.", "rad", -4, 4, True),
            _number(
                "entropy",
                "Entropy of the mass over the cells, from 0 (one cell) to 1 (all alike).",
                "1",
                0,
                1.000001,
                True,
            ),
            BATCH_ID,
        ),
        step="predictions",
        key=PREDICTION_KEY,
        grain=(*PREDICTION_KEY, "target"),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "quarantine",
        "Inputs that were refused, each with its reason: one row per file.",
        (
            *knee_key(nullable=True, timepoints=(*TIMEPOINTS, UNKNOWN_TIMEPOINT)),
            _text("stage", "The step that refused it.", STEPS),
            _text("file", "The file, as short as still finds it."),
            _text("reason", "Reason code."),
            _text("what", "What is wrong."),
            _text("remedy", "What to do about it."),
            _text("input_fingerprint", "Fingerprint of the refused input.", nullable=True),
            BATCH_ID,
        ),
        rules=(KNEE_VISIT_RULE,),
    ),
    Table(
        "ledger",
        "What has been tried: one row per knee-visit and step of a batch.",
        (
            _text("knee_visit", "<subject_id>_<side>_<timepoint>."),
            _text("timepoint", "The visit.", TIMEPOINTS),
            _text("step", "The step.", LEDGER_STEPS),
            _text("input_fingerprint", "SHA-256 of inputs, configuration and code version."),
            _text("status", "How it ended.", ("done", "quarantined")),
            Column("seconds", pa.float64(), "Time it took.", "s", minimum=0.0, varies=True),
            BATCH_ID,
        ),
        key=("knee_visit", "step"),
        grain=("knee_visit", "step"),
        rules=(
            Check(
                "knee_visit_spelling",
                "knee_visit",
                "ends_with(knee_visit, '_' || timepoint)",
                "expected <subject_id>_<side>_<timepoint> of the same row",
            ),
        ),
    ),
    Table(
        "batches",
        "Committed batches. A row of any table counts from the moment its batch is listed here.",
        (
            BATCH_ID,
            Column("batch_number", pa.int64(), "Rises by one with every batch.", minimum=1),
            _text("step", "The step.", STEPS),
            _text("timepoint", "The visit.", (*TIMEPOINTS, UNKNOWN_TIMEPOINT, ALL_TIMEPOINTS)),
            _count("n_knee_visit", "Knee-visits the batch has rows of."),
            _count("n_quarantined", "Refused inputs in the batch."),
            _text("code_version", "Version of the code that computed it."),
            _text("config_hash", "Hash of the parameters it was computed with."),
        ),
        partitioned=False,
        grain=("batch_id",),
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table for table in (*_ALL, *ATLAS_TABLES, *STATISTICS_TABLES)
}
"""Every table by name. `batches` is the commit point."""


def data_dictionary() -> str:
    """Every table and column as Markdown."""
    lines = ["# Data dictionary", ""]
    for table in TABLES.values():
        lines += [f"## {table.name}", "", table.description, ""]
        if table.partitioned:
            lines += ["Partitioned by `timepoint`.", ""]
        lines += [
            "| column | type | unit | missing | values | description |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {column.name} | {column.duckdb_type} | {column.unit} "
            f"| {'yes' if column.nullable else 'no'} | {column.limits} | {column.description} |"
            for column in table.columns
        ]
        lines.append("")
        if table.rules:
            lines += [f"- `{rule.column}`: {rule.expected}" for rule in table.rules] + [""]
    return "\n".join(lines)
