"""A series written as an OAI participant's DICOM files, with an invented person in the headers."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from imaging.volume import EchoSeries, Side, Volume
from phantom.anatomy import VISIT_YEARS
from phantom.images import DessProtocol, MsmeProtocol

Sequence = Literal["DESS", "MSME"]
Packing = Literal["folder", "zip", "tar.gz"]

_UID_ROOT = "2.25"
"""Under this root any 128-bit number may be used without registering."""
_FIRST_YEAR = 2004
_SEX_LETTERS = "MF"


@dataclass(frozen=True)
class Visit:
    """Who was scanned and when; all of it invented.

    Attributes:
        seed: of the cohort; with the rest it settles every invented value.
        subject_id: 7 digits, starting with 1 as no OAI participant does.
        side: which knee.
        timepoint: V00 to V10.
    """

    seed: int
    subject_id: int
    side: Side
    timepoint: str

    def number(self, *what: str) -> int:
        """A large number that depends on the visit and on what it is for, and on nothing else."""
        key = "|".join(map(str, (self.seed, self.subject_id, self.side, self.timepoint, *what)))
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")

    def uid(self, *what: str) -> str:
        """A DICOM unique identifier."""
        return f"{_UID_ROOT}.{self.number('uid', *what)}"

    @property
    def months(self) -> int:
        """Months since enrolment."""
        return round(12 * VISIT_YEARS[self.timepoint])

    @property
    def date(self) -> str:
        """Day of the scan, yyyymmdd."""
        enrolment = Visit(self.seed, self.subject_id, "RIGHT", "V00").number("enrolment")
        months = enrolment % 18 + self.months
        day = self.number("day") % 28 + 1
        return f"{_FIRST_YEAR + months // 12}{months % 12 + 1:02d}{day:02d}"

    def barcode(self, sequence: Sequence) -> str:
        """Eight digits that name the series; those of MR images start with 1."""
        return f"1{self.number('barcode', sequence) % 10**7:07d}"


def _patient(visit: Visit) -> Dataset:
    """The invented person, clinic and machine: what the privacy rule must keep out of the lake."""
    person = Visit(visit.seed, visit.subject_id, "RIGHT", "V00")
    born = 1930 + person.number("birth") % 30
    dataset = Dataset()
    dataset.PatientName = f"Phantom^Knee{visit.subject_id}"
    dataset.PatientID = str(visit.subject_id)
    dataset.PatientBirthDate = f"{born}0{person.number('month') % 9 + 1}15"
    dataset.PatientSex = _SEX_LETTERS[person.number("sex") % 2]
    dataset.PatientAge = f"{int(visit.date[:4]) - born:03d}Y"
    dataset.PatientWeight = str(55 + person.number("weight") % 50)
    dataset.InstitutionName = "Invented Knee Clinic"
    dataset.InstitutionAddress = "1 Invented Street, Nowhere"
    dataset.ReferringPhysicianName = "Invented^Referrer"
    dataset.OperatorsName = "Invented^Operator"
    dataset.StationName = "INVENTED-MR-1"
    dataset.DeviceSerialNumber = "987654"
    dataset.Manufacturer = "SIEMENS"
    dataset.ManufacturerModelName = "Trio"
    dataset.MagneticFieldStrength = "2.89362"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, visit.date)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, f"{9 + visit.number('hour') % 8:02d}1500")
    return dataset


def _series(visit: Visit, sequence: Sequence, image: Volume | EchoSeries) -> Dataset:
    """The tags that all files of a series share."""
    when = "ENROLLMENT" if visit.months == 0 else f"{visit.months} MONTH"
    annual = "Enrollment Visit" if visit.months == 0 else f"{visit.months} month Annual Visit"
    dataset = _patient(visit)
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.StudyInstanceUID = visit.uid("study")
    dataset.SeriesInstanceUID = visit.uid("series", sequence)
    dataset.FrameOfReferenceUID = visit.uid("frame")
    dataset.StudyID = "1"
    dataset.AccessionNumber = f"0166{visit.barcode(sequence)}"
    dataset.StudyDescription = f"OAI^MR^{when}^{visit.side} "
    dataset.ClinicalTrialSubjectID = str(visit.subject_id)
    dataset.ClinicalTrialTimePointID = visit.timepoint
    dataset.ClinicalTrialTimePointDescription = annual
    dataset.PatientPosition = "FFS"
    dataset.PositionReferenceIndicator = ""
    dataset.ScanningSequence = "GR" if sequence == "DESS" else "SE"
    dataset.SequenceVariant = "SK"
    dataset.ScanOptions = "WE" if sequence == "DESS" else ""
    dataset.ImagingFrequency = "123.22468"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = image.array.shape[-2:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    if sequence == "DESS":
        dess = DessProtocol()
        dataset.SeriesDescription = f"SAG_3D_DESS_{visit.side}"
        dataset.SeriesNumber = 4
        dataset.MRAcquisitionType = "3D"
        dataset.RepetitionTime = f"{dess.repetition_time_ms:g}"
        dataset.FlipAngle = f"{dess.flip_angle_deg:g}"
        dataset.EchoTrainLength = 1
    else:
        msme = MsmeProtocol()
        dataset.SeriesDescription = f"SAG_T2_MAP_{visit.side}"
        dataset.SeriesNumber = 9
        dataset.MRAcquisitionType = "2D"
        dataset.RepetitionTime = f"{msme.repetition_time_ms:g}"
        dataset.FlipAngle = "180"
        dataset.EchoTrainLength = len(msme.echo_times_ms)
    return dataset


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as DICOM wants."""
    return f"{value:.10f}"[:16].rstrip("0").rstrip(".") if value else "0"


_BYTE_TEXT = {"UI": b"\0"}
"""What a text of odd length is padded with, where it is not a blank."""

_VARYING = {
    "SOPInstanceUID": "UI",
    "EchoTime": "DS",
    "EchoNumbers": "IS",
    "InstanceNumber": "IS",
    "ImagePositionPatient": "DS",
    "SliceLocation": "DS",
}
"""Tags that differ from file to file of one series, and their value representation."""


def _text_element(keyword: str, value: str) -> bytes:
    """A short text element in explicit VR little endian."""
    representation = _VARYING[keyword]
    content = value.encode("ascii")
    if len(content) % 2:
        content += _BYTE_TEXT.get(representation, b" ")
    group, element = divmod(tag_for_keyword(keyword) or 0, 0x10000)
    head = struct.pack("<HH2sH", group, element, representation.encode(), len(content))
    return head + content


def _encoded_elements(dataset: Dataset) -> dict[int, bytes]:
    """Each element of a dataset as it lies in a file, by tag."""
    encoded: dict[int, bytes] = {}
    for element in dataset:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element)
        encoded[int(element.tag)] = buffer.getvalue()
    return encoded


def _file_meta(instance_uid: str) -> bytes:
    """The preamble and file meta group of one file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}.1561")
    meta.ImplementationVersionName = "PHANTOM"
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return b"\0" * 128 + b"DICM" + buffer.getvalue()


def series_files(
    visit: Visit, sequence: Sequence, image: Volume | EchoSeries
) -> list[tuple[str, bytes]]:
    """The files of one series: names `001`, `002` ... and contents.

    Echoes share one series; the files run through the slices of the first echo, then of the next.
    What the files of a series share is encoded once, which makes it ten times faster than writing
    each as a dataset.

    Args:
        visit: who and when.
        sequence: DESS or MSME.
        image: non-negative int16 below 4096, with its affine in LPS mm.
    """
    affine = image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rows_to, columns_to = affine[:3, 1] / spacing[1], affine[:3, 2] / spacing[2]
    # The normal is row direction x column direction, the sign in which SliceLocation is counted.
    normal = np.cross(columns_to, rows_to)
    if isinstance(image, EchoSeries):
        echo_times, stack = image.echo_times_ms, image.array
        thickness = MsmeProtocol().slice_thickness_mm
    else:
        echo_times, stack = np.array([DessProtocol().echo_time_ms]), image.array[None]
        thickness = float(spacing[0])
    dataset = _series(visit, sequence, image)
    dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
    dataset.SliceThickness = _decimal(thickness)
    dataset.SpacingBetweenSlices = _decimal(spacing[0])
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*columns_to, *rows_to)]
    shared = _encoded_elements(dataset)

    files: list[tuple[str, bytes]] = []
    for echo, planes in enumerate(stack):
        for index, plane in enumerate(planes):
            number = len(files) + 1
            position = affine[:3, 3] + index * affine[:3, 0]
            varying = {
                "SOPInstanceUID": visit.uid("image", sequence, str(number)),
                "EchoTime": _decimal(float(echo_times[echo])),
                "EchoNumbers": str(echo + 1),
                "InstanceNumber": str(number),
                "ImagePositionPatient": "\\".join(_decimal(value) for value in position),
                "SliceLocation": _decimal(float(position @ normal)),
            }
            own = {
                tag_for_keyword(keyword) or 0: _text_element(keyword, value)
                for keyword, value in varying.items()
            }
            elements = sorted((shared | own).items())
            pixels = np.ascontiguousarray(plane, "<u2").tobytes()
            content = [
                _file_meta(varying["SOPInstanceUID"]),
                *(encoded for _, encoded in elements),
                struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels)),
                pixels,
            ]
            files.append((f"{number:03d}", b"".join(content)))
    return files


def write_series(
    folder: Path,
    visit: Visit,
    sequence: Sequence,
    image: Volume | EchoSeries,
    packing: Packing = "folder",
) -> Path:
    """Write a series as `<folder>/<barcode>/001` ..., or as `<folder>/<barcode>.zip` or `.tar.gz`.

    The same arguments write the same bytes.

    Returns:
        The series folder or archive.
    """
    files = series_files(visit, sequence, image)
    barcode = visit.barcode(sequence)
    folder.mkdir(parents=True, exist_ok=True)
    if packing == "folder":
        target = folder / barcode
        target.mkdir(exist_ok=True)
        for name, content in files:
            (target / name).write_bytes(content)
    elif packing == "zip":
        target = folder / f"{barcode}.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in files:
                archive.writestr(zipfile.ZipInfo(f"{barcode}/{name}"), content,
                                 zipfile.ZIP_DEFLATED, 1)  # fmt: skip
    else:
        target = folder / f"{barcode}.tar.gz"
        target.write_bytes(_tar_gz(files))
    return target


def _tar_gz(files: list[tuple[str, bytes]]) -> bytes:
    """Members under `./` as OAI packs them, without times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)
