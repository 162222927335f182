"Archives that mean harm, or have come to it, are refused by name and leave nothing outside their folder."

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import MAX_BYTES, tar, tree, zipped

import npt.data.unpack
from npt.data.unpack import _unpack

ESCAPES = "../escaped dtd/../../escaped /escaped //host/escaped \\escaped ..\\escaped C:\\escaped C:escaped".split()


@pytest.mark.parametrize("make, suffix, name", [*((tar, "tar.gz", name) for name in ESCAPES), (zipped, "zip", "../escaped")])
def test_a_member_outside_is_refused_by_name(make, suffix, name, tmp_path):
    (tmp_path / f"archive.{suffix}").write_bytes(make(("dtd/a.jpg", b"1"), (name, b"2")))
    with pytest.raises(ValueError, match="outside the folder") as caught:
        _unpack(tmp_path / f"archive.{suffix}", tmp_path / "to" / "here", MAX_BYTES)
    assert repr(name) in str(caught.value)
    assert sorted(tree(tmp_path)) == [f"archive.{suffix}", "to/here/dtd/a.jpg"]


@pytest.mark.parametrize("content, suffix, message", [
    (tar(("dtd/a", b""), attributes=dict(type=tarfile.SYMTYPE, linkname="/")), "tar.gz", "'dtd/a' is a link"),
    (tar(("dtd/a", b""), attributes=dict(type=tarfile.SYMTYPE, linkname="b")), "tar.gz", "'dtd/a' is a link"),
    (tar(("b", b""), ("dtd/a", b""), attributes=dict(type=tarfile.LNKTYPE, linkname="b")), "tar.gz", "'dtd/a' is a link"),
    (tar(("dtd/a", b""), attributes=dict(type=tarfile.CHRTYPE)), "tar.gz", "'dtd/a' is a device"),
    (tar(("dtd/a", b""), attributes=dict(type=tarfile.BLKTYPE)), "tar.gz", "'dtd/a' is a device"),
    (tar(("dtd/a", b""), attributes=dict(type=tarfile.FIFOTYPE)), "tar.gz", "'dtd/a' is a device"),
    (tar(("dtd/a", b"1"), ("dtd/./a", b"2")), "tar.gz", "'dtd/./a' would replace another"),
    (tar(("dtd/a", b"1"), ("dtd/a/b", b"2")), "tar.gz", "'dtd/a/b' would replace another"),
    (tar(("dtd/a/b", b"1"), ("dtd/a", b"2")), "tar.gz", "'dtd/a' would replace another"),
    (tar(("dtd/a", bytes(10**7))), "tar.gz", "far more than expected"),
    (tar(*[(f"dtd/{n}", b"") for n in range(2000)]), "tar.gz", "far more than expected"),
    (tar(("dtd/a", b"1"), mode="w", attributes=dict(pax_headers={"comment": "a" * 10**6})), "tar", "far more than expected"),
    (zipped(("dtd/a", b"/"), mode=stat.S_IFLNK | 0o777), "zip", "'dtd/a' is a link"),
    (zipped(("dtd/a", b""), mode=stat.S_IFCHR | 0o666), "zip", "'dtd/a' is a device"),
    (zipped(("dtd/a", b""), mode=stat.S_IFIFO | 0o666), "zip", "'dtd/a' is a device"),
    (zipped(("dtd/a", b"1"), ("dtd/a", b"2")), "zip", "'dtd/a' would replace another"),
    (tar(("dtd/a", b"1"), ("", b"2")), "tar.gz", "member number 2 has the name '', which is none"),
    (tar(("./.", b"2")), "tar.gz", "member number 1 has the name './.', which is none"),
    (zipped(("dtd/a", b"1"), ("", b"2")), "zip", "member number 2 has the name '', which is none"),
    (zipped(("dtd/a", bytes(10**7))), "zip", "far more than expected"),
], ids=lambda value: value if isinstance(value, str) else "")  # an archive holds the time at which it was made
def test_hostile_members_are_refused_by_name(content: bytes, suffix: str, message: str, tmp_path: Path):
    archive = tmp_path / f"archive.{suffix}"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _unpack(archive, tmp_path / "here", max_bytes=10**6)
    assert sum(map(len, tree(tmp_path / "here").values())) <= 10**6
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_a_zip_that_lies_about_its_sizes_unpacks_to_no_more_than_it_says(tmp_path: Path):
    content = bytearray(zipped(("dtd/a", bytes(10**7))))
    true, lie = (10**7).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert content.count(true) == 2  # in the file's own header and in the list of contents
    (tmp_path / "bomb.zip").write_bytes(content.replace(true, lie))
    with pytest.raises(ValueError, match="damaged"):
        _unpack(tmp_path / "bomb.zip", tmp_path / "here", max_bytes=10**6)
    assert sum(map(len, tree(tmp_path / "here").values())) <= 10


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(npt.data.unpack, "_MAX_MEMBERS", 3)
    (tmp_path / "archive.zip").write_bytes(zipped(*[(f"{n}", b"") for n in range(4)]))
    with pytest.raises(ValueError, match="more than 3 members"):
        _unpack(tmp_path / "archive.zip", tmp_path / "here", MAX_BYTES)


@pytest.mark.parametrize("damage", [
    lambda data: data[:1200],  # in the middle of a file
    lambda data: data[:1536],  # behind a file
    lambda data: data[:1700],  # in the middle of a header
    lambda data: data[:1536] + b"?" * 512 + data[2048:],  # not a header
])
def test_a_plain_tar_that_ends_early_is_refused(damage: Callable, tmp_path: Path):
    "Python's tarfile takes the last three for the end of the archive."
    data = tar(("a", b"1" * 1000), ("b", b"2" * 70_000), ("c", b"3" * 512), mode="w")
    assert data[1536:1537] == b"b"
    (tmp_path / "archive.tar").write_bytes(damage(data))
    with pytest.raises(ValueError, match="damaged"):
        _unpack(tmp_path / "archive.tar", tmp_path / "here", MAX_BYTES)


def test_owners_and_modes_of_an_archive_are_dropped(tmp_path: Path):
    (tmp_path / "odd.tar.gz").write_bytes(tar(("a", b"1"), mode="w:gz", attributes=dict(uid=12345, mode=0o6777)))
    _unpack(tmp_path / "odd.tar.gz", tmp_path / "here", MAX_BYTES)
    written = (tmp_path / "here" / "a").stat()
    assert not written.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR) and written.st_uid == os.getuid()


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_told_in_one_sentence(kind: int, tmp_path: Path):
    "However it is packed."
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", kind) as file:
        file.writestr("a.jpg", os.urandom(3000))
    content = (tmp_path / "archive.zip").read_bytes()
    for place in range(40, 1500, 70):
        (tmp_path / "archive.zip").write_bytes(content[:place] + bytes(60) + content[place + 60:])
        with pytest.raises(ValueError, match="^archive.zip is damaged") as caught:
            _unpack(tmp_path / "archive.zip", tmp_path / str(place), MAX_BYTES)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("make, suffix", [(tar, "tar.gz"), (zipped, "zip")])
def test_a_name_of_pages_is_told_in_a_line(make, suffix, tmp_path):
    (tmp_path / f"archive.{suffix}").write_bytes(make(("a" * 50_000, b"1")))
    with pytest.raises(ValueError, match=f"archive.{suffix} is damaged, or not an archive: .*File name too long") as caught:
        _unpack(tmp_path / f"archive.{suffix}", tmp_path / "to", MAX_BYTES)
    assert len(str(caught.value)) < 600
