"""Both steps on small knees: what is computed, when, and what one bad knee costs the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imaging.label_files import write_labels
from imaging.volume import Volume
from lake.store import Lake
from pipeline import steps
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.inbox import pending_deliveries
from pipeline.ingest import IngestReport, ingest
from pipeline.steps import StepReport, data_version, materialize_maps, materialize_segmentations
from tests.imaging.dicom_fixtures import save
from tests.pipeline.small_knees import (
    T2_MS,
    Visit,
    another,
    deliver,
    deliver_label,
    labels_of,
    msme_files,
)

SERIAL = Cluster()
FIRST = Visit()


def run(
    lake: Lake, settings: Settings, timepoint: str = "V00"
) -> tuple[IngestReport, StepReport, StepReport]:
    return (
        ingest(lake, settings),
        materialize_segmentations(lake, settings, timepoint, cluster=SERIAL),
        materialize_maps(lake, settings, timepoint, cluster=SERIAL),
    )


def check(lake: Lake, settings: Settings) -> StepReport:
    ingest(lake, settings)
    return materialize_segmentations(lake, settings, "V00", cluster=SERIAL)


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "writer.lock"
    }


def reasons(lake: Lake) -> dict[str, str]:
    rows = lake.sql("SELECT knee_visit, reason FROM quarantine").to_dicts()
    return {row["knee_visit"]: row["reason"] for row in rows}


def test_two_knees_from_delivery_to_maps_and_back_again(lake: Lake, settings: Settings) -> None:
    deliver(settings.inbox, FIRST, msme=True)
    left = deliver(settings.inbox, another(FIRST, 1, side="LEFT"))
    landed, checked, mapped = run(lake, settings)
    assert (len(landed.landed), landed.quarantined) == (5, [])
    assert (checked.n_done, mapped.n_done, mapped.n_quarantined) == (2, 2, 0)

    # The planted thickness and T2, as closely as voxels of 1.6 x 1.2 x 1.2 mm can tell.
    rows = lake.sql(
        "SELECT knee_visit, bone, biomarker, mean FROM biomarkers "
        "WHERE is_default AND compartment = 'whole' AND mean IS NOT NULL"
    ).to_dicts()
    mean = {(row["knee_visit"], row["bone"], row["biomarker"]): row["mean"] for row in rows}
    for bone in ("femur", "tibia", "patella"):
        assert mean[FIRST.knee_visit, bone, "t2_mean"] == pytest.approx(T2_MS, abs=4.0)
        assert (left.knee_visit, bone, "t2_mean") not in mean
        thickness = mean[FIRST.knee_visit, bone, "cartilage_thickness"]
        assert thickness == pytest.approx(FIRST.thickness_mm, abs=1.3)
        # The left knee is the mirror image of the right one.
        mirrored = mean[left.knee_visit, bone, "cartilage_thickness"]
        assert mirrored == pytest.approx(thickness, rel=0.02)
    mirrored_flags = lake.sql("SELECT DISTINCT knee_visit, mirrored FROM maps_index").rows()
    assert dict(mirrored_flags) == {FIRST.knee_visit: False, left.knee_visit: True}

    before, version = files_below(lake.root), data_version(lake, "maps", "V00")
    again, checked, mapped = run(lake, settings)
    assert (again.landed, again.unchanged, again.quarantined) == ([], 5, [])
    assert (checked.n_pending, checked.batch_id) == (0, None)
    assert (mapped.n_pending, mapped.batch_id) == (0, None)
    assert files_below(lake.root) == before
    assert data_version(lake, "maps", "V00") == version
    assert pending_deliveries(settings.inbox) == {}


def test_only_what_changed_is_computed(lake: Lake, settings: Settings) -> None:
    deliver(settings.inbox, FIRST)
    run(lake, settings)
    thin = lake.sql("SELECT sum(volume_mm3) AS v FROM tissue_volumes WHERE tissue LIKE '%cart%'")

    # One new visit.
    second = deliver(settings.inbox, another(FIRST, 1), dess=False)
    assert [d.subject_id for d in pending_deliveries(settings.inbox)["V00"]] == [1000002]
    landed, checked, mapped = run(lake, settings)
    assert [row["knee_visit"] for row in landed.landed] == [second.knee_visit]
    assert (checked.n_pending, mapped.n_pending) == (1, 1)

    # One corrected label.
    deliver_label(settings.inbox, Visit(thickness_mm=4.0))
    landed, checked, mapped = run(lake, settings)
    assert (len(landed.landed), checked.n_done, mapped.n_done) == (1, 1, 1)
    thick = lake.sql(
        "SELECT sum(volume_mm3) AS v FROM tissue_volumes "
        "WHERE tissue LIKE '%cart%' AND knee_visit = $knee_visit",
        {"knee_visit": FIRST.knee_visit},
    )
    assert thick["v"][0] > 1.2 * thin["v"][0]

    # T2 that comes later.
    save(msme_files(FIRST), FIRST.folder(settings.inbox, 10000009))
    landed, checked, mapped = run(lake, settings)
    assert (len(landed.landed), checked.n_pending, mapped.n_done) == (1, 0, 1)
    with_t2 = lake.sql("SELECT DISTINCT knee_visit FROM maps_index WHERE has_t2")
    assert with_t2["knee_visit"].to_list() == [FIRST.knee_visit]

    # Another visit of the same knee does not touch this one.
    third = deliver(settings.inbox, Visit(timepoint="V01", barcode=10000500), dess=False)
    version = data_version(lake, "maps", "V00")
    _, checked, _ = run(lake, settings, "V01")
    assert (checked.timepoint, checked.n_done) == ("V01", 1)
    assert data_version(lake, "maps", "V00") == version
    assert third.knee_visit in lake.sql("SELECT knee_visit FROM segmentations")["knee_visit"]


def _drop_patella(labels: Volume) -> Volume:
    return Volume(np.where(labels.array == 7, 0, labels.array).astype(np.uint8), labels.affine)


def _shifted(labels: Volume) -> Volume:
    affine = labels.affine.copy()
    affine[1, 3] += 3.0
    return Volume(labels.array, affine)


def _of_the_other_knee(labels: Volume) -> Volume:
    """The array turned over, on the grid of the scan: the fibula is on the wrong side."""
    return Volume(np.ascontiguousarray(labels.array[::-1]), labels.affine)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_drop_patella, "missing_bone"),
        (_shifted, "grid_mismatch"),
        (_of_the_other_knee, "wrong_side"),
    ],
)
def test_a_bad_label_is_quarantined_and_the_rest_go_on(
    lake: Lake, settings: Settings, spoil: Callable[[Volume], Volume], reason: str
) -> None:
    good = deliver(settings.inbox, another(FIRST, 1), dess=False)
    deliver(settings.inbox, FIRST)
    path = deliver_label(settings.inbox, FIRST, spoil(labels_of(FIRST)))
    checked = check(lake, settings)
    assert (checked.n_done, checked.n_quarantined) == (1, 1)
    row = lake.sql("SELECT * FROM quarantine").to_dicts()[0]
    assert (row["knee_visit"], row["reason"]) == (FIRST.knee_visit, reason)
    assert path.name in row["file"]
    assert row["what"]
    assert row["remedy"]
    assert lake.sql("SELECT knee_visit FROM segmentations").rows() == [(good.knee_visit,)]

    # Not tried again while it is the same, and answered by a corrected one.
    before = files_below(lake.root)
    assert check(lake, settings).n_pending == 0
    assert files_below(lake.root) == before
    deliver_label(settings.inbox, FIRST)
    assert check(lake, settings).n_done == 1
    assert reasons(lake) == {}


def test_one_unexpected_failure_names_its_type_only(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = deliver(settings.inbox, another(FIRST, 1), dess=False), FIRST
    deliver(settings.inbox, bad, dess=False)
    check = steps.check_label

    def breaks_on_one(task: steps.KneeTask) -> steps.KneeResult:
        if task.row["knee_visit"] == bad.knee_visit:
            raise KeyError("Doe^Jane 1950-01-01")
        return check(task)

    monkeypatch.setattr(steps, "check_label", breaks_on_one)
    ingest(lake, settings)
    report = materialize_segmentations(lake, settings, "V00", cluster=SERIAL)
    assert (report.n_done, report.n_quarantined) == (1, 1)
    row = lake.sql("SELECT * FROM quarantine").to_dicts()[0]
    assert row["reason"] == "unreadable_file"
    assert "KeyError" in row["what"]
    assert "Doe" not in str(row)
    assert lake.sql("SELECT knee_visit FROM segmentations").rows() == [(good.knee_visit,)]


def test_data_that_are_gone_stay_pending_and_cost_nobody(lake: Lake, settings: Settings) -> None:
    good = deliver(settings.inbox, another(FIRST, 1, thickness_mm=3.0), dess=False)
    deliver(settings.inbox, FIRST, dess=False)
    ingest(lake, settings)
    content = FIRST.label(settings.inbox).read_bytes()
    FIRST.label(settings.inbox).unlink()
    told: list[str] = []
    report = materialize_segmentations(
        lake,
        settings,
        "V00",
        cluster=SERIAL,
        progress=lambda done, total, text: told.append(f"{done}/{total} {text}"),
    )
    assert (report.n_pending, report.n_done, report.n_missing) == (2, 1, 1)
    assert any(FIRST.knee_visit in text and "left pending" in text for text in told)
    assert lake.sql("SELECT knee_visit FROM segmentations").rows() == [(good.knee_visit,)]
    assert reasons(lake) == {}
    FIRST.label(settings.inbox).write_bytes(content)
    report = materialize_segmentations(lake, settings, "V00", cluster=SERIAL)
    assert (report.n_pending, report.n_done) == (1, 1)


def test_batches_do_not_depend_on_who_finishes_first(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(steps, "BATCH_KNEES", 2)
    for number in range(3):
        deliver(settings.inbox, another(FIRST, number), dess=False)
    forward = ingest_and_segment(lake, settings, SERIAL)

    class Backwards(Cluster):
        def map(self, function, items):  # type: ignore[no-untyped-def]
            return iter([(item, function(item)) for item in items][::-1])

    other = Lake(tmp_path / "other_lake")
    assert ingest_and_segment(other, settings, Backwards()) == forward
    assert len(forward) == 3


def ingest_and_segment(lake: Lake, settings: Settings, cluster: Cluster) -> list[str]:
    """Batch ids, which are hashes of all the rows written."""
    ingest(lake, settings)
    materialize_segmentations(lake, settings, "V00", cluster=cluster)
    return lake.sql("SELECT batch_id FROM batches ORDER BY batch_number")["batch_id"].to_list()


def test_a_scheme_beside_the_label_counts_and_a_changed_one_recomputes(
    lake: Lake, settings: Settings
) -> None:
    labels = labels_of(FIRST)
    path = FIRST.label(settings.inbox)
    path.parent.mkdir()
    write_labels(labels, path)
    tissues = (
        "femoral_cartilage = 1\nmedial_tibial_cartilage = 2\nlateral_tibial_cartilage = 3\n"
        "patellar_cartilage = 4\nfemur = 5\ntibia = 6\npatella = 7\n"
    )
    sidecar = path.parent / "scheme.toml"
    sidecar.write_text(f"[tissues]\n{tissues}fibula = 8\n")
    assert check(lake, settings).n_done == 1
    first = lake.sql("SELECT scheme FROM segmentations")["scheme"][0]
    assert first.startswith("scheme@")
    sidecar.write_text(f"ignored = [8]\n[tissues]\n{tissues}")
    assert check(lake, settings).n_done == 1
    assert lake.sql("SELECT scheme FROM segmentations")["scheme"][0] != first
