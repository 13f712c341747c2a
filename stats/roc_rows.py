"""The rows a score is judged on: their columns, whether they can be judged, the SQL of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import polars as pl

from stats.errors import StatisticsError
from stats.identifiers import quote_identifier, quote_literal
from stats.source import describe, require_columns

Missing = Literal["refuse", "drop"]
ROWS = "roc_scores"
"""Name of the relation that a statement hands to the macros."""
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


@dataclass(frozen=True)
class Scores:
    """Where the scores and the truth are.

    Attributes:
        relation: a table or view of the connection, one row per case and model.
        outcome: column of the truth, BOOLEAN or 0/1.
        score: numeric column; the higher, the more likely a case.
        by: columns that tell models apart; () where all rows are of one.
        subject: column of the patient, for the bootstrap; None where each row is one.
        case: columns of which no combination may come twice in a model, such as knee_visit; () to
            not check.
        second: numeric column of a score to compare with the first on the same rows.
    """

    relation: str
    outcome: str
    score: str
    by: tuple[str, ...] = ()
    subject: str | None = None
    case: tuple[str, ...] = ()
    second: str | None = None

    def columns(self) -> list[str]:
        """Every column it names, once."""
        asked = [self.outcome, *self.score_columns(), *self.by, self.subject, *self.case]
        return list(dict.fromkeys(name for name in asked if name is not None))

    def score_columns(self) -> list[str]:
        """The score, or both."""
        return [self.score] if self.second is None else [self.score, self.second]


def model_key(by: Sequence[str]) -> str:
    """SQL of the value that tells models apart."""
    if not by:
        return "0"
    fields = (f"{quote_literal(name)}: {quote_identifier(name)}" for name in by)
    return "{" + ", ".join(fields) + "}"


def _usable(scores: Scores) -> str:
    """SQL that is true in the rows with an outcome and finite scores."""
    names = (quote_identifier(name) for name in (scores.outcome, *scores.score_columns()))
    return " AND ".join(f"coalesce(isfinite({name}::DOUBLE), false)" for name in names)


def statement(scores: Scores, macro: str, **arguments: str | float) -> str:
    """The statement that hands the usable rows to a table macro of `sql/macros/roc.sql`.

    Args:
        scores: the rows.
        macro: its name.
        **arguments: of the macro.
    """
    names = ["score"] if scores.second is None else ["first_score", "second_score"]
    selected = [
        f"{model_key(scores.by)} AS model",
        f"{quote_identifier(scores.outcome)}::DOUBLE = 1 AS is_case",
    ]
    selected += [
        f"{quote_identifier(column)}::DOUBLE AS {name}"
        for column, name in zip(scores.score_columns(), names, strict=True)
    ]
    if scores.subject is not None:
        selected.append(f"{quote_identifier(scores.subject)} AS subject_id")
    given = "".join(
        f", {name} := {quote_literal(value) if isinstance(value, str) else repr(value)}"
        for name, value in arguments.items()
    )
    keys = [f"model.{quote_identifier(name)} AS {quote_identifier(name)}" for name in scores.by]
    shown = ", ".join([*keys, "* EXCLUDE (model)"])
    rows = ",\n        ".join(selected)
    return (
        f"WITH {ROWS} AS (\n    SELECT\n        {rows}\n"
        f"    FROM {quote_identifier(scores.relation)}\n"
        f"    WHERE {_usable(scores)}\n)\n"
        f"SELECT {shown}\nFROM {macro}('{ROWS}'{given})"
    )


def check_scores(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    *,
    missing: Missing,
    probability: bool = False,
    one_class: bool = False,
) -> pl.DataFrame:
    """Refuse rows from which no figure could be trusted; count those that are left out.

    Args:
        connection: that has the relation.
        scores: the rows.
        missing: whether rows without an outcome or a finite score are refused.
        probability: whether the score has to lie within 0..1.
        one_class: whether a model with one class only will do.

    Returns:
        One row per model: the `by` columns and n_dropped, the rows without an outcome or a finite
        score.

    Raises:
        StatisticsError: an unknown column; an outcome or a score of another type than said; an
            outcome other than 0 and 1; rows to drop where that is refused; a missing patient; one
            case twice in a model; one class only; a score outside 0..1 where it is a probability.
    """
    types = describe(connection, scores.relation)
    require_columns(types, scores.columns(), scores.relation)
    _check_types(scores, types)
    outcome, score = quote_identifier(scores.outcome), quote_identifier(scores.score)
    usable = _usable(scores)
    keys = "".join(f"{quote_identifier(name)}, " for name in scores.by)
    case = ", ".join(quote_identifier(name) for name in scores.case)
    cases = f"count(DISTINCT ({case})) FILTER ({usable})" if case else f"count_if({usable})"
    subject = "false" if scores.subject is None else f"{quote_identifier(scores.subject)} IS NULL"
    if scores.subject is not None and types[scores.subject] in ("FLOAT", "DOUBLE"):
        subject = f"NOT coalesce(isfinite({quote_identifier(scores.subject)}), false)"
    rows = connection.sql(
        f"""SELECT {keys}
            count_if(NOT ({usable})) AS n_dropped,
            count_if(isfinite({outcome}::DOUBLE) AND {outcome}::DOUBLE NOT IN (0, 1)) AS n_wrong,
            count_if({usable} AND {outcome}::DOUBLE = 1) AS n_positive,
            count_if({usable} AND {outcome}::DOUBLE = 0) AS n_negative,
            count_if({usable} AND {subject}) AS n_without_subject,
            count_if({usable}) - {cases} AS n_twice,
            count_if({usable} AND NOT {score} BETWEEN 0 AND 1) AS n_outside
        FROM {quote_identifier(scores.relation)}
        {"GROUP BY ALL ORDER BY ALL" if keys else ""}"""  # noqa: S608 - quoted
    ).pl()
    if not len(rows) or rows["n_dropped"][0] is None:
        raise StatisticsError(f"{scores.relation} has no rows")
    for row in rows.iter_rows(named=True):
        problem = _problem(
            scores, row, missing=missing, probability=probability, one_class=one_class
        )
        if problem:
            model = ", ".join(f"{name} {row[name]}" for name in scores.by)
            raise StatisticsError(f"{scores.relation}{f' ({model})' if model else ''}: {problem}")
    return rows.select(*scores.by, pl.col("n_dropped").cast(pl.Int64))


def _check_types(scores: Scores, types: dict[str, str]) -> None:
    outcome = types[scores.outcome]
    if outcome != "BOOLEAN" and not outcome.removeprefix("U").startswith(_NUMBERS):
        raise StatisticsError(
            f"outcome {scores.outcome} is {outcome}; give BOOLEAN or 0 and 1, 1 being a case"
        )
    for name in scores.score_columns():
        if not types[name].removeprefix("U").startswith(_NUMBERS):
            raise StatisticsError(f"score {name} is {types[name]}; give numbers")


def _problem(
    scores: Scores, row: dict[str, Any], *, missing: Missing, probability: bool, one_class: bool
) -> str | None:
    """What is wrong with a model's rows, and what to do about it."""
    found = (
        (row["n_wrong"], f"outcome {scores.outcome} is neither 0 nor 1 in {row['n_wrong']} rows"),
        (
            missing == "refuse" and row["n_dropped"],
            f"{row['n_dropped']} rows have no outcome or no finite score; complete them, or drop"
            " them with missing='drop' (--drop-missing)",
        ),
        (
            row["n_without_subject"],
            f"{scores.subject} is missing in {row['n_without_subject']} rows; the bootstrap draws"
            " patients",
        ),
        (
            row["n_twice"],
            f"{row['n_twice']} rows repeat a case ({', '.join(scores.case)}) of the same model;"
            " name the columns that tell models apart in `by`",
        ),
        (
            not one_class and (not row["n_positive"] or not row["n_negative"]),
            f"{row['n_positive']} cases and {row['n_negative']} others; both classes are needed",
        ),
        (
            probability and row["n_outside"],
            f"score {scores.score} is outside 0..1 in {row['n_outside']} rows; calibration is that"
            " of probabilities",
        ),
    )
    return next((text for wrong, text in found if wrong), None)
