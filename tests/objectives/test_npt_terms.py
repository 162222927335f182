"NPT's terms against NumPy, and the anchored variant's one ETF."

import numpy as np
import pytest
import torch
from steps import SCALE, Case, per_class_mean

from npt.objectives.npt_terms import _class_balanced_mean
from npt.objectives.terms import TERMS, StepFeatures


def cosine_error(vectors):
    "Mean squared error of the cosines of all pairs, by a loop."
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    size = len(unit)
    return np.mean([(unit[j] @ unit[k] + 1 / (size - 1)) ** 2 for j in range(size) for k in range(size) if j != k])


def in_numpy(name, case):
    "The value of a term by its formula."
    text, _, _, image, _, labels = case.arrays()
    if name == "lc":
        return cosine_error(text)
    if name == "lc_centered":
        return cosine_error(text - text.mean(0))
    if name in ("cone", "spread"):
        unit = text / np.linalg.norm(text, axis=1, keepdims=True)
        cosines = [unit[j] @ unit[k] for j in range(len(unit)) for k in range(len(unit)) if j != k]
        return (np.mean(cosines) + 1 / (len(unit) - 1)) ** 2 if name == "cone" else np.var(cosines)
    if name == "mi":
        return per_class_mean(((image - text[labels]) ** 2).sum(1), labels)
    if name == "mi_dot":
        return per_class_mean(((image * text[labels]).sum(1) - 1) ** 2 / 2, labels)
    anchor = case.anchors.etf.numpy()
    return ((text - anchor) ** 2).sum(1).mean() + per_class_mean(((image - anchor[labels]) ** 2).sum(1), labels)


@pytest.mark.parametrize("name", ["lc", "lc_centered", "cone", "spread", "mi", "mi_dot", "etf"])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_a_term_is_its_formula(name, num_classes):
    case = Case(num_classes, seed=num_classes)
    assert TERMS[name](case.step()).item() == pytest.approx(in_numpy(name, case), abs=1e-12)


def test_cpts_second_term_is_npts_isomorphism():
    assert TERMS["cc"] is TERMS["mi"]


@pytest.mark.parametrize("name", ["lc", "lc_centered", "cone", "spread", "mi", "mi_dot", "etf"])
def test_gradients_agree_with_finite_differences(name):
    case = Case()
    inputs = case.text.clone().requires_grad_(), case.image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda text, image: TERMS[name](case.step(text, image)), inputs)


def test_the_two_parts_of_lc_add_up_to_it():
    for num_classes in 2, 3, 11:
        step = Case(num_classes).step()
        assert (TERMS["cone"](step) + TERMS["spread"](step)).item() == pytest.approx(TERMS["lc"](step).item(), abs=1e-12)
        assert (TERMS["spread"](step) < 1e-15) == (num_classes == 2), "one pair has nothing to vary"


def test_every_class_counts_alike_however_few_its_images():
    values, labels = torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([0, 0, 0, 9])
    assert _class_balanced_mean(values, labels) == 3


@pytest.mark.parametrize("name, asked", [("lc", []), ("mi", []), ("etf", ["template"])])
def test_a_term_computes_what_it_asks_for_and_nothing_else(name, asked):
    case = Case()
    TERMS[name](case.step())
    assert case.asked == asked


def test_one_class_has_no_etf():
    for name in "lc", "cone", "spread", "etf":
        with pytest.raises(ValueError, match="at least 2"):
            TERMS[name](Case(num_classes=1).step())


def test_without_its_anchor_or_with_another_ones_the_anchored_term_is_refused():
    case, other = Case(num_classes=7), Case(num_classes=5)
    with pytest.raises(ValueError, match="This term needs"):
        TERMS["etf"](StepFeatures(case.text, case.image, case.labels, case.image @ case.text.T, logit_scale=SCALE))
    case.anchors = other.anchors
    with pytest.raises(ValueError, match="The anchors are"):
        TERMS["etf"](case.step())
