"Features on disk: a key for all that they depend on; damaged or missing files; and random crops, a fixed number of each image."

import copy
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from forked import look_up
from notebooks import CONTEXT
from PIL import Image
from shared import LOADED, count_calls, fresh

import npt
from npt._files import write_tensors
from npt.clip.frozen import FrozenCLIP, _fingerprint
from npt.data.datasets import find_dataset
from npt.data.features import (
    _ENCODED_AT_ONCE,
    _check_views,
    _code_fingerprint,
    _compute_features,
    _feature_key,
    _ingredients,
    _view_draws,
    crop_features,
    split_features,
)
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.data.split import Item, Split
from npt.world.label_sets import WorldImage


@pytest.fixture
def clip() -> FrozenCLIP:
    return fresh()


@pytest.fixture
def split() -> Split:
    return load_dataset("world/shapes", shots=2, seed=5).novel.train


@pytest.fixture
def photographs(tmp_path) -> Split:
    for number in range(3):
        Image.effect_noise((40, 30), 50 + number).save(tmp_path / f"{number}.png")
    items = tuple(Item(str(tmp_path / f"{number}.png"), number) for number in range(3))
    return Split(items, ("a", "b", "c"), find_dataset("dtd"))


@pytest.fixture(scope="module")
def cropped(noise_folder) -> Split:
    "Two classes of photographs, three to train on of each, which are cropped at random."
    return load_dataset("folder", root=noise_folder, shots=3).base.train


# ---- computed once

def test_a_later_run_reads_the_same_bits(clip, split, folder, monkeypatch):
    pixels, labels = next(iter(make_loader(split, clip.preprocess_cfg)))
    expected, sizes = clip.encode_image(pixels), count_calls(monkeypatch, clip)
    later = fresh()
    later_sizes = count_calls(monkeypatch, later)
    for model in clip, clip, later, later:
        features, their_labels = split_features(model, split)
        assert torch.equal(features, expected) and torch.equal(their_labels, labels)
    assert split_features(clip, split)[0] is split_features(clip, split)[0], "read again although the model remembers it"
    assert sizes == [len(split)] and later_sizes == []
    assert split_features(fresh(), split)[0].data_ptr() % 64 == 0, "begins where other tensors do, or products may end in other bits"
    assert [path.stem for path in folder.iterdir()] == [_feature_key(clip, split)]


def test_photographs_are_read_again_only_when_a_file_changes(clip, photographs, folder, monkeypatch):
    before, _ = split_features(clip, photographs)
    Image.effect_noise((50, 30), 90).save(photographs.items[1].image)
    later = fresh()
    sizes = count_calls(monkeypatch, later)
    after, _ = split_features(later, photographs)
    assert sizes == [3] and torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


def test_a_split_without_images_is_refused(clip, split):
    with pytest.raises(ValueError, match="no images.*world/shapes"):
        split_features(clip, split.take([]))


# ---- the key

def other_weights(clip, split, monkeypatch):
    clip.model = copy.deepcopy(clip.model)
    clip.model.visual.proj[3, 4] += 1e-6
    clip.fingerprint = _fingerprint(clip.model)


def other_content(clip, split, monkeypatch):
    "As many other bytes, a nanosecond later."
    path, before = Path(split.items[0].image), os.stat(split.items[0].image)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def longer(clip, split, monkeypatch):
    before = os.stat(split.items[0].image)
    with open(split.items[0].image, "ab") as file:
        file.write(b"\0")
    os.utime(split.items[0].image, ns=(before.st_atime_ns, before.st_mtime_ns))


def edited(name, line=b"\n"):
    "One more line in a source file of a copy of the library, or a file that was not there."
    def change(clip, split, monkeypatch):
        package = Path(split.items[0].image).parent / "package"
        if not package.exists():
            shutil.copytree(Path(npt.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        path = package / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((path.read_bytes() if path.exists() else b"") + line)
        monkeypatch.setattr("npt.data.features.files", lambda _: package)
        _code_fingerprint.cache_clear()

    return change


def newer(library):
    def change(clip, split, monkeypatch):
        real = npt.data.features.version
        monkeypatch.setattr("npt.data.features.version", lambda name: "99.9" if name == library else real(name))

    return change


def setting(name, value):
    return lambda clip, split, monkeypatch: monkeypatch.setattr(clip, name, value)


def preprocessing(**changed):
    return lambda clip, split, monkeypatch: setting("preprocess_cfg", replace(clip.preprocess_cfg, **changed))(
        clip, split, monkeypatch)


CHANGES = [  # ingredient, what is done to it
    ("backbone", setting("name", "ViT-B-16")),
    ("backbone", lambda clip, split, monkeypatch: monkeypatch.setattr(open_clip, "get_model_config", str.upper)),
    ("weights", other_weights),
    ("arithmetic", setting("dtype", torch.float16)),
    ("arithmetic", setting("device", torch.device("cuda"))),
    ("arithmetic", lambda clip, split, monkeypatch: torch.set_float32_matmul_precision("medium")),
    ("preprocess", preprocessing(std=(1, 1, 1))),
    ("preprocess", preprocessing(interpolation="bilinear")),
    ("upright", lambda clip, split, monkeypatch: replace(split, record=find_dataset("folder"))),
    ("images", other_content),
    ("images", longer),
    ("images", lambda clip, split, monkeypatch: split.take([0, 2, 1])),
    ("images", lambda clip, split, monkeypatch: split.take([0, 1])),
    ("images", lambda clip, split, monkeypatch: replace(split, items=(split.items[1], *split.items[1:]))),
    ("images", lambda clip, split, monkeypatch: replace(split, items=(Item(WorldImage("shapes", "test", 0, 0), 0),))),
    ("images", lambda clip, split, monkeypatch: replace(split, items=(Item(WorldImage("shapes", "test", 0, 1), 0),))),
    ("crops", lambda clip, split, monkeypatch: replace(split, record=replace(split.record, crop=(0.5, 1.0)))),
    *[("versions", newer(library)) for library in ("torch", "torchvision", "open_clip_torch", "timm", "pillow")],
    *[("code", edited(name)) for name in ("world/pictures.py", "clip/towers.py", "data/features.py", "data/deep/new.py")],
]


@pytest.fixture
def settings_back():
    yield
    torch.set_float32_matmul_precision("highest")
    _code_fingerprint.cache_clear()


@pytest.mark.parametrize("name, change", CHANGES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CHANGES)])
def test_whatever_changes_the_features_changes_the_key(name, change, clip, photographs, monkeypatch, settings_back):
    torch.set_float32_matmul_precision("highest")
    before, key = _ingredients(clip, photographs, 0), _feature_key(clip, photographs, 0)
    changed = change(clip, photographs, monkeypatch) or photographs
    after = _ingredients(clip, changed, 0)
    assert [each for each in before if before[each] != after[each]] == [name]
    assert _feature_key(clip, changed, 0) != key


def test_the_code_is_all_of_three_wings_and_nothing_else(clip, photographs, monkeypatch, settings_back):
    real = _code_fingerprint()
    edited("study/runs.py")(clip, photographs, monkeypatch)
    assert _code_fingerprint() == real, "a copy of the same sources, but for a wing that features do not pass through"
    edited("data/deep/new.py")(clip, photographs, monkeypatch)
    added = _code_fingerprint()
    edited("data/deep/new.py")(clip, photographs, monkeypatch)
    assert len({real, added, _code_fingerprint()}) == 3, "a file that is added to a sub-folder counts, and a change in it too"


def test_every_ingredient_was_changed(clip, photographs):
    assert {name for name, _ in CHANGES} == set(_ingredients(clip, photographs))


def test_what_does_not_change_the_features_does_not_change_the_key(clip, photographs, monkeypatch):
    key = _feature_key(clip, photographs)
    others = tuple(Item(item.image, 0) for item in photographs.items)
    renamed = replace(photographs, classnames=("x", "y", "z"), items=others)
    assert _feature_key(clip, renamed) == key and _feature_key(fresh(), photographs) == key
    monkeypatch.chdir(Path(photographs.items[0].image).parent)
    near = replace(photographs, items=tuple(Item(Path(item.image).name, item.label) for item in photographs.items))
    assert _feature_key(clip, near) == key


def test_pictures_of_the_world_are_told_apart(clip, split):
    keys = {_feature_key(clip, split.take([index])) for index in range(len(split))}
    assert len(keys) == len(split)


# ---- files

@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-10]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"no features at all"),
    lambda path: write_tensors({"features": torch.zeros(2, 2)}, path, {}),
    lambda path: write_tensors({"others": torch.zeros(2, 2)}, path, {}),
], ids=["cut short", "empty", "text", "another shape", "another name"])
def test_a_damaged_file_is_replaced(damage, clip, split, folder, monkeypatch):
    expected, _ = split_features(clip, split)
    path, = folder.iterdir()
    whole = path.read_bytes()
    damage(path)
    later = fresh()
    sizes = count_calls(monkeypatch, later)
    assert torch.equal(split_features(later, split)[0], expected) and sizes == [len(split)]
    assert path.read_bytes() == whole and list(folder.iterdir()) == [path]


def test_what_killed_runs_left_half_written_goes_with_the_next_features(clip, split, folder):
    folder.mkdir(parents=True)
    left, kept = folder / f".{'0' * 64}.safetensors.{uuid.uuid4().hex}", folder / f"{'0' * 64}.safetensors"
    left.touch()
    kept.touch()
    split_features(clip, split)
    assert not left.exists() and kept.exists() and len(list(folder.iterdir())) == 2


def test_where_nothing_can_be_written_the_run_goes_on_and_says_so(clip, split, folder, tmp_path):
    folder.parent.write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="cannot be kept.*NPT_CACHE"):
        features, _ = split_features(clip, split)
    assert features.shape == (len(split), clip.embed_dim)


def test_several_runs_may_write_at_once(folder, clip):
    pipes = [CONTEXT.Pipe() for _ in range(2)]
    runs = [CONTEXT.Process(target=look_up, args=({"NPT_CACHE": str(folder.parent)}, theirs)) for _, theirs in pipes]
    for run, (_, theirs) in zip(runs, pipes):
        run.start()
        theirs.close()
    for ours, _ in pipes:
        assert ours.recv() == "ready"
    for ours, _ in pipes:
        ours.send("go")
    sums = {ours.recv() for ours, _ in pipes}
    for run in runs:
        run.join()
    assert len(sums) == 1 and [run.exitcode for run in runs] == [0, 0]
    files = list(folder.iterdir())
    assert len(files) == 2 and all(path.suffix == ".safetensors" and not path.name.startswith(".") for path in files)
    split = load_dataset("world/textures", shots=4).base.train
    computed, = _compute_features(clip, split, [None])
    assert torch.allclose(split_features(clip, split)[0], computed, atol=1e-6)


# ---- crops

@pytest.mark.parametrize("workers", [0, 1])
def test_the_number_of_workers_changes_nothing(workers, cropped, folder):
    features = crop_features(fresh(), cropped, 2, workers=workers)
    draws = [[draw] for view in (0, 1) for draw in _view_draws(len(cropped), view)]
    loader = make_loader(cropped, LOADED.preprocess_cfg, draws=draws)
    one_by_one = torch.cat([LOADED.encode_image(pixels) for pixels, _ in loader])
    assert torch.allclose(features, one_by_one, atol=1e-6)


def test_views_of_more_images_than_are_encoded_at_once(folder):
    data = load_dataset("world/textures", shots=9).all
    train = replace(data.train, record=replace(data.train.record, crop=(0.5, 1.0)))
    assert len(train) > _ENCODED_AT_ONCE and len(train) % _ENCODED_AT_ONCE
    clip = fresh()
    features = crop_features(clip, train, 2).unflatten(0, (2, -1))
    for view, place in (0, 0), (1, 0), (1, _ENCODED_AT_ONCE), (1, len(train) - 1):
        pixels, _ = next(iter(make_loader(train, clip.preprocess_cfg, draws=[[_view_draws(len(train), view)[place]]])))
        assert torch.allclose(features[view, place], clip.encode_image(pixels)[0], atol=1e-6)


def test_a_view_that_was_lost_is_computed_alone(cropped, folder, monkeypatch):
    whole = crop_features(fresh(), cropped, 3)
    (folder / f"{_feature_key(LOADED, cropped, 1)}.safetensors").unlink()
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    assert torch.equal(crop_features(clip, cropped, 3), whole) and sizes == [6]


def test_crops_are_told_apart(cropped, folder):
    tight = replace(cropped, record=replace(cropped.record, crop=(0.08, 0.1)))
    keys = [_feature_key(LOADED, cropped), *(_feature_key(LOADED, split, view) for split in (cropped, tight) for view in (0, 1))]
    assert len(set(keys)) == 5
    assert _feature_key(LOADED, tight) == keys[0], "without a view nothing is cropped"
    clip = fresh()
    features = [split_features(clip, cropped)[0], *(crop_features(clip, split, 2)[rows] for split in (cropped, tight)
                                                  for rows in (slice(6), slice(6, 12)))]
    for number, one in enumerate(features):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in features[:number])


def test_views_of_images_that_are_not_cropped_are_refused():
    data = load_dataset("world/textures", shots=1)
    with pytest.raises(ValueError, match="views=4.*'world/textures' are never cropped: leave views=None"):
        crop_features(LOADED, data.base.train, 4)
    assert _check_views(None, data.record) is None
