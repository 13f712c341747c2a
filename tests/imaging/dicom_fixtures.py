"""Tiny synthetic DICOM series, written with pydicom alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (-0.0218343, 0.999511, 0.0224019, -0.144772, 0.01901, -0.989282)
"""The orientation of a real sagittal knee series."""


def uid(*parts: object) -> str:
    return generate_uid(entropy_srcs=["kneelake test", *map(str, parts)])


def slice_normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / np.linalg.norm(normal)


def mr_slice(
    pixels: NDArray,
    position_mm: Sequence[float],
    *,
    orientation: Sequence[float] = SAGITTAL,
    pixel_spacing_mm: tuple[float, float] = (0.5, 0.4),
    echo_time_ms: float | None = 10.0,
    series: str = "a",
    instance: int = 1,
    series_description: str = "SAG_3D_DESS_RIGHT",
    study_description: str = "OAI^MR^12 MONTH^RIGHT ",
    subject: str = "1000001",
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid(series, instance, echo_time_ms)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "MR"
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("series", series)
    dataset.FrameOfReferenceUID = uid("frame of reference")
    dataset.SeriesDescription = series_description
    dataset.StudyDescription = study_description
    dataset.PatientID = subject
    dataset.PatientName = "Nobody^Known"
    dataset.InstanceNumber = instance
    if echo_time_ms is not None:
        dataset.EchoTime = echo_time_ms
    dataset.ImagePositionPatient = [round(float(x), 6) for x in position_mm]
    dataset.ImageOrientationPatient = list(orientation)
    dataset.PixelSpacing = list(pixel_spacing_mm)
    dataset.SliceThickness = 3.0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0 if pixels.dtype == np.uint16 else 1
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset


def mr_series(
    array: NDArray,
    echo_times_ms: Sequence[float] = (10.0,),
    *,
    spacing_mm: float = 4.0,
    origin_mm: Sequence[float] = (-60.0, -20.0, 30.0),
    orientation: Sequence[float] = SAGITTAL,
    **keywords: object,
) -> list[FileDataset]:
    """All files of a series.

    Args:
        array: shape (n_echo, n_slice, n_row, n_column), int16 or uint16.
        echo_times_ms: one per echo.
        spacing_mm: distance between slices along the normal.
        origin_mm: centre of the first voxel.
        orientation: ImageOrientationPatient.
        **keywords: as `mr_slice`.
    """
    step = slice_normal(orientation) * spacing_mm
    return [
        mr_slice(
            array[echo, i],
            np.asarray(origin_mm) + i * step,
            orientation=orientation,
            echo_time_ms=echo_time_ms,
            instance=1 + i * len(echo_times_ms) + echo,
            **keywords,
        )
        for i in range(array.shape[1])
        for echo, echo_time_ms in enumerate(echo_times_ms)
    ]


def random_array(n_echo: int = 1, n_slice: int = 4, rows: int = 5, columns: int = 6) -> NDArray:
    rng = np.random.default_rng(7)
    return rng.integers(1, 2000, (n_echo, n_slice, rows, columns)).astype(np.int16)


def save(
    datasets: Sequence[Dataset], folder: Path, name: Callable[[int], str] = "{:03d}".format
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, dataset in enumerate(datasets):
        dataset.save_as(folder / name(i + 1), enforce_file_format=True)
    return folder
