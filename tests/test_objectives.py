"Every term of an objective against NumPy, what it computes and when, and fits that hold prompts to the frozen CLIP."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import npt.training
from npt.objectives.anchors import Anchors, _cluster_classes
from npt.clip.load import load_clip
from npt.objectives.terms import NAMED_OBJECTIVES, StepFeatures, TERMS
from npt.data.load import load_dataset
from npt.training.evaluation import outputs
from npt.objectives.objective import REGULARISERS, build_objective
from npt.learners.build import build_learner
from npt.learners.recipes import RECIPES, recipe
from npt.prompts import CoOp
from npt.training.anchors import _CONSISTENCY_TEMPLATES, _frozen_anchors
from npt.training.batches import _epoch_draws, _image_batches
from npt.training.fit.fit import _backward, fit

ANCHORED = ["etf", "kg", "kl", "scl_text", "scl_image", "scl_logits", "tetf", "cc", "rs"]
ASKED = {  # what each term asks for beyond the tuned features
    "etf": {"template"}, "kg": {"template"}, "kl": {"template", "image"}, "scl_text": {"ensemble"}, "scl_image": {"image"},
    "scl_logits": {"ensemble", "image"}, "tetf": {"template"}, "cc": set(), "rs": {"template"},
}
SCALE = 20.0


def unit(draw, *shape):
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


class Case:
    "Random tuned and frozen features, a step made of them, and a list of what was computed."

    def __init__(self, num_classes=7, images=9, dim=8, seed=0, num_clusters=None):
        draw = torch.Generator().manual_seed(seed)
        self.text, self.template, self.ensemble = (unit(draw, num_classes, dim) for _ in range(3))
        self.image, self.frozen_image = (unit(draw, images, dim) for _ in range(2))
        self.labels = torch.randint(num_classes, (images,), generator=draw)
        self.asked = []
        self.anchors = Anchors(lambda: self.note("template"), lambda: self.note("ensemble"), num_clusters=num_clusters)

    def note(self, what):
        self.asked.append(what)
        return self.frozen_image if what == "image" else getattr(self, what)

    def step(self, text=None, image=None):
        text, image = (self.text if text is None else text), (self.image if image is None else image)
        return StepFeatures(text, image, self.labels, SCALE * image @ text.T, logit_scale=SCALE, anchors=self.anchors,
                            encode_image=lambda: self.note("image"))


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def per_class_mean(values, labels):
    return np.mean([values[labels == k].mean() for k in np.unique(labels)])


def in_numpy(name, case):
    "The value of a term by its formula, one class or image at a time."
    text, template, ensemble, image, frozen, labels = (
        x.numpy() for x in (case.text, case.template, case.ensemble, case.image, case.frozen_image, case.labels))
    classes, d = text.shape
    if name == "kg":
        return 1 - np.mean([text[k] @ template[k] for k in range(classes)])
    if name == "kl":
        return -(softmax(SCALE * frozen @ template.T) * np.log(softmax(SCALE * image @ text.T))).sum(1).mean()
    if name == "scl_text":
        return sum(np.abs(text[k] - ensemble[k]).sum() for k in range(classes)) / (classes * d)
    if name == "scl_image":
        return sum(np.abs(h - f).sum() for h, f in zip(image, frozen)) / (len(image) * d)
    if name == "scl_logits":
        q, p = softmax(SCALE * frozen @ ensemble.T), softmax(SCALE * image @ text.T)
        return (q * np.log(q / p)).sum() / q.size
    if name == "rs":
        return np.mean([np.abs(text[k] - template[k]).sum() for k in range(classes)])
    if name == "cc":
        return per_class_mean(((image - text[labels]) ** 2).sum(1), labels)
    if name == "etf":
        anchor = case.anchors.etf.numpy()
        return ((text - anchor) ** 2).sum(1).mean() + per_class_mean(((image - anchor[labels]) ** 2).sum(1), labels)
    clusters = case.anchors.clusters.numpy()
    return np.mean([tetf_of(text[clusters == m]) for m in np.unique(clusters)])


def tetf_of(text):
    "CPT's distance of one cluster, by its matrices."
    size, eye = len(text), np.eye(len(text))
    return 0.0 if size == 1 else ((text @ text.T + (1 - eye) / (size - 1) - eye) ** 2).sum()


# Each term


@pytest.mark.parametrize("num_classes, num_clusters", [(2, 1), (3, 2), (7, 3), (7, 7), (9, None)])
@pytest.mark.parametrize("name", ANCHORED)
def test_a_term_is_its_formula(name, num_classes, num_clusters):
    case = Case(num_classes, seed=num_classes, num_clusters=num_clusters)
    assert TERMS[name](case.step()).item() == pytest.approx(in_numpy(name, case), abs=1e-12)


@pytest.mark.parametrize("name", ANCHORED)
def test_gradients_agree_with_finite_differences(name):
    case = Case(num_clusters=2)
    inputs = case.text.clone().requires_grad_(), case.image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda text, image: TERMS[name](case.step(text, image)), inputs)


@pytest.mark.parametrize("name", sorted(set(ANCHORED) - {"etf"}))
def test_one_class_is_enough_but_for_an_etf(name):
    case = Case(num_classes=1)
    assert TERMS[name](case.step()).item() == pytest.approx(in_numpy(name, case), abs=1e-12)


def test_one_class_has_no_etf():
    with pytest.raises(ValueError, match="at least 2 classes"):
        TERMS["etf"](Case(num_classes=1).step())


def test_the_anchor_is_an_etf_and_no_rotation_of_it_is_nearer_to_the_frozen_features():
    case = Case(num_classes=6)
    anchor, draw = case.anchors.etf, torch.Generator().manual_seed(5)
    wanted = torch.full((6, 6), -1 / 5, dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(anchor @ anchor.T, wanted)
    nearest = (anchor - case.template).norm()
    for size in 1e-3, 0.1, 10.0:
        skew = size * torch.randn(8, 8, generator=draw, dtype=torch.float64)
        assert (anchor @ torch.linalg.matrix_exp(skew - skew.T) - case.template).norm() > nearest


def test_kgcoop_is_half_of_its_papers_squared_distance():
    case = Case()
    squared = (case.text - case.template).square().sum(1).mean()
    assert torch.isclose(TERMS["kg"](case.step()), squared / 2)


# Clusters


@pytest.mark.parametrize("num_classes, expected", [(1, 1), (2, 1), (3, 1), (16, 1), (17, 2), (33, 3)])
def test_clusters_hold_16_classes_in_the_mean(num_classes, expected):
    features = unit(torch.Generator().manual_seed(1), num_classes, 12)
    clusters = _cluster_classes(features)
    assert clusters.shape == (num_classes,) and clusters.unique().tolist() == list(range(expected))
    assert torch.equal(clusters, _cluster_classes(features)), "the same features have the same clusters"


def test_clusters_do_not_touch_the_global_random_state():
    np.random.seed(3), torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    _cluster_classes(unit(torch.Generator().manual_seed(1), 40, 12))
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())


# What is computed, and when


@pytest.mark.parametrize("name", ANCHORED)
def test_a_term_computes_what_it_asks_for_and_nothing_else(name):
    case = Case()
    TERMS[name](case.step())
    assert sorted(case.asked) == sorted(ASKED[name])


def test_many_terms_share_what_they_ask_for():
    case, everything = Case(), build_objective(" + ".join(["ce", *ANCHORED]))
    for _ in range(3):
        everything(case.step())
    assert sorted(case.asked) == ["ensemble", "image", "image", "image", "template"], "once a fit, and once a step"


@pytest.mark.parametrize("name", sorted(set(ANCHORED) - {"cc"}))
def test_a_missing_ingredient_is_named(name):
    case = Case()
    with pytest.raises(ValueError, match="This term needs"):
        TERMS[name](StepFeatures(case.text, case.image, case.labels, case.image @ case.text.T, logit_scale=SCALE))


@pytest.mark.parametrize("name", ["kl", "scl_logits"])
def test_the_frozen_predictions_need_the_scale(name):
    case, logits = Case(), torch.zeros(9, 7, dtype=torch.float64)
    step = StepFeatures(case.text, case.image, case.labels, logits, anchors=case.anchors, encode_image=lambda: case.image)
    with pytest.raises(ValueError, match="logit_scale"):
        TERMS[name](step)


@pytest.mark.parametrize("name", ["etf", "kg", "kl", "scl_text", "tetf", "rs"])
def test_anchors_of_other_classes_are_refused(name):
    case, other = Case(num_classes=7), Case(num_classes=5)
    case.anchors = other.anchors
    with pytest.raises(ValueError, match="The anchors are"):
        TERMS[name](case.step())


def test_nothing_frozen_gets_a_gradient():
    case = Case()
    case.template.requires_grad_(), case.ensemble.requires_grad_(), case.frozen_image.requires_grad_()
    text, image = case.text.clone().requires_grad_(), case.image.clone().requires_grad_()
    case.step(text, image).frozen_image
    build_objective(" + ".join(["ce", *ANCHORED]))(case.step(text, image))[0].backward()
    assert text.grad.abs().sum() > 0 and image.grad.abs().sum() > 0
    assert case.template.grad is None and case.ensemble.grad is None


# Named objectives


def test_named_objectives_have_the_published_weights():
    weights = {name: dict(build_objective(name).weights) for name in NAMED_OBJECTIVES}
    assert weights["npt_anchored"] == {"ce": 1, "etf": 1}
    assert weights["cpt"] == {"ce": 1, "tetf": 0.25, "cc": 0.15, "rs": 0.10}
    assert weights["kgcoop"] == {"ce": 1, "kg": 8}
    assert weights["promptsrc"] == {"ce": 1, "scl_text": 25, "scl_image": 10, "scl_logits": 1}
    prograd = build_objective("prograd")
    assert dict(prograd.weights) == {"ce": 1} and prograd.guide == build_objective("kl")


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


def test_regularisers_join_the_loss_of_a_method_and_nothing_else_does():
    for method, own in (("coop", "ce"), ("kgcoop", "ce + 8*kg"), ("prograd", "ce | kl"), ("promptsrc", "promptsrc")):
        published = RECIPES[method]
        assert published.objective_for("own") == build_objective(own)
        assert published.objective_for("ce") == build_objective("ce")
        for regulariser in REGULARISERS:
            found, wanted = published.objective_for(regulariser), dict(build_objective(own).weights)
            assert dict(found.weights) == wanted | dict(build_objective(regulariser).weights)
            assert found.guide == build_objective(own).guide
    chosen = replace(RECIPES["kgcoop"], weights={"npt": "ce + 0.5*lc + 3*mi"})
    assert chosen.objective_for("npt") == build_objective("ce + 8*kg + 0.5*lc + 3*mi")
    assert chosen.objective_for("ce + lc") == build_objective("ce + lc")


# Fits


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


@pytest.fixture(scope="module")
def base():
    return load_dataset("world/shapes", shots=2).base


def coop(clip, names, **settings):
    return build_learner("coop", clip, names, n_ctx=4, ctx_init=None, seed=1, **settings)


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
        def noted(learner, part=part, compute=getattr(npt.training, f"{part}_features")):
            calls.append(part)
            return compute(learner)

        monkeypatch.setattr(npt.training, f"{part}_features", noted)
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


class Shifted(CoOp):
    "CoOp that also learns one vector added to every image feature, to stand for a learner of image prompts."

    learns_image = True

    def __init__(self, clip, names):
        super().__init__(clip, names, n_ctx=4, ctx_init=None, seed=1)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))

    def image_features(self, pixels):
        return F.normalize(self.clip.encode_image(pixels) + self.shift, dim=1)


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, two to train on."
    return load_dataset("folder", root=noise_folder, shots=2).base


def test_frozen_image_features_are_those_of_the_same_crops(clip, photographs):
    learner = Shifted(clip, photographs.classnames)
    draws = [batch for epoch in range(3) for batch in _epoch_draws(photographs.train.labels, "plain", 3, 1, epoch, 3)]
    for batch in _image_batches(learner, photographs.train, draws):
        assert torch.equal(batch.image, F.normalize(batch.encode_image(), dim=1))
    with torch.no_grad():
        learner.shift += 1.0
    for batch in _image_batches(learner, photographs.train, draws):
        assert not torch.allclose(batch.image, batch.encode_image(), atol=0.1)


@pytest.mark.parametrize("objective, more", [("npt", 0), ("ce + scl_image", 1), ("promptsrc", 1)])
def test_the_frozen_image_tower_runs_once_a_step_and_only_where_asked(objective, more, clip, photographs, monkeypatch):
    learner, calls, encode = Shifted(clip, photographs.classnames), [], clip.encode_image
    monkeypatch.setattr(clip, "encode_image", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    monkeypatch.setattr(npt.training, "measure_collapse", lambda *_: {})
    history = fit(learner, photographs.train, objective=objective, epochs=3, batch_size=3, lr=0.1)
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
    monkeypatch.setattr("npt.training.evaluation.LOGITS_BATCH", 7)
    chunked = outputs(learner, base.val)
    assert torch.allclose(whole.logits, chunked.logits, atol=1e-4) and torch.equal(whole.labels, chunked.labels)
    assert len(whole.labels) > 7
