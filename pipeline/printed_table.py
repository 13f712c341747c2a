"""The printed Table 3 beside the same models refitted, number by number, at printed precision.

Here: reading what was printed, and judging. Not here: fitting (`published_regressions`).
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

from stats.logit import LogitFit, NestedLogit

Row = dict[str, Any]
MODELS = ("classical", "dl_guided")
QUANTITIES = ("estimate", "se", "p")
ROC = ("sensitivity", "specificity", "auc")
RECODED_SEX = "sex coded 2 - Sex (1 male, 0 female) in place of 1 and 2"
SWAPPED = "the labels of the two compartments exchanged"
DL_VARIABLE = "DL-thickness"


@dataclass(frozen=True)
class Refit:
    """One bone's models as the file has them, and with sex recoded.

    Attributes:
        bone: the bone.
        delivered: with sex as delivered.
        recoded: with sex coded 2 - Sex.
        terms: printed variables' terms: 'Intercept', 'Age', 'BMI', 'Sex' and DL-thickness.
        compartments: name in the file and term, of both compartments.
    """

    bone: str
    delivered: NestedLogit
    recoded: NestedLogit
    terms: Mapping[str, str]
    compartments: tuple[tuple[str, str], tuple[str, str]]


@cache
def printed_table_3() -> Mapping[str, Any]:
    """The printed numbers, as texts."""
    text = resources.files("pipeline").joinpath("published_table_3.toml").read_text("utf-8")
    return tomllib.loads(text)


def agrees(value: float, printed: str) -> bool:
    """Whether a number rounds to what is printed, at the digits printed."""
    exponent = Decimal(printed).as_tuple().exponent
    half_a_digit = 0.5 * 10.0 ** int(exponent)
    return abs(value - float(printed)) <= half_a_digit * (1 + 1e-9)


def compare(refit: Refit) -> list[Row]:
    """Every number of a bone's part of Table 3; rows of `printed_comparisons`.

    Returns:
        No rows where the table has no such bone.
    """
    printed = {bone["name"]: bone for bone in printed_table_3()["bone"]}.get(refit.bone)
    if printed is None:
        return []
    rows: list[Row] = []
    for model in MODELS:
        rows += _model_rows(refit, model, printed[model])
    lrt = printed.get("likelihood_ratio_p")
    rows += [
        _judged("dl_guided", "", "likelihood_ratio_p", lrt, refit.delivered.lrt.p, ()),
        _judged("classical", "", "n", printed_table_3()["n"], refit.delivered.base.n, ()),
    ]
    named = {"printed_table": printed_table_3()["table"], "bone": refit.bone}
    return [{**named, **row} for row in rows]


def _fit(nested: NestedLogit, model: str) -> LogitFit:
    return nested.base if model == "classical" else nested.full


def _model_rows(refit: Refit, model: str, printed: Mapping[str, Any]) -> Iterator[Row]:
    delivered, recoded = _fit(refit.delivered, model), _fit(refit.recoded, model)
    variables = {row["variable"]: row for row in printed["rows"]}
    if model == "dl_guided":
        variables.setdefault(DL_VARIABLE, {})
    for variable, numbers in variables.items():
        ways = _ways(refit, variable, list(variables), delivered, recoded)
        yield from _variable_rows(model, variable, numbers, ways)
    rocs = {"classical": refit.delivered.base_roc, "dl_guided": refit.delivered.full_roc}
    for quantity, text in zip(ROC, printed["roc"], strict=True):
        percent = 100 * getattr(rocs[model], quantity)
        yield _judged(model, "", quantity, text, percent, ())


def _ways(
    refit: Refit, variable: str, printed: Sequence[str], delivered: LogitFit, recoded: LogitFit
) -> list[tuple[str | None, LogitFit, str]]:
    """What a printed row may be: (change, fit, term), as delivered first."""
    if variable in refit.terms:
        term = refit.terms[variable]
        changed = [(RECODED_SEX, recoded, term)] if variable in ("Intercept", "Sex") else []
        return [(None, delivered, term), *changed]
    first, second = refit.compartments
    names = [first[0][:1].upper(), second[0][:1].upper()]
    if set(names) == {"L", "M"}:
        own = refit.compartments[names.index(variable[:1])]
    else:
        # Names that say nothing: by the order of the file, which is L, M in two of three.
        printed_first = next(row for row in printed if row not in refit.terms)
        own = first if variable == printed_first else second
    other = second if own is first else first
    return [(None, delivered, own[1]), (SWAPPED, delivered, other[1])]


def _variable_rows(
    model: str,
    variable: str,
    numbers: Mapping[str, str],
    ways: Sequence[tuple[str | None, LogitFit, str]],
) -> Iterator[Row]:
    def matches(way: tuple[str | None, LogitFit, str]) -> int:
        term = way[1].term(way[2])
        return sum(agrees(getattr(term, q), numbers[q]) for q in QUANTITIES if q in numbers)

    # The change that makes most of a row's numbers agree; none where it makes no difference.
    best = max(ways, key=matches)
    as_delivered = ways[0][1].term(ways[0][2])
    for quantity in QUANTITIES:
        other = (
            ((best[0], getattr(best[1].term(best[2]), quantity)),) if best[0] is not None else ()
        )
        value = getattr(as_delivered, quantity)
        yield _judged(model, variable, quantity, numbers.get(quantity), value, other)


def _judged(
    model: str,
    variable: str,
    quantity: str,
    printed: str | None,
    refitted: float,
    other: Sequence[tuple[str, float]],
) -> Row:
    verdict, explanation, explained = "differs", None, None
    if printed is None:
        verdict = "not_printed"
    elif agrees(refitted, printed):
        verdict = "agrees"
    else:
        for change, value in other:
            explanation, explained = change, value
            if agrees(value, printed):
                verdict = "explained"
    return {
        "model": model,
        "variable": variable,
        "quantity": quantity,
        "printed": printed,
        "refitted": float(refitted),
        "explained": explained,
        "verdict": verdict,
        "explanation": explanation,
    }
