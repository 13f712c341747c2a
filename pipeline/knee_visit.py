"""Which knee at which visit a delivery is of: from the caller, its path, its header.

The caller is believed before the path, the path before the header; but a path and a header that
contradict each other are refused, since one of them is another person's or another visit's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from imaging.dicom_header import MONTH_TIMEPOINT, SeriesHeader, Timepoint
from imaging.errors import BadInputError, Reason
from imaging.volume import Side
from lake.keys import TIMEPOINTS, knee_visit_name

PATH_DEPTH = 6
"""How many of the last parts of a path are looked at; the OAI's tree has five below its root."""

_SUBJECT = re.compile(r"[1-9]\d{6}")
_MONTH = re.compile(r"(\d{1,3})m", re.IGNORECASE)
# The first number of an image release is the visit's own, not its months.
_RELEASE = re.compile(r"(\d{1,2})\.[A-Z]\.\d+", re.IGNORECASE)
_VISIT = re.compile(r"V(\d\d)(?!\d).*", re.IGNORECASE)

_REMEDY = (
    "Name it <subject>_<SIDE>_<timepoint>, such as 1000001_RIGHT_V00, or lay it out as "
    "<month>m/<release>/<subject>/<date>/<series>"
)


@dataclass(frozen=True)
class KneeVisit:
    """What is known of whose knee, when; None where it is not.

    Attributes:
        subject_id: the participant's 7-digit study number.
        side: of the knee.
        timepoint: 'V00' to 'V11'.
    """

    subject_id: int | None = None
    side: Side | None = None
    timepoint: str | None = None

    @property
    def name(self) -> str | None:
        """`<subject_id>_<side>_<timepoint>`, or None where a part is missing."""
        if self.subject_id is None or self.side is None or self.timepoint is None:
            return None
        return knee_visit_name(self.subject_id, self.side, self.timepoint)

    def filled(self, other: "KneeVisit") -> "KneeVisit":
        """This one, what it lacks taken from another."""
        return KneeVisit(
            self.subject_id or other.subject_id,
            self.side or other.side,
            self.timepoint or other.timepoint,
        )


def of_header(header: SeriesHeader) -> KneeVisit:
    """What the allow-listed header says."""
    return KneeVisit(header.subject_id, header.side, header.timepoint)


def of_path(parts: Sequence[str], file: str) -> KneeVisit:
    """What the last parts of a path say.

    A 7-digit number between separators is the subject, RIGHT or LEFT the side; the visit is a word
    such as V03, a folder of months (`24m`), or an image release (`3.C.2`).

    Args:
        parts: of the path, without its suffix.
        file: for messages.

    Raises:
        BadInputError: UNKNOWN_KNEE_VISIT where the path contradicts itself.
    """
    subjects: set[int] = set()
    sides: set[Side] = set()
    visits: set[str] = set()
    for part in parts[-PATH_DEPTH:]:
        whole = _visit_of_folder(part)
        if whole is not None:
            visits.add(whole)
        for word in re.split(r"[_\-\s^]+", part):
            if _SUBJECT.fullmatch(word):
                subjects.add(int(word))
            elif word.upper() in get_args(Side):
                sides.add(cast(Side, word.upper()))
            elif (visit := _VISIT.fullmatch(word)) and f"V{visit[1]}" in TIMEPOINTS:
                visits.add(f"V{visit[1]}")
    for what, claims in (("subjects", subjects), ("sides", sides), ("visits", visits)):
        if len(claims) > 1:
            named = ", ".join(sorted(map(str, claims)))
            raise BadInputError(
                Reason.UNKNOWN_KNEE_VISIT, file, f"has a path of two {what}: {named}", _REMEDY
            )
    return KneeVisit(next(iter(subjects), None), next(iter(sides), None), next(iter(visits), None))


def _visit_of_folder(part: str) -> Timepoint | str | None:
    if months := _MONTH.fullmatch(part):
        return MONTH_TIMEPOINT.get(int(months[1]))
    if release := _RELEASE.fullmatch(part):
        visit = f"V{int(release[1]):02d}"
        return visit if visit in TIMEPOINTS else None
    return None


def resolve(declared: KneeVisit, path: KneeVisit, header: KneeVisit, file: str) -> KneeVisit:
    """The knee-visit of a delivery, complete or not.

    Args:
        declared: what the caller says; settles what it says.
        path: from `of_path`.
        header: from `of_header`.
        file: for messages.

    Raises:
        BadInputError: UNKNOWN_KNEE_VISIT where path and header contradict each other.
    """
    for what, by_caller, by_path, by_header in (
        ("subject", declared.subject_id, path.subject_id, header.subject_id),
        ("side", declared.side, path.side, header.side),
        ("visit", declared.timepoint, path.timepoint, header.timepoint),
    ):
        if by_caller is None and None not in (by_path, by_header) and by_path != by_header:
            raise BadInputError(
                Reason.UNKNOWN_KNEE_VISIT,
                file,
                f"has a path of {what} {by_path} and a DICOM header of {what} {by_header}",
                "Move it to the folder it belongs to, or correct the header; one of them is wrong",
            )
    return declared.filled(path).filled(header)


def require_complete(visit: KneeVisit, file: str) -> str:
    """The name of a complete knee-visit.

    Raises:
        BadInputError: UNKNOWN_KNEE_VISIT, naming what is missing.
    """
    if visit.name is None:
        missing = [
            what
            for what, value in (
                ("the subject", visit.subject_id),
                ("the side", visit.side),
                ("the visit", visit.timepoint),
            )
            if value is None
        ]
        raise BadInputError(
            Reason.UNKNOWN_KNEE_VISIT,
            file,
            f"does not tell {' or '.join(missing)}, by its path or its header",
            _REMEDY,
        )
    return visit.name
