"""Tables as a manuscript takes them: Markdown, an HTML page, CSV.

Here: laying out cells that are text already. Not here: which cells (`cohort_figures`,
`regression_tables`).
"""

import csv
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

_SIGNIFICANT = 0.05
_PAGE = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
    "<style>table{{border-collapse:collapse;font:14px sans-serif}}"
    "caption{{text-align:left;padding:4px 0}}p{{font:13px sans-serif;max-width:60em}}"
    "th,td{{border:1px solid #999;padding:4px 8px;text-align:left}}</style></head><body>\n"
    "<table>\n<caption>{title}</caption>\n<thead><tr>{head}</tr></thead>\n"
    "<tbody>\n{body}</tbody>\n</table>\n{notes}</body></html>\n"
)


def p_text(value: float | None) -> str:
    """A p-value to three digits; '-' where there is none."""
    return "-" if value is None else f"{value:.3g}"


def number_text(value: float | None, digits: int) -> str:
    """A number to some decimals; '-' where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def is_significant(heading: str, text: str) -> bool:
    """Whether a cell is a p-value below 0.05; which columns hold some, their heading tells."""
    if heading != "p" and not heading.endswith(", p"):
        return False
    try:
        return float(text) < _SIGNIFICANT
    except ValueError:
        return False


def _cells(table: pl.DataFrame, mark: str) -> Iterator[list[str]]:
    """The rows, p-values below 0.05 in bold as in the paper."""
    for row in table.to_dicts():
        yield [
            mark.format(text) if is_significant(heading, text) else text
            for heading, text in row.items()
        ]


def table_markdown(table: pl.DataFrame, notes: Sequence[str] = ()) -> str:
    """A table as Markdown, its notes below as a list."""
    escaped = table.with_columns(pl.all().str.replace_all("|", r"\|", literal=True))
    lines: list[Sequence[str]] = [table.columns, ["---"] * len(table.columns)]
    lines += _cells(escaped, "**{}**")
    below = "\n" + "".join(f"- {note}\n" for note in notes) if notes else ""
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + below


def table_html(table: pl.DataFrame, title: str, notes: Sequence[str] = ()) -> str:
    """A table as an HTML page of its own, its notes below."""
    escaped = table.with_columns(pl.all().map_elements(html.escape, return_dtype=pl.String))
    return _PAGE.format(
        title=html.escape(title),
        head="".join(f"<th>{html.escape(name)}</th>" for name in table.columns),
        body="".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n"
            for row in _cells(escaped, "<strong>{}</strong>")
        ),
        notes="".join(f"<p>{html.escape(note)}</p>\n" for note in notes),
    )


def table_csv(table: pl.DataFrame) -> str:
    """A table as CSV, without its notes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows())
    return buffer.getvalue()


def table_files(
    name: str, table: pl.DataFrame, title: str, notes: Sequence[str] = ()
) -> dict[str, bytes]:
    """The three forms of a table by file name."""
    return {
        f"{name}.html": table_html(table, title, notes).encode(),
        f"{name}.md": table_markdown(table, notes).encode(),
        f"{name}.csv": table_csv(table).encode(),
    }


def write_files(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    """Write files into a folder, which is made if it is not there; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
