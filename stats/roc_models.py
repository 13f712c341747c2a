"""Several models on the same cases: averages of an ensemble, and tests between two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from stats.errors import StatisticsError
from stats.identifiers import quote_identifier, quote_literal
from stats.roc import RocTable
from stats.roc_rows import ROWS, Scores, check_scores
from stats.source import describe, require_columns


def ensemble(
    connection: duckdb.DuckDBPyConnection, scores: Scores, members: Sequence[str]
) -> RocTable:
    """Average each case's score over the members of an ensemble.

    Args:
        connection: any.
        scores: the rows; `case` names a case within `by`, which tells ensembles apart.
        members: columns that tell the members of an ensemble apart.

    Returns:
        One row per ensemble and case: `by`, `case`, `subject`, the outcome and score columns by
        their names, n_members.

    Raises:
        StatisticsError: no case, no members; a score or outcome missing; a member twice or absent
            in a case; members that disagree on a case's outcome or patient.
    """
    if not scores.case or not members:
        raise StatisticsError("an ensemble needs the columns of a `case` and of its `members`")
    types = describe(connection, scores.relation)
    require_columns(types, [*scores.columns(), *members], scores.relation)
    overlap = set(members) & set(scores.columns())
    if overlap:
        raise StatisticsError(f"{', '.join(sorted(overlap))} cannot be a member and another column")
    check_scores(
        connection,
        replace(scores, by=(*scores.by, *members)),
        missing="refuse",
        one_class=True,
    )
    names = list(dict.fromkeys([*scores.by, *scores.case]))
    keys = ", ".join(map(quote_identifier, names))
    member = "(" + ", ".join(map(quote_identifier, members)) + ")"
    score = quote_identifier(scores.score)
    kept = [
        quote_identifier(name)
        for name in (scores.subject, scores.outcome)
        if name is not None and name not in names
    ]
    ensemble_key = ", ".join(map(quote_identifier, scores.by)) or "true"
    text = (
        f"SELECT {keys}, {', '.join(f'min({column}) AS {column}' for column in kept)},\n"
        f"    list_avg(list({score}::DOUBLE ORDER BY {member})) AS {score},\n"
        f"    count(*) AS n_members\n"
        f"FROM {quote_identifier(scores.relation)}\nGROUP BY {keys}\nORDER BY {keys}"
    )
    differ = " OR ".join(f"count(DISTINCT {column}) > 1" for column in kept)
    wrong = connection.sql(
        f"""SELECT count_if(differs), count_if(n < most) FROM (
            SELECT {differ or "false"} AS differs, count(*) AS n, max(n) OVER (
                PARTITION BY {ensemble_key}
            ) AS most
            FROM {quote_identifier(scores.relation)} GROUP BY {keys}
        )"""  # noqa: S608 - quoted
    ).fetchall()
    n_different, n_short = wrong[0]
    if n_different:
        raise StatisticsError(f"members disagree on the outcome or patient of {n_different} cases")
    if n_short:
        raise StatisticsError(
            f"{n_short} cases lack the score of a member; average over the same members everywhere"
        )
    return RocTable(connection.sql(text).pl(), text)


def compare_models(
    connection: duckdb.DuckDBPyConnection,
    scores: Scores,
    first: Mapping[str, str | int],
    second: Mapping[str, str | int],
    *,
    confidence: float = 0.95,
) -> RocTable:
    """DeLong's test between two models whose scores are rows of one table, on the same cases.

    Args:
        connection: with the macros.
        scores: the rows, with `case`; `by` is not used.
        first: value of each column that picks the first model's rows.
        second: of the second's.
        confidence: of the interval of the difference.

    Returns:
        As `stats.roc.paired_test`, one row, without n_dropped.

    Raises:
        StatisticsError: no `case`; an outcome or score missing; a case twice in a model or in one
            model only; models that disagree on an outcome; one class only.
    """
    if not scores.case:
        raise StatisticsError("two models are compared on the same cases; name columns of a `case`")
    if not 0 < confidence < 1:
        raise StatisticsError(f"confidence is {confidence}; give a number between 0 and 1")
    types = describe(connection, scores.relation)
    require_columns(types, [*scores.columns(), *first, *second], scores.relation)
    outcome, score = quote_identifier(scores.outcome), quote_identifier(scores.score)
    case = ", ".join(map(quote_identifier, scores.case))
    relation = quote_identifier(scores.relation)
    sides = [
        f"(SELECT {case}, {outcome}::DOUBLE AS truth, {score}::DOUBLE AS estimate "  # noqa: S608 - quoted
        f"FROM {relation} WHERE {_picked(chosen)})"
        for chosen in (first, second)
    ]
    _check_pairs(connection, sides, case)
    text = (
        f"WITH {ROWS} AS (\n    SELECT\n        0 AS model,\n        one.truth = 1 AS is_case,\n"
        "        one.estimate AS first_score,\n        other.estimate AS second_score\n"
        f"    FROM {sides[0]} AS one INNER JOIN {sides[1]} AS other USING ({case})\n)\n"
        f"SELECT * EXCLUDE (model)\nFROM roc_paired_test('{ROWS}', confidence := {confidence!r})"
    )
    return RocTable(connection.sql(text).pl(), text)


def _picked(chosen: Mapping[str, str | int]) -> str:
    """SQL of the rows of a model."""
    if not chosen:
        raise StatisticsError("say by the values of which columns a model's rows are picked")
    return " AND ".join(
        f"{quote_identifier(name)}::VARCHAR = {quote_literal(str(value))}"
        for name, value in chosen.items()
    )


def _check_pairs(connection: duckdb.DuckDBPyConnection, sides: Sequence[str], case: str) -> None:
    """Refuse models that cannot be compared."""
    for which, side in zip(("first", "second"), sides, strict=True):
        n, n_cases, n_bad, n_positive, n_negative = connection.sql(
            f"""SELECT count(*), count(DISTINCT ({case})),
                count_if(truth IS NULL OR truth NOT IN (0, 1)
                    OR NOT coalesce(isfinite(estimate), false)),
                count_if(truth = 1), count_if(truth = 0)
            FROM {side}"""  # noqa: S608 - quoted
        ).fetchall()[0]
        problem = (
            (not n, "has no rows"),
            (n_bad, f"lacks an outcome of 0 or 1, or a finite score, in {n_bad} rows"),
            (n > n_cases, f"has {n - n_cases} cases twice"),
            (not n_positive or not n_negative, "has one class only"),
        )
        for wrong, told in problem:
            if wrong:
                raise StatisticsError(f"the {which} model {told}")
    n_alone, n_different = connection.sql(
        f"""SELECT count_if(one.truth IS NULL OR other.truth IS NULL),
            count_if(one.truth <> other.truth)
        FROM {sides[0]} AS one FULL JOIN {sides[1]} AS other USING ({case})"""  # noqa: S608 - quoted
    ).fetchall()[0]
    if n_alone:
        raise StatisticsError(f"{n_alone} cases have a score of one of the models only")
    if n_different:
        raise StatisticsError(f"the models disagree on the outcome of {n_different} cases")
