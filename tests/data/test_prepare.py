"Datasets come from a server of this machine's own, or from copies, into place, and nothing of a user's is written over."

import errno
import hashlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from archives import SPLIT, in_a_process, left_behind, one_file, tar, tree
from miniature import CLASSNAMES, PUBLISHED, make_mirror, make_tree, miniature_record
from server import Server, serve

import npt.data.download
import npt.data.prepare
import npt.data.unpack
from npt.data.formats import _SPLITS, _image_folder, _read_rows
from npt.data.prepare import _DOWNLOADS, _PREPARED, dataset_state, prepare
from npt.data.unpack import _unpack

# all fifteen


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_dataset_comes_from_a_mirror(name, server, mirrored, root, tmp_path, monkeypatch):
    record = mirrored(name)

    def unpacked(*arguments: object) -> None:
        before = dataset_state(record, root)
        _unpack(*arguments)
        assert dataset_state(record, root) == before, "what is not complete has its final name"

    monkeypatch.setattr(npt.data.prepare, "_unpack", unpacked)
    assert dataset_state(record, root).word == "missing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CoOp's split files, which no mirror here has
        folder = prepare(name, root, mirror=server.url)
        rows = _read_rows(record, root)
    assert dataset_state(record, root).word == "ready" and folder == root / record.folder
    names = {row.label: row.classname for split in _SPLITS for row in rows[split]}
    assert [names[label] for label in range(len(names))] == CLASSNAMES[name]
    make_tree(name, tmp_path / "true")
    made, true = tree(root), tree(tmp_path / "true")
    assert not {path for path in true if not path.endswith("classnames.txt")} - set(made)
    undated = [path for path in made if not path.endswith(".mat")]
    assert all(true.get(path, made[path]) == made[path] for path in undated)
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
    digest = hashlib.md5(true + b"!").hexdigest()
    with pytest.raises(ValueError, match=f"MD5 sum {digest}, and {record.downloads[0].md5} was published.*deleted"):
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
    files = tree(root / record.folder)
    assert mine.items() <= files.items() and len(files) > 40


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
    monkeypatch.setattr(npt.data.prepare.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
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

    monkeypatch.setattr(npt.data.unpack.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        prepare("food101", root, mirror=server.url)
    assert not tree(root) and dataset_state(record, root).word == "partial"
    monkeypatch.setattr(npt.data.unpack.shutil, "copyfileobj", copy)
    with pytest.warns(UserWarning, match="left out"):
        prepare("food101", root, mirror=server.url)
    assert dataset_state(record, root).word == "ready" and server.counts()["food101/food-101.tar.gz"] == 1


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
    with npt.data.prepare._one_process_at_a_time(root / _DOWNLOADS / "imagenet_r"):
        thread = threading.Thread(target=prepare, args=("imagenet_r", root), kwargs=dict(mirror=server.url))
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
    rows = _read_rows(record, root)
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
        rows = _read_rows(record, root)
    assert {row.classname for row in rows["test"]} == set(CLASSNAMES[name])
    assert not list((tmp_path / "elsewhere").rglob("split_npt*")), "a split is not written into the copy"


def test_a_link_replaces_nothing(mirrored: Callable, root: Path, tmp_path: Path):
    mirrored("dtd")
    folder = make_tree("dtd", root)
    before = tree(root)
    with pytest.raises(FileExistsError, match="dtd/images is there already"):
        prepare("dtd", root, link=make_tree("dtd", tmp_path / "elsewhere"))
    assert tree(root) == before and not folder.is_symlink()


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
