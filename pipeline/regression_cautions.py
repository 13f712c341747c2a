"""When coefficients of a larger model should not be read one by one: suppression and collinearity.

Adding a covariate that shares much with those in the model can turn another's sign (suppression) or
inflate its standard error. The test of what is added stays valid; single coefficients are then no
associations. Sources: Conger 1974 (doi:10.1177/001316447403400105) on suppressors; O'Brien 2007
(doi:10.1007/s11135-006-9018-6) on variance inflation and its rules of thumb.

Here: telling such terms from rows of `regression_terms`. Not here: fitting, or tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
Kind = Literal["sign", "inflation", "vif"]

VIF_LIMIT = 5.0
"""Above it four fifths of a term's variance are explained by the others."""
INFLATION_LIMIT = 1.5
"""A standard error that grows by half needs 2.25 times as many knees for the same precision."""
COMPARTMENT_TERMS = ("medial", "lateral", "compartment_1_mm", "compartment_2_mm")
ADDED_TERMS = ("dl_guided", "dl_guided_mm")
PAIR = ("classical", "dl_guided")
"""The smaller and the larger model that are compared."""


@dataclass(frozen=True)
class Caution:
    """One thing to know before a coefficient is read.

    Attributes:
        population, bone, biomarker, model: of the larger model.
        term: the coefficient.
        kind: its sign turned, its standard error grew, or it is explained by the others.
        short: for a cell of a table.
        text: a sentence, from its verb on, that takes the names of term and model before it.
    """

    population: str
    bone: str | None
    biomarker: str | None
    model: str
    term: str
    kind: Kind
    short: str
    text: str


def cautions(terms: Sequence[Row], pair: tuple[str, str] = PAIR) -> Iterator[Caution]:
    """What to know of a pair of nested models.

    Args:
        terms: rows of `regression_terms` of one analysis, of any models.
        pair: names of the smaller and the larger model.

    Yields:
        in the order of the terms; nothing for models without finite estimates.
    """
    by_term = {(_place(row), row["model"], row["term"]): row for row in terms}
    for row in terms:
        if row["model"] != pair[1] or row["estimate"] is None:
            continue
        own = (row["population"], row["bone"], row["biomarker"], row["model"], row["term"])
        if row["term"] in COMPARTMENT_TERMS:
            before = by_term.get((_place(row), pair[0], row["term"]))
            if before is not None and before["estimate"] is not None:
                for kind, short, text in _of_compartment(before, row):
                    yield Caution(*own, kind, short, text)
        elif row["term"] in ADDED_TERMS and (row["vif"] or 0.0) > VIF_LIMIT:
            share = 100 * (1 - 1 / row["vif"])
            yield Caution(
                *own,
                "vif",
                f"VIF {row['vif']:.1f}",
                f"has a variance inflation factor of {row['vif']:.1f} given the other terms: they "
                f"explain {share:.0f} % of its variance. The test of adding it stays valid; its "
                "coefficient and those of the compartments should not be read one by one.",
            )


def _place(row: Row) -> tuple[Any, ...]:
    return row["population"], row["bone"], row["biomarker"]


def _of_compartment(before: Row, after: Row) -> Iterator[tuple[Kind, str, str]]:
    change = (
        f"from {before['estimate']:.3g} (standard error {before['se']:.3g}) to "
        f"{after['estimate']:.3g} ({after['se']:.3g})"
    )
    if before["estimate"] * after["estimate"] < 0:
        doubt = (
            ""
            if _differs_from_zero(before) or _differs_from_zero(after)
            else " Neither estimate can be told from zero, so that the turn may be chance."
        )
        yield (
            "sign",
            "sign turned",
            f"turns its sign {change} once the DL-guided average is added: suppression. Given "
            "that average it is the coefficient of what the compartment does not share with it, "
            f"not the compartment's association with pain.{doubt}",
        )
    ratio = after["se"] / before["se"] if before["se"] else 0.0
    if ratio >= INFLATION_LIMIT:
        yield (
            "inflation",
            f"SE x {ratio:.1f}",
            f"changes {change} once the DL-guided average is added: its standard error grows "
            f"{ratio:.1f} times, since the two share most of their variance. Its interval is that "
            "wide for this reason.",
        )


def _differs_from_zero(row: Row) -> bool:
    """By the interval that allows for several rows of a participant, where there is one."""
    low, high = row["cluster_ci_low"], row["cluster_ci_high"]
    if low is None or high is None:
        low, high = row["ci_low"], row["ci_high"]
    return low is not None and high is not None and (low > 0 or high < 0)
