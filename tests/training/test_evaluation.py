"Evaluation: numbers of the right features, no work twice, and logits of the learner's own where it has them."

import math

import pytest
import torch
from shared import LOADED, count_calls, fresh

from npt.data.features import split_features
from npt.data.load import load_dataset
from npt.geometry.collapse import collapse_metrics
from npt.learners.base import Learner
from npt.learners.build import build_learner
from npt.training.evaluation import base_to_novel, evaluate, outputs
from npt.training.measure import measure_collapse


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, three to train on, and two novel ones."
    return load_dataset("folder", root=noise_folder, shots=3)


@pytest.mark.parametrize("name", ["coop", "clip_adapter"])
def test_the_text_tower_runs_once_however_many_chunks(name, photographs, folder, monkeypatch):
    monkeypatch.setattr("npt.training.evaluation._LOGITS_BATCH", 2)
    learner = build_learner(name, fresh(), photographs.base.classnames)
    text, calls = type(learner).text_features, []
    monkeypatch.setattr(type(learner), "text_features", lambda self: calls.append(1) or text(self))
    assert len(photographs.base.test) > 2
    measured = evaluate(learner, photographs.base.test, collapse=True)
    assert len(calls) == 1
    image, labels = split_features(learner.clip, photographs.base.test)
    with torch.no_grad():
        image = learner.adapt(image)
        assert measured["collapse"] == collapse_metrics(text(learner), image, labels)
        right = (image @ text(learner).T).argmax(1) == labels
    assert math.isclose(measured["accuracy"], right.double().mean() * 100)
    assert "collapse" not in evaluate(learner, photographs.base.test)


def test_hand_written_prompts_of_the_base_classes_are_not_encoded_again(photographs, folder, monkeypatch):
    learner = build_learner("zero_shot", fresh(), photographs.base.classnames)
    texts = count_calls(monkeypatch, learner.clip, "encode_text")
    measured = base_to_novel(learner, photographs, collapse=True)
    three = 3  # asked of a new binding, to see that its class vectors follow from the names
    both = len(photographs.base.classnames) + len(photographs.novel.classnames)
    assert texts == [len(photographs.novel.classnames), three, both, three] and "novel_collapse" in measured
    assert measured["base_collapse"].items() >= measure_collapse(learner, photographs.base.test).items()


class Brightness(Learner):
    "Logits of its own: the first class for bright pictures, the second for dark ones, whatever the features say."

    name = "brightness"

    def __init__(self, clip, classnames):
        super().__init__(clip)
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        self.features = build_learner("zero_shot", self.clip, self.classnames).text_features()

    def text_features(self):
        return self.features

    def logits(self, pixels):
        bright = pixels.mean((1, 2, 3))
        return torch.stack([bright, -bright, *[bright - 9] * (len(self.classnames) - 2)], 1)


def test_logits_of_the_learners_own_are_what_is_measured(photographs, folder):
    split, learner = photographs.base.test, Brightness(fresh(), photographs.base.classnames)
    made = outputs(learner, split)
    image, labels = split_features(learner.clip, split)
    assert torch.equal(made.text, learner.text_features()) and torch.allclose(made.image, image, atol=1e-6)
    assert torch.equal(made.labels, labels) and torch.equal(made.logits[:, 0], -made.logits[:, 1])
    measured = evaluate(learner, split, collapse=True)
    assert math.isclose(measured["accuracy"], 100 * (made.logits.argmax(1) == labels).double().mean())
    assert measured["collapse"] == collapse_metrics(made.text, made.image, made.labels)
    assert base_to_novel(learner, photographs)["novel"] == evaluate(learner.for_classes(photographs.novel.classnames),
                                                                    photographs.novel.test)["accuracy"]


def test_logits_of_a_wrong_shape_are_refused(photographs, folder, monkeypatch):
    monkeypatch.setattr(Brightness, "logits", lambda self, pixels: pixels.mean((1, 2, 3))[:, None])
    with pytest.raises(ValueError, match="'brightness' gives logits of the shape"):
        evaluate(Brightness(fresh(), photographs.base.classnames), photographs.base.test)


def test_other_classes_and_empty_splits_are_refused(photographs):
    learner = build_learner("zero_shot", LOADED, photographs.base.classnames)
    with pytest.raises(ValueError, match="use learner.for_classes"):
        evaluate(learner, photographs.novel.test)
    with pytest.raises(ValueError, match="nothing to measure"):
        evaluate(learner, photographs.base.test.take([]))
    with pytest.raises(ValueError, match="2 accuracies for 1 classes"):
        evaluate(learner, photographs.base.test, counts=[3])


def test_logits_are_those_of_the_features_whatever_the_chunk(photographs, monkeypatch):
    learner = build_learner("coop", LOADED, photographs.base.classnames)
    whole = outputs(learner, photographs.base.test)
    monkeypatch.setattr("npt.training.evaluation._LOGITS_BATCH", 2)
    chunked = outputs(learner, photographs.base.test)
    assert torch.allclose(whole.logits, chunked.logits, atol=1e-4) and torch.equal(whole.labels, chunked.labels)
    assert len(whole.labels) > 2
