"""8-bit images: ranges without leakage, frozen; appended visit by visit, never remade in vain."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from imaging.labels import BONES
from lake.batch import Batch
from lake.errors import LakeError
from lake.maps import MapKnee, MapPart
from lake.store import Lake, input_fingerprint
from models.strategies import PLANES
from phantom.cohort import simulate_cohort
from phantom.cohort_tables import cohort_tables
from pipeline.image_figures import example_knee, strategies_figure
from pipeline.images import materialize_images, open_bank
from pipeline.map_ranges import RangeOptions, current_ranges, fit_map_ranges

SIZE = 224
ALL = RangeOptions("all")
COVERED = slice(40, 60)


def maps_of(value: float, bone: str) -> dict[str, np.ndarray]:
    """Maps of one knee that tell it: ramps that end at its value; cartilage on twenty rows."""
    ramp = np.linspace(0.5, 1.0, SIZE, dtype=np.float32)[None, :] * np.ones((SIZE, 1), np.float32)
    on_cartilage = np.full((SIZE, SIZE), np.nan, np.float32)
    on_cartilage[COVERED] = ramp[COVERED]
    scale = {"femur": 1.0, "tibia": 1.1, "patella": 0.5}[bone]
    factors = {"cartilage_thickness": 0.05, "t2_deep": 0.8, "t2_superficial": 1.0, "t2_mean": 0.9}
    return {
        "bone_shape": ramp * np.float32(value * scale),
        **{name: on_cartilage * np.float32(value * scale * f) for name, f in factors.items()},
    }


def add_maps(
    lake: Lake,
    values: dict[int, float],
    timepoint: str = "V00",
    change: dict[tuple[int, str], Any] | None = None,
) -> None:
    """Land maps of right knees; `change` replaces a map of a knee by a constant."""
    subjects = sorted(values)
    with lake.batch("maps", timepoint, "1", "c") as batch:
        for bone in BONES:
            made = [maps_of(values[subject], bone) for subject in subjects]
            for (subject, name), constant in (change or {}).items():
                if subject in subjects:
                    made[subjects.index(subject)][name][:] = constant
            shape = (len(subjects), SIZE, SIZE)
            knees = tuple(
                MapKnee(
                    f"{subject}_RIGHT_{timepoint}", subject, "RIGHT", (0.0, 0.0, 0.0), False,
                    0.0, 0.0, 0.1,
                )
                for subject in subjects
            )  # fmt: skip
            coverage = np.zeros(shape, bool)
            coverage[:, COVERED] = True
            batch.add_map_part(
                bone,
                MapPart(
                    bone,
                    knees,
                    np.linspace(-1.5, 0.4, SIZE),
                    np.linspace(-3.1, 3.1, SIZE),
                    {name: np.stack([one[name] for one in made]) for name in PLANES},
                    coverage,
                    ~coverage,
                    np.ones(shape, np.float32),
                    {"code_version": "1"},
                ),
            )
        batch.add(
            "ledger",
            [
                {
                    "knee_visit": f"{subject}_RIGHT_{timepoint}",
                    "step": "maps",
                    "input_fingerprint": input_fingerprint([str(values[subject])], "c", "1"),
                    "status": "done",
                    "seconds": 0.0,
                }
                for subject in subjects
            ],
        )


def image_files(lake: Lake) -> dict[str, bytes]:
    return {
        path.relative_to(lake.root).as_posix(): path.read_bytes()
        for path in sorted((lake.root / "images").rglob("*"))
        if path.is_file()
    }


def images_now(lake: Lake, columns: str = "knee_visit, bone, part, row") -> list[tuple]:
    return lake.sql(f"SELECT {columns} FROM image_index ORDER BY ALL").rows()


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Three knees at one visit, ranges over all of them, their images."""
    add_maps(lake, {1000001: 40.0, 1000002: 50.0, 1000003: 60.0})
    fit_map_ranges(lake, ALL)
    materialize_images(lake, "V00")
    return lake


@pytest.mark.parametrize("bone", BONES)
def test_planes_are_the_maps_in_8_bits(filled: Lake, bone: str) -> None:
    ranges = current_ranges(filled)
    bank = open_bank(filled, bone)
    assert bank.knee_visits == tuple(f"{1000001 + row}_RIGHT_V00" for row in range(3))
    for plane, name in enumerate(PLANES):
        maps = filled.maps(bone, name).values
        scale = ranges.ranges[bone, name]
        assert scale.minimum == pytest.approx(np.nanmin(maps))
        assert scale.maximum == pytest.approx(np.nanmax(maps))
        share = (maps.astype(float) - scale.minimum) / (scale.maximum - scale.minimum)
        levels = np.where(np.isfinite(share), np.floor(share * 255 + 0.5), 0)
        found = bank.planes[:, plane].numpy()
        # One level apart at most, where float32 and float64 fall on either side of a half.
        difference = np.abs(found.astype(int) - levels)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
        assert (found[~np.isfinite(maps)] == 0).all()
        assert found.max() == 255
    chosen = open_bank(filled, bone, ["1000003_RIGHT_V00", "1000001_RIGHT_V00"])
    assert np.array_equal(chosen.planes.numpy(), bank.planes.numpy()[[2, 0]])


def test_a_second_run_computes_nothing(filled: Lake) -> None:
    before, batches = image_files(filled), len(filled.sql("FROM batches"))
    report = materialize_images(filled, "V00")
    assert (report.n_pending, report.n_done, report.batch_id) == (0, 0, None)
    assert fit_map_ranges(filled, ALL).ranges_id == current_ranges(filled).ranges_id
    assert image_files(filled) == before
    assert len(filled.sql("FROM batches")) == batches


def test_a_new_visit_is_one_visit_of_work_under_the_old_ranges(filled: Lake) -> None:
    before, ranges = image_files(filled), current_ranges(filled)
    # Larger than anything the ranges were fitted on.
    add_maps(filled, {1000001: 80.0}, "V03")
    assert fit_map_ranges(filled, ALL).ranges_id == ranges.ranges_id
    assert materialize_images(filled, "V00").n_pending == 0
    report = materialize_images(filled, "V03")
    assert (report.n_pending, report.n_done) == (1, 1)
    after = image_files(filled)
    assert {name: after[name] for name in before} == before
    assert len(open_bank(filled, "femur")) == 4
    new = open_bank(filled, "femur", ["1000001_RIGHT_V03"]).planes
    assert new.numpy()[0, 0].max() == 255
    shares = filled.sql("SELECT above_share FROM image_index WHERE timepoint = 'V03'")
    # Values of a ramp from 40 to 80 that lie above 60.
    assert shares["above_share"].min() == pytest.approx(0.5, abs=0.01)


def test_corrected_maps_are_made_anew_and_only_they(filled: Lake) -> None:
    before = images_now(filled, "knee_visit, batch_id")
    add_maps(filled, {1000002: 45.0})
    report = materialize_images(filled, "V00")
    assert report.n_done == 1
    after = images_now(filled, "knee_visit, batch_id")
    changed = {new[0] for old, new in zip(before, after, strict=True) if old != new}
    assert changed == {"1000002_RIGHT_V00"}
    assert len(open_bank(filled, "tibia")) == 3


def test_new_ranges_only_when_asked_and_then_for_all(filled: Lake) -> None:
    first = current_ranges(filled)
    add_maps(filled, {1000004: 80.0})
    materialize_images(filled, "V00")
    second = fit_map_ranges(filled, ALL, refit=True)
    assert second.ranges_id != first.ranges_id
    assert second.ranges["femur", "bone_shape"].maximum == pytest.approx(80.0)
    with pytest.raises(LakeError, match="no images of the femur of 1000009_RIGHT_V00"):
        open_bank(filled, "femur", ["1000009_RIGHT_V00"])
    report = materialize_images(filled, "V00")
    assert report.n_done == 4
    assert {row[0] for row in images_now(filled, "ranges_id")} == {second.ranges_id}
    # Another kind counts from when it is asked for; the first stays to come back to.
    quantiles = fit_map_ranges(filled, RangeOptions("all", 0.05, 0.95))
    assert current_ranges(filled).ranges_id == quantiles.ranges_id
    assert fit_map_ranges(filled, ALL).ranges_id == second.ranges_id
    assert current_ranges(filled).ranges_id == second.ranges_id
    assert materialize_images(filled, "V00").n_pending == 0


def test_images_of_two_sets_are_not_mixed(filled: Lake) -> None:
    add_maps(filled, {1000001: 90.0}, "V03")
    fit_map_ranges(filled, ALL, refit=True)
    materialize_images(filled, "V03")
    with pytest.raises(LakeError, match="2 sets of map_ranges"):
        open_bank(filled, "femur")


def test_quantiles_are_numpys(filled: Lake) -> None:
    fitted = fit_map_ranges(filled, RangeOptions("all", 0.1, 0.9))
    for bone in BONES:
        for name in PLANES:
            values = filled.maps(bone, name).values
            low, high = np.nanquantile(values, [0.1, 0.9])
            tolerance = 0.01 if name.startswith("t2") else 0.005
            assert fitted.ranges[bone, name].minimum == pytest.approx(low, abs=tolerance)
            assert fitted.ranges[bone, name].maximum == pytest.approx(high, abs=tolerance)


def test_a_kill_costs_the_batch_under_way_and_no_more(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.images.BATCH_KNEES", 3)
    values = {1000001 + number: 40.0 + number for number in range(5)}
    add_maps(lake, values)
    ranges = fit_map_ranges(lake, ALL)
    calls = 0
    add_array_part = Batch.add_array_part

    def dies_in_the_second_batch(self: Batch, *args: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return add_array_part(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "add_array_part", dies_in_the_second_batch)
        with pytest.raises(KeyboardInterrupt):
            materialize_images(lake, "V00")
    first = image_files(lake)
    assert len(images_now(lake)) == 3 * 3
    report = materialize_images(lake, "V00")
    assert (report.n_pending, report.n_done) == (2, 2)
    finished = image_files(lake)
    assert {name: finished[name] for name in first} == first
    # The same as if nothing had happened.
    other = Lake(tmp_path / "other")
    add_maps(other, values)
    assert fit_map_ranges(other, ALL).ranges_id == ranges.ranges_id
    materialize_images(other, "V00")
    assert image_files(other) == finished


def test_an_empty_map_is_refused_by_name_and_stops_nobody(lake: Lake) -> None:
    add_maps(
        lake,
        {1000001: 40.0, 1000002: 50.0, 1000003: 60.0},
        change={(1000002, "cartilage_thickness"): np.nan},
    )
    fit_map_ranges(lake, ALL)
    report = materialize_images(lake, "V00")
    assert (report.n_done, report.n_quarantined) == (2, 1)
    (refused,) = lake.sql("FROM quarantine").to_dicts()
    assert refused["knee_visit"] == "1000002_RIGHT_V00"
    assert (refused["stage"], refused["reason"]) == ("images", "empty_map")
    assert "cartilage_thickness" in refused["what"]
    assert {row[0] for row in images_now(lake)} == {"1000001_RIGHT_V00", "1000003_RIGHT_V00"}
    # Not tried again until its maps change.
    assert materialize_images(lake, "V00").n_pending == 0
    add_maps(lake, {1000002: 50.0})
    assert materialize_images(lake, "V00").n_done == 1
    assert lake.sql("FROM quarantine").is_empty()


def test_a_knee_without_t2_says_so(lake: Lake) -> None:
    without = {(1000002, name): np.nan for name in ("t2_deep", "t2_superficial", "t2_mean")}
    add_maps(lake, {1000001: 40.0, 1000002: 50.0}, change=without)
    fit_map_ranges(lake, ALL)
    assert materialize_images(lake, "V00").n_done == 2
    assert lake.sql(
        "SELECT DISTINCT has_t2 FROM image_index WHERE subject_id = 1000002"
    ).item() is (False)
    bank = open_bank(lake, "patella")
    assert bank.has("t2").tolist() == [True, False]
    assert bank.has("bone_thickness").all()
    assert example_knee(lake, "V00") == "1000001_RIGHT_V00"


def test_t2_that_comes_after_the_ranges_needs_them_fitted_anew(lake: Lake) -> None:
    names = ("t2_deep", "t2_superficial", "t2_mean")
    add_maps(lake, {1000001: 40.0}, change={(1000001, name): np.nan for name in names})
    fit_map_ranges(lake, ALL)
    assert materialize_images(lake, "V00").n_done == 1
    add_maps(lake, {1000002: 50.0})
    with pytest.raises(LakeError, match=r"none for t2_deep of the femur.*fit anew"):
        materialize_images(lake, "V00")
    fit_map_ranges(lake, ALL, refit=True)
    assert materialize_images(lake, "V00").n_done == 2


def test_what_is_missing_is_said(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no maps to fit"):
        fit_map_ranges(lake, ALL)
    with pytest.raises(LakeError, match="no training knee"):
        fit_map_ranges(lake)
    with pytest.raises(LakeError, match="materialize map_ranges"):
        materialize_images(lake, "V00")
    with pytest.raises(LakeError, match="materialize training_images"):
        open_bank(lake, "femur")
    with pytest.raises(ValueError, match="expected two that rise"):
        RangeOptions("all", 0.9, 0.1)
    with pytest.raises(ValueError, match="use 'training' or 'all'"):
        RangeOptions("test")
    add_maps(lake, {1000001: 40.0}, change={(1000001, "bone_shape"): 30.0})
    with pytest.raises(LakeError, match="bone_shape of the femur goes from 30 to 30 over 1 knees"):
        fit_map_ranges(lake, ALL)


def splits_of(lake: Lake) -> dict[str, list[int]]:
    rows = lake.sql(
        "SELECT split, subject_id FROM model_cases WHERE timepoint = 'V00' AND model = 'oa' "
        "GROUP BY ALL ORDER BY subject_id"
    ).rows()
    found: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
    for split, subject in rows:
        found[split].append(subject)
    return found


def with_people(lake: Lake, n_people: int = 40) -> dict[str, list[int]]:
    """People and their labels in a lake; who of them is in which split at baseline."""
    with lake.batch("clinical", "all", "1", "c") as batch:
        for name, frame in cohort_tables(simulate_cohort(n_people, seed=1)).items():
            batch.add(name, frame.with_columns(pl.lit(False).alias("retracted")))
    return splits_of(lake)


def some(subjects: Iterable[int], value: float) -> dict[int, float]:
    return dict.fromkeys(list(subjects)[:3], value)


def test_nothing_of_test_or_validation_people_reaches_the_ranges(lake: Lake) -> None:
    splits = with_people(lake)
    add_maps(
        lake,
        some(splits["training"], 50.0)
        | some(splits["validation"], 70.0)
        | some(splits["test"], 90.0),
    )
    training = fit_map_ranges(lake)
    for (bone, name), scale in training.ranges.items():
        largest = np.nanmax(maps_of(50.0, bone)[name])
        assert scale.maximum == pytest.approx(largest, rel=1e-3), (bone, name)
    everyone = fit_map_ranges(lake, ALL)
    assert everyone.ranges["femur", "bone_shape"].maximum == pytest.approx(90.0)
    # One split per person for both tasks: whom pain is tested on never trained anything.
    assert lake.sql(
        "SELECT count(*) FROM model_cases AS a JOIN model_cases AS b USING (subject_id) "
        "WHERE a.split <> b.split"
    ).item() == 0  # fmt: skip
    counted = lake.sql("SELECT DISTINCT population, n_knee_visit FROM map_ranges ORDER BY 1").rows()
    assert counted == [("all", 9), ("training", 3)]


def test_the_figure_shows_six_strategies(filled: Lake) -> None:
    from PIL import Image

    knee = example_knee(filled, "V00")
    png = strategies_figure(filled, knee)
    assert png == strategies_figure(filled, knee)
    path = filled.root / "figure.png"
    path.write_bytes(png)
    with Image.open(path) as picture:
        assert min(picture.size) > 300
    assert example_knee(filled, "V01") is None
