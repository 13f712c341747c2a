"""A simulated cohort written as the OAI's tables are delivered: ASCII, SAS, NDA, old inventories.

Each form has its own habits, kept here on purpose: ASCII files in one flat folder with names in
mixed case, CRLF, `1: Yes` in some visits and a bare `1` in others, and no reason for a missing
value; SAS with the letters; NDA structures with two header rows and all visits stacked; and the
old inventories of images, one per visit.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phantom import cohort_targets as targets
from phantom.anatomy import VISIT_YEARS
from phantom.cohort import VISITS, Answers, Cohort, visit_index
from phantom.cohort_imaging import NOT_ACQUIRED, CohortImaging, image_cohort
from phantom.dicom_writer import Visit
from phantom.sas7bdat import SasColumn, SasNumbers, write_sas7bdat

Dialect = Literal["ascii", "sas", "nda", "contents"]
DIALECTS: tuple[Dialect, ...] = ("ascii", "sas", "nda", "contents")

MISSING_FORM = ".: Missing Form/Incomplete Workbook"
_BLANK = " "
_LABELLED_VISITS = ("V00", "V01")
_SAS_EPOCH = datetime.date(1960, 1, 1)
_NO_YES = {0: "No", 1: "Yes"}

VERSIONS: Mapping[str, str] = {
    "enrollees": "25", "allclinical": "2.1", "kxr_sq_bu": "0.9", "kxr_qjsw_duryea": "1.8",
    "mri": "1.3", "outcomes": "11",
}  # fmt: skip

_LABELS: Mapping[str, Mapping[int, str]] = {
    "SEX": {1: "Male", 2: "Female"},
    "RACE": {
        0: "Other Non-white", 1: "White or Caucasian", 2: "Black or African American", 3: "Asian",
    },
    "HISP": _NO_YES,
    "COHORT": {1: "Progression", 2: "Incidence", 3: "Non-exposed control group"},
    "CHRTHLF": {1: "First half of cohort", 2: "Second half of cohort"},
    "BP30OFT": {
        0: "Rarely", 1: "Some of the time", 2: "Most of the time", 3: "All of the time",
    },
    "OJPNNO": {0: "No"},
    "SIDE": {1: "Right", 2: "Left", 3: "Bilateral"},
    "MRCOMP": _NO_YES,
    "MNDREAS": NOT_ACQUIRED,
    "SCNUPGR": {
        0: "Original OAI Siemens Trio MR used", 2: "Upgrade OAI Trio to TIM Trio pltfrm used",
    },
    "XRKL": {grade: str(grade) for grade in range(5)},
    "RPCF": {
        1: "Self-reported replacement", 2: "Replacement pending adjudication",
        3: "Replacement adjudicated, confirmed",
    },
    "BLRP": _NO_YES,
    "VSRP": {
        0: "Baseline", 1: "12-month", 2: "18-month", 3: "24-month", 4: "30-month", 5: "36-month",
        6: "48-month", 7: "60-month", 8: "72-month", 9: "84-month", 10: "96-month", 11: "108-month",
    },
    "IMAGES": {
        0: "No", 1: "Yes, Knee MR only", 2: "Yes, Knee Xray only", 3: "Yes, Knee MR and knee xray",
    },
}  # fmt: skip
for _stem in (*targets.OTHER_PAIN, *targets.KNEE_PAIN):
    _LABELS = {**_LABELS, _stem: _NO_YES}

_SCREENING_STEMS = ("BMI", *targets.OTHER_PAIN, "BP30OFT", "OJPNNO", *targets.KNEE_PAIN, "KPNR12M",
                    "KPNL12M")  # fmt: skip
"""Asked at the screening visit, so that their prefix at baseline is P01."""

_SERIES: tuple[tuple[str, int, str], ...] = (
    ("SAG 3D DESS WE", 0, "SAG_3D_DESS"),
    ("SAG T2 MAP", 1, "SAG_T2_MAP"),
    ("COR IW TSE", 0, "COR_IW_TSE"),
    ("SAG IW TSE FS", 0, "SAG_IW_TSE"),
    ("COR MPR", 0, "COR_MPR"),
    ("AXIAL MPR", 0, "AX_MPR"),
)
"""Series of a knee: name in MRInn, the scan it was made along with, name in DICOM."""


@dataclass(frozen=True, eq=False)
class _Column:
    """A column before it is put into a form.

    Attributes:
        name: as the release spells it.
        value: numbers, or text.
        letter: '' or the SAS missing code; None where nothing is missing.
        labels: of coded numbers.
        blank: how ASCII writes a missing value: a blank instead of the phrase.
    """

    name: str
    value: NDArray
    letter: NDArray[np.str_] | None = None
    labels: Mapping[int, str] | None = None
    blank: bool = False

    @property
    def is_text(self) -> bool:
        return self.value.dtype.kind == "U"


def _plain_text(value: NDArray) -> pl.Series:
    """Numbers as a release writes them: no decimal point where there is nothing behind it."""
    series = pl.Series(value)
    if not series.dtype.is_float():
        return series.cast(pl.String)
    filled = series.fill_nan(0.0)
    whole = filled == filled.round()
    return (
        pl.DataFrame({"value": filled})
        .select(
            pl.when(whole)
            .then(pl.col("value").cast(pl.Int64).cast(pl.String))
            .otherwise(pl.col("value").round(4).cast(pl.String))
        )
        .to_series()
    )


def _ascii_cells(column: _Column, *, labelled: bool) -> pl.Series:
    text = pl.Series(column.value) if column.is_text else _plain_text(column.value)
    if labelled and column.labels:
        named = {str(code): f"{code}: {label}" for code, label in column.labels.items()}
        text = text.replace(named)
    if column.letter is not None:
        missing = pl.Series(column.letter != "")
        filler = _BLANK if column.blank else MISSING_FORM
        text = pl.DataFrame({"text": text}).select(
            pl.when(missing).then(pl.lit(filler)).otherwise("text")
        ).to_series()  # fmt: skip
    return text.alias(column.name)


def _sas_cells(column: _Column) -> SasColumn:
    if column.is_text:
        return column.value
    letter = np.full(len(column.value), "", "U1") if column.letter is None else column.letter
    return SasNumbers(np.nan_to_num(column.value.astype(float)), letter)


def _write_ascii(path: Path, columns: Sequence[_Column], *, labelled: bool) -> None:
    frame = pl.DataFrame([_ascii_cells(column, labelled=labelled) for column in columns])
    frame.write_csv(
        path, separator="|", line_terminator="\r\n", quote_style="never", null_value=_BLANK
    )


class _Release:
    """Everything that the forms have in common, table by table."""

    def __init__(self, cohort: Cohort, imaging: CohortImaging) -> None:
        self.cohort, self.imaging = cohort, imaging
        self.ids = cohort.ids.astype(str)
        starts = [
            Visit(cohort.seed, subject, "RIGHT", "V00").date for subject in cohort.ids.tolist()
        ]
        self.enrolled = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in starts], "M8[D]")

    def visit_dates(self, visit: str) -> NDArray[np.datetime64]:
        """Day of a visit; NaT for those who did not come."""
        days = self.cohort.visit_day[:, visit_index(visit)]
        came = np.isfinite(days)
        dates = self.enrolled + np.where(came, days, 0.0).astype("m8[D]")
        dates[~came] = np.datetime64("NaT")
        return dates

    def rows_of_visit(self, visit: str) -> NDArray[np.int64]:
        """People a clinical file lists: all at clinic and phone visits, the subset between them."""
        everybody = np.arange(self.cohort.n)
        if visit in targets.INTERIM_VISITS:
            return everybody[self.cohort.attended[:, visit_index(visit)]]
        return everybody

    def enrollees(self) -> list[_Column]:
        people = self.cohort.enrollees
        columns = [
            _Column("ID", self.ids),
            _Column("VERSION", np.full(self.cohort.n, VERSIONS["enrollees"])),
            _Column("P02HISP", people.hispanic, people.hispanic_letter, _LABELS["HISP"]),
            _Column("P02RACE", people.race, people.race_letter, _LABELS["RACE"]),
            _Column("P02SEX", people.sex, None, _LABELS["SEX"]),
            _Column("V00CHRTHLF", people.half, None, _LABELS["CHRTHLF"]),
            _Column("V00COHORT", people.cohort, None, _LABELS["COHORT"]),
            _Column("V00SITE", people.site),
        ]
        readings, scans = self.imaging.readings, self.imaging.scans
        for visit in targets.SCAN_VISITS:
            at = visit_index(visit)
            has = np.zeros((2, self.cohort.n), int)
            has[0, scans.person[(scans.visit == at) & scans.acquired]] = 1
            has[1, readings.person[readings.visit == at]] = 2
            columns.append(_Column(f"{visit}IMAGESA", has.sum(axis=0), None, _LABELS["IMAGES"]))
        return columns

    def clinical(self, visit: str) -> list[_Column]:
        at, rows = visit_index(visit), self.rows_of_visit(visit)
        baseline = visit == "V00"
        nobody = np.full(len(rows), ".", "U1")
        columns = [
            _Column("ID", self.ids[rows]),
            _Column("VERSION", np.full(len(rows), VERSIONS["allclinical"])),
        ]
        for stem, answers in self.cohort.answers.items():
            if visit not in answers.visits or (baseline and stem == "VISDYS"):
                continue
            prefix = "P01" if baseline and stem in _SCREENING_STEMS else visit
            # One release spells this one variable of one visit in lower case.
            name = "V01visdys" if (visit, stem) == ("V01", "VISDYS") else f"{prefix}{stem}"
            # Older files say the phrase, later ones leave codes blank.
            blank = visit not in _LABELLED_VISITS and stem in _LABELS
            columns.append(
                _Column(
                    name,
                    answers.value[rows, at],
                    answers.letter[rows, at],
                    _LABELS.get(stem),
                    blank,
                )
            )
        came = self.cohort.attended[rows, at]
        pace = 1.1 + 0.4 * np.sin(rows + at)
        columns.append(
            # The prefix is three characters even where the stem opens with a digit.
            _Column(f"{visit}20MPACE", np.round(pace, 2), np.where(came, "", nobody))
        )
        dates = self.visit_dates(visit)[rows]
        columns.append(_dated(f"{visit}{'EVDATE' if baseline else 'FVDATE'}", dates))
        return columns

    def readings(self, visit: str, *, widths: bool) -> list[_Column]:
        rows = self.imaging.readings
        at = (rows.visit == visit_index(visit)) & (np.isfinite(rows.jsw_mm) if widths else True)
        table = "kxr_qjsw_duryea" if widths else "kxr_sq_bu"
        keys = [
            _Column("ID", self.ids[rows.person[at]]),
            _Column("SIDE", rows.side[at] + 1, None, _LABELS["SIDE"]),
        ]
        project = rows.written_project[at]
        version = _Column("VERSION", np.full(int(at.sum()), VERSIONS[table]))
        if widths:
            columns = [*keys, _Column("readprj", project), version]
            return [*columns, _Column(f"{visit}MCMJSW", rows.jsw_mm[at])]
        letter = rows.letter[at]
        return [
            *keys,
            _Column("READPRJ", project),
            version,
            _Column(f"{visit}XRKL", rows.kl[at], letter, _LABELS["XRKL"]),
            _Column(f"{visit}XRJSM", rows.jsn_medial[at], letter),
            _Column(f"{visit}XRJSL", rows.jsn_lateral[at], letter),
            _Column(f"{visit}BARCDBU", rows.barcode[at]),
        ]

    def series(self, visit: str) -> "_SeriesRows":
        """Series of all knees at a visit, made and not made, repeats included."""
        scans = self.imaging.scans
        parts: list[dict[str, NDArray]] = []
        for number, (planned, along_with, described) in enumerate(_SERIES):
            at = np.flatnonzero(
                (scans.visit == visit_index(visit)) & (scans.sequence == along_with)
            )
            own = number < 2
            left = scans.side[at] == 1
            barcode = scans.barcode[at] if own else _other_barcodes(scans.barcode[at], number)
            part = {
                "person": scans.person[at],
                "side": scans.side[at] + 1,
                "exam": np.where(left, f"L {planned}", f"R {planned}"),
                "described": np.where(left, f"{described}_LEFT", f"{described}_RIGHT"),
                "acquired": scans.acquired[at],
                "reason": scans.reason[at],
                "barcode": barcode,
                "quality": scans.quality[at],
                "date": scans.date[at],
            }
            parts.append(part)
            again = own & (scans.earlier_barcode[at] != "")
            parts.append(
                {name: values[again] for name, values in part.items()}
                | {"barcode": scans.earlier_barcode[at][again]}
            )
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.lexsort((columns["exam"], columns["person"]))
        return _SeriesRows(**{name: values[order] for name, values in columns.items()})

    def scans(self, visit: str) -> list[_Column]:
        rows = self.series(visit)
        n = len(rows.person)
        absent = np.where(rows.acquired, "", "A")
        upgraded = np.where(rows.person % 2 == 0, 2, 0) if visit >= "V06" else np.zeros(n, int)
        return [
            _Column("ID", self.ids[rows.person]),
            _Column("VERSION", np.full(n, VERSIONS["mri"])),
            _Column(f"{visit}MEXAMTP", rows.exam),
            _Column(
                f"{visit}MNDREAS", rows.reason, np.where(rows.acquired, "A", ""), _LABELS["MNDREAS"]
            ),
            _Column(f"{visit}MRBARCD", np.where(rows.acquired, rows.barcode, _BLANK)),
            _Column(f"{visit}MRCOMP", rows.acquired.astype(int), None, _LABELS["MRCOMP"]),
            _dated(f"{visit}MRDATE", _days(rows.date)),
            _Column(f"{visit}MRSIDE", rows.side, None, _LABELS["SIDE"]),
            _Column(f"{visit}QCRESLT", np.where(rows.acquired, rows.quality, _BLANK)),
            _Column(f"{visit}SCNUPGR", upgraded, absent, _LABELS["SCNUPGR"]),
        ]

    def outcomes(self) -> list[_Column]:
        rows = self.imaging.replacements
        columns = [
            _Column("id", self.ids),
            _Column("VERSION", np.full(self.cohort.n, VERSIONS["outcomes"])),
        ]
        for side, letter in enumerate("RL"):
            day = rows.day[:, side]
            dates = self.enrolled + np.nan_to_num(day).astype("m8[D]")
            dates[np.isnan(day)] = np.datetime64("NaT")
            columns.append(_dated(f"V99E{letter}KDATE", dates, "A"))
            for stem, value in (
                ("BLRP", rows.at_baseline),
                ("DAYS", rows.day),
                ("RPCF", rows.status),
                ("VSRP", rows.reported_at),
            ):
                own = value[:, side]
                missing = np.where(np.isnan(own), "A", "")
                columns.append(_Column(f"V99E{letter}K{stem}", own, missing, _LABELS.get(stem)))
        return columns


@dataclass(frozen=True, eq=False)
class _SeriesRows:
    """Series of one visit; arrays of shape (rows,)."""

    person: NDArray[np.int64]
    side: NDArray[np.int64]
    exam: NDArray[np.str_]
    described: NDArray[np.str_]
    acquired: NDArray[np.bool_]
    reason: NDArray[np.int64]
    barcode: NDArray[np.str_]
    quality: NDArray[np.str_]
    date: NDArray[np.str_]


def _other_barcodes(barcode: NDArray[np.str_], number: int) -> NDArray[np.str_]:
    """Barcodes of series made along with a scan; '' where it was not made."""
    tail = pl.Series(barcode).str.slice(5).cast(pl.Int64, strict=False)
    moved = ((tail + 1_000_003 * number) % 10**7).cast(pl.String).str.zfill(7)
    return ("01661" + moved).fill_null("").to_numpy().astype("U12")


def _days(dates: NDArray[np.str_]) -> NDArray[np.datetime64]:
    """Yyyymmdd as days; NaT where empty."""
    return pl.Series(dates).str.to_date("%Y%m%d", strict=False).to_numpy().astype("M8[D]")


def _american(dates: NDArray[np.datetime64]) -> pl.Series:
    """MM/DD/YYYY, null for NaT."""
    return pl.Series(dates).cast(pl.Date).dt.strftime("%m/%d/%Y")


def _dated(name: str, dates: NDArray[np.datetime64], letter: str = ".") -> _Column:
    return _Column(name, dates, np.where(np.isnat(dates), letter, ""))


def _for_ascii(column: _Column) -> _Column:
    if column.value.dtype.kind != "M":
        return column
    text = _american(column.value).fill_null("").to_numpy().astype("U10")
    return _Column(column.name, text, column.letter)


def _for_sas(column: _Column) -> _Column:
    if column.value.dtype.kind != "M":
        return column
    days = (column.value - np.datetime64(_SAS_EPOCH)).astype(float)
    return _Column(column.name, np.where(np.isnat(column.value), 0.0, days), column.letter)


_FILE_NAMES: Mapping[str, Callable[[str], str]] = {
    # Case is inconsistent within one release.
    "allclinical": lambda code: f"ALLCLINICAL{code}" if code == "06" else f"AllClinical{code}",
    "kxr_sq_bu": lambda code: {"01": "kXR_SQ_BU01", "06": "KXR_SQ_BU06"}.get(
        code, f"kxr_sq_bu{code}"
    ),
    "kxr_qjsw_duryea": lambda code: f"kXR_QJSW_Duryea{code}",
    "mri": lambda code: f"MRI{code}",
}


def _tables(release: _Release, *, with_scans: bool) -> list[tuple[str, str, list[_Column]]]:
    """(file name without suffix, visit, columns) of every table of a flat release."""
    tables = [("Enrollees", "V00", release.enrollees())]
    tables.append(("Outcomes99", "V00", release.outcomes()))
    for visit in VISITS:
        code = visit[1:]
        tables.append((_FILE_NAMES["allclinical"](code), visit, release.clinical(visit)))
        if visit in targets.CLINIC_VISITS:
            for table, widths in (("kxr_sq_bu", False), ("kxr_qjsw_duryea", True)):
                columns = release.readings(visit, widths=widths)
                tables.append((_FILE_NAMES[table](code), visit, columns))
        if with_scans and visit in targets.SCAN_VISITS:
            tables.append((_FILE_NAMES["mri"](code), visit, release.scans(visit)))
    # Of a small cohort nobody may have come to an interim visit.
    return [table for table in tables if len(table[2][0].value)]


def _write_ascii_release(root: Path, release: _Release, *, with_scans: bool) -> list[Path]:
    paths = []
    for name, visit, columns in _tables(release, with_scans=with_scans):
        path = root / f"{name}.txt"
        readable = [_for_ascii(column) for column in columns]
        _write_ascii(path, readable, labelled=visit in _LABELLED_VISITS)
        paths.append(path)
    return [*paths, *_write_irregular(root, release)]


def _write_irregular(root: Path, release: _Release) -> list[Path]:
    """Files of real releases that break the rules: line breaks in a field, commas, formats."""
    ids = release.ids[:3].tolist()
    covid = root / "COVIDQ97.txt"
    rows = "".join(f"{subject}|1|first line\r\nsecond line|2: No\r\n" for subject in ids)
    covid.write_bytes(f"ID|VERSION|V97TEXT|V97ILL\r\n{rows}".encode("cp1252"))
    hands = root / "hxr_sq_summary.txt"
    rows = "".join(f"{subject},1,0\r\n" for subject in ids)
    hands.write_bytes(f"ID,VERSION,V00HAND\r\n{rows}".encode("cp1252"))
    formats = root / "AllClinical_Formats.txt"
    formats.write_bytes("VALUE DK\r\n\t.D = 'Don’t Know'\r\n".encode("cp1252"))
    return [covid, hands, formats]


def _write_sas_release(root: Path, release: _Release) -> list[Path]:
    paths = []
    for name, _, columns in _tables(release, with_scans=True):
        path = root / f"{name.lower()}.sas7bdat"
        numeric = [_for_sas(column) for column in columns]
        write_sas7bdat(path, {column.name: _sas_cells(column) for column in numeric})
        paths.append(path)
    return paths


def _write_structure(path: Path, columns: Mapping[str, pl.Series | str], n: int) -> None:
    """One NDA structure: quoted, tab-delimited, with a second header row that describes."""
    frame = pl.DataFrame(
        [
            series.alias(name) if isinstance(series, pl.Series) else pl.Series(name, [series] * n)
            for name, series in columns.items()
        ]
    ).with_columns(pl.all().cast(pl.String).fill_null(""))
    names = frame.columns
    described = [*names[:3], *(f"Description of {name}" for name in names[3:])]
    head = "\n".join("\t".join(f'"{name}"' for name in row) for row in (names, described))
    with path.open("wb") as file:
        file.write(head.encode() + b"\n")
        frame.write_csv(file, separator="\t", quote_style="always", include_header=False)


class _Nda:
    """The common columns of NDA structures."""

    def __init__(self, release: _Release) -> None:
        self.release, self.cohort = release, release.cohort
        self.dates = np.stack([release.visit_dates(visit) for visit in VISITS], axis=1)
        days = np.where(self.cohort.attended, self.cohort.visit_day, 0.0)
        years = self.cohort.people.age[:, None] + days / 365.25
        self.months = np.floor(12.0 * years).astype(int)

    def common(self, structure: str, person: NDArray, visit: NDArray) -> dict[str, pl.Series | str]:
        ids = pl.Series(self.release.ids[person])
        sex = np.where(self.cohort.enrollees.sex[person] == 1, "M", "F")
        return {
            "collection_id": "2343",
            f"{structure}_id": pl.Series(np.arange(1, len(person) + 1)),
            "dataset_id": "20001",
            "subjectkey": "NDAR_INV" + ids,
            "src_subject_id": ids,
            "interview_date": _american(self.dates[person, visit]),
            "interview_age": pl.Series(self.months[person, visit]),
            "sex": pl.Series(sex),
            "visit": pl.Series(np.array(VISITS)[visit]),
        }

    def cells(self, answers: Answers, person: NDArray, visit: NDArray) -> pl.Series:
        text = _plain_text(answers.value[person, visit])
        missing = pl.Series(answers.letter[person, visit] != "")
        return pl.DataFrame({"text": text}).select(
            pl.when(~missing).then("text").otherwise(pl.lit(""))
        ).to_series()  # fmt: skip

    def attended(self, visits: Sequence[str]) -> tuple[NDArray, NDArray]:
        """(person, visit) of those who came to some of the visits, visit by visit."""
        at = np.zeros(len(VISITS), bool)
        at[[visit_index(visit) for visit in visits]] = True
        visit, person = np.nonzero((self.cohort.attended & at).T)
        return person, visit


def _with_nan(values: NDArray, letters: NDArray[np.str_] | None = None) -> pl.Series:
    missing = np.isnan(values) if letters is None else letters != ""
    return pl.DataFrame({"text": _plain_text(values)}).select(
        pl.when(pl.Series(~missing)).then("text").otherwise(pl.lit(""))
    ).to_series()  # fmt: skip


def _write_nda_package(root: Path, release: _Release) -> list[Path]:
    nda, cohort, answers = _Nda(release), release.cohort, release.cohort.answers
    people = cohort.enrollees
    paths: list[Path] = []

    def write(structure: str, columns: Mapping[str, pl.Series | str], n: int) -> None:
        paths.append(root / f"{structure}.txt")
        _write_structure(paths[-1], columns, n)

    everybody, at_start = np.arange(cohort.n), np.zeros(cohort.n, int)
    write(
        "oai_enrollee01",
        nda.common("oai_enrollee01", everybody, at_start)
        | {
            "race": _with_nan(people.race.astype(float), people.race_letter),
            "hisp": _with_nan(people.hispanic.astype(float), people.hispanic_letter),
            "cohort": pl.Series(people.cohort),
            "site": pl.Series(people.site),
            "chrthlf": pl.Series(people.half),
        },
        cohort.n,
    )
    pain = [stem for stem in answers if stem not in {"BMI", "AGE", "VISDYS", "WOMKPR", "WOMKPL"}]
    for structure, visits, stems in (
        ("oai_oarisk01", targets.CLINIC_VISITS, {"bmi": "BMI"}),
        ("oai_koos_womac01", VISITS, {"womac_pain_right": "WOMKPR", "womac_pain_left": "WOMKPL"}),
        ("oai_oapain01", targets.KNEE_VISITS, {stem.lower(): stem for stem in pain}),
    ):
        person, visit = nda.attended(visits)
        told = {name: nda.cells(answers[stem], person, visit) for name, stem in stems.items()}
        # Defined in the dictionary, empty throughout in the export.
        empty = {"p7rkacv": ""} if structure == "oai_oapain01" else {}
        write(structure, nda.common(structure, person, visit) | told | empty, len(person))

    rows = release.imaging.readings
    side = pl.Series(rows.side + 1)
    write(
        "oai_kxrsemiquant01",
        nda.common("oai_kxrsemiquant01", rows.person, rows.visit)
        | {
            "side": side,
            "readprj": pl.Series(rows.written_project),
            "barcode": pl.Series(rows.barcode),
            "xrkl": _with_nan(rows.kl, rows.letter),
            "xrjsm": _with_nan(rows.jsn_medial, rows.letter),
            "xrjsl": _with_nan(rows.jsn_lateral, rows.letter),
        },
        len(rows.person),
    )
    measured = np.isfinite(rows.jsw_mm)
    write(
        "oai_kxrquantjsw01",
        nda.common("oai_kxrquantjsw01", rows.person[measured], rows.visit[measured])
        | {
            "side": side.filter(pl.Series(measured)),
            "readprj": pl.Series(rows.written_project[measured]),
            "mcmjsw": _plain_text(rows.jsw_mm[measured]),
        },
        int(measured.sum()),
    )
    replaced = release.imaging.replacements
    outcome = {
        f"e{letter}k{stem}": _with_nan(values[:, side_index])
        for side_index, letter in enumerate("rl")
        for stem, values in (
            ("blrp", replaced.at_baseline),
            ("days", replaced.day),
            ("rpcf", replaced.status),
            ("vsrp", replaced.reported_at),
        )
    }
    common = nda.common("oai_outcome01", everybody, at_start) | {"visit": "V99"}
    write("oai_outcome01", common | outcome, cohort.n)
    paths.append(_write_image03(root, release, nda))
    return paths


def _months(visit: str) -> int:
    return round(12 * VISIT_YEARS[visit])


def _image_release(release: _Release, person: NDArray, visit: str) -> pl.Series:
    """Image release of each row, `0.C.2`, as `phantom.delivery` names its folders."""
    number = int(visit[1:])
    if visit == "V02":
        return pl.Series(np.full(len(person), "2.D.2"))
    if visit == "V04":
        return pl.Series(np.full(len(person), "4.G.1"))
    first = release.cohort.enrollees.half[person] == 1
    version = 2 if number < 5 else 1
    return pl.Series(np.where(first, f"{number}.C.{version}", f"{number}.E.1"))


def _study(visit: str, side: NDArray, separator: str) -> pl.Series:
    when = "ENROLLMENT" if visit == "V00" else f"{_months(visit)} MONTH"
    start = separator.join(("OAI", "MR", when, ""))
    return pl.Series(np.where(side == 1, f"{start}RIGHT", f"{start}LEFT"))


def _write_image03(root: Path, release: _Release, nda: _Nda) -> Path:
    frames = []
    for visit in targets.SCAN_VISITS:
        rows = release.series(visit)
        made = rows.acquired
        person, side = rows.person[made], rows.side[made]
        index = np.full(len(person), visit_index(visit))
        image_release = _image_release(release, person, visit)
        barcode = pl.Series(rows.barcode[made])
        folder = (
            f"s3://invented-bucket/submission_1/{_months(visit):02d}m/"
            + image_release + "/" + pl.Series(release.ids[person]) + "/"
            + pl.Series(rows.date[made]) + "/" + barcode.str.slice(4)
        )  # fmt: skip
        columns = nda.common("image03", person, index)
        columns |= {"interview_date": _american(_days(rows.date[made]))}
        columns |= {
            "comments_misc": _study(visit, side, " "),
            "image_file": folder + ".tar.gz",
            "image_thumbnail_file": folder + ".jpg",
            "image_description": pl.Series(rows.described[made]),
            "scan_type": "MR structural (T1)",
            "scan_object": "Live",
            "image_file_format": "DICOM",
            "image_modality": "MRI",
            "study": "OAI Image Release " + image_release,
            "accession_number": barcode,
            "collection_title": "Osteoarthritis Initiative",
        }
        frames.append(
            pl.DataFrame(
                [
                    series.alias(name)
                    if isinstance(series, pl.Series)
                    else pl.Series(name, [series] * len(person))
                    for name, series in columns.items()
                ]
            )
        )
    table = pl.concat(frames)
    table = table.with_columns(pl.Series("image03_id", np.arange(1, table.height + 1)))
    path = root / "image03.txt"
    _write_structure(path, {name: table[name] for name in table.columns}, table.height)
    return path


def _write_contents(root: Path, release: _Release) -> list[Path]:
    """The old inventories: one `contents.csv` per visit, each with a habit of its own."""
    paths = []
    for visit in targets.SCAN_VISITS:
        rows = release.series(visit)
        made = rows.acquired
        if not made.any():
            continue
        person = rows.person[made]
        ids, date = pl.Series(release.ids[person]), pl.Series(rows.date[made])
        barcode = pl.Series(rows.barcode[made])
        short = barcode.str.slice(4)
        number = short.cast(pl.Int64).cast(pl.String)
        # The 72-month file holds the 12 digits; in the 96-month one they lost their zero.
        told = {"V08": barcode, "V10": barcode.str.slice(1)}.get(visit, number)
        frame = pl.DataFrame(
            {
                "Folder": _image_release(release, person, visit)
                + "/"
                + ids
                + "/"
                + date
                + "/"
                + short,
                "ParticipantID": ids,
                "StudyDate": date,
                "AccessionNumber" if visit == "V08" else "Barcode": told,
                "StudyDescription": _study(visit, rows.side[made], "^") + " ",
                "SeriesDescription": pl.Series(rows.described[made]).str.pad_end(24)
                if visit == "V03"
                else pl.Series(rows.described[made]),
            }
        )
        folder = root / f"{_months(visit):02d}m"
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / "contents.csv")
        frame.write_csv(paths[-1], line_terminator="\r\n")
    return paths


def write_clinical_release(
    root: Path, cohort: Cohort, dialect: Dialect, imaging: CohortImaging | None = None
) -> list[Path]:
    """Write a cohort as one form of the OAI's tables; the same cohort always gives the same bytes.

    - `ascii`: `<root>/*.txt`, one flat folder, `|`-separated, CRLF; plus files that are no table.
    - `sas`: `<root>/*.sas7bdat`, missing values with their letters.
    - `nda`: `<root>/<structure>.txt`, and `image03.txt` as the inventory of scans.
    - `contents`: `<root>/<months>m/contents.csv`, which list scans only, with the clinical tables
      of the `ascii` form beside them but without its MRInn.

    Args:
        root: a folder, made if missing.
        cohort: from `simulate_cohort`.
        dialect: which form.
        imaging: from `image_cohort`; drawn here where it is not given.

    Returns:
        The files, in the order written.
    """
    root.mkdir(parents=True, exist_ok=True)
    release = _Release(cohort, imaging or image_cohort(cohort))
    if dialect == "ascii":
        return _write_ascii_release(root, release, with_scans=True)
    if dialect == "sas":
        return _write_sas_release(root, release)
    if dialect == "nda":
        return _write_nda_package(root, release)
    return [
        *_write_ascii_release(root, release, with_scans=False), *_write_contents(root, release)
    ]  # fmt: skip
