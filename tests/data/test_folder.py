"A folder of one's own is read as it lies, or refused with the reason; every class has a test picture."

import shutil
from collections import Counter
from pathlib import Path

import pytest
from miniature import picture

from npt._files import write_bytes, write_text
from npt.data.datasets import find_dataset
from npt.data.folder import _photographs
from npt.data.formats import _SPLITS
from npt.data.load import load_dataset

CLASSES = ["ash", "beech", "cedar", "oak tree"]
silent = pytest.mark.filterwarnings("error")
quiet = pytest.mark.filterwarnings("ignore")


def draw(root: Path, **counts: int) -> None:
    "Write pictures into folders, named with __ for a slash; no two are alike."
    for folder, count in counts.items():
        for number in range(count):
            path = root / folder.replace("__", "/") / f"{number}.jpg"
            write_bytes(picture(0, sum(str(path).encode()) * 100 + len(list(root.rglob("*")))), path)


def rows_of(root: Path) -> dict:
    return _photographs(find_dataset("folder"), root)


def paths(root: Path) -> dict[str, set[str]]:
    return {split: {row.path for row in of_split} for split, of_split in rows_of(root).items()}


def counts(root: Path, split: str) -> dict[str, int]:
    return dict(Counter(row.classname for row in rows_of(root)[split]))


# ---- one folder per class

@silent
def test_photographs_are_split_as_ever(tmp_path):
    for name in CLASSES:
        for number in range(1, 6):
            write_bytes(picture(CLASSES.index(name), number), tmp_path / name / f"photo {number}.jpg")
    rows = rows_of(tmp_path)
    assert {split: [row.path for row in rows[split] if row.label == 3] for split in _SPLITS} == {
        "train": ["oak tree/photo 5.jpg", "oak tree/photo 1.jpg"],
        "val": ["oak tree/photo 3.jpg"],
        "test": ["oak tree/photo 4.jpg", "oak tree/photo 2.jpg"],
    }


@pytest.mark.parametrize("count, cut", {1: (0, 0, 1), 2: (1, 0, 1), 3: (1, 1, 1), 4: (2, 1, 1), 5: (2, 1, 2), 6: (3, 1, 2),
                                        7: (4, 1, 2), 10: (5, 2, 3)}.items())
@quiet
def test_every_class_has_a_test_picture(count, cut, tmp_path):
    draw(tmp_path, cat=count, dog=5)
    assert tuple(counts(tmp_path, split).get("cat", 0) for split in _SPLITS) == cut


def test_small_classes_are_told_of(tmp_path):
    draw(tmp_path, cat=1, cow=1, dog=2, ox=3)
    with pytest.warns(UserWarning) as said:
        rows_of(tmp_path)
    assert [str(each.message).partition(": ")[2] for each in said] == [
        "2 of 4 classes have too few photographs and are tested only, such as 'cat'",
        "1 of 4 classes have too few photographs and are trained on and tested, but not validated, such as 'dog'"]


@pytest.mark.parametrize("number", [2, 3])
@silent
def test_two_classes_will_do(number, tmp_path):
    draw(tmp_path, **dict.fromkeys(["cat", "dog", "ox"][:number], 4))
    data = load_dataset("folder", root=tmp_path, shots=2)
    assert data.all.train.counts == [2] * number and data.all.test.counts == [1] * number


@pytest.mark.parametrize("folders, held", [({}, "no class"), (dict(cat=3), "one class, 'cat'"), (dict(pets__cat=3), "one class, 'cat'")])
def test_fewer_are_refused(folders, held, tmp_path):
    draw(tmp_path, **folders)
    with pytest.raises(ValueError, match=f"holds {held}: it needs at least two"):
        rows_of(tmp_path)


def test_an_empty_folder_and_loose_photographs_are_told_of(tmp_path):
    draw(tmp_path, cat=3, dog=3)
    (tmp_path / "ox" / "calf").mkdir(parents=True)
    write_bytes(picture(0, 1), tmp_path / "loose.jpg")
    with pytest.warns(UserWarning) as said:
        assert counts(tmp_path, "test") == dict(cat=1, dog=1)
    assert [str(each.message).partition(": ")[2] for each in said] == [
        "folders without a photograph are left out, 1 in all, such as 'ox'",
        "photographs without a label are left out, 1 in all, such as 'loose.jpg'"]


def test_checkpoints_and_sidecars_are_no_photographs(tmp_path):
    draw(tmp_path, cat=5, dog=5)
    plain = rows_of(tmp_path)
    for name in ".ipynb_checkpoints", "@eaDir", ".AppleDouble":
        shutil.copytree(tmp_path / "dog", tmp_path / "cat" / name)
    for name in "Thumbs.db", "desktop.ini", "0.txt", "0.xmp":
        write_text("-", tmp_path / "dog" / name)
    with pytest.warns(UserWarning, match="passed over.*1 .ipynb_checkpoints/"):
        assert rows_of(tmp_path) == plain


@silent
def test_a_class_may_hold_folders_and_a_wrapper_may_hold_all(tmp_path):
    draw(tmp_path, cat__indoors=2, cat__outdoors=3, dog=4)
    plain = paths(tmp_path)
    draw(wrapped := tmp_path / "wrapped", **{"a__b__" + name: count for name, count in dict(cat__indoors=2, cat__outdoors=3, dog=4).items()})
    assert paths(wrapped) == {split: {f"a/b/{path}" for path in of_split} for split, of_split in plain.items()}


# ---- train, val and test

@silent
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "TESTING"), ("train", "valid", "test")])
@pytest.mark.parametrize("wrapper", ["", "data__"])
def test_train_val_and_test_folders_stay_what_they_are(names, wrapper, tmp_path):
    draw(tmp_path, **{f"{wrapper}{name}__{of}": 3 for name in names for of in ("cat", "dog")})
    below = wrapper.replace("__", "/")
    for split, name in zip(_SPLITS, names):
        assert paths(tmp_path)[split] == {f"{below}{name}/{of}/{number}.jpg" for of in ("cat", "dog") for number in range(3)}


@pytest.mark.parametrize("cut, tested", [("train", "test"), ("train", "val"), ("val", "test")])
def test_of_two_one_is_tested_and_the_other_cut(cut, tested, tmp_path):
    draw(tmp_path, **{f"{name}__{of}": 5 for name in (cut, tested) for of in ("cat", "dog")})
    with pytest.warns(UserWarning, match=f"{tested} is tested, and a fifth of {cut} becomes the validation set"):
        seen = paths(tmp_path)
    assert seen["test"] == {f"{tested}/{of}/{number}.jpg" for of in ("cat", "dog") for number in range(5)}
    assert len(seen["train"]) == 8 and len(seen["val"]) == 2 and all(path.startswith(f"{cut}/") for path in seen["train"] | seen["val"])


@pytest.mark.parametrize("names", [("training_set", "val_set", "test_set"), ("train_images", "valid_images", "test_images"),
                                   ("seg_train", "seg_val", "seg_test"), ("TrainData", "ValData", "TestData"), ("train2017", "val2017", "test2017")])
def test_names_of_splits_with_another_word_are_known_and_told_of(names, tmp_path):
    draw(tmp_path, **{f"{name}__{of}": 1 for name in names for of in ("cat", "dog")})
    with pytest.warns(UserWarning, match=f"{names[0]!r} for train"):
        seen = paths(tmp_path)
    assert {split: {path.split("/")[0] for path in seen[split]} for split in _SPLITS} == {split: {name} for split, name in zip(_SPLITS, names)}


@quiet
@pytest.mark.parametrize("train, test", [("seg_train__seg_train__", "seg_test__seg_test__"), ("train__train__", "test__"),
                                         ("train__images__", "test__images__"), ("train__train__images__", "test__pictures__")])
def test_wrappers_in_train_and_test_are_looked_through(train, test, tmp_path):
    draw(tmp_path, **{f"{place}{of}": 3 for place in (train, test) for of in ("cat", "dog")})
    assert paths(tmp_path)["test"] == {f"{test.replace('__', '/')}{of}/{number}.jpg" for of in ("cat", "dog") for number in range(3)}
    assert counts(tmp_path, "train") == dict(cat=2, dog=2)


@silent
def test_classes_may_be_cut_by_themselves(tmp_path):
    draw(tmp_path, **{f"{of}__{name}": 2 for name in _SPLITS for of in ("cat", "dog")})
    assert {split: {path.split("/")[1] for path in of_split} for split, of_split in paths(tmp_path).items()} == {
        split: {split} for split in _SPLITS}
    assert counts(tmp_path, "test") == dict(cat=2, dog=2)


@pytest.mark.parametrize("folders, message", {
    "a fourth folder": (dict(train__a=2, train__b=2, val__a=1, val__b=1, test__a=1, test__b=1, extra__a=2), "beside them 'extra'"),
    "one and classes": (dict(train__a=2, train__b=2, cat=2), "beside them 'cat'"),
    "no classes in one": (dict(train__a=2, train__b=2, test=2), "'test' with photographs and no class folders"),
    "two of a kind": (dict(val__a=2, val__b=2, valid__a=2, train__a=1), "'val' and 'valid', which both mean val"),
    "a class untested": (dict(train__a=2, train__b=2, test__a=1, val__b=1), "class 'b' has no test picture"),
    "a fourth with a longer name": (dict(seg_train__a=2, seg_train__b=2, seg_test__a=1, seg_test__b=1, seg_pred__seg_pred=2), "beside them 'seg_pred'"),
    "no classes in a folder of its name": (dict(train__a=2, train__b=2, test__test=2), "'test' with photographs and no class folders"),
    "folds": (dict(fold1__a=2, fold1__b=2, fold2__a=2, fold2__b=2, fold3__c=1), "'fold1' and 'fold2', and folders in them are named alike, such as 'fold1/a'"),
    "masks": (dict(images__a=2, images__b=2, masks__a=2, masks__b=2), "give one of them as data_root, or name them train, val and test"),
    "two datasets with one class in common": (dict(x__a=2, x__b=2, y__b=2, y__c=2), "'x' and 'y', and folders in them are named alike, such as 'x/b'"),
    "a small copy of all": (dict(a=2, b=2, small__a=2, small__b=2), "'small' and 'a', and folders in them are named alike"),
    "half cut": (dict(a__train=2, a__test=2, b__train=2, b=2), "'a' and 'b', and folders in them are named alike, such as 'a/train'"),
    "thumbnails or a class": (dict(a=2, b=2, Thumbnails=2), "'Thumbnails', which may be a class or small copies"),
    "two spellings": (dict(train__Dog=2, test__dog=2, train__cat=2, test__cat=2), "'train/Dog' and 'test/dog' become one prompt"),
}.values())
@quiet
def test_folders_that_could_be_a_guess_are_refused(folders, message, tmp_path):
    draw(tmp_path, **folders)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path)


@silent
@pytest.mark.parametrize("folders", [("bus", "train"), ("train_station", "test_tube"), ("cat__images", "dog__images"), ("cat__cat", "dog__dog"),
                                     ("cat__old", "dog__new")])
def test_what_looks_like_a_split_or_a_wrapper_may_be_a_class(folders, tmp_path):
    draw(tmp_path, **dict.fromkeys(folders, 3))
    assert counts(tmp_path, "test") == {folder.partition("__")[0]: 1 for folder in folders}


@silent
def test_thumbnails_beside_photographs_are_passed_over_and_a_table_may_name_others(tmp_path):
    draw(tmp_path, cat=3, cat__thumbs=3, dog=3)
    with pytest.warns(UserWarning, match="passed over.*1 thumbs/"):
        assert counts(tmp_path, "test") == dict(cat=1, dog=1)
    draw(tmp_path / "gestures", Thumbs=6)
    write_text("path,label\n" + "".join(f"Thumbs/{number}.jpg,{'up' if number % 2 else 'down'}\n" for number in range(6)), tmp_path / "gestures" / "labels.csv")
    assert counts(tmp_path / "gestures", "test") == dict(up=1, down=1)


# ---- tables and words

@silent
@pytest.mark.parametrize("table, below", [("labels.csv", ""), ("labels.csv", "images/"), ("images/labels.csv", "images/"),
                                          ("a/Labels.csv", "a/images/")])
def test_a_table_lies_beside_or_above_the_pictures(table, below, tmp_path):
    draw(tmp_path, **{below.replace("/", "__")[:-2] or ".": 8})
    write_text("path,label\n" + "".join(f"{number}.jpg,{'cat' if number % 2 else 'dog'}\n" for number in range(8)), tmp_path / table)
    assert counts(tmp_path, "train") == dict(cat=2, dog=2)
    assert set().union(*paths(tmp_path).values()) == {f"{below}{number}.jpg" for number in range(8)}


def test_a_table_may_cut_and_what_it_leaves_out_is_told_of(tmp_path):
    draw(tmp_path, images=7)
    write_text("path,label,split\n" + "".join(f"{number}.jpg,{'ab'[number % 2]},{split}\n" for number, split in
                                              enumerate(["train", "train", "val", "val", "test", "test"])), tmp_path / "labels.csv")
    with pytest.warns(UserWarning, match="photographs without a label.*'images/6.jpg'"):
        assert paths(tmp_path)["test"] == {"images/4.jpg", "images/5.jpg"}


@pytest.mark.parametrize("name, text", [("classnames.txt", "001 tabby cat\n002 dog"), ("classnames.json", '{"001": "tabby cat", "002": "dog"}')])
@pytest.mark.parametrize("place", ["", "images"])
@silent
def test_words_lie_beside_the_classes_or_above(name, text, place, tmp_path):
    draw(tmp_path, images__001=3, images__002=3)
    write_text(text, tmp_path / place / name)
    assert load_dataset("folder", root=tmp_path, shots=1).all.classnames == ("tabby cat", "dog")


@quiet
def test_two_files_of_words_are_refused_and_words_that_become_one_prompt(tmp_path):
    draw(tmp_path, **{"001": 3, "002": 3})
    write_text("001 Cat\n002 cat", tmp_path / "classnames.txt")
    with pytest.raises(ValueError, match="'001' and '002' become one prompt"):
        rows_of(tmp_path)
    write_text("{}", tmp_path / "classnames.json")
    with pytest.raises(ValueError, match="classnames.json' and 'classnames.txt': leave one"):
        rows_of(tmp_path)


# ---- copies and broken files

def test_copies_in_train_and_test_are_counted(tmp_path):
    draw(tmp_path, train__cat=3, train__dog=3, val__cat=1, val__dog=1, test__cat=2, test__dog=2)
    shutil.copy(tmp_path / "train/cat/1.jpg", tmp_path / "test/dog/0.jpg")
    with pytest.warns(UserWarning, match="1 of 4 test pictures are, byte for byte, copies of training pictures, such as 'test/dog/0.jpg' of 'train/cat/1.jpg'"):
        rows_of(tmp_path)


@quiet
def test_broken_pictures_are_named(tmp_path):
    draw(tmp_path, cat=4, dog=4)
    write_bytes(b"", tmp_path / "cat" / "empty.png")
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="2 of .* images cannot be read.*empty.png.*gone.jpg"):
        load_dataset("folder", root=tmp_path)
