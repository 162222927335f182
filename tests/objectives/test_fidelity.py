"The terms that hold to the frozen CLIP, against NumPy: what they compute, what they ask for, and what they refuse."

from dataclasses import replace

import numpy as np
import pytest
import torch
from steps import SCALE, Case

from npt.objectives.objective import build_objective
from npt.objectives.terms import TERMS, StepFeatures

ASKED = {  # what each term asks for beyond the tuned features
    "kg": {"template"}, "hsic": {"template"}, "kl": {"template", "image"}, "scl_text": {"ensemble"}, "scl_image": {"image"},
    "kg_image": {"image"}, "scl_logits": {"ensemble", "image"}, "tetf": {"template"}, "rs": {"template"},
}  # fmt: skip
SIZES = [(2, 1), (3, 2), (7, 3), (7, 7), (9, None)]  # classes and clusters, which only tetf reads


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def tetf_of(text):
    "CPT's distance of one cluster, by its matrices."
    size, eye = len(text), np.eye(len(text))
    return 0.0 if size == 1 else ((text @ text.T + (1 - eye) / (size - 1) - eye) ** 2).sum()


def in_numpy(name, case):
    "The value of a term by its formula, one class or image at a time."
    text, template, ensemble, image, frozen, _ = case.arrays()
    classes, d = text.shape
    if name == "kg":
        return 1 - np.mean([text[k] @ template[k] for k in range(classes)])
    if name == "kg_image":
        return 1 - np.mean([h @ f for h, f in zip(image, frozen)])
    if name == "hsic":
        centre = np.eye(classes) - np.full((classes, classes), 1 / classes)
        own, frozen_own = (rows @ rows.T / np.linalg.norm(rows) ** 2 for rows in (text, template))
        return np.trace(centre @ own @ centre @ frozen_own)
    if name == "kl":
        return -(softmax(SCALE * frozen @ template.T) * np.log(softmax(SCALE * image @ text.T))).sum(1).mean()
    if name == "scl_text":
        return sum(np.abs(text[k] - ensemble[k]).sum() for k in range(classes)) / (classes * d)
    if name == "scl_image":
        return sum(np.abs(h - f).sum() for h, f in zip(image, frozen)) / (len(image) * d)
    if name == "kg_image":
        return 1 - np.mean([h @ f for h, f in zip(image, frozen)])
    if name == "scl_logits":
        q, p = softmax(SCALE * frozen @ ensemble.T), softmax(SCALE * image @ text.T)
        return (q * np.log(q / p)).sum() / q.size
    if name == "rs":
        return np.mean([np.abs(text[k] - template[k]).sum() for k in range(classes)])
    clusters = case.anchors.clusters.numpy()
    return np.mean([tetf_of(text[clusters == m]) for m in np.unique(clusters)])


@pytest.mark.parametrize("name, size", [*((name, (7, None)) for name in ASKED), *(("tetf", size) for size in SIZES)])
def test_a_term_is_its_formula(name, size):
    case = Case(size[0], seed=size[0], num_clusters=size[1])
    assert TERMS[name](case.step()).item() == pytest.approx(in_numpy(name, case), abs=1e-12)


@pytest.mark.parametrize("name", ASKED)
def test_gradients_agree_with_finite_differences(name):
    case = Case(num_clusters=2)
    inputs = case.text.clone().requires_grad_(), case.image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda text, image: TERMS[name](case.step(text, image)), inputs)


@pytest.mark.parametrize("name", ASKED)
def test_one_class_is_enough(name):
    case = Case(num_classes=1)
    assert TERMS[name](case.step()).item() == pytest.approx(in_numpy(name, case), abs=1e-12)


def test_kgcoop_is_half_of_its_papers_squared_distance():
    case = Case()
    squared = (case.text - case.template).square().sum(1).mean()
    assert torch.isclose(TERMS["kg"](case.step()), squared / 2)


@pytest.mark.parametrize("name", ASKED)
def test_a_term_computes_what_it_asks_for_and_nothing_else(name):
    case = Case()
    TERMS[name](case.step())
    assert sorted(case.asked) == sorted(ASKED[name])


@pytest.mark.parametrize("name", ASKED)
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


@pytest.mark.parametrize("name", sorted(set(ASKED) - {"scl_image", "kg_image"}))  # which ask for no text
def test_anchors_of_other_classes_are_refused(name):
    case, other = Case(num_classes=7), Case(num_classes=5)
    case.anchors = other.anchors
    with pytest.raises(ValueError, match="The anchors are"):
        TERMS[name](case.step())


def test_nothing_frozen_gets_a_gradient():
    case = Case()
    case.template.requires_grad_(), case.ensemble.requires_grad_(), case.frozen_image.requires_grad_()
    text, image = case.text.clone().requires_grad_(), case.image.clone().requires_grad_()
    build_objective(" + ".join(["ce", "etf", *ASKED]))(case.step(text, image))[0].backward()
    assert text.grad.abs().sum() > 0 and image.grad.abs().sum() > 0
    assert case.template.grad is None and case.ensemble.grad is None and case.frozen_image.grad is None


def test_what_does_not_depend_on_the_frozen_features_costs_nothing_and_they_themselves_cost_most():
    case = Case(num_classes=6, dim=12)
    apart = torch.linalg.svd(case.template).Vh[6:]  # the directions that no frozen feature has
    alone = torch.nn.functional.normalize(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ apart, dim=1)
    same = TERMS["hsic"](case.step(case.text[:1].repeat(6, 1)))
    assert same.abs() < 1e-20 and TERMS["hsic"](case.step(case.text)) > 0
    assert TERMS["hsic"](case.step(case.template)) > TERMS["hsic"](case.step(alone)) > 0
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    with pytest.raises(AssertionError):  # which class is which matters
        torch.testing.assert_close(TERMS["hsic"](case.step(case.template[shuffled])), TERMS["hsic"](case.step(case.template)))


def test_a_sentence_that_the_learner_gives_is_compared_class_by_class():
    case = Case()
    step = replace(case.step(), parts=dict(described=case.ensemble))
    assert TERMS["con_text"](step).item() == pytest.approx(1 - np.mean([w @ s for w, s in zip(case.text.numpy(), case.ensemble.numpy())]), abs=1e-12)
    with pytest.raises(ValueError, match="needs 'described', which this learner does not give"):
        TERMS["con_text"](case.step())
    assert not case.asked, "no anchor is needed"
