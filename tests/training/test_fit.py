"The loop: settings by keyword, refusals in a sentence, the same numbers for the same seed, also after a kill."

import pytest
import torch
from shared import LOADED, assert_same_fit, count_calls, fresh, in_world, killed_after

import npt.training.fit as room
from npt.data.features import crop_features
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.training.batches import _image_batches
from npt.training.fit import fit


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, three to train on, and two novel ones."
    return load_dataset("folder", root=noise_folder, shots=3)


@pytest.fixture(scope="module")
def drawn():
    "The base classes of a label set of the offline world, one picture to train on of each."
    return load_dataset("world/textures", shots=1).base


def fitted(clip, train, name="coop", **settings):
    "A learner after a short fit, and its history."
    learner = in_world(name, clip, train.classnames)
    return learner, fit(learner, train, **dict(objective="ce", epochs=4, batch_size=4, measure_every=0, progress=False) | settings)


# ---- settings


def test_settings_are_given_by_keyword(drawn):
    learner = in_world("coop", LOADED, drawn.classnames)
    with pytest.raises(TypeError, match="positional"):
        fit(learner, drawn.train, "npt")


@pytest.mark.parametrize("name", ["epochs", "lr", "batch_size"])
@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_zero_is_a_number_and_never_means_not_given(name, number, drawn, tmp_path):
    for learner in "coop", "tip_adapter_f":
        one = in_world(learner, LOADED, drawn.classnames)
        with pytest.raises(ValueError, match=f"{name}={number} must be above 0: leave it out for the recipe's value"):
            fit(one, drawn.train, run_dir=tmp_path, **{name: number})
        assert learner == "coop" or one.keys is None, "refused before anything is computed"
    assert not list(tmp_path.iterdir())


def test_splits_that_are_not_the_learners_are_refused(drawn, tmp_path):
    names, test = drawn.classnames, drawn.test
    for others, label in (names[::-1], 0), (names[:-1], len(names) - 1), ([*names[:2], "fox", *names[3:]], 2):
        with pytest.raises(ValueError, match=f"label {label} is .* for the learner and '{names[label]}' for the split"):
            fit(in_world("coop", LOADED, others), drawn.train, run_dir=tmp_path)
    learner, turned = in_world("coop", LOADED, names), test.of_labels(range(len(names))[::-1])
    lacking = test.take([index for index, item in enumerate(test.items) if item.label != 1])
    for split, said in (turned, "label 0 is"), (lacking, f"class '{names[1]}' has no image in the test split"):
        with pytest.raises(ValueError, match=said):
            fit(learner, drawn.train, test=split, run_dir=tmp_path)
    with pytest.raises(ValueError, match="no training images"):
        fit(learner, drawn.train.take([]), run_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings, said", [
    (dict(objective="ntp"), "Did you mean 'npt'"),
    (dict(sampler="class-balanced"), "Did you mean 'class_balanced'"),
    (dict(optimizer="adm"), "no optimizer 'adm'. Did you mean 'adam'"),
])
@pytest.mark.parametrize("learner", ["coop", "zero_shot"])
def test_unknown_names_are_refused_for_every_learner(learner, settings, said, drawn, tmp_path):
    with pytest.raises(ValueError, match=said):
        fitted(LOADED, drawn.train, learner, run_dir=tmp_path, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("views", [0, -3])
def test_fewer_than_one_view_is_refused(views, photographs, tmp_path):
    for learner in "coop", "zero_shot":
        with pytest.raises(ValueError, match=f"views={views} must be at least 1"):
            fitted(LOADED, photographs.base.train, learner, views=views, run_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_views_of_images_that_are_not_cropped_are_refused(drawn):
    with pytest.raises(ValueError, match="views=4.*'world/textures' are never cropped: leave views=None"):
        fitted(LOADED, drawn.train, views=4)


def test_nothing_to_learn_is_left_as_it_is(drawn):
    learner, history = fitted(LOADED, drawn.train, "zero_shot")
    assert history.empty and torch.equal(learner.text_features(), in_world("zero_shot", LOADED, drawn.classnames).text_features())


def test_an_objective_that_nothing_learned_enters_is_refused(drawn):
    with pytest.raises(ValueError, match="nothing that the learner 'coop' learns enters the objective 'scl_image'"):
        fitted(LOADED, drawn.train, objective="scl_image")


def test_a_bar_is_shown_unless_it_is_not_asked_for(drawn, capfd):
    fitted(LOADED, drawn.train, epochs=1)
    assert capfd.readouterr() == ("", "")
    fitted(LOADED, drawn.train, epochs=1, progress=True)
    assert "coop + ce" in capfd.readouterr().err


# ---- the same numbers


@pytest.mark.parametrize("learner, objective", [("coop", "npt"), ("promptsrc", "own"), ("tcp", "own"), ("tip_adapter_f", "own")])
def test_a_seed_gives_one_fit_also_after_a_kill(learner, objective, drawn, tmp_path):
    settings = dict(objective=objective, measure_every=3, test=drawn.val)
    whole = fitted(LOADED, drawn.train, learner, **settings)
    assert_same_fit(whole, fitted(LOADED, drawn.train, learner, **settings))
    with killed_after(2):
        fitted(LOADED, drawn.train, learner, run_dir=tmp_path, **settings)
    assert_same_fit(whole, fitted(LOADED, drawn.train, learner, run_dir=tmp_path, **settings))
    assert_same_fit(whole, fitted(LOADED, drawn.train, learner, run_dir=tmp_path, **settings))  # which has nothing left to do
    assert not whole[1].equals(fitted(LOADED, drawn.train, learner, seed=2, **settings)[1])


def test_same_seed_and_views_same_bits_also_after_resuming(photographs, folder, tmp_path):
    train, settings = photographs.base.train, dict(objective="npt", views=3, epochs=5)
    whole = fitted(fresh(), train, **settings)
    with killed_after(2):
        fitted(fresh(), train, run_dir=tmp_path / "run", **settings)
    with pytest.raises(ValueError, match="views=3.*views=4"):
        fitted(fresh(), train, run_dir=tmp_path / "run", **{**settings, "views": 4})
    assert_same_fit(whole, fitted(fresh(), train, run_dir=tmp_path / "run", **settings))
    for views in 2, None:
        assert not torch.equal(whole[0].context, fitted(fresh(), train, **{**settings, "views": views})[0].context)


# ---- a learner of one's own


class Scaled(Learner):
    "Zero-shot class vectors that are turned a little; no recipe knows it."

    name = "scaled"

    def __init__(self, clip, classnames):
        super().__init__(clip)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        self.features = in_world("zero_shot", self.clip, self.classnames).text_features()

    def text_features(self):
        return torch.nn.functional.normalize(self.features + self.shift, dim=1)


def test_a_learner_without_a_recipe_needs_three_numbers(drawn):
    with pytest.raises(ValueError, match="no recipe for the learner 'scaled'[^$]*Give epochs, batch_size and lr"):
        fit(Scaled(LOADED, drawn.classnames), drawn.train, epochs=2, lr=0.1)
    learner = Scaled(LOADED, drawn.classnames)
    history = fit(learner, drawn.train, epochs=2, lr=0.1, batch_size=8, progress=False)
    assert len(history) == 2 and learner.shift.abs().max() > 0


@pytest.mark.parametrize("change, said", [
    (lambda vectors: vectors[1:], "text_features has the shape"),
    (lambda vectors: 3 * vectors, "text_features is not of unit length"),
    (lambda vectors: vectors * float("nan"), "text_features holds values that are not finite"),
])
def test_features_that_are_none_are_refused_at_the_first_step(change, said, drawn, monkeypatch):
    text = Scaled.text_features
    monkeypatch.setattr(Scaled, "text_features", lambda self: change(text(self)))
    learner = Scaled(LOADED, drawn.classnames)
    with pytest.raises(ValueError, match=f"What the learner 'scaled' gives as {said}"):
        fit(learner, drawn.train, objective="ce", epochs=2, lr=0.1, batch_size=8, progress=False)
    assert learner.shift.abs().max() == 0


# ---- views


def test_training_with_looked_up_features_is_training_through_the_tower(photographs, folder, monkeypatch):
    looked_up, history = fitted(fresh(), photographs.base.train, views=2)
    monkeypatch.setattr(room, "_image_batches", lambda learner, split, draws, workers, views: _image_batches(
        learner, split, draws, workers))  # which knows nothing of views and encodes the crops that the draws name
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    encoded, same = fitted(clip, photographs.base.train, views=2)
    assert sum(sizes) == 4 * 6 and torch.allclose(looked_up.context, encoded.context, atol=1e-4)
    assert (history.loss - same.loss).abs().max() < 1e-3 and history.loss.nunique() == 4


def test_a_learner_of_the_image_tower_repeats_with_views(photographs, folder):
    one, other = (fitted(fresh(), photographs.base.train, "ivlp", epochs=2, views=2) for _ in range(2))
    assert_same_fit(one, other)


def test_training_opens_each_crop_once_and_a_second_run_none(photographs, folder, monkeypatch):
    clip, later, train = fresh(), fresh(), photographs.base.train
    sizes, later_sizes = count_calls(monkeypatch, clip), count_calls(monkeypatch, later)
    first = fitted(clip, train, epochs=7, views=3)
    assert sizes == [6, 6, 6] and len(list(folder.iterdir())) == 3
    assert_same_fit(first, fitted(later, train, epochs=7, views=3))
    fitted(later, train, "kgcoop", epochs=7, views=3, seed=2)
    assert later_sizes == [], "other learners and seeds find the same features"
    fitted(later, train, epochs=5, views=5)
    assert later_sizes == [6, 6], "only the two views that are new"
    fitted(later, train, epochs=2, views=16)
    assert later_sizes == [6, 6], "two epochs meet two views"


def test_training_opens_no_image_again(photographs, folder, monkeypatch):
    crop_features(LOADED, photographs.base.train, 2)
    monkeypatch.setattr("npt.data.images._open_image", lambda *given: pytest.fail(f"{given} was opened"))
    fitted(fresh(), photographs.base.train, views=2)
