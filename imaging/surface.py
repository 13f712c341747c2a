"""Bone surfaces: shaft cropping, triangulation, outward normals and areas.

Everything is in the knee frame (see imaging.volume), millimetres.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.labels import Bone
from imaging.volume import index_to_world

BONE_SMOOTHING_MM = 0.7
"""Gaussian sigma that turns the voxel staircase into a surface: one 3D-DESS slice. On a ball of
20 mm it leaves normals 1.2 degrees off in the median and 4.6 at the 95th percentile (3.5 and
13.4 at 0.4 mm) and moves the surface by 0.03 mm."""

_PAD = 4
"""Voxels of background around the cropped mask: bones touch the image border, and a surface
that reaches it would come out open."""


@dataclass(frozen=True, eq=False)
class BoneSurface:
    """A closed triangulated bone surface.

    Attributes:
        vertices_mm: shape (n_vertex, 3).
        faces: shape (n_face, 3), counter-clockwise seen from outside.
        normals: outward unit normals, shape (n_vertex, 3).
        vertex_area_mm2: a third of the area of the triangles around each vertex, (n_vertex,).
        centroid_mm: centroid of the cropped bone's volume, shape (3,).
    """

    vertices_mm: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]
    vertex_area_mm2: NDArray[np.float64]
    centroid_mm: NDArray[np.float64]


def crop_shaft(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], bone: Bone
) -> NDArray[np.bool_]:
    """Cut the shaft so that the bone is no longer than it is wide.

    The femur keeps its distal and the tibia its proximal end, over a length equal to the bone's
    mediolateral extent (Morales 2021, "Bone surface projection"); the patella has no shaft.

    Args:
        mask: the bone, shape (n_slice, n_row, n_column).
        affine: index -> knee frame mm.
        bone: which bone.

    Returns:
        The cropped mask, same shape.
    """
    if bone == "patella":
        return mask
    index = np.argwhere(mask)
    world = index_to_world(affine, index)
    mediolateral_mm = np.ptp(world[:, 0]) + np.abs(affine[0, :3]).max()
    height = world[:, 2]
    keep = (
        height <= height.min() + mediolateral_mm
        if bone == "femur"
        else height >= height.max() - mediolateral_mm
    )
    cropped = np.zeros_like(mask)
    cropped[tuple(index[keep].T)] = True
    return cropped


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest face-connected component: stray voxels would pull the centroid."""
    labelled, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return labelled == (np.argmax(np.bincount(labelled.ravel())[1:]) + 1)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box around a mask that is not empty."""
    found = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        found.append(slice(int(along[0]), int(along[-1]) + 1))
    return found[0], found[1], found[2]


def smooth_mask(
    mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64], sigma_mm: float, pad: int = _PAD
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A mask's box, padded and Gaussian-smoothed, whose 0.5 level is the sub-voxel border.

    Returns:
        The field, and the (slice, row, column) index of its first voxel in the mask's grid.
    """
    box = bounding_box(mask)
    field = np.pad(mask[box].astype(np.float32), pad)
    ndimage.gaussian_filter(field, sigma_mm / spacing_mm, output=field, truncate=3.0)
    return field, np.array([edge.start - pad for edge in box])


def bone_surface(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], *, sigma_mm: float = BONE_SMOOTHING_MM
) -> BoneSurface:
    """Triangulate a (cropped) bone mask with flying edges.

    Args:
        mask: shape (n_slice, n_row, n_column), not empty.
        affine: index -> knee frame mm.
        sigma_mm: Gaussian smoothing of the mask before the 0.5 level is taken.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    field, offset = smooth_mask(mask, spacing_mm, sigma_mm)
    vertices, faces = _flying_edges(field)
    vertices_mm = index_to_world(affine, vertices + offset)
    if np.linalg.det(affine[:3, :3]) < 0:
        faces = faces[:, ::-1]
    centroid = index_to_world(affine, np.argwhere(mask).mean(axis=0))
    normals, area = _normals_and_areas(vertices_mm, faces)
    return BoneSurface(vertices_mm, np.ascontiguousarray(faces), normals, area, centroid)


def _flying_edges(
    field: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The 0.5 level of a field in index coordinates, smoothed, faces turned outward."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    image = vtkImageData()
    # VTK's first axis varies fastest, so the axes are handed over in reverse.
    image.SetDimensions(*field.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(field.ravel(), deep=False))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    mesh = edges.GetOutput()
    vertices = vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64)[:, ::-1]
    faces = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return vertices, faces if volume > 0 else faces[:, ::-1]


def _normals_and_areas(
    vertices_mm: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area-weighted outward vertex normals and the area that belongs to each vertex."""
    a, b, c = (vertices_mm[faces[:, corner]] for corner in range(3))
    doubled = np.cross(b - a, c - a)
    area = np.linalg.norm(doubled, axis=1) / 2.0
    n_vertex = len(vertices_mm)
    normals = np.stack(
        [
            sum(
                np.bincount(faces[:, corner], weights=doubled[:, axis], minlength=n_vertex)
                for corner in range(3)
            )
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(length > 0, length, 1.0)
    vertex_area = sum(
        np.bincount(faces[:, corner], weights=area / 3.0, minlength=n_vertex) for corner in range(3)
    )
    return normals, np.asarray(vertex_area)
