"The loop: settings by keyword, refusals in a sentence, the same numbers for the same seed; every objective and sampler."

import math
import random
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared import LOADED, Shifted, assert_same_fit, count_calls, fresh, in_world, killed_after
from torch.optim.optimizer import register_optimizer_step_post_hook

import npt.training.fit as room
from npt.data.features import crop_features
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.learners.recipes import recipe
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS
from npt.training.anchors import _CONSISTENCY_TEMPLATES
from npt.training.batches import _image_batches
from npt.training.fit import _backward, fit
from npt.training.samplers import SAMPLERS


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, three to train on, and two novel ones."
    return load_dataset("folder", root=noise_folder, shots=3)


@pytest.fixture(scope="module")
def drawn():
    "The base classes of a label set of the offline world, one picture to train on of each."
    return load_dataset("world/textures", shots=1).base


@pytest.fixture
def few_templates(monkeypatch):
    "PromptSRC's ensemble of three templates in place of sixty, which take most of the time of a short fit."
    monkeypatch.setattr("npt.training.anchors._CONSISTENCY_TEMPLATES", _CONSISTENCY_TEMPLATES[:3])


@pytest.fixture(scope="module")
def long_tail():
    "Training pictures of eight classes, from eight of the first down to one."
    return load_dataset("world/textures", shots=8, tau=0.125).base.train


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
        with pytest.raises(ValueError, match=f"{name}={number} must be a .* number.*: leave it out for the usual value"):
            fit(one, drawn.train, run_dir=tmp_path, **{name: number})
        assert learner == "coop" or one.keys is None, "refused before anything is computed"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [
    dict(lr=float("inf")), dict(lr="0.1"), dict(lr=True), dict(epochs=1.5), dict(epochs="2"), dict(batch_size=2.0),
    dict(num_clusters=0), dict(measure_every=-1), dict(measure_every=True), dict(workers=-1),
], ids=str)
def test_a_number_that_no_fit_can_have_is_named(wrong, drawn):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f"^{name}={value!r} must be a (whole|finite) number"):
        fit(in_world("coop", LOADED, drawn.classnames), drawn.train, **wrong)


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


@pytest.mark.parametrize("kind, usual", [("sgd", 5e-4), ("sgd_no_decay", 0.0), ("adam", 5e-4), ("adamw", 0.01)])
def test_the_weight_decay_is_the_optimisers_unless_it_is_given(kind, usual, drawn):
    shared = dict(objective="ce", epochs=2, batch_size=8, lr=0.05, optimizer=kind, measure_every=0)
    trained = {decay: fitted(LOADED, drawn.train, "coop", **shared, weight_decay=decay)[0].context.detach() for decay in (None, usual, 0.5)}
    assert torch.equal(trained[None], trained[usual]) and trained[0.5].norm() < trained[usual].norm()


@pytest.mark.parametrize("decay", [-1e-3, float("nan"), float("inf"), "5e-4", True])
def test_a_weight_decay_that_no_optimiser_can_have_is_refused(decay, drawn):
    with pytest.raises(ValueError, match="weight_decay=.*at least 0"):
        fitted(LOADED, drawn.train, "coop", weight_decay=decay)


@pytest.mark.parametrize("objective", [3, None, ["npt"]])
def test_an_objective_of_a_wrong_type_is_refused(objective, drawn):
    with pytest.raises(ValueError, match=re.escape(f"objective={objective!r} must be a name or a sum of terms")):
        fitted(LOADED, drawn.train, objective=objective)


@pytest.mark.parametrize("views", [0, -3, 2.0, "3", True])
def test_fewer_than_one_view_is_refused(views, photographs, tmp_path):
    for learner in "coop", "zero_shot":
        with pytest.raises(ValueError, match=f"views={views!r} must be a whole number, at least 1"):
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
def test_a_seed_gives_one_fit_also_after_a_kill(learner, objective, drawn, few_templates, tmp_path):
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


@pytest.mark.parametrize("sampler", ["plain", "progressive"])
def test_random_crops_do_not_depend_on_workers_or_on_a_kill(sampler, photographs, folder, tmp_path):
    train, settings = photographs.base.train, dict(epochs=3, sampler=sampler)
    whole = fitted(LOADED, train, workers=0, **settings)
    assert_same_fit(whole, fitted(LOADED, train, workers=2, **settings))
    with killed_after(2):
        fitted(LOADED, train, workers=0, run_dir=tmp_path, **settings)
    assert_same_fit(whole, fitted(LOADED, train, workers=1, run_dir=tmp_path, **settings))
    assert not torch.equal(whole[0].context, fitted(LOADED, train, workers=0, seed=2, **settings)[0].context)


# ---- whole or not at all


@contextmanager
def stopped_at(step, error):
    "The fit in this block is stopped when its optimiser has taken so many steps; it must come to that."
    left = [step]

    def stop(*_):
        left[0] -= 1
        if left[0] == 0:
            raise error

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(type(error)):
            yield
    finally:
        hook.remove()


def restless(train):
    return Restless(LOADED, train.classnames)


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "with a checkpoint"])
@pytest.mark.parametrize("name", ["coop", "promptsrc", "tip_adapter_f", "clip_adapter", "restless"])
def test_a_fit_that_was_stopped_anywhere_and_is_called_again_is_a_whole_fit(name, kept, drawn, few_templates, tmp_path):
    "On the same learner, as in a notebook whose cell is run again; also where it is stopped twice."
    make = restless if name == "restless" else lambda train: in_world(name, LOADED, train.classnames)
    settings = dict(objective="ce", epochs=3, batch_size=8, lr=0.05, optimizer="sgd", measure_every=0, progress=False)
    whole = make(drawn.train)
    history, chance = fit(whole, drawn.train, **settings), random.Random(f"{name}{kept}")
    steps = 3 * math.ceil(len(drawn.train) / 8)
    for number in range(3):
        learner, folder = make(drawn.train), tmp_path / str(number) if kept else None
        for error in chance.choices([KeyboardInterrupt(), RuntimeError("of any kind"), SystemExit(1)], k=2):
            before = [parameter.clone() for parameter in learner.parameters()]
            at = chance.randint(1, steps // 3)  # a second stop may be in the last epoch that is left
            with stopped_at(at, error):
                fit(learner, drawn.train, run_dir=folder, **settings)
            assert all(map(torch.equal, before, learner.parameters())) and len(before) == len(list(learner.parameters()))
        assert_same_fit((whole, history), (learner, fit(learner, drawn.train, run_dir=folder, **settings)))


def test_an_interrupted_fit_says_in_one_line_how_to_go_on(drawn, tmp_path, capfd):
    learner, settings = in_world("coop", LOADED, drawn.classnames), dict(objective="ce", epochs=3, batch_size=8, measure_every=0, progress=False)
    steps = math.ceil(len(drawn.train) / 8)
    for folder, said in (None, "with run_dir=FOLDER the same fit would go on"), (tmp_path, "2 of 3 epochs are kept in '"):
        with stopped_at(2 * steps + 1, KeyboardInterrupt()):
            fit(learner, drawn.train, run_dir=folder, **settings)
        line = capfd.readouterr().err
        assert line.startswith("Interrupted: ") and said in line and line.count("\n") == 1


def test_a_step_that_is_too_long_at_the_end_of_an_epoch_is_never_kept(drawn, tmp_path):
    learner = in_world("coop", LOADED, drawn.classnames)
    start, steps = learner.context.clone(), []

    def spoil(*_):
        steps.append(1)
        if len(steps) == 2 * math.ceil(len(drawn.train) / 8):
            learner.context.data[0] = float("inf")

    hook = register_optimizer_step_post_hook(spoil)
    with pytest.raises(FloatingPointError, match="context became infinite, or no number, at the last step of epoch 1; the checkpoint of the"):
        fit(learner, drawn.train, objective="ce", epochs=3, batch_size=8, measure_every=0, progress=False, run_dir=tmp_path)
    hook.remove()
    assert torch.equal(learner.context, start)
    assert load_file(tmp_path / "checkpoint.safetensors")["prompt.context"].isfinite().all()


def test_the_largest_seed_trains_and_what_is_none_is_refused(drawn):
    assert fitted(LOADED, drawn.train, seed=2**63 - 1, epochs=1)[1].loss.notna().all()
    for seed in (2**63, -1, True, 1.0, "1"):
        with pytest.raises(ValueError, match="seed=.* must be a whole number from 0"):
            fitted(LOADED, drawn.train, seed=seed)
    with pytest.raises(ValueError, match="can form 1 to 8 clusters, not num_clusters=9"):
        fitted(LOADED, drawn.train, num_clusters=9)


# ---- objectives and samplers


@pytest.mark.parametrize("objective", sorted(set(NAMED_OBJECTIVES) - {"coprompt", "dept", "dpc", "mmrl", "promptkd"}))  # whose terms no other learner can give
def test_every_named_objective_trains_and_repeats_to_the_last_bit(objective, drawn, few_templates):
    everything = dict(all_classnames=(*drawn.classnames, "teapot")) if objective == "npt_open" else {}
    one, again = (fitted(LOADED, drawn.train, objective=objective, epochs=2, batch_size=8, seed=4, **everything) for _ in range(2))
    assert_same_fit(one, again)
    assert not torch.equal(one[0].context, in_world("coop", LOADED, drawn.classnames).context)
    weights, history = recipe("coop", "world").objective_for(objective).weights, one[1]
    assert np.allclose(sum(weight * history[f"term_{name}"] for name, weight in weights), history.loss, rtol=1e-5)


def test_a_guide_takes_the_part_against_it_out_of_each_gradient():
    "ProGrad's rule written out, tensor by tensor, in NumPy."
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(*shape, generator=draw, dtype=torch.float64)) for shape in ((3, 4), (5,), (2, 2))]
    weights = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in parameters]
    loss = sum((w * p.square()).sum() for w, p in zip(weights, parameters[:2])) + parameters[2].sum()
    guide = (weights[0] * parameters[0].square()).sum() + (parameters[1] - weights[1] * parameters[1].square()).sum()
    wanted, opposed = [], 0
    for p, w, sign, shift in zip(parameters[:2], weights, (1, -1), (0, 1)):
        g, u = ((factor * 2 * w * p + plus).detach().numpy().ravel() for factor, plus in ((1, 0), (sign, shift)))
        u = u / np.linalg.norm(u)
        opposed += g @ u < 0
        wanted.append(g - min(g @ u, 0) * u)
    _backward(loss, guide, parameters)
    for parameter, gradient in zip(parameters, wanted):
        assert np.allclose(parameter.grad.numpy().ravel(), gradient, atol=1e-12)
    assert opposed == 1, "one tensor must be held back and one not, or half of the rule is not tested"
    assert torch.equal(parameters[2].grad, torch.ones_like(parameters[2])), "what the guide does not depend on is free"


@pytest.mark.parametrize("objective, more", [("npt", 0), ("ce + scl_image", 1), ("promptsrc", 1)])
def test_the_frozen_image_tower_runs_once_a_step_and_only_where_asked(objective, more, photographs, folder, few_templates, monkeypatch):
    clip, train = fresh(), photographs.base.train
    learner, sizes = Shifted(clip, train.classnames), count_calls(monkeypatch, clip)
    history = fit(learner, train, objective=objective, epochs=3, batch_size=4, lr=0.1, measure_every=0, progress=False)
    assert len(sizes) == 3 * 2 * (1 + more), "three epochs of two batches"
    if more:
        assert history.term_scl_image[0] < 1e-4 < history.term_scl_image[2]


def test_image_features_of_a_frozen_tower_are_their_own_frozen_features(drawn):
    assert (fitted(LOADED, drawn.train, objective="ce + 10*scl_image", epochs=1)[1].term_scl_image == 0).all()


def test_the_number_of_clusters_changes_the_fit_and_is_kept_apart_in_its_checkpoint(drawn, tmp_path):
    settings = dict(objective="ce + 0.01*tetf", epochs=1)
    one = fitted(LOADED, drawn.train, run_dir=tmp_path, num_clusters=1, **settings)[1]
    two = fitted(LOADED, drawn.train, num_clusters=8, **settings)[1]
    assert not math.isclose(one.term_tetf[0], two.term_tetf[0], rel_tol=0.01)
    with pytest.raises(ValueError, match="num_clusters"):
        fitted(LOADED, drawn.train, run_dir=tmp_path, num_clusters=8, **settings)


def test_a_step_brings_counts_scale_and_progress(long_tail, monkeypatch):
    steps = []
    monkeypatch.setitem(TERMS, "watch", lambda step: steps.append(step) or step.logits.mean())
    fitted(LOADED, long_tail, epochs=5, objective="ce + 0*watch", batch_size=16)
    assert [step.progress for step in steps[:: len(steps) // 5]] == [0, 0.2, 0.4, 0.6, 0.8]
    assert all(step.counts.tolist() == long_tail.counts and step.logit_scale == LOADED.logit_scale for step in steps)
    torch.testing.assert_close(steps[0].logits, steps[0].logit_scale * steps[0].image @ steps[0].text.T)


@pytest.mark.parametrize("name", ["logit_adjusted", "class_balanced", "ldam", "ldam_drw", "focal"])
def test_every_rebalanced_objective_trains(name, long_tail):
    history = fitted(LOADED, long_tail, epochs=3, batch_size=16, objective=f"{name} + 0*ce")[1]
    assert np.isfinite(history.loss).all() and history[f"term_{name}"].equals(history.loss)
    assert history.term_ce.iloc[-1] != history.term_ce.iloc[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_repeats_to_the_last_bit_and_differs_from_the_others(sampler, long_tail):
    settings = dict(epochs=2, batch_size=16)
    once = fitted(LOADED, long_tail, sampler=sampler, **settings)
    torch.rand(5)
    assert_same_fit(once, fitted(LOADED, long_tail, sampler=sampler, **settings))
    other = fitted(LOADED, long_tail, sampler=SAMPLERS[SAMPLERS.index(sampler) - 1], **settings)
    assert not torch.equal(once[0].context, other[0].context)


# ---- a learner of one's own


class Restless(Learner):
    "Class vectors through batch normalisation, dropout and a sum that grows: all that a step may change beside parameters."

    name = "restless"

    def __init__(self, clip, classnames):
        super().__init__(clip)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))
        self.norm, self.drop = torch.nn.BatchNorm1d(clip.embed_dim), torch.nn.Dropout(0.3)
        self.register_buffer("met", torch.zeros(0), persistent=False)
        self.prepare(classnames)

    def text_features(self):
        if self.training:
            self.met = torch.cat([self.met, self.shift.detach()[:1]])
        moved = self.drop(self.norm(self.clip.encode_text(self.classnames))) + self.shift + self.met.sum()
        return torch.nn.functional.normalize(moved, dim=1)


def test_buffers_and_draws_repeat_and_resume(drawn, tmp_path):
    def run(seed=1, **settings):
        torch.manual_seed(settings.pop("before", 0))
        learner, before = Restless(LOADED, drawn.classnames), torch.get_rng_state()
        history = fit(learner, drawn.train, objective="ce", epochs=4, lr=0.1, batch_size=4, seed=seed, progress=False, **settings)
        assert torch.equal(torch.get_rng_state(), before), "the caller's generator is as it was"
        return learner, history

    whole = run()
    assert_same_fit(whole, run(before=7))
    with killed_after(2):
        run(run_dir=tmp_path)
    resumed = run(run_dir=tmp_path, before=8)
    assert_same_fit(whole, resumed)
    assert torch.equal(whole[0].met, resumed[0].met) and len(whole[0].met) > 4 and whole[0].norm.num_batches_tracked > 4
    assert not whole[1].equals(run(seed=2)[1])


def test_a_guided_objective_leaves_out_what_is_frozen(drawn):
    learner = Scaled(LOADED, drawn.classnames)
    learner.still = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    fit(learner, drawn.train, objective="prograd", epochs=1, lr=0.1, batch_size=8, progress=False)
    assert learner.shift.abs().max() > 0 and torch.equal(learner.still, torch.ones(2))


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
