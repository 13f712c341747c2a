"""What is told to a user whose table or model cannot be used."""


class StatisticsError(ValueError):
    """A statistic that would be wrong or meaningless: what is wrong, and what to do about it."""


class StatisticsWarning(UserWarning):
    """A result that was given, flagged, but should not be read as it stands."""
