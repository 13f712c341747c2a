"""Batches: what counts, what is hidden, and what is left to do."""

import hashlib
import multiprocessing
import time
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from lake_samples import (
    biomarker,
    label,
    ledger,
    part,
    refusal,
    run_maps,
    run_segmentation,
    scan,
)

from lake import delta
from lake.errors import LakeBusyError, LakeError, SchemaError
from lake.maps import read_map
from lake.store import Lake, input_fingerprint
from lake.tables import TABLES

VISIT = "1000001_RIGHT_V00"


def ingest(lake: Lake, timepoint: str = "V00", **tables: list[dict]) -> None:
    with lake.batch("ingest", timepoint, "1", "c") as batch:
        for name, rows in tables.items():
            batch.add(name, rows)


def all_files(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "_delta_log" not in path.parts and path.name != "writer.lock"
    }


def test_an_empty_lake_answers_and_writes_nothing(lake: Lake) -> None:
    for table in TABLES:
        assert lake.sql(f"FROM {table}").height == 0
        assert lake.sql(f"FROM {table}").columns == list(TABLES[table].column_names)
    assert lake.status("c", "1", "c", "1").height == 0
    assert lake.pending("maps", "c", "1").height == 0
    assert not lake.root.exists()


def test_two_timepoints_through_both_steps(lake: Lake) -> None:
    for timepoint in ("V00", "V01"):
        ingest(
            lake,
            timepoint,
            label_files=[label(number, f"l{number}", timepoint) for number in (1000001, 1000002)],
            scans=[scan(1000001, "MSME", "m", timepoint), scan(1000001, "DESS", "d", timepoint)],
        )
    assert len(run_segmentation(lake)) == 4
    assert len(run_maps(lake)) == 4
    assert lake.sql("SELECT knee_visit, timepoint FROM biomarkers ORDER BY ALL").rows() == [
        ("1000001_RIGHT_V00", "V00"),
        ("1000001_RIGHT_V01", "V01"),
        ("1000002_RIGHT_V00", "V00"),
        ("1000002_RIGHT_V01", "V01"),
    ]
    status = lake.status("c", "1", "c", "1")
    assert status["timepoint"].to_list() == ["V00", "V01"]
    row = status.row(0, named=True)
    assert row == {
        "timepoint": "V00",
        "n_scanned": 1,
        "n_with_msme": 1,
        "n_labelled": 2,
        "n_segmented": 2,
        "n_mapped": 2,
        "n_mapped_with_t2": 0,
        "n_segmentation_pending": 0,
        "n_maps_pending": 0,
        "n_quarantined": 0,
    }
    batches = lake.sql("FROM batches ORDER BY batch_number")
    assert batches["batch_number"].to_list() == [1, 2, 3, 4, 5, 6]
    assert batches["n_knee_visit"].to_list() == [2] * 6


def test_pending_is_what_changed(lake: Lake) -> None:
    ingest(lake, label_files=[label(number, f"l{number}") for number in (1000001, 1000002)])
    assert len(run_segmentation(lake)) == len(run_maps(lake)) == 2
    # Nothing new: nothing to do.
    assert run_segmentation(lake) == run_maps(lake) == []
    before = all_files(lake.root)
    assert run_maps(lake) == []
    assert all_files(lake.root) == before
    # One new knee: exactly that.
    ingest(lake, label_files=[label(1000003, "l3")])
    assert run_segmentation(lake) == run_maps(lake) == ["1000003_RIGHT_V00"]
    # The T2 scan comes later: segmentation stands, the maps are computed again.
    assert not lake.sql("SELECT has_t2 FROM maps_index WHERE knee_visit = ?", [VISIT])["has_t2"][0]
    ingest(lake, scans=[scan(1000001, "MSME", "m")])
    assert run_segmentation(lake) == []
    assert run_maps(lake) == [VISIT]
    assert lake.sql("SELECT has_t2 FROM maps_index WHERE knee_visit = ?", [VISIT])["has_t2"][0]
    # Other parameters or code: everything.
    assert lake.pending("maps", "other", "1").height == 3
    assert lake.pending("maps", "c", "2").height == 3
    assert lake.pending("maps", "c", "2", timepoint="V01").height == 0
    assert lake.pending("segmentation", "c", "1").height == 0


def test_the_fingerprint_is_the_same_in_sql_and_in_python(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")], scans=[scan(1000001, "MSME", "m")])
    pending = lake.pending("segmentation", "c", "1")
    expected = hashlib.sha256(b"l|mskt|-|c|1").hexdigest()
    assert pending["input_fingerprint"].to_list() == [expected]
    assert input_fingerprint(["l", "mskt", None], "c", "1") == expected
    run_segmentation(lake)
    pending = lake.pending("maps", "c", "1")
    expected = input_fingerprint(["l", "mskt", None, "m"], "c", "1")
    assert pending["input_fingerprint"].to_list() == [expected]


def test_a_corrected_input_replaces_and_history_stays(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "wrong"), label(1000002, "good")])
    run_segmentation(lake)
    run_maps(lake, mean=1.0)
    ingest(lake, label_files=[label(1000001, "right")])
    assert run_segmentation(lake) == [VISIT]
    run_maps(lake, mean=3.0)
    means = lake.sql("SELECT mean FROM biomarkers ORDER BY knee_visit")["mean"].to_list()
    assert means == [3.0, 1.0]
    history = lake.sql(
        "SELECT mean FROM biomarkers_history WHERE knee_visit = ? ORDER BY batch_number", [VISIT]
    )
    assert history["mean"].to_list() == [1.0, 3.0]
    # Back to the first label: it is computed again, since what counts is the newest attempt.
    ingest(lake, label_files=[label(1000001, "wrong")])
    assert run_segmentation(lake) == run_maps(lake, mean=1.0) == [VISIT]


def test_a_corrected_input_that_is_refused_leaves_no_stale_number(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "good"), label(1000002, "good")])
    run_segmentation(lake)
    run_maps(lake)
    ingest(lake, label_files=[label(1000001, "worse")])
    fingerprint = lake.pending("segmentation", "c", "1")["input_fingerprint"][0]
    with lake.batch("segmentation", "V00", "1", "c") as batch:
        batch.add("quarantine", [refusal(1000001, "segmentation", "label.nrrd")])
        batch.add("ledger", [ledger(VISIT, "segmentation", fingerprint, "quarantined")])
    for table in ("segmentations", "maps_index", "biomarkers", "biomarkers_wide"):
        visits = lake.sql(f"SELECT knee_visit FROM {table}")["knee_visit"].to_list()
        assert visits == ["1000002_RIGHT_V00"], table
    assert lake.sql("SELECT reason FROM quarantine")["reason"].to_list() == ["truncated_file"]
    assert lake.status("c", "1", "c", "1")["n_quarantined"].to_list() == [1]
    # It is not tried again until it changes.
    assert run_segmentation(lake) == run_maps(lake) == []
    # The first label again: its maps count again without being computed.
    ingest(lake, label_files=[label(1000001, "good")])
    assert run_segmentation(lake) == [VISIT]
    assert run_maps(lake) == []
    assert lake.sql("SELECT count(*) AS n FROM biomarkers")["n"][0] == 2
    assert lake.sql("FROM quarantine").height == 0
    assert lake.sql("FROM quarantine_history").height == 1


def test_a_refusal_at_ingest_stands_until_the_knee_is_delivered(lake: Lake) -> None:
    with lake.batch("ingest", "V00", "1", "c") as batch:
        batch.add("quarantine", [refusal(1000001, "ingest", "a.zip")])
        batch.add("quarantine", [refusal(None, "ingest", "b.zip", "unknown")])
        batch.add("scans", [scan(1000001, "DESS", "d")])
    assert lake.sql("FROM quarantine").height == 2
    with lake.batch("ingest", "unknown", "1", "c") as batch:
        batch.add("quarantine", [refusal(None, "ingest", "b.zip", "unknown")])
    ingest(lake, scans=[scan(1000001, "MSME", "m")])
    left = lake.sql("SELECT knee_visit, file, timepoint FROM quarantine").rows()
    assert left == [(None, "b.zip", "unknown")]
    assert lake.sql("FROM quarantine_history").height == 3


def test_an_error_inside_discards_everything(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    before = all_files(lake.root)
    with (
        pytest.raises(RuntimeError, match="boom"),
        lake.batch("maps", "V00", "1", "c") as batch,
    ):
        batch.add_map_part("femur", part([1000001]))
        batch.add("biomarkers", [biomarker(1000001)])
        raise RuntimeError("boom")
    assert all_files(lake.root) == before
    assert list((lake.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ([("biomarkers", [biomarker(1000001)])], "does not list it as done"),
        (
            [
                ("biomarkers", [biomarker(1000001)]),
                ("ledger", [ledger(VISIT, "maps", "f", "quarantined")]),
            ],
            "does not list it as done",
        ),
        ([("ledger", [ledger(VISIT, "maps", "f")]) for _ in range(2)], "in this batch twice"),
        ([("ledger", [ledger(VISIT, "segmentation", "f")])], "has step segmentation"),
        ([("scans", [scan(1000001, "DESS", "d")])], "written by step ingest"),
        ([("biomarkers", [biomarker(1000001, timepoint="V01")])], "in a batch of V00"),
        ([("batches", [])], "no table batches to write to"),
        ([("biomarkers", [biomarker(1000001, mean=99.0)])], "expected 0 to 15 mm"),
    ],
)
def test_a_batch_that_does_not_add_up_is_refused(lake: Lake, add: list, message: str) -> None:
    with pytest.raises(SchemaError, match=message), lake.batch("maps", "V00", "1", "c") as batch:
        for table, rows in add:
            batch.add(table, rows)
    assert lake.sql("FROM batches").height == 0
    assert lake.sql("FROM ledger").height == 0


def test_an_empty_batch_leaves_no_trace(lake: Lake) -> None:
    with lake.batch("ingest", "V00", "1", "c") as batch:
        batch.add("scans", [])
    assert batch.batch_id is None
    assert lake.sql("FROM batches").height == 0


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name, order in (("a", (1000001, 1000002)), ("b", (1000002, 1000001))):
        lake = Lake(tmp_path / name)
        ingest(lake, label_files=[label(number, f"l{number}") for number in order])
        run_segmentation(lake)
        run_maps(lake)
        files.append(all_files(lake.root))
    assert files[0] == files[1]
    assert any(name.startswith("maps/timepoint=V00/bone=femur/part-") for name in files[0])


def _hold(root: Path, ready, done) -> None:
    with Lake(root).batch("ingest", "V00", "1", "c") as batch:
        batch.add("label_files", [label(1000001, "l")])
        ready.set()
        done.wait(30)


def test_a_second_writer_waits_or_is_told(lake: Lake) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(lake.root, ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(LakeBusyError, match=f"by process {holder.pid}"),
            lake.batch("ingest", "V01", "1", "c", wait_s=0.2),
        ):
            pass
        # A reader is never kept out.
        assert lake.sql("FROM label_files").height == 0
        done.set()
        ingest(lake, "V01", label_files=[label(1000002, "l", "V01")])
    finally:
        done.set()
        holder.join()
    assert holder.exitcode == 0
    rows = lake.sql("SELECT timepoint, batch_number FROM label_files_history ORDER BY ALL").rows()
    assert rows == [("V00", 1), ("V01", 2)]


def test_a_query_sees_one_moment(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    with lake.connect() as connection:
        ingest(lake, label_files=[label(1000002, "l")])
        assert connection.execute("SELECT count(*) FROM label_files").fetchone() == (1,)
    assert lake.sql("FROM label_files").height == 2


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO 'out.csv'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW biomarkers",
        "SELECT 1; SELECT 2",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "EXPORT DATABASE 'out'",
        "SELEC 1",
        "",
    ],
)
def test_sql_is_read_only(lake: Lake, query: str) -> None:
    with pytest.raises(LakeError):
        lake.sql(query)


@pytest.mark.parametrize(
    "query", ["SUMMARIZE biomarkers", "DESCRIBE scans", "EXPLAIN FROM scans", "SHOW TABLES"]
)
def test_sql_may_look_around(lake: Lake, query: str) -> None:
    assert lake.sql(query).height > 0


def test_sql_pivots(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l"), label(1000002, "l")])
    wide = lake.sql("PIVOT label_files ON scheme USING count(*) GROUP BY timepoint")
    assert wide.to_dicts() == [{"timepoint": "V00", "mskt": 2}]


def test_a_catalog_for_other_clients(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "catalog.duckdb"
    lake.write_catalog(path)
    ingest(lake, label_files=[label(1000001, "l")])
    lake.write_catalog(path)
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT knee_visit FROM label_files").fetchall() == [(VISIT,)]
    assert [entry.name for entry in tmp_path.glob("catalog*")] == ["catalog.duckdb"]


def test_any_delta_reader_opens_a_table(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    table = lake.root / "tables" / "label_files"
    assert pl.read_delta(str(table))["knee_visit"].to_list() == [VISIT]


def test_maps_of_many_knees_are_read_when_looked_at(lake: Lake) -> None:
    for timepoint, numbers in (("V00", (1000001, 1000002, 1000003)), ("V01", (1000004,))):
        ingest(lake, timepoint, label_files=[label(one, "l", timepoint) for one in numbers])
    run_segmentation(lake)
    run_maps(lake)
    ingest(lake, label_files=[label(1000002, "corrected")])
    run_segmentation(lake)
    run_maps(lake)
    rho = lake.maps("femur", "bone_shape")
    assert rho.dims == ("knee", "phi", "theta")
    assert not isinstance(rho.variable._data, np.ndarray)
    assert rho["subject_id"].values.tolist() == [1000001, 1000002, 1000003, 1000004]
    assert rho["timepoint"].values.tolist() == ["V00", "V00", "V00", "V01"]
    assert rho[:, 0, 0].values.tolist() == [31.0, 32.0, 33.0, 34.0]
    assert float(rho.sel(knee="1000003_RIGHT_V00")[5, 5]) == 33.0
    chosen = rho.isel(knee=[3, 0, 1], phi=slice(4, 8), theta=[1, 9])
    assert chosen.values.tolist() == (
        np.broadcast_to(np.array([34.0, 31.0, 32.0])[:, None, None], (3, 4, 2)).tolist()
    )
    assert lake.maps("femur", "coverage", "V01").shape == (1, 16, 16)
    one = lake.knee_maps("1000002_RIGHT_V00")["femur"]
    assert one.knees[0].subject_id == 1000002
    row = lake.sql("FROM maps_index WHERE subject_id = 1000002").row(0, named=True)
    assert read_map(lake.root, row).content_hash == one.content_hash
    with pytest.raises(LakeError, match="no such maps"):
        lake.maps("tibia", "bone_shape")
    with pytest.raises(LakeError, match="not a map"):
        lake.maps("femur", "thickness")
    with pytest.raises(LakeError, match="no maps of"):
        lake.knee_maps("1000009_RIGHT_V00")


def test_checks_count_what_another_client_broke(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    run_segmentation(lake)
    run_maps(lake)
    assert lake.check("biomarkers")["n_failed"].sum() == 0
    path = delta.live_files(lake.root, TABLES["biomarkers"])[0].path
    pl.read_parquet(path, hive_partitioning=False).with_columns(mean=pl.lit(99.0)).write_parquet(
        path
    )
    failed = lake.check("biomarkers", "V00").filter(pl.col("n_failed") > 0)
    assert failed["check"].to_list() == ["cartilage_thickness_in_range"]
    assert lake.check("biomarkers", "V01")["n_failed"].sum() == 0


def test_the_data_version_changes_with_the_rows_only(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    first = lake.data_version("label_files", "V00")
    ingest(lake, "V01", label_files=[label(1000001, "l", "V01")])
    assert lake.data_version("label_files", "V00") == first
    ingest(lake, label_files=[label(1000002, "l")])
    assert lake.data_version("label_files", "V00") != first


@pytest.mark.parametrize("root", ["s3://bucket/lake", "/tmp/la*ke", "https://host/lake"])
def test_a_root_that_cannot_hold_a_lake_is_refused(root: str) -> None:
    with pytest.raises(LakeError, match=r"only local folders|must not hold"):
        Lake(root)


def test_a_root_may_hold_spaces_and_quotes(tmp_path: Path) -> None:
    lake = Lake((tmp_path / "o'brien lake=1").as_uri())
    ingest(lake, label_files=[label(1000001, "l")])
    run_segmentation(lake)
    run_maps(lake)
    assert lake.sql("FROM label_files").height == 1
    assert lake.maps("femur", "bone_shape").shape == (1, 16, 16)


def test_a_newer_lake_is_refused(lake: Lake) -> None:
    ingest(lake, label_files=[label(1000001, "l")])
    (lake.root / "lake.json").write_text('{"format_version": 99}')
    with pytest.raises(LakeError, match="install a newer kneelake"):
        Lake(lake.root)


def test_waiting_for_a_writer_ends(lake: Lake) -> None:
    started = time.monotonic()
    with (
        lake.batch("ingest", "V00", "1", "c"),
        pytest.raises(LakeBusyError),
        lake.batch("ingest", "V00", "1", "c", wait_s=0.1),
    ):
        pass
    assert time.monotonic() - started < 30
