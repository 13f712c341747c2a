"""Grad-CAM maps read back from the lake: any model, target and view of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imaging.labels import BONES, Bone
from imaging.sphere import FRAMES
from lake.arrays import read_rows
from lake.errors import LakeError
from lake.keys import CAM_TARGETS, STRATEGIES, TASKS
from lake.store import Lake
from models.cam_biomarkers import cell_centres
from models.cam_views import rectified, relative_to, scaled, upsampled
from models.gradcam import Target, target_of

View = Literal["raw", "rectified", "scaled"]


@dataclass(frozen=True, eq=False)
class CamMaps:
    """Maps of one model and target.

    Attributes:
        knee_visits: in the order of the maps.
        maps: float32, shape (n, n_phi, n_theta).
        phi: elevation of the pixels' (or cells') centres, rad.
        theta: their angle, rad.
        all_zero: maps without any evidence for the target, shape (n,).
        predicted: whether the model says yes, shape (n,).
    """

    knee_visits: tuple[str, ...]
    maps: NDArray[np.float32]
    phi: NDArray[np.floating]
    theta: NDArray[np.floating]
    all_zero: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


def cam_maps(
    lake: Lake,
    bone: Bone,
    strategy: str,
    target: Target = "pain",
    knee_visits: Sequence[str] | None = None,
    *,
    task: str = "chronic_pain",
    reference: Sequence[str] | None = None,
    view: View = "rectified",
    enlarged: bool = True,
    periodic_theta: bool = False,
) -> CamMaps:
    """The maps of one model.

    Args:
        lake: where they are.
        bone: the model's bone.
        strategy: and strategy.
        target: whose evidence; `predicted` is the paper's code, class by class.
        knee_visits: whose, in this order; None for every knee-visit with maps, by name.
        task: 'chronic_pain' or 'oa', whose targets pain and no_pain are osteoarthritis and none.
        reference: knee-visits whose mean map is taken from each, so that maps show evidence beyond
            theirs; see `models.cam_views.relative_to`.
        view: `raw` as computed, signed; `rectified` evidence for the target only; `scaled` that,
            from 0 to 1 knee by knee, as published maps are: magnitudes are then not comparable.
        enlarged: to the image's 224 x 224 pixels, else the network's own grid.
        periodic_theta: enlarge across the seam of theta; the paper does not.

    Raises:
        LakeError: no such model, target or view, no maps, or a knee-visit without.
    """
    for value, allowed in (
        (bone, BONES),
        (strategy, STRATEGIES),
        (target, CAM_TARGETS),
        (task, TASKS),
        (view, ("raw", "rectified", "scaled")),
    ):
        if value not in allowed:
            raise LakeError(f"{value} is none of {', '.join(allowed)}")
    found, raw = _raw(lake, bone, strategy, target, knee_visits, task)
    if reference is not None:
        raw = relative_to(raw, _raw(lake, bone, strategy, target, reference, task)[1])
    all_zero = np.asarray(~(raw > 0).any(axis=(1, 2)))
    maps: NDArray[np.floating] = raw if view == "raw" else rectified(raw)
    frame = FRAMES[bone]
    phi: NDArray[np.floating] = frame.phi
    theta: NDArray[np.floating] = frame.theta
    if enlarged:
        maps = upsampled(maps, (len(phi), len(theta)), periodic_theta=periodic_theta)
    else:
        phi = cell_centres(phi[0], phi[-1], len(phi), maps.shape[1])
        theta = cell_centres(theta[0], theta[-1], len(theta), maps.shape[2])
    if view == "scaled":
        maps = scaled(maps).values
    return CamMaps(
        tuple(row["knee_visit"] for row in found),
        maps.astype(np.float32),
        phi,
        theta,
        all_zero,
        np.array([row["predicted"] for row in found]),
    )


def _raw(
    lake: Lake,
    bone: Bone,
    strategy: str,
    target: Target,
    knee_visits: Sequence[str] | None,
    task: str,
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Where the maps of some knees are, and the maps on the network's grid, signed."""
    rows = lake.sql(
        "SELECT knee_visit, part, row, predicted, logit_no, logit_yes FROM cam_locations "
        "WHERE task = $task AND bone = $bone AND strategy = $strategy "
        "AND ($wanted::VARCHAR[] IS NULL OR list_contains($wanted, knee_visit)) "
        "ORDER BY knee_visit",
        {
            "task": task,
            "bone": bone,
            "strategy": strategy,
            "wanted": None if knee_visits is None else list(knee_visits),
        },
    ).to_dicts()
    by_name = {row["knee_visit"]: row for row in rows}
    names = list(by_name) if knee_visits is None else list(knee_visits)
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        whose = f" of {missing[0]}{more}" if missing else ""
        raise LakeError(
            f"there is no Grad-CAM of the {bone} {strategy} model{whose}; "
            "materialize cam_maps (cam_splits says of which splits they are kept)"
        )
    found = [by_name[name] for name in names]
    return found, _signed(lake, strategy, target, found)


def _signed(
    lake: Lake, strategy: str, target: Target, found: Sequence[Mapping[str, Any]]
) -> NDArray[np.float32]:
    """The maps that rows of `cam_locations` say the place of, shape (n, h, w)."""
    classes = read_rows(lake.root, strategy, [(row["part"], int(row["row"])) for row in found])
    logits = np.array([[row["logit_no"], row["logit_yes"]] for row in found])
    return target_of(classes.astype(np.float32), target, logits)


def mean_cam_cells(
    lake: Lake, target: Target, knee_visits: Sequence[str], task: str = "chronic_pain"
) -> dict[tuple[Bone, str], NDArray[np.floating]]:
    """Mean rectified map of every model over those of some knees that it explains.

    Args:
        lake: where they are.
        target: whose evidence.
        knee_visits: of whom; a knee that a model has no map of (no T2) is not in its mean.
        task: of the models.

    Returns:
        On each network's own grid, shape (h, w), by bone and strategy; models without a map of any
        of the knees are not there.
    """
    # Of all models at once: where maps lie follows from the cohort, which takes a second to work
    # out.
    rows = lake.sql(
        "SELECT bone, strategy, knee_visit, part, row, logit_no, logit_yes FROM cam_locations "
        "WHERE task = $task AND list_contains($wanted, knee_visit) ORDER BY ALL",
        {"task": task, "wanted": list(knee_visits)},
    ).to_dicts()
    by_model: dict[tuple[Bone, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_model.setdefault((row["bone"], row["strategy"]), []).append(row)
    return {
        (bone, strategy): rectified(_signed(lake, strategy, target, found)).mean(axis=0)
        for (bone, strategy), found in by_model.items()
    }
