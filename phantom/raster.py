"""A knee sampled on a grid: which tissue lies at each voxel centre, and T2 in the cartilage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imaging.labels import BONES, Bone, LabelVolume, load_scheme
from imaging.volume import Volume
from phantom.fields import THICKEST_MM, THINNEST_MM, cartilage_thickness, smooth_value
from phantom.implicit import LIPSCHITZ, field, nearest
from phantom.knee import KneeTruth

FloatArray = NDArray[np.float64]

# The codes up to 10 are the values of the label scheme `mskt`.
FEMORAL_CARTILAGE, MEDIAL_TIBIAL, LATERAL_TIBIAL, PATELLAR_CARTILAGE = 1, 2, 3, 4
FEMUR, TIBIA, PATELLA, FIBULA = 5, 6, 7, 8
LATERAL_MENISCUS, MEDIAL_MENISCUS = 9, 10
AIR, FAT, MUSCLE = 11, 12, 13
CORTEX = 16
"""Added to a bone's code in its outer shell."""

BONE_CODE: Mapping[Bone, int] = {"femur": FEMUR, "tibia": TIBIA, "patella": PATELLA}
CARTILAGE_CODE: Mapping[Bone, int] = {
    "femur": FEMORAL_CARTILAGE,
    "tibia": MEDIAL_TIBIAL,
    "patella": PATELLAR_CARTILAGE,
}

CORTEX_MM = 1.1
_FOOT_TOLERANCE_MM = 0.003
_GUESS_ERROR_MM = 3.0
_BLOCK_MM = 2.2
_NO_DOMAIN = np.zeros((0, 21))
_NO_FIELD = np.zeros((0, 5))


@dataclass(frozen=True)
class Grid:
    """A sagittal grid, before it is placed.

    Attributes:
        shape: slices, rows, columns.
        spacing_mm: between slices, rows and columns.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


FULL = Grid((160, 384, 384), (0.7, 140.0 / 384, 140.0 / 384))
"""The OAI 3D-DESS grid."""

DEMO = Grid((80, 256, 256), (1.4, 0.55, 0.55))
"""The same field of view with 4.5 times fewer voxels."""

MSME_FULL = Grid((27, 384, 384), (3.5, 0.3125, 0.3125))
MSME_DEMO = Grid((27, 192, 192), (3.5, 0.625, 0.625))

MSME_OF = {FULL: MSME_FULL, DEMO: MSME_DEMO}


def place_grid(
    truth: KneeTruth, grid: Grid, tilt_deg: tuple[float, float] = (0.0, 0.0)
) -> FloatArray:
    """Affine (slice, row, column) -> LPS mm of a sagittal grid centred on a knee.

    Slices run to the patient's right, rows to inferior, columns to posterior, as in OAI series.

    Args:
        truth: the knee.
        grid: its size.
        tilt_deg: turn about the z axis, then about the y axis; scanners prescribe a few degrees.
    """
    about_z, about_y = np.deg2rad(tilt_deg)
    turn_z = np.array(
        [
            [np.cos(about_z), -np.sin(about_z), 0.0],
            [np.sin(about_z), np.cos(about_z), 0.0],
            [0.0, 0.0, 1.0],
        ]
    )
    turn_y = np.array(
        [
            [np.cos(about_y), 0.0, np.sin(about_y)],
            [0.0, 1.0, 0.0],
            [-np.sin(about_y), 0.0, np.cos(about_y)],
        ]
    )
    axes = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn_y @ turn_z @ axes * np.array(grid.spacing_mm)
    centre = truth.knee_to_patient @ np.array([3.0, -10.0, 2.0, 1.0])
    middle = (np.array(grid.shape) - 1) / 2.0
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ middle
    return affine


class _Painted(NamedTuple):
    """What the kernels need of a bone, its cartilage and their codes."""

    solid: FloatArray
    domain: FloatArray
    thickness_bumps: FloatArray
    thickness_waves: FloatArray
    t2_bumps: FloatArray
    t2_waves: FloatArray
    t2_step_ms: float
    bone_code: int
    cartilage_code: int
    reach_mm: float


@njit(cache=True)
def _tissue_at(bone: _Painted, x: float, y: float, z: float, near: bool) -> tuple[int, float]:
    """Code of a point in the bone's frame (0 if neither bone nor cartilage), and T2 in cartilage.

    `near` is False where there is no cartilage nearby.
    """
    f, gx, gy, gz = field(bone.solid, x, y, z)
    squared = gx * gx + gy * gy + gz * gz
    if f <= 0.0:
        shell = f > -CORTEX_MM * np.sqrt(squared)
        return (bone.bone_code + CORTEX if shell else bone.bone_code), 0.0
    if not near or f > LIPSCHITZ * bone.reach_mm:
        return 0, 0.0
    # A first guess of distance and surface point settles most voxels.
    step = f / squared
    px, py, pz = x - step * gx, y - step * gy, z - step * gz
    if field(bone.domain, px, py, pz)[0] > _GUESS_ERROR_MM:
        return 0, 0.0
    full = max(smooth_value(bone.thickness_bumps, bone.thickness_waves, px, py, pz), THINNEST_MM)
    if 0.75 * f / np.sqrt(squared) > full + 0.5:
        return 0, 0.0
    d, qx, qy, qz, _, _, _ = nearest(bone.solid, x, y, z, _FOOT_TOLERANCE_MM)
    thickness = cartilage_thickness(
        bone.domain, bone.thickness_bumps, bone.thickness_waves, qx, qy, qz
    )
    if d >= thickness:
        return 0, 0.0
    t2 = smooth_value(bone.t2_bumps, bone.t2_waves, qx, qy, qz)
    t2 += 2.0 * bone.t2_step_ms * (d / thickness - 0.5)
    lateral = bone.cartilage_code == MEDIAL_TIBIAL and qx <= 0.0
    return (LATERAL_TIBIAL if lateral else bone.cartilage_code), t2


@njit(cache=True)
def _paint_block(
    code: NDArray[np.uint8],
    t2: NDArray[np.float32],
    to_bone: FloatArray,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    bone: _Painted,
    near: bool,
) -> int:
    """Paint the voxels of one block one by one; return voxels claimed twice."""
    m = to_bone
    overlaps = 0
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            for k in range(low[2], high[2]):
                x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
                y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
                z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
                tissue, relaxation = _tissue_at(bone, x, y, z, near)
                if tissue == 0:
                    continue
                if code[i, j, k] != 0:
                    overlaps += 1
                    continue
                code[i, j, k] = tissue
                if t2.size > 1:
                    t2[i, j, k] = relaxation
    return overlaps


@njit(cache=True)
def _paint_bone(
    code: NDArray[np.uint8],
    t2: NDArray[np.float32],
    to_bone: FloatArray,
    block: NDArray[np.int64],
    bone: _Painted,
) -> int:
    """Paint one bone and its cartilage where nothing is painted yet; return voxels claimed twice.

    Blocks wholly inside the bone or out of reach are settled by the field at their centre.
    """
    m = to_bone
    half = 0.0
    for axis in range(3):
        half += np.sum(m[:3, axis] ** 2) * (0.5 * (block[axis] - 1)) ** 2
    half = LIPSCHITZ * np.sqrt(half)
    shape = np.array(code.shape)
    counts = -(-shape // block)
    overlaps = 0
    for number in range(counts[0] * counts[1] * counts[2]):
        s0 = number // (counts[1] * counts[2]) * block[0]
        r0 = number // counts[2] % counts[1] * block[1]
        c0 = number % counts[2] * block[2]
        s1, r1 = min(s0 + block[0], shape[0]), min(r0 + block[1], shape[1])
        c1 = min(c0 + block[2], shape[2])
        s, r, c = 0.5 * (s0 + s1 - 1), 0.5 * (r0 + r1 - 1), 0.5 * (c0 + c1 - 1)
        x = m[0, 0] * s + m[0, 1] * r + m[0, 2] * c + m[0, 3]
        y = m[1, 0] * s + m[1, 1] * r + m[1, 2] * c + m[1, 3]
        z = m[2, 0] * s + m[2, 1] * r + m[2, 2] * c + m[2, 3]
        centre = field(bone.solid, x, y, z)[0]
        if centre < -half - LIPSCHITZ * CORTEX_MM:
            overlaps += int(np.count_nonzero(code[s0:s1, r0:r1, c0:c1]))
            code[s0:s1, r0:r1, c0:c1] = bone.bone_code
        elif centre <= half + LIPSCHITZ * bone.reach_mm:
            near = bone.reach_mm > 0.0
            if near:
                near = field(bone.domain, x, y, z)[0] < half + 2.0 * bone.reach_mm
            if near or centre <= half:
                low, high = np.array([s0, r0, c0]), np.array([s1, r1, c1])
                overlaps += _paint_block(code, t2, m, low, high, bone, near)
    return overlaps


@njit(cache=True)
def _paint_meniscus(
    code: NDArray[np.uint8],
    to_tibia: FloatArray,
    to_femur: FloatArray,
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
    tibia: FloatArray,
    femur: FloatArray,
    centre: FloatArray,
    radii: FloatArray,
    meniscus_code: int,
) -> None:
    """Fill the gap between femur and tibia in a C around one side of the plateau."""
    m, n = to_tibia, to_femur
    inward = -np.sign(centre[0])
    for i in range(lower[0], upper[0]):
        for j in range(lower[1], upper[1]):
            for k in range(lower[2], upper[2]):
                if code[i, j, k] != 0:
                    continue
                x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
                y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
                a, b = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
                ring = np.sqrt(a * a + b * b)
                if ring < 0.55 or ring > 1.28 or a * inward > 0.45:
                    continue
                z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
                f, gx, gy, gz = field(tibia, x, y, z)
                below = f / np.sqrt(gx * gx + gy * gy + gz * gz)
                if below > 9.0 or gz * gz < 0.3 * (gx * gx + gy * gy + gz * gz) or gz < 0.0:
                    continue
                x = n[0, 0] * i + n[0, 1] * j + n[0, 2] * k + n[0, 3]
                y = n[1, 0] * i + n[1, 1] * j + n[1, 2] * k + n[1, 3]
                z = n[2, 0] * i + n[2, 1] * j + n[2, 2] * k + n[2, 3]
                f, gx, gy, gz = field(femur, x, y, z)
                above = f / np.sqrt(gx * gx + gy * gy + gz * gz)
                if above < 11.0 and above + below < 13.5 and gz < 0.0:
                    code[i, j, k] = meniscus_code


@dataclass(frozen=True, eq=False)
class Raster:
    """A knee on a grid.

    Attributes:
        code: tissue at each voxel centre, uint8, shape (n_slice, n_row, n_column): the values of
            scheme `mskt`, with CORTEX added in the outer shell of a bone.
        t2_ms: T2 in cartilage and 0 elsewhere, float32, same shape; of size 1 if not asked for.
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
        overlaps: voxels that two tissues claimed.
    """

    code: NDArray[np.uint8]
    t2_ms: NDArray[np.float32]
    affine: FloatArray
    overlaps: int


def _painted(truth: KneeTruth, bone: Bone) -> _Painted:
    anatomy = truth.bones[bone].anatomy
    return _Painted(
        anatomy.solid,
        anatomy.domain,
        anatomy.thickness_mm.bumps,
        anatomy.thickness_mm.waves,
        anatomy.t2_ms.bumps,
        anatomy.t2_ms.waves,
        anatomy.t2_step_ms,
        BONE_CODE[bone],
        CARTILAGE_CODE[bone],
        THICKEST_MM,
    )


def rasterise(
    truth: KneeTruth, affine: FloatArray, shape: tuple[int, int, int], *, with_t2: bool
) -> Raster:
    """Sample a knee at voxel centres.

    Args:
        truth: the knee.
        affine: shape (4, 4), (slice, row, column) index -> LPS mm.
        shape: slices, rows, columns.
        with_t2: whether to evaluate T2 in the cartilage.
    """
    code = np.zeros(shape, np.uint8)
    t2 = np.zeros(shape if with_t2 else (1, 1, 1), np.float32)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    blocks = np.maximum(np.round(spacing * shape / _BLOCK_MM), 1)
    block = np.ceil(shape / blocks).astype(np.int64)
    to_frame = {
        bone: np.ascontiguousarray(np.linalg.inv(truth.bones[bone].to_patient) @ affine)
        for bone in BONES
    }
    overlaps = sum(
        _paint_bone(code, t2, to_frame[bone], block, _painted(truth, bone)) for bone in BONES
    )
    fibula = _Painted(
        truth.fibula, _NO_DOMAIN, _NO_FIELD, _NO_FIELD, _NO_FIELD, _NO_FIELD, 0.0, FIBULA, 0, 0.0
    )
    overlaps += _paint_bone(code, t2, to_frame["tibia"], block, fibula)
    for name, meniscus_code in (("medial", MEDIAL_MENISCUS), ("lateral", LATERAL_MENISCUS)):
        plateau = truth.plateaus[name]
        centre, radii = np.array(plateau.centre_mm), np.array(plateau.radii_mm)
        extent = np.array([1.3 * radii[0], 1.3 * radii[1], 9.0])
        middle = np.array([centre[0], centre[1], -4.0])
        corners = middle + extent * (np.indices((2, 2, 2)).reshape(3, -1).T * 2.0 - 1.0)
        to_index = np.linalg.inv(to_frame["tibia"])
        index = corners @ to_index[:3, :3].T + to_index[:3, 3]
        lower = np.clip(np.floor(index.min(axis=0)), 0, shape).astype(np.int64)
        upper = np.clip(np.ceil(index.max(axis=0)) + 1, 0, shape).astype(np.int64)
        _paint_meniscus(
            code, to_frame["tibia"], to_frame["femur"], lower, upper,
            truth.bones["tibia"].anatomy.solid, truth.bones["femur"].anatomy.solid,
            centre, radii, meniscus_code,
        )  # fmt: skip
    return Raster(code, t2, affine, int(overlaps))


def labels_of(raster: Raster) -> LabelVolume:
    """The label volume of a raster, in scheme `mskt`."""
    array = np.where(raster.code >= CORTEX, raster.code - np.uint8(CORTEX), raster.code)
    return LabelVolume(array, raster.affine, load_scheme("mskt"))


def label_volume(truth: KneeTruth, affine: FloatArray, shape: tuple[int, int, int]) -> LabelVolume:
    """The segmentation of a knee: the tissue at each voxel centre, in scheme `mskt`."""
    return labels_of(rasterise(truth, affine, shape, with_t2=False))


def t2_volume(raster: Raster) -> Volume:
    """T2 at the voxel centres of cartilage in ms, NaN elsewhere."""
    return Volume(np.where(raster.t2_ms > 0.0, raster.t2_ms, np.nan), raster.affine)
