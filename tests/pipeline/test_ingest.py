"""What lands, what is refused and why, and that neither depends on order."""

import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import BasicTextSRStorage

from imaging.errors import BadInputError, Reason
from imaging.label_files import write_labels
from imaging.volume import Volume
from lake.store import Lake
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.inbox import discover, locate, pending_deliveries
from pipeline.ingest import ingest
from pipeline.knee_visit import KneeVisit
from tests.imaging.dicom_fixtures import mr_series, random_array, save
from tests.pipeline.small_knees import Visit, another, deliver_label, labels_of

GOOD = another(Visit(), 5)


def small_dess(visit: Visit, seed: int = 7, **keywords: object) -> list[FileDataset]:
    """A DESS series of four slices; ingest does not mind."""
    array = np.random.default_rng(seed).integers(1, 2000, (1, 4, 5, 6)).astype(np.int16)
    return mr_series(array, (4.71,), **_headers(visit, "SAG_3D_DESS", keywords))


def small_msme(visit: Visit, **keywords: object) -> list[FileDataset]:
    headers = _headers(visit, "SAG_T2_MAP", keywords)
    return mr_series(random_array(n_echo=4), (10.0, 20.0, 30.0, 40.0), **headers)


def _headers(visit: Visit, series: str, keywords: dict[str, object]) -> dict[str, object]:
    months = {"V00": "ENROLLMENT", "V01": "12 MONTH", "V03": "24 MONTH"}[visit.timepoint]
    return {
        "series": f"{visit.knee_visit} {series}",
        "series_description": f"{series}_{visit.side}",
        "study_description": f"OAI^MR^{months}^{visit.side} ",
        "subject": str(visit.subject_id),
        **keywords,
    }


def truncated(inbox: Path, visit: Visit) -> None:
    folder = save(small_dess(visit), visit.folder(inbox))
    content = (folder / "002").read_bytes()
    (folder / "002").write_bytes(content[:-20])


def missing_echo(inbox: Path, visit: Visit) -> None:
    (save(small_msme(visit), visit.folder(inbox)) / "006").unlink()


def missing_echo_everywhere(inbox: Path, visit: Visit) -> None:
    files = [file for file in small_msme(visit) if float(file.EchoTime) != 30.0]
    save(files, visit.folder(inbox))


def duplicated_slice(inbox: Path, visit: Visit) -> None:
    folder = save(small_dess(visit), visit.folder(inbox))
    shutil.copy(folder / "002", folder / "009")


def irregular_spacing(inbox: Path, visit: Visit) -> None:
    files = small_dess(visit)
    files[2].ImagePositionPatient[0] = float(files[2].ImagePositionPatient[0]) - 1.3
    save(files, visit.folder(inbox))


def missing_slice(inbox: Path, visit: Visit) -> None:
    (save(small_dess(visit), visit.folder(inbox)) / "003").unlink()


def wrong_matrix(inbox: Path, visit: Visit) -> None:
    files = small_dess(visit)
    files[1].Rows, files[1].PixelData = 4, files[1].PixelData[: 4 * 6 * 2]
    save(files, visit.folder(inbox))


def mixed_series(inbox: Path, visit: Visit) -> None:
    # In one folder, and with a localizer first.
    folder = visit.folder(inbox)
    other = small_dess(visit, series="other", series_description="MP_LOCATOR_RIGHT")
    save(other[:2], folder, lambda i: f"{i:03d}")
    save(small_dess(visit), folder, lambda i: f"{i + 2:03d}")


def all_zero(inbox: Path, visit: Visit) -> None:
    files = small_dess(visit)
    for file in files:
        file.PixelData = bytes(len(file.PixelData))
    save(files, visit.folder(inbox))


def no_image(inbox: Path, visit: Visit) -> None:
    files = small_dess(visit)
    for file in files:
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
        file.Modality = "SR"
        del file.PixelData
    save(files, visit.folder(inbox))


def no_dicom(inbox: Path, visit: Visit) -> None:
    folder = visit.folder(inbox)
    folder.mkdir(parents=True)
    (folder / "001").write_bytes(b"no DICOM at all" * 100)


def empty_label(inbox: Path, visit: Visit) -> None:
    labels = labels_of(visit)
    deliver_label(inbox, visit, Volume(np.zeros_like(labels.array), labels.affine))


def damaged_label(inbox: Path, visit: Visit) -> None:
    path = deliver_label(inbox, visit)
    path.write_bytes(path.read_bytes()[:400])


def unreadable_zip(inbox: Path, visit: Visit) -> None:
    folder = visit.folder(inbox)
    folder.parent.mkdir(parents=True)
    folder.with_name(folder.name + ".zip").write_bytes(b"PK\3\4 and nothing else")


def path_traversal(inbox: Path, visit: Visit) -> None:
    folder = visit.folder(inbox)
    folder.parent.mkdir(parents=True)
    with zipfile.ZipFile(folder.with_name(folder.name + ".zip"), "w") as archive:
        archive.writestr("../../../escaped", b"x")


def loose_beside_folders(inbox: Path, visit: Visit) -> None:
    folder = save(small_dess(visit), visit.folder(inbox))
    save(small_dess(visit, series="b"), folder / "sub")


BAD: list[tuple[Callable[[Path, Visit], None], Reason]] = [
    (truncated, Reason.TRUNCATED_FILE),
    (missing_echo, Reason.MISSING_ECHO),
    (missing_echo_everywhere, Reason.MISSING_ECHO),
    (duplicated_slice, Reason.DUPLICATE_SLICE),
    (irregular_spacing, Reason.IRREGULAR_SPACING),
    (missing_slice, Reason.MISSING_SLICE),
    (wrong_matrix, Reason.WRONG_MATRIX_SIZE),
    (mixed_series, Reason.MIXED_SERIES),
    (all_zero, Reason.ALL_ZERO_VOLUME),
    (no_image, Reason.NOT_AN_IMAGE),
    (no_dicom, Reason.NOT_AN_IMAGE),
    (empty_label, Reason.EMPTY_LABEL),
    (damaged_label, Reason.UNREADABLE_FILE),
    (unreadable_zip, Reason.BAD_ARCHIVE),
    (path_traversal, Reason.UNSAFE_ARCHIVE),
    (loose_beside_folders, Reason.MIXED_SERIES),
]


def test_every_bad_delivery_is_refused_for_its_reason_while_the_rest_land(
    lake: Lake, settings: Settings, tmp_path: Path
) -> None:
    save(small_dess(GOOD), GOOD.folder(settings.inbox))
    expected = {}
    for number, (spoil, reason) in enumerate(BAD):
        visit = another(Visit(), 10 + number)
        spoil(settings.inbox, visit)
        expected[visit.subject_id] = (spoil.__name__, str(reason))
    report = ingest(lake, settings)
    rows = lake.sql("SELECT * FROM quarantine").to_dicts()
    names = {subject: name for subject, (name, _) in expected.items()}
    found = {
        row["subject_id"]: row["reason"]
        for row in rows
        # The folder below the loose files is looked at for itself.
        if not row["file"].endswith("sub")
    }
    # A folder of which no header could be read is known by its path, side unknown.
    assert {names[subject]: reason for subject, reason in found.items()} == dict(expected.values())
    assert all(row["what"] and row["remedy"] and row["file"] for row in rows)
    assert [row["knee_visit"] for row in report.landed][:1] == [GOOD.knee_visit]
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/escaped").exists()

    # Nothing is tried again while it stays as it is; a repaired one lands.
    assert pending_deliveries(settings.inbox) == {}
    again = ingest(lake, settings)
    assert (again.landed, again.quarantined) == ([], [])
    repaired = another(Visit(), 10)
    shutil.rmtree(repaired.folder(settings.inbox))
    save(small_dess(repaired), repaired.folder(settings.inbox))
    assert list(pending_deliveries(settings.inbox)) == ["V00"]
    again = ingest(lake, settings)
    assert [row["subject_id"] for row in again.landed] == [repaired.subject_id]
    assert again.quarantined == []
    left = lake.sql("SELECT count(*) AS n FROM quarantine WHERE reason = 'truncated_file'")
    assert left["n"][0] == 0


def test_kinds_that_are_not_used_are_counted_not_refused(lake: Lake, settings: Settings) -> None:
    for number, kind in enumerate(("SAG_IW_TSE", "SAG_T2_CALC", "MP_LOCATOR")):
        visit = another(Visit(), number)
        files = small_dess(visit, series_description=f"{kind}_RIGHT")
        save(files, visit.folder(settings.inbox))
    report = ingest(lake, settings)
    assert (report.skipped, report.landed, report.quarantined) == (3, [], [])
    assert not lake.root.exists()


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_lands_as_its_folder_does(
    lake: Lake, settings: Settings, tmp_path: Path, suffix: str
) -> None:
    visit = Visit()
    files = save(small_msme(visit), tmp_path / "files")
    archive = visit.folder(settings.inbox).with_suffix("")
    archive.parent.mkdir(parents=True)
    packed = archive.with_name(archive.name + suffix)
    if suffix == ".zip":
        with zipfile.ZipFile(packed, "w") as opened:
            for file in files.iterdir():
                opened.write(file, f"./{file.name}")
    else:
        with tarfile.open(packed, "w:gz") as opened:
            opened.add(files, ".")
    [row] = ingest(lake, settings).landed
    save(small_msme(visit), visit.folder(tmp_path / "elsewhere"))
    other = Settings(tmp_path / "other", tmp_path / "elsewhere")
    [same] = ingest(Lake(other.lake_root), other).landed
    assert row == same
    assert (row["knee_visit"], row["sequence"]) == (visit.knee_visit, "MSME")
    assert row["echo_times_ms"] == [10.0, 20.0, 30.0, 40.0]
    assert (row["n_slice"], row["n_row"], row["n_column"]) == (4, 5, 6)
    assert locate(settings.inbox, row["series_fingerprint"]) == packed


def test_rows_do_not_depend_on_the_order_of_deliveries_or_files(
    lake: Lake, settings: Settings, tmp_path: Path
) -> None:
    visits = [another(Visit(), number, timepoint=t) for number in range(3) for t in ("V00", "V01")]
    other = Settings(tmp_path / "other", tmp_path / "other_inbox")
    for place, shuffle in ((settings.inbox, 0), (other.inbox, 1)):
        for visit in visits:
            names = list(range(1, 5))
            if shuffle:
                random.Random(visit.subject_id).shuffle(names)
            save(small_dess(visit), visit.folder(place), lambda i, n=names: f"{n[i - 1]:03d}")

    class Backwards(Cluster):
        def map(self, function, items) -> Iterator:  # type: ignore[no-untyped-def]
            return iter([(item, function(item)) for item in items][::-1])

    ingest(lake, settings)
    ingest(Lake(other.lake_root), other, cluster=Backwards())
    batches = [
        place.sql("SELECT batch_id FROM batches ORDER BY batch_number").rows()
        for place in (lake, Lake(other.lake_root))
    ]
    assert batches[0] == batches[1]
    assert len(batches[0]) == 2


@pytest.mark.parametrize("later_comes_first", [False, True])
def test_of_two_scans_of_one_knee_the_later_archive_id_counts(
    lake: Lake, settings: Settings, later_comes_first: bool
) -> None:
    visit = Visit()
    series = {10000099: 1, 10000100: 2}
    fingerprints = []
    for barcode in sorted(series, reverse=later_comes_first):
        save(small_dess(visit, seed=series[barcode]), visit.folder(settings.inbox, barcode))
        report = ingest(lake, settings)
        fingerprints += [row["series_fingerprint"] for row in report.landed]
    assert report.superseded[0]["file"].endswith("10000099")
    assert report.superseded[0]["kept"].endswith("10000100")
    [current] = lake.sql("SELECT series_fingerprint FROM scans")["series_fingerprint"].to_list()
    assert locate(settings.inbox, current).name == "10000100"
    assert len(fingerprints) == (1 if later_comes_first else 2)
    again = ingest(lake, settings)
    assert again.landed == []
    assert (again.unchanged, len(again.superseded)) == (1, 1)


def test_a_path_and_a_header_that_disagree_are_refused(lake: Lake, settings: Settings) -> None:
    visit = Visit()
    save(small_dess(visit, subject="1000777"), visit.folder(settings.inbox))
    [row] = ingest(lake, settings).quarantined
    assert row["reason"] == "unknown_knee_visit"
    assert row["timepoint"] == "unknown"
    assert "1000001" in row["what"]
    assert "1000777" in row["what"]
    # The caller can settle it.
    declared = KneeVisit(subject_id=1000777)
    [landed] = ingest(lake, settings, [visit.folder(settings.inbox)], declared=declared).landed
    assert landed["knee_visit"] == "1000777_RIGHT_V00"
    # And has settled it: a later look at the whole inbox changes nothing.
    again = ingest(lake, settings)
    assert (again.landed, again.quarantined, again.unchanged) == ([], [], 1)


def test_a_visit_by_itself(lake: Lake, settings: Settings) -> None:
    visits = [Visit(), another(Visit(), 1, timepoint="V01")]
    for visit in visits:
        save(small_dess(visit), visit.folder(settings.inbox))
    (settings.inbox / "nobody.zip").write_bytes(b"no zip")
    report = ingest(lake, settings, timepoint="V01")
    assert [row["knee_visit"] for row in report.landed] == [visits[1].knee_visit]
    assert [row["timepoint"] for row in report.quarantined] == ["unknown"]
    assert list(pending_deliveries(settings.inbox)) == ["V00"]


def test_paths_outside_the_inbox_are_found_again(
    lake: Lake, settings: Settings, tmp_path: Path
) -> None:
    visit = Visit()
    elsewhere = tmp_path / "elsewhere"
    save(small_dess(visit), visit.folder(elsewhere))
    [row] = ingest(lake, settings, [elsewhere]).landed
    assert locate(settings.inbox, row["series_fingerprint"]) == visit.folder(elsewhere)
    with pytest.raises(BadInputError) as caught:
        ingest(lake, settings, [tmp_path / "nothing"])
    assert caught.value.reason == Reason.MISSING_INPUT
    shutil.rmtree(elsewhere)
    with pytest.raises(BadInputError, match="gone"):
        locate(settings.inbox, row["series_fingerprint"])


def test_a_new_lake_is_filled_without_reading_again(
    lake: Lake, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(small_dess(GOOD), GOOD.folder(settings.inbox))
    path_traversal(settings.inbox, another(Visit(), 30))
    first = ingest(lake, settings)
    monkeypatch.setattr("pipeline.reading.read_series", lambda path: pytest.fail("read again"))
    second = ingest(Lake(tmp_path / "second"), settings)
    assert (second.landed, second.quarantined) == (first.landed, first.quarantined)


def test_a_label_without_a_side_is_told_by_its_anatomy(lake: Lake, settings: Settings) -> None:
    visit = Visit(side="LEFT")
    folder = settings.inbox / "1000001" / "V00"
    folder.mkdir(parents=True)
    write_labels(labels_of(visit), folder / "segmentation.nii.gz")
    [row] = ingest(lake, settings).landed
    assert row["knee_visit"] == visit.knee_visit


def test_a_link_into_another_disk_is_followed_once(settings: Settings, tmp_path: Path) -> None:
    visit = Visit()
    save(small_dess(visit), visit.folder(tmp_path / "disk"))
    (settings.inbox / "oai").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(settings.inbox)
    [delivery] = discover(settings.inbox)
    assert (delivery.kind, delivery.subject_id, delivery.sequence) == ("series", 1000001, "DESS")
