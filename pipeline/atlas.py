"""The atlas: the bones of one reference knee, chosen by demographics and then kept.

`sql/association/reference_candidates.sql` ranks the test knees; the first becomes the reference.
Another atlas makes every correspondence pending, so new visits never change it: it is made anew
only where asked for, or where the reference knee's maps are not there any more.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imaging.atlas import ATLAS_LEVEL, surface_of_map
from imaging.correspondence import Surface
from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES
from lake.errors import LakeError
from lake.maps import MapPart
from lake.store import Lake
from lake.tables import ALL_TIMEPOINTS
from pipeline.atlas_view import atlas_meshes
from pipeline.config import CODE_VERSION, Settings, Step, config_hash
from pipeline.predictions import knee_regions
from stats.mesh import SurfaceMesh

STEP: Step = "atlas"
NO_ATLAS = "there is no atlas; materialize atlas"


@dataclass(frozen=True, eq=False)
class AtlasBone:
    """One bone of the atlas.

    Attributes:
        atlas_id: of its surface.
        reference_knee_visit: whose it is.
        surface: in the right-knee frame, mm.
        area_mm2: a third of the triangles around each vertex, shape (n_vertex,).
        is_medial: shape (n_vertex,).
        is_cartilage: where the reference has cartilage, shape (n_vertex,).
        centroid_mm: centre of the reference's map, shape (3,).
    """

    atlas_id: str
    reference_knee_visit: str
    surface: Surface
    area_mm2: NDArray[np.float64]
    is_medial: NDArray[np.bool_]
    is_cartilage: NDArray[np.bool_]
    centroid_mm: NDArray[np.float64]

    @property
    def compartment(self) -> tuple[str, ...]:
        """'medial' or 'lateral' of each vertex."""
        return tuple(np.where(self.is_medial, "medial", "lateral").tolist())

    @property
    def mesh(self) -> SurfaceMesh:
        """The surface as statistics need it."""
        return SurfaceMesh.from_faces(
            self.surface.vertices_mm,
            self.surface.faces,
            area_mm2=self.area_mm2,
            compartment=self.compartment,
        )


@dataclass(frozen=True)
class AtlasReport:
    """What was done about the atlas.

    Attributes:
        state: 'made', 'kept', or 'waiting': no test knee has maps of all bones.
        reference_knee_visit: whose bones it is; None while waiting.
        atlas_ids: by bone.
    """

    state: str
    reference_knee_visit: str | None
    atlas_ids: dict[Bone, str]


def make_atlas(
    lake: Lake,
    settings: Settings,
    *,
    reference: str | None = None,
    refit: bool = False,
    level: int = ATLAS_LEVEL,
) -> AtlasReport:
    """Make the atlas where there is none, or another one is asked for.

    Args:
        lake: with maps and the cohort; receives `atlas_bones`, `atlas_vertices`, `atlas_triangles`.
        settings: what the rows are written with.
        reference: a knee-visit to take instead of the one nearest to the average.
        refit: choose anew although there is an atlas.
        level: subdivisions of the icosahedron its points are spread on.

    Raises:
        LakeError: the reference asked for is no test knee with maps of all bones.
        BadInputError: BAD_SURFACE, its map is no surface.
        LakeBusyError: another process is writing to the lake.
    """
    before = lake.sql(
        "SELECT bone, atlas_id, reference_knee_visit FROM atlas_bones "
        "SEMI JOIN (SELECT knee_visit AS reference_knee_visit FROM maps_index) "
        "USING (reference_knee_visit) ORDER BY bone"
    ).to_dicts()
    asked = refit or (
        reference is not None and any(row["reference_knee_visit"] != reference for row in before)
    )
    if len(before) == len(BONES) and not asked:
        return AtlasReport(
            "kept",
            before[0]["reference_knee_visit"],
            {row["bone"]: row["atlas_id"] for row in before},
        )
    candidates = lake.sql("FROM reference_candidates ORDER BY reference_rank")
    chosen = candidates.filter(
        pl.col("knee_visit") == reference
        if reference is not None
        else pl.col("reference_rank") == 1
    ).to_dicts()
    if not chosen:
        if reference is not None:
            raise LakeError(
                f"{reference} cannot be the reference knee: it is no first visit of the test split "
                'with maps of all bones; see `kneelake sql "FROM reference_candidates"`'
            )
        return AtlasReport("waiting", None, {})
    [row] = chosen
    bones = {bone: _bone(lake, bone, row["knee_visit"], level) for bone in BONES}
    with lake.batch(STEP, ALL_TIMEPOINTS, CODE_VERSION[STEP], config_hash(settings, STEP)) as batch:
        for bone, made in bones.items():
            batch.add("atlas_bones", [_bone_row(bone, made, row)])
            batch.add("atlas_vertices", _vertices(bone, made))
            batch.add("atlas_triangles", _triangles(bone, made))
    return AtlasReport(
        "made", row["knee_visit"], {bone: made.atlas_id for bone, made in bones.items()}
    )


def _bone(lake: Lake, bone: Bone, knee_visit: str, level: int) -> AtlasBone:
    part: MapPart = lake.knee_maps(knee_visit)[bone]
    frame = FRAMES[bone]
    centroid = np.asarray(part.knees[0].centroid_mm, dtype=np.float64)
    surface = surface_of_map(
        part.maps["bone_shape"][0], frame, centroid, level=level, name=f"{bone} of {knee_visit}"
    )
    regions = knee_regions(lake, bone, [knee_visit])[knee_visit]
    pixel = np.rint(frame.pixel(surface.vertices_mm - centroid)).astype(int)
    row = np.clip(pixel[:, 0], 0, regions.shown.shape[0] - 1)
    column = pixel[:, 1] % regions.shown.shape[1]
    digest = hashlib.sha256(knee_visit.encode())
    digest.update(np.ascontiguousarray(surface.vertices_mm).tobytes())
    digest.update(np.ascontiguousarray(surface.faces).tobytes())
    return AtlasBone(
        digest.hexdigest()[:16],
        knee_visit,
        surface,
        SurfaceMesh.from_faces(surface.vertices_mm, surface.faces).area_mm2,
        regions.medial[row, column],
        regions.covered[row, column],
        centroid,
    )


def _bone_row(bone: Bone, made: AtlasBone, reference: dict[str, Any]) -> dict[str, Any]:
    return {
        "bone": bone,
        "atlas_id": made.atlas_id,
        "reference_knee_visit": made.reference_knee_visit,
        "reference_age_years": reference["age_years"],
        "reference_bmi": reference["bmi"],
        "reference_sex": reference["sex"],
        "n_vertices": len(made.surface.vertices_mm),
        "n_triangles": len(made.surface.faces),
        "area_mm2": float(made.area_mm2.sum()),
        **{
            f"centroid_{axis}_mm": float(value)
            for axis, value in zip("xyz", made.centroid_mm, strict=True)
        },
    }


def _vertices(bone: Bone, made: AtlasBone) -> pl.DataFrame:
    points = made.surface.vertices_mm
    return pl.DataFrame(
        {
            "bone": [bone] * len(points),
            "atlas_id": [made.atlas_id] * len(points),
            "vertex": np.arange(len(points)),
            **{f"{axis}_mm": points[:, column] for column, axis in enumerate("xyz")},
            "area_mm2": made.area_mm2,
            "compartment": list(made.compartment),
            "is_cartilage": made.is_cartilage,
        }
    )


def _triangles(bone: Bone, made: AtlasBone) -> pl.DataFrame:
    faces = made.surface.faces
    return pl.DataFrame(
        {
            "bone": [bone] * len(faces),
            "atlas_id": [made.atlas_id] * len(faces),
            "triangle": np.arange(len(faces)),
            **{f"vertex_{corner}": faces[:, column] for column, corner in enumerate("abc")},
        }
    )


def read_atlas(lake: Lake) -> dict[Bone, AtlasBone]:
    """The atlas of the lake, by bone.

    Raises:
        LakeError: there is none.
    """
    bones = lake.sql("FROM atlas_bones").to_dicts()
    if not bones:
        raise LakeError(NO_ATLAS)
    meshes = atlas_meshes(lake)
    found = {}
    for row in sorted(bones, key=lambda one: BONES.index(one["bone"])):
        bone: Bone = row["bone"]
        mesh = meshes[bone]
        found[bone] = AtlasBone(
            row["atlas_id"],
            row["reference_knee_visit"],
            Surface(mesh.vertices_mm, mesh.triangles),
            SurfaceMesh.from_faces(mesh.vertices_mm, mesh.triangles).area_mm2,
            mesh.compartment == "medial",
            mesh.is_cartilage,
            np.array([row[f"centroid_{axis}_mm"] for axis in "xyz"]),
        )
    return found


def atlas_ids(lake: Lake) -> tuple[str, ...]:
    """The id of each bone of the atlas, in the order of `BONES`.

    Raises:
        LakeError: there is no atlas.
    """
    found = dict(lake.sql("SELECT bone, atlas_id FROM atlas_bones").rows())
    if not found:
        raise LakeError(NO_ATLAS)
    return tuple(found[bone] for bone in BONES)
