"Splits are told apart by what is in their files, class by class, wherever the files lie."

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from npt.data.contents import _content_hashes, _split_contents
from npt.data.datasets import find_dataset
from npt.data.load import load_dataset
from npt.data.split import Item, Split
from npt.world.label_sets import LABEL_SETS, WorldImage, _drawn_from, _find_label_set
from npt.world.pictures import Domain


@pytest.fixture
def two_folders(tmp_path: Path, folder) -> tuple[Split, Split]:
    "The same five files of two classes, twice."
    for name in ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3"):
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    shutil.copytree(tmp_path / "one", tmp_path / "deep" / "other")
    return tuple(Split(tuple(Item(str(path), path.parent.name == "dog") for path in sorted(root.glob("*/*"))), ("cat", "dog"),
                       find_dataset("folder")) for root in (tmp_path / "one", tmp_path / "deep" / "other"))


def test_a_moved_folder_has_the_same_contents(two_folders):
    one, other = map(_split_contents, two_folders)
    assert one == other and {name: count for name, (count, _) in one.items()} == dict(cat=2, dog=3)


@pytest.mark.parametrize("change", ["content", "name", "fewer", "label"])
def test_the_class_that_differs_is_known(two_folders, change):
    split, other = two_folders
    _split_contents(other)
    place = Path(other.items[4].image)
    if change == "content":
        before = os.stat(place)
        place.write_text("dog/4")
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    if change == "name":
        place.rename(place.with_name("4"))
        other = replace(other, items=(*other.items[:4], Item(str(place.with_name("4")), 1)))
    if change == "fewer":
        other = other.take([0, 1, 2, 3])
    if change == "label":
        other = replace(other, items=(*other.items[:4], Item(str(place), 0)))
    one, changed = _split_contents(split), _split_contents(other)
    assert one["dog"] != changed["dog"] and (one["cat"] == changed["cat"]) == (change != "label")


def test_a_missing_file_is_named(two_folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        _content_hashes([str(tmp_path / "gone.png")])


def asked_anew() -> None:
    "Forget what label sets were."
    for remembered in _find_label_set, _drawn_from:
        remembered.cache_clear()


@pytest.mark.parametrize("change", [dict(domain=Domain(noise=0.4)), dict(things=LABEL_SETS["textures"].things[::-1])], ids=["domain", "classes"])
def test_pictures_of_other_classes_or_in_another_domain_are_other_contents(change, folder, monkeypatch):
    images = [WorldImage("textures", "test", 0, number) for number in range(2)]
    before = _content_hashes(images)
    with monkeypatch.context() as patch:
        patch.setitem(LABEL_SETS, "textures", replace(LABEL_SETS["textures"], **change))
        asked_anew()
        changed = _content_hashes(images)
    asked_anew()
    assert not set(before.values()) & set(changed.values()) and _content_hashes(images) == before


def test_a_class_split_of_objects_has_contents_of_its_own(folder):
    splits = [load_dataset("world/objects", shots=2, class_split=split).base.test for split in ("half", 1, 2)]
    told = [set(_content_hashes([item.image for item in split.items]).values()) for split in splits]
    assert len(set().union(*told)) == 3 * len(splits[0])


def test_pictures_of_the_offline_world_are_told_by_their_names(folder):
    data = load_dataset("world/shapes", shots=2)
    hashes = _content_hashes([item.image for item in data.all.test.items])
    assert len(set(hashes.values())) == len(data.all.test)
    assert _split_contents(data.base.test) != _split_contents(data.base.val) and not _split_contents(data.base.test.take([]))
