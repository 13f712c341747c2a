"""Phantom knees of whom some have labels: networks are trained, label the rest, and are measured.

The networks are small and the training is short, so what they find is rough; which label counts,
what the ledger says and what is computed again is what is tested.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from imaging.errors import BadInputError
from imaging.label_files import read_labels, write_labels
from imaging.labels import BONES, LabelVolume, load_scheme
from imaging.volume import MIRROR_X, Side, Volume
from lake.store import Lake
from models.segmenters import EnsembleSegmenter, KneeScan
from models.vnet import Member
from phantom.dicom_writer import Visit, write_series
from phantom.images import dess_image
from phantom.knee import knee_truth
from phantom.raster import Grid, labels_of, place_grid, rasterise
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.network_labels import label_scans, open_segmenter
from pipeline.segmentation_evaluation import evaluate_networks
from pipeline.segmentation_networks import (
    NetworkPlan,
    histories_now,
    network_plan,
    networks_now,
    split_by_person,
    splits_now,
    train_networks,
)
from pipeline.steps import materialize_maps, materialize_segmentations, network_label_path

GRID = Grid((44, 120, 120), (2.4, 1.2, 1.2))
LABELLED = [1_000_001, 1_000_038, 1_000_075, 1_000_112]
UNLABELLED, UNLABELLED_SUBJECT = "1000149_LEFT_V03", 1_000_149


def _plan() -> NetworkPlan:
    demo = network_plan("demo")
    return replace(
        demo,
        members=(Member("bone", 2, "dice", "reduced"), Member("cartilage", 2, "dice", "reduced")),
        shares=(0.5, 0.25),
        options=replace(
            demo.options, steps=150, validate_every=75, patch_2d=(48, 48), batch_2d=12,
            spacing_mm=(2.4, 3.0, 3.0),
        ),
    )  # fmt: skip


def _deliver(inbox: Path, subject_id: int, side: Side, timepoint: str, *, label: bool) -> None:
    truth = knee_truth(7, subject_id, side, timepoint)
    raster = rasterise(truth, place_grid(truth, GRID), GRID.shape, with_t2=True)
    visit = Visit(7, subject_id, side, timepoint)
    folder = inbox / str(subject_id) / visit.date
    write_series(folder, visit, "DESS", dess_image(truth, raster), "folder")
    if label:
        _deliver_label(inbox, f"{subject_id}_{side}_{timepoint}", labels_of(raster))


def _drawn_later() -> LabelVolume:
    """What a person would draw on the scan that came without a label."""
    truth = knee_truth(7, UNLABELLED_SUBJECT, "LEFT", "V03")
    return labels_of(rasterise(truth, place_grid(truth, GRID), GRID.shape, with_t2=False))


def _deliver_label(inbox: Path, knee_visit: str, labels: LabelVolume) -> None:
    (inbox / "segmentations").mkdir(exist_ok=True)
    write_labels(labels, inbox / "segmentations" / f"{knee_visit}.nrrd")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    """Four labelled right knees, one left knee without a label, and networks trained on them."""
    folder = tmp_path_factory.mktemp("house")
    settings = Settings(lake_root=folder / "lake", inbox=folder / "inbox")
    for subject_id in LABELLED:
        _deliver(settings.inbox, subject_id, "RIGHT", "V00", label=True)
    _deliver(settings.inbox, UNLABELLED_SUBJECT, "LEFT", "V03", label=False)
    lake = Lake(settings.lake_root)
    report = ingest(lake, settings)
    assert len(report.landed) == 9, report.quarantined
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = train_networks(lake, settings, _plan(), cluster=Cluster())
    assert trained.n_trained == 2
    assert dict(trained.n_by_split) == {"train": 2, "validation": 1, "test": 1}
    yield settings, lake
    torch.set_num_threads(before)


def _one(lake: Lake, query: str) -> dict[str, object]:
    return lake.sql(query).row(0, named=True)


def test_training_is_not_done_twice(house: tuple[Settings, Lake]) -> None:
    settings, lake = house
    batches = lake.sql("FROM batches").height
    again = train_networks(lake, settings, _plan(), cluster=Cluster())
    assert (again.n_trained, again.n_kept) == (0, 2)
    assert lake.sql("FROM batches").height == batches
    rows = networks_now(lake)
    assert [row["task"] for row in rows] == ["bone", "cartilage"]
    assert all((lake.root / str(row["checkpoint"])).is_file() for row in rows)
    assert {len(history) for history in histories_now(lake).values()} == {2}
    # Prepared scans are pictures of people: they lie with the deliveries, and not for long.
    assert not (settings.inbox / ".kneelake" / "prepared_scans").exists()


def test_nobody_is_in_two_splits(house: tuple[Settings, Lake]) -> None:
    people = {int(name.split("_")[0]): split for name, split in splits_now(house[1]).items()}
    assert sorted(people) == LABELLED
    many = split_by_person([*range(100), *range(100)], (0.56, 0.15), 0)
    counts = pl.Series(list(many.values())).value_counts().rows()
    assert dict(counts) == {"train": 56, "validation": 15, "test": 29}
    with pytest.raises(ValueError, match=r"at least 3 people .*; there are 2"):
        split_by_person([1, 2, 2], (0.56, 0.15), 0)


def test_a_scan_without_a_label_gets_one_and_goes_on(house: tuple[Settings, Lake]) -> None:
    settings, lake = house
    segmenter = open_segmenter("ensemble", lake)
    report = label_scans(lake, settings, segmenter, "V03")
    assert (report.n_pending, report.n_done, report.n_quarantined) == (1, 1, 0)
    row = _one(lake, "FROM network_labels")
    assert row["knee_visit"] == UNLABELLED
    assert (row["source"], row["scheme"]) == ("ensemble", "kneelake")
    assert row["segmenter_hash"] == segmenter.version(UNLABELLED)
    done = _one(lake, "FROM ledger WHERE step = 'network_labels'")
    assert (done["knee_visit"], done["status"]) == (UNLABELLED, "done")
    # The same scan and networks again: nothing.
    assert label_scans(lake, settings, segmenter, "V03").n_pending == 0

    checked = materialize_segmentations(lake, settings, "V03", cluster=Cluster())
    assert (checked.n_done, checked.n_quarantined) == (1, 0)
    assert _one(lake, "FROM segmentations")["source"] == "ensemble"
    maps = materialize_maps(lake, settings, "V03", cluster=Cluster())
    assert (maps.n_done, maps.n_quarantined) == (1, 0)
    assert set(lake.sql("SELECT knee_visit FROM biomarkers").to_series()) == {UNLABELLED}


def test_the_label_lies_where_the_knee_is(house: tuple[Settings, Lake]) -> None:
    settings, lake = house
    row = _one(lake, "FROM network_labels")
    path = network_label_path(settings, "V03", str(row["label_fingerprint"]))
    found = read_labels(path, load_scheme("kneelake"))
    drawn = _drawn_later()
    np.testing.assert_allclose(found.affine, drawn.affine, atol=1e-3)
    for bone in BONES:
        own, true = found.bone(bone), drawn.bone(bone)
        assert (own & true).sum() > 0.8 * own.sum()


def test_a_knee_and_its_mirror_image_get_mirrored_labels(house: tuple[Settings, Lake]) -> None:
    segmenter = open_segmenter("ensemble", house[1])
    truth = knee_truth(7, LABELLED[0], "RIGHT", "V00")
    affine = place_grid(truth, GRID, (4.0, -3.0))
    raster = rasterise(truth, affine, GRID.shape, with_t2=True)
    right = dess_image(truth, raster)
    left = Volume(right.array[::-1], MIRROR_X @ _reversed_slices(right))
    of_right = segmenter.segment(KneeScan(right, "RIGHT", "1000001_RIGHT_V00"))
    of_left = segmenter.segment(KneeScan(left, "LEFT", "1000001_LEFT_V00"))
    np.testing.assert_array_equal(of_left.array[::-1], of_right.array)
    np.testing.assert_allclose(of_left.affine, left.affine)


def _reversed_slices(volume: Volume) -> np.ndarray:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (volume.array.shape[0] - 1)
    affine[:3, 0] *= -1
    return affine


def test_table_s1_is_of_the_test_person(house: tuple[Settings, Lake]) -> None:
    settings, lake = house
    segmenter = open_segmenter("ensemble", lake)
    assert isinstance(segmenter, EnsembleSegmenter)
    report = evaluate_networks(lake, settings, segmenter)
    test = [name for name, split in splits_now(lake).items() if split == "test"]
    assert report.n_cases == 1
    assert list(report.overlays) == test
    cases = lake.sql("FROM segmentation_cases")
    assert cases["knee_visit"].unique().to_list() == test
    table = {row["tissue"]: row for row in lake.sql("FROM segmentation_performance").to_dicts()}
    assert set(table) == {
        "femur", "tibia", "patella", "femoral_cartilage", "tibial_cartilage",
        "patellar_cartilage", "meniscus",
    }  # fmt: skip
    femur = table["femur"]
    assert femur["dice_mean"] > 0.8
    # One case: its interval is a point.
    assert femur["dice_low"] == femur["dice_mean"] == femur["dice_high"]
    assert evaluate_networks(lake, settings, segmenter).n_cases == 0


def test_a_delivered_label_wins_unless_told_otherwise(house: tuple[Settings, Lake]) -> None:
    settings, lake = house
    drawn = _drawn_later()
    _deliver_label(settings.inbox, UNLABELLED, drawn)
    ingest(lake, settings)
    segmenter = open_segmenter("ensemble", lake)
    label = f"SELECT source FROM segmentation_inputs WHERE knee_visit = '{UNLABELLED}'"
    assert _one(lake, label) == {"source": "delivered"}
    assert label_scans(lake, settings, segmenter, "V03").n_pending == 0

    counts = f"SELECT count(*) AS n FROM network_labels WHERE knee_visit = '{UNLABELLED}'"
    file = network_label_path(
        settings, "V03", str(_one(lake, "FROM network_labels")["label_fingerprint"])
    )
    written = file.stat().st_mtime_ns
    told = label_scans(lake, settings, segmenter, "V03", prefer="networks")
    assert (told.n_pending, told.n_done) == (1, 1)
    assert _one(lake, label) == {"source": "ensemble"}
    assert file.stat().st_mtime_ns == written  # computed once, whatever counts
    assert _one(lake, counts) == {"n": 1}

    back = label_scans(lake, settings, segmenter, "V03")
    assert back.n_done == 1
    assert set(lake.sql("SELECT source FROM segmentation_inputs").to_series()) == {"delivered"}
    assert label_scans(lake, settings, segmenter, "V03").n_pending == 0


def test_a_bad_scan_stops_nobody_else(house: tuple[Settings, Lake]) -> None:
    settings, lake = house

    class Picky:
        source = "nnunet"

        def version(self, knee_visit: str, /) -> str | None:
            return "1" if knee_visit in wanted else None

        def segment(self, scan: KneeScan) -> LabelVolume:
            if scan.knee_visit == wanted[0]:
                raise RuntimeError("a fault of ours")
            array = np.zeros(scan.volume.array.shape, np.uint8)
            array[5:20, 5:60, 5:60] = 1
            return LabelVolume(array, scan.volume.affine, load_scheme("oai-zib"))

    wanted = [f"{subject_id}_RIGHT_V00" for subject_id in LABELLED[:2]]
    report = label_scans(lake, settings, Picky(), "V00", prefer="networks")
    assert (report.n_done, report.n_quarantined) == (1, 1)
    refused = _one(lake, "FROM quarantine WHERE stage = 'network_labels'")
    assert refused["knee_visit"] == wanted[0]
    assert "RuntimeError" in str(refused["what"])


def test_what_cannot_be_asked_for_is_told(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no segmentation networks"):
        open_segmenter("ensemble", lake)
    with pytest.raises(ValueError, match="use ensemble, monai_bundle:FOLDER or nnunet:FOLDER"):
        open_segmenter("unet", lake)
    with pytest.raises(BadInputError, match="is not a folder"):
        open_segmenter(f"nnunet:{tmp_path / 'gone'}", lake)
    with pytest.raises(ValueError, match="use demo or paper"):
        network_plan("best")
