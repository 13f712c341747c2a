"""A knee of ellipsoids on a coarse grid, delivered as the OAI delivers: seconds, not minutes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from imaging.label_files import write_labels
from imaging.volume import Side, Volume, index_to_world
from tests.imaging.dicom_fixtures import mr_series, save

MONTHS = {"V00": "00", "V01": "12", "V03": "24"}
CENTRE_X_MM = 75.0
DESS_SPACING_MM = (1.6, 1.2, 1.2)
DESS_SHAPE = (54, 90, 84)
MSME_SHAPE = (12, 45, 42)
MSME_SPACING_MM = (7.0, 2.4, 2.4)
ECHO_TIMES_MS = (10.0, 25.0, 40.0, 55.0)
T2_MS = 40.0


@dataclass(frozen=True)
class Visit:
    """One knee-visit to deliver."""

    subject_id: int = 1000001
    side: Side = "RIGHT"
    timepoint: str = "V00"
    barcode: int = 10000001
    thickness_mm: float = 2.4

    @property
    def knee_visit(self) -> str:
        return f"{self.subject_id}_{self.side}_{self.timepoint}"

    def folder(self, inbox: Path, barcode: int | None = None) -> Path:
        release = f"{int(self.timepoint[1:])}.C.2"
        return (
            inbox
            / f"{MONTHS[self.timepoint]}m"
            / release
            / str(self.subject_id)
            / "20040909"
            / str(barcode or self.barcode)
        )

    def label(self, inbox: Path) -> Path:
        return inbox / "segmentations" / f"{self.knee_visit}.nrrd"


def _affine(shape: tuple[int, ...], spacing_mm: tuple[float, ...], side: Side) -> NDArray:
    """Sagittal: slices towards the left, rows down, columns to the back; the knee in the middle."""
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2] = spacing_mm[0], -spacing_mm[1], spacing_mm[2]
    affine[3, 3] = 1.0
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    centre = np.array([-CENTRE_X_MM if side == "RIGHT" else CENTRE_X_MM, 0.0, 0.0])
    affine[:3, 3] = centre - middle
    return affine


def _points_mm(shape: tuple[int, ...], affine: NDArray) -> NDArray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index_to_world(affine, index.astype(float))


def labels_of(visit: Visit) -> Volume:
    """Scheme `mskt`: bones as ellipsoids, cartilage as caps where they face each other."""
    affine = _affine(DESS_SHAPE, DESS_SPACING_MM, visit.side)
    points = _points_mm(DESS_SHAPE, affine)
    sign = 1.0 if visit.side == "RIGHT" else -1.0
    # Across runs from lateral (negative) to medial in both knees.
    across = sign * (points[..., 0] + sign * CENTRE_X_MM)
    back, up = points[..., 1], points[..., 2]

    def inside(centre: tuple[float, ...], radii: tuple[float, ...], margin: float) -> NDArray:
        place = zip((across, back, up), centre, radii, strict=True)
        return sum(((at - at0) / (radius + margin)) ** 2 for at, at0, radius in place) <= 1.0

    femur = ((0.0, 4.0, 18.0), (32.0, 24.0, 24.0))
    tibia = ((0.0, 4.0, -30.0), (34.0, 24.0, 18.0))
    patella = ((0.0, -36.0, 24.0), (17.0, 7.0, 15.0))
    thick = visit.thickness_mm
    array = np.zeros(DESS_SHAPE, np.uint8)
    # The number follows facts of the scheme: 1 to 4 cartilages, 5 to 7 bones, 8 fibula.
    array[inside(*femur, thick) & (up - 18.0 < -0.4 * (back - 4.0)) & (np.abs(across) < 27)] = 1
    top = inside(*tibia, thick) & (up > -22.0)
    array[top & (across > 4.0)] = 2
    array[top & (across < -4.0)] = 3
    array[inside(*patella, thick) & (back > -33.0)] = 4
    array[inside(*femur, 0.0)] = 5
    array[inside(*tibia, 0.0)] = 6
    array[inside(*patella, 0.0)] = 7
    array[inside((-30.0, 18.0, -42.0), (5.0, 5.0, 10.0), 0.0) & (array == 0)] = 8
    return Volume(array, affine)


def _image(labels: NDArray, scale: float = 1.0) -> NDArray:
    level = np.array([40, 700, 700, 700, 700, 200, 220, 210, 190], float)
    rows = np.arange(labels.shape[1])[:, None]
    return level[np.minimum(labels, 8)] * scale + rows % 5


def dess_files(visit: Visit, **keywords: object) -> list[FileDataset]:
    labels = labels_of(visit)
    image = _image(labels.array)[None]
    return _series(
        image, labels.affine, DESS_SPACING_MM, (4.71,), _headers(visit, "SAG_3D_DESS", keywords)
    )


def msme_files(visit: Visit, **keywords: object) -> list[FileDataset]:
    affine = _affine(MSME_SHAPE, MSME_SPACING_MM, visit.side)
    labels = labels_of(visit)
    index = np.rint(
        (_points_mm(MSME_SHAPE, affine) - labels.affine[:3, 3])
        @ np.linalg.inv(labels.affine[:3, :3]).T
    ).astype(int)
    bounded = np.clip(index, 0, np.array(DESS_SHAPE) - 1)
    nearest = labels.array[tuple(np.moveaxis(bounded, -1, 0))]
    echoes = np.stack([_image(nearest, np.exp(-te / T2_MS)) for te in ECHO_TIMES_MS])
    return _series(
        echoes, affine, MSME_SPACING_MM, ECHO_TIMES_MS, _headers(visit, "SAG_T2_MAP", keywords)
    )


def _series(
    echoes: NDArray,
    affine: NDArray,
    spacing_mm: tuple[float, ...],
    echo_times_ms: tuple[float, ...],
    headers: dict[str, object],
) -> list[FileDataset]:
    """The normal of these rows and columns points to the right, so slices go there."""
    last = affine[:3, 3] + affine[:3, 0] * (echoes.shape[1] - 1)
    return mr_series(
        np.rint(echoes[:, ::-1]).astype(np.int16),
        echo_times_ms,
        spacing_mm=spacing_mm[0],
        origin_mm=last,
        pixel_spacing_mm=spacing_mm[1:],
        **headers,
    )


def _headers(visit: Visit, series: str, keywords: dict[str, object]) -> dict[str, object]:
    months = int(MONTHS[visit.timepoint])
    when = f"{months} MONTH" if months else "ENROLLMENT"
    return {
        "series": f"{visit.knee_visit} {series}",
        "series_description": f"{series}_{visit.side}",
        "study_description": f"OAI^MR^{when}^{visit.side} ",
        "subject": str(visit.subject_id),
        **keywords,
    }


def deliver(inbox: Path, visit: Visit, *, dess: bool = True, msme: bool = False) -> Visit:
    """Write a knee-visit into the inbox."""
    if dess:
        save(dess_files(visit), visit.folder(inbox))
    if msme:
        save(msme_files(visit), visit.folder(inbox, visit.barcode + 1))
    deliver_label(inbox, visit)
    return visit


def deliver_label(inbox: Path, visit: Visit, labels: Volume | None = None) -> Path:
    path = visit.label(inbox)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(labels or labels_of(visit), path)
    return path


def another(visit: Visit, number: int, **changes: object) -> Visit:
    """The knee of another person."""
    return replace(
        visit,
        subject_id=visit.subject_id + number,
        barcode=visit.barcode + 10 * number,
        **changes,
    )
