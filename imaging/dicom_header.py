"""What kneelake keeps of a DICOM header: an allow-list, nothing else.

Only the tags of `HEADER_TAGS` and `dicom_frames.IMAGE_TAGS` are ever parsed. Free text is reduced
to known words, identifiers to the study's own pseudonym, dates to the visit, so that what leaves
here can stand in a table, a log or a figure.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from imaging.volume import Side

Sequence = Literal["DESS", "MSME"]
Timepoint = Literal[
    "V00", "V01", "V02", "V03", "V04", "V05", "V06", "V07", "V08", "V09", "V10", "V11"
]

MONTH_TIMEPOINT: dict[int, Timepoint] = {
    0: "V00",
    12: "V01",
    18: "V02",
    24: "V03",
    30: "V04",
    36: "V05",
    48: "V06",
    60: "V07",
    72: "V08",
    84: "V09",
    96: "V10",
    108: "V11",
}
"""The OAI visit of each month after enrolment."""

HEADER_TAGS = (
    "SOPClassUID",
    "Modality",
    "SeriesDescription",
    "StudyDescription",
    "PatientID",
    "ClinicalTrialSubjectID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "Laterality",
    "ImageLaterality",
)
"""Keywords of the tags read to describe a series."""

# fmt: off
_SERIES_WORDS = frozenset({
    "2D", "3D", "AX", "AXIAL", "CALC", "COR", "DESS", "FLASH", "FS", "FSE",
    "IW", "L", "LEFT", "LOCATOR", "MAP", "MESE", "MP", "MPR", "MSME", "QDESS",
    "R", "RIGHT", "SAG", "SE", "STIR", "T1", "T2", "T2MAP", "THIGH", "TSE",
    "WE",
})
# fmt: on
_VISITS: tuple[Timepoint, ...] = tuple(MONTH_TIMEPOINT.values())
_BASELINE_WORDS = frozenset({"ENROLLMENT", "ENROLMENT", "BASELINE", "SCREENING"})


@dataclass(frozen=True)
class SeriesHeader:
    """What is known of a series beside its pixels; nothing in it identifies a person.

    Attributes:
        series_description: the known words of SeriesDescription, joined by underscores.
        sequence: DESS or MSME (multi-echo spin echo), or None for any other.
        side: from SeriesDescription, else from the laterality tags.
        subject_id: the study pseudonym, only where it is a bare 7-digit number.
        timepoint: the OAI visit.
    """

    series_description: str = ""
    sequence: Sequence | None = None
    side: Side | None = None
    subject_id: int | None = None
    timepoint: Timepoint | None = None


def series_header(dataset: Dataset, n_echo: int = 1) -> SeriesHeader:
    """The allow-listed header of one file.

    Args:
        dataset: one file of the series.
        n_echo: how many echoes the series has, where that is known already.
    """
    words = _words(_text(dataset, "SeriesDescription"))
    return SeriesHeader(
        series_description="_".join(word for word in words if word in _SERIES_WORDS),
        sequence=_sequence(words, n_echo),
        side=_side(dataset, words),
        subject_id=_subject_id(dataset),
        timepoint=_timepoint(dataset),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    # Strings are padded to even length with a blank or a NUL.
    return str(dataset.get(keyword) or "").strip(" \0")


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Z0-9]+", text.upper())


def _sequence(words: list[str], n_echo: int) -> Sequence | None:
    if "CALC" in words:
        return None
    if "DESS" in words or "QDESS" in words:
        return "DESS"
    is_t2_map = "T2MAP" in words or ("T2" in words and "MAP" in words)
    if is_t2_map or {"MSME", "MESE"} & set(words) or n_echo > 1:
        return "MSME"
    return None


def _one_side(words: Iterable[str]) -> Side | None:
    words = set(words)
    right, left = bool(words & {"RIGHT", "R"}), bool(words & {"LEFT", "L"})
    if right == left:
        return None
    return "RIGHT" if right else "LEFT"


def _side(dataset: Dataset, series_words: list[str]) -> Side | None:
    return (
        _one_side(series_words)
        or _one_side(_words(_text(dataset, "ImageLaterality")))
        or _one_side(_words(_text(dataset, "Laterality")))
    )


def _subject_id(dataset: Dataset) -> int | None:
    for keyword in ("ClinicalTrialSubjectID", "PatientID"):
        text = _text(dataset, keyword)
        if re.fullmatch(r"[1-9][0-9]{6}", text):
            return int(text)
    return None


def _timepoint(dataset: Dataset) -> Timepoint | None:
    """`OAI^MR^12 MONTH^RIGHT`, `12 month Annual Visit`, `V01`, `OAI^MR^ENROLLMENT^LEFT`."""
    for keyword in (
        "StudyDescription",
        "ClinicalTrialTimePointID",
        "ClinicalTrialTimePointDescription",
    ):
        text = _text(dataset, keyword).upper()
        months = re.search(r"(?<![0-9])([0-9]{1,3})[ _-]?MONTHS?(?![A-Z])", text)
        if months and int(months[1]) in MONTH_TIMEPOINT:
            return MONTH_TIMEPOINT[int(months[1])]
        words = _words(text)
        for visit in _VISITS:
            if visit in words:
                return visit
        if _BASELINE_WORDS & set(words):
            return "V00"
    return None
