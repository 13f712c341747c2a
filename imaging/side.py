"""Which knee it is, from where things lie.

In LPS coordinates the lateral side of a right knee lies at smaller x, of a left knee at larger x.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.archive import short_name
from imaging.errors import BadInputError, Reason
from imaging.labels import BONE_TISSUE, LabelVolume, Tissue
from imaging.volume import Side, index_to_world

MIN_SEPARATION_MM = 2.0
"""Lateral and medial centroids closer than this say nothing."""

MIN_OFF_CENTRE_MM = 20.0
"""A knee nearer to the scanner's midline than this says nothing."""

MIN_VOXELS = 20
"""Structures smaller than this are stray voxels."""

_PAIRS = (
    ("fibula against tibia", Tissue.FIBULA, Tissue.TIBIA),
    (
        "lateral against medial tibial cartilage",
        Tissue.LATERAL_TIBIAL_CARTILAGE,
        Tissue.MEDIAL_TIBIAL_CARTILAGE,
    ),
    ("lateral against medial meniscus", Tissue.LATERAL_MENISCUS, Tissue.MEDIAL_MENISCUS),
)


@dataclass(frozen=True)
class SideEvidence:
    """What anatomy says about the side.

    Attributes:
        side: None where nothing in the labels tells.
        evidence: what it rests on, for a person.
    """

    side: Side | None
    evidence: str


def anatomical_side(labels: LabelVolume) -> SideEvidence:
    """The side from the labels, in the patient's own LPS frame (not the mirrored knee frame).

    In order: the majority of fibula against tibia, lateral against medial tibial cartilage and
    menisci; else the patient x of the bones, where the knee lies off the midline.
    """
    index_sums = _index_sums(labels)
    votes: list[tuple[Side, str]] = []
    for text, lateral, medial in _PAIRS:
        lateral_mm, medial_mm = (
            _centroid_mm(labels, index_sums, tissue) for tissue in (lateral, medial)
        )
        if lateral_mm is None or medial_mm is None:
            continue
        apart_mm = float(lateral_mm[0] - medial_mm[0])
        if abs(apart_mm) >= MIN_SEPARATION_MM:
            votes.append(("RIGHT" if apart_mm < 0 else "LEFT", f"{text} ({apart_mm:+.0f} mm in x)"))
    position = _position_evidence(labels, index_sums)
    right = [text for side, text in votes if side == "RIGHT"]
    left = [text for side, text in votes if side == "LEFT"]
    if len(right) == len(left):
        if not votes:
            return position
        return SideEvidence(
            position.side,
            f"contradicting: {_join(right)} for RIGHT, {_join(left)} for LEFT; "
            f"left to {position.evidence}",
        )
    side: Side = "RIGHT" if len(right) > len(left) else "LEFT"
    agreeing, against = (right, left) if side == "RIGHT" else (left, right)
    evidence = _join(agreeing)
    if against:
        evidence += f"; against it {_join(against)}"
    if position.side not in (None, side):
        evidence += f"; against it {position.evidence}"
    return SideEvidence(side, evidence)


def resolve_side(
    declared: Side | None, described: Side | None, labels: LabelVolume, file: Path | str
) -> tuple[Side, str]:
    """The side to work with and what it rests on.

    Args:
        declared: what the caller says.
        described: what the series description says.
        labels: the label volume, to check against.
        file: the label file, for messages.

    Raises:
        BadInputError: WRONG_SIDE where these contradict each other, UNKNOWN_SIDE where none tells.
    """
    anatomy = anatomical_side(labels)
    claims = {
        source: side
        for source, side in (("declared", declared), ("described in DICOM as", described))
        if side is not None
    }
    sides: set[Side] = set(claims.values())
    if anatomy.side is not None:
        sides.add(anatomy.side)
    if not sides:
        raise BadInputError(
            Reason.UNKNOWN_SIDE,
            short_name(file),
            f"does not tell left from right ({anatomy.evidence})",
            "Give --side right or --side left",
        )
    if len(sides) > 1:
        claimed = " and ".join(f"{source} {side}" for source, side in claims.items())
        shown = (
            f"anatomy shows {anatomy.side}: {anatomy.evidence}"
            if anatomy.side
            else (f"anatomy does not tell ({anatomy.evidence})")
        )
        raise BadInputError(
            Reason.WRONG_SIDE,
            short_name(file),
            f"is {claimed}, but {shown}",
            "Correct the side, or check that scheme and orientation of the label are right",
        )
    sources = [*claims, *([f"anatomy: {anatomy.evidence}"] if anatomy.side else [])]
    return sides.pop(), "; ".join(source.removesuffix(" as") for source in sources)


def _index_sums(labels: LabelVolume) -> NDArray[np.float64]:
    """Voxel count and sums of the three indices per label value, shape (n_value, 4)."""
    index = np.nonzero(labels.array)
    values = labels.array[index]
    sums = [np.bincount(values), *(np.bincount(values, weights=axis) for axis in index)]
    return np.stack(sums, axis=1).astype(np.float64)


def _centroid_mm(
    labels: LabelVolume, index_sums: NDArray[np.float64], *tissues: Tissue
) -> NDArray[np.float64] | None:
    """Centroid of the tissues in LPS mm, or None where there is next to nothing of them."""
    values = [value for value in labels.scheme.values(tissues) if value < len(index_sums)]
    total = index_sums[values].sum(axis=0)
    if total[0] < MIN_VOXELS:
        return None
    return index_to_world(labels.affine, total[1:] / total[0])


def _position_evidence(labels: LabelVolume, index_sums: NDArray[np.float64]) -> SideEvidence:
    centroid_mm = _centroid_mm(labels, index_sums, *BONE_TISSUE.values())
    if centroid_mm is None:
        return SideEvidence(None, "no bone")
    x_mm = float(centroid_mm[0])
    if abs(x_mm) <= MIN_OFF_CENTRE_MM:
        return SideEvidence(None, f"the bones lie at the midline (x = {x_mm:+.0f} mm)")
    return SideEvidence(
        "RIGHT" if x_mm < 0 else "LEFT", f"the bones lie at x = {x_mm:+.0f} mm of the patient"
    )


def _join(texts: list[str]) -> str:
    return ", ".join(texts)
