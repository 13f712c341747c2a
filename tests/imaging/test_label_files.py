import gzip
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.dicom import read_volume
from imaging.errors import BadInputError, Reason
from imaging.label_files import (
    file_fingerprint,
    read_labels,
    require_bones,
    require_same_grid,
    require_whole,
    write_labels,
)
from imaging.labels import LabelVolume, Scheme, Tissue, load_scheme
from imaging.side import anatomical_side
from imaging.volume import Volume, index_to_world
from tests.imaging.dicom_fixtures import OBLIQUE, mr_series, random_array, save
from tests.imaging.label_fixtures import OBLIQUE_AFFINE, whole_knee

SimpleITK = pytest.importorskip("SimpleITK")

MSKT = load_scheme("mskt")
SUFFIXES = (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd")


def refusal(reason: Reason, path: Path, scheme: Scheme = MSKT) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        read_labels(path, scheme)
    assert caught.value.reason is reason, str(caught.value)
    assert path.name in str(caught.value)
    assert caught.value.remedy
    return caught.value


def itk_image(labels: Volume) -> SimpleITK.Image:
    """The same volume as ITK sees it: axes (column, row, slice), LPS."""
    image = SimpleITK.GetImageFromArray(labels.array)
    columns = labels.affine[:3, 2::-1]
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    image.SetOrigin(labels.affine[:3, 3].tolist())
    return image


def orthogonal_knee() -> LabelVolume:
    """ITK refuses axes that are not at right angles, so these are."""
    angle = np.deg2rad(7)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[-0.7, 0, 0], [0, 0, 0.36], [0, -0.37, 0]])
    affine[:3, 3] = [-6.5, -77.25, 70.0]
    return whole_knee(affine)


# Real data


def test_real_label(shared_data: Path):
    path = shared_data / "knee" / "sag_3d_dess_right_label.nrrd"
    labels = read_labels(path, MSKT)
    assert labels.array.shape == (160, 384, 384)
    np.testing.assert_allclose(labels.spacing_mm, [0.7, 0.364583, 0.364583], atol=1e-4)
    counts = np.bincount(labels.array.ravel())
    # facts/image_peers.md, "Real inputs"
    assert counts[1:].tolist() == [
        127311, 20605, 19862, 12658, 1532154, 1089712, 143548, 111661, 22957, 25228
    ]  # fmt: skip
    require_bones(labels, path)
    assert anatomical_side(labels).side == "RIGHT"
    theirs = SimpleITK.ReadImage(str(path))
    for index in ((0, 0, 0), (159, 383, 383), (80, 100, 200)):
        place = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(index_to_world(labels.affine, np.array(index)), place, atol=1e-3)


# Formats against other readers and writers


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_written_by_itk_come_out_the_same(tmp_path: Path, suffix: str):
    labels = orthogonal_knee()
    path = tmp_path / f"label{suffix}"
    SimpleITK.WriteImage(itk_image(labels), str(path), useCompression=suffix != ".mhd")
    found = read_labels(path, MSKT)
    np.testing.assert_array_equal(found.array, labels.array)
    np.testing.assert_allclose(found.affine, labels.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz"])
def test_files_we_write_are_read_by_itk(tmp_path: Path, suffix: str):
    labels = orthogonal_knee()
    path = tmp_path / f"label{suffix}"
    write_labels(labels, path)
    theirs = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs), labels.array)
    for index in ((0, 0, 0), (6, 8, 7), (3, 4, 1)):
        place = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, index_to_world(labels.affine, np.array(index)), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_of_an_oblique_label(tmp_path: Path, suffix: str, dtype):
    labels = whole_knee()
    labels = LabelVolume(labels.array.astype(dtype), labels.affine, labels.scheme)
    write_labels(labels, tmp_path / f"a{suffix}")
    found = read_labels(tmp_path / f"a{suffix}", MSKT)
    np.testing.assert_array_equal(found.array, labels.array)
    np.testing.assert_allclose(found.affine, OBLIQUE_AFFINE, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz"])
def test_same_labels_same_bytes(tmp_path: Path, suffix: str):
    for name in ("a", "b"):
        write_labels(whole_knee(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert file_fingerprint(tmp_path / f"a{suffix}") == file_fingerprint(tmp_path / f"b{suffix}")


def test_other_suffixes_are_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"label\.mha"):
        write_labels(whole_knee(), tmp_path / "label.mha")


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (1, 1, 1)),
        ("LPS", (1, 1, 1)),
        ("right-anterior-superior", (-1, -1, 1)),
        ("RAS", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
    ],
)
def test_nrrd_spaces(tmp_path: Path, space: str, signs):
    labels = whole_knee()
    flip = np.diag([*signs, 1.0])
    affine = flip @ labels.affine
    path = tmp_path / "label.nrrd"
    header = {
        "space": space,
        "space directions": affine[:3, 2::-1].T,
        "space origin": affine[:3, 3],
        "kinds": ["domain"] * 3,
    }
    nrrd.write(str(path), labels.array.T, header)
    np.testing.assert_allclose(read_labels(path, MSKT).affine, labels.affine, atol=1e-9)


@pytest.mark.parametrize("drop", ["space", "space directions", "space origin"])
def test_nrrd_without_geometry_is_refused(tmp_path: Path, drop: str):
    labels = whole_knee()
    header = {
        "space": "LPS",
        "space directions": labels.affine[:3, 2::-1].T,
        "space origin": labels.affine[:3, 3],
    }
    if drop == "space":
        header["space dimension"] = 3
    del header[drop]
    path = tmp_path / "label.nrrd"
    nrrd.write(str(path), labels.array.T, header)
    refusal(Reason.MISSING_TAG, path)


def test_nifti_without_geometry_is_refused(tmp_path: Path):
    image = nibabel.Nifti1Image(whole_knee().array.T, None)
    image.to_filename(tmp_path / "label.nii.gz")
    refusal(Reason.MISSING_TAG, tmp_path / "label.nii.gz")


def test_nifti_of_floats_four_dimensions_and_metres(tmp_path: Path):
    labels = whole_knee()
    ras = np.diag([-1.0, -1, 1, 1]) @ labels.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(
        labels.array.T.astype(np.float32)[..., None], np.diag([0.001, 0.001, 0.001, 1]) @ ras
    )
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "label.nii")
    found = read_labels(tmp_path / "label.nii", MSKT)
    np.testing.assert_array_equal(found.array, labels.array)
    assert found.array.dtype == np.uint8
    np.testing.assert_allclose(found.affine, labels.affine, atol=1e-3)


# DICOM-SEG


def dicom_seg(
    tmp_path: Path, array: NDArray, descriptions: dict[int, str], files: list, **keywords
) -> Path:
    """A segmentation written by highdicom, an independent implementation."""
    import highdicom
    from pydicom.sr.codedict import codes

    for dataset in files:
        dataset.PatientBirthDate = dataset.StudyDate = dataset.StudyTime = ""
        dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
        dataset.ReferringPhysicianName = ""
        dataset.SeriesNumber = 1
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type="MANUAL",
        )
        for number, label in descriptions.items()
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=files,
        pixel_array=array,
        segmentation_type=keywords.pop("kind", "BINARY"),
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="x",
        device_serial_number="x",
        **keywords,
    )
    path = tmp_path / "seg.dcm"
    segmentation.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("named", ["by number", "by label"])
def test_dicom_seg_lies_on_its_scan(tmp_path: Path, kind: str, named: str):
    files = mr_series(random_array(n_slice=6, rows=16, columns=16), orientation=OBLIQUE)
    scan = read_volume(save(files, tmp_path / "scan"))
    rng = np.random.default_rng(2)
    truth = rng.choice(np.array([0, 5, 6, 7], np.uint8), scan.array.shape)
    # Slices without label are left out of the file.
    truth[[0, 3, 5]] = 0
    if named == "by number":
        numbers, labels = truth, dict.fromkeys((5, 6, 7), "x")
    else:
        numbers = np.select([truth == 5, truth == 6, truth == 7], [1, 2, 3]).astype(np.uint8)
        labels = {1: "Femur", 2: "tibia", 3: "PATELLA"}
    if kind == "BINARY" and named == "by number":
        # Binary segments are numbered from 1 without a gap.
        stack = np.stack([numbers == n for n in range(1, 8)], axis=-1).astype(np.uint8)
        numbers, labels = stack, dict.fromkeys(range(1, 8), "x")
    path = dicom_seg(tmp_path, numbers, labels, files, kind=kind)
    found = read_labels(path, MSKT, grid=scan)
    np.testing.assert_array_equal(found.array, truth)
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-3)
    require_same_grid(found, scan, path)
    # Without the scan it is shorter, but lies in the same place.
    alone = read_labels(path, MSKT)
    np.testing.assert_array_equal(alone.array, truth[1:5])
    np.testing.assert_allclose(
        index_to_world(alone.affine, np.zeros(3)),
        index_to_world(scan.affine, np.array([1.0, 0, 0])),
        atol=1e-3,
    )


def test_cartilage_wins_over_bone_where_segments_overlap(tmp_path: Path):
    files = mr_series(random_array(n_slice=3, rows=16, columns=16))
    array = np.zeros((3, 16, 16, 2), np.uint8)
    array[:, 2:9, 2:9, 0] = 1
    array[:, 6:12, 6:12, 1] = 1
    labels = {1: "femoral cartilage", 2: "femur"}
    path = dicom_seg(tmp_path, array, labels, files)
    found = read_labels(path, MSKT)
    assert (found.array == 1).sum() == 3 * 49
    assert (found.array == 5).sum() == 3 * (36 - 9)


def test_segment_that_the_scheme_lacks(tmp_path: Path):
    files = mr_series(random_array(n_slice=3, rows=16, columns=16))
    array = np.ones((3, 16, 16), np.uint8)
    path = dicom_seg(tmp_path, array, {1: "patella"}, files)
    assert "patella" in str(refusal(Reason.UNKNOWN_LABEL_VALUE, path, load_scheme("oai-zib")))


def test_damaged_segmentation(tmp_path: Path):
    files = mr_series(random_array(n_slice=3, rows=16, columns=16))
    path = dicom_seg(tmp_path, np.ones((3, 16, 16), np.uint8), {1: "femur"}, files)
    content = path.read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BadInputError):
            read_labels(path, MSKT)


# Bad input


def saved(tmp_path: Path, array: NDArray, affine: NDArray = OBLIQUE_AFFINE) -> Path:
    path = tmp_path / "label.nii.gz"
    ras = np.diag([-1.0, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    nibabel.Nifti1Image(array.T, ras).to_filename(path)
    return path


def test_missing_file(tmp_path: Path):
    refusal(Reason.MISSING_INPUT, tmp_path / "label.nrrd")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_file(tmp_path: Path, suffix: str, damage: str):
    path = tmp_path / f"label{suffix}"
    rng = np.random.default_rng(1)
    big = LabelVolume(
        rng.integers(0, 11, (20, 30, 30)).astype(np.uint8), orthogonal_knee().affine, MSKT
    )
    SimpleITK.WriteImage(itk_image(big), str(path))
    target = path.with_suffix(".raw") if suffix == ".mhd" and damage == "cut" else path
    whole = target.read_bytes()
    target.write_bytes(
        {"cut": whole[: len(whole) // 2], "noise": b"noise " * 400, "empty": b""}[damage]
    )
    refusal(Reason.UNREADABLE_FILE, path)


def test_a_file_of_another_kind(tmp_path: Path):
    path = tmp_path / "label.xlsx"
    path.write_bytes(b"not a label" * 100)
    refusal(Reason.NOT_AN_IMAGE, path)


def test_unknown_values_are_listed(tmp_path: Path):
    array = whole_knee().array.copy()
    array[0, 0, :2] = [77, 99]
    error = refusal(Reason.UNKNOWN_LABEL_VALUE, saved(tmp_path, array))
    assert "77, 99" in str(error)


def test_ignored_values_pass(tmp_path: Path):
    array = whole_knee().array.copy()
    array[0, 0, 0] = 99
    scheme = Scheme("mine", MSKT.tissues, frozenset({0, 99}))
    assert read_labels(saved(tmp_path, array), scheme).array[0, 0, 0] == 99


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -1.0, 1e12])
def test_values_that_are_no_labels(tmp_path: Path, value: float):
    array = whole_knee().array.astype(np.float64)
    array[1, 1, 1] = value
    refusal(Reason.UNKNOWN_LABEL_VALUE, saved(tmp_path, array))


def test_empty_label(tmp_path: Path):
    refusal(Reason.EMPTY_LABEL, saved(tmp_path, np.zeros((4, 5, 6), np.uint8)))


def test_missing_bone():
    labels = whole_knee()
    array = np.where(labels.array == 7, 0, labels.array)
    with pytest.raises(BadInputError, match="no patella") as caught:
        require_bones(LabelVolume(array, labels.affine, MSKT), "x/label.nrrd")
    assert caught.value.reason is Reason.MISSING_BONE
    assert caught.value.file == "x/label.nrrd"


def test_bones_the_scheme_lacks_are_simply_absent():
    array = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    centimetres = np.diag([10.0, 10.0, 10.0, 1.0])
    for name in ("oai-zib", "ski10"):
        require_bones(LabelVolume(array, centimetres, load_scheme(name)), "x")


def test_a_bone_of_stray_voxels_is_refused_by_file():
    array = np.zeros((30, 30, 30), np.uint8)
    array[5:15, 5:15, 5:15], array[5:15, 20:, 5:15], array[0, 0, :4] = 1, 3, 5
    with pytest.raises(BadInputError, match="patella of 4 voxel") as caught:
        require_bones(LabelVolume(array, np.eye(4), load_scheme("ski10")), "x/label.nrrd")
    assert caught.value.reason is Reason.BAD_SURFACE
    assert caught.value.file == "x/label.nrrd"


def test_a_knee_cut_by_the_sides_of_the_scan_is_refused():
    """Shafts may leave the scan above and below; half a knee on few slices is no knee."""
    array = np.zeros((60, 80, 80), np.uint8)
    array[5:55, :40, 5:75], array[5:55, 45:, 5:75] = 1, 3
    sagittal = np.zeros((4, 4))
    sagittal[0, 0], sagittal[2, 1], sagittal[1, 2], sagittal[3, 3] = 1.4, -1.0, 1.0, 1.0
    whole = LabelVolume(array, sagittal, load_scheme("oai-zib"))
    require_whole(whole, "x")
    for few in (array[20:49], array[:, :, 20:]):
        with pytest.raises(BadInputError, match="femur cut by the edge") as caught:
            require_whole(LabelVolume(few, sagittal, whole.scheme), "x/label.nrrd")
        assert caught.value.reason is Reason.WRONG_MATRIX_SIZE


# Grids


def reordered(labels: LabelVolume, order: tuple[int, int, int], flip: int) -> LabelVolume:
    """The same volume stored with permuted axes, one of them flipped."""
    array = np.flip(labels.array.transpose(order), flip)
    affine = labels.affine[:, [*order, 3]].copy()
    affine[:3, 3] += affine[:3, flip] * (array.shape[flip] - 1)
    affine[:3, flip] *= -1
    return LabelVolume(array, affine, labels.scheme)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flip", [0, 1, 2])
def test_same_grid_in_another_axis_order(order, flip: int):
    labels = whole_knee()
    scan = Volume(np.zeros(labels.array.shape), labels.affine)
    placed = require_same_grid(reordered(labels, order, flip), scan, "x")
    np.testing.assert_array_equal(placed.array, labels.array)
    np.testing.assert_array_equal(placed.affine, scan.affine)


@pytest.mark.parametrize("change", ["shift", "spacing", "turn", "shape"])
def test_another_grid_is_refused(change: str):
    labels = whole_knee()
    affine, shape = labels.affine.copy(), labels.array.shape
    if change == "shift":
        affine[1, 3] += 0.3
    elif change == "spacing":
        affine[:3, 0] *= 1.1
    elif change == "turn":
        affine[2, 0] += 0.05
    else:
        shape = (8, 9, 8)
    with pytest.raises(BadInputError) as caught:
        require_same_grid(labels, Volume(np.zeros(shape), affine), "x/label.nrrd")
    assert caught.value.reason is Reason.GRID_MISMATCH
    assert "7 x 9 x 8" in str(caught.value)
    assert " x ".join(map(str, shape)) in caught.value.what.split("scan")[-1]


def test_a_shift_of_rounding_is_the_same_grid():
    labels = whole_knee()
    affine = labels.affine.copy()
    affine[0, 3] += 0.05
    require_same_grid(labels, Volume(labels.array, affine), "x")


def test_fingerprint_of_a_folder_ignores_names(tmp_path: Path):
    for folder, names in (("a", ("1", "2")), ("b", ("9", "3"))):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"x", b"y"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b")
    (tmp_path / "b" / "3").write_bytes(b"z")
    assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "b")


def test_gzip_header_of_a_label_holds_no_time(tmp_path: Path):
    write_labels(whole_knee(), tmp_path / "a.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content[4:8] == b"\0\0\0\0"
    assert gzip.decompress(content)[:4] == (348).to_bytes(4, "little")
    assert Tissue.FEMUR in read_labels(tmp_path / "a.nii.gz", MSKT).scheme.tissues.values()
