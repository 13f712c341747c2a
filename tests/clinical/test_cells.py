import pytest

from clinical.cells import Cell, parse_cell
from clinical.decode import BadCellError, barcode_of
from clinical.inventory import visit_of_release
from clinical.reading import split_prefix


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("1: Yes", Cell("1", "Yes")),
        ("1", Cell("1")),
        ("1.0", Cell("1.0")),
        ("27.4", Cell("27.4")),
        (".5", Cell(".5")),
        (" ", Cell(None, reason="blank")),
        (None, Cell(None, reason="blank")),
        (".: Missing Form/Incomplete Workbook", Cell(None, reason="missing_form")),
        (".", Cell(None, reason="missing_form")),
        (".A", Cell(None, reason="not_expected")),
        (".P: Prosthetic", Cell(None, reason="prosthetic")),
        (".D: Don’t Know/Unknown/Uncertain", Cell(None, reason="dont_know")),
        ("Note: see form", Cell("Note: see form")),
        ("A", Cell("A")),
    ],
)
def test_a_cell_taken_apart(text: str | None, cell: Cell) -> None:
    assert parse_cell(text, keeps_reasons=True) == cell


def test_a_bare_point_means_any_reason_where_reasons_are_not_kept() -> None:
    assert parse_cell(".: Missing Form", keeps_reasons=False).reason == "collapsed"
    assert parse_cell(".A: Not Expected", keeps_reasons=False).reason == "not_expected"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("V0020MPACE", ("V00", "20MPACE")),
        ("V00400MTR", ("V00", "400MTR")),
        ("V10400EXCL", ("V10", "400EXCL")),
        ("V01visdys", ("V01", "VISDYS")),
        ("P01OJPNNK", ("P01", "OJPNNK")),
        ("V99ERKDAYS", ("V99", "ERKDAYS")),
        ("VERSION", None),
        ("ID", None),
    ],
)
def test_a_prefix_is_three_characters(name: str, parts: tuple[str, str] | None) -> None:
    assert split_prefix(name) == parts


@pytest.mark.parametrize(
    ("code", "barcode"),
    [
        ("016610234567", "016610234567"),
        ("16610234567", "016610234567"),
        ("10234567", "016610234567"),
        ("234567", "016600234567"),
        ("16610234567.0", "016610234567"),
    ],
)
def test_a_barcode_gets_back_what_a_spreadsheet_took(code: str, barcode: str) -> None:
    assert barcode_of(code) == barcode


@pytest.mark.parametrize("code", ["12a", "0166102345678", "", "1.5"])
def test_what_is_no_barcode(code: str) -> None:
    with pytest.raises(BadCellError):
        barcode_of(code)


@pytest.mark.parametrize(
    ("text", "visit"),
    [
        ("0.C.2", "V00"),
        ("0.E.1", "V00"),
        ("OAI Image Release 10.E.1", "V10"),
        ("6.E.2", "V06"),
        ("2.D.2", "V02"),
        ("12.C.1", None),
        ("48m", None),
    ],
)
def test_an_image_release_names_its_visit(text: str, visit: str | None) -> None:
    assert visit_of_release(text) == visit
