"""Terms that ask a learner for what no other has: their formulae, and what is said where it is missing."""

import numpy as np
import pytest
import torch

from npt.objectives.terms import TERMS, StepFeatures


def step(labels, **parts):
    empty = torch.zeros(len(labels), 0)
    return StepFeatures(empty, empty, torch.tensor(labels), empty, parts=parts)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_tokens_cross_entropy_is_its_formula():
    logits, labels = drawn(5, 3), [0, 2, 1, 2, 2]
    expected = -np.mean([log_softmax(logits.numpy())[i, y] for i, y in enumerate(labels)])
    assert TERMS["token_ce"](step(labels, token_logits=logits)).item() == pytest.approx(expected, abs=1e-12)


def test_the_heads_cross_entropy_is_the_mean_over_images_and_their_classes_texts():
    image, text, labels = drawn(5, 3), drawn(3, 3, seed=1), [0, 2, 1, 2, 2]
    of_images = [log_softmax(image.numpy())[i, y] for i, y in enumerate(labels)]
    of_texts = [log_softmax(text.numpy())[y, y] for y in labels]
    value = TERMS["head_ce"](step(labels, head_image=image, head_text=text)).item()
    assert value == pytest.approx(-np.mean([*of_images, *of_texts]), abs=1e-12)


@pytest.mark.parametrize("name, part", [("token_ce", "token_logits"), ("head_ce", "head_image")])
def test_a_learner_that_gives_nothing_of_the_name_is_told(name, part):
    with pytest.raises(ValueError, match=f"needs '{part}', which this learner does not give .*it gives other"):
        TERMS[name](step([0], other=torch.zeros(1)))


@pytest.mark.parametrize("name, shapes", [("token_ce", dict(token_logits=(4, 3))), ("head_ce", dict(head_image=(4, 3), head_text=(3, 3)))])
def test_gradients_agree_with_finite_differences(name, shapes):
    inputs = [drawn(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes.values())]
    assert torch.autograd.gradcheck(lambda *given: TERMS[name](step([0, 2, 1, 1], **dict(zip(shapes, given)))), inputs)
