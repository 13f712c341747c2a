"""Terms of a model as text: `Age`, `C(Sex, 'M')`, `Age:BMI`, `C(Sex)*Age`, `` `odd name` ``.

The text is taken apart here, by hand; nothing of it is ever put into SQL as it stands.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from stats.errors import StatisticsError

_TOKEN = re.compile(
    r"""\s*(?:
        `(?P<back>(?:[^`]|``)+)`
      | "(?P<double>(?:[^"]|"")+)"
      | '(?P<single>(?:[^']|'')*)'
      | (?P<name>[^\W\d]\w*(?:\.\w+)*)
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<sign>[():,*])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Factor:
    """One factor of a term.

    Attributes:
        column: name of the column.
        categorical: whether it was written C(...).
        reference: the level written as the reference; None where none was.
    """

    column: str
    categorical: bool = False
    reference: str | None = None


Term = tuple[Factor, ...]
"""Factors multiplied with each other; one of them is a main effect."""


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise StatisticsError(
                f"cannot read the term {text!r} at {text[at:].strip()!r}; write a column's name, "
                "C(column), C(column, 'reference'), a:b or a*b, and put names with spaces or signs "
                'in `backticks` or "double quotes"'
            )
        kind = str(match.lastgroup)
        value = match.group(kind)
        quote = {"back": "`", "double": '"', "single": "'"}.get(kind)
        if quote is not None:
            value = value.replace(2 * quote, quote)
        found.append(("name" if kind in ("back", "double") else kind, value))
        at = match.end()
    return found


class _Reader:
    """One term's tokens, read from the left."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)

    def wrong(self, wanted: str) -> StatisticsError:
        found = repr(self.tokens[0][1]) if self.tokens else "its end"
        return StatisticsError(f"cannot read the term {self.text!r}: {wanted}, not {found}")

    def take(self, kind: str, value: str | None = None, wanted: str = "") -> str:
        if not self.tokens or self.tokens[0][0] != kind or value not in (None, self.tokens[0][1]):
            raise self.wrong(wanted or f"{value!r} should stand there")
        return self.tokens.pop(0)[1]

    def next_is(self, sign: str) -> bool:
        return bool(self.tokens) and self.tokens[0] == ("sign", sign)

    def factor(self) -> Factor:
        name = self.take("name", wanted="a column's name should stand there")
        if not (name == "C" and self.next_is("(")):
            return Factor(name)
        self.take("sign", "(")
        column = self.take("name", wanted="a column's name should stand in C(...)")
        reference = None
        if self.next_is(","):
            self.take("sign", ",")
            kinds = ("single", "name", "number")
            if not self.tokens or self.tokens[0][0] not in kinds:
                raise self.wrong("the reference level should stand there, in quotes")
            reference = self.tokens.pop(0)[1]
        self.take("sign", ")")
        return Factor(column, categorical=True, reference=reference)

    def terms(self) -> list[Term]:
        """All terms of the text: a*b is a, b and a:b."""
        expanded = [self.product()]
        while self.next_is("*"):
            self.take("sign", "*")
            more = self.product()
            expanded += [more, *(have + more for have in expanded)]
        if self.tokens:
            raise self.wrong("the term should end there")
        return expanded

    def product(self) -> Term:
        factors = [self.factor()]
        while self.next_is(":"):
            self.take("sign", ":")
            factors.append(self.factor())
        return tuple(factors)


def parse_terms(texts: Sequence[str], columns: Collection[str]) -> list[Term]:
    """Terms of a model, each spelling once, main effects of a `*` before their product.

    Args:
        texts: one or more terms each, as the module's docstring shows. A text that is exactly a
            column's name is that column, whatever characters it has.
        columns: names there are.

    Raises:
        StatisticsError: a text cannot be read.
    """
    found: list[Term] = []
    for text in texts:
        if text in columns:
            terms: list[Term] = [(Factor(text),)]
        else:
            terms = sorted(_Reader(text).terms(), key=len)
        for term in terms:
            if len({factor.column for factor in term}) < len(term):
                raise StatisticsError(f"the term {text!r} multiplies a column with itself")
            if frozenset(term) not in {frozenset(have) for have in found}:
                found.append(term)
    return found


def distinct_terms(terms: Sequence[Term], known: Sequence[Term] = ()) -> list[Term]:
    """Terms of other columns than those before them, however they are spelt."""
    seen = {_columns(term) for term in known}
    found: list[Term] = []
    for term in terms:
        if _columns(term) not in seen:
            found.append(term)
            seen.add(_columns(term))
    return found


def _columns(term: Term) -> frozenset[str]:
    return frozenset(factor.column for factor in term)
