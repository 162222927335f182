"Which images make up a run, and how they are opened: CoOp's picks, broken files, random crops, worker processes."

import hashlib
import io
import json
import multiprocessing
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from miniature import CLASSNAMES, make_tree
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import npt.data
from npt.data.images import Draw, _drawn_pictures, _torch_seed, _worker_count, make_loader, open_image
from npt.data.load import load_dataset
from npt.data.split import Item, Split
from npt.data.datasets import find_dataset
from npt._files import write_bytes, write_text
from npt.data.formats import _SPLITS
from npt.data.imbalance import long_tail_counts
from npt.world.clip import _IMAGE_MEAN, _IMAGE_STD
from npt.world.label_sets import WorldImage, draw_images
from npt.world.pictures import IMAGE_SIZE

LARGE = PreprocessCfg()  # CLIP's own: 224 pixels
SIZES = [20, 3, 17, 16, 40, 1, 18, 15, 8, 25, 4, 16, 33]  # training images of each class, some fewer than the shots
OFFICIAL = {  # (shots, seed) -> SHA-256 of what CoOp's own loader picks from `write_split`, see `digest`
    (1, 1): "efabed18af5a45e0f2b52f140f67b924232a948a1c44c536505456c4f59f2892",
    (1, 2): "f7fc0425839139f5347badf20ee2068fca495f6c88c7889b3c913f12d016199b",
    (1, 3): "b3401d0a92eaa7668884fcaad97b1977aa7add7365c6949c49279a7075465fd9",
    (2, 1): "ea0f2d58d53e29504878e3b9af68378aa97d1a95d0815324bf83d037b6316ed0",
    (2, 2): "ae8441069a1e2bbf552e918a2ef79b98f38d5baa2465721bbd513376d9dc967e",
    (2, 3): "8026394eac0195b62b17718ba740d499dd33c2e258698fb94f664d6f5a5809f5",
    (4, 1): "0eb5440b2e5919d4af426066a2aa5f16d355324819a5a514f71e6af0983456ee",
    (4, 2): "64b38536f82eb0bb9e775b738c8a4401826cb37f9018f6842a1889ef100b46ac",
    (4, 3): "56f3bb2866e6ca4328ce08a11d070d2768db76fb333bb3ffbee9cc953c0ba0d2",
    (8, 1): "ebd89b9bb61e49dbb9d08d6ccabacc55ef63cc4947a85b75914e25991691195e",
    (8, 2): "708830f1d053f1da96cdd42294771a2c893e19465a3070779803aab536472ed2",
    (8, 3): "c790ba9ad0d258d56e392a0d0524598160eb6feb58c05f2d58dce4196701f1b4",
    (16, 1): "eeb872ff7bc54e3ebd4ecd7b1ac077c1a7844889d5669fdb6ca589ae18705416",
    (16, 2): "7bb7fb77dfc20c81ddc5474e00bbd519c1d9fb96dbf1f01808bacdbc087a80b7",
    (16, 3): "e91aa161491e0a45b9104cb2e965a1dd3f49d8f210a3d41990db20b34ccbec4d",
}


def picture(size: tuple[int, int] = (8, 6), colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG")
    return data.getvalue()


def write_split(root: Path) -> None:
    "Thirteen classes in CoOp's layout as dtd, the rows of the classes mixed."
    counted = {"train": SIZES, "val": [1 + size % 7 for size in SIZES], "test": [2] * len(SIZES)}
    rows = {split: [[f"c{label:02d}/{split}_{number:02d}.jpg", label, f"class_{label}"]
                    for label, count in enumerate(counts) for number in range(count)] for split, counts in counted.items()}
    for path, label, _ in sum(rows.values(), []):
        write_bytes(picture(colour=f"hsl({label * 27}, 90%, 50%)"), root / "dtd" / "images" / path)
    mixed = {split: sorted(part, key=lambda row: hashlib.sha256(row[0].encode()).digest()) for split, part in rows.items()}
    write_text(json.dumps(mixed), root / "dtd" / "split_zhou_DescribableTextures.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_split(folder)
    return folder


def listed(split: Split, root: Path) -> list[tuple[str, int, str]]:  # as in CoOp's lists
    return [(os.path.relpath(item.image, root), item.label, split.classnames[item.label]) for item in split.items]


def digest(lists: list) -> str:
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()


# ---- picks

@pytest.mark.filterwarnings("ignore:.*fewer than")
@pytest.mark.parametrize("shots, seed", OFFICIAL)
def test_picks_are_those_of_coops_own_code(shots, seed, root):
    data = load_dataset("dtd", root=root, shots=shots, seed=seed)
    parts = data.all, data.base, data.novel
    assert digest([[listed(part.train, root), listed(part.val, root)] for part in parts]) == OFFICIAL[shots, seed]


def test_a_class_with_few_images_gives_them_all_and_is_named(root):
    with pytest.warns(UserWarning, match="5 of 13 classes have fewer than 16 training images.*'class_5', 1"):
        data = load_dataset("dtd", root=root)
    assert data.all.train.counts == [min(16, size) for size in SIZES]
    assert data.all.val.counts == [min(4, 1 + size % 7) for size in SIZES]
    assert (len(data.base.classnames), len(data.novel.classnames)) == (7, 6)


@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_imagenets_val_is_its_test_and_is_not_picked_from(tmp_path):
    make_tree("imagenet", tmp_path)
    data = load_dataset("imagenet", root=tmp_path, shots=2)
    for part in data.base, data.novel, data.all:
        assert set(part.train.counts) == {2} and part.val == part.test and set(part.test.counts) == {3}


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_v2"])
def test_a_test_set_has_no_training_images_and_nothing_to_warn_of(name, tmp_path):
    make_tree(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset(name, root=tmp_path, tau=0.25)
    assert data.all.classnames == tuple(CLASSNAMES[name]) and data.all.test.counts == [3] * 4
    for part in data.base, data.novel, data.all:
        assert not len(part.train) and not len(part.val) and set(part.train.counts) == {0}


@pytest.mark.filterwarnings("ignore:.*fewer than")
@pytest.mark.parametrize("name", ["dtd", "world/textures"])
@pytest.mark.parametrize("profile, order", [("exp", "label"), ("exp", "random"), ("step", "random")])
def test_only_tau_changes_between_long_tails(name, profile, order, root):
    tails = [load_dataset(name, root=root, tau=tau, seed=2, profile=profile, order=order) for tau in (1.0, 0.25, 0.0625)]
    for whole, medium, small in zip(*((tail.base, tail.novel, tail.all) for tail in tails)):
        assert set(small.train.items) < set(medium.train.items) < set(whole.train.items)
        assert small.val == medium.val == whole.val and small.test == medium.test == whole.test
        wanted = long_tail_counts(len(small.classnames), 16, 0.0625, profile, order, 2)
        assert small.train.counts == [min(pair) for pair in zip(wanted, whole.train.counts)]


def test_another_seed_gives_another_random_order():
    tails = [load_dataset("world/textures", tau=0.25, seed=seed, order="random").base.train for seed in range(5)]
    assert len({tuple(tail.counts) for tail in tails}) == 5


# ---- roots and broken files

@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_a_published_dataset_is_looked_for_under_data(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="prepare.py dtd --root data"):
        load_dataset("dtd")
    (tmp_path / "data").symlink_to(root)
    assert load_dataset("dtd", shots=1).all.train.counts == [1] * 13


@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_broken_images_are_named_ten_at_most_and_only_where_they_are_used(tmp_path):
    write_split(tmp_path)
    used = {item.image for split in _SPLITS for item in getattr(load_dataset("dtd", root=tmp_path, shots=2).all, split).items}
    unused = next(path for path in (tmp_path / "dtd" / "images").rglob("*.jpg") if str(path) not in used)
    unused.write_text("no image")
    load_dataset("dtd", root=tmp_path, shots=2)
    victims = sorted(used)[::5][:12]
    for path in victims:
        Path(path).write_bytes(picture()[:100])
    with pytest.raises(ValueError, match="12 of .* images cannot be read.*and 2 more.*whole files") as caught:
        load_dataset("dtd", root=tmp_path, shots=2)
    assert sum(path in str(caught.value) for path in victims) == 10
    for path in victims:
        Path(path).write_bytes(picture())
    load_dataset("dtd", root=tmp_path, shots=2)


# ---- images

def test_ones_own_photographs_are_turned_upright_and_published_ones_are_not(tmp_path):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    path = tmp_path / "sideways.jpg"
    Image.effect_noise((60, 30), 80).save(path, exif=sideways)
    assert open_image(path, upright=True).size == (30, 60) and open_image(path, upright=False).size == (60, 30)
    seen = {}
    for name in "folder", "dtd":
        split = Split((Item(str(path), 0),), ("cat",), find_dataset(name))
        (seen[name], _), = make_loader(split, LARGE)
    assert torch.equal(seen["dtd"][0], image_transform_v2(LARGE, is_train=False)(Image.open(path)))
    assert not torch.equal(seen["folder"], seen["dtd"])


def test_grey_of_sixteen_bits_keeps_its_greys(tmp_path):
    Image.new("I;16", (4, 4), 128 * 256).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png", upright=True).getpixel((1, 1)) == (128, 128, 128)


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
    crop, flip, *_ = npt.data.images._training_transform(LARGE, (0.08, 1.0)).transforms
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
    monkeypatch.setattr(npt.data, "DRAWN", {})
    monkeypatch.setattr(npt.data, "MOST_DRAWN", 5)
    monkeypatch.setattr(npt.data, "draw_images", lambda images: drawn.extend(images) or draw_images(images))
    names = [WorldImage("shapes", "test", label, 0) for label in range(8)]
    for some in (names[:3], names[2:5], names[:5], names[:3]):
        assert torch.equal(_drawn_pictures(some), draw_images(some))
    assert drawn == names[:5]
    assert torch.equal(_drawn_pictures([*names[4:6], names[4]]), draw_images([names[4], names[5], names[4]]))
    assert drawn == names[:5] + names[4:6] and len(npt.data.images._DRAWN) == 2, "what was kept made room"
    assert torch.equal(_drawn_pictures(names), draw_images(names)), "a batch beyond the bound is drawn all the same"


def test_a_worker_that_dies_is_an_error_at_once(photographs, monkeypatch):
    monkeypatch.setattr(npt.data, "open_image", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
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
