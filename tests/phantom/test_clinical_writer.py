"""The written forms: their habits, byte by byte, and what independent readers find in them."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyreadstat
import pytest

from clinical.reading import read_release
from clinical.release import identify
from phantom.clinical_writer import DIALECTS, MISSING_FORM, write_clinical_release
from phantom.cohort import SIDES, VISITS, Cohort, simulate_cohort, visit_index
from phantom.cohort_imaging import CohortImaging, image_cohort
from phantom.cohort_tables import cohort_tables
from phantom.dicom_writer import Visit

N, SEED = 150, 5


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return simulate_cohort(N, seed=SEED)


@pytest.fixture(scope="module")
def imaging(cohort) -> CohortImaging:
    return image_cohort(cohort)


@pytest.fixture(scope="module")
def releases(cohort, imaging, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("releases")
    for dialect in DIALECTS:
        write_clinical_release(root / dialect, cohort, dialect, imaging)
    return {dialect: root / dialect for dialect in DIALECTS}


def _flat(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of an ASCII table, by nothing but splitting."""
    content = path.read_bytes()
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")
    header, *rows = [line.split("|") for line in content.decode("cp1252").split("\r\n")[:-1]]
    assert all(len(row) == len(header) for row in rows)
    return header, rows


def test_ascii_is_one_flat_folder_with_names_in_mixed_case(releases):
    names = {path.name for path in releases["ascii"].iterdir()}
    assert {"AllClinical00.txt", "ALLCLINICAL06.txt", "kxr_sq_bu00.txt", "kXR_SQ_BU01.txt",
            "KXR_SQ_BU06.txt", "kXR_QJSW_Duryea00.txt", "Enrollees.txt", "Outcomes99.txt",
            "MRI00.txt", "COVIDQ97.txt", "hxr_sq_summary.txt"} <= names  # fmt: skip


def test_ascii_labels_early_visits_and_leaves_later_ones_bare(releases):
    seen = {}
    for visit, name in (("V00", "AllClinical00"), ("V03", "AllClinical03")):
        header, rows = _flat(releases["ascii"] / f"{name}.txt")
        prefix = "P01" if visit == "V00" else visit
        at = header.index(f"{prefix}KPNR12")
        seen[visit] = {row[at] for row in rows}
    assert seen["V00"] <= {"0: No", "1: Yes", MISSING_FORM}
    assert seen["V03"] == {"0", "1", " "}


def test_ascii_keeps_no_reason_and_lists_everybody_but_at_interim_visits(releases, cohort):
    for code, rows_expected in (("00", N), ("05", N), ("11", N)):
        _, rows = _flat(releases["ascii"] / f"AllClinical{code}.txt")
        assert len(rows) == rows_expected
        assert not any(re.fullmatch(r"\.[A-Z].*", cell) for row in rows for cell in row)
    _, rows = _flat(releases["ascii"] / "AllClinical02.txt")
    assert len(rows) == cohort.attended[:, visit_index("V02")].sum()
    assert "V01visdys" in _flat(releases["ascii"] / "AllClinical01.txt")[0]
    assert "readprj" in _flat(releases["ascii"] / "kXR_QJSW_Duryea00.txt")[0]
    assert "V0020MPACE" in _flat(releases["ascii"] / "AllClinical00.txt")[0]


def test_ascii_cells_are_the_answers(releases, cohort):
    header, rows = _flat(releases["ascii"] / "AllClinical03.txt")
    at = visit_index("V03")
    for stem in ("KPNR12", "BMI", "KPNR12M", "OJPNRS", "VISDYS"):
        column = header.index(f"V03{stem}")
        answers = cohort.answers[stem]
        for person, row in enumerate(rows):
            if answers.letter[person, at] == "":
                assert float(row[column]) == answers.value[person, at]
            else:
                assert row[column] in {" ", MISSING_FORM}


def test_barcodes_keep_their_leading_zero(releases):
    header, rows = _flat(releases["ascii"] / "kxr_sq_bu00.txt")
    at = header.index("V00BARCDBU")
    assert all(re.fullmatch(r"01660\d{7}", row[at]) for row in rows)


def test_scans_carry_the_barcodes_of_the_image_phantom(releases, cohort, imaging):
    header, rows = _flat(releases["ascii"] / "MRI00.txt")
    exam, barcode, done = (header.index(f"V00{x}") for x in ("MEXAMTP", "MRBARCD", "MRCOMP"))
    found = {
        (int(row[0]), row[exam][0]): row[barcode]
        for row in rows
        if row[exam].endswith("SAG 3D DESS WE") and row[done] == "1: Yes"
    }
    assert len(found) > 1.8 * N
    for (subject, letter), text in found.items():
        side = "RIGHT" if letter == "R" else "LEFT"
        assert text == f"0166{Visit(SEED, subject, side, 'V00').barcode('DESS')}"


def test_sas_keeps_the_letters(releases, cohort):
    path = releases["sas"] / "allclinical06.sas7bdat"
    found, metadata = pyreadstat.read_sas7bdat(str(path), user_missing=True)
    assert metadata.file_encoding == "WINDOWS-1252"
    at = visit_index("V06")
    for stem in ("OJPNRS", "OJPNNO", "KPNR12M", "BP30OFT", "BMI"):
        answers = cohort.answers[stem]
        for person, value in enumerate(found[f"V06{stem}"]):
            letter = answers.letter[person, at]
            if letter == ".":
                assert np.isnan(value)
            else:
                assert value == (letter or answers.value[person, at])
    assert "A" in found["V06OJPNRS"].tolist()


def test_nda_has_two_header_rows_and_all_visits_stacked(releases, cohort):
    with (releases["nda"] / "oai_oapain01.txt").open(newline="") as file:
        text = file.read()
    rows = list(csv.reader(text.splitlines(), delimiter="\t"))
    assert all(field.startswith('"') for line in text.splitlines() for field in line.split("\t"))
    names, described, *data = rows
    assert names[:3] == described[:3]
    assert names[3:] != described[3:]
    visits = {row[names.index("visit")] for row in data}
    assert visits == {visit for visit in VISITS if visit not in {"V02", "V04"}}
    at = visit_index("V00")
    kpnr12 = cohort.answers["KPNR12"]
    ids = cohort.ids.tolist()
    for row in data:
        if row[names.index("visit")] != "V00":
            continue
        person = ids.index(int(row[names.index("src_subject_id")]))
        missing = kpnr12.letter[person, at] != ""
        text = row[names.index("kpnr12")]
        assert text == ("" if missing else str(int(kpnr12.value[person, at])))
        assert int(row[names.index("interview_age")]) // 12 == cohort.age_years[person, at]


def test_image03_lists_each_acquired_scan(releases, imaging):
    with (releases["nda"] / "image03.txt").open(newline="") as file:
        names, _, *data = csv.reader(file, delimiter="\t")
    described = names.index("image_description")
    count = sum(row[described].startswith(("SAG_3D_DESS", "SAG_T2_MAP")) for row in data)
    repeats = np.sum(imaging.scans.earlier_barcode != "")
    assert count == imaging.scans.acquired.sum() + repeats
    accession = names.index("accession_number")
    assert all(re.fullmatch(r"0166\d{8}", row[accession]) for row in data)


def test_contents_lose_zeros_pad_text_and_name_the_release(releases):
    files = {path.parent.name: path for path in releases["contents"].rglob("contents.csv")}
    assert set(files) == {"00m", "12m", "18m", "24m", "30m", "36m", "48m", "72m", "96m"}
    for months, width, name in (("00m", 8, "Barcode"), ("72m", 12, "AccessionNumber"),
                                ("96m", 11, "Barcode")):  # fmt: skip
        with files[months].open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {len(row[name]) for row in rows} == {width}
        assert all(row["StudyDescription"].endswith((" ",)) for row in rows)
    with files["00m"].open(newline="") as file:
        folder = next(csv.DictReader(file))["Folder"]
    assert re.fullmatch(r"0\.[CE]\.[12]/1\d{6}/\d{8}/\d{8}", folder)
    assert not list(releases["contents"].glob("MRI*"))


def test_no_study_number_could_be_a_real_one(releases):
    for folder in releases.values():
        for path in folder.rglob("*"):
            if path.suffix in {".txt", ".csv"}:
                assert not re.search(rb"(?<!\d)9\d{6}(?!\d)", path.read_bytes()), path.name


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_cohort_gives_the_same_bytes(releases, cohort, imaging, tmp_path, dialect):
    paths = write_clinical_release(tmp_path, cohort, dialect, imaging)
    assert {path.relative_to(tmp_path) for path in paths} == {
        path.relative_to(releases[dialect])
        for path in releases[dialect].rglob("*")
        if path.is_file()
    }
    for path in paths:
        original = releases[dialect] / path.relative_to(tmp_path)
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(original.read_bytes()).digest()
        ), path.name


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_form_is_read_as_the_truth(releases, cohort, imaging, dialect):
    tables = cohort_tables(cohort, imaging)
    compared = dict.fromkeys(tables, 0)
    for path in sorted(releases[dialect].rglob("*")):
        identity = identify(path) if path.is_file() else None
        if identity is None:
            continue
        for part in read_release(path, identity).contributions:
            truth = tables[part.table]
            if part.visit in VISITS and "timepoint" in truth.columns:
                truth = truth.filter(pl.col("timepoint") == part.visit)
            if part.table == "scans_listed":
                truth = truth.filter("acquired") if part.partial else truth
            keys = list(part.keys)
            # Absentees fill rows of a file without telling anything.
            joined = truth.join(part.rows, on=keys, how="left", suffix="_read")
            for column in part.sources:
                if column == "not_acquired_reason":
                    continue  # its wording is the reader's
                same = joined[column].eq_missing(joined[f"{column}_read"])
                assert same.all(), (path.name, column, joined.filter(~same).head(3))
                if dialect == "sas":
                    delivered = joined[f"{column}_missing"] != "not_delivered"
                    known = joined.filter(delivered | joined[f"{column}_missing"].is_null())
                    reasons = known[f"{column}_missing"]
                    assert reasons.eq_missing(known[f"{column}_missing_read"]).all(), column
                compared[part.table] += 1
    assert all(compared.values()), compared


def test_sides_are_told_apart(releases, imaging, cohort):
    header, rows = _flat(releases["ascii"] / "kxr_sq_bu00.txt")
    side, project = header.index("SIDE"), header.index("READPRJ")
    written = sorted((row[0], row[side], row[project]) for row in rows)
    readings = imaging.readings
    here = readings.visit == 0
    expected = sorted(
        (str(cohort.ids[person]), f"{number + 1}: {SIDES[number].capitalize()}", str(read))
        for person, number, read in zip(
            readings.person[here].tolist(),
            readings.side[here].tolist(),
            readings.written_project[here].tolist(),
            strict=True,
        )
    )
    assert written == expected


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_small_cohort_is_written_without_empty_tables(tmp_path, dialect):
    for n_people in (1, 24):
        small = simulate_cohort(n_people, seed=2)
        paths = write_clinical_release(tmp_path / str(n_people), small, dialect)
        for path in paths:
            identity = identify(path)
            if identity is not None:
                assert read_release(path, identity).n_rows > 0, path.name
