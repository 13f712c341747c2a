"""What one cell of a clinical table says: a code, a label, or why there is nothing.

A cell is `1: Yes`, `1`, `27.4`, free text, a blank, or a missing code: `.`, `.A`, or either with
a label (`.: Missing Form/Incomplete Workbook`).
"""

import re
from dataclasses import dataclass

REASONS = {
    "A": "not_expected",
    "B": "below_range",
    "C": "cannot_do",
    "D": "dont_know",
    "E": "non_exposed_control",
    "F": "not_done_phone_contact",
    "G": "unreleased_high",
    "H": "above_range",
    "I": "inadequate_data",
    "J": "unassigned",
    "K": "cannot_do_not_attempted",
    "L": "permanently_lost",
    "M": "missing",
    "N": "not_required",
    "O": "not_done_other",
    "P": "prosthetic",
    "R": "refused",
    "S": "unreleased_low",
    "T": "technical_problem",
    "U": "unable_to_examine",
    "V": "missed_visit",
    "W": "impossible_value",
    "X": "does_not_do",
}
"""Reason by the letter of SAS's special missing value."""
BLANK = "blank"
COLLAPSED = "collapsed"
MISSING_FORM = "missing_form"
NOT_DELIVERED = "not_delivered"
NOT_EXPECTED = "not_expected"

_MISSING = re.compile(r"\.([A-Z])?\s*(?::.*)?", re.DOTALL | re.IGNORECASE)
# A label follows a number only: "Note: see form" is free text.
_LABELLED = re.compile(r"([+-]?\d*\.?\d+)\s*:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """A cell taken apart.

    Attributes:
        code: the number or text before a label; None where the cell is missing.
        label: '' where there is none.
        reason: why it is missing; None where it is not.
    """

    code: str | None
    label: str = ""
    reason: str | None = None


def parse_cell(text: str | None, *, keeps_reasons: bool) -> Cell:
    """Take a cell apart.

    Args:
        text: as delivered; None for a cell that is not there.
        keeps_reasons: whether a bare `.` of this form means a missing form (SAS), or may stand
            for any reason (ASCII, NDA, inventories).
    """
    plain = (text or "").strip()
    if not plain:
        return Cell(None, reason=BLANK)
    missing = _MISSING.fullmatch(plain)
    if missing:
        letter = missing.group(1)
        if letter is None:
            return Cell(None, reason=MISSING_FORM if keeps_reasons else COLLAPSED)
        reason = REASONS.get(letter.upper())
        if reason is not None:
            return Cell(None, reason=reason)
    labelled = _LABELLED.fullmatch(plain)
    if labelled:
        return Cell(labelled.group(1), labelled.group(2))
    return Cell(plain)
