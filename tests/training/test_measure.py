"Collapse is measured on the features that a learner makes: those of a frozen tower once, and as the learner is tested."

import pytest
import torch
from PIL import Image
from shared import Shifted, count_calls, fresh

from npt.data.load import load_dataset
from npt.geometry.collapse import collapse_metrics
from npt.learners.build import build_learner
from npt.training.measure import _measured_epochs, learned_features, measure_collapse


@pytest.fixture(scope="module")
def split(noise_folder):
    "Two classes of photographs, three to train on of each."
    return load_dataset("folder", root=noise_folder, shots=3).base.train


@pytest.mark.parametrize("name, every, epochs", [
    ("coop", None, [0, 1, 2, 3, 4, 5, 6]), ("vpt", None, [0, 2, 4, 6]), ("vpt", 3, [0, 3, 6]), ("coop", 5, [1, 6]), ("coop", 0, []),
])
def test_the_last_epoch_is_measured_and_others_at_equal_distances(name, every, epochs, split):
    assert sorted(_measured_epochs(build_learner(name, fresh(), split.classnames), 7, every)) == epochs


def test_features_of_a_frozen_tower_are_computed_once_and_adapted(split, folder, monkeypatch):
    clip = fresh()
    pixels = torch.stack([clip.preprocess(Image.open(item.image)) for item in split.items])
    expected, sizes = clip.encode_image(pixels), count_calls(monkeypatch, clip)
    for learner in (build_learner(name, clip, split.classnames) for name in ("coop", "clip_adapter")):
        features, labels = learned_features(learner, split)
        assert torch.equal(labels, split.labels) and sizes == [len(split)]
        with torch.no_grad():
            assert torch.allclose(features, learner.adapt(expected), atol=1e-6)


def test_a_learner_of_the_image_tower_makes_its_own_each_time(split, folder):
    learner = Shifted(fresh(), split.classnames)
    before, _ = learned_features(learner, split)
    with torch.no_grad():
        learner.shift += 1.0
    assert not torch.allclose(learned_features(learner, split)[0], before, atol=0.1)


def test_collapse_is_that_of_the_learners_features_and_the_mode_is_left_alone(split, folder):
    learner = build_learner("coop", fresh(), split.classnames).train()
    measured = measure_collapse(learner, split)
    with torch.no_grad():
        assert measured == collapse_metrics(learner.text_features(), *learned_features(learner, split))
    assert learner.training
