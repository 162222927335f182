"Broken images are found, and each image is opened once."

import errno
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from miniature import picture
from PIL import Image

from npt.data.check_images import _broken_images


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    "The names of the images that Pillow opens."
    names, true = [], Image.open

    def counted(path, **how):
        names.append(Path(path).name)
        return true(path, **how)

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
    first = _broken_images(paths)
    assert {path.name for path in first} == BROKEN and all(first.values()) and len(opened) == 7
    assert "DecompressionBombError" in first[images / "bomb.pgm"]
    assert _broken_images(paths) == first == _broken_images(map(str, paths)) and len(opened) == 7


def test_a_changed_image_is_opened_again(images: Path, opened: list[str]):
    _broken_images(images.iterdir())
    opened.clear()
    (images / "text.jpg").write_bytes(picture(1, 1))
    (images / "good-0.jpg").write_bytes((images / "good-0.jpg").read_bytes()[:-50])
    assert {path.name for path in _broken_images(images.iterdir())} == BROKEN - {"text.jpg"} | {"good-0.jpg"}
    assert sorted(opened) == ["good-0.jpg", "text.jpg"]
    now = time.time_ns()
    os.utime(images / "good-1.jpg", ns=(now, now))
    opened.clear()
    _broken_images(images.iterdir())
    assert opened == ["good-1.jpg"]


def test_a_passing_fault_of_the_system_is_not_kept(images: Path, monkeypatch: pytest.MonkeyPatch):
    true, good = Image.open, images / "good-0.jpg"

    def fails(path, **_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Image, "open", fails)
    assert list(_broken_images([good])) == [good]
    monkeypatch.setattr(Image, "open", true)
    assert _broken_images([good, images / "gone.jpg"]).keys() == {images / "gone.jpg"}


def test_verdicts_may_be_kept_by_several_at_once(images: Path, tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        broken = list(pool.map(_broken_images, [sorted(images.iterdir())] * 8))
    assert all({path.name for path in each} == BROKEN for each in broken)
    [database] = (tmp_path / "cache").iterdir()
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT COUNT(*) FROM kept").fetchone() == (7,)


def test_a_damaged_cache_is_named(images: Path, tmp_path: Path):
    _broken_images(images.iterdir())
    [database] = (tmp_path / "cache").iterdir()
    database.write_bytes(b"not a database " * 100)
    with pytest.raises(OSError, match=f"{database}.*delete it"):
        _broken_images(images.iterdir())
