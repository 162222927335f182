"How images are opened and prepared: upright, cropped by a seed, the same in every process, drawn once."

import io
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from npt.data.datasets import find_dataset
from npt.data.images import (
    Draw,
    _drawn_pictures,
    _on_device,
    _open_image,
    _torch_seed,
    _training_transform,
    _worker_count,
    make_loader,
)
from npt.data.load import load_dataset
from npt.data.split import Item, Split
from npt.world.clip import _IMAGE_MEAN, _IMAGE_STD
from npt.world.label_sets import WorldImage, draw_images
from npt.world.pictures import IMAGE_SIZE

LARGE = PreprocessCfg()  # CLIP's own: 224 pixels


def picture(size: tuple[int, int] = (8, 6), colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG")
    return data.getvalue()


# ---- images

def test_ones_own_photographs_are_turned_upright_and_published_ones_are_not(tmp_path):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    path = tmp_path / "sideways.jpg"
    Image.effect_noise((60, 30), 80).save(path, exif=sideways)
    assert _open_image(path, upright=True).size == (30, 60) and _open_image(path, upright=False).size == (60, 30)
    seen = {}
    for name in "folder", "dtd":
        split = Split((Item(str(path), 0),), ("cat",), find_dataset(name))
        (seen[name], _), = make_loader(split, LARGE)
    assert torch.equal(seen["dtd"][0], image_transform_v2(LARGE, is_train=False)(Image.open(path)))
    assert not torch.equal(seen["folder"], seen["dtd"])


def test_grey_of_sixteen_bits_keeps_its_greys(tmp_path):
    Image.new("I;16", (4, 4), 128 * 256).save(tmp_path / "grey.png")
    assert _open_image(tmp_path / "grey.png", upright=True).getpixel((1, 1)) == (128, 128, 128)


def test_an_image_that_breaks_after_loading_is_named(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(picture((300, 200))[:400])
    split = Split((Item(str(path), 0),), ("cat",), find_dataset("dtd"))
    for workers in 0, 1:
        with pytest.raises(OSError, match="cat.jpg.*can no longer be read"):
            list(make_loader(split, LARGE, workers=workers))


# ---- draws and workers

@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Split:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(6):
        Image.effect_noise((90 + 10 * number, 70), 60).convert("RGB").save(folder / f"{number}.png")
    items = tuple(Item(str(folder / f"{number}.png"), number % 3) for number in range(6))
    return Split(items, ("a", "b", "c"), find_dataset("dtd"))


DRAWS = [[Draw(0, 7), Draw(1, 8), Draw(2, 9)], [Draw(3, 10), Draw(0, 11)], [Draw(5, 12)]]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for pair in zip(one, other) for a, b in zip(*pair))


def test_pixels_do_not_depend_on_the_processes_that_prepare_them(photographs):
    alone = list(make_loader(photographs, LARGE, draws=DRAWS, workers=0))
    assert [labels.tolist() for _, labels in alone] == [[0, 1, 2], [0, 0], [2]]
    for workers in 1, 2:
        assert same(alone, list(make_loader(photographs, LARGE, draws=DRAWS, workers=workers)))
    spawned = make_loader(photographs, LARGE, draws=DRAWS, workers=1)
    spawned.multiprocessing_context = "spawn"
    assert same(alone, list(spawned))


def test_a_crop_is_a_function_of_its_seed(photographs):
    (pixels, _), = make_loader(photographs, LARGE, draws=[[Draw(0, 1), Draw(1, 1), Draw(0, 2), Draw(0, 1), Draw(0)]])
    assert torch.equal(pixels[0], pixels[3])
    assert not torch.equal(pixels[0], pixels[2]) and not torch.equal(pixels[0], pixels[4])
    assert torch.equal(pixels[4], image_transform_v2(LARGE, is_train=False)(Image.open(photographs.items[0].image)))


def test_crops_of_neighbouring_seeds_are_spread_evenly():
    areas, flips = [], 0
    crop, flip, *_ = _training_transform(LARGE, (0.08, 1.0)).transforms
    for seed in range(2000):
        with _torch_seed(seed):
            _, _, height, width = crop.get_params(Image.new("L", (400, 400)), crop.scale, (1.0, 1.0))
            flips += bool(torch.rand(1) < flip.p)
        areas.append(height * width / 400**2)
    areas = torch.tensor(areas)
    cuts = torch.linspace(0.08, 1, 5)
    assert (torch.histogram(areas, cuts).hist / 2000 - 0.25).abs().max() < 0.03 and abs(flips / 2000 - 0.5) < 0.03
    neighbours = torch.corrcoef(torch.stack([areas[:-1], areas[1:]]))[0, 1]
    assert neighbours.abs() < 0.06


def test_the_callers_random_numbers_are_left_alone(photographs):
    torch.manual_seed(3)
    expected = torch.rand(2)
    for workers in 0, 1:
        torch.manual_seed(3)
        list(make_loader(photographs, LARGE, draws=DRAWS, workers=workers))
        list(make_loader(photographs, LARGE, workers=workers))
        assert torch.equal(torch.rand(2), expected)


def test_pictures_of_the_world_are_not_cropped():
    small = PreprocessCfg(IMAGE_SIZE, mean=_IMAGE_MEAN, std=_IMAGE_STD)
    split = load_dataset("world/shapes", shots=2).base.train
    (drawn, _), = make_loader(split, small, draws=[[Draw(3, 5), Draw(3, 6), Draw(3)]])
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    cropped = replace(split, record=replace(split.record, crop=(0.08, 0.5)))
    (drawn, _), = make_loader(cropped, small, draws=[[Draw(3, 5), Draw(3, 6)]])
    assert not torch.equal(drawn[0], drawn[1]), "but where a record asks for it"


@pytest.mark.parametrize("size", [IMAGE_SIZE, (IMAGE_SIZE, IMAGE_SIZE), 48])
def test_pictures_of_the_world_are_what_open_clips_transform_makes_of_them(size):
    preprocess = PreprocessCfg(size, mean=_IMAGE_MEAN, std=(0.2, 0.25, 0.3))
    split = load_dataset("world/scenes", shots=2).base.train
    pixels, _ = next(iter(make_loader(split, preprocess, batch_size=8)))
    drawn = draw_images([item.image for item in split.items[:8]]).permute(0, 2, 3, 1).numpy()
    expected = torch.stack([image_transform_v2(preprocess, is_train=False)(Image.fromarray(one)) for one in drawn])
    assert torch.equal(pixels, expected)


def test_a_picture_is_drawn_once_and_only_so_many_are_kept(monkeypatch):
    drawn = []
    kept = {}
    monkeypatch.setattr("npt.data.images._DRAWN", kept)
    monkeypatch.setattr("npt.data.images._MOST_DRAWN", 5)
    monkeypatch.setattr("npt.data.images.draw_images", lambda images: drawn.extend(images) or draw_images(images))
    names = [WorldImage("shapes", "test", label, 0) for label in range(8)]
    for some in (names[:3], names[2:5], names[:5], names[:3]):
        assert torch.equal(_drawn_pictures(some), draw_images(some))
    assert drawn == names[:5]
    assert torch.equal(_drawn_pictures([*names[4:6], names[4]]), draw_images([names[4], names[5], names[4]]))
    assert drawn == names[:5] + names[4:6] and len(kept) == 2, "what was kept made room"
    assert torch.equal(_drawn_pictures(names), draw_images(names)), "a batch beyond the bound is drawn all the same"


def test_a_worker_that_dies_is_an_error_at_once(photographs, monkeypatch):
    monkeypatch.setattr("npt.data.images._open_image", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(make_loader(photographs, LARGE, workers=1))


def test_workers_start_where_they_pay(photographs, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    many = replace(photographs, items=photographs.items * 200)
    counts = {}
    for method in "fork", "spawn":
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: method)
        counts[method] = [_worker_count(photographs, 1), _worker_count(many, 1), _worker_count(many, 20)]
    assert counts == {"fork": [0, 8, 8], "spawn": [0, 0, 5]}
    assert _worker_count(load_dataset("world/shapes").base.test, 20) == 0
    assert make_loader(many, LARGE, workers=3).num_workers == 3
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "fork")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert _worker_count(many, 20) == 3, "as many as the job was given"
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    monkeypatch.setenv("NPT_GPU_SHARE", "0.25")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _worker_count(many, 20) == 4, "four jobs on each of four GPUs share 64 cores"


# ---- bytes and floats

def test_bytes_become_the_floats_of_torchvisions_own_steps(photographs):
    crop = _training_transform(LARGE, (0.08, 1.0))
    as_tested = image_transform_v2(LARGE, is_train=False)
    for draws in [[Draw(0, 7), Draw(4, 8)]], [[Draw(1), Draw(5)]]:
        expected = []
        for draw in draws[0]:
            with _torch_seed(draw.seed or 0):
                expected.append((as_tested if draw.seed is None else crop)(Image.open(photographs.items[draw.index].image)))
        (floats, labels), = make_loader(photographs, LARGE, draws=draws)
        raw = make_loader(photographs, LARGE, draws=draws, raw=True)
        assert next(iter(raw))[0].dtype == torch.uint8
        (late, same_labels), = _on_device(raw, LARGE, torch.device("cpu"))
        assert torch.equal(floats, torch.stack(expected)) and torch.equal(late, floats) and torch.equal(labels, same_labels)


def test_processes_that_stay_give_the_batches_anew(photographs):
    batches = []
    loader = make_loader(photographs, LARGE, draws=batches, workers=1, again=True)
    for draws in DRAWS[:2], DRAWS[2:], DRAWS:
        batches[:] = draws
        assert same(list(loader), list(make_loader(photographs, LARGE, draws=draws, workers=0)))
