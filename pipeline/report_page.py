"""The report as one HTML page: headings, captions, sources, and an appendix of every query.

Here: the page's parts and anchors, and its template (`templates/report.html.jinja`). Not here: what
sections hold (`report_*`).
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.manuscript import is_significant
from pipeline.report_blocks import (
    DetailsBlock,
    FigureBlock,
    Part,
    Source,
    TableBlock,
    TextBlock,
)
from pipeline.report_cohort import drawn
from pipeline.report_methods import Entry, Statement, entries, statements
from pipeline.report_reading import RESULTS_OF, Reading, has_relation

TITLE = "Knee MRI biomarkers and chronic pain"
_NUMBER = re.compile(r"^[-+]?[\d,.]+([e^][-+]?[\d.]+)?( ?%)?( [(±].*)?$")

_SHORT = 14
"""Letters up to which a number is kept on one line."""
_LONG = 24
"""Letters up to which it is set to the right: a longer cell holds several."""


@dataclass(frozen=True)
class Chapter:
    """A chapter: its anchor, heading and sections."""

    name: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Page:
    """All that the page shows.

    Attributes:
        chapters: in order.
        banner: the warning that knees are simulated; None without.
        entries: of the appendix: every relation shown and what it is worked out from.
        statements: of the regressions shown.
        versions: data version by relation.
    """

    chapters: tuple[Chapter, ...]
    banner: TextBlock | None
    entries: tuple[Entry, ...]
    statements: tuple[Statement, ...]
    versions: dict[str, str]

    @classmethod
    def of(cls, reading: Reading, parts: Sequence[Part]) -> "Page":
        """The page of some sections, with the appendix that their sources ask for."""
        banner = drawn(reading)
        sources = [source for part in parts for source in _sources(part)]
        if banner is not None and banner.source is not None:
            sources.append(banner.source)
        relations = {name for source in sources for name in source.relations if has_relation(name)}
        analyses = {source.analysis for source in sources if source.analysis}
        titles = list(dict.fromkeys(part.within for part in parts))
        found = entries(reading, relations)
        return cls(
            tuple(
                Chapter(
                    f"chapter-{place}",
                    title,
                    tuple(part for part in parts if part.within == title),
                )
                for place, title in enumerate(titles, start=1)
            ),
            banner,
            tuple(found),
            tuple(statements(reading, analyses)),
            {entry.name: entry.version for entry in found},
        )


def _sources(part: Part) -> list[Source]:
    return [
        block.source
        for block in part.blocks
        if not isinstance(block, DetailsBlock) and block.source is not None
    ]


def page_html(page: Page) -> str:
    """The page as HTML; nothing in it refers to anything outside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"rows": _rows, "data_url": _data_url}
    environment.tests |= {
        "a_table": lambda block: isinstance(block, TableBlock),
        "a_figure": lambda block: isinstance(block, FigureBlock),
        "a_text": lambda block: isinstance(block, TextBlock),
    }
    template = environment.get_template("report.html.jinja")
    return template.render(page=page, title=TITLE, results_of=RESULTS_OF)


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _rows(table: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Cells with how they are set: numbers to the right, p-values below 0.05 in bold."""
    return [
        [
            {
                "text": text,
                "number": len(text or "") <= _LONG and _NUMBER.match(text or "") is not None,
                "strong": is_significant(heading, text),
                "short": len(text or "") <= _SHORT,
            }
            for heading, text in zip(table.columns, row, strict=True)
        ]
        for row in table.rows()
    ]
