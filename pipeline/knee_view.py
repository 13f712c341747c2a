"""What is looked at of one knee's bone: its surface rebuilt from its map, and its Grad-CAM maps.

Here: the two as arrays, and reading them from the lake. Not here: drawing (`knee_figures`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Bone
from imaging.sphere import FRAMES, map_faces, surface_points
from lake.errors import LakeError
from lake.maps import MapPart
from lake.store import Lake
from models.gradcam import Target
from pipeline.cams import cam_maps

SINGLE_STRATEGIES: Mapping[str, str] = {
    "bone_shape": "bone_shape",
    "thickness": "cartilage_thickness",
    "t2": "t2_mean",
}
"""The single-biomarker strategies, and the biomarker's map that stands for each."""


@dataclass(frozen=True, eq=False)
class MapSurface:
    """A bone's surface rebuilt from its bone_shape map, its centroid at the origin.

    Attributes:
        bone: the bone.
        vertices_mm: one per pixel with a value, right-knee frame, shape (n, 3).
        triangles: shape (m, 3), counter-clockwise seen from outside.
        pixels: which pixel of the raveled map each vertex is, shape (n,).
    """

    bone: Bone
    vertices_mm: NDArray[np.float64]
    triangles: NDArray[np.int64]
    pixels: NDArray[np.int64]

    def values(self, on_map: NDArray[np.floating]) -> NDArray[np.float64]:
        """A map's values at the vertices: the inverse of the spherical transformation, (n,)."""
        return np.asarray(on_map, dtype=np.float64).ravel()[self.pixels]


@dataclass(frozen=True, eq=False)
class KneeCam:
    """One model's Grad-CAM of one knee, negative evidence set to 0.

    Attributes:
        cells: on the network's own grid, logit per cell, shape (n_phi, n_theta).
        heat: enlarged to the image, shape (224, 224).
        predicted: whether the model says yes.
    """

    cells: NDArray[np.float32]
    heat: NDArray[np.float32]
    predicted: bool


def map_surface(part: MapPart) -> MapSurface:
    """The surface of a one-knee part.

    Raises:
        LakeError: its bone_shape map is empty.
    """
    rho = part.maps["bone_shape"][0]
    faces = map_faces(rho)
    if len(faces) == 0:
        raise LakeError(
            f"{part.knees[0].knee_visit}: the {part.bone}'s bone_shape map is empty, so it has no "
            "surface; look at it with `kneelake view`"
        )
    frame = FRAMES[part.bone]
    points = surface_points(rho, frame, np.zeros(3)).reshape(-1, 3)
    if np.linalg.det(frame.axes) < 0:
        # A mirrored map shows its triangles from inside.
        faces = faces[:, ::-1]
    pixels, renumbered = np.unique(faces, return_inverse=True)
    return MapSurface(part.bone, points[pixels], renumbered.reshape(faces.shape), pixels)


def knee_cams(
    lake: Lake, knee_visit: str, bone: Bone, target: Target = "pain"
) -> dict[str, KneeCam]:
    """Grad-CAM of a knee by each single-biomarker model that explains it, by strategy.

    A model that was not trained, or a knee without T2, leaves its strategy out.
    """
    found: dict[str, KneeCam] = {}
    for strategy in SINGLE_STRATEGIES:
        try:
            cells = cam_maps(lake, bone, strategy, target, [knee_visit], enlarged=False)
            heat = cam_maps(lake, bone, strategy, target, [knee_visit])
        except LakeError:
            continue
        found[strategy] = KneeCam(cells.maps[0], heat.maps[0], bool(heat.predicted[0]))
    return found
