"Photographs that are decoded once: the pixels of their files, read by every later loader, and kept only where there is room."

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from shared import fresh, in_world

from npt.data.datasets import find_dataset
from npt.data.decoded import _has_room, _kept_pictures, _read_pictures, _write_pictures
from npt.data.images import Draw, make_loader
from npt.data.kept import _claim
from npt.data.load import load_dataset
from npt.data.split import Item, Split
from npt.training.fit import fit

LARGE = PreprocessCfg()
DRAWS = [[Draw(place, 10 * batch + place) for place in range(batch, 6)] for batch in range(3)]


@pytest.fixture
def photographs(tmp_path, folder) -> Split:
    "Smaller and larger than what the backbone takes, of every mode, one on its side."
    chance = np.random.default_rng(0)
    noise = [Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in
             [(300, 500), (40, 48), (700, 90), (224, 224), (31, 230), (260, 240)]]
    sideways = Image.Exif()
    sideways[0x0112] = 6
    for number, (picture, mode) in enumerate(zip(noise, ["RGB", "L", "RGBA", "P", "1", "RGB"])):
        picture.convert(mode).save(tmp_path / f"{number}.png", **dict(exif=sideways) if number == 5 else {})
    noise[0].save(tmp_path / "0.png", "JPEG")
    items = tuple(Item(str(tmp_path / f"{number}.png"), number % 3) for number in range(6))
    return Split(items, ("a", "b", "c"), find_dataset("folder"))


@pytest.fixture
def decoded(folder) -> Path:
    return folder.parent / "decoded"


def files(decoded: Path) -> list[Path]:
    return sorted(decoded.glob("*.pixels"))


def same(one, other) -> bool:
    one, other = list(one), list(other)
    return len(one) == len(other) and all(torch.equal(a, b) for pair in zip(one, other) for a, b in zip(*pair))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("draws", [DRAWS, None], ids=["crops", "as tested"])
def test_pixels_are_those_of_the_files(draws, workers, photographs, decoded):
    from_files = list(make_loader(photographs, LARGE, draws=draws, workers=0))
    for _ in "decoded now", "read":
        assert same(make_loader(photographs, LARGE, draws=draws, workers=workers, decode_once=True), from_files)
    assert len(files(decoded)) == 1


def test_a_process_that_starts_afresh_maps_the_same_file(photographs, decoded):
    images = make_loader(photographs, LARGE, draws=DRAWS, decode_once=True).dataset
    path, = files(decoded)
    sent = pickle.dumps(images)
    assert len(sent) < path.stat().st_size / 10, "and is not sent the pixels"
    for draws in DRAWS:
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(images.__getitems__(draws), pickle.loads(sent).__getitems__(draws)))


def test_a_learner_of_the_image_tower_opens_each_photograph_once(noise_folder, decoded, monkeypatch):
    data, results = load_dataset("folder", root=noise_folder, shots=2).base, []
    learn = dict(objective="ce", epochs=2, batch_size=2, workers=0, measure_every=1, progress=False)
    monkeypatch.setattr("npt.training.batches.make_loader", lambda *given, decode_once, **named: make_loader(*given, **named))
    monkeypatch.setattr("npt.training.measure.make_loader", lambda *given, decode_once, **named: make_loader(*given, **named))
    expected = fit(in_world("ivlp", fresh(), data.train.classnames), data.train, test=data.test, **learn)
    assert not decoded.exists()
    monkeypatch.undo()
    monkeypatch.setenv("NPT_CACHE", str(decoded.parent))
    opened = []
    from npt.data import images
    plain = images._open_image
    monkeypatch.setattr(images, "_open_image", lambda path, upright: opened.append(path) or plain(path, upright))
    for _ in range(2):
        results.append(fit(in_world("ivlp", fresh(), data.train.classnames), data.train, test=data.test, **learn))
    assert results[0].equals(expected) and results[1].equals(expected)
    train, test = ([item.image for item in split.items] for split in (data.train, data.test))
    assert sorted(opened) == sorted(train + train + test), "large for crops, small for what is measured"


def test_other_content_and_other_sizes_have_files_of_their_own(photographs, decoded):
    def count(split, preprocess, **more):
        list(make_loader(split, preprocess, decode_once=True, **more))
        return len(files(decoded))

    seen = [count(photographs, LARGE), count(photographs, replace(LARGE, size=32)), count(photographs, LARGE, draws=DRAWS),
            count(photographs, replace(LARGE, size=32), draws=DRAWS)]
    assert seen == [1, 2, 3, 3], "crops are cut from photographs as large as they are, for every backbone"
    Image.new("RGB", (60, 50), "red").save(photographs.items[1].image)
    (pixels, _), = make_loader(photographs, LARGE, decode_once=True)
    assert len(files(decoded)) == 4 and pixels[1, 0].std() < 1e-3


def test_what_other_code_decoded_is_not_read(photographs, decoded, tmp_path, monkeypatch):
    make_loader(photographs, LARGE, decode_once=True)
    (tmp_path / "opening.py").write_text("# another way to turn 16 bits into eight")
    monkeypatch.setattr("npt.data.opening.__file__", str(tmp_path / "opening.py"))
    make_loader(photographs, LARGE, decode_once=True)
    assert len(files(decoded)) == 2


def test_a_damaged_file_is_made_again(photographs, decoded):
    expected = list(make_loader(photographs, LARGE, draws=DRAWS, decode_once=True))
    path, = files(decoded)
    whole = path.read_bytes()
    other_json = [b"pixels" + text + len(text).to_bytes(8, "little") for text in (b"5", b"null", b"[1, 2, 3, 4, 5, 6]", b'[[0, "a", 2]]')]
    for damaged in whole[:-3], b"", whole[100:], b"12345678", b"no pictures at all", *other_json:
        path.write_bytes(damaged)
        assert _read_pictures(path, 6) is None
        assert same(make_loader(photographs, LARGE, draws=DRAWS, decode_once=True), expected) and path.read_bytes() == whole


def test_pictures_are_read_as_they_were_written(tmp_path):
    chance, path = np.random.default_rng(0), tmp_path / "a.pixels"
    pictures = [chance.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in [(3, 5), (1, 1), (7, 2)]]
    _write_pictures(pictures, path)
    read = _read_pictures(path, 3)
    assert all(np.array_equal(picture, read[number]) for number, picture in enumerate(pictures)) and _read_pictures(path, 2) is None


def test_while_another_process_decodes_files_are_opened(photographs, decoded):
    make_loader(photographs, LARGE, decode_once=True)
    path, = files(decoded)
    path.unlink()
    with _claim(path):
        assert make_loader(photographs, LARGE, decode_once=True).dataset.kept is None and not path.exists()
    assert make_loader(photographs, LARGE, decode_once=True).dataset.kept is not None


def test_where_there_is_no_room_or_nothing_can_be_written_files_are_opened(photographs, decoded, monkeypatch):
    assert not _has_room(10**14, decoded) and _has_room(1, decoded)
    assert _kept_pictures(photographs, "", 10**14, ()) is None
    decoded.parent.mkdir(exist_ok=True)
    decoded.write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="cannot be kept.*NPT_CACHE"):
        loader = make_loader(photographs, LARGE, decode_once=True)
    assert loader.dataset.kept is None and same(loader, make_loader(photographs, LARGE))
