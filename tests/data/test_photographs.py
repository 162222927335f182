"Photographs are told from all that programs leave beside them, and what is passed over is counted."

import os
import warnings

import pytest
from miniature import picture
from PIL import Image

from npt._files import write_bytes
from npt.data.photographs import _find_photographs, _Found, _tell_of_others

TOOLS = [".ipynb_checkpoints", "@eaDir", ".AppleDouble", "__MACOSX", "#recycle", "$RECYCLE.BIN", ".thumbnails", "System Volume Information"]


@pytest.mark.parametrize("tool", TOOLS)
def test_folders_of_programs_are_not_looked_into(tool, tmp_path):
    for path in "cat/1.jpg", f"cat/{tool}/1.jpg", f"{tool}/cat/1.jpg":
        write_bytes(picture(0, 0), tmp_path / path)
    found = _find_photographs(tmp_path)
    assert found.photographs == ["cat/1.jpg"] and sorted(found.tools) == sorted([tool, f"cat/{tool}"])


def test_only_photographs_are_found(tmp_path):
    others = ["Thumbs.db", "desktop.ini", "1.xmp", "1.txt", "1.json", "notes.pdf", "film.mov", "1.nef", ".DS_Store", "._1.jpg", "folder.ico"]
    for name in others:
        write_bytes(picture(0, 0) if name in ("._1.jpg", "1.nef") else b"no picture at all", tmp_path / "cat" / name)
    there = ["1.jpg", "2.JPEG", "broken.png", "export", "photo.jpg_large"]
    for name in there:
        write_bytes(b"broken" if name == "broken.png" else picture(0, 0), tmp_path / "cat" / name)
    found = _find_photographs(tmp_path)
    assert found.photographs == [f"cat/{name}" for name in there] and sorted(found.others) == sorted(f"cat/{name}" for name in others)


def test_what_is_passed_over_is_counted_in_one_line(tmp_path):
    for path in "a/1.jpg", "a/Thumbs.db", "b/Thumbs.db", "b/.DS_Store", "b/@eaDir/1.jpg", "labels.csv":
        write_bytes(picture(0, 0) if path.endswith("jpg") else b"-", tmp_path / path)
    found = _find_photographs(tmp_path)
    with pytest.warns(UserWarning) as said:
        _tell_of_others(found, tmp_path, {"labels.csv"})
    [line] = said
    assert str(line.message).endswith("2 .db, 1 @eaDir/, 1 hidden")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _tell_of_others(_Found(["a/1.jpg"], ["labels.csv"], [], ["a"]), tmp_path, {"labels.csv"})


def test_links_are_followed_and_circles_are_not(tmp_path):
    write_bytes(picture(0, 0), tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert _find_photographs(tmp_path / "pets").photographs == ["cat/1.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path):
    (tmp_path / "cat").mkdir(mode=0)
    with pytest.raises(PermissionError, match="cat"):
        _find_photographs(tmp_path)


def test_links_through_each_other_end(tmp_path):
    folders = [tmp_path / name for name in "abcdefgh"]
    for folder in folders:
        write_bytes(picture(0, 0), folder / "1.jpg")
    for folder in folders:
        for other in folders:
            if other != folder:
                (folder / other.name).symlink_to(other)
    found = _find_photographs(tmp_path).photographs
    assert {f"{folder.name}/1.jpg" for folder in folders} <= set(found) and len(found) < 8 * 8 * 8
    assert not [path for path in found if "/a/" in path and path.startswith("a/")]


def test_two_links_to_one_folder_are_both_followed(tmp_path):
    write_bytes(picture(0, 0), tmp_path / "elsewhere" / "cat" / "1.jpg")
    (tmp_path / "pets").mkdir()
    for name in "val", "test":
        (tmp_path / "pets" / name).symlink_to(tmp_path / "elsewhere")
    assert _find_photographs(tmp_path / "pets").photographs == ["test/cat/1.jpg", "val/cat/1.jpg"]


def test_folders_too_deep_in_each_other_are_refused(tmp_path):
    (tmp_path / "/".join("d" * 400)).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds more than 100 folders in each other, such as 'd/d/"):
        _find_photographs(tmp_path)


def test_only_what_can_be_opened_starts_as_a_picture(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "printed", "eps")
    Image.new("1", (8, 8)).save(tmp_path / "drawn", "xbm")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo", "png")
    assert _find_photographs(tmp_path).photographs == ["photo"]
