"""A figure in a file is shown again only where it was drawn from the same."""

import io
from pathlib import Path

from PIL import Image

from pipeline.figures import blank_figure, drawn_before, png_of


def test_a_kept_figure_is_made_narrower_and_one_of_something_else_is_not_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "figure.png"
    assert drawn_before(file, "batch 1", 100) is None
    figure = blank_figure(4.0, 2.0)
    figure.subplots().plot([0, 1], [1, 0])
    file.write_bytes(png_of(figure, 100, "batch 1"))
    shown = drawn_before(file, "batch 1", 100)
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as picture:
        assert picture.size == (100, 50)
        assert "Software" not in picture.info
    assert drawn_before(file, "batch 2", 100) is None
    file.write_bytes(png_of(figure, 100))
    assert drawn_before(file, "", 100) is None
    assert drawn_before(file, "batch 1", 100) is None
