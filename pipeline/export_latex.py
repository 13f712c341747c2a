"""Tables as LaTeX (booktabs). Not here: which tables (`report`)."""

from collections.abc import Sequence

import polars as pl

from pipeline.manuscript import is_significant

PACKAGES = "% needs \\usepackage{booktabs,graphicx} and, before LaTeX 2018, UTF-8 input\n"
_WIDE = 8
"""Columns beyond which a table is shrunk to the width of the text."""
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "χ": r"$\chi$",
    "λ": r"$\lambda$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
}


def escaped(text: str) -> str:
    """Text as LaTeX sets it, letter by letter."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def table_latex(name: str, table: pl.DataFrame, title: str, notes: Sequence[str] = ()) -> str:
    """A table as a LaTeX float with its label `tab:<name>` and its notes below.

    Args:
        name: of the label.
        table: cells, all text; p-values below 0.05 in bold.
        title: the caption.
        notes: below the table.
    """
    lines = [
        " & ".join(
            rf"\textbf{{{escaped(cell)}}}" if is_significant(heading, cell) else escaped(cell)
            for heading, cell in zip(table.columns, row, strict=True)
        )
        + r" \\"
        for row in table.rows()
    ]
    tabular = "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * table.width}}}",
            r"\toprule",
            " & ".join(escaped(heading) for heading in table.columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
    if table.width > _WIDE:
        tabular = "\\resizebox{\\textwidth}{!}{%\n" + tabular + "}"
    below = "".join(f"\\par {escaped(note)}\n" for note in notes)
    return (
        f"{PACKAGES}\\begin{{table}}\n\\centering\n\\caption{{{escaped(title)}}}\n"
        f"\\label{{tab:{name}}}\n{tabular}\n"
        + (
            f"\\begin{{minipage}}{{\\textwidth}}\\footnotesize\n{below}\\end{{minipage}}\n"
            if notes
            else ""
        )
        + "\\end{table}\n"
    )
