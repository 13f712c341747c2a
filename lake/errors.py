"""What can go wrong in the lake itself. A user's bad file is a `BadInputError` instead."""


class LakeError(Exception):
    """The lake cannot do what was asked; the message says what to do about it."""


class LakeBusyError(LakeError):
    """Another process is writing to this lake."""


class SchemaError(LakeError):
    """Rows that do not fit the table they were meant for; nothing of their batch is stored."""
