import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from imaging.archive import delivery_files, short_name
from imaging.errors import BadInputError, Reason

CONTENT = {"a/001": b"first", "a/b/002": b"second"}


def refusal(path: Path, **keywords) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        list(delivery_files(path, **keywords))
    assert caught.value.remedy
    return caught.value


def make_zip(path: Path, content=CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_folder_zip_and_tar_give_the_same_contents(tmp_path: Path):
    folder = tmp_path / "delivery"
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    sources = [
        folder,
        make_zip(tmp_path / "x.zip"),
        make_tar(tmp_path / "x.tar", CONTENT.items()),
        make_tar(tmp_path / "x.tar.gz", CONTENT.items()),
        make_tar(tmp_path / "x.TGZ", CONTENT.items()),
    ]
    for source in sources[:-1]:
        contents = sorted(file.content for file in delivery_files(source))
        assert contents == [b"first", b"second"], source


def test_clutter_is_left_out_but_unknown_files_are_not(tmp_path: Path):
    for name in (".DS_Store", "DICOMDIR", "Thumbs.db", "notes.txt", "__MACOSX/001", ".git/x", "IM"):
        file = tmp_path / "delivery" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    assert [file.name for file in delivery_files(tmp_path / "delivery")] == ["delivery/IM"]


def test_missing_path(tmp_path: Path):
    assert refusal(tmp_path / "nowhere").reason is Reason.MISSING_INPUT


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_archive(tmp_path: Path, name: str, damage: str):
    path = tmp_path / name
    content = {f"{i:03d}": bytes(range(256)) * 40 for i in range(6)}
    if name.endswith("zip"):
        make_zip(path, content)
    else:
        make_tar(path, content.items())
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "noise": b"noise" * 999, "empty": b""}[damage]
    )
    error = refusal(path)
    assert error.reason is Reason.BAD_ARCHIVE
    assert name in str(error)


def test_encrypted_zip(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    # Set the "encrypted" flag in each central and local header.
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(signature, start + 4)
    path.write_bytes(content)
    assert refusal(path).reason is Reason.BAD_ARCHIVE


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "..\\evil"])
def test_path_traversal_is_refused_and_nothing_is_written(tmp_path: Path, name: str):
    inside = tmp_path / "deep" / "inbox"
    inside.mkdir(parents=True)
    for path in (
        make_zip(inside / "x.zip", {"001": b"good", name: b"evil"}),
        make_tar(inside / "x.tar.gz", [("001", b"good"), (name, b"evil")]),
    ):
        error = refusal(path)
        assert error.reason is Reason.UNSAFE_ARCHIVE
        assert "evil" not in str(error)
    written = sorted(file.name for file in tmp_path.rglob("*") if file.is_file())
    assert written == ["x.tar.gz", "x.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes):
    info = tarfile.TarInfo("link")
    info.type = kind
    info.linkname = "/etc/passwd"
    assert refusal(make_tar(tmp_path / "x.tar", [(info, b"")])).reason is Reason.UNSAFE_ARCHIVE


def test_link_in_a_zip_is_refused(tmp_path: Path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert refusal(path).reason is Reason.UNSAFE_ARCHIVE


def test_bombs_are_refused(tmp_path: Path):
    zeros = bytes(4 * 1024**2)
    for path in (
        make_zip(tmp_path / "x.zip", {"001": zeros}),
        make_tar(tmp_path / "x.tar.gz", [("001", zeros)]),
    ):
        assert path.stat().st_size < 50_000
        assert refusal(path, max_bytes=1024**2).reason is Reason.UNSAFE_ARCHIVE
        assert len(list(delivery_files(path, max_bytes=5 * 1024**2))) == 1


def test_a_bomb_in_a_tar_header_is_refused(tmp_path: Path):
    info = tarfile.TarInfo("001")
    info.pax_headers = {"comment": "x" * (8 * 1024**2)}
    raw = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(raw))
    assert refusal(path, max_bytes=1024**2).reason is Reason.UNSAFE_ARCHIVE


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/data/0.C.2/9000001/20040909/10123456/001", "10123456/001"),
        ("/data/9000001/20040909/10123456.tar.gz", "<date>/10123456.tar.gz"),
        ("/data/2015-04-07/knee_20150407.dcm", "<date>/knee_<date>.dcm"),
        ("001", "001"),
        ("/001", "001"),
        ("C:\\data\\20040909\\001", "<date>/001"),
    ],
)
def test_short_name_keeps_two_parts_and_no_date(path: str, shown: str):
    assert short_name(path) == shown
