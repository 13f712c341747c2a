"""A small atlas with planted group differences: what figures, page and mesh files are tested on."""

import functools

import numpy as np

from imaging.atlas import surface_of_map
from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES, MAP_SIZE
from pipeline.atlas_view import CAM_UNIT, AtlasMesh, GroupMap

RADIUS_MM = 30.0

PLANTED_MM = 12.0
"""Radius of the area that differs."""

N_GROUP1, N_GROUP0 = 87, 184


@functools.cache
def mesh_of(bone: Bone, level: int = 3) -> AtlasMesh:
    """A ball of `RADIUS_MM` cut as the bone's map cuts it, cartilage where its map's middle is."""
    frame = FRAMES[bone]
    surface = surface_of_map(
        np.full((MAP_SIZE, MAP_SIZE), RADIUS_MM), frame, np.zeros(3), level=level, name=bone
    )
    outward = surface.vertices_mm / RADIUS_MM
    middle = np.mean(frame.phi_range)
    towards = np.array([np.cos(middle), 0.0, np.sin(middle)]) @ frame.axes
    return AtlasMesh(
        bone,
        surface.vertices_mm,
        np.asarray(surface.faces, dtype=np.int64),
        # In the right-knee frame x grows towards medial.
        np.where(outward[:, 0] > 0, "medial", "lateral"),
        outward @ towards > 0.5,
    )


def planted_at(mesh: AtlasMesh) -> int:
    """The vertex in whose neighbourhood group 1 is higher: in the medial cartilage's middle."""
    inside = mesh.is_cartilage & (mesh.compartment == "medial")
    middle = mesh.vertices_mm[inside].mean(axis=0)
    distance = np.linalg.norm(mesh.vertices_mm - middle, axis=1)
    return int(np.argmin(np.where(inside, distance, np.inf)))


def map_of(mesh: AtlasMesh, biomarker: str, analysis: str = "spm_cam_pain") -> GroupMap:
    """Group 1 higher around `planted_at`, tested on cartilage only but for bone shape."""
    place = mesh.vertices_mm[planted_at(mesh)]
    distance = np.linalg.norm(mesh.vertices_mm - place, axis=1)
    tested = np.ones(len(distance), dtype=bool)
    if biomarker != "bone_shape":
        tested = mesh.is_cartilage
    height = np.exp(-0.5 * (distance / PLANTED_MM) ** 2)
    waves = np.sin(mesh.vertices_mm @ np.array([0.11, 0.17, 0.07]))
    low = np.where(tested, 0.3 + 0.05 * waves, np.nan)
    high = low + 0.2 * height
    t = np.where(tested, 9.0 * height - 1.0, np.nan)
    p = np.where(tested, np.minimum(1.0, np.exp(-0.5 * t**2)), np.nan)
    fwe = np.minimum(1.0, 400 * p)
    return GroupMap(
        analysis=analysis,
        bone=mesh.bone,
        biomarker=biomarker,
        unit=CAM_UNIT,
        n_group1=N_GROUP1,
        n_group0=N_GROUP0,
        mean_group1=high,
        mean_group0=low,
        estimate=high - low - 0.01,
        t=t,
        p=p,
        q_bh=np.minimum(1.0, 3 * p),
        p_fwe_max_t=fwe,
        p_fwe_tfce=np.minimum(1.0, 200 * p),
        cluster=(fwe < 0.05).astype(np.int64),
    )


def atlas(level: int = 3) -> tuple[dict[Bone, AtlasMesh], list[GroupMap]]:
    """All three bones and their nine maps."""
    meshes = {bone: mesh_of(bone, level) for bone in BONES}
    names = ("bone_shape", "cartilage_thickness", "t2_mean")
    return meshes, [map_of(mesh, name) for mesh in meshes.values() for name in names]
