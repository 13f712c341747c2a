"""A release of three people, written by hand in each form, with what it has to be read as."""

from pathlib import Path

VERSION = "2.1"
IDS = (1000001, 1000002, 1000003)
OTHER = ("S", "E", "W", "H", "A", "F")


def boxes(*ticked: str, none: str = ".A") -> dict[str, str]:
    """Tick boxes of the other joints, as SAS codes them: `RS` right shoulder, `NK` neck."""
    stems = ["NK", *(side + joint for side in "RL" for joint in OTHER)]
    return {f"OJPN{stem}": "1" if stem in ticked else ".A" for stem in stems} | {"OJPNNO": none}


def knee(letter: str, any_pain: str, frequent: str, months: str) -> dict[str, str]:
    return {
        f"KPN{letter}12": any_pain,
        f"KP{letter}12CV": frequent,
        f"KPN{letter}12M": months,
        f"{letter}KP30CV": any_pain,
        f"KP{letter}30CV": frequent,
        f"HPN{letter}12": "0",
        f"HP{letter}12CV": "0",
        f"WOMKP{letter}": "2.5" if any_pain == "1" else "0",
    }


def person(age: str, bmi: str, right: dict[str, str], other: dict[str, str], day: str = "0"):
    return {
        "AGE": age,
        "BMI": bmi,
        "VISDYS": day,
        "BP30": "0",
        "BP30OFT": ".A",
        **right,
        **knee("L", "0", "0", ".A"),
        **other,
    }


ABSENT = dict.fromkeys(person("", "", knee("R", "", "", ""), boxes()), ".")

CLINICAL = {
    "00": {
        1000001: person("61", "27.4", knee("R", "1", "1", "12"), boxes("RS", "NK")),
        1000002: person("70", "31", knee("R", "0", "0", ".A"), boxes(none="0")),
        # Refused the question on other joints: SAS codes every box .A all the same.
        1000003: person("55", "22.5", knee("R", "1", "0", ".A"), boxes(none=".R")),
    },
    "01": {
        1000001: person("62", "27.9", knee("R", "1", "1", "7"), boxes("LF"), day="380"),
        1000002: ABSENT,
        1000003: person("56", "22.1", knee("R", ".D", ".D", ".D"), boxes(none="0"), day="391"),
    },
}
ENROLLEES = {
    1000001: {"P02SEX": "1", "P02RACE": "1", "P02HISP": "0", "V00COHORT": "1"},
    1000002: {"P02SEX": "2", "P02RACE": "2", "P02HISP": "0", "V00COHORT": "2"},
    1000003: {"P02SEX": "2", "P02RACE": ".D", "P02HISP": "1", "V00COHORT": "3"},
}
LABELS = {
    "P02SEX": {"1": "Male", "2": "Female"},
    "P02RACE": {"1": "White or Caucasian", "2": "Black or African American"},
    "P02HISP": {"0": "No", "1": "Yes"},
    "V00COHORT": {"1": "Progression", "2": "Incidence", "3": "Non-exposed control group"},
}
# ID, SIDE, READPRJ, KL, JSM, JSL
READINGS = {
    "00": [
        (1000001, "1", "15", "2", "1", "0"),
        (1000001, "2", "15", "1", "0", "0"),
        (1000001, "1", "42", "3", "1.2", "0"),
        (1000002, "1", "15", ".P", ".P", ".P"),
    ],
    "01": [(1000001, "1", "15", "3", "1.4", "0")],
}
PAINLESS = "P01", "V00"
_BASELINE = {"AGE": "V00", "VISDYS": "V00", "WOMKPR": "V00", "WOMKPL": "V00"}


def variable(stem: str, visit: str) -> str:
    return f"{_BASELINE.get(stem, 'P01') if visit == '00' else 'V' + visit}{stem}"


def lines(path: Path, header: list[str], rows: list[list[str]], separator: str = "|") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(separator.join(row) + "\r\n" for row in [header, *rows])
    path.write_bytes(text.encode("cp1252"))
    return path


def ascii_cell(code: str, labels: dict[str, str], *, labelled: bool) -> str:
    if code.startswith("."):
        return ".: Missing Form/Incomplete Workbook" if labelled else " "
    return f"{code}: {labels[code]}" if labelled and code in labels else code


def write_ascii(folder: Path) -> list[Path]:
    """The release as ASCII: labels at baseline, bare codes after it, reasons collapsed."""
    files = []
    header = ["ID", "VERSION", *ENROLLEES[IDS[0]], "V00SITE", "V00CHRTHLF"]
    files.append(
        lines(
            folder / "Enrollees.txt",
            header,
            [
                [
                    str(subject),
                    "25",
                    *(ascii_cell(v, LABELS[k], labelled=True) for k, v in row.items()),
                    "A",
                    "1: First half of cohort",
                ]
                for subject, row in ENROLLEES.items()
            ],
        )
    )
    yes_no = {"0": "No", "1": "Yes"}
    coded = {"KPN", "KPR", "KPL", "HPN", "HPR", "HPL", "BP3", "OJP"}
    for visit, people in CLINICAL.items():
        stems = [stem for stem in people[IDS[0]] if visit != "00" or stem != "VISDYS"]
        rows = [
            [
                str(subject),
                VERSION,
                *(
                    ascii_cell(
                        row[stem],
                        yes_no if stem[:3] in coded and not stem.endswith("M") else {},
                        labelled=visit == "00",
                    )
                    for stem in stems
                ),
            ]
            for subject, row in people.items()
        ]
        names = [variable(stem, visit) for stem in stems]
        spelled = ["id", "version", *(n.replace("VISDYS", "visdys") for n in names)]
        name = f"AllClinical{visit}.txt" if visit == "00" else f"ALLCLINICAL{visit}.txt"
        files.append(lines(folder / name, spelled, rows))
        readings = [
            [
                str(subject),
                f"{side}: {'Right' if side == '1' else 'Left'}",
                project,
                "0.9",
                *("." if one.startswith(".") else one for one in (kl, jsm, jsl)),
                f"01660000{number:04d}",
            ]
            for number, (subject, side, project, kl, jsm, jsl) in enumerate(READINGS[visit])
        ]
        prefix = f"V{visit}"
        header = ["ID", "SIDE", "readprj", "VERSION"]
        header += [f"{prefix}{stem}" for stem in ("XRKL", "XRJSM", "XRJSL", "BARCDBU")]
        files.append(lines(folder / f"kXR_SQ_BU{visit}.txt", header, readings))
    return files
