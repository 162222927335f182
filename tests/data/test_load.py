"Which images make up a run: CoOp's picks, base and novel classes, long tails, roots, broken files."

import hashlib
import io
import json
import os
import warnings
from pathlib import Path

import pytest
from miniature import CLASSNAMES, make_tree, write_pictures
from PIL import Image

from npt._files import write_bytes, write_text
from npt.data.formats import _SPLITS
from npt.data.imbalance import long_tail_counts
from npt.data.load import load_dataset
from npt.data.split import Split

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
@pytest.mark.parametrize("name, profile, order", [("dtd", "exp", "label"), ("dtd", "exp", "random"), ("dtd", "step", "random"),
                                                  ("world/textures", "step", "random")])
def test_only_tau_changes_between_long_tails(name, profile, order, root):
    tails = [load_dataset(name, root=root, tau=tau, seed=2, profile=profile, order=order) for tau in (1.0, 0.25, 0.0625)]
    for whole, medium, small in zip(*((tail.base, tail.novel, tail.all) for tail in tails)):
        assert set(small.train.items) < set(medium.train.items) < set(whole.train.items)
        assert small.val == medium.val == whole.val and small.test == medium.test == whole.test
        wanted = long_tail_counts(len(small.classnames), max_shots=16, tau=0.0625, profile=profile, order=order, seed=2)
        assert small.train.counts == [min(pair) for pair in zip(wanted, whole.train.counts)]


def test_another_seed_gives_another_random_order():
    tails = [load_dataset("world/textures", tau=0.25, seed=seed, order="random").base.train for seed in range(5)]
    assert len({tuple(tail.counts) for tail in tails}) == 5


@pytest.mark.parametrize("tau, least", [(1.0, 16), (0.25, 4), (0.0625, 1)])
def test_training_counts_follow_tau(tau, least):
    base = load_dataset("world/shapes", shots=16, tau=tau).base.train
    assert (max(base.counts), min(base.counts)) == (16, least)
    assert base.labels.bincount().tolist() == base.counts


# ---- photographs of one's own

@pytest.fixture
def photographs(tmp_path):
    "Four classes of six photographs."
    for label, name in enumerate(["bird", "cat", "dog", "frog"]):
        write_pictures(tmp_path / name, label, "{}.jpg", 6)
    return tmp_path


def test_photographs_are_split_the_same_way_each_time(photographs):
    first, second = (load_dataset("folder", root=photographs, shots=2) for _ in range(2))
    assert first.all == second.all
    names = [{item.image for item in split.items} for split in (first.all.train, first.all.val, first.all.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_more_shots_than_photographs_warns_and_goes_on(photographs):
    with pytest.warns(UserWarning, match="fewer than 16"):
        data = load_dataset("folder", root=photographs, shots=16)
    assert data.base.train.counts == [3, 3]


# ---- halves

@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_a_seed_draws_the_base_classes_and_leaves_their_images(root):
    published, *drawn = (load_dataset("dtd", root=root, shots=2, class_split=split) for split in ("half", 0, 1, 0))
    assert drawn[0] == drawn[2] and len({data.base.classnames for data in (published, *drawn)}) == 3
    for data in drawn:
        assert data.all == published.all and (len(data.base.classnames), len(data.novel.classnames)) == (7, 6)
        assert sorted(data.base.classnames + data.novel.classnames) == sorted(data.all.classnames)
        for split in _SPLITS:
            rows = [sorted(listed(getattr(part, split), root)[place][::2] for part in parts for place in range(len(getattr(part, split))))
                    for parts in ([data.base, data.novel], [data.all])]
            assert rows[0] == rows[1]


@pytest.mark.parametrize("wrong", ["first", "1", -1, 1.0, True, None])
def test_another_half_is_refused(wrong):
    with pytest.raises(ValueError, match=f"class_split={wrong!r} must be 'half'.*or the seed"):
        load_dataset("world/textures", class_split=wrong)


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


def test_a_folder_of_ones_own_needs_data_root():
    with pytest.raises(ValueError, match="'folder' needs data_root"):
        load_dataset("folder")


# ---- settings

def test_settings_are_given_by_name(root):
    for given in (root,), (None, 16), (None, 16, 0.25):
        with pytest.raises(TypeError, match="positional"):
            load_dataset("dtd", *given)


@pytest.mark.parametrize("wrong, message", [
    (dict(shots=0), "shots must be at least 1"), (dict(tau=0), "tau must be above 0"), (dict(tau=2), "tau must be above 0"),
    (dict(profile="expp"), "Did you mean 'exp'"), (dict(order="size"), "no order 'size'"), (dict(rounding="flor"), "Did you mean 'floor'"),
])
def test_a_setting_out_of_range_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("world/textures", **wrong)
