"""A report's page as a reader's program sees it: its tables, links, anchors and pictures."""

from html.parser import HTMLParser


class PageReader(HTMLParser):
    """Reads a page once.

    Attributes:
        ids, links: anchors and where links lead.
        resources: what the page would have to fetch, were it not inside.
        tables: rows of cells by caption, headings first.
        alts: of its pictures.
        headings: levels in order.
        text: all of it.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.alts: list[str] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()
        self.text = ""
        self._caption = self._cell = ""
        self._rows: list[list[str]] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.add(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))
        if given.get("src"):
            self.resources.append(str(given["src"]))
        if tag == "img":
            self.alts.append(given.get("alt") or "")
        if tag in {"h1", "h2", "h3", "h4"}:
            self.headings.append(int(tag[1]))
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in {"caption", "td", "th"}:
            self._inside, self._cell = tag, ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = self._cell
        if tag in {"td", "th"}:
            self._rows[-1].append(self._cell)
        if tag == self._inside:
            self._inside = ""
        if tag == "table":
            assert self._caption not in self.tables, "two tables of one caption"
            self.tables[self._caption] = self._rows

    def records(self, caption: str) -> list[dict[str, str]]:
        """A table's rows by heading."""
        headings, *rows = self.tables[caption]
        return [dict(zip(headings, row, strict=True)) for row in rows]
