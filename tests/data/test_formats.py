"Every format in its true layout: the class names that CoOp's loaders make, splits that are kept, hostile split files."

import json
import re
import shutil
import warnings
from collections import Counter
from dataclasses import replace

import pytest
from miniature import CLASSES, CLASSNAMES, PUBLISHED, make_tree, miniature_record, write_pictures

from npt.data.datasets import DATASETS, find_dataset
from npt.data.formats import _SPLITS, FORMATS, _car_names, _image_folder, _list_rows, _read_rows, register_format
from npt.world.label_sets import LABEL_SETS, WorldImage

each_dataset = pytest.mark.parametrize("name", PUBLISHED)
HAVE_SPLITS = [name for name in PUBLISHED if DATASETS[name].split]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_every_published_dataset_has_its_miniature():
    assert CLASSES.keys() == CLASSNAMES.keys() == set(PUBLISHED) and len(PUBLISHED) >= 15


@each_dataset
def test_class_names_and_counts(name, tmp_path, quiet):
    make_tree(name, tmp_path)
    record = find_dataset(name)
    rows = _read_rows(record, tmp_path)
    for row in [row for split in _SPLITS for row in rows[split]]:
        assert row.classname == CLASSNAMES[name][row.label]
        assert (_image_folder(record, tmp_path) / row.path).is_file()
    counts = {split: set(Counter(row.label for row in rows[split]).values()) for split in _SPLITS}
    if record.test_only:
        assert counts == {"train": set(), "val": set(), "test": {3}}
    elif name == "imagenet":
        assert counts == {"train": {5}, "val": {3}, "test": {3}} and rows["val"] == rows["test"]
    elif record.format in ("pets", "cars", "sun", "ucf"):
        assert counts == {"train": {6}, "val": {1}, "test": {3}}
    else:
        assert counts == {"train": {5}, "val": {2}, "test": {3}}
    images = [row.path for split in _SPLITS for row in rows[split] if name != "imagenet" or split != "val"]
    assert len(images) == len(set(images)), "an image is in two splits"


@pytest.mark.parametrize("name", HAVE_SPLITS)
def test_a_split_is_made_once_and_the_published_one_is_preferred(name, tmp_path):
    folder, record = make_tree(name, tmp_path), find_dataset(name)
    with pytest.warns(UserWarning, match="differ slightly"):
        made = _read_rows(record, tmp_path)
    own, published = (folder / f"split_{whose}_{record.split}.json" for whose in ("npt", "zhou"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _read_rows(record, tmp_path) == made
        own.rename(published)
        content = published.read_text()
        assert _read_rows(record, tmp_path) == made
    assert published.read_text() == content and not own.exists()
    assert set(json.loads(content)) == {*_SPLITS, "made"}


def test_a_split_remembers_what_it_was_made_from(tmp_path, quiet):
    "As when a few of DTD's class folders were there, and the others arrive, and when one picture goes."
    record = find_dataset("dtd")
    folder = make_tree("dtd", tmp_path) / "images"
    whole = _read_rows(record, tmp_path)
    own = tmp_path / "dtd" / "split_npt_DescribableTextures.json"
    own.unlink()
    for name in "bubbly", "bumpy":
        (folder / name).rename(tmp_path / name)
    few = _read_rows(record, tmp_path)
    kept = own.read_bytes()
    for name in "bubbly", "bumpy":
        (tmp_path / name).rename(folder / name)
    with pytest.warns(UserWarning, match="split_npt_.*2 classes are new, such as 'bubbly'. It was made again") as caught:
        assert _read_rows(record, tmp_path) == whole
    assert len(caught) == 1 and len({row.label for row in few["train"]}) == 3
    (folder / "banded" / "image_0001.jpg").unlink()
    with pytest.warns(UserWarning, match="one image is gone, such as 'banded/image_0001.jpg'. It was"):
        _read_rows(record, tmp_path)
    own.write_bytes(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in "bubbly", "bumpy":
            (folder / name).rename(tmp_path / name)
        write_pictures(folder / "banded", 0)
        assert _read_rows(record, tmp_path) == few, "what it was made from is there again"
    shutil.rmtree(folder / "banded")  # the labels of all others move, which is not said of each
    with pytest.warns(UserWarning, match="has now: one class is gone, such as 'banded'. It was"):
        _read_rows(record, tmp_path)


@pytest.mark.parametrize("by", ["hand", "an earlier version"])
def test_a_split_that_somebody_else_wrote_is_not_made_again(by, tmp_path, quiet):
    folder, record = make_tree("dtd", tmp_path), find_dataset("dtd")
    rows = _read_rows(record, tmp_path)
    own = folder / "split_npt_DescribableTextures.json"
    content = json.loads(own.read_text())
    if by == "hand":
        content["train"], content["val"] = content["train"] + content["val"][:1], content["val"][1:]
    else:
        del content["made"]
    own.write_text(json.dumps(content))
    assert len(_read_rows(record, tmp_path)["train"]) == len(rows["train"]) + (by == "hand")
    write_pictures(folder / "images" / "zigzagged", 5)
    with pytest.raises(ValueError, match="one class is new, such as 'zigzagged'. It was not written by this version.*move it away"):
        _read_rows(record, tmp_path)
    assert json.loads(own.read_text()) == content


def test_a_split_does_not_depend_on_where_or_when_it_is_made(tmp_path, quiet):
    for place in "here", "there":
        make_tree("dtd", tmp_path / place)
    assert _read_rows(find_dataset("dtd"), tmp_path / "here") == _read_rows(find_dataset("dtd"), tmp_path / "there")


def test_a_split_that_cannot_be_kept_is_still_used(tmp_path, monkeypatch):
    make_tree("dtd", tmp_path)
    monkeypatch.setattr("npt.data.formats.write_text", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.warns(UserWarning, match="differ slightly"), pytest.warns(UserWarning, match="read-only"):
        assert _read_rows(find_dataset("dtd"), tmp_path)["train"]


@each_dataset
def test_what_is_missing_is_named_with_the_command(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"prepare.py {name} --root {tmp_path}")):
        _read_rows(find_dataset(name), tmp_path)


LISTS = {"oxford_pets": "annotations/trainval.txt", "stanford_cars": "devkit/cars_meta.mat", "fgvc_aircraft": "variants.txt",
         "ucf101": "ucfTrainTestlist/classInd.txt", "sun397": "ClassName.txt", "oxford_flowers": "cat_to_name.json"}  # fmt: skip


@pytest.mark.parametrize("name, file", LISTS.items())
def test_a_missing_list_is_named(name, file, tmp_path):
    (make_tree(name, tmp_path) / file).unlink()
    with pytest.raises(FileNotFoundError, match=file.rpartition("/")[2]):
        _read_rows(find_dataset(name), tmp_path)


@pytest.mark.parametrize("name, file", LISTS.items())
@pytest.mark.parametrize("content", [b"", b"1 2 3", b"\xff\xfe\x00", b"{}", b"[" * 100_000], ids=["empty", "numbers", "bytes", "json", "deep"])
def test_a_damaged_list_is_refused_and_no_split_is_kept(name, file, content, tmp_path):
    folder = make_tree(name, tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"dataset '{name}' cannot be read from '{re.escape(str(folder))}'"):
        _read_rows(find_dataset(name), tmp_path)
    assert not list(folder.glob("split_*"))


def test_a_list_cannot_lead_out_of_the_folder(tmp_path):
    path = make_tree("oxford_pets", tmp_path) / "annotations" / "test.txt"
    path.write_text(path.read_text() + "../../secret_1 1 1 1\n")
    with pytest.raises(ValueError, match="secret_1.jpg"):
        _read_rows(find_dataset("oxford_pets"), tmp_path)


def test_an_empty_class_folder_is_named_and_a_loose_file_passed_over(tmp_path, quiet):
    folder = make_tree("eurosat", tmp_path) / "2750"
    (folder / "notes.txt").write_text("no class")
    assert {row.label for row in _read_rows(find_dataset("eurosat"), tmp_path)["train"]} == {0, 1, 2, 3}
    (folder.parent / "split_npt_EuroSAT.json").unlink()
    (folder / "Highway").mkdir()
    with pytest.raises(ValueError, match="Highway is empty"):
        _read_rows(find_dataset("eurosat"), tmp_path)


GOOD = dict(train=[["a.jpg", 0, "a"], ["b.jpg", 1, "b"]], val=[["c.jpg", 0, "a"]], test=[["d.jpg", 1, "b"]])
BAD = {
    "a path that leaves the folder": dict(train=[["../../etc/passwd", 0, "a"]]),
    "an absolute path": dict(train=[["/etc/passwd", 0, "a"]]),
    "a path with backslashes": dict(train=[["..\\secret.jpg", 0, "a"]]),
    "no path": dict(train=[["", 0, "a"]]),
    "a label that is text": dict(train=[["a.jpg", "0", "a"]]),
    "a label below 0": dict(train=[["a.jpg", -1, "a"]]),
    "a label that is true": dict(train=[["a.jpg", True, "a"]]),
    "no class name": dict(train=[["a.jpg", 0, " "]]),
    "a short row": dict(train=[["a.jpg", 0]]),
    "a row that is text": dict(train=["a.jpg"]),
    "rows that are a number": dict(train=3),
    "a label with two names": dict(test=[["d.jpg", 1, "c"]]),
    "a label that is never trained": dict(test=[["d.jpg", 2, "c"]]),
    "a gap between labels": dict(train=[["a.jpg", 0, "a"], ["b.jpg", 2, "b"]]),
    "a path on another drive": dict(train=[["C:/secret.jpg", 0, "a"]]),
    "a path that climbs inside": dict(train=[["a/../../secret.jpg", 0, "a"]]),
    "a path that no system has": dict(train=[["a\0.jpg", 0, "a"]]),
    "a class name of several lines": dict(train=[["a.jpg", 0, "a\nb"]]),
    "no training images": dict(train=[]),
    "no test images": dict(test=[]),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_hostile_split_file_is_refused(change, tmp_path):
    folder, record = make_tree("dtd", tmp_path), find_dataset("dtd")
    path = folder / "split_zhou_DescribableTextures.json"
    path.write_text(json.dumps(GOOD | {"made by": "somebody"}))
    assert len(_read_rows(record, tmp_path)["train"]) == 2
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match="split_zhou_DescribableTextures.json"):
        _read_rows(record, tmp_path)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"train": []}', '{"train": [', "\x80", "[" * 100_000])
def test_a_damaged_split_file_is_refused(content, tmp_path):
    path = make_tree("dtd", tmp_path) / "split_zhou_DescribableTextures.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="cannot be used"):
        _read_rows(find_dataset("dtd"), tmp_path)


def test_a_classnames_file_is_preferred(tmp_path):
    folder = make_tree("imagenet", tmp_path)
    (folder / "classnames.txt").write_text("n01440764 a fish\nn01443537 gold\nn01484850 jaws\nn02012849 bird\n")
    names = {row.label: row.classname for row in _read_rows(find_dataset("imagenet"), tmp_path)["train"]}
    assert list(names.values()) == ["a fish", "gold", "jaws", "bird"]
    (folder / "classnames.txt").write_text("n01440764\n")
    with pytest.raises(ValueError, match="classnames.txt"):
        _read_rows(find_dataset("imagenet"), tmp_path)


def test_unsorted_validation_images_are_named(tmp_path):
    folder = make_tree("imagenet", tmp_path)
    (folder / "images" / "val" / "ILSVRC2012_val_00000009.JPEG").write_bytes(b"loose")
    with pytest.raises(ValueError, match="one folder per class"):
        _read_rows(find_dataset("imagenet"), tmp_path)


def test_imagenet_v2_with_other_folders_is_refused(tmp_path):
    folder = make_tree("imagenet_v2", tmp_path) / find_dataset("imagenet_v2").images
    (folder / "10").rename(folder / "n01530575")
    with pytest.raises(ValueError, match="named as 0 is"):
        _read_rows(find_dataset("imagenet_v2"), tmp_path)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="class_folders"):
        _read_rows(replace(find_dataset("dtd"), format="class_folder"), tmp_path)


# ---- the registry

def reader(record, root):
    return {split: [] for split in _SPLITS}


def test_a_taken_name_is_refused(monkeypatch):
    monkeypatch.setattr("npt.data.formats.FORMATS", formats := dict(FORMATS))
    assert register_format("mine")(reader) is reader and formats["mine"] is reader

    def other(record, root):
        return reader(record, root)

    for name in "mine", "pets", "world":
        with pytest.raises(ValueError, match=f"{name!r} is taken.*other"):
            register_format(name)(other)
    assert formats == FORMATS | {"mine": reader}


def test_a_cell_may_run_twice(monkeypatch):
    monkeypatch.setattr("npt.data.formats.FORMATS", formats := dict(FORMATS))
    cell = "def mine(record, root): return 1"
    first, second = {"__name__": "__main__"}, {"__name__": "__main__"}
    for scope in first, second:
        exec(cell, scope)
        register_format("mine")(scope["mine"])
    assert formats["mine"] is second["mine"]
    elsewhere = {"__name__": "other_module"}
    exec(cell, elsewhere)
    with pytest.raises(ValueError, match="'mine' is taken"):
        register_format("mine")(elsewhere["mine"])


def test_a_record_of_ones_own_is_read_by_a_format_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("npt.data.formats.FORMATS", dict(FORMATS))

    @register_format("numbers")
    def numbers(record, root):
        return {split: [(f"{split}{label}.png", label, f"class {label}") for label in range(3)] for split in _SPLITS}

    (tmp_path / "mine").mkdir()
    mine = replace(find_dataset("dtd"), name="mine", format="numbers", folder="mine", images="", split=None)
    assert _read_rows(mine, tmp_path)["val"][2] == ("val2.png", 2, "class 2")


@pytest.mark.parametrize("name", LABEL_SETS)
def test_the_offline_world_is_a_format_like_any_other(name):
    rows = _read_rows(find_dataset(f"world/{name}"), "nowhere")
    names = [thing.name for thing in LABEL_SETS[name].things]
    assert {split: len(rows[split]) // len(names) for split in _SPLITS} == {"train": 64, "val": 50, "test": 100}
    for split in _SPLITS:
        assert all(row.classname == names[row.label] and row.path[:3] == (name, split, row.label) for row in rows[split])
        assert isinstance(rows[split][0].path, WorldImage) and len({row.path for row in rows[split]}) == len(rows[split])


def test_a_matlab_file_that_crashes_its_reader_does_no_harm(tmp_path):
    make_tree("stanford_cars", tmp_path)
    path = tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat"
    names = _car_names(tmp_path / "stanford_cars")
    assert len(names) == 4
    good = path.read_bytes()
    path.write_bytes(good[:220] + b"\x01\0\0\0" + good[224:])  # at which SciPy's reader ends the process that calls it
    with pytest.raises(ValueError, match="stanford_cars.*cars_meta.mat is no MATLAB file that can be read .whoever reads it crashes"):
        _list_rows(miniature_record("stanford_cars"), tmp_path)
