"""An R script that reads an export's tables with their types. Not here: which tables (`export`)."""

from collections.abc import Mapping, Sequence

import polars as pl

from lake.tables import TABLES

_SCRIPT = """\
# Reads the tables of this export into R, with their types and factor levels.
#
#   source("read_kneelake.R")
#   knees <- read_kneelake("biomarkers_wide")
#   summary(glm(chronic_pain ~ age_years + bmi + sex, binomial, read_kneelake("cohort")))
#
# Parquet where the package arrow is installed, else CSV by base R. `kneelake_tables()` names them.

.kneelake_types <- list(
%(types)s
)

.kneelake_levels <- list(
%(levels)s
)

kneelake_tables <- function() names(.kneelake_types)

read_kneelake <- function(name, folder = ".") {
  types <- .kneelake_types[[name]]
  if (is.null(types)) {
    stop(name, ": no such table; there are ", paste(kneelake_tables(), collapse = ", "))
  }
  path <- file.path(folder, "tables", name)
  if (requireNamespace("arrow", quietly = TRUE)) {
    rows <- as.data.frame(arrow::read_parquet(paste0(path, ".parquet")))
  } else {
    rows <- utils::read.csv(
      paste0(path, ".csv"), colClasses = types, na.strings = "", check.names = FALSE,
      fileEncoding = "UTF-8"
    )
  }
  levels <- .kneelake_levels[[name]]
  for (column in names(levels)) {
    rows[[column]] <- factor(rows[[column]], levels = levels[[column]])
  }
  rows
}
"""
_LARGEST_INTEGER = 2**31 - 1


def r_script(frames: Mapping[str, pl.DataFrame]) -> str:
    """The script for some tables, by name."""
    types = [
        f"  {name} = c({_named({column: _type(frame[column]) for column in frame.columns})})"
        for name, frame in frames.items()
    ]
    levels = []
    for name, frame in frames.items():
        of_table = {
            column: f"c({', '.join(_quoted(level) for level in known)})"
            for column in frame.columns
            if (known := factor_levels(frame[column]))
        }
        if of_table:
            pairs = ",\n".join(f"    {_name(key)} = {value}" for key, value in of_table.items())
            levels.append(f"  {name} = list(\n{pairs}\n  )")
    return _SCRIPT % {"types": ",\n".join(types), "levels": ",\n".join(levels)}


def factor_levels(values: pl.Series) -> Sequence[str]:
    """The levels of a column as the registry allows them; () where it is no factor.

    A column of a view counts as that of the tables that has its name, where all values fit.
    """
    if values.dtype != pl.String:
        return ()
    there = set(values.drop_nulls().unique())
    for table in TABLES.values():
        for column in table.columns:
            if column.name == values.name and column.allowed and there <= set(column.allowed):
                return column.allowed
    return ()


def _type(values: pl.Series) -> str:
    if values.dtype == pl.Boolean:
        return "logical"
    if values.dtype.is_integer():
        largest = values.abs().max()
        fits = largest is None or int(str(largest)) <= _LARGEST_INTEGER
        return "integer" if fits else "numeric"
    return "numeric" if values.dtype.is_numeric() else "character"


def _named(pairs: Mapping[str, str]) -> str:
    return ", ".join(f"{_name(key)} = {_quoted(value)}" for key, value in pairs.items())


def _name(text: str) -> str:
    return f"`{text}`"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
