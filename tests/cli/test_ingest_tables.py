"""Clinical tables through the command line: what is said to people and to programs."""

import json
from pathlib import Path

import pytest

from dagster_project.cli import main

HEADER = "ID|SIDE|READPRJ|VERSION|V03XRKL|V03XRJSM|V03XRJSL\r\n"


def test_ingest_takes_tables_and_says_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    monkeypatch.setenv("KNEELAKE_ROOT", str(tmp_path / "lake"))
    monkeypatch.setenv("KNEELAKE_INBOX", str(inbox))
    table = inbox / "kXR_SQ_BU03.txt"
    table.write_text(HEADER + "1000001|1|15|0.8|2|1|0\r\n", newline="")
    (inbox / "kxr_sq_bu05.txt").write_text("")
    assert main(["ingest"]) == 0
    said = capsys.readouterr().out
    assert "clinical tables: 1 files landed, 0 unchanged, 0 not used, 1 refused" in said
    assert "radiographs: 1 rows added, 0 changed, 0 retracted" in said
    assert "empty_file: inbox/kxr_sq_bu05.txt" in said

    table.write_text(HEADER + "1000001|1|15|0.8|3|1|0\r\n", newline="")
    assert main(["ingest", str(table), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["clinical"]["changes"] == {
        "radiographs": {"added": 0, "changed": 1, "retracted": 0}
    }
    assert [row["source_table"] for row in said["clinical"]["landed"]] == ["kxr_sq_bu"]
    assert said["landed"] == said["quarantined"] == []
