"A dataset is found by its names and its numbers, in any layout, and nothing else is taken for it."

import os
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import PUBLISHED, make_tree, miniature_record, write_pictures

from npt.data.parts import _count_images, _find_dataset, _holds, _image_parts, _label_parts


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("above", [0, 2])
def test_a_dataset_is_found_with_its_labels(name: str, above: int, tmp_path: Path):
    record, folder = miniature_record(name), make_tree(name, tmp_path / "a" / "b")
    found = _find_dataset(record, [folder, folder.parent, folder.parent.parent][above])
    assert list(found)[: len(_image_parts(record))] == _image_parts(record), "images come first"
    assert found == {part: folder / part for part in found}
    assert set(found) == {part for part in (*_image_parts(record), *_label_parts(record)) if (folder / part).exists()}


def test_counting_leaves_out_what_is_no_image_of_a_class(tmp_path: Path):
    write_pictures(tmp_path / "oak", 0)
    write_pictures(tmp_path / "a" / "ash" / "outdoor", 0, count=3)
    for hidden in ".oak", "__MACOSX", "ignored", "a/b/c/d":
        write_pictures(tmp_path / hidden, 0)
    (tmp_path / "oak" / "Thumbs.db").write_text("")
    (tmp_path / "oak" / "._image_0001.jpg").write_text("")
    assert _count_images(tmp_path, ("ignored",)) == (2, 13)


def test_one_image_in_a_hundred_may_be_missing_or_too_many(tmp_path: Path):
    record = replace(miniature_record("eurosat"), num_images=200)
    folder = tmp_path / "2750"
    for label, name in enumerate(["AnnualCrop", "Forest", "HerbaceousVegetation", "SeaLake"]):
        write_pictures(folder / name, label, count=50)
    for extra, right in (0, True), (1, True), (3, False), (-2, True), (-3, False):
        assert _holds(replace(record, num_images=200 - extra), {"2750": folder}) == right
    assert not _holds(replace(record, num_classes=5), {"2750": folder})


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_tree("dtd", tmp_path)
    (tmp_path / "0 closed").mkdir()
    scan = os.scandir

    def closed(path):
        if Path(path).name == "0 closed":
            raise PermissionError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert _find_dataset(miniature_record("dtd"), tmp_path) == {"images": tmp_path / "dtd" / "images"}


def test_an_archive_is_searched_everywhere_and_need_not_be_whole(tmp_path: Path):
    record, folder = replace(miniature_record("eurosat"), num_images=9000), make_tree("eurosat", tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "split_zhou_EuroSAT.json").write_text("{}")
    found = _find_dataset(record, tmp_path, everywhere=True)
    assert found == {"2750": folder / "2750", "split_zhou_EuroSAT.json": tmp_path / "lists" / "split_zhou_EuroSAT.json"}
    assert _find_dataset(record, tmp_path / "lists", everywhere=True).keys() == {"split_zhou_EuroSAT.json"}
    with pytest.raises(ValueError, match="is no copy of eurosat.*2750 has 4 folders with images, 40 in all"):
        _find_dataset(record, tmp_path)
