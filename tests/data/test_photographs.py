"Photographs are told from all that programs leave beside them, and what is passed over is counted."

import os
import warnings

import pytest
from miniature import picture

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
