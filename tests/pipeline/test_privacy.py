"""Nothing of a person leaves the inbox: canaries in every tag, every byte written searched."""

import io
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydicom.dataset import FileDataset

from lake.store import Lake
from pipeline import steps
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.steps import materialize_maps, materialize_segmentations
from tests.imaging.dicom_fixtures import save
from tests.pipeline.small_knees import Visit, another, deliver, dess_files, msme_files

TEXT = {
    "PatientName": "Canary^Quimby",
    "OtherPatientIDs": "CANARY-OTHER",
    "PatientBirthName": "Canary^Birth",
    "PatientMotherBirthName": "Canary^Mother",
    "PatientAddress": "1 Canary Lane",
    "PatientComments": "canary comments",
    "PatientTelephoneNumbers": "555-CANARY",
    "EthnicGroup": "canary ethnic",
    "Occupation": "canary keeper",
    "AdditionalPatientHistory": "canary history",
    "InstitutionName": "Canary General",
    "InstitutionAddress": "2 Canary Road",
    "InstitutionalDepartmentName": "Canary Ward",
    "ReferringPhysicianName": "Canary^Referring",
    "PerformingPhysicianName": "Canary^Performing",
    "OperatorsName": "Canary^Operator",
    "StationName": "CANARYSTATION",
    "DeviceSerialNumber": "CANARY-08154711",
    "Manufacturer": "Canary Systems",
    "ManufacturerModelName": "Canary Trio",
    "SoftwareVersions": "canary 1.0",
    "ProtocolName": "canary protocol",
    "AccessionNumber": "CANARY4711",
    "StudyID": "CANARYSTUDY",
    "ImageComments": "canary image",
    "RequestedProcedureDescription": "canary request",
    "ClinicalTrialSponsorName": "canary sponsor",
    "ClinicalTrialSiteName": "canary site",
    "DeidentificationMethod": "canary method",
}
DATES = {
    "PatientBirthDate": "19330401",
    "StudyDate": "20041123",
    "SeriesDate": "20041124",
    "AcquisitionDate": "20041125",
    "ContentDate": "20041126",
    "InstanceCreationDate": "20041127",
    "PerformedProcedureStepStartDate": "20041128",
    "DateOfLastCalibration": "20010203",
}
TIMES = {"StudyTime": "112233.447", "AcquisitionTime": "112234.449"}
NUMBERS = {"PatientAge": "071Y", "PatientWeight": "83.771993", "PatientSize": "1.7739917"}
FOLDER_DATE = "20040909"


def with_canaries(files: list[FileDataset]) -> list[FileDataset]:
    for file in files:
        for keyword, value in {**TEXT, **DATES, **TIMES, **NUMBERS}.items():
            setattr(file, keyword, value)
        # Free text in the tags that are read: only known words of it may pass.
        file.SeriesDescription = f"{file.SeriesDescription} CANARYSERIES"
        file.StudyDescription = f"{file.StudyDescription} CANARYDESC 20041129"
        block = file.private_block(0x0051, "CANARY PRIVATE", create=True)
        block.add_new(0x10, "LO", "canary private value")
    return files


def canaries() -> list[bytes]:
    words = ["canary", "quimby", FOLDER_DATE, "2004-09-09", "20041129"]
    words += [date for value in DATES.values() for date in (value, dashed(value))]
    words += [*TIMES.values(), "83.771993", "1.7739917", "071y"]
    return [word.lower().encode() for word in words]


def dashed(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def written(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's name and bytes, and the text of every Parquet column."""
    for path in sorted(root.rglob("*")):
        yield f"name of {path.name}", str(path.relative_to(root)).encode()
        if path.is_file():
            yield str(path), path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            yield f"rows of {path.name}", repr(table.to_pylist()).encode()
            yield f"schema of {path.name}", repr(table.schema.metadata).encode()


def assert_clean(where: str, content: bytes) -> None:
    for canary in canaries():
        assert canary not in content.lower(), f"{canary!r} is in {where}"


def test_what_is_planted_would_be_found(tmp_path: Path) -> None:
    save(with_canaries(dess_files(Visit())[:1]), tmp_path)
    with pytest.raises(AssertionError, match="canary"):
        for where, content in written(tmp_path):
            assert_clean(where, content)


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_nothing_of_a_person_reaches_lake_log_or_report(
    lake: Lake,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    inbox = settings.inbox
    good = deliver(inbox, Visit(), dess=False)
    if engine == "serial":
        save(with_canaries(msme_files(good)), good.folder(inbox, good.barcode + 1))
    save(with_canaries(dess_files(good)), good.folder(inbox))
    break_deliveries(inbox)

    told: list[str] = []

    def progress(done: int, total: int, text: str) -> None:
        told.append(text)

    cluster = Cluster(engine, 1)  # type: ignore[arg-type]
    reports: list[object] = [ingest(lake, settings, cluster=cluster, progress=progress)]
    if engine == "serial":
        monkeypatch.setattr(steps, "compute_maps", failing_once(steps.compute_maps, good))
    for step in (materialize_segmentations, materialize_maps):
        reports.append(step(lake, settings, "V00", cluster=cluster, progress=progress))

    assert lake.sql("SELECT * FROM segmentations").height == 1
    assert lake.sql("SELECT * FROM quarantine").height >= 8
    if engine == "serial":
        assert lake.sql("SELECT DISTINCT has_t2 FROM maps_index").rows() == [(True,)]
    for where, content in written(settings.lake_root):
        assert_clean(where, content)
    out, err = capfd.readouterr()
    for where, text in {
        "stdout": out,
        "stderr": err,
        "log": caplog.text,
        "progress": "\n".join(told),
        "reports": repr(reports),
    }.items():
        assert_clean(where, text.encode())


def failing_once(function, good: Visit):  # type: ignore[no-untyped-def]
    def compute(task, parameters):  # type: ignore[no-untyped-def]
        if task.row["knee_visit"] != good.knee_visit:
            raise RuntimeError(f"{TEXT['PatientName']} {task.label.path}")
        return function(task, parameters)

    return compute


def break_deliveries(inbox: Path) -> None:
    """One of each way to fail while a header full of canaries is in hand."""
    visits = iter([another(Visit(), number) for number in range(1, 20)])

    def files(visit: Visit) -> list[FileDataset]:
        return with_canaries(dess_files(visit)[:6])

    visit = next(visits)
    folder = save(files(visit), visit.folder(inbox))
    (folder / "002").write_bytes((folder / "002").read_bytes()[:-50])

    visit = next(visits)
    folder = save(files(visit), visit.folder(inbox))
    (folder / "003").write_bytes((folder / "003").read_bytes()[:700])

    visit = next(visits)
    folder = save(files(visit), visit.folder(inbox))
    (folder / "009").write_bytes((folder / "002").read_bytes())

    visit = next(visits)
    broken = files(visit)
    broken[1].PixelSpacing = None
    save(broken, visit.folder(inbox))

    visit = next(visits)
    broken = files(visit)
    del broken[2].ImagePositionPatient
    save(broken, visit.folder(inbox))

    # Another person's number in the header, and one that is not the study's.
    visit = next(visits)
    broken = files(visit)
    for file in broken:
        file.PatientID = "1999999"
    save(broken, visit.folder(inbox))
    visit = next(visits)
    broken = files(visit)
    for file in broken:
        file.PatientID, file.StudyDescription = "CANARYID", "CANARYDESC"
        file.SeriesDescription = "SAG_3D_DESS"
    save(broken, visit.folder(inbox))

    visit = next(visits)
    folder = visit.folder(inbox)
    folder.parent.mkdir(parents=True)
    with zipfile.ZipFile(folder.with_name(f"{folder.name}.zip"), "w") as archive:
        for number, file in enumerate(files(visit)):
            content = io.BytesIO()
            file.save_as(content, enforce_file_format=True)
            archive.writestr(f"../{FOLDER_DATE}_CANARY/{number}", content.getvalue())

    visit = next(visits)
    label = inbox / f"{FOLDER_DATE}" / f"{visit.knee_visit}_{FOLDER_DATE}.nrrd"
    label.parent.mkdir()
    label.write_bytes(b"NRRD0004\n# canary comment\n")
