"""What a report is made of: tables, figures and sentences, each with where it comes from.

Here: the blocks, and numbers as text. Not here: any number (`report_cohort`, `report_learning`,
`report_association`, `report_methods`), or the page (`report_page`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipeline.manuscript import number_text, p_text

NOTHING = "-"


@dataclass(frozen=True)
class Source:
    """Where numbers come from.

    Attributes:
        asset: the Dagster asset that makes them.
        relations: tables and views of the lake they are read from.
        analysis: of result tables, the analysis; '' where there is none.
    """

    asset: str
    relations: tuple[str, ...]
    analysis: str = ""


@dataclass(frozen=True, eq=False)
class TableBlock:
    """A table.

    Attributes:
        name: of its files and its anchor, unique in a report.
        title: its caption.
        table: its cells, all text.
        source: where they come from.
        notes: below it.
    """

    name: str
    title: str
    table: pl.DataFrame
    source: Source
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FigureBlock:
    """A figure.

    Attributes:
        name: of its file and its anchor, unique in a report.
        title: its caption.
        alt: what it shows, for who cannot see it.
        draw: gives the picture, a PNG; only a page asks for it.
        source: where its numbers come from.
        notes: below it.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[], bytes]
    source: Source
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextBlock:
    """Sentences.

    Attributes:
        lines: a paragraph or point each.
        kind: paragraphs, a list, or a warning.
        source: where numbers in them come from; None where there are none.
    """

    lines: tuple[str, ...]
    kind: Literal["paragraphs", "list", "warning"] = "paragraphs"
    source: Source | None = None


@dataclass(frozen=True)
class DetailsBlock:
    """Text that is folded away.

    Attributes:
        title: what it is.
        text: the text, kept as it is.
    """

    title: str
    text: str


Block = TableBlock | FigureBlock | TextBlock | DetailsBlock


@dataclass(frozen=True)
class Part:
    """A section of a report.

    Attributes:
        name: its anchor.
        title: its heading.
        blocks: what it holds.
        missing: the asset to materialise where it holds nothing yet; '' where it does.
        within: heading of the chapter it is in.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    missing: str = ""
    within: str = ""


def text_of(value: Any) -> str:
    """A value as text: four digits of a number that is not whole, '-' for none."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


@dataclass(frozen=True)
class Layout:
    """How a column is shown.

    Attributes:
        heading: its heading.
        text: a value as text.
    """

    heading: str
    text: Callable[[Any], str] = text_of


def fixed(digits: int) -> Callable[[float | None], str]:
    """Numbers to some decimals."""
    return lambda value: number_text(value, digits)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, without its sign."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def mean_sd(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """A mean and its standard deviation."""
    return NOTHING if mean is None else f"{mean:.{digits}f} ± {number_text(sd, digits)}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """An estimate and its limits."""
    if value is None:
        return NOTHING
    return f"{value:.{digits}f} ({number_text(low, digits)} to {number_text(high, digits)})"


def small_p(p: float | None, ln_p: float | None = None) -> str:
    """A p-value; by its logarithm where a double holds it no more."""
    if p == 0 and ln_p is not None:
        return f"10^{ln_p / 2.302585092994046:.1f}"
    return p_text(p)


def counted(n: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def laid_out(rows: pl.DataFrame, columns: Mapping[str, Layout | str]) -> pl.DataFrame:
    """Some columns of rows as text, in this order, under their headings."""
    shown = {
        name: layout if isinstance(layout, Layout) else Layout(layout)
        for name, layout in columns.items()
    }
    return text_table(
        [layout.heading for layout in shown.values()],
        [[layout.text(row[name]) for name, layout in shown.items()] for row in rows.to_dicts()],
    )


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Cells of text under headings."""
    return pl.DataFrame(
        [dict(zip(headings, row, strict=True)) for row in rows],
        schema=dict.fromkeys(headings, pl.String),
    )
