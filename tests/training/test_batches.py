"Which crops are met when, and what a learner is handed of them: features that are there, or pixels."

import pytest
import torch
import torch.nn.functional as F
from shared import Shifted, count_calls, fresh, in_world

from npt.data.features import _view_draws, crop_features, split_features
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.batches import _REMEMBERED_CROPS, _epoch_draws, _image_batches, _training_features
from npt.training.samplers import SAMPLERS

LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])


@pytest.fixture(scope="module")
def train(noise_folder):
    "Two classes of photographs, three to train on of each."
    return load_dataset("folder", root=noise_folder, shots=3).base.train


def crops_met(labels, views, epochs, seed=1, sampler="plain"):
    "The draws of each epoch."
    return [[draw for batch in _epoch_draws(labels, sampler, 4, seed, epoch, epochs, views) for draw in batch]
            for epoch in range(epochs)]


# ---- which crops


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_meet_the_views_in_turn(views, sampler):
    for epoch, drawn in enumerate(crops_met(LABELS, views, 7, sampler=sampler)):
        view = _view_draws(len(LABELS), epoch % views)
        assert set(drawn) <= set(view) and len(drawn) == len(LABELS)
        assert sampler != "plain" or set(drawn) == set(view), "each image once"


def test_one_view_is_one_crop_of_each_image():
    epochs = crops_met(LABELS, 1, 5)
    assert len({draw for drawn in epochs for draw in drawn}) == len(LABELS)
    assert epochs[0] != epochs[1], "the order still changes"


def test_crops_do_not_depend_on_the_run_and_are_all_different():
    one, other = crops_met(LABELS, 3, 3, seed=1), crops_met(LABELS, 3, 3, seed=2)
    assert [set(drawn) for drawn in one] == [set(drawn) for drawn in other] and one != other
    assert len({draw.seed for drawn in one for draw in drawn}) == 3 * len(LABELS)
    assert crops_met(LABELS, 8, 3) == one, "more views add to the first ones"


def test_views_do_not_change_the_order_of_the_images():
    for published, fixed in zip(crops_met(LABELS, None, 3), crops_met(LABELS, 2, 3)):
        assert [draw.index for draw in published] == [draw.index for draw in fixed]


# ---- what is handed over


def test_looked_up_features_are_those_of_the_same_crops_through_the_tower(train, folder):
    clip = fresh()
    learner = build_learner("coop", clip, train.classnames)
    draws = [batch for epoch in range(5) for batch in _epoch_draws(train.labels, "class_balanced", 4, 1, epoch, 5, 3)]
    loader = make_loader(train, clip.preprocess_cfg, draws=draws)
    batches = list(_image_batches(learner, train, draws, views=3))
    assert len(batches) == len(draws) == 10
    for batch, (pixels, labels) in zip(batches, loader):
        assert torch.allclose(batch.given, clip.encode_image(pixels), atol=1e-6) and torch.equal(batch.labels, labels)
        assert torch.equal(batch.encode_image(), batch.given)


def test_a_learner_of_the_image_tower_is_handed_the_pixels_of_the_same_crops(train, folder):
    clip = fresh()
    draws = crops_met(train.labels, 2, 1)
    batch, = _image_batches(in_world("ivlp", clip, train.classnames), train, draws, views=2)
    pixels, labels = next(iter(make_loader(train, clip.preprocess_cfg, draws=draws)))
    assert torch.equal(batch.given, pixels) and torch.equal(batch.labels, labels)
    assert torch.allclose(batch.encode_image(), crop_features(clip, train, 2)[[draw.seed for draw in draws[0]]], atol=1e-6)


def test_frozen_features_of_images_that_are_met_again_are_computed_once(monkeypatch, folder):
    clip, train = fresh(), load_dataset("world/textures", shots=2).base.train
    sizes = count_calls(monkeypatch, clip)
    learner = in_world("promptsrc", clip, train.classnames)
    draws = crops_met(train.labels, None, 3)
    for batch, drawn in zip(_image_batches(learner, train, draws), draws):
        rows = [draw.index for draw in drawn]
        assert torch.equal(batch.encode_image(), split_features(clip, train)[0][rows])
        assert torch.equal(batch.labels, train.labels[rows])
    assert sum(sizes) == len(train), "and not once in each of three epochs"


def test_the_memory_of_tip_adapter_is_the_mean_of_the_first_views(train, folder, monkeypatch):
    clip = fresh()
    expected = crop_features(clip, train, _REMEMBERED_CROPS).unflatten(0, (_REMEMBERED_CROPS, -1)).mean(0)
    sizes = count_calls(monkeypatch, clip)
    remembered, labels = _training_features(build_learner("tip_adapter", clip, train.classnames), train)
    assert torch.allclose(remembered, F.normalize(expected, dim=1), atol=1e-6) and sizes == []
    assert torch.equal(labels, train.labels) and torch.allclose(remembered.norm(dim=1), torch.ones(len(train)))


def test_frozen_image_features_are_those_of_the_same_crops(train, folder):
    learner = Shifted(fresh(), train.classnames)
    draws = [batch for epoch in range(3) for batch in _epoch_draws(train.labels, "plain", 3, 1, epoch, 3)]
    for batch in _image_batches(learner, train, draws):
        assert torch.equal(learner.image_features(batch.given), F.normalize(batch.encode_image(), dim=1))
    with torch.no_grad():
        learner.shift += 1.0
    for batch in _image_batches(learner, train, draws):
        assert not torch.allclose(learner.image_features(batch.given), batch.encode_image(), atol=0.1)
