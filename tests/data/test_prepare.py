"Datasets come from a server of this machine's own, or from copies, into place, and nothing of a user's is written over."

import errno
import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from archives import SPLIT, left_behind, one_file, tar, tree, zipped
from forked import Fork, prepare_unsummed
from miniature import CLASSES, CLASSNAMES, PUBLISHED, make_mirror, make_tree, miniature_record, pack_whole
from server import Server, serve

import npt.data.download
import npt.data.prepare
import npt.data.unpack
from npt.data.datasets import DATASETS, DatasetRecord
from npt.data.formats import _SPLITS, _image_folder, _read_rows
from npt.data.prepare import _DOWNLOADS, _PREPARED, _UNASKED, _check_size_agreed, dataset_state, prepare
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


def test_the_published_split_is_tried_where_it_would_fit(server: Server, mirrored: Callable, root: Path):
    record, folder = mirrored("eurosat"), make_tree("eurosat", root)
    assert dataset_state(record, root).word == "ready" and not dataset_state(record, root).complete, "all images are there, and no split"
    assert dataset_state(replace(record, num_images=record.num_images + 1), root).complete, "the published split would name what is not there"
    (folder / "split_npt_EuroSAT.json").write_text(SPLIT)
    assert dataset_state(record, root).complete, "results on a split of npt's own are not to be lost"
    (folder / "split_npt_EuroSAT.json").rename(folder / "split_zhou_EuroSAT.json")
    assert dataset_state(record, root).complete and not server.log


def test_a_file_put_there_by_hand_needs_no_network(server: Server, mirrored: Callable, root: Path):
    record = mirrored("imagenet_a")
    folder = root / _DOWNLOADS / "imagenet_a"
    folder.mkdir(parents=True)
    shutil.copy(server.folder / "imagenet_a" / "imagenet-a.tar", folder)
    prepare("imagenet_a", root)
    assert not server.log and dataset_state(record, root).word == "ready" and not left_behind(root)


def test_lists_that_the_split_file_makes_superfluous_are_asked_for_without_it(mirrored: Callable, root: Path):
    "Stanford's label lists have no address: the images alone are no dataset, and with the split file the lists are not needed."
    record = mirrored("stanford_cars", whole=None)
    by_hand = root / _DOWNLOADS / "stanford_cars"
    by_hand.mkdir(parents=True)
    for name in ("cars_train.tgz", "cars_test.tgz"):
        shutil.copy(root.parent / "served" / "stanford_cars" / name, by_hand)
    with serve(root.parent) as server:
        gone = tuple(replace(download, url=download.url and f"{server.url}/gone", sha256=None) for download in record.downloads)
        _PREPARED["stanford_cars"] = replace(record, downloads=gone)
        with warnings.catch_warnings(), pytest.raises(ConnectionError) as caught:
            warnings.simplefilter("error")  # that a file can be done without is not said
            prepare("stanford_cars", root)
        message = str(caught.value)
        assert "cannot be read without its labels: split_zhou_StanfordCars.json, or car_devkit.tgz and cars_test" in message
        assert f"save a copy\n  as   {by_hand / 'car_devkit.tgz'}" in message and "can do without" not in message
        (by_hand / "split_zhou_StanfordCars.json").write_text(SPLIT)
        with pytest.warns(UserWarning, match="is left out: the dataset can do without it") as warned:
            prepare("stanford_cars", root)
    assert len(warned) == 2 and dataset_state(record, root).word == "ready"


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


def test_steps_by_hand_are_said_where_nothing_can_be_fetched(root: Path):
    "Which is only so of ImageNet."
    by_hand = {name: state.by_hand for name, record in _PREPARED.items() if (state := dataset_state(record, root)).by_hand}
    assert list(by_hand) == ["imagenet"] and str(root) in by_hand["imagenet"]
    state = dataset_state(_PREPARED["imagenet"], root)
    with pytest.raises(FileNotFoundError) as caught:
        prepare("imagenet", root)
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
], ids=["web page", "text", "empty", "cut off", "long name", "other archive"])
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
    "ImageNet-A has no checksum, so its miniature comes into place in processes that know nothing of miniatures, and is counted."
    make_mirror("imagenet_a", server.folder)
    processes = [Fork(prepare_unsummed, "imagenet_a", "--root", root, "--mirror", server.url) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert server.counts() == {"imagenet_a/imagenet-a.tar": 1} and not left_behind(root), outputs
    assert all("imagenet_a: 4 classes; 0 train, 0 val, 12 test images" in out for out, _ in outputs)
    assert all("it has 4 classes, and should have 200" in err for _, err in outputs)
    assert [process.returncode for process in processes] == [1, 1]


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
    assert (root / "imagenet" / "images" / "val").is_symlink() and not (root / "imagenet" / "images").is_symlink()
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
def test_a_whole_copy_of_any_dataset_is_linked(name: str, server: Server, mirrored: Callable, root: Path, tmp_path: Path):
    record = mirrored(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the split file, which the copy lacks and the mirror too
        prepare(name, root, mirror=server.url, link=make_tree(name, tmp_path / "elsewhere"))
        rows = _read_rows(record, root)
    assert dataset_state(record, root).word == "ready" and not [name for name in server.counts() if "split_" not in name]
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


# more than one source


def forget_sessions() -> None:
    "Let the hub's client, whose older versions have another name for it, open its connections anew."
    name = "close_session" if hasattr(huggingface_hub.utils, "close_session") else "reset_sessions"
    getattr(huggingface_hub.utils, name)()


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatasetRecord]:
    "Serves a dataset's miniature as an archive on a hub, and makes its publishers' addresses lead nowhere."
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")

    def serve_whole(name: str, below: str = "", **changes: object) -> DatasetRecord:
        whole = DATASETS[name].whole
        archive = server.folder / whole.url.removeprefix("https://huggingface.co/")
        pack_whole(name, archive, below)
        gone = dict(size=1000, md5=None, sha256=None, git=None)
        downloads = [replace(download, url=download.url and f"{server.url}/gone/{download.name}", **gone)
                     for download in miniature_record(name).downloads]
        record = replace(miniature_record(name), downloads=tuple(downloads),
                         whole=replace(whole, size=archive.stat().st_size, sha256=None))
        monkeypatch.setitem(_PREPARED, name, replace(record, **changes))
        return _PREPARED[name]

    return serve_whole


@pytest.mark.parametrize("name", [name for name in PUBLISHED if DATASETS[name].whole])
def test_every_dataset_but_imagenet_comes_from_the_hub(name, server, hub, root, tmp_path, capsys):
    record = hub(name, below="" if name < "m" else "data/prompt learning/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the split file
        folder = prepare(name, root)
        rows = _read_rows(record, root)
    names = {row.label: row.classname for split in _SPLITS for row in rows[split]}
    assert [names[label] for label in range(len(names))] == CLASSNAMES[name] and not left_behind(root)
    true = tree(make_tree(name, tmp_path / "true"))
    made = {path: content for path, content in tree(folder).items() if not path.startswith("split_")}
    listed = [path for path in true if not path.startswith(("README", ".")) and "/." not in path and not path.endswith(".mat")]
    assert {path: made.get(path) for path in listed} == {path: true[path] for path in listed} and not [p for p in made if "._" in p]
    assert f"next is {record.whole.url}" in capsys.readouterr().err
    asked = [path for path in server.counts() if "zhengli97" in path]
    assert asked == ["api/models/zhengli97/prompt_learning_dataset/paths-info/ceb3112337fb6e1bf71534e355ca5569b63f19a6",
                     record.whole.url.removeprefix("https://huggingface.co/")]


def test_sources_are_tried_in_turn_and_each_failure_is_a_line(server: Server, mirrored: Callable, root: Path, capsys):
    record = mirrored("dtd")
    good = [f"{server.url}/dtd/{download.name}" for download in record.downloads]
    (server.folder / "wrong").write_bytes(b"something else")
    (server.folder / "dtd" / record.downloads[1].name).write_text(SPLIT)
    first = replace(record.downloads[0], url=f"{server.url}/gone", also=(f"{server.url}/wrong", good[0], f"{server.url}/never"))
    split = replace(record.downloads[1], url=f"{server.url}/wrong", also=(good[1],),
                    sha256=hashlib.sha256(SPLIT.encode()).hexdigest())
    _PREPARED["dtd"] = replace(record, downloads=(first, split))
    prepare("dtd", root)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("; next is ")[2] for line in lines] == [first.also[0], good[0], good[1]]
    assert "/gone could not be fetched: 404" in lines[0] and "MD5 sum" in lines[1] and "SHA-256" in lines[2]
    assert list(server.counts()) == ["gone", "wrong", "dtd/dtd-r1.0.1.tar.gz", "dtd/split_zhou_DescribableTextures.json"]
    assert not left_behind(root) and dataset_state(record, root).missing == ()


def test_if_all_sources_fail_one_message_has_all_addresses_and_places(server: Server, hub: Callable, root: Path):
    record = hub("oxford_pets")
    server.sums["zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/oxford_pets.zip"] = "0" * 64
    _PREPARED["oxford_pets"] = replace(record, downloads=(
        replace(record.downloads[0], also=(f"{server.url}/also gone",)), *record.downloads[1:]))
    with pytest.raises(ValueError) as caught:
        prepare("oxford_pets", root)
    message, folder = str(caught.value), root / _DOWNLOADS / "oxford_pets"
    for url in record.downloads[0].url, f"{server.url}/also gone", record.whole.url:
        assert message.count(url) >= 2, "what failed, and where to look"
    assert f"{'0' * 64} was published" in message and message.count("To go on without this connection") == 1
    for name in (*(download.name for download in record.downloads), record.whole.name):
        assert str(folder / name) in message
    assert "python data_prep/prepare.py oxford_pets" in message and not left_behind(root)
    (server.folder / "zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/oxford_pets.zip").rename(folder / record.whole.name)
    server.log.clear()
    with pytest.warns(UserWarning, match="split_zhou_OxfordPets.json"):
        prepare("oxford_pets", root)
    assert "gone/images.tar.gz" not in server.counts() and dataset_state(record, root).word == "ready" and not left_behind(root)


def test_the_archive_of_a_whole_dataset_says_what_it_lacks(server: Server, hub: Callable, root: Path, capsys):
    record = hub("oxford_flowers")
    path = server.folder / record.whole.url.removeprefix("https://huggingface.co/")
    path.write_bytes(zipped(*[(f"oxford_flowers/jpg/image_{n:05d}.jpg", b"1") for n in range(40)]))
    with pytest.raises(ConnectionError, match="oxford_flowers cannot be read without its labels"):
        prepare("oxford_flowers", root)
    assert "hub-oxford_flowers.zip does not hold imagelabels.mat, cat_to_name.json, split_zhou" in capsys.readouterr().err
    path.write_bytes(zipped(("oxford_flowers/imagelabels.mat", b"1")))
    with pytest.raises(ValueError, match="hub-oxford_flowers.zip does not hold jpg, cat_to_name.json"):
        prepare("oxford_flowers", root / "other")


@pytest.mark.parametrize("endpoint", ["nothing there", "no hub", "offline"])
def test_a_hub_that_does_not_answer_is_one_more_source_that_failed(endpoint, server, hub, root, monkeypatch):
    hub("imagenet_a")
    if endpoint == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        forget_sessions()
    elif endpoint == "no hub":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        (server.folder / "zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/imagenet-adversarial.zip").unlink()
    with pytest.raises(ConnectionError, match="imagenet-adversarial.zip could not be fetched") as caught:
        prepare("imagenet_a", root)
    forget_sessions()
    assert f"{server.url}/gone/imagenet-a.tar could not be fetched: 404" in str(caught.value) and not left_behind(root)


def test_datasets_of_the_hub_are_asked_for_as_such(server: Server, monkeypatch: pytest.MonkeyPatch, root: Path):
    "EuroSAT's publisher is a data set of the hub, at a revision of its own."
    record = miniature_record("eurosat")
    [archive] = [download for download in record.downloads if download.needed]
    monkeypatch.setitem(_PREPARED, "eurosat", replace(record, downloads=(replace(archive, md5=None, sha256=None),)))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    place = server.folder / archive.url.removeprefix("https://huggingface.co/")
    place.parent.mkdir(parents=True)
    place.write_bytes(zipped(*[(f"2750/{name}/1.jpg", b"1") for name in CLASSES["eurosat"]]))
    prepare("eurosat", root)
    assert [path.partition("/")[0] for path in server.counts()] == ["api", "datasets"]
    assert "c877bcd43f099cd0196738f714544e355477f3fd" in next(iter(server.counts()))


# what is linked


def test_flowers_as_torchvision_keeps_them_are_no_dataset_without_names(hub: Callable, root: Path, tmp_path: Path):
    "No network: what is missing is said once, with all of its addresses, and not that it can be done without."
    record = hub("oxford_flowers", whole=None)
    copy = make_tree("oxford_flowers", tmp_path / "elsewhere").rename(tmp_path / "flowers-102")
    (copy / "cat_to_name.json").unlink()
    with warnings.catch_warnings(), pytest.raises(ConnectionError) as caught:
        warnings.simplefilter("error")
        prepare("oxford_flowers", root, link=tmp_path)
    message = str(caught.value)
    assert "cannot be read without its labels: split_zhou_OxfordFlowers.json, or cat_to_name.json in its place" in message
    assert "can do without" not in message and str(root / _DOWNLOADS / "oxford_flowers" / "cat_to_name.json") in message
    names = json.dumps(CLASSES["oxford_flowers"])
    (root / _DOWNLOADS / "oxford_flowers" / "cat_to_name.json").write_text(names)
    with pytest.warns(UserWarning, match="split_zhou_OxfordFlowers.json.*differ slightly"):
        prepare("oxford_flowers", root, link=tmp_path)
    assert set(os.listdir(root / record.folder)) == {"jpg", "imagelabels.mat", "cat_to_name.json"}


LAYOUTS = {  # where a copy's own folder lies below the one that is named: torchvision's, and the archives' own
    "caltech101": "caltech101", "oxford_pets": "oxford-iiit-pet", "stanford_cars": "stanford_cars",
    "oxford_flowers": "flowers-102", "food101": "food-101", "fgvc_aircraft": "fgvc-aircraft-2013b/data", "dtd": "dtd/dtd",
    "eurosat": "eurosat", "ucf101": "UCF101", "imagenet_v2": "", "imagenet_sketch": "", "sun397": "SUN397",
}  # fmt: skip


@pytest.mark.parametrize("name, below", LAYOUTS.items())
def test_layouts_of_others_are_linked_and_no_neighbour(name, below, server, mirrored, root, tmp_path):
    record = mirrored(name)
    folder, copy = make_tree(name, tmp_path / "elsewhere"), tmp_path / "copy" / below
    if name == "imagenet_sketch":  # as its archive has it
        (folder / "images").rename(folder / "sketch")
    if name == "sun397":  # letters at the top, and the lists among them
        for path in (folder / "SUN397").iterdir():
            path.rename(folder / path.name)
        (folder / "SUN397").rmdir()
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(copy, ignore_errors=True)
    folder.rename(copy)
    neighbour = make_tree("food101" if name != "food101" else "dtd", tmp_path / "more")
    for few in sorted(os.listdir(neighbour / "images"))[-2:]:
        shutil.rmtree(neighbour / "images" / few)
    neighbour.rename(tmp_path / "copy" / "0 neighbour")
    (tmp_path / "copy" / "annotations").mkdir()
    (tmp_path / "copy" / "annotations" / "of another dataset.txt").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(name, root, mirror=server.url, link=tmp_path / "copy")
        rows = _read_rows(record, root)
    assert {row.classname for row in rows["test"]} == set(CLASSNAMES[name])
    assert sum(map(len, rows.values())) == record.num_images
    links = {path.name: path.readlink() for path in (root / record.folder).iterdir() if path.is_symlink()}
    assert links and all(path.is_relative_to(copy.resolve()) and "neighbour" not in str(path) for path in links.values())
    assert links.get("annotations") in (None, copy / "annotations")
    wanted = {Path(each.makes).name for each in record.downloads} | set(record.lists)
    assert set(links) <= wanted, "nothing that is not the dataset's"
    if name == "sun397":
        with pytest.warns(UserWarning, match="split_zhou_SUN397"):
            prepare(name, root / "again", mirror=server.url, link=copy)
        assert (root / "again" / "sun397" / "SUN397" / "a" / "abbey").is_dir()


@pytest.mark.parametrize("name, other", [("ucf101", "food101"), ("imagenet_sketch", "imagenet_r"), ("dtd", "oxford_pets"),
                                         ("oxford_pets", "fgvc_aircraft")])
def test_another_dataset_with_the_same_names_is_not_linked(name, other, mirrored, root, tmp_path):
    record = mirrored(name)
    _PREPARED[name] = replace(record, num_images=record.num_images + 1)  # in miniature the numbers are the same
    with pytest.raises(ValueError, match=f"is no copy of {name}: it must hold "):
        prepare(name, root, link=make_tree(other, tmp_path / "elsewhere"))
    assert not root.exists()


def test_a_part_of_a_dataset_is_told_from_the_whole(mirrored: Callable, root: Path, tmp_path: Path):
    mirrored("dtd")
    copy = make_tree("dtd", tmp_path / "elsewhere")
    shutil.rmtree(copy / "images" / "banded")
    with pytest.raises(ValueError, match="images/ with 5 class folders, 50 images in all; .*images has 4 folders with images, 40 in all"):
        prepare("dtd", root, link=copy)


def test_a_run_fetches_unasked_only_what_is_small(root: Path):
    for name, most in ("dtd", _UNASKED), ("food101", 6e9):
        _check_size_agreed(_PREPARED[name], root, most)
    with pytest.raises(ValueError, match=r"food101 is not in .*at most 2.00GB unasked.*5.00GB: give -p prepare 6GB, or .*prepare.py food101"):
        _check_size_agreed(_PREPARED["food101"], root, _UNASKED)
    by_hand = root / _DOWNLOADS / "food101" / "food-101.tar.gz"
    by_hand.parent.mkdir(parents=True)
    by_hand.touch()
    _check_size_agreed(_PREPARED["food101"], root, _UNASKED)
