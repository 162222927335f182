"Datasets fetched from a server of this machine's own, with its bad days; hostile archives; broken images; the command line."

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gdown
import pytest
from conftest import ROOT
from miniature import CLASSNAMES, PUBLISHED, make_mirror, make_tree, miniature_record, picture
from PIL import Image
from server import HANGS, Server, serve

from npt import prepare as room
from npt.data.datasets import DATASETS, DatasetRecord, Download
from npt.data.formats import _SPLITS, _image_folder, read_rows
from npt.data.check_images import broken_images
from npt.data.cli import datasets_table, prepare_command
from npt.data.download import download_file
from npt.data.prepare import _DOWNLOADS, _PREPARED, dataset_state, prepare
from npt.data.unpack import unpack

MOST = 10**8
SPLIT = json.dumps({split: [["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "b"]] for split in _SPLITS})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    "A data_root that is not there yet."
    return tmp_path / "a data root"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    "The servers are on this machine, whatever stands between it and the others."
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    "The pauses between attempts, which nobody waits for here."
    waited = []
    monkeypatch.setattr(room.time, "sleep", waited.append)
    return waited


@pytest.fixture
def mirrored(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DatasetRecord]:
    "Serves a dataset's miniature, and makes its record one of the miniature's size and checksums."

    def serve_dataset(name: str, **changes: object) -> DatasetRecord:
        record = replace(make_mirror(name, server.folder), **changes)
        monkeypatch.setitem(_PREPARED, name, record)
        return record

    return serve_dataset


def one_file(name: str, content: bytes, server: Server, monkeypatch: pytest.MonkeyPatch, **changes: object) -> DatasetRecord:
    "Serve one archive of dtd, and make it all that dtd is made of."
    path = server.folder / "dtd" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    download = replace(Download(f"{server.url}/dtd/{name}", name, len(content), "dtd/images"), **changes)
    record = replace(DATASETS["dtd"], downloads=(download,))
    monkeypatch.setitem(_PREPARED, "dtd", record)
    return record


def tar(*members: tuple[str, bytes], mode: str = "w:gz", attributes: dict[str, object] | None = None) -> bytes:
    "A tar file; `attributes`, as of a TarInfo, are set on the last member."
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as file:
        for number, (name, content) in enumerate(members, 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (attributes or {}).items() if number == len(members) else ():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    "A zip file; `mode`, as of a file system, is set on the last member."
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for number, (name, content) in enumerate(members, 1):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode if number == len(members) else 0) << 16
            file.writestr(info, content)
    return data.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    "All files under a folder but those of npt's own download folder, and what they hold."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and _DOWNLOADS not in path.parts}


def left_behind(root: Path) -> list[Path]:
    "What an interrupted or a finished preparation left over."
    return [path for path in root.rglob("*") if path.is_file() and _DOWNLOADS in path.parts and path.name != ".lock"
            or path.name.startswith(".npt-unpacking")]


# all fifteen


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_dataset_comes_from_a_mirror(name, server, mirrored, root, tmp_path, monkeypatch):
    record = mirrored(name)

    def unpacked(*arguments: object) -> None:
        before = dataset_state(record, root)
        unpack(*arguments)
        assert dataset_state(record, root) == before, "what is not complete has its final name"

    monkeypatch.setattr(room, "unpack", unpacked)
    assert dataset_state(record, root).word == "missing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CoOp's split files, which no mirror here has
        folder = prepare(name, root, mirror=server.url)
        rows = read_rows(record, root)
    assert dataset_state(record, root).word == "ready" and folder == root / record.folder
    names = {row.label: row.classname for split in _SPLITS for row in rows[split]}
    assert [names[label] for label in range(len(names))] == CLASSNAMES[name]
    make_tree(name, tmp_path / "true")
    found, true = tree(root), tree(tmp_path / "true")
    assert not {path for path in true if not path.endswith("classnames.txt")} - set(found)
    undated = [path for path in found if not path.endswith(".mat")]
    assert all(true.get(path, found[path]) == found[path] for path in undated)
    assert not left_behind(root)


def test_a_tree_that_is_there_is_neither_fetched_nor_touched(server: Server, mirrored: Callable, root: Path):
    record = mirrored("dtd")
    folder = make_tree("dtd", root)
    (folder / "split_zhou_DescribableTextures.json").write_text(SPLIT)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert prepare("dtd", root, mirror=server.url) == folder
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not server.log and dataset_state(record, root).word == "ready"


def test_a_second_call_asks_for_nothing_that_the_first_one_got(server: Server, mirrored: Callable, root: Path):
    mirrored("fgvc_aircraft")
    prepare("fgvc_aircraft", root, mirror=server.url)
    asked = server.counts()
    prepare("fgvc_aircraft", root, mirror=server.url)
    assert server.counts() == asked == {"fgvc_aircraft/fgvc-aircraft-2013b.tar.gz": 1}


# bad connections


@pytest.fixture
def large(server: Server) -> bytes:
    "Three megabytes that are served as `large`."
    content = os.urandom(3_000_000)
    (server.folder / "large").write_bytes(content)
    return content


def test_a_cut_download_goes_on_where_it_stopped(server: Server, large: bytes, tmp_path: Path):
    server.troubles["large"] = [1_500_000]
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large
    asked = [span for _, span in server.log]
    assert asked[:2] == [None, None], "gdown asks for the size first, and reads no further"
    assert [int(span.removeprefix("bytes=").removesuffix("-")) for span in asked[2:]] == [2 << 19]


def test_another_process_goes_on_from_what_the_first_one_left(server: Server, large: bytes, tmp_path: Path):
    server.troubles["large"] = [1_500_000, *[-503] * 10]
    with pytest.raises(ConnectionError, match="503"):
        download_file(f"{server.url}/large", tmp_path / "large", MOST)
    [part] = tmp_path.glob("large*.part")
    assert part.read_bytes() == large[: 2 << 19]
    server.troubles.clear()
    server.log.clear()
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large and server.log == [("large", None), ("large", f"bytes={2 << 19}-")]


def test_many_cuts_are_no_reason_to_give_up_while_bytes_arrive(server: Server, large: bytes, tmp_path: Path, waits: list):
    server.troubles["large"] = [600_000, None, 1_200_000, None, 1_700_000, None, 2_200_000, None, 2_700_000]
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large and len(waits) == 5


def test_a_server_without_ranges_is_asked_for_all_again(server: Server, large: bytes, tmp_path: Path):
    server.ranges, server.troubles["large"] = False, [1_500_000]
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large
    assert not list(tmp_path.glob("large*.part"))


def test_a_server_that_always_cuts_is_given_up(server: Server, large: bytes, tmp_path: Path):
    server.ranges, server.troubles["large"] = False, [1_500_000] * 100
    with pytest.raises(ConnectionError, match="could not be fetched"):
        download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert len(server.log) < 20


def test_a_partial_file_that_is_whole_does_not_block_the_download(server: Server, large: bytes, tmp_path: Path):
    "As after a crash between the last byte and the renaming: the server has nothing left to send and answers 416."
    (tmp_path / "large12345678.part").write_bytes(large)
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large


def test_a_busy_server_is_asked_again_after_longer_and_longer_pauses(server, large, tmp_path, waits):
    server.troubles["large"] = [-503, -429, -500]
    download_file(f"{server.url}/large", tmp_path / "large", MOST)
    assert (tmp_path / "large").read_bytes() == large and waits == sorted(set(waits)) and len(waits) == 3


def test_a_clear_no_is_not_asked_again(server: Server, tmp_path: Path):
    with pytest.raises(ConnectionError, match="404"):
        download_file(f"{server.url}/nothing", tmp_path / "nothing", MOST)
    assert len(server.log) == 1


def test_what_google_drive_refuses_is_said_in_one_line_and_not_asked_again(monkeypatch, tmp_path: Path, waits: list):
    def refused(*arguments: object, **options: object) -> None:
        raise gdown.exceptions.FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users have viewed it.")

    monkeypatch.setattr(gdown, "download", refused)
    with pytest.raises(ConnectionError, match="fetched: Failed to retrieve file url: Too many users have viewed it."):
        download_file("https://drive.google.com/uc?id=1", tmp_path / "file", MOST)
    assert not waits


def test_a_server_that_sends_without_end_is_stopped(server: Server, large: bytes, tmp_path: Path):
    with pytest.raises(ValueError, match="far more than expected"):
        download_file(f"{server.url}/large", tmp_path / "large", most=1_000_000)


def test_a_dataset_of_two_halves(server: Server, monkeypatch: pytest.MonkeyPatch, root: Path):
    "Its first process is cut off and finds nobody any more; the second fetches only the rest, and unpacks."
    content = tar(("dtd/images/a/1.jpg", os.urandom(3_000_000)))
    record = one_file("dtd-r1.0.1.tar.gz", content, server, monkeypatch, md5=hashlib.md5(content).hexdigest())
    server.troubles["dtd/dtd-r1.0.1.tar.gz"] = [1_500_000, *[-503] * 10]
    with pytest.raises(ConnectionError):
        prepare("dtd", root)
    assert dataset_state(record, root).word == "partial" and not (root / "dtd" / "images").exists()
    server.troubles.clear()
    server.log.clear()
    prepare("dtd", root)
    assert [span for _, span in server.log] == [None, f"bytes={2 << 19}-"]
    assert dataset_state(record, root).word == "ready" and not left_behind(root)


def test_halves_from_two_addresses_are_not_joined(server: Server, monkeypatch: pytest.MonkeyPatch, root: Path):
    content = tar(("dtd/images/a/1.jpg", os.urandom(3_000_000)))
    one_file("dtd.tar.gz", content, server, monkeypatch)
    server.troubles["dtd/dtd.tar.gz"] = [1_500_000, *[-503] * 10]
    with pytest.raises(ConnectionError):
        prepare("dtd", root)
    server.troubles.clear()
    (server.folder / "other" / "dtd").mkdir(parents=True)
    other = tar(("dtd/images/a/1.jpg", os.urandom(3_000_000)))
    (server.folder / "other" / "dtd" / "dtd.tar.gz").write_bytes(other)
    server.log.clear()
    prepare("dtd", root, mirror=f"{server.url}/other/")
    assert server.log == [("other/dtd/dtd.tar.gz", None)] and not left_behind(root)


# no connection


def test_without_a_network_one_message_says_what_to_do(tmp_path: Path, root: Path):
    with serve(tmp_path) as server:
        closed = server.url
    with pytest.raises(ConnectionError) as caught:
        prepare("eurosat", root, mirror=closed)
    message = str(caught.value)
    assert f"{closed}/eurosat/EuroSAT.zip could not be fetched" in message
    assert _PREPARED["eurosat"].downloads[0].url in message
    assert str(root / _DOWNLOADS / "eurosat" / "EuroSAT.zip") in message
    assert f"python data_prep/prepare.py eurosat --root '{root}'" in message


def test_a_file_put_there_by_hand_needs_no_network(server: Server, mirrored: Callable, root: Path):
    record = mirrored("imagenet_a")
    folder = root / _DOWNLOADS / "imagenet_a"
    folder.mkdir(parents=True)
    shutil.copy(server.folder / "imagenet_a" / "imagenet-a.tar", folder)
    prepare("imagenet_a", root)
    assert not server.log and dataset_state(record, root).word == "ready" and not left_behind(root)


def test_a_file_without_an_address_is_asked_for(mirrored: Callable, root: Path):
    "Stanford's label lists, which only a missing split file makes necessary."
    record = mirrored("stanford_cars")
    for name in ("cars_train.tgz", "cars_test.tgz"):
        (root / _DOWNLOADS / "stanford_cars").mkdir(parents=True, exist_ok=True)
        shutil.copy(root.parent / "served" / "stanford_cars" / name, root / _DOWNLOADS / "stanford_cars")
    with serve(root.parent) as server:  # without the split file
        gone = [replace(download, url=download.url and f"{server.url}/gone") for download in record.downloads]
        _PREPARED["stanford_cars"] = replace(record, downloads=tuple(gone))
        with pytest.warns(UserWarning) as caught:
            prepare("stanford_cars", root)
    messages = [str(warning.message) for warning in caught]
    assert any("car_devkit.tgz" in m and "save a copy as" in m and "no open address" in m for m in messages), messages
    assert len(messages) == 3 and dataset_state(record, root).word == "ready"


def test_a_wrong_file_put_there_by_hand_is_left_there(mirrored: Callable, root: Path):
    mirrored("eurosat")
    path = root / _DOWNLOADS / "eurosat" / "EuroSAT.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="MD5 sum.*which was put there by hand"):
        prepare("eurosat", root)
    assert path.read_bytes() == b"something else"


def test_what_is_not_needed_only_costs_a_warning(server: Server, mirrored: Callable, root: Path):
    mirrored("eurosat")
    with pytest.warns(UserWarning, match="split_zhou_EuroSAT.json of eurosat is left out.*differ slightly") as caught:
        prepare("eurosat", root, mirror=server.url)
    assert len(caught) == 1 and str(root / _DOWNLOADS / "eurosat" / "split_zhou_EuroSAT.json") in str(caught[0].message)


def test_what_is_needed_is_fetched_first(server: Server, mirrored: Callable, root: Path):
    record = mirrored("eurosat")
    _PREPARED["eurosat"] = replace(record, downloads=record.downloads[::-1])
    (server.folder / "eurosat" / "EuroSAT.zip").unlink()
    with pytest.raises(ConnectionError, match="404"):
        prepare("eurosat", root, mirror=server.url)
    assert server.counts() == {"eurosat/EuroSAT.zip": 1}


@pytest.mark.parametrize("name", ["imagenet", "stanford_cars", "sun397"])
def test_steps_by_hand_are_said_where_nothing_can_be_fetched(name: str, root: Path):
    state = dataset_state(_PREPARED[name], root)
    assert state.word == "missing" and state.by_hand and str(root) in state.by_hand
    with pytest.raises(FileNotFoundError) as caught:
        prepare(name, root)
    assert state.by_hand in str(caught.value) and not root.exists()


# what arrives is not trusted


def test_a_wrong_checksum_is_refused_and_the_file_deleted(server: Server, mirrored: Callable, root: Path):
    record = mirrored("eurosat")
    path = server.folder / "eurosat" / "EuroSAT.zip"
    true = path.read_bytes()
    path.write_bytes(true + b"!")
    found = hashlib.md5(true + b"!").hexdigest()
    with pytest.raises(ValueError, match=f"MD5 sum {found}, and {record.downloads[0].md5} was published.*deleted"):
        prepare("eurosat", root, mirror=server.url)
    assert not left_behind(root) and dataset_state(record, root).word == "missing"
    path.write_bytes(true)
    with pytest.warns(UserWarning, match="left out"):
        prepare("eurosat", root, mirror=server.url)
    assert dataset_state(record, root).word == "ready"


@pytest.mark.parametrize("content, message", [
    (b"  <!DOCTYPE html><title>Please log in</title>", "web page"),
    (b"no archive", "damaged, or not an archive"),
    (b"", "damaged, or not an archive"),
    (tar(("dtd/images/a/1.jpg", os.urandom(30_000)))[:-9], "damaged"),
    (tar((f"dtd/{'a' * 300}", b"1")), "damaged.*name too long"),
    (tar(("dtd/images/a/1.jpg", b"1")), "does not hold food-101/images"),
])
def test_what_is_not_the_archive_is_refused_and_deleted(content, message, server, monkeypatch, root):
    one_file("food-101.tar.gz", content, server, monkeypatch, makes="food-101/images")
    with pytest.raises(ValueError, match=message):
        prepare("dtd", root)
    assert not left_behind(root) and not tree(root)


ESCAPES = "../escaped dtd/../../escaped /escaped //host/escaped \\escaped ..\\escaped C:\\escaped C:escaped".split()


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("make, suffix", [(tar, "tar.gz"), (zipped, "zip")])
def test_a_member_outside_is_refused_by_name(make, suffix, name, tmp_path):
    (tmp_path / f"archive.{suffix}").write_bytes(make(("dtd/a.jpg", b"1"), (name, b"2")))
    with pytest.raises(ValueError, match="outside the folder") as caught:
        unpack(tmp_path / f"archive.{suffix}", tmp_path / "to" / "here", MOST)
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
    (zipped(("dtd/a", bytes(10**7))), "zip", "far more than expected"),
], ids=lambda value: value if isinstance(value, str) else "")  # an archive holds the time at which it was made
def test_hostile_members_are_refused_by_name(content: bytes, suffix: str, message: str, tmp_path: Path):
    archive = tmp_path / f"archive.{suffix}"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unpack(archive, tmp_path / "here", most=10**6)
    assert sum(map(len, tree(tmp_path / "here").values())) <= 10**6
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_a_zip_that_lies_about_its_sizes_unpacks_to_no_more_than_it_says(tmp_path: Path):
    content = bytearray(zipped(("dtd/a", bytes(10**7))))
    true, lie = (10**7).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert content.count(true) == 2  # in the file's own header and in the list of contents
    (tmp_path / "bomb.zip").write_bytes(content.replace(true, lie))
    with pytest.raises(ValueError, match="damaged"):
        unpack(tmp_path / "bomb.zip", tmp_path / "here", most=10**6)
    assert sum(map(len, tree(tmp_path / "here").values())) <= 10


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(room, "MOST_MEMBERS", 3)
    (tmp_path / "archive.zip").write_bytes(zipped(*[(f"{n}", b"") for n in range(4)]))
    with pytest.raises(ValueError, match="more than 3 members"):
        unpack(tmp_path / "archive.zip", tmp_path / "here", MOST)


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
        unpack(tmp_path / "archive.tar", tmp_path / "here", MOST)


def test_owners_and_modes_of_an_archive_are_dropped(tmp_path: Path):
    (tmp_path / "odd.tar.gz").write_bytes(tar(("a", b"1"), mode="w:gz", attributes=dict(uid=12345, mode=0o6777)))
    unpack(tmp_path / "odd.tar.gz", tmp_path / "here", MOST)
    found = (tmp_path / "here" / "a").stat()
    assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR) and found.st_uid == os.getuid()


def test_a_refused_archive_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path):
    one_file("dtd.tar.gz", tar(("dtd/images/a/1.jpg", b"1"), ("../../escaped", b"2")), server, monkeypatch)
    with pytest.raises(ValueError, match="escaped"):
        prepare("dtd", root)
    assert not left_behind(root) and not tree(root) and not list(tmp_path.rglob("escaped"))


# into place


def test_what_a_user_has_put_there_stays(server: Server, mirrored: Callable, root: Path):
    record = mirrored("fgvc_aircraft")
    mine = {"variants.txt": b"mine", "images_variant_train.txt": b"mine too", "notes.txt": b"and this"}
    for name, content in mine.items():
        (root / record.folder).mkdir(parents=True, exist_ok=True)
        (root / record.folder / name).write_bytes(content)
    prepare("fgvc_aircraft", root, mirror=server.url)
    found = tree(root / record.folder)
    assert mine.items() <= found.items() and len(found) > 40


def test_an_empty_folder_is_filled_and_a_broken_link_is_named(server: Server, mirrored: Callable, root: Path):
    record = mirrored("imagenet_sketch")
    _image_folder(record, root).mkdir(parents=True)
    assert dataset_state(record, root).word == "missing"
    prepare("imagenet_sketch", root, mirror=server.url)
    assert dataset_state(record, root).word == "ready"
    mirrored("dtd")
    (root / "dtd").symlink_to(root / "gone")
    with pytest.raises(FileNotFoundError, match="is a link to .*gone, which is not there"):
        prepare("dtd", root, mirror=server.url)


def test_unpacking_that_is_killed_is_done_again(server: Server, mirrored: Callable, root: Path, monkeypatch):
    "Killed between the first and the last rename; what was left over is cleared away."
    record = mirrored("fgvc_aircraft")
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        assert not _image_folder(record, root).exists(), "what tells that the dataset is complete comes last"
        if target == _image_folder(record, root):
            raise KeyboardInterrupt
        rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("fgvc_aircraft", root, mirror=server.url)
    assert dataset_state(record, root).word == "partial" and (root / record.folder / "variants.txt").exists()
    monkeypatch.setattr(Path, "rename", rename)
    (root / record.folder / ".npt-unpacking-fgvc_aircraft" / "junk").mkdir(parents=True)
    prepare("fgvc_aircraft", root, mirror=server.url)
    assert not (root / record.folder / "junk").exists()
    assert dataset_state(record, root).word == "ready" and not left_behind(root) and set(server.counts().values()) == {1}


def test_an_inner_archive_that_was_taken_out_by_half_is_taken_out_again(server, mirrored, root):
    record = mirrored("caltech101")
    folder = root / _DOWNLOADS / "caltech101"
    folder.mkdir(parents=True)
    shutil.copy(server.folder / "caltech101" / "caltech-101.zip", folder)
    (folder / "caltech-101.zip.101_ObjectCategories.tar.gz").write_bytes(b"half of it")
    with pytest.warns(UserWarning, match="split_zhou_Caltech101.json"):
        prepare("caltech101", root, mirror=server.url)
    assert dataset_state(record, root).word == "ready" and not left_behind(root)


def test_too_little_space_is_said_before_anything_is_fetched(server, mirrored, root, monkeypatch):
    mirrored("food101")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    with pytest.raises(OSError, match="food101 needs about .*MB in .*a data root, and 5.00kB are free"):
        prepare("food101", root, mirror=server.url)
    assert not server.log and not tree(root)


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing_half_done(server, mirrored, root, monkeypatch):
    record = mirrored("food101")
    copy, copied = shutil.copyfileobj, []

    def full(*arguments: object) -> None:
        if len(copied) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copied.append(copy(*arguments))

    monkeypatch.setattr(room.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        prepare("food101", root, mirror=server.url)
    assert not tree(root) and dataset_state(record, root).word == "partial"
    monkeypatch.setattr(room.shutil, "copyfileobj", copy)
    with pytest.warns(UserWarning, match="left out"):
        prepare("food101", root, mirror=server.url)
    assert dataset_state(record, root).word == "ready" and server.counts()["food101/food-101.tar.gz"] == 1


def in_a_process(*arguments: object) -> subprocess.Popen:
    "The command line in a process of its own, which listens to Ctrl-C even where the tests run in the background."
    command = [sys.executable, ROOT / "data_prep" / "prepare.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_of_two_processes_one_works_and_the_other_waits(server: Server, root: Path):
    "UCF101's files have no checksum, so the miniature passes for the dataset in processes that know nothing of miniatures."
    make_mirror("ucf101", server.folder)
    (server.folder / "ucf101" / "split_zhou_UCF101.json").write_text(SPLIT)
    processes = [in_a_process("ucf101", "--root", root, "--mirror", server.url) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert set(server.counts().values()) == {1} and len(server.counts()) == 3
    assert all("ucf101: 2 classes" in out for out, _ in outputs) and not left_behind(root)


def test_a_waiting_process_is_told_so(server: Server, mirrored: Callable, root: Path, capsys):
    record = mirrored("imagenet_r")
    with room.alone(root / _DOWNLOADS / "imagenet_r"):
        thread = threading.Thread(target=prepare, args=("imagenet_r", root, server.url))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not server.log
    thread.join(30)
    assert dataset_state(record, root).word == "ready"
    assert "another process prepares imagenet_r: waiting for it" in capsys.readouterr().err


# links to copies


@pytest.mark.parametrize("whole", [False, True])
def test_imagenet_is_linked(whole: bool, monkeypatch, root: Path, tmp_path: Path):
    record = miniature_record("imagenet")
    record = replace(record, downloads=tuple(download for download in record.downloads if download.needed))
    monkeypatch.setitem(_PREPARED, "imagenet", record)
    folder = make_tree("imagenet", tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    for _ in range(2):
        prepare("imagenet", root, link=folder if whole else folder / "images")
    rows = read_rows(record, root)
    assert {row.classname for row in rows["test"]} == set(CLASSNAMES["imagenet"])
    assert dataset_state(record, root).word == "ready"
    assert (root / "imagenet" / "images").is_symlink() and not (root / "imagenet").is_symlink()
    (root / "imagenet" / "new.txt").write_text("a file of ours")
    assert tree(tmp_path / "elsewhere") == before


def test_a_copy_that_is_none_is_refused(root: Path, tmp_path: Path, mirrored: Callable):
    mirrored("imagenet")
    copy = make_tree("imagenet", tmp_path / "elsewhere") / "images"
    for path in (copy / "val").glob("*/*"):  # as they come out of the archive: not sorted by class
        path.rename(copy / "val" / path.name)
    for folder in (copy / "val").glob("n*"):
        folder.rmdir()
    for link in (copy, copy.parent, tmp_path / "nowhere", copy / "train"):
        with pytest.raises(ValueError, match="no copy of imagenet: it must hold train/ and val/"):
            prepare("imagenet", root, link=link)
    assert not root.exists()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "imagenet"])
def test_a_whole_copy_of_any_dataset_is_linked(name: str, mirrored: Callable, root: Path, tmp_path: Path):
    record = mirrored(name, manual="")
    record = replace(record, downloads=tuple(download for download in record.downloads if download.needed))
    _PREPARED[name] = record
    prepare(name, root, link=make_tree(name, tmp_path / "elsewhere"))
    assert dataset_state(record, root).word == "ready"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = read_rows(record, root)
    assert {row.classname for row in rows["test"]} == set(CLASSNAMES[name])
    assert not list((tmp_path / "elsewhere").rglob("split_npt*")), "a split is not written into the copy"


def test_a_link_replaces_nothing(mirrored: Callable, root: Path, tmp_path: Path):
    mirrored("dtd")
    folder = make_tree("dtd", root)
    before = tree(root)
    with pytest.raises(FileExistsError, match="dtd/images is there already"):
        prepare("dtd", root, link=make_tree("dtd", tmp_path / "elsewhere"))
    assert tree(root) == before and not folder.is_symlink()


# broken images


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    "The names of the images that Pillow opens."
    names, true = [], Image.open

    def counted(path, *arguments):
        names.append(Path(path).name)
        return true(path, *arguments)

    monkeypatch.setattr(Image, "open", counted)
    return names


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A folder with three images and four files that are none, and a cache of its own."
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"good-{number}.jpg").write_bytes(picture(number, 0))
    (folder / "truncated.jpg").write_bytes(picture(0, 0)[:-100])
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    header = b"P5 60000 60000 255\n"  # a greyscale picture of 3.6 gigabytes, it says
    (folder / "bomb.pgm").write_bytes(header + b"0")
    return folder


BROKEN = {"truncated.jpg", "text.jpg", "empty.jpg", "bomb.pgm"}


def test_broken_images_are_named_and_opened_once(images: Path, opened: list[str]):
    paths = sorted(images.iterdir())
    first = broken_images(paths)
    assert {path.name for path in first} == BROKEN and all(first.values()) and len(opened) == 7
    assert "DecompressionBombError" in first[images / "bomb.pgm"]
    assert broken_images(paths) == first == broken_images(map(str, paths), workers=1) and len(opened) == 7


def test_a_changed_image_is_opened_again(images: Path, opened: list[str]):
    broken_images(images.iterdir())
    opened.clear()
    (images / "text.jpg").write_bytes(picture(1, 1))
    (images / "good-0.jpg").write_bytes((images / "good-0.jpg").read_bytes()[:-50])
    assert {path.name for path in broken_images(images.iterdir())} == BROKEN - {"text.jpg"} | {"good-0.jpg"}
    assert sorted(opened) == ["good-0.jpg", "text.jpg"]
    now = time.time_ns()
    os.utime(images / "good-1.jpg", ns=(now, now))
    opened.clear()
    broken_images(images.iterdir())
    assert opened == ["good-1.jpg"]


def test_a_passing_fault_of_the_system_is_not_kept(images: Path, monkeypatch: pytest.MonkeyPatch):
    true, good = Image.open, images / "good-0.jpg"

    def fails(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Image, "open", fails)
    assert list(broken_images([good])) == [good]
    monkeypatch.setattr(Image, "open", true)
    assert broken_images([good, images / "gone.jpg"]).keys() == {images / "gone.jpg"}


def test_verdicts_may_be_kept_by_several_at_once(images: Path, tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(broken_images, [sorted(images.iterdir())] * 8))
    assert all({path.name for path in broken} == BROKEN for broken in found)
    [database] = (tmp_path / "cache").iterdir()
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT COUNT(*) FROM images").fetchone() == (7,)


def test_a_damaged_cache_is_named(images: Path, tmp_path: Path):
    broken_images(images.iterdir())
    [database] = (tmp_path / "cache").iterdir()
    database.write_bytes(b"not a database " * 100)
    with pytest.raises(OSError, match=f"{database}.*delete it"):
        broken_images(images.iterdir())


# the command line


def test_datasets_are_prepared_and_told_and_one_failure_stops_no_other(server, mirrored, root, capsys):
    for name in ("dtd", "eurosat", "oxford_pets"):
        mirrored(name)
    (server.folder / "eurosat" / "EuroSAT.zip").rename(server.folder / "away")
    arguments = ["dtd", "eurosat", "oxford_pets", "--root", str(root), "--mirror", server.url]
    assert prepare_command(arguments) == 1
    out, err = capsys.readouterr()
    assert "dtd: 5 classes; 25 train, 10 val, 15 test images, in " in out and "oxford_pets: 4 classes; " in out
    assert f"dtd-r1.0.1.tar.gz, " in out and f"from {server.url}/dtd/dtd-r1.0.1.tar.gz" in out and "licence: research" in out
    last = err.split("failed:\n")[1].splitlines()
    assert len(last) == 1 and last[0].startswith("  eurosat: ") and "404" in last[0]
    assert "warning: split_zhou_DescribableTextures.json" in err and "Traceback" not in out + err
    (server.folder / "away").rename(server.folder / "eurosat" / "EuroSAT.zip")
    assert prepare_command(arguments) == 0


def test_verify_counts_and_opens(server: Server, mirrored: Callable, root: Path, capsys):
    record = mirrored("dtd")
    with pytest.warns(UserWarning):
        prepare("dtd", root, mirror=server.url)
    assert prepare_command(["--verify", "--root", str(root)]) == 0
    assert "dtd: 5 classes; 25 train, 10 val, 15 test images, none of them broken" in capsys.readouterr().out
    bad = sorted(_image_folder(record, root).glob("*/*.jpg"))[3]
    bad.write_bytes(bad.read_bytes()[:-20])
    _PREPARED["dtd"] = replace(record, num_classes=47)
    assert prepare_command(["dtd", "eurosat", "--verify", "--root", str(root)]) == 1
    out, err = capsys.readouterr()
    assert "1 of them broken" in out and f"{bad}: " in err and "it has 5 classes, and should have 47" in err
    assert err.split("failed:\n")[1].splitlines()[1].startswith("  eurosat: ")


def test_list_says_what_is_there(root: Path, capsys):
    make_tree("caltech101", root)
    (root / "oxford_pets" / "annotations").mkdir(parents=True)
    (root / "oxford_pets" / "annotations" / "test.txt").write_text("")
    assert prepare_command(["--list", "--root", str(root)]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(table) == ["dataset", *_PREPARED]
    states = {name: line.split()[1] for name, line in table.items() if name in _PREPARED}
    assert Counter(states.values()) == {"ready": 1, "partial": 1, "missing": 13}
    assert states["caltech101"] == "ready" and states["oxford_pets"] == "partial"
    assert "39.2GB" in table["sun397"] and "MIT" in table["eurosat"] and "Log in" in table["imagenet"]


@pytest.mark.parametrize("arguments, message", [
    (["dtt"], "no dataset to prepare 'dtt'. Did you mean 'dtd'?"),
    (["world/shapes"], "no dataset to prepare 'world/shapes'"),
    ([], "name the datasets, or give --all"),
    (["--verify", "--root", "nowhere"], "there is no dataset in nowhere yet"),
    (["dtd", "eurosat", "--link", "copy"], "--link needs the name of one dataset"),
])
def test_a_wrong_command_is_answered_with_what_is_wrong(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare_command(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_a_mirror_must_be_an_address(root: Path, capsys):
    assert prepare_command(["dtd", "--root", str(root), "--mirror", "/some/folder"]) == 1
    assert "begins with http:// or https://" in capsys.readouterr().err and not root.exists()


def test_the_script_stops_at_a_key_and_goes_on(server: Server, root: Path):
    content = zipped(("UCF-101-midframes/a/1.jpg", os.urandom(3_000_000)), ("UCF-101-midframes/b/1.jpg", b"1"))
    for name, data in {"UCF-101-midframes.zip": content, "split_zhou_UCF101.json": SPLIT.encode()}.items():
        (server.folder / "ucf101").mkdir(exist_ok=True)
        (server.folder / "ucf101" / name).write_bytes(data)
    server.troubles["ucf101/UCF-101-midframes.zip"] = [HANGS]
    process = in_a_process("ucf101", "--root", root, "--mirror", server.url)
    while process.poll() is None and not sum(path.stat().st_size for path in root.rglob("*.part")):
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    server.log.clear()
    assert prepare_command(["ucf101", "--root", str(root), "--mirror", server.url]) == 0
    [first, second, *_] = server.log
    assert first[1] is None and int(second[1].removeprefix("bytes=").removesuffix("-")) >= 2 << 18


# the records and the pages


def test_every_file_has_its_place():
    for record in _PREPARED.values():
        assert record.licence and record.homepage and record.num_classes and record.description
        names = [download.name for download in record.downloads]
        for download in record.downloads:
            assert Path(download.makes).is_relative_to(download.into) and Path(download.makes).is_relative_to(record.folder)
            assert download.size > 0 and (download.url or record.manual or not download.needed)
            assert download.md5 is None or len(bytes.fromhex(download.md5)) == 16
            same = [name for name in names if name.startswith(download.name)]
            assert same == [download.name], "partial files would be mixed up"


def test_the_table_of_the_readme_is_that_of_the_records():
    text = (ROOT / "data_prep" / "README.md").read_text()
    assert datasets_table() in text, "put there what `npt.data.cli.datasets_table()` gives"
