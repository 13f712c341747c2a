"""A measured knee as the parts the lake and the single-knee files keep."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.knee import KneeMaps, MapParameters
from imaging.labels import Bone
from imaging.sphere import FRAMES
from lake.maps import UNKNOWN_SUBJECT, MapKnee, MapPart


def map_parts(
    measured: KneeMaps,
    parameters: MapParameters,
    code_version: str,
    *,
    knee_visit: str,
    subject_id: int = UNKNOWN_SUBJECT,
) -> dict[Bone, MapPart]:
    """The maps of every bone of one knee, with what made them.

    Args:
        measured: from `imaging.knee.knee_maps`.
        parameters: it was measured with.
        code_version: of the maps step.
        knee_visit: its name in the lake, or any name outside one.
        subject_id: the participant; left out outside a lake.
    """
    return {
        bone: _part(
            measured, bone, knee_visit, subject_id, described(bone, parameters, code_version)
        )
        for bone in measured.bones
    }


def described(bone: Bone, parameters: MapParameters, code_version: str) -> Mapping[str, Any]:
    """The attributes of a part: axes of the map, parameters and code version."""
    return {
        "axes": FRAMES[bone].axes.tolist(),
        "parameters": json.dumps(asdict(parameters), sort_keys=True),
        "code_version": code_version,
    }


def _part(
    measured: KneeMaps,
    bone: Bone,
    knee_visit: str,
    subject_id: int,
    attributes: Mapping[str, Any],
) -> MapPart:
    maps = measured.bones[bone]

    def one(values: NDArray) -> NDArray:
        return values[np.newaxis]

    x, y, z = (float(value) for value in maps.centroid_mm)
    knee = MapKnee(
        knee_visit,
        subject_id,
        measured.side,
        (x, y, z),
        measured.mirrored,
        float(maps.multi_hit_share),
        float(maps.hidden_cartilage_share),
        float(maps.covered_share),
    )
    return MapPart(
        bone,
        (knee,),
        maps.frame.phi,
        maps.frame.theta,
        {name: one(values.astype(np.float32)) for name, values in maps.maps.items()},
        one(maps.coverage),
        one(maps.multi_hit),
        one(maps.area_mm2.astype(np.float32)),
        attributes,
    )
