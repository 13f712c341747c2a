"""One DICOM file -> the slices in it, each with its place in the patient and its echo time."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from imaging.archive import DeliveredFile
from imaging.dicom_header import HEADER_TAGS, SeriesHeader, series_header
from imaging.errors import BadInputError, Reason

IMAGE_TAGS = (
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "EchoTime",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
"""Keywords of the tags read to build the image. SliceThickness is not one of them."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_RECOPY = "Copy the file from the scanner or archive again"


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice at one echo time.

    Attributes:
        file: short name of the file it came from.
        series_uid: tells series apart while reading; never leaves the reader.
        pixels: shape (n_row, n_column), float32, rescaled.
        position_mm: centre of the first voxel, LPS, shape (3,).
        along_row: unit vector of rising column index, shape (3,).
        along_column: unit vector of rising row index, shape (3,).
        pixel_spacing_mm: between rows, between columns, shape (2,).
        echo_time_ms: None where the file does not say.
        header: allow-listed description.
    """

    file: str
    series_uid: str
    pixels: NDArray[np.float32]
    position_mm: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    pixel_spacing_mm: NDArray[np.float64]
    echo_time_ms: float | None
    header: SeriesHeader


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom: its warnings repeat header values, which must not reach a log."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def read_dataset(file: DeliveredFile, keywords: tuple[str, ...] | None) -> Dataset:
    """Parse one file, keeping only the named tags (None: all, for segmentations).

    Raises:
        BadInputError: NOT_AN_IMAGE or TRUNCATED_FILE.
    """
    wanted: Any = None if keywords is None else list(keywords)
    if len(file.content) < 132:
        raise BadInputError(
            Reason.TRUNCATED_FILE,
            file.name,
            f"is cut short: {len(file.content)} bytes is less than any DICOM file has",
            _RECOPY,
        )
    try:
        return pydicom.dcmread(BytesIO(file.content), specific_tags=wanted)
    except InvalidDicomError:
        pass
    except Exception:
        # pydicom raises anything on broken bytes, and its message may repeat header values.
        raise BadInputError(
            Reason.TRUNCATED_FILE, file.name, "is cut short or damaged in its header", _RECOPY
        ) from None
    # Old files lack the preamble; they are believed only if they then say what they are.
    with suppress(Exception):
        dataset = pydicom.dcmread(BytesIO(file.content), specific_tags=wanted, force=True)
        if str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008."):
            return dataset
    raise BadInputError(
        Reason.NOT_AN_IMAGE,
        file.name,
        "is not a DICOM file",
        "Leave only the DICOM files of one series in the folder or archive",
    )


def read_header(file: DeliveredFile) -> SeriesHeader:
    """The allow-listed header of one file, without its pixels.

    Raises:
        BadInputError: NOT_AN_IMAGE, TRUNCATED_FILE or UNREADABLE_FILE.
    """
    with quiet_pydicom():
        dataset = read_dataset(file, HEADER_TAGS)
        try:
            return series_header(dataset)
        except Exception:
            raise _unreadable(file, "has a header that cannot be understood", _RECOPY) from None


def read_frames(file: DeliveredFile) -> list[Frame]:
    """All slices of one file: one, or those of an enhanced multi-frame image.

    Raises:
        BadInputError: NOT_AN_IMAGE, TRUNCATED_FILE, MISSING_TAG or UNREADABLE_FILE.
    """
    with quiet_pydicom():
        dataset = read_dataset(file, HEADER_TAGS + IMAGE_TAGS)
        try:
            _require_mr_image(file, dataset)
            pixels = _pixels(file, dataset)
            header = series_header(dataset)
            groups = _functional_groups(dataset, len(pixels))
            return [
                _frame(file, dataset, header, values, group)
                for values, group in zip(pixels, groups, strict=True)
            ]
        except BadInputError:
            raise
        except Exception:
            # Whatever pydicom makes of broken values; its message may repeat them.
            raise _unreadable(file, "has a header that cannot be understood", _RECOPY) from None


def _unreadable(file: DeliveredFile, what: str, remedy: str) -> BadInputError:
    return BadInputError(Reason.UNREADABLE_FILE, file.name, what, remedy)


def _not_an_image(file: DeliveredFile, what: str) -> BadInputError:
    return BadInputError(
        Reason.NOT_AN_IMAGE, file.name, what, "Leave only the slices of one MR series"
    )


def _require_mr_image(file: DeliveredFile, dataset: Dataset) -> None:
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = pydicom.uid.UID(
        str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    )
    kind = sop_class.name if sop_class in pydicom.uid.UID_dictionary else ""
    if kind == "Segmentation Storage":
        raise _not_an_image(file, "is a DICOM segmentation, not an image; give it as the label")
    if kind and "Image Storage" not in kind and "Presentation" not in kind:
        raise _not_an_image(file, f"is DICOM but not an image ({kind})")
    modality = str(dataset.get("Modality") or "").strip(" \0")
    if modality not in ("MR", "OT", "") or (kind and "MR" not in kind and modality != "MR"):
        raise _not_an_image(file, "is a DICOM image but not of an MR scan")
    if not any(keyword in dataset for keyword in _PIXELS):
        raise BadInputError(
            Reason.TRUNCATED_FILE, file.name, "is cut short: it has no pixel data", _RECOPY
        )


def _pixels(file: DeliveredFile, dataset: Dataset) -> NDArray:
    """Stored values, shape (n_frame, n_row, n_column)."""
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        if not dataset.get(keyword):
            raise _missing(file, keyword)
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise _not_an_image(file, "is a colour picture")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    n_frame = int(dataset.get("NumberOfFrames") or 1)
    dataset.SamplesPerPixel = 1
    if "PhotometricInterpretation" not in dataset:
        dataset.PhotometricInterpretation = "MONOCHROME2"
    if "PixelData" in dataset:
        if "PixelRepresentation" not in dataset:
            raise _missing(file, "PixelRepresentation")
        dataset.BitsStored = dataset.get("BitsStored") or dataset.BitsAllocated
    _supply_transfer_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        keyword = next(keyword for keyword in _PIXELS if keyword in dataset)
        expected = n_frame * rows * columns * int(dataset.BitsAllocated) // 8
        found = len(dataset[keyword].value or b"")
        if found < expected:
            raise BadInputError(
                Reason.TRUNCATED_FILE,
                file.name,
                f"is cut short: {found} bytes of pixels where {rows} x {columns} needs {expected}",
                _RECOPY,
            )
    try:
        stored = dataset.pixel_array
    except Exception:
        if syntax.is_compressed:
            raise _unreadable(
                file,
                f"has pixels compressed as {syntax.name}, which cannot be decoded here",
                "Decompress it first, for example with `gdcmconv --raw` or `dcmdjpeg`",
            ) from None
        raise _unreadable(file, "has pixels that cannot be decoded", _RECOPY) from None
    return stored.reshape(n_frame, rows, columns)


def _supply_transfer_syntax(dataset: Dataset) -> None:
    """Files without a meta header do not say how they are encoded; how they parsed does."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _functional_groups(dataset: Dataset, n_frame: int) -> list[list[Dataset]]:
    """Where to look up the tags of each frame: its own group, the shared one, the top level."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    return [[*per_frame[i : i + 1], *shared] for i in range(n_frame)]


def _missing(file: DeliveredFile, keyword: str) -> BadInputError:
    return BadInputError(
        Reason.MISSING_TAG,
        file.name,
        f"lacks a usable {keyword}, without which the image has no place in the patient",
        "Export the original series again, with its geometry tags kept",
    )


def _lookup(dataset: Dataset, groups: list[Dataset], sequence: str, keyword: str) -> Any:
    for group in groups:
        for item in group.get(sequence) or []:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return dataset.get(keyword)


def _vector(file: DeliveredFile, value: Any, keyword: str, size: int) -> NDArray[np.float64]:
    try:
        vector = np.array([float(number) for number in value], dtype=np.float64)
    except (TypeError, ValueError):
        raise _missing(file, keyword) from None
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise _missing(file, keyword)
    return vector


def _number(file: DeliveredFile, value: Any, keyword: str, default: float) -> float:
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _missing(file, keyword) from None


def _frame(
    file: DeliveredFile,
    dataset: Dataset,
    header: SeriesHeader,
    stored: NDArray,
    groups: list[Dataset],
) -> Frame:
    position = _vector(
        file,
        _lookup(dataset, groups, "PlanePositionSequence", "ImagePositionPatient"),
        "ImagePositionPatient",
        3,
    )
    orientation = _vector(
        file,
        _lookup(dataset, groups, "PlaneOrientationSequence", "ImageOrientationPatient"),
        "ImageOrientationPatient",
        6,
    )
    spacing = _vector(
        file, _lookup(dataset, groups, "PixelMeasuresSequence", "PixelSpacing"), "PixelSpacing", 2
    )
    if (spacing <= 0).any():
        raise _missing(file, "PixelSpacing")
    along_row, along_column = orientation[:3], orientation[3:]
    lengths = float(np.linalg.norm(along_row)), float(np.linalg.norm(along_column))
    # Tags are rounded, so unit length and right angle hold to about 1e-4.
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along_row @ along_column))) > 0.01:
        raise _missing(file, "ImageOrientationPatient")
    slope, intercept = (
        _number(
            file,
            _lookup(dataset, groups, "PixelValueTransformationSequence", keyword),
            keyword,
            default,
        )
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    echo_time = _lookup(dataset, groups, "MREchoSequence", "EffectiveEchoTime")
    echo_time_ms = _number(
        file, dataset.get("EchoTime") if echo_time is None else echo_time, "EchoTime", np.nan
    )
    pixels = stored.astype(np.float32)
    if (slope, intercept) != (1.0, 0.0):
        pixels = pixels * np.float32(slope) + np.float32(intercept)
    return Frame(
        file=file.name,
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        pixels=pixels,
        position_mm=position,
        along_row=along_row / lengths[0],
        along_column=along_column / lengths[1],
        pixel_spacing_mm=spacing,
        echo_time_ms=None if np.isnan(echo_time_ms) else echo_time_ms,
        header=header,
    )
