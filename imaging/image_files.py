"""Writing a volume as NRRD or NIfTI; same volume, same bytes."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from imaging.volume import Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_NRRD_TYPES = {
    "u1": "uchar",
    "u2": "ushort",
    "i2": "short",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}


def reverse_axes() -> NDArray[np.float64]:
    """(column, row, slice) index, as files count, -> (slice, row, column) index."""
    swap = np.eye(4)
    swap[:3, :3] = np.eye(3)[::-1]
    return swap


def write_volume(volume: Volume, path: Path) -> None:
    """Write a volume as .nrrd, .nii or .nii.gz.

    Raises:
        ValueError: another suffix, or a type of number the format does not name.
    """
    lower = path.name.lower()
    if lower.endswith(".nrrd"):
        path.write_bytes(_nrrd_bytes(volume))
    elif lower.endswith((".nii", ".nii.gz")):
        affine = RAS_TO_LPS @ volume.affine @ reverse_axes()
        image = nibabel.Nifti1Image(np.ascontiguousarray(volume.array.T), affine)
        # Code 1: the scanner's coordinates.
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units("mm")
        content = image.to_bytes()
        path.write_bytes(gzip.compress(content, mtime=0) if lower.endswith("gz") else content)
    else:
        raise ValueError(f"{path.name}: volumes are written as .nrrd, .nii or .nii.gz")


def _nrrd_bytes(volume: Volume) -> bytes:
    array = np.ascontiguousarray(volume.array)
    kind = _NRRD_TYPES.get(array.dtype.str[1:])
    if kind is None:
        raise ValueError(f"numbers of type {array.dtype} are not written")
    affine = volume.affine @ reverse_axes()

    def vector(values: NDArray[np.float64]) -> str:
        return "(" + ",".join(repr(float(value)) for value in values) + ")"

    header = "\n".join(
        [
            "NRRD0004",
            f"type: {kind}",
            "dimension: 3",
            "space: left-posterior-superior",
            "sizes: " + " ".join(str(size) for size in array.shape[::-1]),
            "space directions: " + " ".join(vector(affine[:3, axis]) for axis in range(3)),
            "kinds: domain domain domain",
            "endian: little",
            "encoding: gzip",
            f"space origin: {vector(affine[:3, 3])}",
        ]
    )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return header.encode() + b"\n\n" + gzip.compress(little.tobytes(), mtime=0)
