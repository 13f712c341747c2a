import copy
import logging
import random
import shutil
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from imaging.dicom import peek_header, read_echoes, read_series, read_volume
from imaging.dicom_header import MONTH_TIMEPOINT, SeriesHeader, series_header
from imaging.errors import BadInputError, Reason
from imaging.volume import EchoSeries, Volume, index_to_world
from tests.imaging.dicom_fixtures import (
    OBLIQUE,
    SAGITTAL,
    mr_series,
    mr_slice,
    random_array,
    save,
    uid,
)

ECHO_TIMES_MS = (10.0, 20.0, 30.0)


def refusal(path: Path, reason: Reason) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        read_series(path)
    assert caught.value.reason is reason, str(caught.value)
    assert caught.value.remedy
    assert caught.value.file
    return caught.value


# Real data


def test_real_multi_echo_series(shared_data: Path):
    path = shared_data / "knee" / "mese_t2_dicom.zip"
    series = read_series(path)
    image = series.image
    assert isinstance(image, EchoSeries)
    assert image.array.shape == (8, 24, 256, 256)
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.echo_times_ms, 6.312 * np.arange(1, 9), atol=1e-9)
    # SliceThickness says 3 mm; the slices lie 4 mm apart.
    np.testing.assert_allclose(image.echo(0).spacing_mm, [4.0, 0.625, 0.625], atol=1e-3)
    assert series.n_files == 192
    assert series.header == SeriesHeader(series_description="T2MAP", sequence="MSME")
    assert peek_header(path) == series.header
    assert (index_to_world(image.affine, np.array([[0.0, 0, 0], [23, 255, 255]]))[:, 0] < 0).all()


def test_real_series_against_an_independent_reader(shared_data: Path, tmp_path: Path):
    """GDCM (in SimpleITK) sorts and places the first echo; voxel for voxel the same."""
    import SimpleITK

    path = shared_data / "knee" / "mese_t2_dicom.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    files = [
        (float(dataset.ImagePositionPatient[0]), str(file))
        for file in tmp_path.rglob("*.dcm")
        for dataset in [pydicom.dcmread(file, stop_before_pixels=True)]
        if int(dataset.EchoNumbers) == 3
    ]
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([file for _, file in sorted(files, reverse=True)])
    theirs = reader.Execute()
    ours = read_echoes(path).echo(2)
    values = SimpleITK.GetArrayFromImage(theirs)
    corners = [(0, 0, 0), (23, 0, 0), (0, 255, 0), (0, 0, 255), (11, 100, 30)]
    for corner in corners:
        place = theirs.TransformContinuousIndexToPhysicalPoint([float(i) for i in corner[::-1]])
        index = np.rint(np.linalg.solve(ours.affine, [*place, 1.0])[:3]).astype(int)
        np.testing.assert_allclose(index_to_world(ours.affine, index), place, atol=0.01)
        assert ours.array[tuple(index)] == values[corner]


# Geometry


@pytest.mark.parametrize("orientation", [SAGITTAL, OBLIQUE])
def test_every_voxel_lies_where_the_standard_puts_it(tmp_path: Path, orientation):
    """DICOM PS3.3 C.7.6.2.1.1: P = S + column * dr * X + row * dc * Y."""
    array = random_array()
    files = mr_series(array, orientation=orientation, pixel_spacing_mm=(0.5, 0.4))
    volume = read_volume(save(files, tmp_path / "s"))
    assert volume.array.shape == (4, 5, 6)
    for dataset in files:
        for row, column in ((0, 0), (4, 0), (0, 5), (2, 3)):
            along_row = np.array(orientation[:3]) / np.linalg.norm(orientation[:3])
            along_column = np.array(orientation[3:]) / np.linalg.norm(orientation[3:])
            place = (
                np.array(dataset.ImagePositionPatient, float)
                + column * 0.4 * along_row
                + row * 0.5 * along_column
            )
            index = np.linalg.solve(volume.affine, [*place, 1])[:3]
            nearest = np.rint(index).astype(int)
            np.testing.assert_allclose(index, nearest, atol=1e-4)
            assert volume.array[tuple(nearest)] == dataset.pixel_array[row, column]


def test_slice_distance_comes_from_positions(tmp_path: Path):
    files = mr_series(random_array(), spacing_mm=3.5)
    for dataset in files:
        dataset.SliceThickness = 3.0
        dataset.SpacingBetweenSlices = 99.0
    spacing_mm = read_volume(save(files, tmp_path / "s")).spacing_mm
    np.testing.assert_allclose(spacing_mm, [3.5, 0.5, 0.4])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_signed_unsigned_and_rescaled(tmp_path: Path, dtype):
    array = random_array().astype(dtype)
    array[0, 0, 0, 0] = -7 if dtype == np.int16 else 65535
    files = mr_series(array)
    for dataset in files:
        dataset.RescaleSlope, dataset.RescaleIntercept = 2.5, -3.0
    volume = read_volume(save(files, tmp_path / "s"))
    assert volume.array.dtype == np.float32
    expected = array[0] * 2.5 - 3.0
    # The normal of a sagittal stack points to -x, so files 1..n run along it.
    np.testing.assert_allclose(volume.array, expected)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_files_read_the_same(tmp_path: Path, syntax):
    files = mr_series(random_array())
    plain = read_volume(save(files, tmp_path / "plain"))
    for dataset in files:
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except (NotImplementedError, RuntimeError):
            pytest.skip(f"no encoder for {syntax.name} here")
    packed = read_volume(save(files, tmp_path / "packed"))
    np.testing.assert_array_equal(packed.array, plain.array)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(12)))
def test_file_names_and_order_do_not_matter(tmp_path_factory, order):
    files = mr_series(random_array(3), ECHO_TIMES_MS, orientation=OBLIQUE)
    folder = tmp_path_factory.mktemp("order")
    reference = read_series(save(files, folder / "a"))
    shuffled = read_series(save([files[i] for i in order], folder / "b", "IM{:05d}.dcm".format))
    np.testing.assert_array_equal(shuffled.image.array, reference.image.array)
    np.testing.assert_array_equal(shuffled.image.affine, reference.image.affine)
    assert shuffled.header == reference.header
    assert shuffled.fingerprint == reference.fingerprint


def test_fingerprint_follows_content(tmp_path: Path):
    files = mr_series(random_array())
    before = read_series(save(files, tmp_path / "a")).fingerprint
    files[2].PixelData = files[2].PixelData[:-1] + b"\x01"
    assert read_series(save(files, tmp_path / "b")).fingerprint != before


# Echoes


def test_echoes_are_sorted_by_their_tag(tmp_path: Path):
    array = random_array(3)
    files = mr_series(array, ECHO_TIMES_MS, series_description="SAG_T2_MAP_LEFT")
    random.Random(3).shuffle(files)
    series = read_series(save(files, tmp_path / "s"))
    assert isinstance(series.image, EchoSeries)
    np.testing.assert_array_equal(series.image.echo_times_ms, ECHO_TIMES_MS)
    np.testing.assert_array_equal(series.image.array, array)
    assert series.header.sequence == "MSME"
    assert series.header.side == "LEFT"


def test_one_series_uid_per_echo_is_one_series(tmp_path: Path):
    array = random_array(3)
    files = mr_series(array, ECHO_TIMES_MS)
    for dataset in files:
        dataset.SeriesInstanceUID = uid("echo", dataset.EchoTime)
    np.testing.assert_array_equal(read_echoes(save(files, tmp_path / "s")).array, array)


def test_asking_for_the_other_kind(tmp_path: Path):
    one = save(mr_series(random_array()), tmp_path / "one")
    three = save(mr_series(random_array(3), ECHO_TIMES_MS), tmp_path / "three")
    with pytest.raises(BadInputError, match="3 echoes"):
        read_volume(three)
    with pytest.raises(BadInputError) as caught:
        read_echoes(one)
    assert caught.value.reason is Reason.MISSING_ECHO
    assert isinstance(read_series(one).image, Volume)


def test_no_echo_time_at_all_is_a_plain_volume(tmp_path: Path):
    files = mr_series(random_array())
    for dataset in files:
        del dataset.EchoTime
    assert read_volume(save(files, tmp_path / "s")).array.shape == (4, 5, 6)


# Enhanced multi-frame


def enhanced(array: np.ndarray, echo_times_ms=ECHO_TIMES_MS) -> Dataset:
    files = mr_series(array, echo_times_ms)
    dataset = copy.deepcopy(files[0])
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.NumberOfFrames = len(files)
    dataset.PixelData = b"".join(file.PixelData for file in files)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = files[0].PixelSpacing
    orientation.ImageOrientationPatient = files[0].ImageOrientationPatient
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for file in files:
        place, echo, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = file.ImagePositionPatient
        echo.EffectiveEchoTime = float(file.EchoTime)
        group.PlanePositionSequence = [place]
        group.MREchoSequence = [echo]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime"):
        del dataset[keyword]
    return dataset


def test_enhanced_multi_frame_equals_the_single_files(tmp_path: Path):
    array = random_array(3)
    classic = read_echoes(save(mr_series(array, ECHO_TIMES_MS), tmp_path / "classic"))
    folder = save([enhanced(array)], tmp_path / "enhanced")
    for path in (folder, folder / "001"):
        image = read_echoes(path)
        np.testing.assert_array_equal(image.array, classic.array)
        np.testing.assert_allclose(image.affine, classic.affine, atol=1e-9)
        np.testing.assert_array_equal(image.echo_times_ms, classic.echo_times_ms)


# Header


@pytest.mark.parametrize(
    ("text", "sequence", "side"),
    [
        ("SAG_3D_DESS_RIGHT", "DESS", "RIGHT"),
        ("SAG_3D_DESS_LEFT ", "DESS", "LEFT"),
        ("R SAG 3D DESS WE", "DESS", "RIGHT"),
        ("SAG_T2_MAP_RIGHT", "MSME", "RIGHT"),
        ("L SAG T2 MAP", "MSME", "LEFT"),
        ("SAG_T2_CALC_RIGHT", None, "RIGHT"),
        ("COR_IW_TSE_LEFT", None, "LEFT"),
        ("T2MAP", "MSME", None),
        ("bilateral", None, None),
    ],
)
def test_sequence_and_side_from_the_description(text: str, sequence, side):
    header = series_header(mr_slice(np.ones((2, 2), np.int16), (0, 0, 0), series_description=text))
    assert (header.sequence, header.side) == (sequence, side)


@pytest.mark.parametrize(
    ("text", "timepoint"),
    [
        ("OAI^MR^ENROLLMENT^RIGHT ", "V00"),
        *((f"OAI^MR^{month} MONTH^LEFT", visit) for month, visit in MONTH_TIMEPOINT.items()),
        ("OAI^MR^13 MONTH^LEFT", None),
        ("KNEE", None),
        ("", None),
    ],
)
def test_timepoint_from_the_study_description(text: str, timepoint):
    pixels = np.ones((2, 2), np.int16)
    assert series_header(mr_slice(pixels, (0, 0, 0), study_description=text)).timepoint == timepoint


@pytest.mark.parametrize(
    ("keyword", "text", "timepoint"),
    [
        ("ClinicalTrialTimePointID", "V03", "V03"),
        ("ClinicalTrialTimePointDescription", "12 month Annual Visit", "V01"),
        ("ClinicalTrialTimePointDescription", "Screening Visit", "V00"),
    ],
)
def test_timepoint_from_the_clinical_trial_tags(keyword: str, text: str, timepoint):
    dataset = mr_slice(np.ones((2, 2), np.int16), (0, 0, 0), study_description="KNEE")
    setattr(dataset, keyword, text)
    assert series_header(dataset).timepoint == timepoint


def test_subject_is_the_study_pseudonym_only():
    dataset = mr_slice(np.ones((2, 2), np.int16), (0, 0, 0), subject="1000007")
    assert series_header(dataset).subject_id == 1000007
    dataset.ClinicalTrialSubjectID = "1000008 "
    assert series_header(dataset).subject_id == 1000008
    del dataset.ClinicalTrialSubjectID
    for other in ("T2004_07APR2015", "123456", "12345678", "0123456", "Mary^Poppins", ""):
        dataset.PatientID = other
        assert series_header(dataset).subject_id is None


# Bad input


@pytest.mark.parametrize("kept_bytes", [0, 60, 131, 133, 140, 200, 400, 600, 900, -1, -30])
def test_truncated_file(tmp_path: Path, kept_bytes: int):
    folder = save(mr_series(random_array()), tmp_path / "s")
    file = folder / "003"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    error = refusal(folder, Reason.TRUNCATED_FILE)
    assert "s/003" in str(error)


def test_pixel_data_shorter_than_its_matrix(tmp_path: Path):
    files = mr_series(random_array())
    files[1].PixelData = files[1].PixelData[:40]
    assert "40 bytes" in str(refusal(save(files, tmp_path / "s"), Reason.TRUNCATED_FILE))


def test_file_that_is_not_dicom(tmp_path: Path):
    folder = save(mr_series(random_array()), tmp_path / "s")
    (folder / "004.dcm").write_bytes(b"this is not DICOM at all " * 40)
    assert "s/004.dcm" in str(refusal(folder, Reason.NOT_AN_IMAGE))


def test_dicom_that_is_not_an_image(tmp_path: Path):
    folder = save(mr_series(random_array()), tmp_path / "s")
    report = next(file for file in get_testdata_files() if file.endswith("test-SR.dcm"))
    shutil.copy(report, folder / "sr.dcm")
    refusal(folder, Reason.NOT_AN_IMAGE)


def test_image_of_another_modality(tmp_path: Path):
    scan = next(file for file in get_testdata_files() if file.endswith("CT_small.dcm"))
    refusal(Path(scan), Reason.NOT_AN_IMAGE)


def test_missing_echo(tmp_path: Path):
    files = mr_series(random_array(3), ECHO_TIMES_MS)
    del files[3 * 2 + 1]
    error = refusal(save(files, tmp_path / "s"), Reason.MISSING_ECHO)
    # A sagittal normal points to -x: the slice at x = -60 - 2 * 4 lies 68 mm along it.
    assert "20 ms" in str(error)
    assert "68.00 mm" in str(error)


def test_an_echo_missing_everywhere(tmp_path: Path):
    times_ms = (10.0, 20.0, 40.0, 50.0, 60.0)
    files = mr_series(random_array(5), times_ms)
    assert "30 ms of every slice" in str(refusal(save(files, tmp_path / "s"), Reason.MISSING_ECHO))


def test_an_uneven_echo_train_is_no_fault(tmp_path: Path):
    files = mr_series(random_array(4), (10.0, 20.0, 40.0, 80.0))
    assert len(read_echoes(save(files, tmp_path / "s")).echo_times_ms) == 4


def test_missing_slice_is_named(tmp_path: Path):
    files = mr_series(random_array(n_slice=6))
    del files[2]
    error = refusal(save(files, tmp_path / "s"), Reason.MISSING_SLICE)
    assert "64.00" in str(error)
    assert "72.00" in str(error)


def test_missing_slice_of_three(tmp_path: Path):
    files = mr_series(random_array(n_slice=4))
    del files[1]
    refusal(save(files, tmp_path / "s"), Reason.MISSING_SLICE)


@pytest.mark.parametrize("n_echo", [1, 3])
def test_duplicate_slice(tmp_path: Path, n_echo: int):
    files = mr_series(random_array(n_echo), ECHO_TIMES_MS[:n_echo])
    error = refusal(save([*files, files[2]], tmp_path / "s"), Reason.DUPLICATE_SLICE)
    assert "s/003" in str(error)


def test_irregular_spacing_and_its_tolerance(tmp_path: Path):
    def shifted(by_mm: float):
        files = mr_series(random_array(n_slice=6))
        x, y, z = files[3].ImagePositionPatient
        files[3].ImagePositionPatient = [x - by_mm, y, z]
        return save(files, tmp_path / f"{by_mm}")

    refusal(shifted(0.3), Reason.IRREGULAR_SPACING)
    refusal(shifted(0.06), Reason.IRREGULAR_SPACING)
    assert read_volume(shifted(0.03)).array.shape[0] == 6
    assert read_series(shifted(0.3), spacing_tolerance=0.1).n_files == 6


def test_slices_shifted_in_their_plane(tmp_path: Path):
    files = mr_series(random_array(n_slice=6))
    x, y, z = files[3].ImagePositionPatient
    files[3].ImagePositionPatient = [x, y + 2, z]
    assert "004" in str(refusal(save(files, tmp_path / "s"), Reason.IRREGULAR_SPACING))


def test_wrong_matrix_size(tmp_path: Path):
    files = mr_series(random_array())
    files[2] = mr_slice(np.ones((5, 7), np.int16), files[2].ImagePositionPatient)
    error = refusal(save(files, tmp_path / "s"), Reason.WRONG_MATRIX_SIZE)
    assert "s/003" in str(error)
    assert "5 x 7" in str(error)


@pytest.mark.parametrize("change", ["other series", "localiser", "same place", "spacing"])
def test_mixed_series(tmp_path: Path, change: str):
    files = mr_series(random_array())
    if change == "other series":
        files += mr_series(random_array(), origin_mm=(10.0, 0.0, 0.0), series="b")
    elif change == "same place":
        files += mr_series(random_array(), series="b")
    elif change == "localiser":
        files.append(mr_slice(random_array()[0, 0], (0, 0, 0), orientation=(1, 0, 0, 0, 1, 0)))
    else:
        files[1].PixelSpacing = [0.7, 0.7]
    refusal(save(files, tmp_path / "s"), Reason.MIXED_SERIES)


def test_all_zero_volume_and_echo(tmp_path: Path):
    refusal(save(mr_series(random_array() * 0), tmp_path / "a"), Reason.ALL_ZERO_VOLUME)
    array = random_array(3)
    array[1] = 0
    error = refusal(save(mr_series(array, ECHO_TIMES_MS), tmp_path / "b"), Reason.ALL_ZERO_VOLUME)
    assert "20 ms" in str(error)


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime"]
)
def test_missing_tag(tmp_path: Path, keyword: str):
    files = mr_series(random_array())
    del files[1][keyword]
    error = refusal(save(files, tmp_path / "s"), Reason.MISSING_TAG)
    assert keyword in str(error)
    assert "s/002" in str(error)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0, 0.4]),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImagePositionPatient", [1, 2]),
    ],
)
def test_useless_tag(tmp_path: Path, keyword: str, value):
    files = mr_series(random_array())
    setattr(files[1], keyword, value)
    assert keyword in str(refusal(save(files, tmp_path / "s"), Reason.MISSING_TAG))


def test_one_slice_is_no_volume(tmp_path: Path):
    refusal(save(mr_series(random_array(n_slice=1)), tmp_path / "s"), Reason.MISSING_SLICE)


def test_empty_folder(tmp_path: Path):
    refusal(tmp_path, Reason.MISSING_INPUT)
    with pytest.raises(BadInputError):
        peek_header(tmp_path)


@pytest.mark.parametrize(
    "file",
    sorted({f for f in get_testdata_files() if Path(f).is_file()}),
    ids=lambda f: Path(f).name,
)
def test_pydicoms_own_hard_files_never_crash_the_reader(file: str, tmp_path: Path):
    """Each, alone or twice in a folder, reads or is refused with a reason."""
    shutil.copy(file, tmp_path / "a")
    shutil.copy(file, tmp_path / "b")
    for path in (Path(file), tmp_path):
        for read in (read_series, peek_header):
            try:
                read(path)
            except BadInputError as error:
                assert error.reason in Reason
                assert error.remedy


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_never_crash_the_reader(tmp_path: Path, seed: int):
    folder = save(mr_series(random_array()), tmp_path / "s")
    rng = np.random.default_rng(seed)
    file = folder / "002"
    content = bytearray(file.read_bytes())
    for place in rng.integers(128, len(content), size=1 + seed % 8):
        content[place] = rng.integers(256)
    file.write_bytes(content)
    try:
        read_series(folder)
    except BadInputError as error:
        assert error.remedy


# Privacy


def planted(dataset: Dataset) -> Dataset:
    """The file with a canary in every string and date tag that geometry does not need."""
    canary = "CANARY"
    for keyword in (
        "PatientName",
        "InstitutionName",
        "InstitutionAddress",
        "ReferringPhysicianName",
        "OperatorsName",
        "StationName",
        "DeviceSerialNumber",
        "AccessionNumber",
        "StudyID",
        "ProtocolName",
        "PatientAddress",
        "PatientComments",
        "ImageComments",
        "PatientBirthName",
        "OtherPatientIDs",
        "ClinicalTrialSiteName",
        "ClinicalTrialSponsorName",
        "ManufacturerModelName",
        "SoftwareVersions",
        "BodyPartExamined",
    ):
        setattr(dataset, keyword, f"{canary}{keyword}"[:16])
    dataset.PatientID = f"{canary}ID"
    dataset.ClinicalTrialSubjectID = f"{canary}SUBJECT"
    dataset.ClinicalTrialTimePointID = f"{canary}TIME"
    dataset.SeriesDescription = f"SAG_3D_DESS_RIGHT {canary}SERIES"
    dataset.StudyDescription = f"OAI^MR^24 MONTH^RIGHT^{canary}STUDY"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "19870605")
    dataset.PatientBirthDate = "19330211"
    dataset.StudyTime = "112233.445566"
    private = dataset.private_block(0x0011, f"{canary} PRIVATE", create=True)
    private.add_new(0x01, "LO", f"{canary}VALUE")
    dataset.SeriesInstanceUID = "1.2.777.19870605"
    dataset.StudyInstanceUID = "1.2.777.19870606"
    return dataset


LEAKS = ("CANARY", "19870605", "19870606", "19330211", "112233", "1.2.777", "Nobody")


def broken_versions(tmp_path: Path) -> list[Path]:
    """One folder for each way a series can be refused."""
    folders: list[Path] = []

    def add(name: str, files: list) -> Path:
        folders.append(save(files, tmp_path / "19870605" / name))
        return folders[-1]

    def fresh(n_echo: int = 1, **keywords) -> list:
        array = random_array(n_echo, n_slice=5)
        return [planted(d) for d in mr_series(array, ECHO_TIMES_MS[:n_echo], **keywords)]

    add("good", fresh())
    for kept in (133, 200, 500, 800, 1500, -5):
        file = add(f"cut{kept}", fresh()) / "002"
        file.write_bytes(file.read_bytes()[:kept])
    add("duplicate", [*fresh(), fresh()[1]])
    add("slice", fresh()[:1] + fresh()[2:])
    add("echo", fresh(3)[:-1])
    add("zero", [planted(d) for d in mr_series(random_array() * 0)])
    other = fresh(orientation=OBLIQUE)
    for dataset in other:
        dataset.SeriesInstanceUID = "1.2.777.5"
    add("mixed", fresh() + other)
    for keyword in ("ImagePositionPatient", "PixelSpacing", "EchoTime", "Rows", "PixelData"):
        files = fresh()
        del files[1][keyword]
        add(f"no{keyword}", files)
    files = fresh()
    files[1].SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    add("report", files)
    files = fresh()
    files[1].Modality = "CANARYMOD"
    add("modality", files)
    files = fresh()
    for dataset in files:
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.add_new("SpecificCharacterSet", "CS", "CANARYCHARSET")
    add("charset", files)
    for keyword in ("EchoTime", "ImagePositionPatient", "RescaleSlope", "NumberOfFrames"):
        files = fresh()
        with pydicom.config.disable_value_validation():
            files[1].add(pydicom.DataElement(keyword, "LO", "CANARYNUMBER"))
        add(f"bad{keyword}", files)
    return folders


def test_nothing_of_the_patient_leaves_the_reader(tmp_path: Path, caplog, capfd, recwarn):
    caplog.set_level(logging.DEBUG)
    reasons = set()
    said: list[str] = []
    folders = broken_versions(tmp_path)
    # What pydicom said while the test wrote the files does not count.
    caplog.clear()
    recwarn.clear()
    capfd.readouterr()
    for folder in folders:
        for read in (read_series, peek_header):
            try:
                result = read(folder)
            except BadInputError as error:
                reasons.add(error.reason)
                said.append(str(error))
                said.append("".join(traceback.format_exception(error)).replace(str(tmp_path), ""))
            else:
                header = getattr(result, "header", result)
                said.append(repr(header))
                assert header.timepoint == "V03"
                assert header.side == "RIGHT"
                assert header.series_description == "SAG_3D_DESS_RIGHT"
    assert len(reasons) >= 8
    captured = capfd.readouterr()
    said += [caplog.text, captured.out, captured.err, *(str(w.message) for w in recwarn)]
    for leak in LEAKS:
        assert leak not in "\n".join(said), leak


def test_the_real_header_keeps_nothing_of_its_person(shared_data: Path):
    series = read_series(shared_data / "knee" / "mese_t2_dicom.zip")
    assert series.header.subject_id is None
    for secret in ("T2004", "2015", "JOSEPH", "MR3T", "GEMS", "1.2.840"):
        assert secret not in repr(series.header)
