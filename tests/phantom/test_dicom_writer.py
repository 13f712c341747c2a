"""The DICOM files, read by libraries that had no part in writing them."""

import io
import tarfile
import zipfile

import numpy as np
import pydicom
import pytest

from imaging.dicom import peek_header, read_echoes, read_volume
from imaging.volume import EchoSeries, Volume
from phantom.dicom_writer import Visit, series_files, write_series
from phantom.raster import Grid, place_grid

VISIT = Visit(7, 1000038, "RIGHT", "V03")


@pytest.fixture
def dess(knee):
    grid = Grid((5, 8, 6), (0.7, 0.4, 0.5))
    array = np.random.default_rng(0).integers(0, 4096, grid.shape).astype(np.int16)
    return Volume(array, place_grid(knee, grid, (3.0, -4.0)))


@pytest.fixture
def msme(knee):
    grid = Grid((4, 8, 6), (3.5, 0.3125, 0.3125))
    array = np.random.default_rng(1).integers(0, 4096, (7, *grid.shape)).astype(np.int16)
    return EchoSeries(array, place_grid(knee, grid, (-2.0, 1.0)), np.arange(10.0, 71.0, 10.0))


def datasets(visit, sequence, image):
    return [
        pydicom.dcmread(io.BytesIO(content)) for _, content in series_files(visit, sequence, image)
    ]


def test_simpleitk_reads_values_and_geometry(dess, tmp_path):
    import SimpleITK

    folder = write_series(tmp_path, VISIT, "DESS", dess)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    array = SimpleITK.GetArrayFromImage(image)
    for index in ((0, 0, 0), (4, 7, 5), (2, 3, 1)):
        position = np.array(image.TransformIndexToPhysicalPoint([*map(int, index[::-1])]))
        ours = np.linalg.inv(dess.affine) @ [*position, 1.0]
        there = np.rint(ours[:3]).astype(int)
        np.testing.assert_allclose(ours[:3], there, atol=1e-4)
        assert array[index] == dess.array[tuple(there)]


def test_our_reader_returns_the_series(dess, msme, tmp_path):
    volume = read_volume(write_series(tmp_path, VISIT, "DESS", dess))
    echoes = read_echoes(write_series(tmp_path, VISIT, "MSME", msme))
    for found, wanted in ((volume, dess), (echoes, msme)):
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-6)
        np.testing.assert_array_equal(found.array, wanted.array)
    np.testing.assert_allclose(echoes.echo_times_ms, msme.echo_times_ms)


def test_tags_are_those_of_an_oai_series(dess, msme):
    files = datasets(VISIT, "MSME", msme)
    assert len(files) == 28
    first, last = files[0], files[-1]
    assert len({file.SeriesInstanceUID for file in files}) == 1
    assert len({file.SOPInstanceUID for file in files}) == 28
    assert [float(file.EchoTime) for file in files[::4]] == [10, 20, 30, 40, 50, 60, 70]
    assert [file.EchoNumbers for file in files[::4]] == [1, 2, 3, 4, 5, 6, 7]
    assert [file.InstanceNumber for file in files] == list(range(1, 29))
    assert float(first.SliceThickness) == 3.0
    assert float(first.SpacingBetweenSlices) == 3.5
    assert float(first.RepetitionTime) == 2700.0
    assert first.SeriesDescription == "SAG_T2_MAP_RIGHT"
    assert first.StudyDescription.strip() == "OAI^MR^24 MONTH^RIGHT"
    assert first.PatientID == "1000038"
    assert first.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert last.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    step = np.subtract(files[1].ImagePositionPatient, files[0].ImagePositionPatient)
    assert np.linalg.norm(step) == pytest.approx(3.5, abs=1e-6)

    (scan, *_) = datasets(VISIT, "DESS", dess)
    assert scan.SeriesDescription == "SAG_3D_DESS_RIGHT"
    assert (float(scan.RepetitionTime), float(scan.EchoTime)) == (16.32, 4.71)
    assert scan.StudyInstanceUID == first.StudyInstanceUID
    assert scan.SeriesInstanceUID != first.SeriesInstanceUID
    assert scan.FrameOfReferenceUID == first.FrameOfReferenceUID
    baseline = datasets(Visit(7, 1000038, "LEFT", "V00"), "DESS", dess)[0]
    assert baseline.StudyDescription.strip() == "OAI^MR^ENROLLMENT^LEFT"


def test_headers_hold_a_person_for_the_privacy_rule_to_remove(dess):
    file = datasets(VISIT, "DESS", dess)[0]
    for keyword in [
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "PatientWeight",
        "StudyDate",
        "StudyTime",
        "InstitutionName",
        "InstitutionAddress",
        "ReferringPhysicianName",
        "OperatorsName",
        "StationName",
        "DeviceSerialNumber",
    ]:
        assert str(file.get(keyword))
    enrolled = datasets(Visit(7, 1000038, "RIGHT", "V00"), "DESS", dess)[0]
    assert file.PatientBirthDate == enrolled.PatientBirthDate
    assert int(file.StudyDate[:4]) - int(enrolled.StudyDate[:4]) == 2


def test_elements_are_in_order_and_of_even_length(dess):
    for _, content in series_files(VISIT, "DESS", dess):
        dataset = pydicom.dcmread(io.BytesIO(content))
        tags = [int(element.tag) for element in dataset]
        assert tags == sorted(tags)
        again = io.BytesIO()
        dataset.save_as(again, enforce_file_format=True)
        assert again.getvalue() == content


def test_archives_hold_the_same_files_and_the_same_bytes_each_time(dess, tmp_path):
    wanted = dict(series_files(VISIT, "DESS", dess))
    packed = write_series(tmp_path / "a", VISIT, "DESS", dess, "zip")
    with zipfile.ZipFile(packed) as archive:
        found = {name.rsplit("/", 1)[-1]: archive.read(name) for name in archive.namelist()}
    assert found == wanted
    tarball = write_series(tmp_path / "a", VISIT, "DESS", dess, "tar.gz")
    with tarfile.open(tarball) as archive:
        assert all(name.startswith("./") for name in archive.getnames())
        members = {name[2:]: archive.extractfile(name).read() for name in archive.getnames()}
    assert members == wanted
    for packing, first in (("zip", packed), ("tar.gz", tarball)):
        second = write_series(tmp_path / "b", VISIT, "DESS", dess, packing)
        assert second.read_bytes() == first.read_bytes()
    assert peek_header(tarball).timepoint == "V03"
