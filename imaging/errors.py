"""What is told to a user whose input cannot be used, and the reason codes of the quarantine."""

from enum import StrEnum
from pathlib import Path


class Reason(StrEnum):
    """Why an input was refused. The value is what the `quarantine` table stores."""

    TRUNCATED_FILE = "truncated_file"
    NOT_AN_IMAGE = "not_an_image"
    UNREADABLE_FILE = "unreadable_file"
    MISSING_SLICE = "missing_slice"
    MISSING_ECHO = "missing_echo"
    DUPLICATE_SLICE = "duplicate_slice"
    IRREGULAR_SPACING = "irregular_spacing"
    WRONG_MATRIX_SIZE = "wrong_matrix_size"
    MIXED_SERIES = "mixed_series"
    MISSING_TAG = "missing_tag"
    ALL_ZERO_VOLUME = "all_zero_volume"
    EMPTY_LABEL = "empty_label"
    MISSING_BONE = "missing_bone"
    UNKNOWN_SCHEME = "unknown_scheme"
    UNKNOWN_LABEL_VALUE = "unknown_label_value"
    GRID_MISMATCH = "grid_mismatch"
    WRONG_SIDE = "wrong_side"
    UNKNOWN_SIDE = "unknown_side"
    UNKNOWN_KNEE_VISIT = "unknown_knee_visit"
    UNFITTABLE_T2 = "unfittable_t2"
    BAD_ARCHIVE = "bad_archive"
    UNSAFE_ARCHIVE = "unsafe_archive"
    MISSING_INPUT = "missing_input"
    BAD_SURFACE = "bad_surface"
    EMPTY_MAP = "empty_map"
    EMPTY_FILE = "empty_file"
    WRONG_ENCODING = "wrong_encoding"
    RAGGED_ROW = "ragged_row"
    MISSING_COLUMN = "missing_column"
    DUPLICATE_COLUMN = "duplicate_column"
    UNKNOWN_VISIT = "unknown_visit"
    MIXED_RELEASES = "mixed_releases"
    BAD_SUBJECT_ID = "bad_subject_id"
    BAD_VALUE = "bad_value"
    DUPLICATE_KEY = "duplicate_key"


class BadInputError(Exception):
    """An input kneelake cannot use: which file, what is wrong, and what to do about it.

    Attributes:
        reason: the code stored in the quarantine table.
        file: the file, folder or archive, as short as still finds it.
        what: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, reason: Reason, file: Path | str, what: str, remedy: str) -> None:
        self.reason = reason
        self.file = str(file)
        self.what = what
        self.remedy = remedy
        super().__init__(f"{self.file}: {what}. {remedy}")

    def __reduce__(self) -> tuple[type, tuple[Reason, str, str, str]]:
        """Keep the four parts when the error crosses a process border."""
        return type(self), (self.reason, self.file, self.what, self.remedy)
