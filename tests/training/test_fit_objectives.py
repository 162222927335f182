"Fits with each objective and sampler: what is computed and when, what a step brings, and runs that repeat to the last bit."

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared import killed_after

import npt.training.anchors
import npt.training.fit
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.learners.coop import CoOp
from npt.learners.recipes import recipe
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS
from npt.training.anchors import _CONSISTENCY_TEMPLATES, _frozen_anchors
from npt.training.batches import _epoch_draws, _image_batches
from npt.training.evaluation import outputs
from npt.training.fit import _backward, fit
from npt.training.samplers import SAMPLERS

REBALANCED = ["logit_adjusted", "class_balanced", "ldam", "ldam_drw", "focal"]


class Shifted(CoOp):
    "CoOp that also learns one vector added to every image feature, to stand for a learner of image prompts."

    learns_image = True

    def __init__(self, clip, names):
        super().__init__(clip, names, n_ctx=4, ctx_init=None, seed=1)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))

    def image_features(self, pixels):
        return F.normalize(self.clip.encode_image(pixels) + self.shift, dim=1)


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


@pytest.fixture(scope="module")
def base():
    return load_dataset("world/shapes", shots=2).base


@pytest.fixture(scope="module")
def long_tail():
    return load_dataset("world/shapes", tau=0.0625).base


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, four to train on."
    return load_dataset("folder", root=noise_folder, shots=4).base


@pytest.fixture(scope="module")
def few_photographs(noise_folder):
    "Two base classes of photographs, two to train on."
    return load_dataset("folder", root=noise_folder, shots=2).base


def coop(clip, names, **settings):
    return build_learner("coop", clip, names, n_ctx=4, ctx_init=None, seed=1, **settings)


def fitted(clip, part, epochs=2, **settings):
    "The history of a short fit and the prompts that it learned."
    learner = build_learner("coop", clip, part.classnames, n_ctx=4, ctx_init=None, seed=1)
    history = fit(learner, part.train, epochs=epochs, lr=0.02, **settings)
    return history, [prompt.detach().clone() for prompt in learner.parameters()]


def assert_equal(one, other):
    assert one[0].equals(other[0]) and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


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


@pytest.mark.parametrize("objective", sorted(NAMED_OBJECTIVES))
def test_every_named_objective_trains_and_repeats_to_the_last_bit(objective, clip, base):
    runs = []
    for _ in range(2):
        learner = coop(clip, base.classnames)
        history = fit(learner, base.train, objective=objective, epochs=2, lr=0.002, seed=4)
        runs.append((history, learner.context.detach().clone()))
    (history, context), (again, same) = runs
    assert history.equals(again) and torch.equal(context, same)
    assert not torch.equal(context, coop(clip, base.classnames).context.detach())
    weighted = sum(weight * history[f"term_{name}"] for name, weight in recipe("coop", "world").objective_for(objective).weights)
    assert np.allclose(weighted, history.loss, rtol=1e-5)


@pytest.mark.parametrize("objective, asked", [("npt", []), ("npt_anchored", ["template"]), ("promptsrc", ["ensemble"])])
def test_a_fit_encodes_frozen_texts_once_and_only_where_asked(objective, asked, clip, base, monkeypatch):
    calls = []
    for part in "template", "ensemble":
        def noted(learner, part=part, compute=getattr(npt.training.anchors, f"_{part}_features")):
            calls.append(part)
            return compute(learner)

        monkeypatch.setattr(npt.training.anchors, f"_{part}_features", noted)
    fit(coop(clip, base.classnames), base.train, objective=objective, epochs=2, lr=0.002)
    assert calls == asked


def test_anchors_of_a_learner_are_its_own_clips_features(clip, base):
    names, template = base.classnames[:3], "a drawing of a {}."
    anchors = _frozen_anchors(coop(clip, names, template=template))
    assert torch.allclose(anchors.text, clip.encode_text([template.format(name.replace("_", " ")) for name in names]))
    outputs = [[clip.model.encode_text(clip.tokenize([line.replace("{}", name.replace("_", " "))]))[0].double().numpy()
                for line in _CONSISTENCY_TEMPLATES] for name in names]
    means = np.array(outputs).mean(1)
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(anchors.ensemble.numpy() - wanted).max() < 1e-6
    assert len(set(_CONSISTENCY_TEMPLATES)) == 60


def test_an_anchored_fit_comes_nearer_to_its_anchor(clip, base):
    learner = coop(clip, base.classnames)
    anchor = _frozen_anchors(learner).etf
    before = (learner.text_features() - anchor).square().sum(1).mean()
    fit(learner, base.train, objective="ce + 10*etf", epochs=6, lr=0.02)
    assert (learner.text_features() - anchor).square().sum(1).mean() < before - 0.05


def test_frozen_image_features_are_those_of_the_same_crops(clip, few_photographs):
    learner = Shifted(clip, few_photographs.classnames)
    draws = [batch for epoch in range(3) for batch in _epoch_draws(few_photographs.train.labels, "plain", 3, 1, epoch, 3)]
    for batch in _image_batches(learner, few_photographs.train, draws):
        assert torch.equal(learner.image_features(batch.given), F.normalize(batch.encode_image(), dim=1))
    with torch.no_grad():
        learner.shift += 1.0
    for batch in _image_batches(learner, few_photographs.train, draws):
        assert not torch.allclose(learner.image_features(batch.given), batch.encode_image(), atol=0.1)


@pytest.mark.parametrize("objective, more", [("npt", 0), ("ce + scl_image", 1), ("promptsrc", 1)])
def test_the_frozen_image_tower_runs_once_a_step_and_only_where_asked(objective, more, clip, few_photographs, monkeypatch):
    learner, calls, encode = Shifted(clip, few_photographs.classnames), [], clip.encode_image
    monkeypatch.setattr(clip, "encode_image", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    monkeypatch.setattr(npt.training.fit, "measure_collapse", lambda *_: {})
    history = fit(learner, few_photographs.train, objective=objective, epochs=3, batch_size=3, lr=0.1)
    assert len(calls) == 3 * 2 * (1 + more), "three epochs of two batches"
    if more:
        assert history.term_scl_image[0] < 1e-4 < history.term_scl_image[2]


def test_image_features_of_a_frozen_tower_are_their_own_frozen_features(clip, base):
    history = fit(coop(clip, base.classnames), base.train, objective="ce + 10*scl_image", epochs=1)
    assert (history.term_scl_image == 0).all()


def test_the_number_of_clusters_changes_the_fit_and_is_kept_apart_in_its_checkpoint(clip, base, tmp_path):
    one = fit(coop(clip, base.classnames), base.train, objective="ce + 0.01*tetf", epochs=1, run_dir=tmp_path, num_clusters=1)
    two = fit(coop(clip, base.classnames), base.train, objective="ce + 0.01*tetf", epochs=1, num_clusters=8)
    assert not math.isclose(one.term_tetf[0], two.term_tetf[0], rel_tol=0.01)
    with pytest.raises(ValueError, match="num_clusters"):
        fit(coop(clip, base.classnames), base.train, objective="ce + 0.01*tetf", epochs=1, run_dir=tmp_path, num_clusters=8)


def test_logits_are_those_of_the_features_whatever_the_chunk(clip, base, monkeypatch):
    learner = coop(clip, base.classnames)
    whole = outputs(learner, base.val)
    monkeypatch.setattr("npt.training.evaluation._LOGITS_BATCH", 7)
    chunked = outputs(learner, base.val)
    assert torch.allclose(whole.logits, chunked.logits, atol=1e-4) and torch.equal(whole.labels, chunked.labels)
    assert len(whole.labels) > 7


def test_a_step_brings_counts_scale_and_progress(clip, long_tail, monkeypatch):
    steps = []
    monkeypatch.setitem(TERMS, "watch", lambda step: steps.append(step) or step.logits.mean())
    fitted(clip, long_tail, epochs=5, objective="ce + 0*watch", batch_size=64)
    assert [step.progress for step in steps[:: len(steps) // 5]] == [0, 0.2, 0.4, 0.6, 0.8]
    assert all(step.counts.tolist() == long_tail.train.counts and step.logit_scale == clip.logit_scale for step in steps)
    torch.testing.assert_close(steps[0].logits, steps[0].logit_scale * steps[0].image @ steps[0].text.T)


@pytest.mark.parametrize("name", REBALANCED)
def test_every_rebalanced_objective_trains(clip, long_tail, name):
    history, _ = fitted(clip, long_tail, epochs=3, objective=f"{name} + 0*ce")
    assert np.isfinite(history.loss).all() and history[f"term_{name}"].equals(history.loss)
    assert history.term_ce.iloc[-1] != history.term_ce.iloc[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_repeats_to_the_last_bit_and_differs_from_the_others(clip, long_tail, sampler):
    once = fitted(clip, long_tail, sampler=sampler)
    torch.rand(5)
    assert_equal(once, fitted(clip, long_tail, sampler=sampler))
    other = SAMPLERS[SAMPLERS.index(sampler) - 1]
    assert not torch.equal(once[1][0], fitted(clip, long_tail, sampler=other)[1][0])


@pytest.mark.parametrize("sampler", ["plain", "progressive"])
def test_random_crops_do_not_depend_on_workers_or_on_a_kill(clip, photographs, sampler, tmp_path):
    settings = dict(epochs=3, sampler=sampler, batch_size=3)
    whole = fitted(clip, photographs, workers=0, **settings)
    assert_equal(whole, fitted(clip, photographs, workers=2, **settings))

    with killed_after(2):
        fitted(clip, photographs, workers=0, run_dir=tmp_path, **settings)
    assert_equal(whole, fitted(clip, photographs, workers=1, run_dir=tmp_path, **settings))
    assert not torch.equal(whole[1][0], fitted(clip, photographs, workers=0, seed=2, **settings)[1][0])


def test_a_checkpoint_of_another_sampler_is_refused(clip, long_tail, tmp_path):
    fitted(clip, long_tail, run_dir=tmp_path)
    with pytest.raises(ValueError, match="sampler='plain'.*sampler='square_root'"):
        fitted(clip, long_tail, run_dir=tmp_path, sampler="square_root")


@pytest.mark.parametrize("learner", ["coop", "zero_shot"])
def test_an_unknown_sampler_is_refused_before_anything_is_written(clip, long_tail, learner, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'class_balanced'"):
        fit(build_learner(learner, clip, long_tail.classnames), long_tail.train, run_dir=tmp_path, sampler="class-balanced")
    assert not list(tmp_path.iterdir())
