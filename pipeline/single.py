"""One series or one knee without a lake: what `kneelake t2` and `kneelake maps` do."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from imaging.archive import short_name
from imaging.dicom import read_echoes, read_volume
from imaging.errors import BadInputError, Reason
from imaging.image_files import write_volume
from imaging.knee import KneeMaps, MapParameters, knee_maps
from imaging.label_files import (
    read_labels,
    require_bones,
    require_fine_grid,
    require_same_grid,
    require_whole,
)
from imaging.labels import CARTILAGE_TISSUES, Scheme, Tissue, load_scheme
from imaging.relaxometry import (
    FitOptions,
    default_mask,
    fit_t2_volume,
    require_fitted,
    summarize_t2,
)
from imaging.side import resolve_side
from imaging.volume import EchoSeries, Side, Volume
from lake.maps import write_knee_zarr
from pipeline.config import CODE_VERSION
from pipeline.parts import map_parts


@dataclass(frozen=True)
class T2Report:
    """What `kneelake t2` says; `as_json` is its contract."""

    voxels: int
    seconds: float
    median_ms: float
    p05_ms: float
    p95_ms: float
    fraction_at_bound: float
    flags: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The documented keys, and the flags beside them."""
        return {
            "voxels": self.voxels,
            "seconds": self.seconds,
            "voxels_per_second": self.voxels / self.seconds if self.seconds > 0 else None,
            "t2_ms": {"median": self.median_ms, "p05": self.p05_ms, "p95": self.p95_ms},
            "fraction_at_bound": self.fraction_at_bound,
            "flags": dict(self.flags),
        }


def t2_of_series(
    series: Path,
    out: Path,
    *,
    mask: Path | None = None,
    scheme: Scheme | None = None,
    options: FitOptions | None = None,
) -> T2Report:
    """Fit T2 in one multi-echo series and write the map, ms, NaN where nothing was fitted.

    Args:
        series: folder or archive of the DICOM series.
        out: .nrrd, .nii or .nii.gz.
        mask: label file on the series' own grid; without one, tissue above the noise.
        scheme: what the mask's values mean: its cartilages are fitted. Without one every voxel
            that is not 0 is.
        options: how to fit.

    Raises:
        BadInputError: the series or the mask cannot be used.
        ValueError: `out` has another suffix.
    """
    echoes = read_echoes(series)
    if mask is None:
        chosen = default_mask(echoes)
    else:
        everything = Scheme("mask", dict.fromkeys(range(1, 256), Tissue.FEMORAL_CARTILAGE))
        labels = read_labels(mask, scheme or everything, echoes)
        labels = require_same_grid(labels, echoes, mask)
        chosen = labels.mask(*chain.from_iterable(CARTILAGE_TISSUES.values()))
        if not chosen.any():
            raise BadInputError(
                Reason.EMPTY_LABEL,
                short_name(mask),
                "has no voxel to fit",
                "Give a mask with voxels that are not 0, or the scheme its cartilages follow",
            )
    # The kernels are compiled on the first call of a machine; that is not the fit's speed.
    fit_t2_volume(
        EchoSeries(echoes.array[:, :1, :1, :1], echoes.affine, echoes.echo_times_ms),
        np.ones((1, 1, 1), dtype=bool),
        options,
    )
    start = time.perf_counter()
    fitted = fit_t2_volume(echoes, chosen, options)
    seconds = time.perf_counter() - start
    require_fitted(fitted.fit, short_name(series))
    write_volume(Volume(fitted.t2_ms, fitted.affine), out)
    summary = summarize_t2(fitted.fit)
    return T2Report(
        summary.voxels,
        seconds,
        summary.median_ms,
        summary.p05_ms,
        summary.p95_ms,
        summary.fraction_at_bound,
        summary.flag_counts,
    )


def maps_of_knee(
    labels_file: Path,
    *,
    side: Side | None,
    scheme: str,
    out: Path | None = None,
    t2_series: Path | None = None,
    structural: Path | None = None,
    parameters: MapParameters | None = None,
    overwrite: bool = False,
) -> KneeMaps:
    """Maps and biomarkers of one knee, written as one Zarr file with a group per bone.

    Args:
        labels_file: the segmentation.
        side: as declared; checked against the anatomy. None takes the anatomy's.
        scheme: tissue map, a shipped name or a .toml file.
        out: the Zarr file; None writes nothing.
        t2_series: multi-echo series of the same visit; without one T2 is left out.
        structural: the scan the labels were drawn on, for the T2 series' image-based shift.
        parameters: defaults are the paper's.
        overwrite: replace `out` if it is there.

    Raises:
        BadInputError: an input cannot be used.
        LakeError: `out` is there already.
    """
    parameters = parameters or MapParameters()
    start = time.perf_counter()
    scan = read_volume(structural) if structural is not None else None
    labels = read_labels(labels_file, load_scheme(scheme), scan)
    require_bones(labels, labels_file)
    require_whole(labels, labels_file)
    require_fine_grid(labels, labels_file)
    if scan is not None:
        labels = require_same_grid(labels, scan, labels_file)
    found, _ = resolve_side(side, None, labels, labels_file)
    echoes = read_echoes(t2_series) if t2_series is not None else None
    reading = time.perf_counter() - start
    measured = knee_maps(labels, found, t2_series=echoes, structural=scan, parameters=parameters)
    if t2_series is not None and not any(
        row.biomarker == "t2_mean" and row.n for row in measured.biomarkers
    ):
        raise BadInputError(
            Reason.UNFITTABLE_T2,
            short_name(t2_series),
            "gives no T2 in this label's cartilage: the two do not overlap in patient space, or "
            "no voxel could be fitted",
            "Give the T2 series of the same visit, or leave --t2-series out",
        )
    if out is not None:
        if overwrite and out.exists():
            shutil.rmtree(out)
        name = labels_file.name.split(".")[0]
        write_knee_zarr(out, map_parts(measured, parameters, CODE_VERSION["maps"], knee_visit=name))
    measured.seconds["read"] = reading
    return measured


def maps_json(measured: KneeMaps) -> dict[str, Any]:
    """What `kneelake maps --json` prints: the default methods, the others beside them."""
    rows = [
        {
            "bone": row.bone,
            "compartment": row.compartment,
            "biomarker": row.biomarker,
            "method": row.method,
            "mean": row.mean,
            "sd": row.sd,
            "n": row.n,
            "area_mm2": row.area_mm2,
            "is_default": row.is_default,
        }
        for row in measured.biomarkers
    ]
    return {
        "side": measured.side.lower(),
        "scheme": measured.scheme,
        "biomarkers": [
            {key: value for key, value in row.items() if key != "is_default"}
            for row in rows
            if row["is_default"]
        ],
        "other_methods": [
            {key: value for key, value in row.items() if key != "is_default"}
            for row in rows
            if not row["is_default"]
        ],
        "volumes_mm3": {str(tissue): volume for tissue, volume in measured.volumes_mm3.items()},
        "maps": {
            bone: {
                "hidden_cartilage_share": (
                    maps.hidden_cartilage_share
                    if np.isfinite(maps.hidden_cartilage_share)
                    else None
                ),
                "multi_hit_share": maps.multi_hit_share,
                "covered_share": maps.covered_share,
            }
            for bone, maps in measured.bones.items()
        },
        "seconds": dict(measured.seconds),
    }
