"Pictures of every kind, given in every way, and what is none."

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trained import NAMES, logits

import npt.study.predict
from npt.learners.zero_shot import ZeroShot
from npt.study.predict import predict
from npt.study.restore import load_run
from npt.world.label_sets import WorldImage, draw_images


@pytest.fixture
def pictures(tmp_path) -> Path:
    "Pictures in several formats and folders, and what is none."
    folder = tmp_path / "pictures"
    for number, name in enumerate(("b.png", "a.JPG", "deep/er/c.webp", "deep/d.gif", ".hidden/e.png", "._a.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40 + number, 30), 80).convert("RGB").save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_folder_gives_sorted_pictures_and_leaves_the_rest_alone(trained_dir, pictures):
    table = predict(load_run(trained_dir), pictures, top=2)
    assert table["image"].tolist() == [name for name in ("a.JPG", "b.png", "deep/d.gif", "deep/er/c.webp") for _ in range(2)]
    assert table["rank"].tolist() == [1, 2] * 4 and list(table.columns) == ["image", "rank", "class", "probability"]
    assert str(pictures) not in table.to_string()


def test_paths_and_pillow_images_in_one_list(trained_dir, pictures):
    learner = load_run(trained_dir)
    path = pictures / "b.png"
    images = [str(path), path, Image.open(path), Image.open(path).copy()]
    table = predict(learner, images, top=8)
    assert table["image"].tolist() == [str(path)] * 24 + ["picture 4"] * 8
    for number, image in enumerate(images):
        together, alone = table.iloc[8 * number : 8 * number + 8], predict(learner, iter([image]), top=8)
        assert together["class"].tolist() == alone["class"].tolist() == table["class"][:8].tolist()
        assert together["probability"].tolist() == pytest.approx(alone["probability"].tolist(), abs=1e-3)


def test_probabilities_are_those_of_the_logits(clip):
    learner = ZeroShot(clip, NAMES)
    drawn = draw_images([WorldImage("textures", "test", label, 0) for label in range(3)]).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(picture) for picture in drawn]
    table = predict(learner, images, top=3)
    expected = 100 * logits(learner, torch.stack([clip.preprocess(image) for image in images])).softmax(dim=1)
    for image, rows in enumerate(expected.tolist()):
        rows_of_it = table[table["image"] == f"picture {image + 1}"]
        assert dict(zip(rows_of_it["class"], rows_of_it["probability"])) == pytest.approx(dict(zip(NAMES, rows)), abs=1e-3)
        assert rows_of_it["probability"].is_monotonic_decreasing


def test_batches_change_nothing(trained_dir, pictures, monkeypatch):
    learner = load_run(trained_dir)
    together = predict(learner, pictures)
    monkeypatch.setattr(npt.study.predict, "_PICTURES_AT_ONCE", 3)
    monkeypatch.setattr(npt.study.predict, "_LOGITS_BATCH", 1)
    apart = predict(learner, pictures)
    assert together["class"].tolist() == apart["class"].tolist()
    assert (together["probability"] - apart["probability"]).abs().max() < 1e-3


def test_photographs_are_turned_upright(clip, tmp_path):
    upright = Image.effect_noise((40, 30), 80).convert("RGB")
    upright.paste("red", (0, 0, 40, 8))
    upright.save(tmp_path / "upright.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned a quarter clockwise when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=sideways)
    plain = predict(ZeroShot(clip, NAMES), tmp_path / "upright.png")
    for turned in tmp_path / "sideways.png", Image.open(tmp_path / "sideways.png"):
        assert (predict(ZeroShot(clip, NAMES), turned)["probability"] - plain["probability"]).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "F"])
def test_pillow_images_of_every_mode(clip, mode):
    noise = Image.effect_noise((40, 30), 80)
    wide = {"I;16": np.asarray(noise).astype(np.uint16) * 257, "F": np.asarray(noise) / np.float32(255)}
    image = Image.fromarray(wide[mode]) if mode in wide else noise.convert("RGBA").convert(mode)
    assert image.mode == mode
    table = predict(ZeroShot(clip, NAMES), image)
    assert table["image"].tolist() == ["picture 1"] * 3


def test_pictures_that_cannot_be_read_are_named(clip, pictures):
    learner, whole = ZeroShot(clip, NAMES), (pictures / "b.png").read_bytes()
    (pictures / "deep" / "broken.png").write_bytes(whole[: len(whole) // 2])
    for images in pictures, pictures / "deep" / "broken.png", [Image.open(pictures / "deep" / "broken.png")]:
        with pytest.raises(OSError, match="broken.png' cannot be read as a picture") as caught:
            predict(learner, images)
        assert "dataset" not in str(caught.value)
    with pytest.raises(OSError, match="notes.txt"):
        predict(learner, pictures / "notes.txt")


def test_what_is_no_picture_is_refused(clip, pictures, tmp_path):
    learner = ZeroShot(clip, NAMES)
    (tmp_path / "empty").mkdir()
    for images, error, said in [
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
        ([pictures / "b.png", tmp_path / "gone.png"], FileNotFoundError, "gone.png"),
        (tmp_path / "empty", ValueError, "holds no pictures"), ([pictures], ValueError, "is a folder"),
        ([], ValueError, "no pictures"),
        (torch.zeros(2, 3, 32, 32), TypeError, "Tensor"), ([None], TypeError, "NoneType"), (3, TypeError, "int"),
    ]:
        with pytest.raises(error, match=said):
            predict(learner, images)
    with pytest.raises(ValueError, match="top=0"):
        predict(learner, pictures, top=0)


def test_other_class_names(trained_dir, pictures):
    learner = load_run(trained_dir)
    table = predict(learner.for_classes(NAMES), pictures)
    assert set(table["class"]) == set(NAMES) and len(table) == 4 * 3
    assert set(predict(learner, pictures)["class"]) <= set(learner.classnames)
