"""Label volumes on disk: NRRD, NIfTI, MetaImage and DICOM-SEG -> values, tissues, patient space.

All come out in LPS with axes (slowest, ..., fastest) of the file, nothing resampled.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.archive import DeliveredFile, delivery_files, short_name
from imaging.dicom_frames import quiet_pydicom, read_dataset
from imaging.errors import BadInputError, Reason
from imaging.image_files import RAS_TO_LPS, reverse_axes, write_volume
from imaging.labels import BONE_TISSUE, LabelVolume, Scheme, Tissue
from imaging.volume import EchoSeries, Volume, index_to_world

LABEL_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
"""Suffixes of the label files `read_labels` knows; anything else is read as DICOM-SEG."""

SMALLEST_BONE_MM3 = 500.0
"""A ball of 10 mm. The smallest bone, a patella, has over 5,000 mm3; less is stray voxels."""

LARGEST_CUT_MM2 = 100.0
"""How much of a bone may lie on a side face of the scan: a clipped epicondyle, not a cut knee."""

COARSEST_PIXEL_MM = 1.5
"""In-plane pixel above which a sheet of cartilage is hardly more than one pixel thick."""

COARSEST_SLICE_MM = 3.1
"""Slice spacing above which the thickness of a curved surface means nothing."""

GRID_TOLERANCE_MM = 0.1
"""How far the corners of two grids may lie apart and still be the same grid."""

_LETTER_SIGN = {"left": (0, 1.0), "right": (0, -1.0), "posterior": (1, 1.0)} | {
    "anterior": (1, -1.0),
    "superior": (2, 1.0),
    "inferior": (2, -1.0),
}
_BONES = frozenset(BONE_TISSUE.values())


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder's or archive's sorted file digests.

    Raises:
        BadInputError: there is nothing to read.
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digests = sorted(hashlib.sha256(file.content).digest() for file in delivery_files(path))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def read_labels(path: Path, scheme: Scheme, grid: Volume | EchoSeries | None = None) -> LabelVolume:
    """Read a label volume and check its values against the scheme.

    Args:
        path: a .nrrd, .nii, .nii.gz, .mha, .mhd or DICOM-SEG file, or a folder or archive that
            holds one DICOM-SEG file.
        scheme: what the values mean. The segments of a DICOM-SEG mean the tissue their label
            names, else the tissue of their number.
        grid: the scan, if at hand. A DICOM-SEG may leave out slices without label, which are put
            back on the scan's grid; the other formats do not need it.

    Raises:
        BadInputError: MISSING_INPUT, UNREADABLE_FILE, MISSING_TAG (no patient geometry),
            UNKNOWN_LABEL_VALUE or EMPTY_LABEL.
    """
    name = short_name(path)
    if not path.exists():
        raise BadInputError(Reason.MISSING_INPUT, name, "is not there", "Check the path")
    lower = path.name.lower()
    readers = {
        (".nrrd", ".nhdr"): _read_nrrd,
        (".nii", ".nii.gz"): _read_nifti,
        (".mha", ".mhd"): _read_metaimage,
    }
    for suffixes, reader in readers.items():
        if path.is_file() and lower.endswith(suffixes):
            try:
                array, affine = reader(path)
            except BadInputError:
                raise
            except Exception:
                # Each library raises its own; none of their texts helps more than this.
                raise BadInputError(
                    Reason.UNREADABLE_FILE,
                    name,
                    "is damaged, cut short, or not what its suffix says",
                    "Open it in a viewer, and save or copy it again",
                ) from None
            break
    else:
        array, affine = _read_dicom_seg(path, scheme, grid)
    if array.ndim != 3:
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            name,
            f"has {array.ndim} dimensions where a label volume has 3",
            "Export one label map (in 3D Slicer: a labelmap volume, not overlapping segments)",
        )
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9 or not np.isfinite(affine).all():
        raise _no_geometry(name)
    values = _whole_numbers(array, name)
    _require_known_values(values, scheme, name)
    return LabelVolume(values, affine, scheme)


def is_segmentation(file: DeliveredFile) -> bool:
    """Whether a file is a DICOM segmentation, by its SOP class.

    Raises:
        BadInputError: it is not DICOM, or damaged.
    """
    with quiet_pydicom():
        dataset = read_dataset(file, ("SOPClassUID",))
        return str(dataset.get("SOPClassUID") or "") in _SEGMENTATION_CLASSES


def write_labels(labels: Volume, path: Path) -> None:
    """Write a label volume as .nrrd, .nii or .nii.gz; same labels, same bytes.

    Raises:
        ValueError: another suffix, or values that are no whole numbers.
    """
    if labels.array.dtype.kind not in "ui":
        raise ValueError(
            f"labels of type {labels.array.dtype} are not written; use uint8 or uint16"
        )
    write_volume(labels, path)


def require_bones(labels: LabelVolume, file: Path | str) -> None:
    """Check that the bones the scheme always has are there, and that none is stray voxels.

    Raises:
        BadInputError: MISSING_BONE, also where a scheme has no bone; BAD_SURFACE.
    """
    if not labels.scheme.bones:
        raise BadInputError(
            Reason.MISSING_BONE,
            short_name(file),
            f"follows scheme {labels.scheme.name}, which names no bone to lay maps on",
            "Give a segmentation with femur, tibia or patella, and a scheme that names them",
        )
    present = set(np.unique(labels.array).tolist())
    for bone in labels.scheme.required_bones:
        values = labels.scheme.values([BONE_TISSUE[bone]])
        if not present & set(values):
            raise BadInputError(
                Reason.MISSING_BONE,
                short_name(file),
                f"has no {bone} (value {', '.join(map(str, values))} of scheme "
                f"{labels.scheme.name})",
                "Complete the segmentation, or choose the scheme that its values follow",
            )
    voxel_mm3 = abs(float(np.linalg.det(labels.affine[:3, :3])))
    for bone in labels.scheme.bones:
        n_voxel = int(np.count_nonzero(labels.bone(bone)))
        if 0 < n_voxel * voxel_mm3 < SMALLEST_BONE_MM3:
            raise BadInputError(
                Reason.BAD_SURFACE,
                short_name(file),
                f"has a {bone} of {n_voxel} voxel(s), {n_voxel * voxel_mm3:.3g} mm3, too few for "
                "a bone",
                "Remove the stray voxels, or complete the segmentation of this bone",
            )


def require_whole(labels: LabelVolume, file: Path | str) -> None:
    """Check that the scan is wide enough: the OAI has DESS series of 29 and 56 slices, not 160.

    Above and below the shafts leave every scan; to the sides and in front and behind none does.

    Raises:
        BadInputError: WRONG_MATRIX_SIZE.
    """
    spacing_mm = np.linalg.norm(labels.affine[:3, :3], axis=0)
    upward = int(np.argmax(np.abs(labels.affine[2, :3]) / spacing_mm))
    for axis in {0, 1, 2} - {upward}:
        pixel_mm2 = float(np.prod(np.delete(spacing_mm, axis)))
        for end in (0, -1):
            face = replace(labels, array=labels.array.take([end], axis=axis))
            for bone in labels.scheme.bones:
                cut_mm2 = np.count_nonzero(face.bone(bone)) * pixel_mm2
                if cut_mm2 > LARGEST_CUT_MM2:
                    raise BadInputError(
                        Reason.WRONG_MATRIX_SIZE,
                        short_name(file),
                        f"has a {bone} cut by the edge of its {_sizes(labels.array.shape)} voxels "
                        f"({cut_mm2:.0f} mm2 lie on the edge), so its maps and means would be of "
                        "a part",
                        "Use the whole scan and its label; leave this knee out if there is none",
                    )


def require_fine_grid(labels: LabelVolume, file: Path | str) -> None:
    """Check that the voxels are small enough to measure a sheet of two millimetres.

    Raises:
        BadInputError: WRONG_MATRIX_SIZE.
    """
    fine, middle, coarse = np.sort(np.linalg.norm(labels.affine[:3, :3], axis=0))
    if middle > COARSEST_PIXEL_MM or coarse > COARSEST_SLICE_MM:
        raise BadInputError(
            Reason.WRONG_MATRIX_SIZE,
            short_name(file),
            f"has voxels of {fine:.2f} x {middle:.2f} x {coarse:.2f} mm, too coarse for cartilage",
            f"Give a segmentation with pixels of at most {COARSEST_PIXEL_MM:g} mm and slices of at "
            f"most {COARSEST_SLICE_MM:g} mm, as drawn on the structural scan",
        )


def require_same_grid(
    labels: LabelVolume, volume: Volume | EchoSeries, file: Path | str
) -> LabelVolume:
    """Check that labels lie on the grid of a scan, and give them in the scan's axis order.

    The same grid stored with its axes permuted or flipped is the same grid.

    Raises:
        BadInputError: GRID_MISMATCH, with both grids in the message.
    """
    placed = _reordered_onto(labels, volume.array.shape[-3:], volume.affine)
    if placed is None:
        raise BadInputError(
            Reason.GRID_MISMATCH,
            short_name(file),
            f"lies on another grid than the scan: label {_describe(labels.array, labels.affine)}; "
            f"scan {_describe(volume.array, volume.affine)}",
            "Give the label drawn on this scan, or resample it with nearest neighbours first",
        )
    return placed


def _reordered_onto(
    labels: LabelVolume, shape: tuple[int, ...], affine: NDArray[np.float64]
) -> LabelVolume | None:
    """The labels with axes permuted and flipped to the grid, or None where none fits."""
    wanted_mm = _corners_mm(shape, affine)
    for order in permutations(range(3)):
        array = np.transpose(labels.array, order)
        if array.shape != tuple(shape):
            continue
        columns = labels.affine[:, [*order, 3]]
        for flips in product((False, True), repeat=3):
            turned = columns.copy()
            for axis, flip in enumerate(flips):
                if flip:
                    turned[:3, 3] += turned[:3, axis] * (array.shape[axis] - 1)
                    turned[:3, axis] *= -1
            apart_mm = np.linalg.norm(_corners_mm(shape, turned) - wanted_mm, axis=1).max()
            if apart_mm <= GRID_TOLERANCE_MM:
                flipped = tuple(axis for axis, flip in enumerate(flips) if flip)
                placed = np.ascontiguousarray(np.flip(array, flipped))
                return LabelVolume(placed, affine, labels.scheme)
    return None


def _corners_mm(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    corners = np.array(list(product(*((0.0, size - 1.0) for size in shape))))
    return index_to_world(affine, corners)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _describe(array: NDArray, affine: NDArray[np.float64]) -> str:
    shape = array.shape[-3:]
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    centre_mm = index_to_world(affine, (np.array(shape) - 1) / 2)
    sizes = _sizes(shape)
    spacings = " x ".join(f"{value:.4g}" for value in spacing_mm)
    centre = ", ".join(f"{value:.1f}" for value in centre_mm)
    return f"{sizes} voxels of {spacings} mm centred at ({centre}) mm LPS"


def _no_geometry(name: str) -> BadInputError:
    return BadInputError(
        Reason.MISSING_TAG,
        name,
        "does not say where it lies in the patient",
        "Export it with orientation and origin (NRRD space and space directions, NIfTI sform)",
    )


def _read_nrrd(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    array, header = nrrd.read(str(path))
    return array.T, _nrrd_affine(header, short_name(path)) @ reverse_axes()


def _nrrd_affine(header: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """(i, j, k) index -> LPS mm. Format: teem.sourceforge.net/nrrd/format.html section 5."""
    space = str(header.get("space", "")).lower().removesuffix("-time")
    letters = {"l": "left", "r": "right", "a": "anterior", "p": "posterior"} | {
        "s": "superior",
        "i": "inferior",
    }
    words = [letters.get(c, c) for c in space] if len(space) == 3 else space.split("-")
    directions = header.get("space directions")
    origin = header.get("space origin")
    known = len(words) == 3 and all(word in _LETTER_SIGN for word in words)
    if not known or directions is None or origin is None or np.shape(directions) != (3, 3):
        raise _no_geometry(name)
    to_lps = np.zeros((3, 3))
    for column, word in enumerate(words):
        row, sign = _LETTER_SIGN[word]
        to_lps[row, column] = sign
    affine = np.eye(4)
    affine[:3, :3] = to_lps @ np.asarray(directions, dtype=np.float64).T
    affine[:3, 3] = to_lps @ np.asarray(origin, dtype=np.float64)
    return affine


def _read_nifti(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    image: Any = nibabel.load(path)
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise _no_geometry(short_name(path))
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    # Unit codes other than metre and micrometre mean mm, as does their absence.
    scale_mm = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    affine = np.diag([scale_mm, scale_mm, scale_mm, 1.0]) @ image.affine
    return array.T, RAS_TO_LPS @ affine @ reverse_axes()


def _read_metaimage(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    image = SimpleITK.ReadImage(str(path), imageIO="MetaImageIO")
    if image.GetDimension() != 3:
        return np.zeros((0,) * image.GetDimension()), np.eye(4)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), affine @ reverse_axes()


def _whole_numbers(array: NDArray, name: str) -> NDArray:
    """The values as the smallest unsigned type that holds them."""
    if array.size == 0 or array.dtype.kind not in "uifb":
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            name,
            "holds no label values",
            "Give a label map with one whole number per voxel",
        )
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise BadInputError(
            Reason.UNKNOWN_LABEL_VALUE,
            name,
            "has values that are not whole numbers, so it is an image or a probability map, or "
            "was resampled with interpolation",
            "Give the label map itself; resample labels with nearest neighbours only",
        )
    low, high = array.min(), array.max()
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise BadInputError(
            Reason.UNKNOWN_LABEL_VALUE,
            name,
            f"has values from {low:g} to {high:g}, which no scheme has",
            "Give a label map with values from 0 on",
        )
    smallest = np.min_scalar_type(int(high))
    return np.ascontiguousarray(array.astype(smallest))


def _require_known_values(values: NDArray, scheme: Scheme, name: str) -> None:
    present = [int(value) for value in np.unique(values)]
    unknown = [v for v in present if v not in scheme.tissues and v not in scheme.ignored]
    if unknown:
        shown = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise BadInputError(
            Reason.UNKNOWN_LABEL_VALUE,
            name,
            f"has values that scheme {scheme.name} does not know: {shown}",
            "Choose another --scheme, or write a TOML with these values under [tissues] or "
            "`ignored`",
        )
    if not any(v in scheme.tissues for v in present):
        raise BadInputError(
            Reason.EMPTY_LABEL,
            name,
            "is empty: no voxel has a tissue",
            "Check that the segmentation ran and was saved",
        )


def _read_dicom_seg(
    path: Path, scheme: Scheme, grid: Volume | EchoSeries | None
) -> tuple[NDArray, NDArray[np.float64]]:
    files = list(delivery_files(path))
    if len(files) != 1:
        raise BadInputError(
            Reason.UNREADABLE_FILE,
            short_name(path),
            f"holds {len(files)} files where a label is one",
            f"Give one file ({', '.join(LABEL_SUFFIXES)} or a DICOM-SEG)",
        )
    with quiet_pydicom():
        dataset = read_dataset(files[0], None)
        if str(dataset.get("SOPClassUID") or "") not in _SEGMENTATION_CLASSES:
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                files[0].name,
                "is DICOM but not a segmentation",
                f"Give the label volume ({', '.join(LABEL_SUFFIXES)} or a DICOM-SEG)",
            )
        try:
            return _segmentation(files[0], dataset, scheme, grid)
        except BadInputError:
            raise
        except Exception:
            # Broken values anywhere in the nested sequences; pydicom's text may repeat them.
            raise BadInputError(
                Reason.UNREADABLE_FILE,
                files[0].name,
                "is a DICOM segmentation that cannot be understood, or cut short",
                "Export it again, or as NRRD or NIfTI",
            ) from None


_SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def _segmentation(
    file: DeliveredFile, dataset: Dataset, scheme: Scheme, grid: Volume | EchoSeries | None
) -> tuple[NDArray, NDArray[np.float64]]:
    """Label values and affine of a segmentation (DICOM PS3.3 A.51)."""
    n_frame = int(dataset.NumberOfFrames)
    pixels = dataset.pixel_array.reshape(n_frame, int(dataset.Rows), int(dataset.Columns))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = list(dataset.PerFrameFunctionalGroupsSequence)

    def look_up(frame: Dataset, sequence: str, keyword: str) -> Any:
        group = frame if sequence in frame else shared
        return group[sequence][0][keyword].value

    orientation = np.array(
        look_up(frames[0], "PlaneOrientationSequence", "ImageOrientationPatient"), dtype=float
    )
    pixel_spacing = look_up(frames[0], "PixelMeasuresSequence", "PixelSpacing")
    positions = np.array(
        [look_up(frame, "PlanePositionSequence", "ImagePositionPatient") for frame in frames],
        dtype=float,
    )
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    slice_number, first_mm, spacing_mm = _seg_slices(file, positions @ normal, shared, frames[0])
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing_mm
    affine[:3, 1] = orientation[3:] * float(pixel_spacing[0])
    affine[:3, 2] = orientation[:3] * float(pixel_spacing[1])
    first = positions[int(np.argmin(slice_number))]
    affine[:3, 3] = first + normal * (first_mm - first @ normal)

    values = _segment_values(file, dataset, scheme)
    highest = max([*values.values(), 1])
    array = np.zeros((int(slice_number.max()) + 1, *pixels.shape[1:]), np.min_scalar_type(highest))
    if str(dataset.SegmentationType) == "LABELMAP":
        for i, frame_pixels in zip(slice_number, pixels, strict=True):
            for number in np.unique(frame_pixels[frame_pixels > 0]):
                array[i][frame_pixels == number] = values[int(number)]
    else:
        half = int(dataset.get("MaximumFractionalValue") or 1) / 2
        segments = [
            int(look_up(frame, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))
            for frame in frames
        ]

        # Where segments overlap, soft tissue wins over bone, then the higher number.
        def rank(frame: int) -> tuple[bool, int]:
            return scheme.tissues.get(values[segments[frame]]) not in _BONES, segments[frame]

        for frame in sorted(range(n_frame), key=rank):
            array[slice_number[frame]][pixels[frame] > half] = values[segments[frame]]
    if grid is not None:
        array, affine = _on_grid(array, affine, grid)
    return array, affine


def _seg_slices(
    file: DeliveredFile, along_normal_mm: NDArray[np.float64], shared: Dataset, frame: Dataset
) -> tuple[NDArray[np.intp], float, float]:
    """Slice number of each frame, place of the first (mm along the normal), slice distance."""
    places_mm = np.unique(np.round(along_normal_mm, 3))
    group = frame if "PixelMeasuresSequence" in frame else shared
    measures = group.PixelMeasuresSequence[0]
    declared = measures.get("SpacingBetweenSlices")
    gaps_mm = np.diff(places_mm)
    gaps_mm = gaps_mm[gaps_mm > 0.02]
    if declared is not None and float(declared) > 0:
        spacing_mm = float(declared)
    elif len(gaps_mm):
        spacing_mm = float(gaps_mm.min())
    else:
        spacing_mm = float(measures.SliceThickness)
    steps = (along_normal_mm - places_mm[0]) / spacing_mm
    number = np.rint(steps).astype(np.intp)
    if np.abs(steps - number).max() > 0.1:
        raise BadInputError(
            Reason.IRREGULAR_SPACING,
            file.name,
            f"has slices that do not lie whole steps of {spacing_mm:.3f} mm apart",
            "Export the segmentation again on its scan's grid",
        )
    # Rounding of the declared distance would add up over a stack.
    last = int(number.max())
    if last > 0:
        spacing_mm = float((along_normal_mm.max() - along_normal_mm.min()) / last)
    return number, float(along_normal_mm.min()), spacing_mm


def _segment_values(file: DeliveredFile, dataset: Dataset, scheme: Scheme) -> dict[int, int]:
    """Label value of each segment number."""
    values: dict[int, int] = {}
    for i, segment in enumerate(dataset.SegmentSequence):
        number = int(segment.get("SegmentNumber") or i)
        name = str(segment.get("SegmentLabel") or "").strip().lower()
        name = "_".join(name.replace("-", " ").replace("_", " ").split())
        if name not in set(Tissue):
            values[number] = number
            continue
        known = scheme.values([Tissue(name)])
        if not known:
            raise BadInputError(
                Reason.UNKNOWN_LABEL_VALUE,
                file.name,
                f"has a segment {name}, which scheme {scheme.name} does not have",
                "Choose another --scheme, or write a TOML that names this tissue",
            )
        values[number] = known[0]
    return values


def _on_grid(
    array: NDArray, affine: NDArray[np.float64], grid: Volume | EchoSeries
) -> tuple[NDArray, NDArray[np.float64]]:
    """Put back the slices a segmentation left out; unchanged where it does not fit the grid."""
    shape = grid.array.shape[-3:]
    to_grid = np.linalg.inv(grid.affine) @ affine
    steps = np.rint(to_grid[:3, 0])
    if (array.shape[1:] != shape[1:]) or abs(steps[0]) != 1:
        return array, affine
    ends = to_grid[0, 3] + to_grid[0, 0] * np.array([0, array.shape[0] - 1])
    first, last = np.rint(np.sort(ends)).astype(int)
    in_plane = index_to_world(to_grid, np.array([[0.0, 0.0, 0.0]]))[0, 1:]
    if first < 0 or last >= shape[0] or np.abs(in_plane).max() > 0.1:
        return array, affine
    if np.abs(np.sort(ends) - [first, last]).max() > 0.1:
        return array, affine
    filled = np.zeros(shape, array.dtype)
    filled[first : last + 1] = array if steps[0] > 0 else array[::-1]
    return filled, grid.affine
