"""Names and texts of a user inside SQL, quoted so that they can only be names and texts."""

from stats.errors import StatisticsError


def quote_identifier(name: str) -> str:
    """A name as one SQL identifier, whatever characters it has.

    Raises:
        StatisticsError: the name is empty or has a NUL character.
    """
    if not name or "\0" in name:
        raise StatisticsError(f"{name!r} cannot be the name of a column or table")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as one SQL string literal.

    Raises:
        StatisticsError: the text has a NUL character.
    """
    if "\0" in text:
        raise StatisticsError(f"{text!r} has a NUL character and cannot be compared in SQL")
    return "'" + text.replace("'", "''") + "'"
