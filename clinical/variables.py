"""Which variable of the OAI becomes which column: names, codes, limits and where to expect it.

Stems are the OAI's names without the visit prefix; see the OAI Variable Guide. At baseline a
variable is of the screening visit (P01), the eligibility interview (P02) or the enrollment visit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["yes_no", "integer", "number", "choice", "barcode"]

VISITS = tuple(f"V{visit:02d}" for visit in range(12))
MRI_VISITS = ("V00", "V01", "V03", "V05", "V06", "V08", "V10")
KNEE_VISITS = (*MRI_VISITS, "V07", "V09", "V11")
ALL_VISITS = "all"


@dataclass(frozen=True)
class Variable:
    """One variable and the column it becomes.

    Attributes:
        table, column: where it goes.
        stem: its name without visit prefix.
        kind: how its cells are to be read.
        baseline: its prefix at baseline.
        choices: of a 'choice': what each code or label (lower case) means.
        minimum, maximum: inclusive limits of a number.
        required: visits at which a complete release has it.
        also: other names, in NDA packages.
        side: the knee it tells of, in tables with a row per side made of one per participant.
    """

    table: str
    column: str
    stem: str
    kind: Kind
    baseline: str = "V00"
    choices: Mapping[str, str] = field(default_factory=dict, hash=False)
    minimum: float = 0.0
    maximum: float = 1.0
    required: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    side: str = ""


def _coded(*values: str, first: int = 0) -> dict[str, str]:
    return {str(code): value for code, value in enumerate(values, first)}


_RACE = _coded("other", "white", "black", "asian") | {
    "other non-white": "other",
    "white or caucasian": "white",
    "white": "white",
    "black or african american": "black",
    "asian": "asian",
}
_SEX = {"1": "M", "2": "F", "male": "M", "female": "F", "m": "M", "f": "F"}
_COHORT = _coded("progression", "incidence", "control", first=1) | {
    "progression": "progression",
    "incidence": "incidence",
    "non-exposed control group": "control",
}

ENROLLEES = (
    Variable("enrollees", "sex", "SEX", "choice", "P02", _SEX, required=("V00",)),
    Variable("enrollees", "race", "RACE", "choice", "P02", _RACE, required=("V00",)),
    Variable("enrollees", "hispanic", "HISP", "yes_no", "P02", required=("V00",)),
    Variable("enrollees", "cohort", "COHORT", "choice", choices=_COHORT, required=("V00",)),
    Variable(
        "enrollees",
        "site",
        "SITE",
        "choice",
        choices={letter.lower(): letter for letter in "ABCDE"},
        required=("V00",),
    ),
    Variable("enrollees", "half", "CHRTHLF", "integer", minimum=1, maximum=2, required=("V00",)),
)

OTHER_JOINTS = ("shoulder", "elbow", "wrist", "hand", "ankle", "foot")
NECK = "neck_frequent_pain_30d"
NO_OTHER_JOINT = "no_other_joint_pain_30d"


def _sided(side: str) -> tuple[Variable, ...]:
    letter = side[0].upper()

    def item(
        column: str,
        stem: str,
        kind: Kind = "yes_no",
        maximum: float = 1.0,
        required: tuple[str, ...] = MRI_VISITS,
    ) -> Variable:
        return Variable(
            "clinical_visits",
            f"{column}_{side}",
            stem,
            kind,
            "P01",
            maximum=maximum,
            required=required,
        )

    return (
        item("knee_any_pain_12m", f"KPN{letter}12", required=KNEE_VISITS),
        item("knee_frequent_pain_12m", f"KP{letter}12CV", required=KNEE_VISITS),
        item("knee_frequent_pain_months_12m", f"KPN{letter}12M", "integer", 12, KNEE_VISITS),
        item("knee_any_pain_30d", f"{letter}KP30CV", required=()),
        item("knee_frequent_pain_30d", f"KP{letter}30CV"),
        item("hip_any_pain_12m", f"HPN{letter}12"),
        item("hip_frequent_pain_12m", f"HP{letter}12CV"),
        *(
            item(f"{joint}_frequent_pain_30d", f"OJPN{letter}{joint[0].upper()}")
            for joint in OTHER_JOINTS
        ),
        Variable(
            "clinical_visits",
            f"womac_pain_{side}",
            f"WOMKP{letter}",
            "number",
            maximum=20,
            required=MRI_VISITS,
            also=(f"womac_pain_{side}",),
        ),
    )


CLINICAL_VISITS = (
    Variable(
        "clinical_visits", "visit_day", "VISDYS", "integer", maximum=7300, required=VISITS[1:]
    ),
    Variable(
        "clinical_visits", "age_years", "AGE", "integer", minimum=40, maximum=110, required=VISITS
    ),
    Variable(
        "clinical_visits",
        "bmi",
        "BMI",
        "number",
        "P01",
        minimum=10,
        maximum=80,
        required=MRI_VISITS,
    ),
    Variable("clinical_visits", "back_any_pain_30d", "BP30", "yes_no", "P01", required=MRI_VISITS),
    Variable(
        "clinical_visits",
        "back_pain_frequency_30d",
        "BP30OFT",
        "integer",
        "P01",
        maximum=3,
        required=MRI_VISITS,
    ),
    Variable("clinical_visits", NECK, "OJPNNK", "yes_no", "P01", required=MRI_VISITS),
    Variable("clinical_visits", NO_OTHER_JOINT, "OJPNNO", "yes_no", "P01", required=MRI_VISITS),
    *_sided("right"),
    *_sided("left"),
)

RADIOGRAPHS = (
    Variable("radiographs", "kl_grade", "XRKL", "integer", maximum=4, required=MRI_VISITS),
    Variable("radiographs", "jsn_medial", "XRJSM", "number", maximum=3.9, required=MRI_VISITS),
    Variable("radiographs", "jsn_lateral", "XRJSL", "number", maximum=3.9, required=MRI_VISITS),
    Variable("radiographs", "barcode", "BARCDBU", "barcode", also=("barcode", "barcdbu")),
)
JOINT_SPACE_WIDTHS = (
    Variable(
        "radiographs", "jsw_medial_min_mm", "MCMJSW", "number", maximum=20, required=MRI_VISITS
    ),
)


def _outcomes(side: str) -> tuple[Variable, ...]:
    letter = side[0]

    def item(column: str, stem: str, kind: Kind, maximum: float = 1.0) -> Variable:
        return Variable(
            "outcomes",
            column,
            f"E{letter}K{stem}",
            kind,
            "V99",
            dict(zip(map(str, range(12)), VISITS, strict=True)) if kind == "choice" else {},
            maximum=maximum,
            required=("all",),
            side=side,
        )

    return (
        item("knee_replacement_day", "DAYS", "integer", 7300),
        item("knee_replaced_at_baseline", "BLRP", "yes_no"),
        item("knee_replacement_status", "RPCF", "integer", 3),
        item("knee_replacement_reported_at", "VSRP", "choice"),
    )


OUTCOMES = (*_outcomes("RIGHT"), *_outcomes("LEFT"))

TABLE_VARIABLES: Mapping[str, tuple[Variable, ...]] = {
    "enrollees": ENROLLEES,
    "allclinical": CLINICAL_VISITS,
    "subjectchar": CLINICAL_VISITS,
    "jointsx": CLINICAL_VISITS,
    "medhist": CLINICAL_VISITS,
    "physexam": CLINICAL_VISITS,
    "kxr_sq_bu": RADIOGRAPHS,
    "kxr_qjsw_duryea": JOINT_SPACE_WIDTHS,
    "outcomes": OUTCOMES,
}
"""Variables by table of an ASCII or SAS release, its name without the visit code."""
WHOLE_TABLES = frozenset({"enrollees", "allclinical", "kxr_sq_bu", "kxr_qjsw_duryea", "outcomes"})
"""Those of which a release holds every variable; the others are shares of allclinical."""

NDA_VARIABLES: Mapping[str, tuple[Variable, ...]] = {
    "oai_enrollee01": ENROLLEES,
    "oai_kxrsemiquant01": RADIOGRAPHS,
    "oai_kxrquantjsw01": JOINT_SPACE_WIDTHS,
    "oai_outcome01": OUTCOMES,
}
"""Variables by NDA structure; every other `oai_` structure may hold some of `clinical_visits`."""
NDA_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "oai_enrollee01": ("SEX",),
    "oai_oapain01": ("KPNR12", "KPR12CV", "KPNR12M"),
    "oai_koos_womac01": ("WOMKPR",),
    "oai_oarisk01": ("BMI",),
    "oai_kxrsemiquant01": ("XRKL", "XRJSM", "XRJSL"),
    "oai_kxrquantjsw01": ("MCMJSW",),
    "oai_outcome01": ("ERKDAYS", "ELKDAYS"),
}
"""What an NDA structure cannot do without; its other variables may be absent or empty."""
INVENTORIES = ("mri", "image03", "contents")
"""Tables that list scans."""
KEYED_BY_SIDE = frozenset({"radiographs"})
NO_PREFIX_TABLES = frozenset({"enrollees", "outcomes"})
"""Tables with one file for all visits."""
