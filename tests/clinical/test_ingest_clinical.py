"""From files to tables: the same rows whatever the order, and every bad file by row and column."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_release import lines, write_ascii

from lake.store import Lake
from pipeline.clinical import KEYS, ClinicalReport, ingest_clinical
from pipeline.config import Settings

CONTENTS = [
    "Folder",
    "ParticipantID",
    "StudyDate",
    "Barcode",
    "StudyDescription",
    "SeriesDescription",
]
TABLES = (*KEYS, "releases", "column_sources")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def put(lake: Lake, *paths: Path) -> ClinicalReport:
    return ingest_clinical(lake, Settings(lake_root=lake.root), paths)


def content(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    with lake.connect(query=" ".join(f"FROM {table}" for table in TABLES)) as now:
        return {
            table: now.sql(f"SELECT * EXCLUDE (batch_id) FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
        }


def visits(lake: Lake, columns: str, where: str = "true") -> list[tuple[object, ...]]:
    return lake.sql(f"SELECT {columns} FROM clinical_visits WHERE {where} ORDER BY ALL").rows()


def test_labelled_bare_and_blank_cells_mean_the_same(lake: Lake, tmp_path: Path) -> None:
    report = put(lake, *write_ascii(tmp_path))
    assert not report.quarantined
    assert lake.sql("FROM enrollees ORDER BY subject_id").select(
        "sex", "race", "race_missing", "hispanic", "cohort", "site", "half"
    ).rows() == [
        ("M", "white", None, False, "progression", "A", 1),
        ("F", "black", None, False, "incidence", "A", 1),
        ("F", None, "collapsed", True, "control", "A", 1),
    ]
    columns = "timepoint, subject_id, visit_day, age_years, bmi, knee_any_pain_12m_right"
    assert visits(lake, columns) == [
        ("V00", 1000001, 0, 61, 27.4, True),
        ("V00", 1000002, 0, 70, 31.0, False),
        ("V00", 1000003, 0, 55, 22.5, True),
        ("V01", 1000001, 380, 62, 27.9, True),
        # 1000002 did not come: no row.
        ("V01", 1000003, 391, 56, 22.1, None),
    ]


def test_no_is_recovered_only_where_the_question_was_answered(lake: Lake, tmp_path: Path) -> None:
    put(lake, *write_ascii(tmp_path))
    columns = (
        "subject_id, shoulder_frequent_pain_30d_right, foot_frequent_pain_30d_left, "
        "foot_frequent_pain_30d_left_missing, no_other_joint_pain_30d"
    )
    assert visits(lake, columns, "timepoint = 'V00'") == [
        (1000001, True, False, None, False),
        (1000002, False, False, None, True),
        (1000003, None, None, "collapsed", None),
    ]


def test_a_skipped_question_says_so_in_a_form_without_reasons(lake: Lake, tmp_path: Path) -> None:
    put(lake, *write_ascii(tmp_path))
    months = "knee_frequent_pain_months_12m_right"
    assert visits(lake, f"timepoint, subject_id, {months}, {months}_missing") == [
        ("V00", 1000001, 12, None),
        ("V00", 1000002, None, "not_expected"),
        ("V00", 1000003, None, "not_expected"),
        ("V01", 1000001, 7, None),
        ("V01", 1000003, None, "blank"),
    ]


def test_reading_project_42_is_37_and_leading_zeros_stay(lake: Lake, tmp_path: Path) -> None:
    put(lake, *write_ascii(tmp_path))
    rows = lake.sql(
        "SELECT knee_visit, reading_project, kl_grade, kl_grade_missing, jsn_medial, barcode "
        "FROM radiographs ORDER BY ALL"
    ).rows()
    assert rows == [
        ("1000001_LEFT_V00", 15, 1, None, 0.0, "016600000001"),
        ("1000001_RIGHT_V00", 15, 2, None, 1.0, "016600000000"),
        ("1000001_RIGHT_V00", 37, 3, None, 1.2, "016600000002"),
        ("1000001_RIGHT_V01", 15, 3, None, 1.4, "016600000000"),
        ("1000002_RIGHT_V00", 15, None, "collapsed", None, "016600000003"),
    ]


def test_any_order_gives_the_same_tables(tmp_path: Path) -> None:
    files = write_ascii(tmp_path / "in")
    newer = tmp_path / "newer" / "kXR_SQ_BU01.txt"
    newer.parent.mkdir()
    newer.write_bytes(files[4].read_bytes().replace(b"|0.9|3|", b"|0.10|2|"))
    known = None
    for number, order in enumerate(itertools.permutations([*files[3:], newer])):
        lake = Lake(tmp_path / f"lake{number}")
        for path in order:
            put(lake, path)
        found = content(lake)
        assert known is None or found == known
        known = found
    assert known is not None
    assert [row[5] for row in known["radiographs"] if row[3] == "V01"] == [2]


def test_the_same_again_writes_nothing(lake: Lake, tmp_path: Path) -> None:
    files = write_ascii(tmp_path)
    put(lake, *files)
    batches = len(lake.sql("FROM batches"))
    report = put(lake, tmp_path)
    assert (report.unchanged, report.landed, report.changes) == (len(files), [], {})
    assert len(lake.sql("FROM batches")) == batches


def test_a_correction_updates_exactly_its_rows_and_says_so(lake: Lake, tmp_path: Path) -> None:
    files = write_ascii(tmp_path)
    put(lake, *files)
    before = lake.sql("FROM clinical_visits")
    text = files[1].read_bytes()
    assert text.count(b"|27.4|") == 1
    files[1].write_bytes(text.replace(b"|27.4|", b"|28.1|"))
    report = put(lake, files[1])
    assert report.changes == {"clinical_visits": {"added": 0, "changed": 1, "retracted": 0}}
    after = lake.sql("FROM clinical_visits")
    moved = after.join(before, on="batch_id", how="anti")
    assert moved.select("subject_id", "timepoint", "bmi").rows() == [(1000001, "V00", 28.1)]


def test_a_row_that_a_correction_drops_is_retracted(lake: Lake, tmp_path: Path) -> None:
    files = write_ascii(tmp_path)
    put(lake, *files)
    kept = files[2].read_bytes().splitlines(keepends=True)
    files[2].write_bytes(b"".join(kept[:-1]))
    report = put(lake, files[2])
    assert report.changes == {"radiographs": {"added": 0, "changed": 0, "retracted": 1}}
    assert lake.sql("SELECT * FROM radiographs WHERE subject_id = 1000002").is_empty()


def test_every_release_file_is_recorded(lake: Lake, tmp_path: Path) -> None:
    put(lake, *write_ascii(tmp_path))
    rows = lake.sql(
        "SELECT parse_filename(file), source_table, dialect, version, visit, n_rows "
        "FROM releases ORDER BY ALL"
    ).rows()
    assert rows == [
        ("ALLCLINICAL01.txt", "allclinical", "ascii", "2.1", "V01", 3),
        ("AllClinical00.txt", "allclinical", "ascii", "2.1", "V00", 3),
        ("Enrollees.txt", "enrollees", "ascii", "25", "all", 3),
        ("kXR_SQ_BU00.txt", "kxr_sq_bu", "ascii", "0.9", "V00", 4),
        ("kXR_SQ_BU01.txt", "kxr_sq_bu", "ascii", "0.9", "V01", 1),
    ]


KL_ROWS = (("1000001", "1|15|0.8|2|1|0"), ("1000002", "2|15|0.8|1|0|0"))


def kl_file(folder: Path, name: str = "kxr_sq_bu03.txt") -> Path:
    header = ["ID", "SIDE", "READPRJ", "VERSION", "V03XRKL", "V03XRJSM", "V03XRJSL"]
    good = [f"{who}|{rest}".split("|") for who, rest in KL_ROWS]
    return lines(folder / name, header, good)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(text: bytes) -> bytes:
        assert text.count(old) == 1
        return text.replace(old, new)

    return edit


BAD = {
    "kl_of_9": (replaced(b"0.8|2|1|0", b"0.8|9|1|0"), "bad_value", "row 2, column V03XRKL", "'9'"),
    "letters_in_id": (
        replaced(b"1000002", b"10000O2"),
        "bad_subject_id",
        "row 3, column ID",
        "10000O2",
    ),
    "two_releases": (
        replaced(b"2|15|0.8", b"2|15|0.9"),
        "mixed_releases",
        "row 3, column VERSION",
        "0.9",
    ),
    "disagreeing_duplicate": (
        replaced(b"1000002|2|", b"1000001|1|"),
        "duplicate_key",
        "row 3, column V03XRKL",
        "row 2",
    ),
    "42_and_37": (
        lambda text: text.replace(b"1000002|2|15", b"1000001|1|42").replace(
            b"1000001|1|15", b"1000001|1|37"
        ),
        "duplicate_key",
        "row 3, column V03XRKL",
        "reading_project",
    ),
    "renamed_column": (
        replaced(b"V03XRKL|", b"V03XRKLG|"),
        "missing_column",
        "row 1, column V03XRKL",
        "V03XRKLG",
    ),
    "unknown_visit": (
        replaced(b"V03XRJSL", b"V15XRJSL"),
        "unknown_visit",
        "row 1, column V15XRJSL",
        "V15",
    ),
    "cut_in_a_row": (
        lambda text: text[:-6],
        "truncated_file",
        "row 3, column V03XRKL",
        "cut off",
    ),
    "cut_in_the_last_cell": (lambda text: text[:-2], "truncated_file", "row 3", "cut off"),
    "short_row": (
        replaced(b"0.8|2|1|0", b"0.8|2|1"),
        "ragged_row",
        "row 2, column V03XRJSL",
        "6 fields",
    ),
    "utf_16": (lambda text: text.decode().encode("utf-16"), "wrong_encoding", "row 1", "UTF-16"),
    "undefined_byte": (
        replaced(b"1000002|2|", b"1000002|2\x81|"),
        "wrong_encoding",
        "row 3, column SIDE",
        "Windows-1252",
    ),
    "empty": (lambda text: b"", "empty_file", "row 1", "empty"),
    "header_only": (lambda text: text.split(b"\n")[0] + b"\n", "empty_file", "row 2", "no data"),
    "side_of_3": (replaced(b"1000002|2|", b"1000002|3|"), "bad_value", "row 3, column SIDE", "'3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_row_and_column(case: str, lake: Lake, tmp_path: Path) -> None:
    edit, reason, where, said = BAD[case]
    path = kl_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(edit(good))
    report = put(lake, path)
    (row,) = report.quarantined
    assert row["reason"] == reason
    assert row["file"].endswith("kxr_sq_bu03.txt")
    assert where in row["what"]
    assert said in row["what"]
    assert row["remedy"]
    histories = " ".join(f"FROM {table}_history" for table in TABLES)
    with lake.connect(query=f"{histories} FROM quarantine") as now:
        for table in TABLES:
            assert not now.sql(f"FROM {table}_history").fetchall()
        assert len(now.sql("FROM quarantine").fetchall()) == 1
    assert put(lake, path).quarantined == []

    path.write_bytes(good)
    assert put(lake, path).changes["radiographs"]["added"] == 2
    assert lake.sql("FROM quarantine").is_empty()


def test_extended_follow_up_has_no_nominal_month(lake: Lake, tmp_path: Path) -> None:
    report = put(lake, kl_file(tmp_path, "kxr_sq_bu13.txt"))
    assert [row["reason"] for row in report.quarantined] == ["unknown_visit"]


def test_two_versions_of_one_file_in_one_delivery(lake: Lake, tmp_path: Path) -> None:
    kl_file(tmp_path / "a")
    second = kl_file(tmp_path / "b")
    second.write_bytes(second.read_bytes().replace(b"|2|1|0", b"|3|1|0"))
    report = put(lake, tmp_path)
    assert [row["reason"] for row in report.quarantined] == ["mixed_releases"] * 2
    assert lake.sql("FROM releases").is_empty()
    second.write_bytes(second.read_bytes().replace(b"|0.8|", b"|0.10|"))
    report = put(lake, tmp_path)
    assert [row["kept"] for row in report.superseded] == []
    assert lake.sql("SELECT kl_grade FROM radiographs WHERE side = 'RIGHT'").item() == 3


def test_a_line_end_inside_a_field_is_joined_again(lake: Lake, tmp_path: Path) -> None:
    header = ["ID", "VERSION", "V03NOTE", *(f"V03{s}" for s in ("XRKL", "XRJSM", "XRJSL"))]
    header += ["SIDE", "READPRJ"]
    row = ["1000001", "1", "Note: see\r\nform", "2", "0", "0", "1", "15"]
    path = lines(tmp_path / "kxr_sq_bu03.txt", header, [row, ["1000002", *row[1:]]])
    assert put(lake, path).quarantined == []
    assert lake.sql("SELECT subject_id, kl_grade FROM radiographs ORDER BY ALL").rows() == [
        (1000001, 2),
        (1000002, 2),
    ]


def test_windows_1252_and_a_byte_order_mark_are_read(lake: Lake, tmp_path: Path) -> None:
    path = kl_file(tmp_path)
    text = path.read_bytes().replace(b"|2|1|0", b"|.D: Don\x92t Know|1|0")
    path.write_bytes(text)
    assert put(lake, path).quarantined == []
    assert lake.sql("SELECT kl_grade_missing FROM radiographs WHERE side = 'RIGHT'").item() == (
        "dont_know"
    )
    path.write_bytes(b"\xef\xbb\xbf" + kl_file(tmp_path).read_bytes())
    assert put(lake, path).changes["radiographs"]["changed"] == 1


def nda(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    described = [f"{name} described" for name in header]
    quoted = [[f'"{cell}"' for cell in row] for row in (header, described, *rows)]
    return lines(path, quoted[0], quoted[1:], "\t")


def test_nda_structures_stack_visits_and_describe_in_row_2(lake: Lake, tmp_path: Path) -> None:
    common = ["subjectkey", "src_subject_id", "interview_date", "interview_age", "sex", "visit"]
    who = ["NDAR_1", "1000001", "05/20/2004", "737", "M", "V00"]
    later = ["NDAR_1", "1000001", "06/04/2005", "749", "M", "V01"]
    pain = [*common, "kpnr12", "kpr12cv", "kpnr12m", "bp30", "bp30oft"]
    put(
        lake,
        nda(
            tmp_path / "oai_oapain01.txt",
            pain,
            [[*who, "1", "1", "8", "0", ""], [*later, "0", "0", "", "1", ""]],
        ),
        nda(tmp_path / "oai_oarisk01.txt", [*common, "bmi"], [[*who, "27.4"], [*later, ""]]),
        nda(
            tmp_path / "oai_kxrsemiquant01.txt",
            [*common, "side", "readprj", "xrkl", "xrjsm", "xrjsl", "barcode"],
            [[*who, "1", "42", "2", "1", "0", "016600000007"]],
        ),
        nda(tmp_path / "oai_enrollee01.txt", [*common, "race", "hisp"], [[*who, "1", "0"]]),
    )
    assert lake.sql("FROM quarantine").is_empty()
    columns = "timepoint, visit_day, age_years, bmi, bmi_missing, knee_any_pain_12m_right"
    assert visits(lake, columns) == [
        ("V00", 0, 61, 27.4, None, True),
        ("V01", 380, 62, None, "not_delivered", False),
    ]
    assert visits(lake, "knee_frequent_pain_months_12m_right_missing") == [
        ("not_expected",),
        (None,),
    ]
    assert lake.sql("SELECT reading_project, kl_grade, barcode FROM radiographs").row(0) == (
        37,
        2,
        "016600000007",
    )
    assert lake.sql("SELECT sex, race, site_missing FROM enrollees").row(0) == (
        "M",
        "white",
        "not_delivered",
    )


def test_inventories_list_the_same_scans(tmp_path: Path) -> None:
    described = [
        ("1000001", "SAG_3D_DESS_RIGHT ", "10000011"),
        ("1000001", "SAG_3D_DESS_RIGHT", "10000017"),
        ("1000001", "SAG_T2_MAP_RIGHT", "10000012"),
        ("1000002", "SAG_3D_DESS_LEFT", "10000013"),
        ("1000002", "Bilateral PA Fixed Flexion Knee", "234567"),
    ]
    contents = lines(
        tmp_path / "contents" / "contents.csv",
        CONTENTS,
        [
            [f"3.C.2/{who}/20060501/{code}", who, "20060501", code, "OAI^MR^24 MONTH^RIGHT ", what]
            for who, what, code in described
        ],
        ",",
    )
    image03 = nda(
        tmp_path / "nda" / "image03.txt",
        ["src_subject_id", "image_description", "study", "visit", "accession_number"],
        [
            [who, what.strip(), "OAI Image Release 3.C.2", "V03", f"0166{code.zfill(8)}"]
            for who, what, code in described
        ],
    )
    names = {"R": "RIGHT", "L": "LEFT"}
    exams = {"SAG_3D_DESS": "SAG 3D DESS WE", "SAG_T2_MAP": "SAG T2 MAP"}
    planned = []
    for who, what, code in described[:4]:
        stem, side = what.strip().rsplit("_", 1)
        letter = next(one for one, word in names.items() if word == side)
        planned.append([who, "1", f"{letter} {exams[stem]}", f"0166{code}", "1: Yes", "Y", " "])
    planned.append(["1000002", "1", "L SAG T2 MAP", " ", "0: No", " ", "8: Knee w/short protocol"])
    header = ["ID", "VERSION"]
    header += [f"V03{s}" for s in ("MEXAMTP", "MRBARCD", "MRCOMP", "QCRESLT", "MNDREAS")]
    mri = lines(tmp_path / "ascii" / "MRI03.txt", header, planned)
    query = (
        "SELECT knee_visit, sequence, barcode, n_series FROM scans_listed WHERE acquired "
        "ORDER BY ALL"
    )
    expected = [
        ("1000001_RIGHT_V03", "DESS", "016610000017", 2),
        ("1000001_RIGHT_V03", "MSME", "016610000012", 1),
        ("1000002_LEFT_V03", "DESS", "016610000013", 1),
    ]
    for number, order in enumerate(
        [[contents], [image03], [mri], [contents, image03, mri], [mri, image03, contents]]
    ):
        lake = Lake(tmp_path / f"lake{number}")
        for path in order:
            assert put(lake, path).quarantined == []
        assert lake.sql(query).rows() == expected
    not_made = "SELECT knee_visit, not_acquired_reason FROM scans_listed WHERE NOT acquired"
    assert lake.sql(not_made).rows() == [("1000002_LEFT_V03", "Knee with short protocol")]


def test_inventories_of_two_image_releases_join(lake: Lake, tmp_path: Path) -> None:
    for name, release, who in (("0C2", "0.C.2", "1000001"), ("0E1", "0.E.1", "1000002")):
        folder = f"{release}/{who}/20040501/10000011"
        row = [folder, who, "20040501", "10000011", "x", "SAG_3D_DESS_LEFT"]
        put(lake, lines(tmp_path / f"contents.{name}.csv", CONTENTS, [row], ","))
    assert lake.sql("SELECT subject_id FROM scans_listed ORDER BY 1")["subject_id"].to_list() == [
        1000001,
        1000002,
    ]


def test_outcomes_have_a_row_per_knee(lake: Lake, tmp_path: Path) -> None:
    stems = ("DAYS", "BLRP", "RPCF", "VSRP")
    header = ["id", "version", *(f"V99E{side}K{stem}" for side in "RL" for stem in stems)]
    row = ["1000001", "11", "640", "0: No", "3: Replacement adjudicated, confirmed", "3: 24-month"]
    path = lines(tmp_path / "Outcomes99.txt", header, [[*row, ".A: Not Expected", " ", ".", "."]])
    assert put(lake, path).quarantined == []
    day = "knee_replacement_day"
    columns = f"side, {day}, {day}_missing, knee_replacement_reported_at"
    assert lake.sql(f"SELECT {columns} FROM outcomes ORDER BY ALL").rows() == [
        ("LEFT", None, "not_expected", None),
        ("RIGHT", 640, None, "V03"),
    ]


def test_the_columns_are_those_of_the_registry() -> None:
    from clinical.variables import CLINICAL_VISITS, ENROLLEES, OUTCOMES
    from lake.tables import CLINICAL_VISIT_VALUES, ENROLLEE_VALUES, OUTCOME_VALUES

    for variables, columns in (
        (CLINICAL_VISITS, CLINICAL_VISIT_VALUES),
        (ENROLLEES, ENROLLEE_VALUES),
        (OUTCOMES, OUTCOME_VALUES),
    ):
        assert {one.column for one in variables} == {one.name for one in columns}
