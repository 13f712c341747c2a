"""One knee end to end: against independent figures on a real label, and against planted truth."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.errors import BadInputError, Reason
from imaging.knee import MAPS, KneeMaps, MapParameters, knee_maps
from imaging.label_files import read_labels
from imaging.labels import BONES, Bone, LabelVolume, Scheme, Tissue, load_scheme
from imaging.sphere import map_faces, sample_sphere, surface_points
from imaging.surface import BoneSurface
from imaging.volume import MIRROR_X, from_knee_frame, to_knee_frame
from phantom.delivery import dess_affine
from phantom.images import MsmeProtocol, dess_image, msme_affine, msme_image
from phantom.knee import KneeTruth, knee_truth
from phantom.raster import DEMO, FULL, MSME_DEMO, labels_of, rasterise
from tests.imaging.shells import shell_labels

SEED, SUBJECT = 5, 1000001


def real_label(shared_data: Path) -> LabelVolume:
    return read_labels(shared_data / "knee" / "sag_3d_dess_right_label.nrrd", load_scheme("mskt"))


def mean_of(knee: KneeMaps, bone: str, compartment: str, biomarker: str, method: str) -> float:
    (found,) = [
        row.mean
        for row in knee.biomarkers
        if (row.bone, row.compartment, row.biomarker, row.method)
        == (bone, compartment, biomarker, method)
    ]
    assert found is not None
    return found


@cache
def phantom_truth(side: str = "RIGHT") -> KneeTruth:
    return knee_truth(SEED, SUBJECT, side, "V00")


@cache
def full_phantom() -> KneeMaps:
    truth = phantom_truth()
    raster = rasterise(truth, dess_affine(truth, FULL), FULL.shape, with_t2=False)
    return knee_maps(
        labels_of(raster), "RIGHT", parameters=MapParameters(thickness_method="normal")
    )


def test_real_label_lies_within_ten_percent_of_independent_tools(shared_data: Path) -> None:
    """Rays between cartilage meshes: 2.21, 2.31, 2.54, 1.577; per-slice skeleton: 2.35, ..."""
    knee = knee_maps(real_label(shared_data), "RIGHT")
    independent = {
        ("femur", "whole"): {"normal": 2.210, "skeleton": 2.351},
        ("tibia", "medial"): {"normal": 2.309, "skeleton": 2.262},
        ("tibia", "lateral"): {"normal": 2.536, "skeleton": 2.500},
        ("patella", "whole"): {"normal": 1.577, "skeleton": 1.622},
    }
    for (bone, compartment), figures in independent.items():
        for method, figure in figures.items():
            ours = mean_of(knee, bone, compartment, "cartilage_thickness", method)
            assert ours == pytest.approx(figure, rel=0.05), (bone, compartment, method)
    assert knee.volumes_mm3["femur"] == pytest.approx(142_559, rel=1e-4)
    for bone in BONES:
        maps = knee.bones[bone]
        assert set(maps.maps) == set(MAPS)
        assert np.isfinite(maps.maps["bone_shape"]).all()
        assert np.isnan(maps.maps["t2_mean"]).all()
        thickness = maps.maps["cartilage_thickness"]
        assert np.isnan(thickness[~maps.coverage]).mean() > 0.99
        assert np.isfinite(thickness[maps.coverage]).mean() > 0.98
        assert np.nanmin(thickness) > 0
        assert maps.hidden_cartilage_share < 0.15


def test_articular_surface_lies_in_the_middle_of_each_map(shared_data: Path) -> None:
    knee = knee_maps(real_label(shared_data), "RIGHT")
    for bone, maps in knee.bones.items():
        rows, columns = np.nonzero(maps.coverage)
        assert abs(rows.mean() / 224 - 0.5) < 0.2, bone
        angle = maps.frame.theta[columns]
        assert abs(np.angle(np.exp(1j * angle).mean())) < np.radians(45), bone
        # None of it is cut off at the upper border of phi.
        assert not maps.coverage[-1].any(), bone


def test_resampling_the_real_label_to_half_a_millimetre_changes_nothing_by_three_percent(
    shared_data: Path,
) -> None:
    labels = real_label(shared_data)
    step = [
        np.clip(np.rint(np.arange(0, (size - 1) * spacing, 0.5) / spacing), 0, size - 1).astype(int)
        for size, spacing in zip(labels.array.shape, labels.spacing_mm, strict=True)
    ]
    affine = labels.affine.copy()
    affine[:3, :3] *= 0.5 / labels.spacing_mm
    resampled = replace(
        labels, array=np.ascontiguousarray(labels.array[np.ix_(*step)]), affine=affine
    )
    before, after = (knee_maps(volume, "RIGHT") for volume in (labels, resampled))
    for one, other in zip(before.biomarkers, after.biomarkers, strict=True):
        if one.is_default and one.n:
            assert other.mean == pytest.approx(one.mean, rel=0.03), one


def surface_of_map(knee: KneeMaps, bone: Bone) -> NDArray[np.float64]:
    """Surface points of every pixel in the patient's frame, (224, 224, 3)."""
    maps = knee.bones[bone]
    points = surface_points(maps.maps["bone_shape"], maps.frame, maps.centroid_mm)
    return from_knee_frame(points, knee.side)


@pytest.mark.parametrize("bone", BONES)
def test_planted_thickness_and_shape_on_full_resolution_phantoms(bone: Bone) -> None:
    """Per map: bias under 0.10 mm and RMSE under 0.30 mm; the surface itself to 0.1 mm."""
    knee, truth = full_phantom(), phantom_truth()
    points = surface_of_map(knee, bone)
    covered = knee.bones[bone].coverage
    planted = truth.thickness_mm(bone, points[covered])
    measured = knee.bones[bone].maps["cartilage_thickness"][covered]
    error = (measured - planted)[np.isfinite(measured)]
    assert abs(error.mean()) < 0.10
    assert np.sqrt((error**2).mean()) < 0.30
    distance = truth.bone_distance_mm(bone, points[covered])
    assert abs(distance.mean()) < 0.05
    assert np.sqrt((distance**2).mean()) < 0.10


def test_subvoxel_skeleton_is_unbiased_and_the_papers_method_is_not() -> None:
    """Against the unbiased normal method, whose own truth is tested above."""
    knee = full_phantom()
    for bone in BONES:
        true = mean_of(knee, bone, "whole", "cartilage_thickness", "normal")
        chord = mean_of(knee, bone, "whole", "cartilage_thickness", "skeleton_subvoxel")
        paper = mean_of(knee, bone, "whole", "cartilage_thickness", "skeleton_projected")
        assert abs(chord - true) < 0.12, bone
        assert 0.05 < paper - true < 0.5, bone


@pytest.mark.parametrize("bone", BONES)
def test_map_to_surface_to_map_keeps_shape_within_a_twentieth_of_a_millimetre(bone: Bone) -> None:
    maps = full_phantom().bones[bone]
    rho = maps.maps["bone_shape"]
    points = surface_points(rho, maps.frame, maps.centroid_mm).reshape(-1, 3)
    mesh = BoneSurface(
        points, map_faces(rho), np.zeros_like(points), np.zeros(len(points)), maps.centroid_mm
    )
    again = sample_sphere(mesh, maps.frame).rho_mm
    inner = (slice(1, -1), slice(None))
    assert np.nanmax(np.abs(again[inner] - rho[inner])) < 0.05


def test_a_left_knee_gives_exactly_the_numbers_of_its_mirror_image() -> None:
    truth = phantom_truth()
    labels = labels_of(rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=False))
    right = knee_maps(labels, "RIGHT")
    left = knee_maps(replace(labels, affine=MIRROR_X @ labels.affine), "LEFT")
    assert left.mirrored
    assert not right.mirrored
    assert left.biomarkers == right.biomarkers
    for bone in BONES:
        for name in MAPS:
            same = np.array_equal(
                left.bones[bone].maps[name], right.bones[bone].maps[name], equal_nan=True
            )
            assert same, (bone, name)


def test_the_planted_offset_of_the_t2_series_is_found_and_t2_is_the_planted_one() -> None:
    truth = phantom_truth()
    raster = rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=True)
    series = msme_image(truth, msme_affine(truth, MSME_DEMO), MSME_DEMO.shape)
    knee = knee_maps(
        labels_of(raster), "RIGHT", t2_series=series, structural=dess_image(truth, raster)
    )
    assert knee.shift is not None
    assert knee.shift.accepted
    error = np.abs(np.array(knee.shift.shift_mm) - truth.msme_offset_mm)
    assert error[1:].max() < 0.3
    assert error[0] < 0.7
    for bone in BONES:
        points = surface_of_map(knee, bone)
        covered = knee.bones[bone].coverage
        for name, depth in (("t2_deep", 0.25), ("t2_superficial", 0.75), ("t2_mean", 0.5)):
            planted = truth.t2_ms(bone, points[covered], depth)
            measured = knee.bones[bone].maps[name][covered]
            # 3 mm slices mix the layers, so the halves are pulled together; their mean is not.
            limit = 1.5 if name == "t2_mean" else 5.0
            assert abs(np.nanmedian(measured - planted)) < limit, (bone, name)
        deep, superficial = (
            np.nanmean(knee.bones[bone].maps[name]) for name in ("t2_deep", "t2_superficial")
        )
        assert deep < superficial


@pytest.mark.parametrize("bone", BONES)
def test_t2_of_slices_thin_enough_to_hold_one_tissue_is_unbiased(bone: Bone) -> None:
    """At SNR 50 the whole path is within 0.5 ms where slices do not mix tissues."""
    knee, truth = thin_slice_knee()
    points = surface_of_map(knee, bone)
    covered = knee.bones[bone].coverage
    planted = truth.t2_ms(bone, points[covered], 0.5)
    error = knee.bones[bone].maps["t2_mean"][covered] - planted
    assert abs(np.nanmedian(error)) < 0.5
    assert abs(np.nanmean(error)) < 0.5


@cache
def thin_slice_knee() -> tuple[KneeMaps, KneeTruth]:
    truth = knee_truth(SEED, SUBJECT, "RIGHT", "V00", offset_limit_mm=0.0)
    affine = dess_affine(truth, DEMO)
    protocol = MsmeProtocol(slice_thickness_mm=DEMO.spacing_mm[0], profile_samples=1)
    series = msme_image(truth, affine, DEMO.shape, protocol=protocol)
    labels = labels_of(rasterise(truth, affine, DEMO.shape, with_t2=False))
    return knee_maps(labels, "RIGHT", t2_series=series), truth


def test_bones_and_cartilages_a_scheme_lacks_are_absent_not_zero() -> None:
    truth = phantom_truth()
    labels = labels_of(rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=False))
    without_patella = replace(
        labels, array=np.where(np.isin(labels.array, [3, 2, 4, 7]), 0, labels.array)
    )
    knee = knee_maps(without_patella, "RIGHT")
    assert set(knee.bones) == {"femur", "tibia"}
    tibia = [row for row in knee.biomarkers if row.bone == "tibia"]
    for row in tibia:
        if row.biomarker == "cartilage_thickness":
            assert (row.n, row.mean, row.sd, row.area_mm2) == (0, None, None, 0.0)
    assert not knee.bones["tibia"].coverage.any()
    assert np.isnan(knee.bones["tibia"].maps["cartilage_thickness"]).all()
    assert knee.bones["tibia"].covered_share == 0.0
    assert np.isnan(knee.bones["tibia"].hidden_cartilage_share)


def test_a_bone_of_one_stray_voxel_is_refused_by_name() -> None:
    labels = shell_labels(lowest_y=0.2)
    array = labels.array.copy()
    array[0, 0, 0] = 7
    scheme = Scheme("shell", {**labels.scheme.tissues, 7: Tissue.PATELLA})
    with pytest.raises(BadInputError, match="patella: is 1 voxel") as refused:
        knee_maps(replace(labels, array=array, scheme=scheme), "RIGHT")
    assert refused.value.reason == Reason.BAD_SURFACE


def test_same_input_same_bytes() -> None:
    truth = phantom_truth()
    labels = labels_of(rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=False))
    one, other = (knee_maps(labels, "RIGHT") for _ in range(2))
    for bone in BONES:
        for name in MAPS:
            assert one.bones[bone].maps[name].tobytes() == other.bones[bone].maps[name].tobytes()
    assert one.biomarkers == other.biomarkers


def test_the_whole_tibia_splits_the_same_way_with_one_cartilage_label() -> None:
    """A scheme without medial and lateral plateaus gives the compartments of one that has them."""
    truth = phantom_truth()
    labels = labels_of(rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=False))
    merged = replace(
        labels,
        array=np.select(
            [labels.array == 5, labels.array == 1, labels.array == 6, labels.array == 2,
             labels.array == 3],
            [1, 2, 3, 4, 4],
            0,
        ).astype(np.uint8),
        scheme=load_scheme("oai-zib"),
    )  # fmt: skip
    split, whole = knee_maps(labels, "RIGHT"), knee_maps(merged, "RIGHT")
    for compartment in ("medial", "lateral"):
        assert mean_of(whole, "tibia", compartment, "cartilage_thickness", "skeleton") == (
            pytest.approx(
                mean_of(split, "tibia", compartment, "cartilage_thickness", "skeleton"), rel=0.01
            )
        )


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="skeleton"):
        MapParameters(thickness_method="thick")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="millimetres"):
        MapParameters(cylinder_radius_mm=0.0)


def test_the_knee_frame_keeps_left_and_right_apart() -> None:
    truth = phantom_truth("LEFT")
    labels = labels_of(rasterise(truth, dess_affine(truth, DEMO), DEMO.shape, with_t2=False))
    framed = to_knee_frame(labels, "LEFT")
    medial, lateral = (np.argwhere(framed.array == value)[:, 0].mean() for value in (2, 3))
    assert medial > lateral
