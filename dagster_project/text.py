"""Tables as text, for a terminal.

Here: how `kneelake` prints a table. Not here: which tables (`cli`, `demo`).
"""

import polars as pl


def text_table(rows: pl.DataFrame, decimals: int = 4) -> str:
    """All rows and columns as a Markdown table."""
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=10_000,
        fmt_str_lengths=1_000,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_formatting="ASCII_MARKDOWN",
        float_precision=decimals,
    ):
        return str(rows)
