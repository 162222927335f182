"Random crops of training images: a fixed number of each, whose features are computed once."

from dataclasses import replace

import pytest
import torch
from shared import LOADED, count_calls, fresh

from npt.data.features import _ENCODED_AT_ONCE, _check_views, _feature_key, _view_draws, crop_features, split_features
from npt.data.images import make_loader
from npt.data.load import load_dataset


@pytest.fixture(scope="module")
def train(noise_folder):
    "Two classes of photographs, three to train on of each."
    return load_dataset("folder", root=noise_folder, shots=3).base.train


@pytest.mark.parametrize("workers", [0, 1])
def test_the_number_of_workers_changes_nothing(workers, train, folder):
    features = crop_features(fresh(), train, 2, workers=workers)
    draws = [[draw] for view in (0, 1) for draw in _view_draws(len(train), view)]
    loader = make_loader(train, LOADED.preprocess_cfg, draws=draws)
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


def test_a_view_that_was_lost_is_computed_alone(train, folder, monkeypatch):
    whole = crop_features(fresh(), train, 3)
    (folder / f"{_feature_key(LOADED, train, 1)}.safetensors").unlink()
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    assert torch.equal(crop_features(clip, train, 3), whole) and sizes == [6]


def test_crops_are_told_apart(train, folder):
    tight = replace(train, record=replace(train.record, crop=(0.08, 0.1)))
    keys = [_feature_key(LOADED, train), *(_feature_key(LOADED, split, view) for split in (train, tight) for view in (0, 1))]
    assert len(set(keys)) == 5
    assert _feature_key(LOADED, tight) == keys[0], "without a view nothing is cropped"
    clip = fresh()
    features = [split_features(clip, train)[0], *(crop_features(clip, split, 2)[rows] for split in (train, tight)
                                                  for rows in (slice(6), slice(6, 12)))]
    for number, one in enumerate(features):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in features[:number])


def test_views_of_images_that_are_not_cropped_are_refused():
    data = load_dataset("world/textures", shots=1)
    with pytest.raises(ValueError, match="views=4.*'world/textures' are never cropped: leave views=None"):
        crop_features(LOADED, data.base.train, 4)
    assert _check_views(None, data.record) is None
